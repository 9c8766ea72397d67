"""Other settings for a gateway that runs: what a client notices, over real sockets; and that what is under way goes on."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from fastgw import Config, ConfigErrors, EngineConfig, RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.gate import Gate, asking, tagged
from tests.support.client import chat, request
from tests.support.gateway import Running, running

ALWAYS: dict[str, Any] = {
    "drain_timeout_s": 0.5, "rate_limit_per_second": 0, "allowed_hosts": ["*"], "health_interval_s": 60.0,
    "warm_connections": 0, "upstream_protocol": "h1", "metrics_cache_s": 0.0,
}  # fmt: skip
PACED = SimConfig(itl_ms=5.0, output_tokens=60)


def settings(*urls: str, **more: Any) -> Config:
    """What `running` makes of the same."""
    engines = [EngineConfig(url=url, name=f"e{at}") for at, url in enumerate(urls)]
    return Config(**{"engines": engines, "port": 0, **ALWAYS, **more})


@asynccontextmanager
async def gateway(*urls: str, **more: Any) -> AsyncIterator[Running]:
    engines = more.pop("engines", [EngineConfig(url=url, name=f"e{at}") for at, url in enumerate(urls)])
    async with running(engines, **{**ALWAYS, **more}) as gw:
        yield gw


def ask(
    key: str = "", body: bytes = b'{"model":"m"}', path: str = "/v1/chat/completions", host: str = "localhost"
) -> bytes:
    return request("POST", path, body=body, headers=[("content-type", "application/json")], key=key or None, host=host)


# What a client on a connection that it keeps says before and after: the setting, old, new, the request, the statuses.
ROWS: list[tuple[str, Any, Any, bytes, int, int]] = [
    ("api_keys", ["one"], ["two"], ask("two"), 401, 200),
    ("api_keys", ["one"], ["two"], ask("one"), 200, 401),
    ("api_keys", [], ["one"], ask(), 200, 401),
    ("require_key", False, True, ask(), 200, 401),
    ("api_keys", ["one"], [], ask("none"), 401, 401),
    ("max_body_bytes", 10_000, 1024, ask(body=b'{"model":"m","x":"%b"}' % (b"x" * 2000)), 200, 413),
    ("max_json_depth", 64, 4, ask(body=b'{"model":"m","x":[[[[[[]]]]]]}'), 200, 400),
    ("max_json_members", 256, 16, ask(body=b'{"model":"m",%b}' % b",".join(b'"x%d":1' % n for n in range(20))), 200, 400),
    ("allow_kv_transfer", False, True, ask(body=b'{"model":"m","bootstrap_room":1}'), 400, 200),
    ("passthrough_paths", [], ["/v1/more"], ask(path="/v1/more"), 404, 200),
    ("passthrough_paths", ["/v1/more"], [], ask(path="/v1/more"), 200, 404),
    ("allowed_hosts", ["*"], [], ask(host="evil.example"), 200, 421),
    ("max_upload_bytes", 10_000, 1024, request(
        "POST", "/v1/audio/transcriptions", body=b"x" * 2000, headers=[("content-type", "multipart/form-data; boundary=x")],
    ), 400, 413),
    ("tokens_per_minute", 0, 1, ask("one"), 200, 429),
    ("daily_token_quota", 0, 1, ask("one"), 200, 429),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "asked", "first", "then"), ROWS, ids=[f"{row[0]}-{row[5]}" for row in ROWS])
async def test_what_a_client_notices(name: str, old: Any, new: Any, asked: bytes, first: int, then: int) -> None:
    keys = {"api_keys": ["one"]} if b"Bearer one" in asked and name != "api_keys" else {}
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, **{**keys, name: old}) as gw, await gw.client() as kept:
        await kept.send(asked)
        answer = await kept.read_response()
        assert answer.status == first
        change = await gw.gateway.follow(settings(gate.url, **{**keys, name: new}))
        assert name in change.changed
        async with await gw.client() as fresh:
            for client in (fresh,) if answer.header("connection") == "close" else (kept, fresh):
                await client.send(asked)
                assert (await client.read_response()).status == then


async def test_requests_of_one_key_are_counted_on_under_another_rate() -> None:
    own = {"api_keys": ["one"]}
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, **own, rate_limit_per_minute=3) as gw, await gw.client() as client:
        seen = []
        for rate in (3, 3, 2):
            await gw.gateway.follow(settings(gate.url, **own, rate_limit_per_minute=rate))
            await client.send(ask("one"))
            seen.append((await client.read_response()).status)
        assert seen == [200, 200, 429], "two were taken already"


async def test_a_key_that_comes_back_has_what_it_used() -> None:
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, api_keys=["one", "two"], rate_limit_per_minute=1) as gw:
        for keys, status in ((["one", "two"], 200), (["two"], 401), (["one", "two"], 429)):
            await gw.gateway.follow(settings(gate.url, api_keys=keys, rate_limit_per_minute=1))
            async with await gw.client() as client:
                await client.send(ask("one"))
                assert (await client.read_response()).status == status


async def test_requests_of_an_address() -> None:
    async with Gate(auto_s=0.0) as gate, gateway(gate.url) as gw, await gw.client() as client:
        seen = []
        for rate in (0, 2, 2, 1, 0):
            await gw.gateway.follow(settings(gate.url, rate_limit_per_second=rate))
            await client.send(ask())
            seen.append((await client.read_response()).status)
        assert seen == [200, 200, 200, 429, 200]


async def test_who_waits_goes_when_there_is_room_and_the_lanes_are_others() -> None:
    async with Gate() as gate, gateway(gate.url, max_concurrent=1, queue_timeout_s=5.0) as gw, asking(gw) as ask_:
        first = await ask_(tagged("a"))
        await gate.has("a")
        second = await ask_(tagged("b"))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        routes = [RouteConfig(model="m", max_concurrent=2)]
        await gw.gateway.follow(settings(gate.url, max_concurrent=2, routes=routes))
        await gate.has("a", "b")
        third = await ask_(tagged("c"))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        await gw.gateway.follow(settings(gate.url))
        await gate.has("a", "b", "c")
        gate.finish()
        for asked in (first, second, third):
            assert (await asked.answer()).status == 200
        await gw.idle()


async def test_engines_come_and_go_and_streams_go_on() -> None:
    async with Simulator(PACED) as old, Simulator(PACED) as new, gateway(old.url) as gw:
        async with await gw.client() as client:
            await client.send(chat("sim", stream=True))
            answer = await client.read_until(await client.read_head(), b"data: ")
            await gw.gateway.follow(settings(new.url))  # the same name, another address
            names = [pool.engine.name for pool in gw.gateway.fleet.pools]
            assert names == ["e0"]
            assert f":{gw.gateway.fleet.pools[0].engine.port}" in new.url
            async with await gw.client() as other:
                await other.send(chat("sim", max_tokens=2))
                assert (await other.read_response()).status == 200
            answer = await client.read_body(answer)
        assert answer.complete
        assert answer.body.endswith(b"data: [DONE]\n\n")
        await gw.idle()


@pytest.mark.parametrize("becomes", [{"name": "other"}, {"kind": "vllm"}], ids=["name", "kind"])
async def test_an_engine_that_becomes_another_has_no_more_at_once_than_one_may(becomes: dict[str, str]) -> None:
    async with Gate() as gate:
        engines = [[EngineConfig(**{"url": gate.url, "name": "e", "max_concurrent": 1, **it})] for it in ({}, becomes)]
        async with gateway(engines=engines[0], queue_timeout_s=5.0) as gw, asking(gw) as ask_:
            first = await ask_(tagged("a"))
            await gate.has("a")
            await gw.gateway.follow(settings(engines=engines[1], queue_timeout_s=5.0))
            second = await ask_(tagged("b"))
            await gw.until("it waits", lambda: gw.stats.queue_waiting_open == 1)
            gate.finish()
            assert (await first.answer()).status == 200
            await gate.has("b")
            gate.finish()
            assert (await second.answer()).status == 200
            assert gate.peak == 1


async def test_an_engine_that_is_not_named_any_more_drains_and_goes() -> None:
    async with Gate() as one, Gate(auto_s=0.0) as two, gateway(one.url, two.url) as gw, asking(gw) as ask_:
        held = await ask_(tagged("a"))
        await one.has("a")
        both = settings(one.url, two.url)
        change = await gw.gateway.follow(settings(two.url, engines=[both.engines[1]]))
        assert change.changed == ("engines",)
        assert [pool.engine.name for pool in gw.gateway.fleet.pools] == ["e1", "e0"]
        again = await ask_(tagged("b"))
        assert (await again.answer()).status == 200
        one.finish()
        assert (await held.answer()).status == 200
        await gw.until("it is gone", lambda: len(gw.gateway.fleet) == 1)
        await gw.gateway.follow(both)
        assert [pool.engine.name for pool in gw.gateway.fleet.pools] == ["e0", "e1"]


async def test_what_others_have_added_stays_and_drained_stays_drained() -> None:
    async with Gate(auto_s=0.0) as one, Gate(auto_s=0.0) as two, gateway(one.url) as gw:
        fleet = gw.gateway.fleet
        fleet.add(EngineConfig(url=two.url, name="added"))
        fleet.drain("e0")
        await gw.gateway.follow(settings(one.url, vllm_api_key="k-of-engines", cb_failure_threshold=1))
        assert [(pool.engine.name, pool.engine.draining) for pool in fleet.pools] == [("e0", True), ("added", False)]
        assert all(b"k-of-engines" in pool.engine.head_block for pool in fleet.pools)
        with pytest.raises(ConfigErrors, match="'added', which was added while the gateway ran"):
            await gw.gateway.follow(settings(one.url, two.url))
        assert len(fleet) == 2


async def test_one_that_others_add_while_those_to_come_are_asked_is_a_mistake_too() -> None:
    async with Gate(auto_s=0.0) as one, Gate(auto_s=0.0) as two, gateway(one.url, health_timeout_s=0.5) as gw:
        with closing(socket.create_server(("127.0.0.1", 0))) as mute:
            silent = f"http://127.0.0.1:{mute.getsockname()[1]}"
            wanted = settings(one.url, two.url, silent, health_timeout_s=0.5)
            following = asyncio.create_task(gw.gateway.follow(wanted))
            await asyncio.sleep(0.1)
            gw.gateway.fleet.add(EngineConfig(url=two.url, name="added"))
            with pytest.raises(ConfigErrors, match="'added', which was added while the gateway ran"):
                await following
        assert [pool.engine.name for pool in gw.gateway.fleet.pools] == ["e0", "added"]


async def test_a_new_key_of_an_engine_is_sent_on_the_connections_that_there_are() -> None:
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, vllm_api_key="first-key") as gw, await gw.client() as client:
        seen = []
        for key in ("first-key", "second-key"):
            await gw.gateway.follow(settings(gate.url, vllm_api_key=key))
            await client.send(ask())
            assert (await client.read_response()).status == 200
            seen.append(gate.engine.requests[-1].header(b"authorization"))
        assert seen == [b"Bearer first-key", b"Bearer second-key"]
        assert gw.stats.dials_total == 1


async def test_nothing_changes_where_something_is_wrong() -> None:
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, api_keys=["one"]) as gw, await gw.client() as client:
        with pytest.raises(ConfigErrors):
            settings(gate.url, api_keys=["two words"])
        await client.send(ask("one"))
        assert (await client.read_response()).status == 200


@pytest.mark.parametrize(
    ("name", "more"),
    [("fastgw.exchange.merging", {"embedding_merge_s": 0.01}), ("fastgw.upstream.scheduler", {"scheduler": "auto"})],
)
async def test_nothing_changes_where_what_it_needs_cannot_be_imported(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no descriptor left to read it with."""
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, api_keys=["one"]) as gw, await gw.client() as client:
        before = gw.gateway.config
        wanted = settings(gate.url, api_keys=["two"], max_body_bytes=2000, **more)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            with pytest.raises(ImportError):
                await gw.gateway.follow(wanted)
        assert gw.gateway.config is before
        for key, status in (("one", 200), ("two", 401)):
            await client.send(ask(key))
            assert (await client.read_response()).status == status
        change = await gw.gateway.follow(wanted)
        assert {"api_keys", "max_body_bytes", *more} <= set(change.changed)


