"""A model of the complete path of heads: the plainest way that there is, with httptools' opinion of every head that it takes.

Owns: the second verdict that ``accel.judges`` is held to, whose every check stands here by itself. It takes its time. What
httptools refuses, or reads otherwise, is refused here, whoever of them is right.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, NoReturn

import httptools

from fastgw.accel.fields import (
    API_KEY,
    BEARER,
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    DATE,
    EXPECT,
    FRAMING,
    HOST,
    KEEP,
    KEEP_ALIVE,
    LENGTH,
    MAX_LENGTH,
    NOTED,
    OWN,
    TRACE,
    UPGRADE,
    bearer,
    keep_alive_hints,
    media_flags,
    request_field,
    response_field,
    response_status,
    valid_host,
    valid_trace,
    visible,
)
from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.errors import GatewayError, Source


class _Silent:
    """The callbacks of httptools that are wanted of a judge: the fields, and that the head ended."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.complete = False
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def dissent(parser: Any, head: bytes, fields: list[tuple[bytes, bytes]]) -> str:
    """Why ``parser`` (a parser class of httptools) does not find ``fields`` in ``head``; "" when it does.

    ``fields`` have lower-case names and values without blanks around them.
    """
    judge = _Silent()
    try:
        parser(judge).feed_data(head + b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return f"httptools: {type(error).__name__}"
    if not judge.complete or [(name.lower(), value.strip(b" \t")) for name, value in judge.fields] != fields:
        return "httptools reads other fields"
    return ""


def imitates_request_field(name: bytes) -> bool:
    """Whether ``name`` (lower case) would be another field, that is not simply kept, to a server that maps ``_`` to ``-``."""
    return b"_" in name and request_field(name.replace(b"_", b"-")) != KEEP


def imitates_response_field(name: bytes) -> bool:
    """The same of a response's field: neither a response's nor a request's other field may be meant."""
    return imitates_request_field(name) or (b"_" in name and response_field(name.replace(b"_", b"-")) != KEEP)


METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))
MAX_METHOD_BYTES: Final = 24

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)").fullmatch
_TARGET: Final = re.compile(rb"[!\"$-\[\]-~]+").fullmatch
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?").fullmatch
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch


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

    said = _sorted(fields)
    single, own, options = said.single, said.own, said.options
    length = _content_length(single.get(b"content-length"))
    chunked = _coding(said.codings, minor)
    if chunked and any(line.lower().startswith(b"transfer-encoding:") and line.rstrip(b" ").endswith(b"\t") for line in lines):
        _bad("llhttp takes no tab after a coding.")
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
    _agree(head, fields)
    return RequestHead(
        method=method, target=target, path=path, query=query, minor=minor, host=host,
        forward=_forward(lines, fields, unsent), content_length=length, chunked=chunked,
        keep_alive=b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated),
        expect=_expectation(said.expectations, minor), credential=_credential(said.keys),
        content_type=content_type, own=own or None,
    )  # fmt: skip


class _Said(NamedTuple):
    """What a request's fields say, by what becomes of them."""

    single: dict[bytes, bytes]
    own: dict[bytes, bytes]
    codings: list[bytes]
    options: list[bytes]
    expectations: list[bytes]
    keys: dict[bytes, list[bytes]]


def _sorted(fields: list[tuple[bytes, bytes]]) -> _Said:
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
        elif b"_" in name and name.replace(b"_", b"-") in FRAMING:
            _bad("A header field imitates one that frames the message.")
    return _Said(single, own, codings, options, expectations, keys)


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
    values = keys.get(b"x-api-key", []) + keys.get(b"api-key", [])
    if token is None and len(values) == 1:
        token = visible(values[0])
    return token


def _forward(lines: list[bytes], fields: list[tuple[bytes, bytes]], unsent: set[bytes]) -> bytes:
    out = []
    for line, (name, _) in zip(lines, fields, strict=True):
        kind = request_field(name)
        if kind not in (KEEP, NOTED, CONTENT_TYPE, TRACE) or name in unsent:
            continue
        if b"_" in name and imitates_request_field(name):
            continue
        out.append(line + b"\r\n")
    return b"".join(out)


_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch


def _bad_response(detail: str) -> NoReturn:
    raise GatewayError("bad_gateway", source=Source.UPSTREAM, detail=detail, retryable=False)


def _agree_on_response(head: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    reason = dissent(httptools.HttpResponseParser, head, fields)
    if reason:
        _bad_response(f"the response head is ambiguous: {reason}")


def parse_response(head: bytes, max_fields: int = 200) -> ResponseHead:
    """The response whose head, without the final empty line, is ``head``.

    :raises GatewayError: ``bad_gateway``, for everything that is malformed or can be read in two ways.
    """
    first, *lines = head.split(b"\r\n")
    if len(lines) > max_fields:
        _bad_response("too many response fields")
    start = _STATUS_LINE(first)
    if start is None:
        _bad_response("malformed status line")
    minor, status = int(start[1]), int(start[2])
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        match = _FIELD(line)
        if match is None:
            _bad_response("malformed response field")
        fields.append((match[1].lower(), match[2].strip(b" \t")))

    single: dict[bytes, bytes] = {}
    options: list[bytes] = []
    hints: list[bytes] = []
    for name, value in fields:
        kind = response_field(name)
        if kind in (LENGTH, CODING, CONTENT_TYPE):
            if name in single:
                _bad_response(f"repeated field {name.decode()}")
            single[name] = value
        elif kind == CONNECTION:
            options.append(value)
        elif kind == KEEP_ALIVE:
            hints.append(value)
        elif b"_" in name and name.replace(b"_", b"-") in (b"content-length", b"transfer-encoding"):
            _bad_response("a response field imitates one that frames the message")

    length = -1
    raw = single.get(b"content-length")
    if raw is not None:
        if not raw.isdigit() or len(raw) > 19 or int(raw) > MAX_LENGTH:
            _bad_response("malformed content-length")
        length = int(raw)
    coding = single.get(b"transfer-encoding")
    if coding is not None:
        if not minor:
            _bad_response("transfer-encoding in HTTP/1.0")
        # llhttp takes no tab after a coding, and reads such a message to the connection's end: neither do we.
        names = [name for name, _ in fields]
        if lines[names.index(b"transfer-encoding")].rstrip(b" ").endswith(b"\t") or coding.lower() != b"chunked":
            _bad_response("unknown transfer-encoding")
        if length >= 0:
            _bad_response("content-length and transfer-encoding together")
    nominated = {option.strip(b" \t").lower() for value in options for option in value.split(b",")} - {b""}
    upgrades = [value.lower() for name, value in fields if name == b"upgrade"]
    if status == 101 and (upgrades != [b"websocket"] or b"upgrade" not in nominated):
        _bad_response("an upgrade that nobody asked for")
    sse, json = media_flags(single.get(b"content-type", b""))
    idle_s, most = keep_alive_hints(b",".join(hints))
    _agree_on_response(head, fields)
    return ResponseHead(
        status=status, minor=minor, status_line=response_status(status, start[3] or b""),
        forward=_forward_of_response(lines, fields, nominated), content_length=length, chunked=coding is not None,
        keep_alive=b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated),
        sse=sse, json=json, has_date=any(name == b"date" for name, _ in fields) and b"date" not in nominated,
        idle_s=idle_s, max_requests=most,
    )  # fmt: skip


def _forward_of_response(lines: list[bytes], fields: list[tuple[bytes, bytes]], nominated: set[bytes]) -> bytes:
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
