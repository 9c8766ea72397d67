"""CASES J8: the circuit breaker of an engine, over sockets; and which answers count against an engine (S2.4).

Engines are told what to do by a ``Moody``, or by the simulator's faults. Recovery times are short here; what they are by
default, and that chance adds a fifth to them at most, is the breaker's own test's to say.
"""

from __future__ import annotations

import asyncio
import statistics
from time import monotonic
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config.load import load
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.test_cases_e_upstream import (
    EVENT,
    QUIET,
    SSE_HEAD,
    Play,
    ask,
    black_hole,
    chunk,
    fine,
    ok,
    pool_engine,
    posts,
    probed,
    scripted,
)
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

RECOVERY_S = 0.3
MOST_S = RECOVERY_S * 1.2  # chance adds a fifth at most
FAST_S = 0.05
FAULTY = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


async def faulty(conn: ScriptedConnection, _: RawRequest) -> None:
    await conn.send(FAULTY)


class Moody:
    """An engine that meets each request as its mood is at that moment; its health is always good."""

    def __init__(self, mood: Play = fine) -> None:
        self.mood = mood
        self.engine = scripted(self._meet)

    async def _meet(self, conn: ScriptedConnection, seen: RawRequest) -> None:
        await self.mood(conn, seen)

    @property
    def asked(self) -> int:
        return len(posts(self.engine))

    @property
    def url(self) -> str:
        return self.engine.url

    async def __aenter__(self) -> Moody:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.engine.__aexit__(*exc)


class Held:
    """A mood: requests stay unanswered until ``release``."""

    def __init__(self, answer: bytes = b"") -> None:
        self.release = asyncio.Event()
        self.came = asyncio.Event()
        self._answer = answer or ok()

    async def __call__(self, conn: ScriptedConnection, _: RawRequest) -> None:
        self.came.set()
        await self.release.wait()
        await conn.send(self._answer)


def breaker_settings(**more: Any) -> dict[str, Any]:
    return {"cb_recovery_timeout_s": RECOVERY_S, **QUIET, **more}


def breaker(gw: Running, at: int = 0) -> Any:
    return pool_engine(gw, at).breaker


def spared(answer: RawResponse) -> None:
    """The refusal of an open breaker: what a client, or its SDK, needs to come back in time."""
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "circuit_open", "upstream_error")
    assert int(answer.header("retry-after") or 0) >= 1
    assert int(answer.header("retry-after-ms") or 0) >= 1
    assert b"127.0.0.1" not in answer.body


async def open_it(gw: Running, client: RawClient, engine: Moody, failures: int = 5) -> None:
    """Fail until the breaker is open; the engine is left in a good mood."""
    engine.mood = faulty
    for _ in range(failures):
        assert breaker(gw).state == CLOSED
        assert (await ask(client)).status == 500
    assert breaker(gw).state == OPEN
    engine.mood = fine


async def recovered(gw: Running, at: int = 0) -> None:
    """Wait until an open breaker would let a request try; no longer than it may last."""
    assert breaker(gw, at).state == OPEN
    left = breaker(gw, at).until - monotonic()
    assert left <= MOST_S
    await asyncio.sleep(max(0.0, left) + 0.01)


