"""Request heads, completely: httptools reads the bytes, and every check that it does not make is made here.

Invariant: a head that this module accepts has one meaning to every server behind us. What is ambiguous is refused, not
repaired. The verdict never depends on how the bytes were split, so each check is tied to the position in the stream at
which it becomes decidable.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import httptools

from fastgw.accel.fields import (
    API_KEY,
    BEARER,
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    KEEP,
    LENGTH,
    MAX_LENGTH,
    NOTED,
    OWN,
    TRACE,
    UPGRADE,
    bearer,
    request_field,
    valid_host,
    valid_trace,
    visible,
)
from fastgw.accel.heads import RequestHead, RequestScanner, scan_request
from fastgw.errors import GatewayError
from fastgw.protocol.headers import is_framing_twin, is_owned_twin
from fastgw.protocol.http1.opinion import dissent

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))
MAX_METHOD_BYTES: Final = 24

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)").fullmatch
_TARGET: Final = re.compile(rb"[!\"$-\[\]-~]+").fullmatch
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?").fullmatch
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
# What no head can hold, wherever it stands: a bare CR, a bare LF, a control character.
_IMPOSSIBLE: Final = re.compile(rb"\r[^\n]|(?:^|[^\r])\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_METHOD_PREFIX: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,24}(?: |$)").match


def _bad(message: str) -> NoReturn:
    raise GatewayError("bad_request", message)


def _agree(head: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    reason = dissent(httptools.HttpRequestParser, head, fields)
    if reason:
        raise GatewayError("bad_request", "The request head is ambiguous.", detail=reason)


def _request_line(line: bytes) -> tuple[bytes, bytes, int, bytes | None]:
    """Method, target in origin form, minor version, and the host of an absolute target."""
    parts = line.split(b" ")
    if len(parts) != 3:
        _bad("The request line is malformed.")
    method, target, version = parts
    if not _TOKEN(method):
        _bad("The method is malformed.")
    match = _VERSION(version)
    if match is None:
        _bad("The HTTP version is malformed.")
    if match[1] != b"1" or match[2] not in (b"0", b"1"):
        raise GatewayError("version_not_supported")
    minor = int(match[2])
    if method == b"CONNECT":
        raise GatewayError("method_not_allowed", "CONNECT is not offered.")
    if method not in METHODS:
        raise GatewayError("not_implemented", "This method is not known.")
    if not _TARGET(target):
        _bad("The request target is malformed.")
    if target[0] == 0x2F:
        return method, target, minor, None
    if target == b"*":
        if method != b"OPTIONS":
            _bad("Only OPTIONS takes the target *.")
        return method, target, minor, None
    absolute = _ABSOLUTE(target)
    if absolute is None or not valid_host(absolute[1]):
        _bad("The request target is malformed.")
    rest = absolute[2] or b""
    if not rest and method == b"OPTIONS":
        rest = b"*"
    elif rest[:1] != b"/":
        rest = b"/" + rest
    return method, rest, minor, absolute[1]


def parse_request(head: bytes, max_fields: int = 100) -> RequestHead:
    """The request whose head, without the final empty line, is ``head``.

    :raises GatewayError: ``bad_request``, ``not_implemented`` (a transfer coding or method that is not ours),
        ``version_not_supported``, ``method_not_allowed`` (CONNECT), ``head_too_large`` (more than ``max_fields``).
    """
    first, *lines = head.split(b"\r\n")
    if len(lines) > max_fields:
        raise GatewayError("head_too_large", "The request has too many header fields.")
    method, target, minor, authority = _request_line(first)
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        match = _FIELD(line)
        if match is None:
            _bad("A header field is malformed.")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    _agree(head, fields)

    single: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    codings: list[bytes] = []
    options: list[bytes] = []
    expectations: list[bytes] = []
    keys: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        kind = request_field(name)
        if kind in (HOST, LENGTH, CONTENT_TYPE):
            if name in single:
                _bad(f"The field {name.decode()} is repeated.")
            single[name] = value
        elif kind == CODING:
            codings.append(value)
        elif kind == CONNECTION:
            options.append(value)
        elif kind == EXPECT:
            expectations.append(value)
        elif kind in (BEARER, API_KEY):
            keys.setdefault(name, []).append(value)
        elif kind in (OWN, NOTED, UPGRADE):
            # Two request ids are nobody's: an empty one is invalid, and ours takes its place.
            own[name] = value if name not in own else b"" if name == b"x-request-id" else own[name] + b", " + value
        elif b"_" in name and is_framing_twin(name):
            _bad("A header field imitates one that frames the message.")

    length = _content_length(single.get(b"content-length"))
    chunked = _coding(codings, minor)
    if chunked and length >= 0:
        _bad("Content-Length and Transfer-Encoding together are ambiguous.")
    host = single.get(b"host")
    if host is None:
        if minor:
            _bad("The request has no Host.")
        host = b""
    elif not valid_host(host):
        _bad("The Host is malformed.")
    if authority is not None:
        host = authority
    content_type = single.get(b"content-type")
    if content_type == b"":
        content_type = None

    nominated = {option.strip(b" \t").lower() for value in options for option in value.split(b",")} - {b""}
    if nominated - {b"close", b"keep-alive"}:
        own[b"connection"] = b", ".join(options)
    if own.get(b"upgrade", b"").lower() == b"websocket" and (length > 0 or chunked):
        _bad("An upgrade cannot carry a body.")
    traces = [value for name, value in fields if name == b"traceparent"]
    unsent = nominated if len(traces) == 1 and valid_trace(traces[0]) else nominated | {b"traceparent"}
    path, _, query = target.partition(b"?")
    return RequestHead(
        method=method, target=target, path=path, query=query, minor=minor, host=host,
        forward=_forward(lines, fields, unsent), content_length=length, chunked=chunked,
        keep_alive=b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated),
        expect=_expectation(expectations, minor), credential=_credential(keys),
        content_type=content_type, own=own or None,
    )  # fmt: skip


def _content_length(value: bytes | None) -> int:
    if value is None:
        return -1
    if not value.isdigit() or len(value) > 19 or int(value) > MAX_LENGTH:
        _bad("The Content-Length is malformed.")
    return int(value)


def _coding(codings: list[bytes], minor: int) -> bool:
    if not codings:
        return False
    if not minor:
        _bad("Transfer-Encoding does not exist in HTTP/1.0.")
    if len(codings) > 1:
        _bad("The field transfer-encoding is repeated.")
    coding = codings[0].lower()
    if coding == b"chunked":
        return True
    if coding in (b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"br", b"zstd"):
        raise GatewayError("not_implemented", "This transfer coding is not offered.")
    _bad("The Transfer-Encoding is malformed.")


def _expectation(expectations: list[bytes], minor: int) -> int:
    if not expectations or not minor:
        return 0
    return 1 if len(expectations) == 1 and expectations[0].lower() == b"100-continue" else 2


def _credential(keys: dict[bytes, list[bytes]]) -> bytes | None:
    """The client's credential; a repeated field is two claims, so it is none."""
    token = None
    values = keys.get(b"authorization", [])
    if len(values) == 1:
        token = bearer(values[0])
    values = keys.get(b"x-api-key", [])
    if token is None and len(values) == 1:
        token = visible(values[0])
    return token


