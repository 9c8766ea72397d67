"""CASES, group F: the contract of streams, and back-pressure."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.e2e.streams import DONE, HEAD, LAST, QUIET, ask, asked, chunk, engine_saying, event, stream_of, usage_event
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running


class TestContract:
    """Usage is asked of the engine and taken out again, everything else byte-identical; who asked for it gets it."""

    TEXT = (event("a"), event("b"), event("", '"stop"'), usage_event(), DONE)

    async def speak(self, conn: ScriptedConnection) -> None:
        await conn.send(HEAD + b"".join(map(chunk, self.TEXT)) + LAST)

    @pytest.mark.parametrize(
        "options",
        [None, {}, {"include_usage": False}, {"continuous_usage_stats": False}, {"x": 1, "continuous_usage_stats": True}],
        ids=["absent", "empty", "false", "other", "in each chunk"],
    )
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    async def test_usage_is_asked_for_and_taken_out(self, path: str, options: dict[str, bool] | None) -> None:
        async with stream_of(self.speak) as (client, gw, engine):
            fields = {} if options is None else {"stream_options": options}
            answer = await ask(client, path=path, prompt="x", **fields)
            assert (answer.complete, answer.body) == (True, b"".join(self.TEXT).replace(usage_event(), b""))
            body = msgspec.json.decode(asked(engine)[0].body)
            said = {name: value for name, value in (options or {}).items() if name == "x"}
            more = {"continuous_usage_stats": False} if options and "continuous_usage_stats" in options else {}
            assert body["stream_options"] == {**said, **more, "include_usage": True}
            assert (gw.records[0]["prompt_tokens"], gw.records[0]["completion_tokens"]) == (11, 4)

    async def test_who_asks_for_usage_gets_the_chunk_and_keeps_every_byte(self) -> None:
        async with stream_of(self.speak) as (client, gw, engine):
            request = chat(stream=True, stream_options={"include_usage": True})
            await client.send(request)
            answer = await client.read_response()
            assert answer.raw_body == b"".join(map(chunk, self.TEXT)) + LAST
            assert request.endswith(asked(engine)[0].body)
            assert gw.records[0]["completion_tokens"] == 4

    async def test_it_can_be_turned_off(self) -> None:
        async with stream_of(self.speak, inject_usage=False) as (client, gw, engine):
            request = chat(stream=True)
            await client.send(request)
            answer = await client.read_response()
            assert request.endswith(asked(engine)[0].body)
            assert answer.raw_body == b"".join(map(chunk, self.TEXT)) + LAST
            assert gw.records[0]["completion_tokens"] == 4

    async def test_plain_answers_and_other_endpoints_are_asked_nothing(self) -> None:
        async def plain(conn: ScriptedConnection) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

        async with stream_of(plain) as (client, _, engine):
            for request in (chat(), chat(stream=True, path="/v1/responses"), chat(stream=True, path="/v1/messages")):
                await client.send(request)
                assert (await client.read_response()).status == 200
                assert request.endswith(asked(engine)[-1].body)

    async def test_usage_on_every_chunk_is_not_the_extra_chunk(self) -> None:
        """``continuous_usage_stats``: only the chunk without choices goes."""
        said = [event("a")[:-3] + b',"usage":{"prompt_tokens":11,"completion_tokens":%d}}\n\n' % n for n in (1, 2)]

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + b"".join(map(chunk, [*said, usage_event(11, 2), DONE])) + LAST)

        async with stream_of(say) as (client, gw, _):
            answer = await ask(client)
            assert answer.body == b"".join(said) + DONE
            assert gw.records[0]["completion_tokens"] == 2

    @pytest.mark.parametrize("framing", ["close", "length"])
    async def test_other_framings_of_the_engine(self, framing: str) -> None:
        text = b"".join(self.TEXT)
        line = b"content-length: %d\r\n" % len(text) if framing == "length" else b""

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n" % line + text[:50])
            await asyncio.sleep(0.005)
            await conn.send(text[50:])
            if framing == "close":
                conn.close()

        async with stream_of(say) as (client, _, _):
            for _ in range(2):
                answer = await ask(client)
                assert (answer.complete, answer.body) == (True, text.replace(usage_event(), b""))


async def produced(until_quiet_s: float, count: Callable[[], int]) -> int:
    """What ``count`` says once it has stood still for so long."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < until_quiet_s:
        if count() != last:
            last, since = count(), time.monotonic()
        await asyncio.sleep(0.01)
    return last


