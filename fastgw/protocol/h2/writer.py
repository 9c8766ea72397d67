"""Requests as HTTP/2 has them: the field block, put together from parts that are made once.

An engine's own part is made with its connections, a request's with its first use for all engines alike; only the id and the
length are new each time. (Pseudo-fields come first, RFC 9113 §8.3, so each part is two.)
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.frames import field_block, text
from fastgw.protocol.h2.hpack import field, lines, name
from fastgw.protocol.start import RequestStart

_ID: Final = b"x-request-id: "
_ID_NAME: Final = name(b"x-request-id")
_METHODS: Final = {one: field(b":method", one) for one in (b"GET", b"POST")}
_CONNECT: Final = field(b":method", b"CONNECT") + field(b":protocol", b"websocket")
_PATH: Final = name(b":path")


def own_block(own: bytes, secure: bool) -> tuple[bytes, bytes]:
    """What all requests to an engine have, of its lines: Host first, and its key."""
    first, _, rest = own.partition(b"\r\n")
    authority = first.partition(b":")[2].strip()
    scheme = field(b":scheme", b"https" if secure else b"http")
    return scheme + field(b":authority", authority), lines(rest)


def start_block(start: RequestStart) -> tuple[bytes, bytes]:
    """What a request has with each engine: method and path, and its fields but for the value of the last, the id."""
    method = _METHODS.get(start.method) or field(b":method", start.method)
    return method + _PATH + text(start.target), lines(start.fields.removesuffix(_ID)) + _ID_NAME


def tunnel_block(start: RequestStart) -> tuple[bytes, bytes]:
    """The same of a WebSocket's handshake, as an extended CONNECT: it has no key (RFC 8441 §4, §5)."""
    lines_ = start.fields.removesuffix(_ID).split(b"\r\n")
    own = b"\r\n".join([line for line in lines_ if line[:18].lower() != b"sec-websocket-key:"])
    return _CONNECT + _PATH + text(start.target), lines(own) + _ID_NAME


def request_block(
    own: tuple[bytes, bytes], start: tuple[bytes, bytes], trace: bytes, request_id: bytes, length: int, method: bytes
) -> bytes:
    """The field block of a request whose body has ``length`` bytes, -1 = so many as come. ``trace``: lines of it alone.

    Only a POST says that its body has no bytes (RFC 9110 §8.6).
    """
    if not length and method != b"POST":
        length = -1
    rest = own[1] + lines(trace) if trace else own[1]
    return field_block(own[0], start[0], rest, start[1], request_id, length)
