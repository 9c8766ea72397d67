"""A client that keeps its connection sends the same head again and again, and the gateway remembers what it came to.

What it remembers must never outlive what it depends on: another key, another length, another engine, a drain.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import EngineConfig, housekeeping
from fastgw.exchange.exchange import Exchange
from fastgw.sim import SimConfig, Simulator
from tests.e2e.key_place import TOKENS, place
from tests.e2e.metered import say
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running


def ask(key: str = "good", content: str = "hi", **more: object) -> bytes:
    return chat("m", False, content=content, key=key, **more)  # type: ignore[arg-type]


async def test_the_same_head_with_other_lengths_is_served_each_time_with_its_own_body() -> None:
    async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], api_keys=["good"]) as gw:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            for size in (1, 5, 5, 100, 9, 1000, 10):
                await client.send(ask(content="x" * size))
                assert (await client.read_response()).status == 200
        posts = [one for one in sim.requests if one.method == "POST"]
        assert [one.body.count(b"x") - one.body.count(b"max_tokens") for one in posts] == [1, 5, 5, 100, 9, 1000, 10]
        assert len({record["request_id"] for record in gw.records}) == 7
        assert {record["key_id"] for record in gw.records} == {gw.records[0]["key_id"]}
        assert gw.records[0]["key_id"]


async def test_a_remembered_head_opens_nothing_for_another_key() -> None:
    async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], api_keys=["good", "also"]) as gw:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            statuses = []
            for key in ("good", "good", "evil", "good", "evil", "also", "also", "good"):
                await client.send(ask(key))
                statuses.append((await client.read_response()).status)
        assert statuses == [200, 200, 401, 200, 401, 200, 200, 200]
        ids = [record["key_id"] for record in gw.records]
        assert ids[0] == ids[1] == ids[3] == ids[7] != ids[5] == ids[6]
        assert ids[2] == ids[4] == ""


async def test_a_remembered_head_does_not_carry_a_body_over_the_limit() -> None:
    async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], max_body_bytes=1024) as gw:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            for _ in range(3):
                await client.send(chat("m", False, content="x"))
                assert (await client.read_response()).status == 200
            await client.send(chat("m", False, content="x" * 1100))
            assert (await client.read_response()).status == 413
        assert len([one for one in sim.requests if one.method == "POST"]) == 3


async def test_a_remembered_head_goes_to_each_engine_with_that_engines_own_key() -> None:
    async with Simulator(SimConfig(models=("m",))) as one, Simulator(SimConfig(models=("m",))) as two:
        engines = [EngineConfig(url=sim.url, api_key=key, models=("m",)) for sim, key in ((one, "first"), (two, "second"))]
        async with running(engines) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            for _ in range(6):
                await client.send(chat("m", False))
                assert (await client.read_response()).status == 200
        for sim, key in ((one, b"Bearer first"), (two, b"Bearer second")):
            seen = [request.header("authorization") for request in sim.requests if request.method == "POST"]
            assert len(seen) == 3
            assert {value.encode() if isinstance(value, str) else value for value in seen} == {key}


async def by_itself(gw: Running, data: bytes, source: str = "") -> int:
    """The status of a request on a connection of its own."""
    async with RawClient.connect("127.0.0.1", gw.port, source=source) as client:
        await client.send(data)
        status = (await client.read_response()).status
    await gw.idle()
    return status


class TestOfConnectionsThatAreGone:
    """What one has brought serves the next, as far as it is the same."""

    async def test_each_request_on_a_connection_of_its_own_has_its_own_body_and_key(self) -> None:
        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], api_keys=["good", "also"]) as gw:
            order = (("good", 3, 200), ("good", 70, 200), ("goof", 3, 401), ("also", 3, 200), ("good", 700, 200), ("", 3, 401))
            for _ in range(2):
                for key, size, status in order:
                    assert await by_itself(gw, ask(key, content="y" * size)) == status
            core = gw.gateway.core
            assert core is not None
            assert len(core.heads) == 2, "those that were refused are not kept"
            posts = [one.body.count(b"y") for one in sim.requests if one.method == "POST"]
            assert [count - posts[0] + 3 for count in posts] == [3, 70, 3, 700] * 2
            ids = [record["key_id"] for record in gw.records]
            assert ids[:6] == ids[6:]
            assert len({ids[0], ids[3], ""}) == 3
            assert len({record["request_id"] for record in gw.records}) == 12

    async def test_a_key_that_ends_ends_there_too(self, tmp_path: Path) -> None:
        async with place(tmp_path, require_key=True) as here:
            id, text = await here.key(name="bob")
            good = say(TOKENS, key=text)
            for _ in range(3):
                assert await by_itself(here.gw, good) == 200
            await here.admin("POST", f"/admin/keys/{id}/disable")
            assert await by_itself(here.gw, good) == 401
            await here.admin("POST", f"/admin/keys/{id}/enable")
            assert [await by_itself(here.gw, good) for _ in range(2)] == [200, 200]
            await here.admin("DELETE", f"/admin/keys/{id}", status=204)
            assert await by_itself(here.gw, good) == 401

    async def test_who_comes_from_elsewhere_is_judged_by_itself(self, tmp_path: Path) -> None:
        async with place(tmp_path, require_key=True) as here:
            _, text = await here.key(name="bob", networks=["127.0.0.1/32"])
            good = say(TOKENS, key=text)
            assert [await by_itself(here.gw, good) for _ in range(2)] == [200, 200]
            assert await by_itself(here.gw, good, source="127.0.0.2") == 403
            assert await by_itself(here.gw, good) == 200

    async def test_a_proxy_that_is_believed_now_is_no_client_for_what_it_was(self) -> None:
        """A connection may be older than that its peer is believed."""
        settings = {"api_keys": ["good"], "trusted_proxies": ["127.0.0.1/32"]}
        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], **settings) as gw:
            data = ask().replace(b"\r\n", b"\r\nx-forwarded-for: 192.0.2.7\r\n", 1)
            core = gw.gateway.core
            assert core is not None
            async with RawClient.connect("127.0.0.1", gw.port) as old:
                await gw.until("it is there", lambda: core.connections)
                (one,) = core.connections
                one.stream.trusted = False  # type: ignore[attr-defined]
                one.stream.forwarded = b"x-forwarded-for: 127.0.0.1\r\n"  # type: ignore[attr-defined]
                await old.send(data)
                assert (await old.read_response()).status == 200
            await gw.until("it is gone", lambda: not core.connections)
            assert len(core.heads) == 1
            assert await by_itself(gw, data) == 200
            assert [record["client"] for record in gw.records] == ["127.0.0.1", "192.0.2.7"]

    async def test_what_nobody_asks_for_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(housekeeping, "FORGET_S", 0.0)
        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], api_keys=["good"]) as gw:
            assert await by_itself(gw, ask()) == 200
            core = gw.gateway.core
            assert core is not None
            await gw.until("the key is in no memory", lambda: not len(core.heads))
            assert await by_itself(gw, ask()) == 200


class TestABugInside:
    """A failure of the gateway's own code is answered, logged once and survived."""

    async def test_in_a_filter_gives_500_and_a_close(self) -> None:
        def broken(exchange: object) -> None:
            raise RuntimeError("prompt text that must not be told")

        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], expect_internal_errors=True) as gw:
            assert gw.gateway.core is not None
            gw.gateway.core.walk = (broken,)
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                await client.send(chat("m", False))
                answer = await client.read_response()
            assert answer.status == 500
            assert answer.json()["error"]["type"] == "server_error"
            assert "must not be told" not in answer.body.decode() + repr(gw.events.lines)
            assert len(gw.events.errors()) == 1

    async def test_in_the_relay_ends_the_stream_and_frees_the_engine(self) -> None:
        async with (
            Simulator(SimConfig(models=("m",), itl_ms=20)) as sim,
            running([sim.url], expect_internal_errors=True) as gw,
        ):
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                await client.send(chat("m", True))
                answer = await client.read_head()
                assert gw.gateway.core is not None
                (conn,) = gw.gateway.core.connections
                assert isinstance(conn.stream.sink, Exchange)
                conn.stream.sink.call.stream = None  # which no state of an exchange that relays allows
                await client.read_body(answer)
                assert not answer.complete
            await gw.idle()
            await gw.until("the engine is free", lambda: sim.state.running == 0)
            assert gw.events.errors()
            assert gw.records[0]["outcome"] != "ok"
