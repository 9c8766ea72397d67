"""Caps of requests under way, until their last byte, and the order of those that wait for a place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from tests.conversations.test_queue import answered, begun, finish, held, order, tag
from tests.e2e.gate import tagged
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandStream
from tests.support.conversation import KEY, Conversation, conversation
from tests.support.requests import chat, request
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk

PROMPT = 13  # tokens that the prompt of a body of these tests is taken for: it has 52 bytes
QUANTUM = 512  # tokens of one tenant's turn, as the gateway's documentation says

CAPS: dict[str, tuple[dict[str, Any], int]] = {
    "global": ({"max_concurrent": 3}, 3),
    "key": ({"key_concurrency": 2}, 2),
    "route": ({"routes": [RouteConfig(model="m", max_concurrent=4)]}, 4),
    "engine": ({"engine_max_concurrent": 5}, 5),
    "all of them": (
        {
            "max_concurrent": 6,
            "key_concurrency": 5,
            "routes": [RouteConfig(model="m", max_concurrent=4)],
            "engine_max_concurrent": 3,
        },
        3,
    ),
}


def streams(asked: HandStream) -> None:
    """Event after event, two milliseconds between them."""
    for at, piece in enumerate([SSE_HEAD, *[chunk(EVENT)] * 6, chunk(DONE) + LAST_CHUNK]):
        asked.pool.loop.call_later(0.002 * (at + 1), asked.says, piece)


class TestCaps:
    @pytest.mark.parametrize("name", CAPS)
    def test_S5_09_a_stream_counts_until_its_last_byte(self, name: str) -> None:
        """Twenty-five streams, never more at the engine than the cap, and the cap is used."""
        settings, most = CAPS[name]
        at_once: list[int] = []

        def watched(asked: HandStream) -> None:
            at_once.append(len(asked.pool.under_way))
            streams(asked)

        with conversation(1, watched, **settings, api_keys=(KEY,)) as talk:
            clients = [talk.client().says(chat(stream=True, key=KEY)) for _ in range(25)]
            talk.passes(1.0)
            for client in clients:
                assert client.sees(200).events()[-1] == "[DONE]"
            assert max(at_once) == most
            assert talk.account().inflight == 0
            waited = [record["queued_s"] for record in talk.records]
            assert sum(one >= 0 for one in waited) == 25 - most
            assert max(waited) < 0.016 * 25

    def test_S3_13_each_deployment_has_its_own_cap(self) -> None:
        """Caps of two models on one engine: what one has used up takes nothing from the other."""
        routes = [RouteConfig(model="a", max_concurrent=1), RouteConfig(model="b", max_concurrent=3)]
        with conversation(1, routes=routes) as talk:
            [engine] = talk.engines
            for _ in range(4):
                talk.client().says(tagged("a", "a"))
                talk.client().says(tagged("b", "b"))
            assert sorted(held(engine)) == ["a", "b", "b", "b"]
            for _ in range(5):
                talk.client().says(tagged("c", "c"))  # without a route: no cap
            assert sorted(held(engine)) == ["a", "b", "b", "b", "c", "c", "c", "c", "c"]
            assert talk.waiting == 4
            engine.play = answered
            finish(engine)
            assert order(engine).count("a") == order(engine).count("b") == 4

    def test_S5_09_caps_hold_together(self) -> None:
        """Two keys, two models, two engines: at no moment does the engines' load go beyond any of the four caps."""
        routes = [RouteConfig(model="a", max_concurrent=3)]
        settings = {"max_concurrent": 5, "key_concurrency": 3, "engine_max_concurrent": 4, "routes": routes}
        most: dict[str, int] = {}

        def slowly(asked: HandStream) -> None:
            now = [one for engine in talk.engines for one in held(engine)]
            for what in ("", "k-1", "k-2", "model a"):
                most[what] = max(most.get(what, 0), sum(what in one for one in now))
            for at, engine in enumerate(talk.engines):
                most[f"engine {at}"] = max(most.get(f"engine {at}", 0), len(engine.under_way))
            asked.pool.loop.call_later(0.004 if asked.pool is talk.engines[0] else 0.003, answered, asked)

        with conversation(2, slowly, slowly, **settings, api_keys=("k-1", "k-2")) as talk:
            clients = [
                talk.client().says(tagged(f"{key} model {model}", model, key=key))
                for _ in range(30) for key in ("k-1", "k-2") for model in ("a", "b")
            ]  # fmt: skip
            talk.passes(2.0)
            for client in clients:
                client.sees(200)
            assert sum(talk.asked) == 120
        assert {what: most[what] for what in ("", "k-1", "k-2", "model a")} == {"": 5, "k-1": 3, "k-2": 3, "model a": 3}
        assert max(most["engine 0"], most["engine 1"]) <= 4


