"""HTTP/2 frames as we write them, and the numbers of the protocol (RFC 9113 §6, §7, §11). Nothing here looks at what it is
given."""

from __future__ import annotations

from struct import Struct
from typing import Final

from fastgw.accel.frames import MOST_FRAME_BYTES, framed
from fastgw.accel.frames import header as header

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1  # of SETTINGS and PING
END_STREAM: Final = 0x1  # of DATA and HEADERS
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20  # a HEADERS frame that carries a priority

# Error codes (§7).
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
HTTP_1_1_REQUIRED: Final = 0xD

NAMES: Final = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

# Settings (§6.5.2; RFC 8441 §3).
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8

FIRST_WINDOW: Final = 65535
"""Of every stream and connection, until somebody says otherwise (§6.9.2)."""
MOST_WINDOW: Final = 2**31 - 1

_number = Struct(">L").pack
_setting = Struct(">HL").pack
_one_number = Struct(">BHBBLL").pack


class H2Error(Exception):
    """What the peer sent breaks the connection (RFC 9113 §5.4.1). ``code`` is what it is told; the text is for the log."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def name_of(code: int) -> str:
    """An error code, for people."""
    return NAMES[code] if code < len(NAMES) else f"error {code:#x}"


def headers(stream: int, block: bytes, last: bool) -> bytes:
    """A message's field block, in as many frames as it takes; ``last``: there is no body."""
    flags = END_STREAM if last else 0
    size = len(block)
    if size <= MOST_FRAME_BYTES:
        return framed(block, HEADERS, flags | END_HEADERS, stream)
    parts = [block[at : at + MOST_FRAME_BYTES] for at in range(0, size, MOST_FRAME_BYTES)]
    end = len(parts) - 1
    return b"".join(
        [
            header(len(part), CONTINUATION if at else HEADERS, (0 if at else flags) | (END_HEADERS if at == end else 0), stream)
            + part
            for at, part in enumerate(parts)
        ]
    )


def rst_stream(stream: int, code: int) -> bytes:
    return _one_number(0, 4, RST_STREAM, 0, stream, code)


def window_update(stream: int, more: int) -> bytes:
    return _one_number(0, 4, WINDOW_UPDATE, 0, stream, more)


def goaway(last: int, code: int, why: bytes = b"") -> bytes:
    """``last``: the highest stream of the peer's that was or will be looked at."""
    return header(8 + len(why), GOAWAY, 0, 0) + _number(last) + _number(code) + why


def ping(data: bytes, ack: bool = False) -> bytes:
    """``data``: eight bytes."""
    return header(8, PING, ACK if ack else 0, 0) + data


def settings(values: dict[int, int]) -> bytes:
    """(The acknowledgement of the peer's has no values, and a flag: :data:`SETTINGS_ACK`.)"""
    return header(6 * len(values), SETTINGS, 0, 0) + b"".join([_setting(which, value) for which, value in values.items()])


SETTINGS_ACK: Final = header(0, SETTINGS, ACK, 0)
