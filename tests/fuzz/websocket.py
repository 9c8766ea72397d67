"""A WebSocket's frames: the compiled reader and the Python one, however they are split, and a model that reads them whole."""

from __future__ import annotations

import struct
from typing import Any

from tests.fuzz.sides import native, python, some_ways

MODULE = "fastgw.protocol.websocket"
NATIVE = native(MODULE)
PYTHON = python(MODULE)

DONE = b'{"type":"response.done","response":{"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}}'
MESSAGES = (
    DONE,
    b'{"type":"response.audio.delta","delta":"AAAA"}',
    b'{"event_id":"e","type":"response.done","response":{"usage":null}}',
    b'{"item":{"type":"message"},"type":"response.done","response":{"usage":{"total_tokens":9}}}',
    b'{"type":"transcription.done","usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":1}}}',
    b'{"type":"response\\u002edone","response":{"usage":{"input_tokens":1e3}}}',
    b'{"type" : "response.completed" , "response":{"usage":{"input_tokens":16.0}}}',
    b'{"a":"type","b":1}',
    b"no JSON",
    b"",
)


def frame(opcode: int, payload: bytes, *, fin: bool = True, wide: int = 0) -> bytes:
    first, size = (0x80 if fin else 0) | opcode, len(payload)
    if size < 126 and not wide:
        return bytes((first, size)) + payload
    return struct.pack(">BBH" if wide < 2 else ">BBQ", first, 126 if wide < 2 else 127, size) + payload


def seeds() -> list[bytes]:
    whole = [frame(1, message) for message in MESSAGES]
    parts = frame(1, DONE[:20], fin=False), frame(0, DONE[20:50], fin=False), frame(0, DONE[50:])
    return [
        *whole, *(frame(1, message, wide=2) for message in MESSAGES), b"".join(whole), *(frame(2, one) for one in MESSAGES[:3]),
        b"".join((parts[0], frame(9, b"ping"), parts[1], frame(10, b""), parts[2])),
        frame(1, DONE, fin=False) + frame(0, b"") + whole[0],
        frame(0, DONE) + whole[0],
        whole[0] + b"\xc1\x05hello" + whole[0],
        b"\x81\x85\0\0\0\0hello",
        frame(3, DONE),
        frame(9, b"x" * 126, wide=1),
        b"\x81\x7f" + b"\xff" * 8,
        frame(8, b"\x03\xe8") + whole[0],
        frame(1, b'{"event_id":"' + b"e" * 300 + b'",' + DONE[1:], wide=1) + whole[0],
    ]  # fmt: skip


def words() -> list[bytes]:
    return [
        *(message for message in MESSAGES if message), frame(1, DONE), b"\x81", b"\x01", b"\x80", b"\x00", b"\x89\x00",
        b"\x82\x7e\x01\x00", b'"type":"response.done"', b'"usage":{"input_tokens":', b'"total_tokens":',
    ]  # fmt: skip


def check(data: bytes) -> None:
    expected = model(data)
    for pieces in some_ways(data):
        for twin in (NATIVE, PYTHON):
            got = run(twin, pieces)
            assert got == expected, (twin.__file__, got, expected, pieces)


def run(twin: Any, pieces: list[bytes]) -> tuple[list[tuple[int, Any]], bool]:
    """What was said, each with where in all bytes; and whether what came is no frame."""
    frames = twin.Frames()
    said: list[tuple[int, Any]] = []
    before = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            end = frames.feed(piece, at)
            assert at < end <= len(piece)
            at = end
            if frames.said is not None:
                said.append((before + at, frames.said))
            else:
                assert at == len(piece)
        before += len(piece)
    return said, frames.lost


def model(data: bytes) -> tuple[list[tuple[int, Any]], bool]:
    """The same by RFC 6455 §5.2, with all bytes at hand."""
    said: list[tuple[int, Any]] = []
    at, begun, message = 0, 0, b""
    while len(data) - at >= 2:
        first, size = data[at], data[at + 1] & 0x7F
        more = {126: 2, 127: 8}.get(size, 0)
        if len(data) - at < 2 + more:
            break
        if more:
            size = int.from_bytes(data[at + 2 : at + 2 + more], "big")
        opcode = first & 15
        control = opcode >= 8
        if (
            first & 0x70
            or data[at + 1] & 0x80
            or size >= 1 << 63
            or opcode not in (0, 1, 2, 8, 9, 10)
            or (control and (size > 125 or not first & 0x80))
            or (not control and (opcode == 0) != bool(begun))
        ):
            return said, True
        at += 2 + more
        if len(data) - at < size:
            break
        payload = data[at : at + size]
        at += size
        if control:
            continue
        if opcode:
            begun, message = opcode, b""
        message += payload
        if first & 0x80:
            counts = PYTHON.ends_answer(message) if begun == 1 else None
            if counts is not None:
                said.append((at, counts))
            begun = 0
    return said, False