How = Literal["fin", "reset", "engine dies", "engine's error", "the end"]


class TestGivenBack:
    """However a request ends, its places are free at once: the next one that waits is let go in the same moment."""

    @pytest.mark.parametrize("how", ["fin", "reset", "engine dies", "engine's error", "the end"])
    def test_S5_09_the_place_comes_back(self, how: How) -> None:
        settings = {"engine_max_concurrent": 1, "max_concurrent": 1, "key_concurrency": 1}
        with conversation(1, **settings, queue_size=1, api_keys=(KEY,)) as talk:
            [engine] = talk.engines
            account = talk.account()
            for turn in range(3):
                first = talk.client().says(chat(stream=True, key=KEY))
                asked = engine.last
                second = talk.client().says(chat(stream=True, key=KEY))
                assert (talk.waiting, len(engine.asked)) == (1, 2 * turn + 1)
                if how != "engine's error":
                    asked.says(SSE_HEAD + chunk(EVENT))
                match how:
                    case "fin" | "reset":
                        first.leaves(how)
                    case "engine dies":
                        asked.closes("reset")
                    case "engine's error":
                        asked.says(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}")
                    case "the end":
                        asked.says(chunk(DONE) + LAST_CHUNK)
                assert first.sink is None
                assert (talk.waiting, len(engine.asked)) == (0, 2 * turn + 2)
                engine.last.says(SSE_HEAD + chunk(DONE) + LAST_CHUNK)
                second.sees(200)
                assert (account.inflight, engine.engine.inflight, talk.waiting) == (0, 0, 0)
                assert len(talk.raw_records) == 2 * (turn + 1)


# --- an engine that cannot bear an abort (`cancel = false`)
ENDS: dict[str, tuple[dict[str, Any], Callable[[Conversation, HandClient], object]]] = {
    "its client leaves": ({}, lambda talk, client: client.leaves()),
    "its client reads no more": ({}, lambda talk, client: client.stalls()),
    "its client's own time is over": ({"own_ms": "100"}, lambda talk, client: talk.passes(0.2)),
    "its time is over": ({"request_timeout_s": 0.1}, lambda talk, client: talk.passes(0.2)),
    "the engine is silent": ({"first_byte_timeout_s": 3.0, "between_bytes_timeout_s": 3.0},
                             lambda talk, client: talk.passes(3.1)),
    "a bug shows": ({"expect_internal_errors": True},
                    lambda talk, client: talk.core.crashed(client, ValueError("a bug"))),
}  # fmt: skip
TOO_LONG = b'{"error":{"code":"context_length_exceeded"}}'
REFUSED = b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(TOO_LONG)
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n"
CAME: dict[str, tuple[bytes, bytes]] = {
    "before the head": (b"", SSE_HEAD + chunk(EVENT) + chunk(DONE) + LAST_CHUNK),
    "before an event": (SSE_HEAD + b"7\r\n: wait\n\r\n1\r\n", b"\n\r\n" + chunk(DONE) + LAST_CHUNK),
    "amid a stream": (SSE_HEAD + chunk(EVENT) + b"5\r\ndat", b"a:\r\n" + LAST_CHUNK),
    "amid a plain answer": (PLAIN + b'{"a":', b'"hell"}'),
    "while a refusal is held": (REFUSED + TOO_LONG[:9], TOO_LONG[9:]),
}


