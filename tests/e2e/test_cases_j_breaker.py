"""CASES J8: the circuit breaker of an engine, over sockets."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engines import EVENT, SSE_HEAD, ask, chunk, fine, ok, pool_engine
from tests.e2e.moody import FAULTY, MOST_S, RECOVERY_S, Held, Moody, breaker, breaker_settings, recovered, spared
from tests.e2e.test_cases_e_upstream import probed
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running

HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


async def faulty(conn: ScriptedConnection, _: RawRequest) -> None:
    await conn.send(FAULTY)


async def open_it(gw: Running, client: RawClient, engine: Moody, failures: int = 5) -> None:
    """Fail until the breaker is open; the engine is left in a good mood."""
    engine.mood = faulty
    for _ in range(failures):
        assert breaker(gw).state == CLOSED
        assert (await ask(client)).status == 500
    assert breaker(gw).state == OPEN
    engine.mood = fine


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
                    await conn.send(
                        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                    )
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
