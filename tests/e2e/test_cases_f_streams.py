"""CASES, group F: streams through the gateway, byte for byte. The contract is in ``test_cases_f_contract.py``."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import openai
import pytest

from fastgw.sim import ScriptedConnection, SimConfig, Simulator
from tests.e2e.streams import DONE, HEAD, LAST, QUIET, ask, asked, chunk, engine_saying, event, stream_of, usage_event
from tests.support.client import RawClient, chat
from tests.support.frame import prompt_estimate
from tests.support.gateway import Running, running
from tests.support.requests import chat_body

PROMPT = prompt_estimate(chat_body(stream=True))


class TestF1:
    """However the engine's bytes are cut, the client's are the same, and so are events, usage and first token."""

    EVENTS = event("Hé") + event("🙂 wörld") + event("", '"stop"')

    @pytest.mark.deadline_s(60)
    @pytest.mark.parametrize("ask_usage", [True, False])
    async def test_F1_cut_at_every_byte(self, ask_usage: bool) -> None:
        wire = HEAD + chunk(self.EVENTS) + (chunk(usage_event()) if ask_usage else b"") + chunk(DONE) + LAST
        cuts = iter(range(1, len(wire)))

        async def say(conn: ScriptedConnection) -> None:
            cut = next(cuts)
            await conn.send(wire[:cut])
            await asyncio.sleep(0.002)
            await conn.send(wire[cut:])

        async def some(gw: Running, count: int) -> None:
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                for _ in range(count):
                    answer = await ask(client)
                    assert (answer.complete, answer.body) == (True, self.EVENTS + DONE)

        async with engine_saying(say) as engine, running([engine.url], inject_usage=ask_usage, **QUIET) as gw:
            share, left = divmod(len(wire) - 1, 16)
            await asyncio.gather(*(some(gw, share + (n < left)) for n in range(16)))
            assert len(asked(engine)) == len(gw.records) == len(wire) - 1
            assert gw.stats.events_total == (5 if ask_usage else 4) * (len(wire) - 1)
            counts = {(record["prompt_tokens"], record["completion_tokens"], record["outcome"]) for record in gw.records}
            # Without the engine's word the prompt is estimated from its bytes, the answer from what passed.
            assert counts == {(11, 4, "ok") if ask_usage else (PROMPT, 2, "ok")}
            assert {record["estimated"] for record in gw.records} == {not ask_usage}
            assert all(0 < record["ttft_s"] <= record["duration_s"] for record in gw.records)

    @pytest.mark.parametrize("seed", range(8))
    async def test_F1_random_chunks_in_random_segments(self, seed: int) -> None:
        dice = random.Random(seed)
        text = b"".join(event("word " * dice.randrange(40)) for _ in range(60)) + usage_event(5, 60) + DONE
        framed = b""
        at = 0
        while at < len(text):
            size = dice.choice([1, 2, 3, 17, 100, 1000])
            framed += chunk(text[at : at + size])
            at += size
        framed += LAST

        async def say(conn: ScriptedConnection) -> None:
            rest = HEAD + framed
            while rest:
                size = dice.choice([1, 2, 5, 50, 500, 5000])
                await conn.send(rest[:size])
                rest = rest[size:]
                if dice.random() < 0.2:
                    await asyncio.sleep(0.0005)

        async with stream_of(say) as (client, gw, _):
            answer = await ask(client)
            assert (answer.complete, answer.body) == (True, text.replace(usage_event(5, 60), b""))
            assert (gw.records[0]["prompt_tokens"], gw.records[0]["completion_tokens"]) == (5, 60)

    async def test_F1_one_byte_chunks_one_by_one(self) -> None:
        text = self.EVENTS + usage_event() + DONE

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD)
            for byte in text:
                await conn.send(chunk(bytes([byte])))
                await asyncio.sleep(0)
            await conn.send(LAST)

        async with stream_of(say) as (client, gw, _):
            answer = await ask(client)
            assert (answer.complete, answer.body) == (True, self.EVENTS + DONE)
            assert gw.records[0]["completion_tokens"] == 4

    @pytest.mark.parametrize("one_chunk", [False])
    async def test_F1_bursts_of_a_megabyte(self, one_chunk: bool) -> None:
        burst = b"".join(event(f"{n} " + "x" * 3000) for n in range(330))
        text = event("a") + burst + event("z") + burst + DONE

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + chunk(event("a")))
            for piece in (burst, event("z"), burst, DONE):
                await conn.send(chunk(piece) if one_chunk else b"".join(map(chunk, piece.splitlines(keepends=True))))
            await conn.send(LAST)

        async with stream_of(say) as (client, gw, _):
            answer = await ask(client)
            assert (answer.complete, answer.body) == (True, text)
            assert gw.stats.events_total == 663


FORMATS = {
    "lf": (event("a") + event("b") + DONE, 3, 2),
    "crlf": ((event("a") + event("b") + DONE).replace(b"\n", b"\r\n"), 3, 2),
    "cr": ((event("a") + event("b") + DONE).replace(b"\n", b"\r"), 3, 2),
    "mixed": (event("a").replace(b"\n", b"\r\n") + event("b").replace(b"\n", b"\r") + b"data: [DONE]\r\n\n", 3, 2),
    "comments": (b": open\n\n" + event("a") + b":\n\n:: ping\n" + event("b") + DONE, 3, 2),
    "named": (b"event: message\nid: 7\nretry: 100\n" + event("a") + b"id\nevent: x\n\n" + DONE, 2, 1),
    "multi-line": (b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n' + DONE, 2, 1),
    "no blank": (event("a").replace(b"data: ", b"data:") + DONE, 2, 1),
    "two blanks": (event("a").replace(b"data: ", b"data:  ") + DONE, 2, 1),
    "bom": (b"\xef\xbb\xbf" + event("a") + DONE, 2, 1),
    "nul in id": (b"id: a\x00b\n" + event("a") + DONE, 2, 1),
    "unknown fields": (b"x-vendor: 1\ndatum: 2\ndata\n\n" + event("a") + DONE, 3, 1),
    "many empty lines": (b"\n\n\n" + event("a") + b"\n\n\n" + DONE + b"\n", 2, 1),
    "no end of line": (event("a") + b"data: [DONE]", 2, 1),
    "no DONE": (event("a") + event("b", '"stop"'), 2, 2),
    "not JSON": (b"data: hello\n\ndata: {broken\n\n" + event("a") + DONE, 4, 1),
    "after DONE": (event("a") + DONE + b": bye\n\n" + event("b"), 3, 2),
}


class TestF2:
    """All of the event-stream format passes byte-identical, and is counted right."""

    @pytest.mark.parametrize("ask_usage", [False])
    @pytest.mark.parametrize("name", FORMATS)
    async def test_F2_passes_as_it_is(self, name: str, ask_usage: bool) -> None:
        text, events, tokens = FORMATS[name]
        turns = iter([[text], [text[n : n + 1] for n in range(len(text))], [text[:-5], text[-5:]]])

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD)
            for piece in next(turns):
                await conn.send(chunk(piece))
            await conn.send(LAST)

        async with stream_of(say, inject_usage=ask_usage) as (client, gw, _):
            for turn in range(1, 4):
                answer = await ask(client)
                assert (answer.complete, answer.body) == (True, text)
                assert gw.stats.events_total == events * turn
            assert [record["completion_tokens"] for record in gw.records] == [tokens] * 3


class TestF3:
    """UTF-8 cut anywhere passes byte-identical."""

    async def test_F3_cut_inside_characters(self) -> None:
        text = event("naïve 東京 🙂 नमस्ते") + DONE

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD)
            for at in range(0, len(text), 3):
                await conn.send(chunk(text[at : at + 3]))
                await asyncio.sleep(0.0005)
            await conn.send(LAST)

        async with stream_of(say) as (client, _, _):
            answer = await ask(client)
            assert (answer.complete, answer.body) == (True, text)


# name: (what the engine sends after two events, how it ends)
BREAKS: dict[str, tuple[bytes, str]] = {
    "fin": (b"", "fin"),
    "rst": (b"", "rst"),
    "half chunk": (chunk(event("c"))[:30], "fin"),
    "half chunk, rst": (chunk(event("c"))[:30], "rst"),
    "half a size": (b"5", "fin"),
    "half event": (chunk(event("c")[:40]), "fin"),
    "half event, rst": (chunk(event("c")[:40]), "rst"),
    "event without its blank line": (chunk(event("c")[:-1]), "fin"),
    "half a usage chunk": (chunk(usage_event()[:60]), "fin"),
    "no last chunk": (chunk(event("", '"stop"')), "fin"),
    "half a last chunk": (chunk(event("", '"stop"')) + b"0\r\n", "fin"),
}


class TestF5:
    """The engine breaks off mid-stream: what it said, one typed error event on its own, an abort; no [DONE] of ours, no last
    chunk; an SDK raises."""

    @pytest.mark.parametrize("ask_usage", [True, False])
    @pytest.mark.parametrize("name", BREAKS)
    async def test_F5_ends_in_an_error_event_and_an_abort(self, name: str, ask_usage: bool) -> None:
        tail, how = BREAKS[name]

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + chunk(event("a")) + chunk(event("b")))
            await conn.send(tail)
            await asyncio.sleep(0.01)
            conn.reset() if how == "rst" else conn.close()

        async with stream_of(say, inject_usage=ask_usage) as (client, gw, _):
            answer = await ask(client)
            assert answer.status == 200
            assert not answer.complete
            assert answer.how_ended in ("eof", "reset")
            assert LAST not in answer.raw_body[-7:]
            assert answer.body.startswith(event("a") + event("b"))
            datas = answer.events()
            error = msgspec.json.decode(datas[-1])["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == ("upstream_error", "bad_gateway")
            assert answer.body.count(b'"error"') == 1
            assert "[DONE]" not in datas
            record = gw.records[0]
            assert (record["outcome"], record["error"]) == ("truncated", "bad_gateway")
            assert gw.stats.truncations_total == 1

    @pytest.mark.parametrize("name", BREAKS)
    async def test_F5_an_sdk_raises(self, name: str) -> None:
        tail, how = BREAKS[name]

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + chunk(event("a")) + chunk(event("b")) + tail)
            await asyncio.sleep(0.01)
            conn.reset() if how == "rst" else conn.close()

        async with engine_saying(say) as engine, running([engine.url], **QUIET) as gw:
            options: dict[str, Any] = {"api_key": "k", "max_retries": 0, "timeout": 5.0}
            async with openai.AsyncOpenAI(base_url=gw.url + "/v1", **options) as sdk:
                stream = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
                said: list[str] = []
                caught: Exception | None = None
                try:
                    async for piece in stream:
                        said.append(piece.choices[0].delta.content or "")  # noqa: PERF401 - what came before the error counts
                except (openai.APIError, ValueError) as error:  # the SDK's own, or its JSON reader's on half an event
                    caught = error
                assert caught is not None, "the SDK took a broken stream for a whole one"
                assert said[:2] == ["a", "b"]

    async def test_F5_over_http_1_0_the_end_is_no_clean_one(self) -> None:
        """No framing could show the cut there, so only an RST tells."""

        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + chunk(event("a")))
            await asyncio.sleep(0.01)
            conn.close()

        async with stream_of(say) as (client, _, _):
            answer = await ask(client, version="HTTP/1.0")
            assert (answer.status, answer.how_ended) == (200, "reset")


class TestF7:
    """The engine's own error event passes once, is not doubled, and counts as a failure."""

    ERROR = b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}\n\n'

    @pytest.mark.parametrize("named", [b"", b"event: error\n"])
    @pytest.mark.parametrize("end", [LAST, chunk(DONE) + LAST])
    async def test_F7_then_a_clean_end(self, end: bytes, named: bytes) -> None:
        async def say(conn: ScriptedConnection) -> None:
            await conn.send(HEAD + chunk(event("a")) + chunk(named + self.ERROR) + end)

        async with stream_of(say) as (client, gw, _):
            answer = await ask(client)
            assert answer.complete
            assert answer.body == event("a") + named + self.ERROR + (DONE if DONE in end else b"")
            assert gw.records[0]["outcome"] == "engine_error"
            core = gw.gateway.core
            assert core is not None
            assert core.table.pools[0].engine.failures_total == 1


