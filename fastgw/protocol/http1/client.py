"""Response heads, completely: httptools reads the bytes, and every check that it does not make is made here.

An engine is not trusted to frame its messages: what is ambiguous becomes ``bad_gateway`` before one byte of it goes down.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import httptools

from fastgw.accel.fields import (
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    DATE,
    KEEP,
    KEEP_ALIVE,
    LENGTH,
    MAX_LENGTH,
    imitates_response_field,
    keep_alive_hints,
    media_flags,
    response_field,
    response_status,
)
from fastgw.accel.heads import ResponseHead, ResponseScanner, scan_response
from fastgw.errors import GatewayError, Source
from fastgw.protocol.http1.opinion import dissent

_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)").fullmatch
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch
_IMPOSSIBLE: Final = re.compile(rb"\r[^\n]|(?:^|[^\r])\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_PREFIX: Final = b"HTTP/1."


def _bad(detail: str) -> NoReturn:
    raise GatewayError("bad_gateway", source=Source.UPSTREAM, detail=detail, retryable=False)


def _agree(head: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    reason = dissent(httptools.HttpResponseParser, head, fields)
    if reason:
        _bad(f"the response head is ambiguous: {reason}")


def parse_response(head: bytes, max_fields: int = 200) -> ResponseHead:
    """The response whose head, without the final empty line, is ``head``.

    :raises GatewayError: ``bad_gateway``, for everything that is malformed or can be read in two ways.
    """
    first, *lines = head.split(b"\r\n")
    if len(lines) > max_fields:
        _bad("too many response fields")
    start = _STATUS_LINE(first)
    if start is None:
        _bad("malformed status line")
    minor, status = int(start[1]), int(start[2])
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        match = _FIELD(line)
        if match is None:
            _bad("malformed response field")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    _agree(head, fields)

    single: dict[bytes, bytes] = {}
    options: list[bytes] = []
    hints: list[bytes] = []
    for name, value in fields:
        kind = response_field(name)
        if kind in (LENGTH, CODING, CONTENT_TYPE):
            if name in single:
                _bad(f"repeated field {name.decode()}")
            single[name] = value
        elif kind == CONNECTION:
            options.append(value)
        elif kind == KEEP_ALIVE:
            hints.append(value)
        elif b"_" in name and name.replace(b"_", b"-") in (b"content-length", b"transfer-encoding"):
            _bad("a response field imitates one that frames the message")

    length = -1
    raw = single.get(b"content-length")
    if raw is not None:
        if not raw.isdigit() or len(raw) > 19 or int(raw) > MAX_LENGTH:
            _bad("malformed content-length")
        length = int(raw)
    coding = single.get(b"transfer-encoding")
    if coding is not None:
        if not minor:
            _bad("transfer-encoding in HTTP/1.0")
        # llhttp takes no tab after a coding, and reads such a message to the connection's end: neither do we.
        names = [name for name, _ in fields]
        if lines[names.index(b"transfer-encoding")].endswith(b"\t") or coding.lower() != b"chunked":
            _bad("unknown transfer-encoding")
        if length >= 0:
            _bad("content-length and transfer-encoding together")
    nominated = {option.strip(b" \t").lower() for value in options for option in value.split(b",")} - {b""}
    sse, json = media_flags(single.get(b"content-type", b""))
    idle_s, most = keep_alive_hints(b",".join(hints))
    return ResponseHead(
        status=status, minor=minor, status_line=response_status(status, start[3] or b""),
        forward=_forward(lines, fields, nominated), content_length=length, chunked=coding is not None,
        keep_alive=b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated),
        sse=sse, json=json, has_date=any(name == b"date" for name, _ in fields) and b"date" not in nominated,
        idle_s=idle_s, max_requests=most,
    )  # fmt: skip


def _forward(lines: list[bytes], fields: list[tuple[bytes, bytes]], nominated: set[bytes]) -> bytes:
    out = []
    dated = False
    for line, (name, _) in zip(lines, fields, strict=True):
        kind = response_field(name)
        if kind not in (KEEP, CONTENT_TYPE, DATE) or name in nominated:
            continue
        if kind == DATE:
            if dated:
                continue
            dated = True
        if imitates_response_field(name):
            continue
        out.append(line + b"\r\n")
    return b"".join(out)


class ResponseReader:
    """Collects response heads from whatever pieces they come in. One per engine connection, used again and again.

    After a head was returned, ``rest`` holds the bytes that followed it. Interim (1xx) heads come out like any other.
    """

    __slots__ = ("_buffer", "_checked", "_max_fields", "_max_head_bytes", "_scanner", "rest")

    def __init__(self, max_head_bytes: int = 65536, max_fields: int = 200) -> None:
        self._scanner = ResponseScanner(max_head_bytes, max_fields)
        self._max_head_bytes = max_head_bytes
        self._max_fields = max_fields
        self._buffer = bytearray()
        self._checked = 0
        self.rest = b""

    @property
    def partial(self) -> bool:
        """Whether some bytes of a head have arrived."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> ResponseHead | None:
        """The head that ``data`` completes, or ``None``.

        :raises GatewayError: ``bad_gateway``, as soon as it is certain.
        """
        if not self._buffer:
            scanner = self._scanner
            head = scanner.read(data)
            if head is not None:
                self.rest = data[scanner.end :]
                return head
        return self._collect(data)

    def _collect(self, data: bytes) -> ResponseHead | None:
        buffer = self._buffer
        self.rest = b""
        room = self._max_head_bytes - len(buffer)
        buffer += data[:room]
        end = buffer.find(b"\r\n\r\n", max(0, self._checked - 3))
        stop = end + 4 if end >= 0 else len(buffer)
        if self._checked < len(_PREFIX) and buffer[: len(_PREFIX)] != _PREFIX[: len(buffer)]:
            _bad("the engine does not speak HTTP/1")
        if _IMPOSSIBLE(buffer, max(0, self._checked - 1), stop):
            _bad("bare CR or LF or a control character in the response head")
        self._checked = stop
        if end < 0:
            if len(buffer) >= self._max_head_bytes:
                _bad("the response head is too large")
            return None
        head = bytes(buffer[:end])
        self.rest = bytes(buffer[end + 4 :]) + data[room:]
        buffer.clear()
        self._checked = 0
        return scan_response(head, -1, self._max_fields) or parse_response(head, self._max_fields)
