"""Frames as bytes: right ones by hyperframe and hpack, and wrong ones by :func:`raw`, which believes everything.

Each function gives the bytes of one frame (:func:`request` and :func:`answer` of several), so that a test writes what a peer
says as a row of them. Header blocks use no dynamic table unless a test makes them with an encoder of its own: a row means the
same wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack import Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hyperframe import frame as hf

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4

# RFC 9113 section 6: types, and the flags by their names in the words of ``reading``.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
TYPES: Final = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE"),
    "CONTINUATION",
)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

# RFC 9113 section 7.
CODES: Final = {
    "NO_ERROR": 0, "PROTOCOL_ERROR": 1, "INTERNAL_ERROR": 2, "FLOW_CONTROL_ERROR": 3, "SETTINGS_TIMEOUT": 4,
    "STREAM_CLOSED": 5, "FRAME_SIZE_ERROR": 6, "REFUSED_STREAM": 7, "CANCEL": 8, "COMPRESSION_ERROR": 9,
    "CONNECT_ERROR": 10, "ENHANCE_YOUR_CALM": 11, "INADEQUATE_SECURITY": 12, "HTTP_1_1_REQUIRED": 13,
}  # fmt: skip

# RFC 9113 section 6.5.2, and RFC 8441 section 3, RFC 9218 section 2.1.
PARAMETERS: Final = {
    "HEADER_TABLE_SIZE": 1, "ENABLE_PUSH": 2, "MAX_CONCURRENT_STREAMS": 3, "INITIAL_WINDOW_SIZE": 4,
    "MAX_FRAME_SIZE": 5, "MAX_HEADER_LIST_SIZE": 6, "ENABLE_CONNECT_PROTOCOL": 8, "NO_RFC7540_PRIORITIES": 9,
}  # fmt: skip

WINDOW: Final = 65_535  # of a connection, and of a stream until SETTINGS say otherwise (section 6.9.2)
FRAME: Final = 16_384  # the longest payload until SETTINGS say otherwise (section 6.5.2)

Field = tuple[bytes, bytes]

_HUFFMAN: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

GET: Final[tuple[Field, ...]] = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"peer"))
POST: Final[tuple[Field, ...]] = ((b":method", b"POST"), *GET[1:])
OK: Final[tuple[Field, ...]] = ((b":status", b"200"),)


def raw(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Any frame at all; ``length`` is what its header says where that is not so. ``stream`` may have the reserved bit."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def fields(*pairs: Field | str) -> tuple[Field, ...]:
    """``"name: value"`` as a pair; pairs as they are."""
    made = []
    for one in pairs:
        if isinstance(one, str):
            at = one.index(":", 1)
            made.append((one[:at].encode("latin-1"), one[at + 1 :].lstrip(" ").encode("latin-1")))
        else:
            made.append(one)
    return tuple(made)


def block(pairs: Iterable[Field], encoder: Encoder | None = None, huffman: bool = True) -> bytes:
    """A header block. Without an encoder of the test's, no entry comes into the dynamic table."""
    kind = HeaderTuple if encoder else NeverIndexedHeaderTuple
    coded: bytes = (encoder or Encoder()).encode([kind(name, value) for name, value in pairs], huffman)
    return coded


def string(text: bytes, length: int | None = None) -> bytes:
    """A string literal without Huffman coding (RFC 7541 section 5.2); ``length`` is what it says where that is a lie."""
    return integer(len(text) if length is None else length, 7) + text


def huffman(text: bytes, extra: bytes = b"") -> bytes:
    """A string literal in Huffman's code; ``extra``: octets behind it that do not belong there."""
    coded = _HUFFMAN.encode(text) + extra
    return integer(len(coded), 7, 0x80) + coded


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 section 5.1; ``first`` is what stands before the prefix of ``bits`` bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = [first | most]
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def headers(
    stream: int,
    pairs: Iterable[Field] | bytes = GET,
    *,
    end: bool = False,
    whole: bool = True,
    pad: int | None = None,
    depends_on: int | None = None,
    weight: int = 15,
    exclusive: bool = False,
) -> bytes:
    """HEADERS, from fields or from a block that is ready. ``end``: END_STREAM. ``whole``: END_HEADERS."""
    made = hf.HeadersFrame(stream or 1)
    made.data = pairs if isinstance(pairs, bytes) else block(pairs)
    flags = {"END_STREAM": end, "END_HEADERS": whole, "PADDED": pad is not None, "PRIORITY": depends_on is not None}
    for name in [name for name, there in flags.items() if there]:
        made.flags.add(name)
    made.pad_length = pad or 0
    made.depends_on, made.stream_weight, made.exclusive = depends_on or 0, weight, exclusive
    return _on(stream, made.serialize())


