"""S2.4: which answers count against an engine, which do not, and when."""

from __future__ import annotations

import asyncio
import statistics
from time import monotonic
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config.load import load
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.sim import RawRequest, ScriptedConnection, SimConfig, Simulator
from tests.e2e.engines import EVENT, QUIET, SSE_HEAD, ask, chunk, pool_engine
from tests.e2e.moody import FAULTY, Held, Moody, breaker, breaker_settings, recovered, spared
from tests.e2e.test_cases_e_upstream import black_hole, probed
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

FAST_S = 0.05

# What a simulated engine does, the settings that make it quick, and whether the request streams.
FAILURES = [
    pytest.param("reset", {}, False, id="E2 reset"),
    pytest.param("close", {}, False, id="E2 closed"),
    pytest.param("garbage", {}, False, id="E6 no HTTP"),
    pytest.param("close-in-head", {}, False, id="E6 half a head"),
    pytest.param("stall-before", {"first_byte_timeout_s": 0.1}, False, id="E13 silent"),
    pytest.param("stall-head", {"between_bytes_timeout_s": 0.1}, True, id="E13 head, then silent"),
    pytest.param("stall-after-events=2", {"between_bytes_timeout_s": 0.1}, True, id="E13 silent in a stream"),
    pytest.param("wrong-length", {}, False, id="body cut short"),
    pytest.param("truncate-chunk,after-events=2", {}, True, id="stream cut in a chunk"),
    pytest.param("half-event,after-events=2", {}, True, id="stream cut in an event"),
    pytest.param("close-after-events=2", {}, True, id="stream closed"),
    pytest.param("reset-after-events=2", {}, True, id="stream reset"),
    pytest.param("bad-chunk,after-events=2", {}, True, id="stream garbled"),
    pytest.param("error-event,after-events=2", {}, True, id="stream tells an error"),
    pytest.param("status=500", {}, False, id="E15 500"),
    pytest.param("status=502", {}, False, id="E15 502"),
    pytest.param("status=504", {}, True, id="E15 504"),
    pytest.param("status=500,split", {}, True, id="E15 500 in pieces"),
]
HARMLESS = [400, 401, 403, 404, 408, 413, 422, 429, 503]


async def hurt(gw: Running, fault: str, stream: bool) -> RawResponse:
    """One request that meets ``fault``, on a connection of its own (an aborted answer ends it)."""
    async with RawClient.connect("127.0.0.1", gw.port) as client:
        answer = await ask(client, model="sim", stream=stream, max_tokens=5, headers=[("x-sim-fault", fault)])
    await gw.idle()
    return answer