@pytest.mark.together
class TestJ8:
    """Five failures open it, one probe closes it; a probe that fails opens it again, one that is left says nothing."""

    async def test_J8_five_failures_open_it_and_one_probe_closes_it(self) -> None:
        async with (
            Moody() as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await probed(gw)
            await open_it(gw, client, engine)
            spared(await ask(client))
            assert engine.asked == 5
            await recovered(gw)
            assert (await ask(client)).status == 200
            assert breaker(gw).state == CLOSED
            assert (await ask(client)).status == 200
            assert engine.asked == 7
            assert [record["error"] for record in gw.records][5] == "circuit_open"

    async def test_J8_a_probe_that_fails_opens_it_for_the_whole_time_again(self) -> None:
        async with (
            Moody() as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await open_it(gw, client, engine)
            for turn in range(1, 3):
                engine.mood = faulty
                await recovered(gw)
                assert (await ask(client)).status == 500
                assert breaker(gw).state == OPEN
                assert RECOVERY_S * 0.8 < breaker(gw).until - monotonic() <= MOST_S
                spared(await ask(client))
                assert (engine.asked, breaker(gw).opened_total) == (5 + turn, 1 + turn)
            engine.mood = fine
            await recovered(gw)
            assert (await ask(client)).status == 200

    async def test_J8_a_probe_whose_client_leaves_frees_its_place_at_once(self) -> None:
        async with (
            Moody() as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await open_it(gw, client, engine)
            await recovered(gw)
            engine.mood = held = Held()
            async with RawClient.connect("127.0.0.1", gw.port) as leaver:
                await leaver.send(chat())
                await held.came.wait()
                assert breaker(gw).state == HALF_OPEN
                spared(await ask(client))
            await gw.until("the probe's end is known", lambda: gw.stats.cancelled == 1)
            engine.mood = fine
            assert (await ask(client)).status == 200  # it did not wait for another recovery
            assert (breaker(gw).state, breaker(gw).opened_total, engine.asked) == (CLOSED, 1, 7)
            held.release.set()

    async def test_J8_a_probe_that_streams_and_is_left_frees_its_place_too(self) -> None:
        async def endless(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(SSE_HEAD + chunk(EVENT))
            await conn.wait_closed()

        async with (
            Moody() as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await open_it(gw, client, engine)
            await recovered(gw)
            engine.mood = endless
            leaver = await gw.client()
            await leaver.send(chat(stream=True))
            answer = await leaver.read_head()
            await leaver.read_until(answer, b"word")
            spared(await ask(client))
            leaver.reset()
            await gw.until("the probe's end is known", lambda: gw.stats.cancelled == 1)
            engine.mood = fine
            assert (await ask(client)).status == 200

    async def test_J8_of_twenty_at_the_half_open_one_reaches_the_engine(self) -> None:
        async with (
            Moody() as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await open_it(gw, client, engine)
            await recovered(gw)
            engine.mood = held = Held()
            crowd = [await gw.client() for _ in range(20)]
            await asyncio.gather(*(one.send(chat()) for one in crowd))
            waiting = {asyncio.ensure_future(one.read_response()) for one in crowd}
            refused: set[asyncio.Future[RawResponse]] = set()
            async with asyncio.timeout(5):
                while len(refused) < 19:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    refused |= done
            for answer in refused:
                spared(answer.result())
            assert (engine.asked, len(waiting)) == (6, 1)
            held.release.set()
            assert (await waiting.pop()).status == 200
            await asyncio.gather(*(one.send(chat()) for one in crowd))
            assert [(await one.read_response()).status for one in crowd] == [200] * 20
            for one in crowd:
                one.close()

    async def test_J8_each_engine_has_its_own_and_traffic_goes_to_the_other(self) -> None:
        async with (
            Moody(faulty) as bad,
            Moody() as good,
            running([bad.url, good.url], control_listen="127.0.0.1:0", **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await probed(gw)
            seen = [(await ask(client)).status for _ in range(10)]
            assert sorted(seen) == [200] * 5 + [500] * 5
            assert (breaker(gw, 0).state, breaker(gw, 1).state) == (OPEN, CLOSED)
            assert [(await ask(client)).status for _ in range(10)] == [200] * 10
            assert (bad.asked, good.asked) == (5, 15)

            told = [fields for level, text, fields in gw.events.lines if (level, text) == ("warning", "circuit breaker open")]
            assert [fields["engine"] for fields in told] == [pool_engine(gw).name]
            assert 0 < told[0]["seconds"] <= MOST_S + 0.1
            async with RawClient.connect(gw.gateway.control_url) as control:
                await control.send(request("GET", "/metrics"))
                page = (await control.read_response()).body.decode()
            rows = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[:1] != "#"}
            names = [pool_engine(gw, at).name for at in range(2)]
            state = [rows[f'gateway_circuit_breaker_state{{engine="{name}"}}'] for name in names]
            times = [rows[f'gateway_circuit_breaker_opened_total{{engine="{name}"}}'] for name in names]
            assert (state, times) == ([1.0, 0.0], [1.0, 0.0])

    async def test_J8_while_one_engine_is_tried_the_others_have_the_traffic(self) -> None:
        async with (
            Moody(faulty) as bad,
            Moody() as good,
            running([bad.url, good.url], policy="ordered", retry_fresh=False, **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
            RawClient.connect("127.0.0.1", gw.port) as other,
        ):
            for _ in range(5):
                assert (await ask(client)).status == 500
            await recovered(gw)
            bad.mood = held = Held()
            await client.send(chat())
            await held.came.wait()
            assert [(await ask(other)).status for _ in range(5)] == [200] * 5
            assert (bad.asked, good.asked) == (6, 5)
            held.release.set()
            assert (await client.read_response()).status == 200
            assert (await ask(other)).status == 200
            assert (bad.asked, good.asked) == (7, 5)  # the first in the list is back

    async def test_J8_a_websocket_that_was_the_probe_closes_it_when_it_is_accepted(self) -> None:
        """A session may last for hours: its engine has shown that it works when it took it."""

        async def handler(conn: ScriptedConnection) -> None:
            while True:
                seen = await conn.read_request()
                if b"realtime" in seen.target:
                    await conn.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
                    await conn.wait_closed()
                    return
                await conn.send(ok() if seen.method == b"GET" else mood[0])

        mood = [FAULTY]
        async with (
            ScriptedEngine(handler) as engine,
            running([engine.url], **breaker_settings()) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
            RawClient.connect("127.0.0.1", gw.port) as talker,
        ):
            for _ in range(5):
                assert (await ask(client)).status == 500
            mood[0] = ok()
            await recovered(gw)
            await talker.send(request("GET", "/v1/realtime?model=m", headers=HANDSHAKE))
            assert (await talker.read_head()).status == 101
            assert (await ask(client)).status == 200
            assert breaker(gw).state == CLOSED


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
