"""The frames of a WebSocket as they pass: which messages end an answer, what they say, and nothing kept of all others."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Iterable
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocol.websocket import (
    LOOK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REASON_BYTES,
    UNSAID,
    Counts,
    Frames,
    close_frame,
    ends_answer,
)
from tests.protocol.splits import ways

USAGE = {
    "total_tokens": 17, "input_tokens": 10, "output_tokens": 7,
    "input_token_details": {"cached_tokens": 4}, "output_token_details": {"reasoning_tokens": 2},
}  # fmt: skip
COUNTS = (10, 7, 4, 2, -1)
SIZES = (0, 1, 125, 126, 65535, 65536)


def frame(opcode: int, payload: bytes, *, fin: bool = True, wide: int = 0) -> bytes:
    """A server's frame; ``wide``: with a longer form of its length than it needs (RFC 6455 forbids it, and some send it)."""
    size = len(payload)
    first = (0x80 if fin else 0) | opcode
    if size < 126 and wide < 1:
        return bytes((first, size)) + payload
    if size < 65536 and wide < 2:
        return struct.pack(">BBH", first, 126, size) + payload
    return struct.pack(">BBQ", first, 127, size) + payload


def event(kind: str = "response.done", usage: Any = USAGE, **beside: Any) -> bytes:
    within = {"usage": usage} if not kind.startswith("response.") else {"response": {"id": "r", **beside, "usage": usage}}
    return json.dumps({"type": kind, "event_id": "e", **within}).encode()


def read(pieces: Iterable[bytes]) -> tuple[list[tuple[int, Counts]], bool]:
    """What was said, each with where in all bytes; and whether the stream was lost."""
    frames = Frames()
    said = []
    before = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            at = frames.feed(piece, at)
            if frames.said is not None:
                said.append((before + at, frames.said))
        before += len(piece)
    return said, frames.lost


def fragmented(payload: bytes, size: int, between: bytes = b"") -> bytes:
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    last = len(pieces) - 1
    return between.join(frame(0 if at else 1, piece, fin=at == last) for at, piece in enumerate(pieces))