async def test_an_engine_that_weighs_more_gets_more() -> None:
    async with Gate(auto_s=0.0) as one, Gate(auto_s=0.0) as two, gateway(one.url, two.url) as gw, await gw.client() as client:
        engines = [EngineConfig(url=one.url, name="e0", weight=3), EngineConfig(url=two.url, name="e1")]
        await gw.gateway.follow(settings(engines=engines))
        for _ in range(8):
            await client.send(ask())
            assert (await client.read_response()).status == 200
        assert (len(one.order), len(two.order)) == (6, 2)


async def test_not_before_the_start_and_not_in_a_drain() -> None:
    async with Gate(auto_s=0.0) as gate:
        async with gateway(gate.url) as gw:
            pass
        with pytest.raises(RuntimeError, match="does not run"):
            await gw.gateway.follow(settings(gate.url))


async def test_the_caps_of_connections() -> None:
    async with Gate(auto_s=0.0) as gate, gateway(gate.url, max_connections_per_ip=0) as gw:
        first, second = await gw.client(), await gw.client()
        await gw.until("both are there", lambda: gw.stats.connections_open == 2)
        await gw.gateway.follow(settings(gate.url, max_connections_per_ip=2))
        async with await gw.client() as third:
            assert (await third.read_response()).status == 503
        first.close()
        await gw.until("one has gone", lambda: gw.stats.connections_open == 1)
        async with await gw.client() as fourth:
            await fourth.send(ask())
            assert (await fourth.read_response()).status == 200
        second.close()