def payload(raw: bytes) -> bytes:
    """A whole chunked answer without its head and frames."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    out = []
    while rest != LAST:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        assert rest[size : size + 2] == b"\r\n"
        out.append(rest[:size])
        rest = rest[size + 2 :]
    return b"".join(out)


def sip(client: RawClient, size: int) -> bytes:
    """What is there, at most ``size`` bytes, without waiting."""
    try:
        return client.sock.recv(size)
    except BlockingIOError:
        return b""


@pytest.mark.together
class TestBackPressure:
    """A slow client pauses its own engine, and only that, at a bounded queue; it gets every byte when it reads again."""

    PIECE = event("y" * 8000)

    @asynccontextmanager
    async def flood(self, pieces: int, **settings: Any) -> AsyncIterator[tuple[RawClient, Running, ScriptedEngine]]:
        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD)
            for _ in range(pieces):
                await conn.send(chunk(self.PIECE))
            await conn.send(chunk(DONE) + LAST)

        async with (
            engine_saying(say) as engine,
            running([engine.url], **QUIET, **settings) as gw,
            RawClient.connect("127.0.0.1", gw.port, rcvbuf=8192) as client,
        ):
            await client.send(chat(stream=True))
            yield client, gw, engine

    @staticmethod
    async def flooding(gw: Running, engine: ScriptedEngine) -> ScriptedConnection:
        """The engine's end of the stream, once it flows."""
        await gw.until("the stream flows", lambda: any(conn.sent_total > 100_000 for conn in engine.connections))
        return max(engine.connections, key=lambda conn: conn.sent_total)

    @staticmethod
    def queued(gw: Running) -> int:
        core = gw.gateway.core
        assert core is not None
        return sum(conn.wire.queued_bytes for conn in core.connections)

    @pytest.mark.quiet
    async def test_the_engine_is_held_and_the_queue_is_bounded(self) -> None:
        async with self.flood(2500) as (client, gw, engine):
            flood = await self.flooding(gw, engine)
            sent = await produced(0.3, lambda: flood.sent_total)
            # Socket buffers take some; most of the 20 MB stays where it was made.
            assert sent < 12_000_000, "the engine was not held back"
            assert 0 < self.queued(gw) <= 65536 + 4096
            async with RawClient.connect("127.0.0.1", gw.port) as other:
                begun = time.monotonic()
                await other.send(b"GET /liveness HTTP/1.1\r\nHost: g\r\n\r\n")
                assert (await other.read_response()).status == 200
                assert time.monotonic() - begun < 0.25
            answer = await client.read_response(20.0)
            assert answer.complete
            assert answer.body == self.PIECE * 2500 + DONE

    async def test_fits_and_starts_lose_nothing(self) -> None:
        async with self.flood(600) as (client, gw, _):
            dice = random.Random(4)
            raw = b""
            while not raw.endswith(b"\r\n" + LAST):
                raw += sip(client, dice.choice([1, 100, 10_000, 1_000_000]))
                assert self.queued(gw) <= 65536 + 4096
                await asyncio.sleep(dice.choice([0, 0, 0.001, 0.01]))
            assert payload(raw) == self.PIECE * 600 + DONE

    async def test_a_slow_reader_that_does_read_is_not_cut_off(self) -> None:
        async with self.flood(700, write_timeout_s=0.5) as (client, gw, _):
            begun = time.monotonic()
            raw = b""
            while time.monotonic() - begun < 1.5:  # some, three times per limit
                raw += sip(client, 300_000)
                await asyncio.sleep(0.15)
            while not raw.endswith(b"\r\n" + LAST):
                came = await client.read_some()
                assert came
                raw += came
            assert payload(raw) == self.PIECE * 700 + DONE
            assert gw.records[0]["outcome"] == "ok"
