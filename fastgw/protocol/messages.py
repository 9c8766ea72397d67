"""The messages of a WebSocket (RFC 6455) that ends here: texts, the bytes of a stream, and what keeps it alive.

Owns: where frames begin and end, and what may come when. What comes in binary messages is one stream of bytes: where a message
of it ends means nothing, and none is kept to be whole. A text is told when it is whole, and has a bound; a ping and a close
have the protocol's (125 bytes). Both ends know who masks: a client does, a server does not (§5.1), and whoever does otherwise
is not listened to. No extension is agreed on, so no reserved bit means anything. Must never: take a length written longer than
it has to be (§5.2), or go on behind a close.

Invariant: what is told does not depend on how the bytes were split, but for the pieces of the stream.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.masks import unmasked
from fastgw.accel.sockets import keep

CONTINUED: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
FIN: Final = 0x80
# (The compiled twin has these as C numbers.)
_continued: Final = CONTINUED
_text: Final = TEXT
_binary: Final = BINARY
_close: Final = CLOSE
_pong: Final = PONG
_fin: Final = FIN

MOST_CONTROL_BYTES: Final = 125  # of a ping, a pong, a close (§5.5)
MAX_BINARY_BYTES: Final = 1 << 20
"""Of one frame's. (Ours have a sixteenth; nothing of it is kept.)"""
MOST_EVENTS: Final = 256
"""Texts, pings and pongs in one read: whoever sends more of them means no good."""
MOST_EMPTY: Final = 1024
"""Frames of a stream, or of texts, without a byte, between two with some. (Some end each text by one.)"""

# RFC 6455 §7.4.1.
DONE: Final = 1000
AWAY: Final = 1001
WRONG: Final = 1002
NO_TEXT: Final = 1003
INVALID: Final = 1007
POLICY: Final = 1008
TOO_LONG: Final = 1009
NO_STATUS: Final = 1005

Event = tuple[int, bytes]


