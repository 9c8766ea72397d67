"""K. The drain, as clients see it: who is there when it begins, and who comes then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.support.client import chat, request
from tests.support.gateway import running


@pytest.mark.together
class TestK2Drain:
    """K2: during the drain new work gets 503 with `Connection: close`, on a new connection or a kept one; what was under way is
    finished. A delay before it serves all, and says that it is not ready."""

    @asynccontextmanager
    async def draining(
        self, sim: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[tuple[Any, Simulator, Callable[[], asyncio.Task[None]]]]:
        """The gateway, its engine, and what begins the drain (of five seconds)."""
        tasks: list[asyncio.Task[None]] = []
        settings["drain_timeout_s"] = 5.0
        async with Simulator(SimConfig(**(sim or {}))) as engine, running([engine.url], **settings) as gw:

            def begin() -> asyncio.Task[None]:
                tasks.append(asyncio.create_task(gw.gateway.stop(), name="drain"))
                return tasks[0]

            yield gw, engine, begin
            await asyncio.gather(*tasks)

    async def test_K2_who_comes_in_the_drain_is_answered_503(self) -> None:
        """And who comes and asks nothing holds it up no longer than those who were there."""
        async with self.draining({"itl_ms": 20.0}) as (gw, engine, begin), await gw.client() as live:
            await live.send(chat("sim", stream=True, max_tokens=20))
            answer = await live.read_until(await live.read_head(), b"data: ")
            begin()
            await asyncio.sleep(0.02)
            async with await gw.client() as silent:
                for data in (chat("sim"), chat("sim", stream=True), request("GET", "/ready"), request("GET", "/v1/models")):
                    async with await gw.client() as late:
                        await late.send(data)
                        refused = await late.read_response()
                        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
                        assert (refused.header("connection"), refused.header("retry-after")) == ("close", "1")
                        assert await late.read_until_closed() == (b"", "fin")
                for path in ("/liveness", "/health", "/healthz"):
                    async with await gw.client() as asking:
                        await asking.send(request("GET", path))
                        alive = await asking.read_response()
                        assert (alive.status, alive.header("connection")) == (200, "close"), "it need not be started anew"
                await live.read_body(answer)
                assert (answer.complete, answer.events()[-1]) == (True, "[DONE]")
                assert (await live.read_until_closed()) == (b"", "fin")
                over = monotonic()
                assert await silent.read_until_closed() == (b"", "fin")
                assert monotonic() - over < 0.45, "who had asked nothing was waited for"
            assert len(engine.requests.to("/v1/chat/completions")) == 1

    @pytest.mark.parametrize("path", ["/ready", "/readiness"])
    async def test_K2_a_delay_says_no_and_serves_on(self, path: str) -> None:
        async with self.draining(drain_delay_s=0.4) as (gw, _engine, begin), await gw.client() as kept:
            await kept.send(chat("sim"))
            assert (await kept.read_response()).status == 200
            begin()
            stopped = monotonic()
            await asyncio.sleep(0)
            async with await gw.client() as asking:
                await asking.send(request("GET", path))
                answer = await asking.read_response()
                assert answer.status == 503
                assert b"draining" in answer.body
            for client in (kept, await gw.client()):
                await client.send(chat("sim"))
                answer = await client.read_response()
                assert (answer.status, answer.header("connection")) == (200, None)
            assert monotonic() - stopped < 0.35, "too slow a machine: the delay was over"
            assert await kept.read_until_closed() == (b"", "fin")
            assert 0.35 < monotonic() - stopped < 1.5, "it is no part of the time that what is under way has"
            client.close()

    async def test_K2_an_idle_connection_is_closed(self) -> None:
        async with self.draining() as (gw, _engine, begin), await gw.client() as client:
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200
            await begin()
            await client.send(b"")
            assert await client.read_until_closed() == (b"", "fin")

    @pytest.mark.parametrize(
        "data", [chat("sim"), chat("sim", stream=True), request("GET", "/v1/models"), request("GET", "/readiness")]
    )
    async def test_K2_a_request_that_had_begun_to_arrive(self, data: bytes) -> None:
        """Half a head keeps the connection; the other half is answered 503, and the engine sees nothing."""
        async with (
            self.draining({"itl_ms": 20.0}) as (gw, engine, begin),
            await gw.client() as live,
            await gw.client() as client,
        ):
            await live.send(chat("sim", stream=True, max_tokens=15))
            await live.read_until(await live.read_head(), b"data: ")
            await client.send(data[:30])
            await asyncio.sleep(0.02)
            begin()
            await asyncio.sleep(0.02)
            await client.send(data[30:])
            answer = await client.read_response()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            assert answer.header("connection") == "close"
            assert answer.header("retry-after") is not None
            assert await client.read_until_closed() == (b"", "fin")
            assert len(engine.requests.to("/v1/chat/completions")) == 1

    async def test_K2_what_waits_for_its_first_byte_is_answered_and_closed(self) -> None:
        async with (
            self.draining({"ttft_ms": 300.0}) as (gw, engine, begin),
            await gw.client() as plain,
            await gw.client() as stream,
        ):
            await plain.send(chat("sim"))
            await stream.send(chat("sim", stream=True))
            await gw.until("the engine has both", lambda: len(engine.requests.to("/v1/chat/completions")) == 2)
            begin()
            for client in (plain, stream):
                answer = await client.read_response()
                assert (answer.status, answer.complete) == (200, True)
                assert answer.header("connection") == "close"
                assert await client.read_until_closed() == (b"", "fin")

    async def test_K2_a_body_that_is_still_arriving_is_served(self) -> None:
        async with self.draining() as (gw, _engine, begin), await gw.client() as client:
            data = chat("sim", content="x" * 20_000)
            await client.send(data[:10_000])
            await gw.until("the exchange is open", lambda: gw.stats.exchanges_open == 1)
            begin()
            await asyncio.sleep(0.05)
            await client.send(data[10_000:])
            answer = await client.read_response()
            assert (answer.status, answer.header("connection")) == (200, "close")

    async def test_K2_a_pipelined_request_behind_a_live_one_reaches_no_engine(self) -> None:
        async with self.draining({"itl_ms": 20.0}) as (gw, engine, begin), await gw.client() as client:
            await client.send(chat("sim", stream=True, max_tokens=15) + chat("sim", content="second"))
            answer = await client.read_until(await client.read_head(), b"data: ")
            begin()
            await client.read_body(answer)
            assert answer.complete
            rest, how = await client.read_until_closed()
            assert how == "fin"
            assert rest == b"" or b" 503 " in rest
            assert len(engine.requests.to("/v1/chat/completions")) == 1
