"""CASES, group F, on all ways: streams byte for byte, how a broken one ends, and who is held back by whom.

An engine says its stream in chunks or DATA frames, a client hears it in either: the same bytes, the same events counted, the
same tokens charged.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import msgspec
import pytest

from tests.e2e.engines import pool_engine
from tests.e2e.streams import DONE, event, usage_event
from tests.e2e.test_cases_f_streams import FORMATS
from tests.support.answers import RawResponse
from tests.support.ways.way import Way, all_ways, and_tunnels, plain_ways, say

SSE = b"content-type: text/event-stream"
ERROR = b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}\n\n'


def saying(*pieces: bytes, trailers: tuple[bytes, ...] = ()) -> Any:
    """A stream of these pieces, to its clean end."""

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        for piece in pieces:
            await turn.data(piece)
        await turn.end(*trailers)

    return play


async def stream(client: Any, **fields: Any) -> RawResponse:
    answer: RawResponse = await client.asks(say(stream=True, **fields))
    assert answer.status == 200
    return answer


def broken(answer: RawResponse, code: str = "bad_gateway") -> dict[str, Any]:
    """It is not taken for a whole one: one error event of the gateway's own behind what the engine said, and no clean end."""
    assert not answer.complete
    assert answer.how_ended in ("eof", "reset")
    assert answer.body.count(b'"error"') == 1
    error: dict[str, Any] = msgspec.json.decode(answer.events()[-1])["error"]
    assert (error["type"], error["code"]) == ("upstream_error", code)
    return error


TEXT = event("Hé") + event("🙂 wörld") + event("", '"stop"')


@and_tunnels
@pytest.mark.parametrize("ask_usage", [True, False])
async def test_F1_however_it_is_cut(ask_usage: bool, way: Way) -> None:
    whole = TEXT + (usage_event() if ask_usage else b"") + DONE
    dice = random.Random(3)
    cuts: list[list[bytes]] = [[whole[:at], whole[at:]] for at in range(1, len(whole), 7)]
    cuts.append([whole[at : at + 1] for at in range(len(whole))])
    for _ in range(4):
        marks = sorted({0, len(whole), *(dice.randrange(len(whole)) for _ in range(9))})
        cuts.append([whole[begin:end] for begin, end in itertools.pairwise(marks)])
    turns = iter(cuts)

    async def play(turn: Any) -> None:
        await saying(*next(turns))(turn)

    async with way.engine(play) as engine, way.gateway(engine.url, inject_usage=ask_usage) as gw, way.client(gw) as client:
        for pieces in cuts:
            answer = await stream(client)
            assert (answer.complete, answer.body) == (True, TEXT + DONE), pieces
        assert gw.stats.events_total == (5 if ask_usage else 4) * len(cuts)
        told = {(record["completion_tokens"], record["outcome"], record["estimated"]) for record in gw.records}
        assert told == {(4, "ok", False) if ask_usage else (2, "ok", True)}


@all_ways
async def test_F1_bursts_of_a_megabyte_and_an_event_as_long(way: Way) -> None:
    burst = b"".join(event(f"{n} " + "x" * 3000) for n in range(330))
    texts = [event("a") + burst + event("z") + burst + DONE, event("a") + event("x" * 1_000_000) + event("z") + DONE]
    turns = iter(texts)

    async def play(turn: Any) -> None:
        await saying(next(turns))(turn)

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for text in texts:
            answer = await stream(client)
            assert (answer.complete, answer.body == text) == (True, True)
        assert gw.stats.events_total == 663 + 4