class MessageError(Exception):
    """What came is no message of a WebSocket; ``code`` is that of the close that answers it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class MessageReader:
    """One direction. ``masked``: a client's. ``texts``: their bound in bytes. ``events`` has what was told of since it was
    emptied, ``closed`` the code of a close that has come, -1 = none has, and ``reason`` what it says of why."""

    __slots__ = (
        "_deaf", "_empty", "_head", "_key", "_last", "_left", "_masked", "_message", "_opcode", "_part", "_phase", "_texts",
        "_within", "closed", "events", "reason",
    )  # fmt: skip

    def __init__(self, masked: bool, texts: int) -> None:
        self.events: list[Event] = []
        self.closed = -1
        self.reason = b""
        self._masked = masked
        self._texts = texts
        self._head = b""  # the beginning of a frame's head
        self._left = -1  # bytes of the frame's payload that are to come, -1 = its head is
        self._key = b""
        self._phase = 0  # bytes of the frame's payload that have come
        self._last = False
        self._opcode = 0  # of the frame
        self._within = 0  # a message has begun that goes on: of which kind
        self._message = bytearray()
        self._deaf = False
        self._part = bytearray()  # of a ping, a pong or a close
        self._empty = 0

    def feed(self, data: bytes) -> bytes:
        """Read ``data``; returns the stream's bytes in it. Raises MessageError."""
        size = len(data)
        at = 0
        found = b""
        more: list[bytes] | None = None
        while at < size and self.closed < 0:
            if self._left < 0:
                at = self._take_head(data, at)
                if self._left < 0:
                    break
            end = at + self._left
            if end > size:
                end = size
            piece = unmasked(data, at, end, self._key, self._phase)
            self._phase += end - at
            self._left -= end - at
            at = end
            if piece and self._opcode <= BINARY:
                self._empty = 0
            if self._opcode == BINARY:
                if piece:
                    if not found:
                        found = piece
                    elif more is None:
                        more = [found, piece]
                    else:
                        more.append(piece)
            elif self._opcode != TEXT:
                self._part += piece
            elif not self._deaf:
                self._message += piece
            if not self._left:
                self._left = -1
                self._frame_ends()
        return found if more is None else b"".join(more)

    def held(self) -> int:
        """Bytes of a text that is not whole yet."""
        return len(self._message)

    def forget_texts(self) -> None:
        """Texts are not listened to any more: what has come of one is let go, and no more is kept."""
        self._deaf = True
        self._message = bytearray()

    def _take_head(self, data: bytes, at: int) -> int:
        """A frame's head, as far as it has come; returns where that ends."""
        head = data
        held = len(self._head)
        if held:  # (hardly ever: what a write has sent is read as it is)
            head = self._head + data[at : at + 14 - held]
        start = 0 if held else at
        size = len(head) - start
        if size < 2:
            return self._wait(head, start, at - held)
        first, second = head[start], head[start + 1]
        self._judge(first, second)
        length = second & 0x7F
        wide = 2 if length == 126 else 8 if length == 127 else 0
        need = 2 + wide + (4 if self._masked else 0)
        if size < need:
            return self._wait(head, start, at - held)
        if wide:
            if wide == 8 and head[start + 2]:
                raise MessageError(TOO_LONG, "a frame that is too long")
            length = 0
            for place in range(start + 2, start + 2 + wide):
                length = length << 8 | head[place]
            if length < (126 if wide == 2 else 65536):
                raise MessageError(WRONG, "a length written longer than it has to be")
        self._head = b""
        opcode = first & 15
        self._last = first & _fin != 0
        if opcode == CONTINUED:
            opcode = self._within
        if opcode == TEXT:
            if len(self._message) + length > self._texts:
                raise MessageError(TOO_LONG, "a text that is too long")
            self._within = 0 if self._last else _text
        elif opcode == BINARY:
            if length > MAX_BINARY_BYTES:
                raise MessageError(TOO_LONG, "a frame that is too long")
            self._within = 0 if self._last else _binary
        if not length and opcode <= BINARY:
            self._empty += 1
            if self._empty > MOST_EMPTY:
                raise MessageError(POLICY, "frames without a byte")
        self._opcode = opcode
        self._key = unmasked(head, start + need - 4, start + need, b"", 0) if self._masked else b""
        self._phase = 0
        self._left = length
        return at + need - held

    def _wait(self, head: bytes, start: int, at: int) -> int:
        """For the rest of a frame's head, all of which that has come is ``head[start:]``; returns where that ends, of a read in
        which it began at ``at``."""
        self._head = keep(head, start)
        return at + len(self._head)

    def _judge(self, first: int, second: int) -> None:
        """Whether a frame may begin so, here. Raises MessageError."""
        opcode = first & 15
        if first & 0x70:
            raise MessageError(WRONG, "a reserved bit")
        if (second & 0x80 != 0) != self._masked:
            raise MessageError(WRONG, "a frame that is masked, or is not")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise MessageError(WRONG, "a frame of no kind")
            if not first & _fin or second & 0x7F > MOST_CONTROL_BYTES:
                raise MessageError(WRONG, "a control frame in pieces, or too long")
        elif opcode > BINARY:
            raise MessageError(WRONG, "a frame of no kind")
        elif (opcode == _continued) != (self._within != 0):
            raise MessageError(WRONG, "a message within another, or one that goes on and has not begun")

    def _frame_ends(self) -> None:
        opcode = self._opcode
        if opcode == _binary or (opcode == _text and not self._last):
            return
        if opcode == TEXT and self._deaf:
            return
        if opcode == TEXT:
            payload = bytes(self._message)
            self._message.clear()
        else:
            payload = bytes(self._part)
            self._part.clear()
        if opcode == CLOSE:
            if len(payload) == 1:
                raise MessageError(WRONG, "a close of one byte")
            self.closed = int.from_bytes(payload[:2], "big") if payload else NO_STATUS
            self.reason = payload[2:]
            return
        self.events.append((opcode, payload))
        if len(self.events) > MOST_EVENTS:
            raise MessageError(POLICY, "too many messages at once")