DONE = event()
AUDIO = json.dumps({"type": "response.audio.delta", "delta": "A" * 3000}).encode()
LAST = b'{"response":{"instructions":"%b","usage":%b},"sequence_number":9,"type":"response.completed"}' % (
    b"t" * MAX_MESSAGE_BYTES, json.dumps(USAGE).encode(),
)  # fmt: skip
SESSIONS = {
    "one": ([frame(1, DONE)], [COUNTS]),
    "between others": ([frame(1, AUDIO), frame(2, b"\0" * 70000), frame(1, DONE), frame(1, AUDIO)], [COUNTS]),
    "three": ([frame(1, DONE)] * 3, [COUNTS] * 3),
    "in fragments": ([fragmented(DONE, 11)], [COUNTS]),
    "in fragments of a byte": ([fragmented(DONE, 1)], [COUNTS]),
    "pings between fragments": ([fragmented(DONE, 50, frame(9, b"ping") + frame(10, b""))], [COUNTS]),
    "an empty last fragment": ([frame(1, DONE, fin=False), frame(0, b"")], [COUNTS]),
    "empty messages": ([frame(1, b""), frame(2, b""), frame(9, b""), frame(1, DONE)], [COUNTS]),
    "longer forms of length": ([frame(1, DONE, wide=1), frame(1, DONE, wide=2)], [COUNTS] * 2),
    "a close": ([frame(1, DONE), frame(8, b"\x03\xe8")], [COUNTS]),
    "as binary": ([frame(2, DONE)], []),
    "a long one": ([frame(1, event(output="t" * 70_000))], [COUNTS]),
    "one of any length": ([frame(1, event(output="t" * 300_000)), frame(1, DONE)], [COUNTS] * 2),
    "too long, and its type last": ([frame(1, LAST), frame(1, DONE)], [COUNTS] * 2),
    "too long, and its type last, which ends nothing": ([frame(1, LAST.replace(b"completed", b"created"))], []),
    "too long, and a type last in what is last in it": ([frame(1, b'{"x":' + LAST + b"}")], []),
    "too long, and its type behind what is long": ([frame(1, b'{"x":"' + b"t" * MAX_MESSAGE_BYTES + b'",' + DONE[1:])] * 2, []),
    "long and of no interest": ([frame(1, b'{"delta":"' + b"A" * 300_000 + b'"}'), frame(1, DONE)], [COUNTS]),
    "its type at its end": ([frame(1, b'{"event_id":"' + b"x" * 900 + b'",' + DONE[1:])], [COUNTS]),
    "a type within": ([frame(1, b'{"item":{"type":"message"},' + DONE[1:])], [COUNTS]),
    "a type as a text": ([frame(1, b'{"event_id":"type",' + DONE[1:])], [COUNTS]),
    "an escaped type": ([frame(1, DONE.replace(b"response.done", b"response\\u002edone"))], [COUNTS]),
    "blanks": ([frame(1, b' \r\n{ "type" : "response.done" , "response" : {"usage" : {"input_tokens": 3} } }')],
               [(3, -1, -1, -1, -1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SESSIONS)
def test_what_is_said_however_it_is_split(name: str) -> None:
    parts, counts = SESSIONS[name]
    whole = b"".join(parts)
    said, lost = read([whole])
    assert [one for _, one in said] == counts
    assert not lost
    for pieces in ways(whole, 16):
        assert read(pieces) == (said, False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [1, 2])
def test_frames_of_every_length_are_passed_over(size: int, opcode: int) -> None:
    payload = (b"x" * size) if opcode == 2 else (b'{"delta":"' + b"A" * size)[:size]
    data = frame(opcode, payload)
    whole = data + frame(1, DONE) + data
    assert read([whole]) == ([(len(whole) - len(data), COUNTS)], False)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xc1\x05hello",  # compressed, which nobody agreed on
        b"\x81\x85\0\0\0\0hello",  # masked, as only clients do
        frame(3, b""), frame(11, b""),
        frame(0, b"the rest of nothing"),
        frame(1, b"a", fin=False) + frame(1, b"b"),
        frame(9, b"p" * 126),
        frame(9, b"", fin=False),
        struct.pack(">BBQ", 0x81, 127, 1 << 63),
        b"HTTP/1.1 500 no",
    ],
)  # fmt: skip
def test_what_is_no_frame_is_not_read_on(bad: bytes) -> None:
    """It passes; a client's own reader judges it."""
    whole = frame(1, DONE) + bad + frame(1, DONE) * 2
    assert read([whole]) == ([(len(frame(1, DONE)), COUNTS)], True)
    assert read(whole[at : at + 1] for at in range(len(whole))) == ([(len(frame(1, DONE)), COUNTS)], True)


SAID: list[tuple[bytes, Counts | None]] = [
    (DONE, COUNTS),
    (event("response.completed"), COUNTS),
    (event("response.incomplete"), COUNTS),
    (event("response.failed"), COUNTS),
    (event("response.done", None), UNSAID),
    (event("response.done", {}), UNSAID),
    (event("response.done", [1]), UNSAID),
    (event("response.done", {"input_tokens": 5}), (5, -1, -1, -1, -1)),
    (event("response.done", {"total_tokens": 5}), (5, 0, -1, -1, -1)),
    (event("response.done", {"total_tokens": 5, "input_tokens": 3}), (3, 2, -1, -1, -1)),
    (event("response.done", {"input_tokens": 16.0, "output_tokens": 0}), (16, 0, -1, -1, -1)),
    (event("response.done", {"input_tokens": -1, "output_tokens": 10**12}), UNSAID),
    (event("response.done", {"input_tokens": 1.5, "output_tokens": True}), UNSAID),
    (event("response.done", {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}}), (1, -1, 1, -1, -1)),
    (event("transcription.done", {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}), (5, 6, -1, -1, -1)),
    (event("conversation.item.input_audio_transcription.completed"), COUNTS),
    (b'{"type":"conversation.item.input_audio_transcription.completed","usage":{"type":"duration","seconds":8.5}}',
        (-1, -1, -1, -1, 9)),
    (b'{"type":"response.done"}', UNSAID),
    (b'{"type":"response.done","response":null}', UNSAID),
    (b'{"type":"response.done","response":[{"usage":{"input_tokens":1}}]}', UNSAID),
    (b'{"type":"response.done","response":{"output":[{"usage":{"input_tokens":9}}]}}', UNSAID),
    (event("response.created"), None),
    (event("response.in_progress"), None),
    (event("response.output_text.done"), None),
    (event("response.output_text.delta", delta='"type":"response.done","response":{"usage":{"input_tokens":9}}'), None),
    (b'{"delta":"{\\"type\\":\\"response.done\\"}"}', None),
    (b'{"a":{"type":"response.done","response":{"usage":{"input_tokens":9}}}}', None),
    (b'[{"type":"response.done"}]', None),
    (b'{"type":["response.done"]}', None),
    (b'{"type":"response.done"', UNSAID),
    (b'{"type":"error","type":"response.done"}', None),
    (b'"response.done"', None),
    (b"", None),
    (b"\xff\xfe", None),
    (b"[" * 100_000, None),
    (b'{"type":"response.done","response":' + b"[" * 100_000 + b"}", UNSAID),
]  # fmt: skip


