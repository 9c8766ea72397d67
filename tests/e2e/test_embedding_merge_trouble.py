"""A shared call of embeddings that fails, or that clients leave."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from fastgw.exchange import merged, merging
from fastgw.limits.breaker import Breaker
from fastgw.sim import ScriptedConnection
from fastgw.sim.scripted import RawRequest
from tests.e2e.merging import MUCH, TOGETHER, all_at_once, ask, clients, framed, plainly, refuses_many, stage
from tests.support.gateway import running
from tests.support.ports import closed_port

pytestmark = pytest.mark.together  # next to all of their time is waiting
FAULTS = {"reset", "close", "cut", "stall", "garbage", "bad chunks"}  # the engine's; all else says nothing of it


class TestTrouble:
    @pytest.mark.parametrize(
        "what",
        ["400", "413", "422", "429", "500", "503", "204", "reset", "close", "cut", "stall", "garbage", "bad chunks",
         "one too few", "no json", "empty", "coded", "etag"],
    )  # fmt: skip
    async def test_each_goes_alone_once(self, what: str) -> None:
        await self.each_goes_alone_once(what)

    @pytest.mark.parametrize("what", ["long", "long chunks"])
    async def test_each_goes_alone_once_after_a_long_answer(self, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(merged, "MAX_ANSWER_BYTES", MUCH)
        await self.each_goes_alone_once(what)

    @staticmethod
    async def each_goes_alone_once(what: str) -> None:
        async with stage(refuses_many(what), between_bytes_timeout_s=0.3) as on:
            requests = [ask(word) for word in "abc"]
            found = await all_at_once(on.gw.port, requests)
            assert [one.status for one in found] == [200, 200, 200]
            assert [one.json()["data"][0]["index"] for one in found] == [0, 0, 0]
            assert on.inputs[0] == ["a", "b", "c"]
            assert sorted(on.inputs[1:]) == [["a"], ["b"], ["c"]]
            assert [one["outcome"] for one in on.gw.records] == ["ok"] * 3
            assert on.gw.stats.exchanges_total == 3
            core = on.gw.gateway.core
            assert core is not None
            engine = core.table.pools[0].engine
            assert engine.failures_total == (what in FAULTS)
            assert engine.truncations_total == on.gw.stats.truncations_total == (what in ("cut", "stall", "bad chunks"))

    async def test_an_engine_that_never_answers_together(self) -> None:
        async with stage(refuses_many("silent"), first_byte_timeout_s=0.3) as on:
            found = await all_at_once(on.gw.port, [ask("a"), ask("b")])
            assert [one.status for one in found] == [200, 200]

    async def test_what_was_refused_together_is_sent_apart_for_a_while(self) -> None:
        async with stage(refuses_many("413")) as on:
            for _ in range(3):
                assert [one.status for one in await all_at_once(on.gw.port, [ask("a"), ask("b")])] == [200, 200]
            assert [len(one) for one in on.inputs] == [2, 1, 1, 1, 1, 1, 1]
            warned = [line for line in on.gw.events.lines if "not merged" in line[1]]
            assert len(warned) == 1
            # Others still are.
            await all_at_once(on.gw.port, [ask("a", user="u"), ask("b", user="u")])
            assert on.inputs[7] == ["a", "b"]

    async def test_the_pause_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(merging, "PAUSE_S", 0.0)
        async with stage(refuses_many("413")) as on:
            for _ in range(2):
                assert [one.status for one in await all_at_once(on.gw.port, [ask("a"), ask("b")])] == [200, 200]
            assert [len(one) for one in on.inputs] == [2, 1, 1, 2, 1, 1]

    @pytest.mark.parametrize("status", ["429", "503"])
    async def test_not_now_says_nothing_against_asking_together(self, status: str) -> None:
        async with stage(refuses_many(status)) as on:
            for _ in range(2):
                assert [one.status for one in await all_at_once(on.gw.port, [ask("a"), ask("b")])] == [200, 200]
            assert [len(one) for one in on.inputs] == [2, 1, 1, 2, 1, 1]

    @pytest.mark.parametrize("recovery_s", [60.0, 0.01])
    async def test_an_engine_whose_breaker_is_not_closed_is_not_asked_together(self, recovery_s: float) -> None:
        """Nor when it is time for a probe: that is one request."""
        async with stage() as on:
            core = on.gw.gateway.core
            assert core is not None
            engine = core.table.pools[0].engine
            engine.breaker = Breaker(1, recovery_s)
            engine.breaker.failed(asyncio.get_running_loop().time(), 0.0, False)
            await all_at_once(on.gw.port, [ask("a"), ask("b")])
            assert on.gw.stats.merged_calls == 0

    async def test_a_dead_engine_is_each_requests_own_trouble(self) -> None:
        async with running([f"http://127.0.0.1:{closed_port()}"], **TOGETHER) as gw:
            found = await all_at_once(gw.port, [ask("a"), ask("b")])
            assert [one.status for one in found] == [502, 502]
            assert [one["status"] for one in gw.records] == [502, 502]

    async def test_an_idle_connection_that_died_is_nobodys_fault(self) -> None:
        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if len(json.loads(seen.body)["input"]) == 2:
                conn.reset()
            else:
                await plainly(conn, seen)

        async with stage(answer) as on:
            assert (await all_at_once(on.gw.port, [ask(["a", "b", "c"])]))[0].status == 200
            found = await all_at_once(on.gw.port, [ask("a"), ask("b")])
            assert [one.status for one in found] == [200, 200]
            core = on.gw.gateway.core
            assert core is not None
            assert core.table.pools[0].engine.failures_total == 0

    async def test_a_request_that_the_engine_refuses_hurts_only_itself(self) -> None:
        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if b"poison" in seen.body:
                await conn.send(framed(b'{"error":{"message":"too long"}}', status=b"400 Bad Request"))
            else:
                await plainly(conn, seen)

        async with stage(answer) as on:
            found = await all_at_once(on.gw.port, [ask("a"), ask("poison"), ask("b")])
            assert [one.status for one in found] == [200, 400, 200]


class TestLeaving:
    async def test_one_leaves_while_it_waits(self) -> None:
        async with stage(embedding_merge_s=0.3) as on, AsyncExitStack() as stack:
            first, second, third = await clients(stack, on.gw.port, 3)
            for client, word in ((first, "a"), (second, "b"), (third, "c")):
                await client.send(ask(word))
            await on.gw.until("all wait", lambda: on.gw.stats.exchanges_open == 3)
            second.close()
            assert (await first.read_response()).status == 200
            assert (await third.read_response()).status == 200
            assert on.inputs == [["a", "c"]]
            assert sorted(one["status"] for one in on.gw.records) == [200, 200, 499]

    async def test_all_leave_while_they_wait(self) -> None:
        async with stage(embedding_merge_s=0.3) as on, AsyncExitStack() as stack:
            for client in await clients(stack, on.gw.port, 3):
                await client.send(ask("a"))
                await on.gw.until("it waits", lambda: on.gw.stats.exchanges_open == 1)
                client.reset()
                await on.gw.idle(1.0)
                on.judge()
            assert on.calls == []

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_the_last_one_that_leaves_ends_the_call(self, cancel: bool) -> None:
        waiting: list[ScriptedConnection] = []
        go = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            waiting.append(conn)
            if cancel:
                await conn.wait_closed(5.0)
            else:
                await go.wait()
                await plainly(conn, seen)

        async with stage(answer, engine={"cancel": cancel}) as on, AsyncExitStack() as stack:
            crowd = await clients(stack, on.gw.port, 3)
            for client in crowd:
                await client.send(ask("a"))
            await on.gw.until("the engine is asked", lambda: waiting)
            core = on.gw.gateway.core
            assert core is not None
            engine = core.table.pools[0].engine
            assert engine.inflight == 1, "one call is one piece of work"
            for client in crowd[:2]:
                client.close()
            await on.gw.until("two are gone", lambda: on.gw.stats.exchanges_open == 1)
            assert waiting[0].closed_s is None
            crowd[2].close()
            await on.gw.idle(1.0)
            if cancel:
                await waiting[0].wait_closed(1.0)
            else:
                await asyncio.sleep(0.05)
                assert waiting[0].closed_s is None, "this engine cannot bear an abort"
                go.set()
                core.close_all()
            await on.gw.until("the engine is free", lambda: engine.inflight == 0)
            assert [one["status"] for one in on.gw.records] == [499, 499, 499]
            assert engine.failures_total == 0

    async def test_one_leaves_during_the_call_and_the_others_are_answered(self) -> None:
        go = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            await go.wait()
            await plainly(conn, seen)

        async with stage(answer) as on, AsyncExitStack() as stack:
            first, second, third = await clients(stack, on.gw.port, 3)
            for client, word in ((first, "a"), (second, "bb"), (third, "ccc")):
                await client.send(ask(word))
            await on.gw.until("the engine is asked", lambda: on.calls)
            first.close()
            await on.gw.until("it is gone", lambda: on.gw.stats.exchanges_open == 2)
            go.set()
            for client, length in ((second, 2), (third, 3)):
                assert (await client.read_response()).json()["data"][0]["embedding"][0] == length
            assert len(on.calls) == 1

    async def test_each_request_keeps_its_own_time_limit(self) -> None:
        async def never(conn: ScriptedConnection, seen: RawRequest) -> None:
            await conn.wait_closed(5.0)

        async with stage(never, request_timeout_s=0.3) as on:
            found = await all_at_once(on.gw.port, [ask("a"), ask("b")])
            assert [one.status for one in found] == [504, 504]
            assert len(on.calls) == 1

    @pytest.mark.parametrize("at_work", [True, False])
    async def test_a_stop_ends_what_waits(self, at_work: bool) -> None:
        async def never(conn: ScriptedConnection, seen: RawRequest) -> None:
            await conn.wait_closed(5.0)

        wait_s = 0.01 if at_work else 1.0
        async with stage(never, embedding_merge_s=wait_s, drain_timeout_s=0.1) as on, AsyncExitStack() as stack:
            crowd = await clients(stack, on.gw.port, 2)
            for client in crowd:
                await client.send(ask("a"))
            await on.gw.until("they are there", lambda: on.calls if at_work else on.gw.stats.exchanges_open == 2)
            await on.gw.gateway.stop()
            assert [(await client.read_response()).status for client in crowd] == [503, 503]