class TestAnEngineThatBearsNoAbort:
    """It goes on working, so its place and the key's are not given to another before its answer has ended, whoever ended the
    request: or a client would have as many under way there as it likes."""

    @pytest.mark.parametrize(("end", "came"), [*product(ENDS, CAME)])
    def test_it_is_let_finish_whoever_ends_it(self, end: str, came: str) -> None:
        settings, ends = ENDS[end]
        first, rest = CAME[came]
        settings = {"routes": [RouteConfig(model="m", fallback=["n"], fallback_on=["context"])], **settings}
        own = settings.pop("own_ms", None)
        with bears_no_abort(**settings) as talk:
            [engine] = talk.engines
            headers = [("x-request-timeout-ms", own)] if own else []
            client = talk.client().says(tagged("a", "m", key=KEY, stream=True, max_tokens=9, headers=headers))
            asked = engine.last
            if first:
                asked.says(first)
            ends(talk, client)
            assert client.sink is None
            assert (asked.cancelled, engine.engine.inflight, talk.account().inflight) == (False, 1, 1)
            [second] = begun(talk, "b", waiting=1, key=KEY)
            assert engine.engine.answered_total == 0
            asked.says(rest)
            assert held(engine) == ["b"]
            finish(engine)
            second.sees(200)
            assert (talk.account().inflight, engine.engine.answered_total) == (0, 2)

    @pytest.mark.parametrize("end", ["the quota cuts it", "the gateway stops"])
    def test_a_stream_that_is_ended_here(self, end: str) -> None:
        with bears_no_abort(daily_token_quota=60, on_exhausted="cut", default_cost_tokens=1) as talk:
            [engine] = talk.engines
            client = talk.client().says(tagged("a", "m", key=KEY, stream=True))
            asked = engine.last
            asked.says(SSE_HEAD, chunk(EVENT))
            if end == "the gateway stops":
                # (Nobody is left to wait with it.)
                talk.core.abort_all()
                assert (asked.cancelled, engine.engine.inflight, talk.account().inflight) == (True, 0, 0)
                return
            for _ in range(80):
                asked.says(chunk(EVENT))
            talk.passes(2.5)
            assert (client.sink, talk.records[0]["outcome"]) == (None, "quota")
            assert (asked.cancelled, engine.engine.inflight, talk.account().inflight) == (False, 1, 1)
            asked.says(chunk(DONE), LAST_CHUNK)
            assert (engine.engine.inflight, talk.account().inflight) == (0, 0)

    def test_one_stream_of_many(self) -> None:
        """HTTP/2's own end of a request is an abort as well."""
        with bears_no_abort(protocol="h2", request_timeout_s=0.1) as talk:
            [engine] = talk.engines
            client = talk.client().says(chat(key=KEY))
            asked = engine.last
            talk.passes(0.2)
            client.sees(504)
            assert (asked.reset, engine.engine.inflight, talk.account().inflight) == (None, 1, 1)
            asked.answers()
            assert (asked.reset, engine.engine.inflight, talk.account().inflight) == (None, 0, 0)

    @pytest.mark.parametrize("came", [b"", PLAIN, PLAIN + b'{"a":'], ids=["nothing", "a head", "half"])
    @pytest.mark.parametrize("end", ["all leave", "the engine is silent"])
    def test_a_call_that_several_share(self, end: str, came: bytes) -> None:
        times = {"first_byte_timeout_s": 3.0, "between_bytes_timeout_s": 3.0}
        with bears_no_abort(embedding_merge_s=0.01, key_concurrency=2, **times) as talk:
            [engine] = talk.engines
            data = request("POST", "/v1/embeddings", body=b'{"model":"m","input":"a"}', key=KEY)
            clients = [talk.client().says(data) for _ in range(2)]
            talk.passes(0.02)
            asked = engine.last
            if came:
                asked.says(came)
            if end == "all leave":
                for client in clients:
                    client.leaves()
                assert talk.account().inflight == 1
            else:
                talk.passes(3.1)
            assert (asked.cancelled, engine.engine.inflight) == (False, 1)
            asked.says((PLAIN + b'{"a":"hell"}')[len(came) :])
            assert engine.engine.answered_total == 1
            assert talk.account().inflight == (0 if end == "all leave" else 2)


