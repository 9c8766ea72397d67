"""The chunked coding: the compiled scanner and the Python one step by step, and h11 and httptools over the whole."""

from __future__ import annotations

from typing import Any

import httptools

from fastgw.protocol.http1.reference import h11_verdict
from tests.fuzz.sides import native, python, some_ways

CHUNKS = "fastgw.accel.chunks"
NATIVE = native(CHUNKS)
PYTHON = python(CHUNKS)

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

PARTS = (
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"\r\n", b"A\r\n0123456789\r\n", b"5;a=b\r\nhello\r\n",
    b"0000000000000005\r\nhello\r\n",
    b'5;a="b c;"\r\nhello\r\n', b'5 ; a = "\\""\r\nhello\r\n', b'5;a="b\r\nhello\r\n', b'5; a ="b" ;c\r\nhello\r\n',
    b"7fffffffffffffff\r\n", b"8000000000000000\r\n", b"10000000000000005\r\n", b"X-A: 1\r\n", b"x-b:\t\xe9\r\n", b"\n", b"\r",
    b"5 \r\nhello\r\n", b"0x5\r\n", b"+5\r\n", b"5;\x00\r\n", b"4\r\n\r\n\r\n\r\n", b"2\r\nab\r\n3\r\ncde\r\n",
    b"12\r\ndata: {\"a\":\"bc\"}\n\n\r\n",
)  # fmt: skip


def seeds() -> list[bytes]:
    return [
        *PARTS, *(part + b"5\r\nhello\r\n0\r\n\r\nrest" for part in PARTS), b"5\r\nhello\r\n0\r\nX-A: 1\r\nHost: b\r\n\r\n",
        b"5;" + b"a" * 250 + b"\r\nhello\r\n0\r\n\r\n", b"0\r\nA: " + b"b" * 8200 + b"\r\n\r\n",
    ]  # fmt: skip


def words() -> list[bytes]:
    return [*PARTS, b"\r\n5\r\n", b";a", b'="', b'"', b"\\", b"ff", b"A: b\r\n"]


def check(data: bytes) -> None:
    told = None
    for pieces in some_ways(data):
        got = run(PYTHON, pieces)
        assert run(NATIVE, pieces) == got, (data, pieces)
        verdict = got[-1][0], b"".join(step[1] for step in got)
        told = verdict if told is None else told
        assert verdict == told, (data, pieces)
    steps = run(NATIVE, [data])
    if steps[-1][0] == "done":
        read_alike(data, b"".join(step[1] for step in steps), steps[-1][-1])


def run(twin: Any, pieces: list[bytes]) -> list[tuple[Any, ...]]:
    """What each step said, and the state that it left."""
    scanner = twin.ChunkScanner()
    found: list[tuple[Any, ...]] = []
    for piece in pieces:
        try:
            payload = scanner.feed(piece)
        except twin.FramingError as error:
            return [*found, ("bad", error.payload, str(error))]
        word = "done" if scanner.done else "more"
        found.append((word, payload, scanner.aligned, scanner.whole, list(scanner.trailers), scanner.lines, scanner.rest))
    return found or [("more", b"", False, True, [], b"")]


class _Framing:
    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended = True


def read_alike(data: bytes, payload: bytes, rest: bytes) -> None:
    """A body that is accepted ends at the same byte, and says the same, for httptools and h11."""
    theirs = h11_verdict(HEAD + data)
    if theirs.ok:
        assert (theirs.complete, theirs.body, theirs.rest) == (True, payload, rest), (data, theirs)
    framing = _Framing()
    reader = httptools.HttpRequestParser(framing)
    try:
        reader.feed_data(HEAD + data[: len(data) - len(rest)])
    except httptools.HttpParserError:
        return
    assert (framing.ended, framing.body) == (True, payload), (data, "httptools frames it differently")