async def gaps_of(url: str, port: int, count: int, tokens: int, itl_ms: int, stalls: bool) -> list[float]:
    """The times between events of ``count`` streams; with ``stalls``, two more: one whose reader and one whose engine stops."""
    fault = f"ttft-ms=200,itl-ms={itl_ms},tokens={tokens}"
    gaps: list[float] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number / count * itl_ms / 1000)  # spread, as traffic is
        async with RawClient.connect("127.0.0.1", port) as client:
            await client.send(chat("sim", True, content=str(number), headers=[("x-sim-fault", fault)]))
            raw = b""
            last = 0.0
            while not raw.endswith(LAST):
                came = await client.read_some(10.0)
                assert came, f"ended after {raw[-300:]!r}"
                raw += came
                now = time.monotonic()
                if last:
                    gaps.append(now - last)
                last = now if DONE not in raw else 0.0
            assert raw.startswith(b"HTTP/1.1 200")
            assert raw.endswith(DONE + b"\r\n" + LAST)

    async with AsyncExitStack() as stack:
        if stalls:
            reader = await stack.enter_async_context(RawClient.connect("127.0.0.1", port, rcvbuf=4096))
            await reader.send(chat("sim", True, headers=[("x-sim-fault", "burst=20000,tokens=3000")]))
            engine = await stack.enter_async_context(RawClient.connect("127.0.0.1", port))
            await engine.send(chat("sim", True, headers=[("x-sim-fault", "stall-after-events=1")]))
            await asyncio.sleep(0.05)
        await asyncio.gather(*map(one, range(count)))
    return sorted(gaps)


@pytest.mark.once
@pytest.mark.quiet
class TestF11:
    """Of 1,000 streams one has a reader that stopped, one an engine that stopped: nobody else can tell."""

    @pytest.mark.timeout(200)
    @pytest.mark.deadline_s(190)
    async def test_F11_neighbours_do_not_notice(self) -> None:
        async with (
            Simulator(SimConfig(slots=2000, record=0)) as sim,
            running([sim.url], engine_max_connections=2000, **QUIET) as gw,
        ):
            extra = []
            for _ in range(8):  # a shared machine has bad seconds: the best round counts
                base = await gaps_of(sim.url, gw.port, 998, 3, 600, stalls=False)
                with_stalls = await gaps_of(sim.url, gw.port, 998, 3, 600, stalls=True)
                assert len(with_stalls) >= len(base) * 0.95 >= 998
                extra.append(with_stalls[len(with_stalls) * 99 // 100] - base[len(base) * 99 // 100])
                if extra[-1] < 0.005:
                    break
                await gw.idle()
            assert min(extra) < 0.005, f"p99 of the gaps grew by {[f'{one * 1e3:.1f} ms' for one in extra]}"
            await gw.idle()
