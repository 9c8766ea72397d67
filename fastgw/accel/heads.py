"""The one-pass scanner of HTTP/1.1 heads, for the heads that nearly everybody sends.

It understands a strict subset and answers ``None`` for everything else; the caller then takes the complete path
(:mod:`fastgw.protocol.http1`). It never raises, never refuses and never repairs. The invariant: whenever it returns a
head, the complete path returns an equal one.

It is quick because the same lines come again and again: a line that was classified once is found by one dictionary
look-up. Lines that may carry a secret, or that differ in each request, are never remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

# What becomes of a field. KEEP is falsy so that the common case is one truth test.
KEEP: Final = 0
DROP: Final = 1  # hop-by-hop, or the gateway's own business: not forwarded, not interesting
LENGTH: Final = 2
HOST: Final = 3
BEARER: Final = 4
API_KEY: Final = 5
CONTENT_TYPE: Final = 6
CONNECTION: Final = 7
CODING: Final = 8
EXPECT: Final = 9
OWN: Final = 10  # recorded, not forwarded
NOTED: Final = 11  # recorded and forwarded
CREDENTIAL: Final = 12  # a credential that is not understood as one here: dropped
UPGRADE: Final = 13
DATE: Final = 14
KEEP_ALIVE: Final = 15
TRACE: Final = 16  # forwarded when it is well-formed

FIELDS: Final[dict[bytes, int]] = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"content-type": CONTENT_TYPE,
    b"authorization": BEARER,
    b"x-api-key": API_KEY,
    b"api-key": CREDENTIAL,
    b"cookie": CREDENTIAL,
    b"proxy-authorization": CREDENTIAL,
    b"proxy-authenticate": DROP,
    b"proxy-authentication-info": DROP,
    b"proxy-connection": DROP,
    b"keep-alive": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
    b"upgrade": UPGRADE,
    b"x-request-id": OWN,
    b"x-forwarded-for": OWN,
    b"x-forwarded-proto": OWN,
    b"x-forwarded-host": OWN,
    b"forwarded": OWN,
    b"x-real-ip": OWN,
    b"x-request-timeout-ms": OWN,
    b"traceparent": TRACE,
    b"origin": NOTED,
    b"access-control-request-method": NOTED,
    b"access-control-request-headers": NOTED,
}
"""Request fields, by lower-case name, that are not simply kept; :func:`request_field` also knows the prefixes."""

RESPONSE_FIELDS: Final[dict[bytes, int]] = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"content-type": CONTENT_TYPE,
    b"keep-alive": KEEP_ALIVE,
    b"date": DATE,
    b"proxy-authenticate": DROP,
    b"proxy-authentication-info": DROP,
    b"proxy-authorization": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"upgrade": DROP,
    b"x-request-id": DROP,
    b"x-accel-buffering": DROP,
    b"alt-svc": DROP,
}
"""Response fields, by lower-case name, that are not simply kept."""

REASONS: Final[dict[int, bytes]] = {
    100: b"Continue", 101: b"Switching Protocols", 102: b"Processing", 103: b"Early Hints",
    200: b"OK", 201: b"Created", 202: b"Accepted", 203: b"Non-Authoritative Information", 204: b"No Content",
    205: b"Reset Content", 206: b"Partial Content", 207: b"Multi-Status", 208: b"Already Reported", 226: b"IM Used",
    300: b"Multiple Choices", 301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified",
    305: b"Use Proxy", 307: b"Temporary Redirect", 308: b"Permanent Redirect",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 406: b"Not Acceptable", 407: b"Proxy Authentication Required", 408: b"Request Timeout",
    409: b"Conflict", 410: b"Gone", 411: b"Length Required", 412: b"Precondition Failed", 413: b"Content Too Large",
    414: b"URI Too Long", 415: b"Unsupported Media Type", 416: b"Range Not Satisfiable", 417: b"Expectation Failed",
    418: b"I'm a teapot", 421: b"Misdirected Request", 422: b"Unprocessable Content", 423: b"Locked",
    424: b"Failed Dependency", 425: b"Too Early", 426: b"Upgrade Required", 428: b"Precondition Required",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 451: b"Unavailable For Legal Reasons",
    499: b"Client Closed Request",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported", 507: b"Insufficient Storage", 508: b"Loop Detected",
    511: b"Network Authentication Required", 529: b"Site Overloaded",
}  # fmt: skip

MAX_LENGTH: Final = 2**63 - 1

# A struct of msgspec is built in C (66 ns for 16 fields; a slotted class with __init__ takes 170) and compares by field.


class RequestHead(msgspec.Struct, gc=False):
    """A request head that was found to be unambiguous. ``forward`` is what may go to an engine as it stands."""

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    minor: int
    host: bytes
    forward: bytes
    content_length: int
    chunked: bool
    keep_alive: bool
    expect: int
    credential: bytes | None
    content_type: bytes | None
    own: dict[bytes, bytes] | None


class ResponseHead(msgspec.Struct, gc=False):
    """A response head that was found to be unambiguous.

    ``keep_alive`` is what version and ``Connection`` say. A message with neither length nor chunks ends with the
    connection, unless the request's method or the status forbids a body; only the caller knows the method.
    """

    status: int
    minor: int
    status_line: bytes
    forward: bytes
    content_length: int
    chunked: bool
    keep_alive: bool
    sse: bool
    json: bool
    has_date: bool
    idle_s: float
    max_requests: int


LAST_HEAD_BYTES: Final = 2048
"""A connection remembers its last head up to this size (it carries the key: never longer than the connection lives)."""

MAX_STRANGERS: Final = 8
"""After so many heads in a row that were new, a connection's peer varies them: remembering is given up."""