@pytest.mark.together
class TestS2_04:
    """What counts against an engine, what does not, and when."""

    @pytest.mark.parametrize(("fault", "settings", "stream"), FAILURES)
    async def test_S2_04_counts_once_and_opens_it(self, fault: str, settings: dict[str, Any], stream: bool) -> None:
        async with (
            Simulator(SimConfig(itl_ms=1.0)) as sim,
            running([sim.url], cb_failure_threshold=3, **breaker_settings(**settings)) as gw,
        ):
            await probed(gw)
            for number in range(1, 3):
                await hurt(gw, fault, stream)
                assert (breaker(gw).state, breaker(gw).failures) == (CLOSED, number)
                assert pool_engine(gw).failures_total == number
            await hurt(gw, fault, stream)
            assert breaker(gw).state == OPEN
            spared(await hurt(gw, "none", stream))

    @pytest.mark.parametrize("status", HARMLESS)
    async def test_S2_04_E15_what_an_engine_answers_by_right_is_no_fault(self, status: int) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], cb_failure_threshold=1, **breaker_settings()) as gw,
        ):
            for stream in (False, True, False):
                answer = await hurt(gw, f"status={status},retry-after=7", stream)
                assert (answer.status, answer.header("retry-after")) == (status, "7")
            assert (breaker(gw).state, breaker(gw).failures, pool_engine(gw).failures_total) == (CLOSED, 0, 0)
            assert (await hurt(gw, "none", False)).status == 200

    @pytest.mark.parametrize("status", [429, 503])
    async def test_S2_04_back_pressure_between_failures_neither_counts_nor_absolves(self, status: int) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], cb_failure_threshold=2, **breaker_settings()) as gw,
        ):
            await hurt(gw, "status=500", False)
            await hurt(gw, f"status={status}", False)
            assert (breaker(gw).state, breaker(gw).failures) == (CLOSED, 1)
            await hurt(gw, "status=500", False)
            assert breaker(gw).state == OPEN

    async def test_S2_04_back_pressure_at_the_half_open_lets_the_next_one_try(self) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], cb_failure_threshold=1, **breaker_settings()) as gw,
        ):
            await hurt(gw, "status=500", False)
            await recovered(gw)
            assert (await hurt(gw, "status=503", False)).json()["error"]["type"] == "SimulatedError"
            assert breaker(gw).state == HALF_OPEN
            assert (await hurt(gw, "none", False)).status == 200
            assert breaker(gw).state == CLOSED

    async def test_S2_04_clients_that_leave_say_nothing_of_the_engine(self) -> None:
        async with (
            Simulator(SimConfig(ttft_ms=10.0, itl_ms=20.0, output_tokens=200)) as sim,
            running([sim.url], cb_failure_threshold=1, **breaker_settings()) as gw,
        ):
            for wait in (b"", b"\n\n"):
                leaver = await gw.client()
                await leaver.send(chat("sim", stream=True))
                if wait:
                    await leaver.read_until(await leaver.read_head(), wait)
                leaver.reset()
            await gw.until("both have left", lambda: gw.stats.cancelled == 2)
            assert (breaker(gw).state, breaker(gw).failures) == (CLOSED, 0)

    async def test_S2_04_the_verdict_on_a_stream_falls_when_it_ends(self) -> None:
        cut = asyncio.Event()

        async def truncated(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(SSE_HEAD + chunk(EVENT))
            await cut.wait()
            conn.close()

        async with (
            Moody(truncated) as engine,
            running([engine.url], cb_failure_threshold=3, **breaker_settings()) as gw,
        ):
            clients = [await gw.client() for _ in range(3)]
            heads = []
            for client in clients:
                await client.send(chat(stream=True))
                heads.append(await client.read_head())
                await client.read_until(heads[-1], b"word")
            assert (breaker(gw).state, breaker(gw).failures) == (CLOSED, 0)
            cut.set()
            for client, answer in zip(clients, heads, strict=True):
                assert not (await client.read_body(answer)).complete
                client.close()
            assert breaker(gw).state == OPEN

    async def test_S2_04_a_stream_that_ends_well_begins_the_count_anew(self) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], cb_failure_threshold=2, **breaker_settings()) as gw,
        ):
            for _ in range(3):
                await hurt(gw, "status=500", False)
                assert breaker(gw).failures == 1
                assert b"[DONE]" in (await hurt(gw, "none", True)).body
                assert (breaker(gw).state, breaker(gw).failures) == (CLOSED, 0)

    @pytest.mark.parametrize("listening", [True, False])
    async def test_S2_04_E1_connections_that_fail_count(self, listening: bool) -> None:
        """A port that refuses, and one whose backlog is full."""
        with black_hole() as hole:
            url = f"http://127.0.0.1:{hole if listening else closed_port()}"
            settings = breaker_settings(connect_timeout_s=0.05, health_timeout_s=0.05)
            async with (
                running([url], cb_failure_threshold=5, **settings) as gw,
                RawClient.connect("127.0.0.1", gw.port) as client,
            ):
                for number in range(5):
                    assert breaker(gw).failures == number
                    assert (await ask(client)).status == (504 if listening else 502)
                assert breaker(gw).state == OPEN
                spared(await ask(client))
                assert gw.stats.dials_total == 5

    async def test_S2_04_fails_fast_while_it_is_open(self) -> None:
        """In less than 50 ms, where the engine would have cost a client its whole patience; and says when to come back."""
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], first_byte_timeout_s=0.2, cb_failure_threshold=1, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await hurt(gw, "stall-before", False)).status == 504
            received = sim.state.received
            took = []
            for _ in range(15):
                begun = monotonic()
                answer = await ask(client, model="sim")
                took.append(monotonic() - begun)
                spared(answer)
                assert 29 <= int(answer.header("retry-after") or 0) <= 36  # 30 s is the default
            assert statistics.median(took) < FAST_S
            assert sim.state.received == received

    async def test_S2_04_threshold_and_recovery_by_their_old_names(self) -> None:
        config = load(environ={"CB_FAILURE_THRESHOLD": "2", "CB_RECOVERY_TIMEOUT": "0.3", "VLLM_URL": "http://127.0.0.1:1"})
        settings: dict[str, Any] = {
            "cb_failure_threshold": config.cb_failure_threshold,
            "cb_recovery_timeout_s": config.cb_recovery_timeout_s,
        }
        async with Simulator(SimConfig()) as sim, running([sim.url], **settings, **QUIET) as gw:
            for _ in range(2):
                assert (await hurt(gw, "status=500", False)).status == 500
            opened = monotonic()
            spared(await hurt(gw, "none", False))
            await gw.until("a request may try", lambda: breaker(gw).until <= monotonic())
            assert 0.25 < monotonic() - opened < 1.0
            assert (await hurt(gw, "none", False)).status == 200

    async def test_S2_04_a_threshold_of_nothing_never_opens_it(self) -> None:
        async with Simulator(SimConfig()) as sim, running([sim.url], cb_failure_threshold=0, **QUIET) as gw:
            for _ in range(12):
                assert (await hurt(gw, "status=500", False)).status == 500
            assert (breaker(gw).state, pool_engine(gw).failures_total) == (CLOSED, 12)

    async def test_S2_04_an_engine_that_comes_back_is_tried_as_soon_as_its_health_is_good(self) -> None:
        """Not after the recovery time, which is half a minute here: its probe knows better."""
        settings: dict[str, Any] = {"health_interval_s": 0.05, "health_timeout_s": 0.5, "warm_connections": 0}
        async with (
            Moody() as engine,
            running([engine.url], **settings) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            for conn in engine.engine.connections:
                conn.close()
            await engine.engine.stop_listening()
            await gw.until("its health is bad", lambda: pool_engine(gw).healthy is False)
            for _ in range(10):
                if breaker(gw).state == OPEN:
                    break
                assert (await ask(client)).status == 502
            spared(await ask(client))
            await engine.engine.start()
            await gw.until("its health is good", lambda: pool_engine(gw).healthy is True)
            assert (await ask(client)).status == 200
            assert (breaker(gw).state, breaker(gw).opened_total) == (CLOSED, 1)

    async def test_S2_04_requests_that_wait_are_told_at_once_when_it_opens(self) -> None:
        async with (
            Moody() as engine,
            running(
                [EngineConfig(url=engine.url, max_concurrent=1)], cb_failure_threshold=1, queue_timeout_s=20.0, **QUIET
            ) as gw,
        ):
            engine.mood = held = Held(FAULTY)
            clients = [await gw.client() for _ in range(4)]
            for client in clients:
                await client.send(chat())
            await gw.until("three wait", lambda: gw.stats.queue_waiting_open == 3)
            held.release.set()
            answers = await asyncio.gather(*(client.read_response() for client in clients))
            assert sorted(answer.status for answer in answers) == [500, 503, 503, 503]
            for answer in answers:
                if answer.status == 503:
                    spared(answer)
            assert engine.asked == 1
            for client in clients:
                client.close()