def continuation(stream: int, piece: bytes, *, whole: bool = True) -> bytes:
    made = hf.ContinuationFrame(stream or 1, piece)
    if whole:
        made.flags.add("END_HEADERS")
    return _on(stream, made.serialize())


def continued(stream: int, pairs: Iterable[Field] | bytes, pieces: int, *, end: bool = False) -> bytes:
    """One header block in a HEADERS and so many CONTINUATION frames."""
    coded = pairs if isinstance(pairs, bytes) else block(pairs)
    step = -(-len(coded) // (pieces + 1))
    out = headers(stream, coded[:step], end=end, whole=False)
    for at in range(1, pieces + 1):
        out += continuation(stream, coded[at * step : (at + 1) * step], whole=at == pieces)
    return out


def data(stream: int, payload: bytes = b"", *, end: bool = False, pad: int | None = None) -> bytes:
    made = hf.DataFrame(stream or 1, payload)
    if end:
        made.flags.add("END_STREAM")
    if pad is not None:
        made.flags.add("PADDED")
        made.pad_length = pad
    return _on(stream, made.serialize())


def settings(values: dict[int, int] | None = None, **named: int) -> bytes:
    """``settings(MAX_CONCURRENT_STREAMS=1)``; ``values`` for numbers that have no name, or no sense."""
    given = {PARAMETERS[name]: value for name, value in named.items()} | (values or {})
    return raw(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in given.items()))


def settings_ack() -> bytes:
    return raw(SETTINGS, ACK, 0)


def ping(opaque: bytes = b"\0" * 8, *, ack: bool = False) -> bytes:
    return raw(PING, ACK if ack else 0, 0, opaque)


def rst(stream: int, code: str | int = "CANCEL") -> bytes:
    return raw(RST_STREAM, 0, stream, _code(code))


def goaway(last: int, code: str | int = "NO_ERROR", debug: bytes = b"") -> bytes:
    return raw(GOAWAY, 0, 0, last.to_bytes(4, "big") + _code(code) + debug)


def window(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE; also an increment of zero, or one with the reserved bit."""
    return raw(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def priority(stream: int, depends_on: int = 0, weight: int = 15, *, exclusive: bool = False) -> bytes:
    return raw(PRIORITY, 0, stream, (depends_on | (1 << 31 if exclusive else 0)).to_bytes(4, "big") + bytes((weight,)))


def push_promise(stream: int, promised: int, pairs: Iterable[Field] = GET) -> bytes:
    return raw(PUSH_PROMISE, END_HEADERS, stream, promised.to_bytes(4, "big") + block(pairs))


def request(stream: int, body: bytes = b"", *more: Field | str, path: bytes = b"/", method: bytes = b"") -> bytes:
    """A whole request: GET, or POST where it has a body of one frame."""
    head = ((b":method", method or (b"POST" if body else b"GET")), (b":scheme", b"http"), (b":path", path), GET[3])
    return headers(stream, head + fields(*more), end=not body) + (data(stream, body, end=True) if body else b"")


def answer(stream: int, body: bytes = b"", *more: Field | str, status: int = 200) -> bytes:
    """A whole answer: a head, and a body of one frame where there is one."""
    head = ((b":status", b"%d" % status), *fields(*more))
    return headers(stream, head, end=not body) + (data(stream, body, end=True) if body else b"")


def _on(stream: int, frame: bytes) -> bytes:
    """hyperframe makes no such frame on stream 0."""
    return frame[:5] + stream.to_bytes(4, "big") + frame[9:]


def _code(code: str | int) -> bytes:
    return (CODES[code] if isinstance(code, str) else code).to_bytes(4, "big")
