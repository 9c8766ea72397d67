"""HTTP/2 frames: cut out of what was read as it comes, and the commonest of what is written (RFC 9113 §4.1).

A frame is looked at when it is whole, but for DATA, whose payload goes on with the read in which it came: no more is ever held
than one frame of the size that we allow, and its header. What a frame means is not known here, only where it begins and ends.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from fastgw.accel.sockets import keep

HEADER_BYTES: Final = 9
MOST_FRAME_BYTES: Final = 16384
"""Of a frame's payload: what the protocol begins with, and we never allow more (RFC 9113 §4.2)."""

DATA: Final = 0
PADDED: Final = 0x8


_header = Struct(">BHBBL").pack
_LENGTH_NAME: Final = b"\x0f\x0d"  # content-length, as a field that no table keeps (RFC 7541 §6.2.2)
_LENGTH_INDEX: Final = 28  # of that name (RFC 7541, appendix A)
_ID_NAME: Final = b"\x0cx-request-id"  # as a string, not in Huffman's code
_EMPTY: Final = b"\x80"  # a string of no bytes, in that code
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_LONG: Final = 127  # from here on a string's first byte says that it is long, or in that code


def header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a payload of ``size`` bytes."""
    return _header(size >> 16, size & 0xFFFF, kind, flags, stream)


def framed(payload: bytes, kind: int, flags: int, stream: int) -> bytes:
    """A whole frame."""
    return header(len(payload), kind, flags, stream) + payload


def text(value: bytes) -> bytes:
    """A string of a field block as it is (RFC 7541 §5.2)."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    out = bytearray((127,))
    left = size - 127
    while left >= 128:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out) + value


def field_block(first: bytes, second: bytes, third: bytes, fourth: bytes, request_id: bytes, length: int) -> bytes:
    """A message's field block: four parts of it, the value of the last's field (``x-request-id``), and the ``length`` of its
    body, -1 = nothing is said of one."""
    tail = _LENGTH_NAME + text(b"%d" % length) if length >= 0 else b""
    return b"".join((first, second, third, fourth, text(request_id), tail))


def _skip(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer at ``at`` (RFC 7541 §5.1), and where it ends; -1 = it is longer than any that is good."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14):
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
    return -1, at


def cut(block: bytes, most: int) -> list[bytes] | None:
    """A field block in its fields, each as it is written (RFC 7541 §6): without a table each means the same wherever it stands.
    None = there are more than ``most``, an update of a table is among them, or it is none."""
    parts: list[bytes] = []
    at = 0
    end = len(block)
    try:
        while at < end:
            start = at
            first = block[at]
            if first & 0x80:
                which, at = _skip(block, at, 7)
            elif first & 0xE0 == 0x20:
                return None
            else:
                which, at = _skip(block, at, 6 if first & 0x40 else 4)
                for _ in range(1 if which else 2):
                    size, at = _skip(block, at, 7)
                    if size < 0:
                        return None
                    at += size
            if which < 0 or at > end or len(parts) == most:
                return None
            parts.append(block[start:at])
    except IndexError:
        return None
    return parts


def bare(block: bytes) -> tuple[bytes, int]:
    """A field block without what each message has of its own: the same block with the first ``content-length`` and the first
    ``x-request-id`` of it written as empty; and that length, -1 = none was left out. (Only what any reader would take, and
    takes for just that: digits, and visible characters.)"""
    length = -1
    with_id = False
    out: list[bytes] = []
    at = told = 0
    end = len(block)
    try:
        while at < end:
            start = at
            first = block[at]
            if first & 0x80 or first & 0xE0 == 0x20:
                which, at = _skip(block, at, 7 if first & 0x80 else 5)
                if which < 0:
                    return block, -1
                continue
            which, at = _skip(block, at, 6 if first & 0x40 else 4)
            size = 0
            if not which:
                size, at = _skip(block, at, 7)
                at += size
            value = at
            long = block[at] >= _LONG
            more, at = _skip(block, at, 7)
            at += more
            if which < 0 or size < 0 or more < 0 or at > end:
                return block, -1
            if long or not more:
                continue
            if length < 0 and which == _LENGTH_INDEX and more <= 18 and block[value + 1 : at].isdigit():
                length = int(block[value + 1 : at])
            elif not with_id and block[start + 1 : value] == _ID_NAME and not block[value + 1 : at].translate(None, _VISIBLE):
                with_id = True
            else:
                continue
            out.append(block[told:value])
            out.append(_EMPTY)
            told = at
    except IndexError:
        return block, -1
    return (b"".join(out) + block[told:], length) if told else (block, -1)


class FrameReader:
    """Feed it what was read, then ask for :meth:`next` until there is none.

    Of the frame that was found: ``kind``, ``flags``, ``stream``, ``size`` (of its whole payload). ``start`` and ``stop`` say
    where in the read its payload is, or the part of it that has come; ``whole``: nothing of it is to come any more.
    ``oversized``: its header announces more than :data:`MOST_FRAME_BYTES`, and nothing can be read behind it. A payload is
    good until the next read; who keeps it longer than that copies it.
    """

    __slots__ = ("_at", "_data", "_held", "_left", "flags", "kind", "oversized", "size", "start", "stop", "stream", "whole")

    def __init__(self) -> None:
        self._data = b""
        self._held = b""
        self._at = 0
        self._left = 0  # of a DATA frame's payload
        self.kind = -1
        self.flags = 0
        self.stream = 0
        self.size = 0
        self.start = 0
        self.stop = 0
        self.whole = True
        self.oversized = False

    @property
    def held(self) -> int:
        """How many bytes are held of a frame that has not come whole."""
        return len(self._held)

    def halfway(self) -> bool:
        """Whether a frame has begun that can only be looked at when it is whole."""
        return self._held != b""

    def feed(self, data: bytes) -> None:
        """What was read. All that was fed before has been asked for."""
        if self._held:
            data = self._held + data
            self._held = b""
        self._data = data
        self._at = 0

    def next(self) -> bool:
        """Whether there is another frame, or another part of one."""
        data = self._data
        at = self._at
        end = len(data)
        if self._left:
            return self._go_on(at, end)
        if end - at < HEADER_BYTES:
            return self._wait(at, end)
        size = int.from_bytes(data[at : at + 3], "big")
        self.kind = data[at + 3]
        self.flags = data[at + 4]
        self.stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        self.size = size
        if size > MOST_FRAME_BYTES:
            self.oversized = True
            return True
        start = at + HEADER_BYTES
        if self.kind == DATA and not self.flags & PADDED:
            self._left = size
            if size:
                return self._go_on(start, end)
        elif end - start < size:
            return self._wait(at, end)
        self.whole = True
        self.start = start
        self._at = self.stop = start + size
        return True

    def _go_on(self, at: int, end: int) -> bool:
        """More of a DATA frame's payload."""
        self._at = end
        if at == end:
            self._data = b""
            self._at = 0
            return False
        size = min(self._left, end - at)
        self._left -= size
        self.whole = not self._left
        self.start = at
        self._at = self.stop = at + size
        return True

    def _wait(self, at: int, end: int) -> bool:
        if at < end:
            self._held = keep(self._data, at)
        self._data = b""
        self._at = 0
        return False

    def payload(self) -> bytes:
        """Of the frame that was found, what has come of its payload."""
        data = self._data
        return data[self.start : self.stop]

    def frame(self) -> bytes:
        """The frame that was found, its header too. (Of whole frames.)"""
        return self._data[self.start - HEADER_BYTES : self.stop]
