"""The tables of HTTP fields, and the judges of single values that are asked now and then.

Owns: what becomes of a field, by its name; which bytes may stand where. Both twins of the scanner of heads read these
tables, and so does the complete path, so that none of them can think otherwise. Never compiled, never remembers anything.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.late import late

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
FRAMES: Final = 17  # its name is that of a field which frames the message, to a server that maps ``_`` to ``-``: refused

FIELDS: Final[dict[bytes, int]] = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"content-type": CONTENT_TYPE,
    b"content-encoding": OWN,
    b"authorization": BEARER,
    b"x-api-key": API_KEY,
    b"api-key": API_KEY,  # (as Azure's clients show one; beside an ``x-api-key`` it is a second claim)
    b"cookie": OWN,  # a session may be told by it
    b"proxy-authorization": CREDENTIAL,
    b"proxy-authenticate": DROP,
    b"proxy-authentication-info": DROP,
    b"proxy-connection": DROP,
    b"close": DROP,  # no field, but what `Connection: close` would nominate
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
    b"via": OWN,
    b"x-real-ip": OWN,
    b"x-request-timeout-ms": OWN,
    b"x-data-parallel-rank": DROP,  # which part of an engine is asked is chosen here
    b"x-fastgw-explain": OWN,
    b"traceparent": TRACE,
    b"origin": NOTED,
    b"access-control-request-method": NOTED,
    b"access-control-request-headers": NOTED,
    b"sec-websocket-key": OWN,
    b"sec-websocket-version": OWN,
    b"sec-websocket-protocol": OWN,
    b"sec-websocket-extensions": OWN,
}
"""Request fields, by lower-case name, that are not simply kept; :func:`request_field` also knows the prefixes."""

PREFIXES: Final = (b"x-forwarded-", b"sec-websocket-")
"""Beginnings of request fields' names that go no further. (A WebSocket handshake may carry a key: what of it goes to an
engine is written anew.)"""

OURS: Final = frozenset(
    (b"retry-after-ms", b"server-timing", b"x-accel-buffering", b"x-fallback-model", b"x-fastgw-explain", b"x-fastgw-model",
     b"x-request-id", b"x-should-retry")
)
"""Fields of an answer by which the gateway speaks for itself: an engine's own never goes down, beside ours or instead."""

OUR_PREFIXES: Final = (b"access-control-", b"x-budget-", b"x-fastgw-", b"x-ratelimit-")
"""The same by the beginnings of their names: which pages may read an answer, and what is left of a key's limits or
budget, is not an engine's to say."""

RESPONSE_FIELDS: Final[dict[bytes, int]] = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"content-type": CONTENT_TYPE,
    b"close": DROP,
    b"keep-alive": KEEP_ALIVE,
    b"date": DATE,
    b"proxy-authenticate": DROP,
    b"proxy-authentication-info": DROP,
    b"proxy-authorization": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"upgrade": UPGRADE,
    b"alt-svc": DROP,
    **dict.fromkeys(sorted(OURS), DROP),
}
"""Response fields, by lower-case name, that are not simply kept; :func:`response_field` also knows :data:`OUR_PREFIXES`."""

FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"host", b"connection", b"expect", b"te", b"trailer"))
"""Request fields that decide where a message ends or whom it is for."""

RESPONSE_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
"""Response fields that decide where a message ends."""

MAX_OPTIONS: Final = 64
"""So many options may stand in ``Connection``, in all of its lines."""

MAX_HINTS: Final = 8
"""So many parts of ``Keep-Alive`` are looked at."""

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

