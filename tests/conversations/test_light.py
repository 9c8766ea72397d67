"""What an engine answers beside what it generates: reading a response that it keeps, ending it, counting tokens.

That takes no place at an engine, so it waits for none; and who ends what is under way does not wait for its end.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw import RouteConfig
from fastgw.limits.breaker import OPEN
from fastgw.net.clock import monotonic
from tests.conversations.deployed_row import Deployed, deployed, key_of
from tests.conversations.test_responses import BELOW, JSON, KEYS, PATH, Keeper, made, post
from tests.support.requests import request
from tests.support.scripts import ok

COUNTED = (
    "/v1/messages/count_tokens", "/v1/responses/input_tokens", "/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize",
)  # fmt: skip
FULL: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[RouteConfig, ...]]] = {
    "engines": ({"max_concurrent": 1}, {}, ()),
    "engines that refuse": ({"max_concurrent": 1}, {"on_capacity": "reject"}, ()),
    "gateway": ({}, {"max_concurrent": 2}, ()),
    "route": ({}, {}, (RouteConfig(model="m", max_concurrent=2),)),
    "key": ({}, {"key_concurrency": 2}, ()),
}


class Busy(Keeper):
    """Never ends a chat; answers all else."""

    def __call__(self, asked: Any) -> None:
        target = asked.start.target.decode()
        if target.endswith("/chat/completions"):
            return
        if target in COUNTED:
            asked.says(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"count":1}')
            return
        super().__call__(asked)


def of_key(path: str, tenant: str = "x") -> bytes:
    return request("POST", path, headers=JSON, body=json.dumps({"model": "m", "prompt": "a"}).encode(), key=key_of(tenant))


def crowd(row: Deployed) -> list[Any]:
    clients = [row.talk.client().says(of_key("/v1/chat/completions")) for _ in range(2)]
    row.talk.passes(0.1)
    return clients


@pytest.mark.parametrize("where", FULL)
def test_it_takes_no_place_and_waits_for_none(where: str) -> None:
    of_engines, settings, routes = FULL[where]
    engines = {name: {"models": ("m",), **of_engines} for name in "ab"}
    plays: dict[str, Any] = {name: Busy(name, "one read", 0) for name in "ab"}
    with deployed(engines, *routes, keys=KEYS, plays=plays, **settings) as row:
        told, _ = made(row)
        clients = crowd(row)
        assert sum(row.engines[name].engine.inflight for name in "ab") == 2
        late = row.talk.client().says(post())
        row.talk.passes(0.1)
        assert not late.answers or late.seen.status == 429, "there is room for nothing else"
        for method, below in BELOW:
            assert row.ask(request(method, f"{PATH}/{told}{below}", key=key_of("x"))).status == 200
        for path in COUNTED:
            waits = row.talk.client().says(of_key(path))
            row.talk.passes(0.1)
            assert bool(waits.answers) == (where != "key"), "its key's own limit is for whatever it asks"
        for client in clients:
            client.leaves()
        row.talk.passes(0.1)
        assert (row.talk.waiting, sum(row.engines[name].engine.under_way() for name in "ab")) == (0, 0)


def test_what_waited_for_its_key_waits_for_no_engine() -> None:
    with deployed(
        {"a": {"models": ("m",), "max_concurrent": 1}}, keys=KEYS, plays={"a": Busy("a", "one read", 0)}, key_concurrency=1
    ) as row:
        first, counts, next_ = [
            row.talk.client().says(of_key(path, tenant))
            for path, tenant in (("/v1/chat/completions", "x"), ("/tokenize", "x"), ("/v1/chat/completions", "y"))
        ]
        row.talk.passes(0.1)
        assert row.talk.waiting == 2
        first.leaves()
        row.talk.passes(0.1)
        assert (row.talk.waiting, row.engines["a"].engine.under_way(), counts.seen.status, next_.answers) == (0, 1, 200, [])


def test_an_engine_has_its_places_for_what_generates_while_it_is_read() -> None:
    """And whoever drains it waits for those who read."""

    class Slow(Busy):
        def __call__(self, asked: Any) -> None:
            if asked.start.method == b"POST":
                super().__call__(asked)

    with deployed({"a": {"models": ("m",), "max_concurrent": 1}}, keys=KEYS, plays={"a": Slow("a", "one read", 0)}) as row:
        told, _ = made(row)
        readers = [row.talk.client().says(request("GET", f"{PATH}/{told}", key=key_of("x"))) for _ in range(3)]
        row.talk.passes(0.1)
        engine = row.engines["a"].engine
        assert (engine.inflight, engine.under_way(), row.ask(post()).status) == (3, 0, 200)
        engine.tells(1, 0)
        engine.ramp, engine.held = 1, True
        assert (engine.queued, engine.usable()) == (1, True), "one that another has brought, and room for one more"
        engine.tells(0, 0)
        for reader in readers:
            reader.leaves()
        row.talk.passes(0.1)
        assert (engine.inflight, engine.light) == (0, 0)


def test_how_quick_it_is_says_nothing_of_what_generates() -> None:
    """Nor what it reads of what an engine has to do: limits that are found, and strategies, go by what takes places."""
    samples: list[tuple[float, int]] = []

    class Gradient:
        def sample(self, seconds: float, under_way: int) -> None:
            samples.append((seconds, under_way))

    with deployed({"a": {"models": ("m",)}}, keys=KEYS, plays={"a": None}) as row:
        engine = row.engines["a"].engine
        engine.gradient = Gradient()
        counts = [row.talk.client().says(of_key(path)) for path in COUNTED[:2]]
        assert (engine.inflight, engine.watch.reading) == (2, 0)
        generates = row.talk.client().says(of_key("/v1/chat/completions"))
        told = [engine.watch.samples, engine.watch.reading > 0]
        for asked in row.engines["a"].asked[::-1]:
            asked.says(ok())
            told.append(len(samples))
        assert [client.seen.status for client in (*counts, generates)] == [200, 200, 200]
        assert told == [0, True, 1, 1, 1]
        assert (samples[0][1], engine.watch.samples, engine.watch.reading) == (1, 1, 0)


def test_who_waits_is_heard_when_another_opens_a_breaker() -> None:
    """An engine that one caller's refusals have closed to him has room for who waits for another engine meanwhile."""
    engines: dict[str, dict[str, Any]] = {name: {"models": ("m",), "max_concurrent": 1} for name in "ab"}
    plays: dict[str, Any] = {name: Busy(name, "one read", 0) for name in "ab"}
    with deployed(engines, keys=KEYS, plays=plays, policy="ordered", cb_failure_threshold=1) as row:
        clients = crowd(row)
        waits = row.talk.client().says(of_key("/v1/responses", "y"))
        row.talk.passes(0.1)
        assert row.talk.waiting == 1
        pool = row.engines["a"]
        pool.engine.breaker.failed(monotonic(), 0.5, False, ("key-of-x", ""))
        assert pool.engine.breaker.state == OPEN
        row.talk.core.breaker_moved(pool)
        while pool.engine.inflight:  # (whichever of them is there)
            clients.pop(0).leaves()
            row.talk.passes(0.1)
        assert (row.talk.waiting, waits.seen.status) == (0, 200)