async def test_what_is_too_low_is_told_again_when_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.doors.open_files", lambda: 200)
    async with Gate(auto_s=0.0) as gate, gateway(gate.url) as gw:
        told = []
        for most in (0, 0, 5000, 5000, 1, 5000):
            await gw.gateway.follow(settings(gate.url, **({"max_connections": most} if most else {})))
            told.append(sum("open files is too low" in line for _, line, _ in gw.events.lines))
        assert told == [1, 1, 2, 2, 2, 3]


async def test_twenty_times_under_load() -> None:
    """Nobody is refused, and nothing is left."""
    async with Gate(auto_s=0.0) as one, Gate(auto_s=0.0) as two, gateway(one.url, two.url, api_keys=["one"]) as gw:
        done = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            async with await gw.client() as client:
                while not done.is_set():
                    await client.send(ask("one"))
                    statuses.append((await client.read_response()).status)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for turn in range(20):
            more: dict[str, Any] = {"max_concurrent": 4} if turn % 2 else {"policy": "least_loaded", "key_burst": 10**6}
            urls = (one.url, two.url) if turn % 3 else (two.url,)
            await gw.gateway.follow(settings(*urls, api_keys=["one", f"key{turn}"], **more))
            await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*tasks)
        assert set(statuses) == {200}
        assert len(statuses) > 100
        await gw.idle()


async def test_a_policy_that_is_followed_knows_what_calls_tell_from_then_on() -> None:
    async with Simulator(SimConfig()) as one, Simulator(SimConfig()) as two, gateway(one.url, two.url) as gw:
        prompt = chat("sim", content="word " * 2000)
        async with await gw.client() as client:
            for _ in range(2):
                assert (await client.ask(prompt)).status == 200
            assert [pool.engine.answered_total for pool in gw.gateway.fleet.pools] == [1, 1]
            await gw.gateway.follow(settings(one.url, two.url, policy="prefix_aware"))
            for _ in range(5):
                assert (await client.ask(prompt)).status == 200
            assert sorted(pool.engine.answered_total for pool in gw.gateway.fleet.pools) == [1, 6]
            assert gw.stats.prefix_hits == 4
            await gw.gateway.follow(settings(one.url, two.url, policy="prefix_aware", prefix_cache_tokens=1_000_000))
            assert (await client.ask(prompt)).status == 200
            assert gw.stats.prefix_hits == 5, "what it knows goes on"
            assert [pool.engine.watch.reading for pool in gw.gateway.fleet.pools] == [0, 0]  # type: ignore[union-attr]