@pytest.mark.parametrize(("message", "counts"), SAID)
def test_what_ends_an_answer(message: bytes, counts: Counts | None) -> None:
    assert ends_answer(message) == counts
    assert [one for _, one in read([frame(1, message)])[0]] == ([] if counts is None else [counts])


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    frame(1, DONE), frame(1, AUDIO[:200]), frame(9, b"p"), fragmented(DONE, 40, frame(10, b"")),
                    frame(1, DONE, wide=2),
                ]
            ),
            st.binary(max_size=300).map(lambda data: frame(2, data)),
            st.binary(max_size=12),
        ),
        max_size=6,
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)  # fmt: skip
def test_splits_change_nothing(parts: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(parts)
    pieces, at, turn = [], 0, 0
    while at < len(whole):
        pieces.append(whole[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    assert read(pieces) == read([whole])


def test_a_long_session_is_not_kept() -> None:
    """Whatever comes: the memory of one session is bounded."""
    frames = Frames()
    kinds = [
        frame(2, b"\0" * (1 << 20)),
        frame(1, b'{"type":"response.audio.delta","delta":"' + b"A" * (1 << 20)),
        frame(1, b'{"x":"' + b"A" * (1 << 22), fin=False),
        frame(0, b"A" * (1 << 22), fin=False),
    ]
    tracemalloc.start()
    for data in kinds:
        base, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for at in range(0, len(data), 4096):
            piece = data[at : at + 4096]
            frames.feed(piece, 0)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - base < 2.5 * MAX_MESSAGE_BYTES
    tracemalloc.stop()
    assert not frames.lost


@pytest.mark.parametrize("kind", ["binary", "small frames", "text", "no type", "fragments"])
def test_it_costs_what_its_bytes_cost(kind: str) -> None:
    def made(size: int) -> bytes:
        return {
            "binary": lambda: frame(2, b"\0" * size),
            "small frames": lambda: frame(2, b"\0") * (size // 3),
            "text": lambda: frame(1, b'{"type":"x.delta","delta":"' + b"A" * size),
            "no type": lambda: frame(1, b'{"x":"' + b"A" * size),
            "fragments": lambda: fragmented(b'{"x":"' + b"A" * (size // 3), 1),
        }[kind]()

    def cost(data: bytes) -> float:
        best = float("inf")
        for _ in range(5):
            begin = process_time()
            Frames().feed(data, 0)
            best = min(best, process_time() - begin)
        return best

    few, many = made(100_000), made(800_000)
    assert any(cost(many) <= 24 * cost(few) + 50e-6 for _ in range(6)), "three times as dear a byte"


def test_a_close_has_a_status_and_a_reason() -> None:
    assert close_frame(1008, "spent") == b"\x88\x07\x03\xf0spent"
    long = close_frame(1008, "x" * 500)
    assert len(long) == 2 + 2 + MAX_REASON_BYTES
    assert long[1] == 125
    assert read([long]) == ([], False)
    assert LOOK_BYTES < MAX_MESSAGE_BYTES