_MEMO_ENTRIES: Final = 4096
_MEMO_BYTES: Final = 256

_Action = int | tuple[int, bytes, bytes]

_REQUEST_LINE: Final = re.compile(
    rb"(GET|POST|HEAD|PUT|DELETE|OPTIONS|PATCH) ((/[!\"$->@-\[\]-~]*)(?:\?([!\"$-\[\]-~]*))?) HTTP/1\.([01])"
).fullmatch
# Interim responses are rare, and 101 has rules of its own: they take the complete path.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}):[ \t]*([\t\x20-\x7e\x80-\xff]*)").fullmatch
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?"
).fullmatch
_TRACE_IDS: Final = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACE: Final = re.compile(rb"00%b|(?!00|ff)[0-9a-f]{2}%b(?:-[!-~]*)?" % (_TRACE_IDS, _TRACE_IDS)).fullmatch
_VISIBLE: Final = bytes(range(33, 127)) + bytes(range(128, 256))
_ALLOWED: Final = b"\t " + _VISIBLE
# Names whose values are secret, or new in each message: remembering them would leak, or only churn the memo.
_FICKLE: Final = re.compile(
    rb"auth|key|token|secret|cookie|session|passw|signature|credential|content-length|request-id|trace|forwarded|real-ip"
    rb"|correlation|baggage|idempot|timeout|etag|last-modified|remaining|websocket"
).search

_request_lines: dict[bytes, tuple[bytes, bytes, bytes, bytes, int]] = {}
_request_fields: dict[bytes, _Action] = {}
_request_names: dict[bytes, int] = {}
_status_lines: dict[bytes, tuple[int, int, bytes]] = {}
_response_fields: dict[bytes, _Action] = {}
_response_names: dict[bytes, int] = {}


def request_field(name: bytes) -> int:
    """What becomes of the request field ``name`` (lower case)."""
    kind = FIELDS.get(name)
    if kind is not None:
        return kind
    if name.startswith(b"x-forwarded-"):
        return DROP
    return NOTED if name.startswith(b"sec-websocket-") else KEEP


def response_field(name: bytes) -> int:
    """What becomes of the response field ``name`` (lower case)."""
    return RESPONSE_FIELDS.get(name, KEEP)


def bearer(value: bytes) -> bytes | None:
    """The token of ``Bearer <token>`` (any case of the scheme), or ``None`` when it is anything else."""
    if value[:7].lower() != b"bearer ":
        return None
    return visible(value[7:].lstrip(b" "))


def visible(token: bytes) -> bytes | None:
    """``token`` when it is one run of visible bytes, else ``None``."""
    return token if token and not token.translate(None, _VISIBLE) else None


def valid_trace(value: bytes) -> bool:
    """Whether ``value`` is a ``traceparent`` (W3C Trace Context §3.2); one that is not is nobody's trace."""
    return _TRACE(value) is not None


def valid_host(host: bytes) -> bool:
    """Whether ``host`` is ``uri-host [":" port]`` with a non-empty host: no user, no comma, IPv6 only in brackets."""
    return _HOST(host) is not None


def keep_alive_hints(value: bytes) -> tuple[float, int]:
    """``timeout`` in seconds and ``max`` of a ``Keep-Alive`` field, -1 for what it does not say."""
    idle_s, most = -1.0, -1
    for part in value.lower().split(b","):
        name, _, number = part.strip(b" \t").partition(b"=")
        name = name.rstrip(b" \t")
        number = number.strip(b' \t"')
        if number.isdigit() and len(number) <= 9:
            if name == b"timeout":
                idle_s = float(int(number))
            elif name == b"max":
                most = int(number)
    return idle_s, most