@contextmanager
def bears_no_abort(*, protocol: str = "h1", expect_internal_errors: bool = False, **settings: Any) -> Iterator[Conversation]:
    """One engine of one place, and a key of one request."""
    target = EngineConfig(
        url="http://127.0.0.1:9", cancel=False, max_concurrent=1, warm_connections=0, protocol=protocol  # type: ignore[arg-type]
    )
    settings = {"api_keys": (KEY,), "key_concurrency": 1, "retry_fresh": False, **settings}
    with conversation([target], expect_internal_errors=expect_internal_errors, **settings) as talk:
        yield talk


class TestOrder:
    def test_S5_09_classes(self) -> None:
        """High before normal before low, whoever came first; within a class the order of arrival of one tenant."""
        with conversation(1, engine_max_concurrent=1, api_keys=("high", "normal", "low")) as talk:
            [engine] = talk.engines
            talk.account("high").priority, talk.account("low").priority = 0, 2
            begun(talk, "first", waiting=0, key="low")
            for number, name in enumerate(["low 1", "normal 1", "high 1", "low 2", "normal 2", "high 2"]):
                begun(talk, name, waiting=number + 1, key=name.split()[0])
            engine.play = answered
            finish(engine)
            assert order(engine) == ["first", "high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"]

    @pytest.mark.parametrize("flows", ["two keys", "three keys of two tenants"])
    def test_S5_09_fair_by_tokens(self, flows: str) -> None:
        """While two tenants wait, what they were served differs by no more than a turn and a request; the sizes of their
        requests, how many they sent, and with how many keys, do not matter."""
        costs = {"big": 300, "small": 50, "small-too": 50}
        keys = list(costs)[: 2 if flows == "two keys" else 3]
        with conversation(1, engine_max_concurrent=1, api_keys=tuple(keys)) as talk:
            [engine] = talk.engines
            for key in keys:
                talk.account(key).flow = "tenant " + key.split("-")[0]
            begun(talk, "first", waiting=0, key="big")
            for key in keys:
                for _ in range(20 if key == "big" else 120 // (len(keys) - 1)):
                    talk.client().says(tagged(key, key=key, max_tokens=costs[key], content="x"))
            assert talk.waiting == 140
            engine.play = answered
            finish(engine)
            served = {"big": 0, "small": 0}
            left = {"big": 20, "small": 120}
            checked = 0
            for asked in engine.asked[1:]:
                tenant = tag(asked).split("-")[0]
                served[tenant] += costs[tag(asked)] + PROMPT
                left[tenant] -= 1
                if min(left.values()) > 0:
                    checked += 1
                    assert abs(served["big"] - served["small"]) <= QUANTUM + 300 + PROMPT, (served, checked)
            assert checked > 100

    @pytest.mark.parametrize(
        ("kind", "then"), [("fifo", ["0", "1", "2", "3", "4", "5"]), ("adaptive", ["5", "4", "3", "2", "1", "0"])]
    )
    def test_S5_09_fifo_and_adaptive(self, kind: str, then: list[str]) -> None:
        """Under an overload that lasts, adaptive serves the newest first, whose client is still there; FIFO never does."""
        with conversation(1, engine_max_concurrent=1, queue_order=kind, queue_target_s=0.05) as talk:
            [engine] = talk.engines
            begun(talk, "first", waiting=0)
            begun(talk, *"0123", waiting=4)
            talk.passes(5.2)  # the target was missed for five seconds
            begun(talk, *"45", waiting=6)
            engine.play = answered
            finish(engine)
            assert order(engine) == ["first", *then]

    def test_adaptive_without_overload_is_fifo(self) -> None:
        with conversation(1, engine_max_concurrent=1, queue_order="adaptive") as talk:
            [engine] = talk.engines
            begun(talk, "first", waiting=0)
            begun(talk, *map(str, range(10)), waiting=10)
            engine.play = answered
            finish(engine)
            assert order(engine) == ["first", *map(str, range(10))]