METHODS: Final = (b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
"""The methods that are known, the commonest first."""

MAX_LENGTH: Final = 2**63 - 1

# Which bytes may stand where (RFC 9110 §5, RFC 3986); targets are taken literally, but for what some server would mend.
TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TEXT: Final = bytes(sorted({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}))
QUERY: Final = bytes(sorted({*range(0x21, 0x7F)} - set(b"#\\")))
PATH: Final = bytes(sorted(set(QUERY) - set(b"?")))
VISIBLE: Final = bytes(sorted({*range(0x21, 0x7F), *range(0x80, 0x100)}))
REG_NAME: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._~!$&'()*+;=%-"

MAX_HOST_BYTES: Final = 255
"""So long the name of a host may be (RFC 1035 §2.3.4)."""

_NAME: Final = rb"[%b]{1,%d}" % (re.escape(REG_NAME), MAX_HOST_BYTES)
_HOST: Final = late(rb"(?:%b|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?" % _NAME)
_TRACE_IDS: Final = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACE: Final = late(rb"00%b|(?!00|ff)[0-9a-f]{2}%b(?:-[!-~]*)?" % (_TRACE_IDS, _TRACE_IDS))


def request_field(name: bytes) -> int:
    """What becomes of the request field ``name`` (lower case)."""
    kind = FIELDS.get(name)
    if kind is not None:
        return kind
    return DROP if name.startswith(PREFIXES) else KEEP


def response_field(name: bytes) -> int:
    """What becomes of the response field ``name`` (lower case)."""
    kind = RESPONSE_FIELDS.get(name)
    if kind is not None:
        return kind
    return DROP if name.startswith(OUR_PREFIXES) else KEEP


def request_kind(name: bytes) -> int:
    """What becomes of the request field ``name`` (lower case), imitations told: those go no further."""
    kind = request_field(name)
    if kind == KEEP and b"_" in name:
        meant = name.replace(b"_", b"-")
        if request_field(meant) != KEEP:
            return FRAMES if meant in FRAMING else DROP
    return kind


def response_kind(name: bytes) -> int:
    """The same of a response's field."""
    kind = response_field(name)
    if kind == KEEP and b"_" in name:
        meant = name.replace(b"_", b"-")
        if response_field(meant) != KEEP or request_field(meant) != KEEP:
            return FRAMES if meant in RESPONSE_FRAMING else DROP
    return kind


def value_in(block: bytes, name: bytes) -> bytes | None:
    """The value of the first field ``name`` (any case) in ``block``, lines that each end with CRLF, without the blanks around
    it; None = there is none. Costs one pass over the block, and a copy of it."""
    if not name or name.translate(None, TOKEN):
        return None  # (it could reach over the end of a line)
    mark = name.lower() + b":"
    folded = block.lower()
    at = 0
    if not folded.startswith(mark):
        at = folded.find(b"\r\n" + mark) + 2
        if at < 2:
            return None
    return block[at + len(mark) : block.index(b"\r\n", at)].strip(b" \t")


def values_in(block: bytes, name: bytes) -> tuple[bytes, ...]:
    """The values of all fields ``name`` (any case) in ``block``, in their order; as many as there may be fields."""
    if value_in(block, name) is None:
        return ()
    mark = name.lower() + b":"
    return tuple([line[len(mark) :].strip(b" \t") for line in block.split(b"\r\n") if line[: len(mark)].lower() == mark])


def bearer(value: bytes) -> bytes | None:
    """The token of ``Bearer <token>`` (any case of the scheme), or ``None`` when it is anything else."""
    if value[:7].lower() != b"bearer ":
        return None
    return visible(value[7:].lstrip(b" "))


def visible(token: bytes) -> bytes | None:
    """``token`` when it is one run of visible bytes, else ``None``."""
    return token if token and not token.translate(None, VISIBLE) else None


def valid_trace(value: bytes) -> bool:
    """Whether ``value`` is a ``traceparent`` (W3C Trace Context §3.2); one that is not is nobody's trace."""
    return _TRACE().fullmatch(value) is not None


def valid_host(host: bytes) -> bool:
    """Whether ``host`` is ``uri-host [":" port]`` with a host: not empty, not longer than a name can be, no user, no
    comma, IPv6 only in brackets."""
    return _HOST().fullmatch(host) is not None


def keep_alive_hints(value: bytes) -> tuple[float, int]:
    """``timeout`` in seconds and ``max`` of a ``Keep-Alive`` field, -1 for what it does not say."""
    idle_s, most = -1.0, -1
    for part in value.lower().split(b",", MAX_HINTS)[:MAX_HINTS]:
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