def media_flags(value: bytes) -> tuple[bool, bool]:
    """Whether a ``Content-Type`` is (``text/event-stream``, JSON)."""
    kind = value.partition(b";")[0].strip(b" \t").lower()
    return kind == b"text/event-stream", kind == b"application/json" or kind.endswith(b"+json")


def response_status(status: int, reason: bytes) -> bytes:
    """The status line we send for an engine's: always HTTP/1.1, never without a reason phrase where one is known."""
    return b"HTTP/1.1 %d %s\r\n" % (status, reason.strip(b" \t") or REASONS.get(status, b"Unknown"))


def _remember(memo: dict[bytes, _Action], line: bytes, action: _Action) -> _Action:
    if len(line) <= _MEMO_BYTES:
        if len(memo) >= _MEMO_ENTRIES:
            memo.clear()
        memo[line] = action
    return action


def _learn_name(names: dict[bytes, int], name: bytes, lookup: Callable[[bytes], int]) -> int:
    """The kind of a field name as it was written, remembered under that spelling; -1 = leave it to the complete path."""
    lower = name.lower()
    kind = lookup(lower)
    if b"_" in lower and (lookup(lower.replace(b"_", b"-")) or request_field(lower.replace(b"_", b"-"))):
        kind = -1
    if len(name) <= 64:
        if len(names) >= _MEMO_ENTRIES:
            names.clear()
        names[name] = kind
    return kind


def _learn(line: bytes) -> _Action | None:
    """Classify a request's field line that is not remembered; ``None`` = not understood."""
    match = _FIELD(line)
    if match is None:
        return None
    name = match[1]
    value = match[2].rstrip(b" \t")
    kind = _request_names.get(name)
    if kind is None:
        kind = _learn_name(_request_names, name, request_field)
    lower = name.lower()
    action: _Action = KEEP
    if kind:
        low = value.lower()
        if kind < 0 or kind == UPGRADE:
            return None
        if kind == CONNECTION:
            if low not in (b"keep-alive", b"close"):
                return None
            value = low
        elif kind == CODING:
            # llhttp takes no tab after a coding: neither do we.
            if match[2].rstrip(b" ").lower() != b"chunked":
                return None
        elif kind == EXPECT:
            if low != b"100-continue":
                return None
        elif kind == TRACE:
            value = value if valid_trace(value) else b""
        elif (kind == HOST and not valid_host(value)) or (kind == CONTENT_TYPE and not value):
            return None
        action = (kind, lower, value)
    return action if _FICKLE(lower) else _remember(_request_fields, line, action)


def _learn_request_line(line: bytes) -> tuple[bytes, bytes, bytes, bytes, int] | None:
    match = _REQUEST_LINE(line)
    if match is None:
        return None
    method, target, path, query, minor = match.groups()
    first = (method, target, path, query or b"", int(minor))
    # A query may carry a key: only plain paths are remembered.
    if query is None and len(line) <= _MEMO_BYTES:
        if len(_request_lines) >= _MEMO_ENTRIES:
            _request_lines.clear()
        _request_lines[line] = first
    return first


def scan_request(head: bytes) -> RequestHead | None:
    """The request whose head, without the final empty line, is ``head``; ``None`` = ask the complete path."""
    lines = head.split(b"\r\n")
    line = lines[0]
    first = _request_lines.get(line) or _learn_request_line(line)
    if first is None:
        return None
    method, target, path, query, minor = first
    del lines[0]
    find = _request_fields.get
    forward: list[bytes] = []
    keep = forward.append
    length = -1
    host = token = api_key = content_type = own = None
    chunked = auth = key = traced = False
    connection = b""
    expect = 0
    for line in lines:
        action = find(line)
        if action is None:
            # The two lines that every request has and that must not be remembered are told by their names.
            name, _, value = line.partition(b":")
            kind = _request_names.get(name, 0)
            if kind == LENGTH:
                value = value.strip(b" \t")
                if length >= 0 or not value.isdigit() or len(value) > 18:
                    return None
                length = int(value)
                continue
            if kind == BEARER and not auth and value[:8] == b" Bearer " and not value[8:].translate(None, _VISIBLE):
                auth = True
                token = value[8:] or None
                continue
            action = _learn(line)
            if action is None:
                return None
        if not action:
            keep(line)
            continue
        kind, name, value = action  # type: ignore[misc]
        if kind == CONTENT_TYPE:
            if content_type is not None:
                return None
            content_type = value
            keep(line)
        elif kind == LENGTH:
            if length >= 0 or not value.isdigit() or len(value) > 18:
                return None
            length = int(value)
        elif kind == HOST:
            if host is not None:
                return None
            host = value
        elif kind == CONNECTION:
            if connection:
                return None
            connection = value
        elif kind == BEARER:
            if auth:
                return None
            auth = True
            token = bearer(value)
        elif kind == API_KEY:
            if key:
                return None
            key = True
            api_key = visible(value)
        elif kind == CODING:
            if chunked or not minor:
                return None
            chunked = True
        elif kind == EXPECT:
            if expect:
                return None
            expect = 1
        elif kind in (OWN, NOTED):
            if own is None:
                own = {}
            elif name in own:
                return None
            own[name] = value
            if kind == NOTED:
                keep(line)
        elif kind == TRACE:
            if traced:
                return None
            traced = True
            if value:
                keep(line)
    if chunked and length >= 0:
        return None
    if host is None:
        if minor:
            return None
        host = b""
    if forward:
        keep(b"")
    return RequestHead(
        method, target, path, query, minor, host, b"\r\n".join(forward), length, chunked,
        connection == b"keep-alive" if not minor else connection != b"close",
        expect if minor else 0, token if token is not None else api_key, content_type, own,
    )  # fmt: skip