def _forward(lines: list[bytes], fields: list[tuple[bytes, bytes]], unsent: set[bytes]) -> bytes:
    out = []
    for line, (name, _) in zip(lines, fields, strict=True):
        kind = request_field(name)
        if kind not in (KEEP, NOTED, CONTENT_TYPE, TRACE) or name in unsent:
            continue
        if b"_" in name and is_owned_twin(name):
            continue
        out.append(line + b"\r\n")
    return b"".join(out)


class RequestReader:
    """Collects a request head from whatever pieces it comes in, and judges it. One per connection, used again and again.

    After a head was returned, ``rest`` holds the bytes that followed it, and the reader is ready for the next request.
    The head returned last is returned again, with another length, when the same bytes come again: whoever needs it longer
    than its own request copies it.
    After an error it is of no further use: nothing says where the next message would begin.
    """

    __slots__ = (
        "_buffer", "_checked", "_empty_lines", "_max_fields", "_max_head_bytes", "_scanner", "rest",
    )  # fmt: skip

    def __init__(self, max_head_bytes: int = 32768, max_fields: int = 100) -> None:
        self._scanner = RequestScanner(max_head_bytes, max_fields)
        self._max_head_bytes = max_head_bytes
        self._max_fields = max_fields
        self._buffer = bytearray()
        self._checked = 0
        self._empty_lines = 0
        self.rest = b""

    @property
    def partial(self) -> bool:
        """Whether some bytes of a head have arrived."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> RequestHead | None:
        """The head that ``data`` completes, or ``None``.

        :raises GatewayError: as :func:`parse_request`, and ``head_too_large``; as soon as it is certain.
        """
        if not self._buffer:
            scanner = self._scanner
            head = scanner.read(data)
            if head is not None:
                self.rest = data[scanner.end :]
                self._empty_lines = 0
                return head
        return self._collect(data)

    def _collect(self, data: bytes) -> RequestHead | None:
        buffer = self._buffer
        self.rest = b""
        pos = self._skip_empty_lines(data)
        if pos == len(data):
            return None
        room = self._max_head_bytes - len(buffer)
        buffer += data[pos : pos + room]
        end = buffer.find(b"\r\n\r\n", max(0, self._checked - 3))
        self._reject_early(end + 4 if end >= 0 else len(buffer))
        if end < 0:
            if len(buffer) >= self._max_head_bytes:
                raise GatewayError("head_too_large")
            return None
        head = bytes(buffer[:end])
        self.rest = bytes(buffer[end + 4 :]) + data[pos + room :]
        buffer.clear()
        self._checked = 0
        self._empty_lines = 0
        return scan_request(head, -1, self._max_fields) or parse_request(head, self._max_fields)

    def _skip_empty_lines(self, data: bytes) -> int:
        """Where the head begins: a robust server skips an empty line before it (RFC 9112 §2.2); two are enough."""
        buffer = self._buffer
        pos = 0
        while self._empty_lines < 2 and len(buffer) < 2:
            start = bytes(buffer) + data[pos : pos + 2]
            if start[:2] == b"\r\n":
                pos += 2 - len(buffer)
                buffer.clear()
                self._empty_lines += 1
            elif start == b"\r":
                buffer += data[pos:]
                return len(data)
            else:
                break
        return pos

    def _reject_early(self, end: int) -> None:
        """Refuse what can never become a head, without waiting for its end."""
        buffer = self._buffer
        if self._checked <= MAX_METHOD_BYTES and not _METHOD_PREFIX(buffer):
            _bad("This is not an HTTP request.")
        # One byte back: whether a CR or LF is bare shows only beside its neighbour.
        if _IMPOSSIBLE(buffer, max(0, self._checked - 1), end):
            _bad("The request head holds a bare CR or LF, or a control character.")
        self._checked = end