@all_ways
async def test_F2_F3_all_of_the_format_and_what_is_no_utf8_pass_as_they_are(way: Way) -> None:
    rows = dict(FORMATS)
    for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00\x1b[0m"):
        text = event("a") + b'data: {"choices":[{"delta":{"content":"' + bad + b'"}}]}\n\n' + b"data: " + bad + b"\n\n" + DONE
        rows[repr(bad)] = (text, 4, 2)
    turns = iter([pieces for text, _, _ in rows.values() for pieces in ([text], [text[:-5], text[-5:]])])

    async def play(turn: Any) -> None:
        await saying(*next(turns))(turn)

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for name, (text, events, _) in rows.items():
            for _ in range(2):
                before = gw.stats.events_total
                answer = await stream(client)
                assert (answer.complete, answer.body) == (True, text), name
                assert gw.stats.events_total - before == events, name


# What the engine says behind two events before it breaks, in pieces of its own.
TAILS: dict[str, bytes] = {
    "nothing": b"",
    "half an event": event("c")[:40],
    "an event without its blank line": event("c")[:-1],
    "half a usage chunk": usage_event()[:60],
}


@and_tunnels
async def test_F5_one_that_breaks_ends_in_an_error_event_and_no_clean_end(way: Way) -> None:
    endings = ["fin", "rst", *(["INTERNAL_ERROR", "NO_ERROR"] if way.engine_protocol == "h2" else [])]
    rows = [(name, how) for name in TAILS for how in endings]
    turns = iter(rows)

    async def play(turn: Any) -> None:
        name, how = next(turns)
        await turn.head(SSE)
        await turn.data(event("a"))
        await turn.data(event("b"))
        await turn.data(TAILS[name])
        await asyncio.sleep(0.003)
        await (turn.breaks(how) if how in ("fin", "rst") else turn.resets(how))

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for name, how in rows:
            answer = await stream(client)
            broken(answer)
            assert answer.body.startswith(event("a") + event("b")), (name, how)
            assert "[DONE]" not in answer.events()
        assert {(record["outcome"], record["error"]) for record in gw.records} == {("truncated", "bad_gateway")}
        assert gw.stats.truncations_total == pool_engine(gw).truncations_total == len(rows)


@and_tunnels
@pytest.mark.parametrize("content", ["short", "long " * 60_000])
async def test_one_that_breaks_behind_its_last_word_is_whole(way: Way, content: str) -> None:
    """Whether its request passed a runner as it is, or was read there."""
    said = event("a") + event("", '"stop"') + DONE

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(said)
        await asyncio.sleep(0.003)
        await turn.breaks("fin" if len(engine.turns) % 2 else "rst")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for _ in range(2):
            answer = await stream(client, messages=[{"role": "user", "content": content}])
            assert (answer.complete, answer.body) == (True, said)
        assert {record["outcome"] for record in gw.records} == {"ok"}


@and_tunnels
@pytest.mark.parametrize("content", ["short", "long " * 60_000])
async def test_one_that_ends_without_its_last_word_is_broken_off_once(way: Way, content: str) -> None:
    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a"))
        await asyncio.sleep(0.003)
        await turn.end()

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        answer = await stream(client, messages=[{"role": "user", "content": content}])
        broken(answer)
        assert answer.body.count(b'"error"') == 1
        assert [record["outcome"] for record in gw.records] == ["truncated"]


@all_ways
async def test_F5_in_the_shape_of_its_endpoint(way: Way) -> None:
    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(b'event: content_block_start\ndata: {"type":"content_block_start"}\n\n')
        await asyncio.sleep(0.003)
        await turn.breaks("fin")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        answer = await stream(client, path="/v1/messages", max_tokens=5)
        assert not answer.complete
        assert b"event: error\ndata: " in answer.body
        assert set(msgspec.json.decode(answer.events()[-1])["error"]) == {"type", "message"}


@and_tunnels
async def test_F7_its_own_error_event_passes_once_and_counts(way: Way) -> None:
    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a") + ERROR)
        if len(engine.turns) == 1:
            await turn.end()
        else:
            await asyncio.sleep(0.003)
            await turn.breaks("rst")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        answer = await stream(client)
        assert (answer.complete, answer.body) == (True, event("a") + ERROR)
        assert pool_engine(gw).failures_total == 1
        answer = await stream(client)
        assert (answer.complete, answer.body) == (False, event("a") + ERROR)
        assert [record["outcome"] for record in gw.records] == ["engine_error", "truncated"]


@all_ways
async def test_trailers_end_a_stream_and_a_plain_answer_as_well_as_any_end(way: Way) -> None:
    async def play(turn: Any) -> None:
        if len(engine.turns) % 2:
            await saying(event("a"), DONE, trailers=(b"x-sum: 1", b"x-more: 2"))(turn)
            return
        told = (b"content-length: 2", b"trailer: x-sum") if way.engine_protocol == "h2" else ()  # (HTTP/1 has chunks for that)
        await turn.head(b"content-type: application/json", *told)
        await turn.data(b"{}")
        await turn.end(b"x-sum: 1")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for _ in range(2):
            answer = await stream(client)
            assert (answer.complete, answer.body) == (True, event("a") + DONE)
            passed = way.client_protocol == "h2"  # (one of HTTP/1.1 would have to say that it takes any)
            assert answer.trailers == ([("x-sum", "1"), ("x-more", "2")] if passed else [])
            answer = await client.asks(say())
            assert (answer.complete, answer.body) == (True, b"{}")
            assert answer.trailers == ([("x-sum", "1")] if passed else [])
        assert {record["outcome"] for record in gw.records} == {"ok"}
        assert len({turn.connection for turn in engine.turns}) == 1, "the connection is kept"


@all_ways
async def test_each_event_is_there_while_the_next_is_still_unsaid(way: Way) -> None:
    heard = asyncio.Event()

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        for number in range(20):
            await turn.data(event(f"w{number}"))
            await asyncio.wait_for(heard.wait(), 5.0)
            heard.clear()
        await turn.data(DONE)
        await turn.end()

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        call = await client.says(say(stream=True))
        for number in range(20):
            answer = await call.until(event(f"w{number}"))
            assert answer.how_ended == "open"
            heard.set()
        assert (await call.whole()).complete


@all_ways
async def test_the_head_of_a_stream_goes_down_with_its_first_event(way: Way) -> None:
    """Nothing is there before it; so who dies, or begins with an error, is answered for with a status. So is a plain answer
    that is one."""
    said = asyncio.Event()
    refused = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'

    async def play(turn: Any) -> None:
        if len(engine.turns) > 3:
            await turn.head(b"content-type: application/json")
            await turn.data(refused)
            await turn.end()
            return
        await turn.head(SSE)
        await turn.data(b": ping\n\n")
        await asyncio.sleep(0.05)
        said.set()
        if engine.turns.index(turn) == 0:
            await turn.data(event("w") + DONE)
            await turn.end()
        elif engine.turns.index(turn) == 1:
            await turn.data(ERROR)
            await turn.end()
        else:
            await turn.breaks("reset")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        call = await client.says(say(stream=True))
        await call.head()
        assert said.is_set(), "a head without an event"
        assert (await call.whole()).body == b": ping\n\n" + event("w") + DONE
        for status, body in ((500, b"EngineCore encountered an issue."), (502, b"bad_gateway")):
            answer = await client.asks(say(stream=True))
            assert (answer.status, answer.complete, body in answer.body) == (status, True, True)
        answer = await client.asks(say())
        assert (answer.status, answer.complete, answer.body) == (400, True, refused)
        assert [record["status"] for record in gw.records] == [200, 500, 502, 400]
        assert pool_engine(gw).failures_total == 2


@all_ways
@pytest.mark.parametrize("asked", [None, False, True])
async def test_usage_is_asked_for_and_taken_out_unless_the_client_asked(asked: bool | None, way: Way) -> None:
    fields = {} if asked is None else {"stream_options": {"include_usage": asked}}
    async with (
        way.engine(saying(event("a"), event("b"), usage_event(), DONE)) as engine,
        way.gateway(engine.url) as gw,
        way.client(gw) as client,
    ):
        answer = await stream(client, **fields)
        assert answer.body == event("a") + event("b") + (usage_event() if asked else b"") + DONE
        assert msgspec.json.decode(engine.turns[0].request.body)["stream_options"] == {"include_usage": True}
        assert (gw.records[0]["prompt_tokens"], gw.records[0]["completion_tokens"]) == (11, 4)


PIECE = event("y" * 8000)
HELD_BYTES = 12_000_000
"""More than all buffers between an engine and a client that does not read take; most of it is the kernel's, at HTTP/1.1."""
HELD_H2_BYTES = 400_000
"""Between two connections of HTTP/2 there is credit alone: the client's 64 KiB, then what a stream of an engine's may have."""


async def stands_still(count: Any, quiet_s: float = 0.1) -> int:
    """What it says once it has not changed for so long."""
    loop = asyncio.get_running_loop()
    last, since = -1, loop.time()
    while loop.time() - since < quiet_s:
        if count() != last:
            last, since = count(), loop.time()
        await asyncio.sleep(0.01)
    return last


@pytest.mark.together
@all_ways
async def test_a_client_that_does_not_read_holds_its_engine_and_is_given_up(way: Way) -> None:
    async def floods(turn: Any) -> None:
        await turn.head(SSE)
        for _ in range(3000):
            await turn.data(PIECE)
        await turn.end()

    limits = {"write_timeout_s": 0.6, "between_bytes_timeout_s": 0.3}
    async with way.engine(floods) as engine, way.gateway(engine.url, **limits) as gw, way.client(gw, slow=True) as client:
        call = await client.says(say(stream=True))
        await call.head()
        await gw.until("the stream flows", lambda: engine.turns and engine.turns[0].sent_bytes > 60_000)
        sent = await stands_still(lambda: engine.turns[0].sent_bytes)
        most = HELD_H2_BYTES if way.client_protocol == way.engine_protocol == "h2" else HELD_BYTES
        assert sent < most, "the engine was not held back"
        await engine.turns[0].given_up()
        await gw.idle()
        assert gw.records[0]["outcome"] == "client_stalled", "its own silence, not the engine's"
        assert not (await call.whole()).complete


@pytest.mark.together
@plain_ways
async def test_K1_a_drain_lets_a_stream_end_and_cuts_one_that_does_not(way: Way) -> None:
    go_on = asyncio.Event()

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a"))
        if b"ends" in turn.request.body:
            await go_on.wait()
            await turn.data(event("b") + DONE)
            await turn.end()
        await turn.given_up()

    async with (
        way.engine(play) as engine,
        way.gateway(engine.url, drain_timeout_s=0.4) as gw,
        way.client(gw) as client,
        way.client(gw) as other,
    ):
        ends = await client.says(say(stream=True, content="it ends"))
        stays = await other.says(say(stream=True, content="it stays"))
        for call in (ends, stays):
            await call.until(event("a"))
        stopping = asyncio.create_task(gw.gateway.stop())
        await asyncio.sleep(0.02)
        go_on.set()
        answer = await ends.whole()
        assert (answer.complete, answer.body) == (True, event("a") + event("b") + DONE)
        answer = await stays.whole()
        assert not answer.complete
        assert answer.body.startswith(event("a"))
        assert answer.body.count(b'"error"') == 1
        await stopping
        assert sorted(record["outcome"] for record in gw.records) == ["draining", "ok"]


@plain_ways
async def test_who_waits_is_told_and_then_gets_a_stream_or_its_error(way: Way) -> None:
    async def play(turn: Any) -> None:
        await asyncio.sleep(0.25)
        if len(engine.turns) == 1:
            await saying(TEXT, DONE)(turn)
        else:
            await turn.head(b"content-type: application/json", status=400, length=len(ERROR) - 8)
            await turn.data(ERROR[6:-2])

    async with way.engine(play) as engine, way.gateway(engine.url, sse_heartbeat_s=0.1) as gw, way.client(gw) as client:
        for last in (TEXT + DONE, ERROR):
            answer = await stream(client)
            assert (answer.complete, answer.body.replace(b": waiting\n\n", b"")) == (True, last)
            assert answer.body.startswith(b": waiting\n\n")
        assert [record["outcome"] for record in gw.records] == ["ok", "engine_error"]