def _learn_response(line: bytes) -> _Action | None:
    """Classify a response's field line that is not remembered; ``None`` = not understood."""
    match = _FIELD(line)
    if match is None:
        return None
    lower = match[1].lower()
    value = match[2].rstrip(b" \t")
    kind = _response_names.get(match[1])
    if kind is None:
        kind = _learn_name(_response_names, match[1], response_field)
    action: _Action = KEEP
    if kind:
        low = value.lower()
        if kind < 0:
            return None
        if kind == CONNECTION:
            if low not in (b"keep-alive", b"close"):
                return None
            value = low
        elif kind == CONTENT_TYPE:
            sse, json = media_flags(value)
            value = b"sse" if sse else b"json" if json else b""
        elif kind == CODING and match[2].rstrip(b" ").lower() != b"chunked":
            return None
        action = (kind, lower, value)
    return action if _FICKLE(lower) else _remember(_response_fields, line, action)


def _learn_status_line(line: bytes) -> tuple[int, int, bytes] | None:
    match = _STATUS_LINE(line)
    if match is None:
        return None
    status = int(match[2])
    first = (status, int(match[1]), response_status(status, match[3] or b""))
    if len(line) <= _MEMO_BYTES:
        if len(_status_lines) >= _MEMO_ENTRIES:
            _status_lines.clear()
        _status_lines[line] = first
    return first


def around_length(head: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and after the digits of ``Content-Length`` in a whole head that was understood.

    Whoever meets both parts again around other digits (18 at most) has met the same head with another length.
    """
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        return None
    at += len(b"\r\ncontent-length:")
    end = head.index(b"\r", at)
    digits = head[at:end].strip(b" \t")
    start = head.index(digits, at)
    return head[:start], head[start + len(digits) :]


def scan_response(head: bytes) -> ResponseHead | None:
    """The response whose head, without the final empty line, is ``head``; ``None`` = ask the complete path."""
    lines = head.split(b"\r\n")
    line = lines[0]
    first = _status_lines.get(line) or _learn_status_line(line)
    if first is None:
        return None
    status, minor, status_line = first
    del lines[0]
    find = _response_fields.get
    forward: list[bytes] = []
    keep = forward.append
    length = -1
    chunked = sse = json = has_date = typed = hinted = False
    connection = b""
    idle_s = -1.0
    most = -1
    for line in lines:
        action = find(line)
        if action is None:
            name, _, value = line.partition(b":")
            if _response_names.get(name) == LENGTH:
                action = (LENGTH, name, value.strip(b" \t"))
            else:
                action = _learn_response(line)
                if action is None:
                    return None
        if not action:
            keep(line)
            continue
        kind, name, value = action  # type: ignore[misc]
        if kind == CONTENT_TYPE:
            if typed:
                return None
            typed = True
            sse = value == b"sse"
            json = value == b"json"
            keep(line)
        elif kind == LENGTH:
            if length >= 0 or not value.isdigit() or len(value) > 18:
                return None
            length = int(value)
        elif kind == DATE:
            if has_date:
                return None
            has_date = True
            keep(line)
        elif kind == CONNECTION:
            if connection:
                return None
            connection = value
        elif kind == CODING:
            if chunked or not minor:
                return None
            chunked = True
        elif kind == KEEP_ALIVE:
            if hinted:
                return None
            hinted = True
            idle_s, most = keep_alive_hints(value)
    if chunked and length >= 0:
        return None
    if forward:
        keep(b"")
    return ResponseHead(
        status, minor, status_line, b"\r\n".join(forward), length, chunked,
        connection == b"keep-alive" if not minor else connection != b"close",
        sse, json, has_date, idle_s, most,
    )  # fmt: skip
