"""One HTTP/1.1 answer, read strictly: its head judged line by line, its body taken from its framing byte by byte.

Owns: the parser of answers that the tests believe. It shares no code with fastgw, so it cannot share a mistake.
Must never: accept what RFC 9112 does not allow; that is a ``BadResponse``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["length", "terminal-chunk", "end-stream", "eof", "reset", "timeout", "open"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t \x21-\x7e\x80-\xff]*?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t \x21-\x7e]*)?)")


class BadResponse(AssertionError):
    """The bytes are not a well-formed HTTP/1.1 answer."""


class NoResponse(AssertionError):
    """The connection ended, or nothing came in time, before one whole head: ``how`` and the bytes ``received``."""

    def __init__(self, how: Ending, received: bytes) -> None:
        super().__init__(f"no answer ({how}); received {received[:200]!r}")
        self.how = how
        self.received = received


@dataclass(slots=True)
class RawResponse:
    """One answer. ``chunks`` are the chunks' data in order; ``how_ended`` is ``"open"`` while its body goes on."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    version: str = "HTTP/1.1"
    raw_head: bytes = b""
    interim: list[RawResponse] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False
    how_ended: Ending = "open"
    _left: int | None = None  # of the Content-Length, or of the chunk being read
    _mode: Literal["length", "chunked", "eof"] = "length"
    _body: bytearray = field(default_factory=bytearray)
    _raw: bytearray = field(default_factory=bytearray)

    @property
    def body(self) -> bytes:
        """What came so far, without chunk framing."""
        return bytes(self._body)

    @property
    def raw_body(self) -> bytes:
        """What came so far, as on the wire."""
        return bytes(self._raw)

    def header_all(self, name: str) -> list[str]:
        """All values of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of a header that comes at most once."""
        values = self.header_all(name)
        if len(values) > 1:
            raise BadResponse(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The ``error`` object of an OpenAI-shaped refusal."""
        found = self.json()["error"]
        assert isinstance(found, dict), found
        return found

    def events(self) -> list[str]:
        """The ``data`` of each whole SSE event of the body, in order (also what follows no ``[DONE]``)."""
        text = self.body.decode().replace("\r\n", "\n")
        whole = text.split("\n\n")[:-1]  # what has no blank line behind it is no event
        datas = ["\n".join(x[5:].removeprefix(" ") for x in one.split("\n") if x.startswith("data:")) for one in whole]
        return [data for data in datas if data]

    def feed(self, buffer: bytearray) -> bool:
        """Take from ``buffer`` what belongs to this body; true when the body ended by its own framing."""
        if self._mode == "chunked":
            return self._feed_chunks(buffer)
        take = len(buffer) if self._left is None else min(self._left, len(buffer))
        piece = bytes(buffer[:take])
        del buffer[:take]
        self._body += piece
        self._raw += piece
        if self._left is None:
            return False
        self._left -= take
        if self._left:
            return False
        self.complete = True
        self.how_ended = "length"
        return True

    def _feed_chunks(self, buffer: bytearray) -> bool:
        while True:
            if self._left:  # inside a chunk: its bytes are the body's as they come
                piece = bytes(buffer[: self._left])
                if not piece:
                    return False
                self.chunks[-1] += piece
                self._body += piece
                self._take(buffer, len(piece))
                self._left -= len(piece)
            elif self._left == 0:  # behind its data
                if not b"\r\n".startswith(buffer[:2]):
                    raise BadResponse(f"chunk data is followed by {bytes(buffer[:8])!r}")
                if len(buffer) < 2:
                    return False
                self._take(buffer, 2)
                self._left = None
            else:
                stop = buffer.find(b"\r\n")
                if stop < 0:
                    if len(buffer) > 4096 or b"\n" in buffer:
                        raise BadResponse(f"bad chunk line {bytes(buffer[:64])!r}")
                    return False
                line = _CHUNK_LINE.fullmatch(buffer[:stop])
                if line is None:
                    raise BadResponse(f"bad chunk line {bytes(buffer[:stop])[:64]!r}")
                size = int(line[1], 16)
                if size == 0:
                    return self._feed_trailers(buffer, stop + 2)
                self._take(buffer, stop + 2)
                self.chunks.append(b"")
                self._left = size

    def _feed_trailers(self, buffer: bytearray, start: int) -> bool:
        at = start
        trailers: list[tuple[str, str]] = []
        while (stop := buffer.find(b"\r\n", at)) >= 0:
            if stop == at:
                self._take(buffer, stop + 2)
                self.trailers = trailers
                self.complete = True
                self.how_ended = "terminal-chunk"
                return True
            trailers.append(_field(bytes(buffer[at:stop])))
            at = stop + 2
        return False

    def _take(self, buffer: bytearray, size: int) -> None:
        self._raw += buffer[:size]
        del buffer[:size]


def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadResponse(f"bad header line {line[:120]!r}")
    return match[1].decode("ascii"), match[2].decode("latin-1")


def parse_head(head: bytes, *, head_only: bool = False) -> RawResponse:
    """One head, up to and with its blank line, judged by RFC 9112 §4, §5, §6."""
    first, *lines = head[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadResponse(f"bad status line {first[:120]!r}")
    status = int(match[2])
    headers = [_field(line) for line in lines]
    version = f"HTTP/1.{match[1].decode()}"
    response = RawResponse(status, match[3].decode("latin-1"), headers, version, head)
    lengths = response.header_all("content-length")
    codings = response.header_all("transfer-encoding")
    if lengths and codings:
        raise BadResponse("Content-Length with Transfer-Encoding")
    if len(lengths) > 1 or (lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0])):
        raise BadResponse(f"bad Content-Length {lengths}")
    if codings and (codings[0].lower() != "chunked" or len(codings) > 1 or version == "HTTP/1.0"):
        raise BadResponse(f"bad Transfer-Encoding {codings} on {version}")
    if (status < 200 or status == 204) and (lengths or codings):
        raise BadResponse(f"{status} with the framing of a body")  # RFC 9110 §8.6, RFC 9112 §6.1
    if head_only or status < 200 or status in {204, 304}:
        response._left = 0
        response.complete = True
        response.how_ended = "length"
    elif codings:
        response._mode = "chunked"
    elif lengths:
        response._left = int(lengths[0])
    else:
        response._mode = "eof"
    return response
