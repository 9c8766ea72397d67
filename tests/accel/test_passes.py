"""The short way of a read: what may go on as it stands is said before a payload is cut out, and counted then."""

from __future__ import annotations

import json

import pytest

from fastgw.accel.chunks import ChunkScanner
from fastgw.accel.sse import SseScanner, passes


def event(text: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice], **more}, separators=(",", ":")).encode() + b"\n\n"


def framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def full_way(chunks: ChunkScanner, sse: SseScanner, read: bytes) -> None:
    payload = chunks.feed(read)
    assert sse.feed(payload) is payload


def test_plain_events_go_on_and_are_counted() -> None:
    chunks, sse = ChunkScanner(), SseScanner(True)
    for text in ("Hel", "lo"):
        read = framed(event(text))
        if not passes(chunks, sse, read):  # the first ones may be learnt from
            full_way(chunks, sse, read)
    for text in (" w\u00f6rld", "!", "", "a longer piece of text", '"', "\\", "x" * 300):
        chunks.aligned = False
        read = framed(event(text))
        if text and text not in '"\\':
            assert passes(chunks, sse, read), text
            assert chunks.aligned
        elif not passes(chunks, sse, read):
            full_way(chunks, sse, read)
    assert (sse.events, sse.tokens, sse.first_token_seen, sse.mid_event) == (9, 7 + 300 // 4, True, False)


def test_events_whose_surroundings_change_are_counted_too() -> None:
    chunks, sse = ChunkScanner(), SseScanner(True)
    for i in range(40):
        read = framed(event("x", created=i, logprobs={"y": i}))
        if not passes(chunks, sse, read):
            full_way(chunks, sse, read)
    assert (sse.events, sse.tokens) == (40, 40)


def test_without_a_watcher_every_payload_may_pass() -> None:
    chunks = ChunkScanner()
    assert passes(chunks, None, framed(b"\x00\xff any bytes"))
    assert chunks.aligned
    assert passes(chunks, None, b"A\r\n0123456789\r\n")
    assert not passes(chunks, None, b"5\r\nhell")
    assert not passes(chunks, None, b"5\r\nhello\r\n0\r\n\r\n")
    assert not passes(chunks, None, b"0\r\n\r\n")
    assert not passes(chunks, None, b"")
    assert not passes(chunks, None, b"5\r\nhello!\n")
    assert chunks.whole


def known(strip: bool) -> tuple[ChunkScanner, SseScanner]:
    chunks, sse = ChunkScanner(), SseScanner(strip)
    for _ in range(12):
        full_way(chunks, sse, framed(event("a")))
    return chunks, sse


@pytest.mark.parametrize(
    "payload",
    [
        event("x")[:-1],
        b"data: {",
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
        b'data: {"us\\u0061ge":{"prompt_tokens":1},"choices":[]}\n\n',
        event("x") + b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n' + event("y"),
    ],
)
def test_what_must_be_held_or_taken_out_takes_the_full_way(payload: bytes) -> None:
    chunks, sse = known(True)
    assert not passes(chunks, sse, framed(payload))
    assert (sse.events, sse.tokens, sse.error, sse.finish_reason, sse.prompt_tokens) == (12, 12, False, None, -1)
    out = sse.feed(chunks.feed(framed(payload)))
    assert sse.mid_event or (out != payload and sse.prompt_tokens == 1)


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (event("x", usage={"prompt_tokens": 5, "completion_tokens": 6}), (13, False, False, None, 5, 6)),
        (b'data: {"error":{"message":"boom"}}\n\n', (12, False, True, None, -1, -1)),
        (b'event: error\ndata: {"message":"boom"}\n\n', (12, False, True, None, -1, -1)),
        (event("x").replace(b"null", b'"stop"'), (13, False, False, b"stop", -1, -1)),
        (event(None).replace(b'_reason":null', b'_reason":"one of its own"'), (12, False, False, b"one of its own", -1, -1)),
        (event("x", timings={"prompt_n": 4, "predicted_n": 1}), (13, False, False, None, 4, 1)),
        (b'data: {"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n',
         (12, False, False, None, 3, 1)),
        (b"data: [DONE]\n\n", (12, True, False, None, -1, -1)),
        (b"data: [DONE] \n\n", (12, True, False, None, -1, -1)),
        (b'data: [DONE] "by now"\n\n', (12, True, False, None, -1, -1)),
    ],
)  # fmt: skip
def test_what_says_more_than_text_is_counted_whichever_way_it_takes(
    payload: bytes, said: tuple[object, ...], strip: bool
) -> None:
    for read in (framed(payload), framed(event("")) + framed(payload)):
        chunks, sse = known(strip)
        before = sse.events
        if not passes(chunks, sse, read):
            # (An answer's last chunk is held.)
            assert (sse.feed(chunks.feed(read)) + sse.release()).endswith(payload)
        assert sse.events == before + read.count(b"data: ")
        assert said == (sse.tokens, sse.done, sse.error, sse.finish_reason, sse.prompt_tokens, sse.completion_tokens)
        assert not sse.mid_event


def test_no_read_passes_in_the_middle_of_a_chunk_or_of_an_event() -> None:
    read = framed(event("a"))
    chunks, sse = ChunkScanner(), SseScanner(False)
    for _ in range(12):
        full_way(chunks, sse, read)
    assert passes(chunks, sse, read)
    chunks.feed(b"5\r")
    assert not passes(chunks, sse, read)
    chunks.feed(b"\nhello\r\n")
    sse.feed(b'data: {"a')
    assert not passes(chunks, sse, read)
    chunks.feed(b"0\r\n\r\n")
    assert not passes(chunks, None, read)


def test_nothing_else_passes_for_the_beginning_of_a_chunk() -> None:
    for total in range(3, 400):
        for first in (b"\x00", b"\r", b" ", b";"):
            assert not passes(ChunkScanner(), None, first * (total - 2) + b"\r\n")
