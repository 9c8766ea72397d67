"""The frames of a WebSocket (RFC 6455) as an engine sends them, read as they pass: what each answer has used, and nothing else.

Owns: where a frame and a message end, and which text messages end an answer. Must never: change, delay or keep a byte that is
only passed on. Most messages are known by their first bytes: audio is skipped, and what ends an answer is scanned as it comes,
however long it is. Of one whose ``type`` stands later ``MAX_MESSAGE_BYTES`` are kept; a longer one ends an answer where its
last member says so. What breaks the protocol is not judged here: from there on nothing is read (``lost``).

Invariant: what is said does not depend on how the bytes were split.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

import msgspec

from fastgw.accel.fields import values_in
from fastgw.accel.heads import ResponseHead
from fastgw.accel.usage import UsageScanner, scanned

Counts = tuple[int, int, int, int, int]
"""(prompt, completion, of the prompt cached, of the completion reasoning) tokens, and seconds of audio; -1 = not said."""

UNSAID: Final[Counts] = (-1, -1, -1, -1, -1)

MAX_MESSAGE_BYTES: Final = 1 << 16  # of one whose type is not among its first bytes; a longer one is not looked into
LOOK_BYTES: Final = 256  # of a message, within which its `type` usually stands

TUNNEL: Final = b"fastgw.tunnel.1"
"""The subprotocol of a runner over whose connection its engine is asked: HTTP/2 in binary messages."""

# The status of a close (RFC 6455 §7.4.1):
GOING_AWAY: Final = 1001  # the server ends
SPENT: Final = 1008  # a policy was violated
FAILED: Final = 1011  # the server met what it had not expected
AGAIN: Final = 1013  # it has no room now: try again later
MAX_REASON_BYTES: Final = 123  # of its reason (§5.5)

# The messages that end an answer: of the Realtime API and the Responses API, and of transcriptions.
_ENDS: Final = frozenset((
    b"response.done", b"response.completed", b"response.incomplete", b"response.failed", b"transcription.done",
    b"transcript.text.done", b"conversation.item.input_audio_transcription.completed",
))  # fmt: skip

NO: Final = 0
PERHAPS: Final = 1
YES: Final = 2

# (Pydantic's order has the type last: vLLM and SGLang write so.)
_LAST_TYPE: Final = re.compile(rb'[,{]\s*"type"\s*:\s*"([a-z_.]+)"\s*}\s*\Z').search


class _Event(msgspec.Struct):
    type: Any = None


_event: Final = msgspec.json.Decoder(_Event)


def ends_answer(message: bytes) -> Counts | None:
    """What the answer has used that ``message`` ends; None where it ends none."""
    seen = look(message, 0, min(len(message), LOOK_BYTES))
    if seen == PERHAPS:
        try:
            kind = _event.decode(message).type
        except (ValueError, RecursionError):  # (msgspec's own errors are ValueErrors)
            return None
        seen = YES if isinstance(kind, str) and kind.encode() in _ENDS else NO
    return None if seen == NO else _counts(scanned(message))


def _counts(scanner: UsageScanner) -> Counts:
    return (*scanner.figures(), scanner.seconds)


_ACCEPT: Final = b"sec-websocket-accept:"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


def new_key(dice: bytes) -> bytes:
    """A client's Sec-WebSocket-Key, of 16 random bytes (§4.1)."""
    from binascii import b2a_base64  # (no part of a start)

    return b2a_base64(dice, newline=False)


def is_key(key: bytes) -> bool:
    """Whether this is 16 bytes in Base64, as a Sec-WebSocket-Key has to be (§4.2.1)."""
    from binascii import Error, a2b_base64

    try:
        return len(key) == 24 and len(a2b_base64(key, strict_mode=True)) == 16
    except Error:
        return False


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers ``key`` (§4.2.2)."""
    from binascii import b2a_base64
    from hashlib import sha1

    return b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def accepts(lines: bytes, key: bytes) -> bool:
    """Whether the fields of a 101 answer ``key``."""
    return values_in(lines, b"sec-websocket-accept") == (accept_of(key),)


def switching(lines: bytes, dated: bool) -> ResponseHead:
    """The head of a 101 with these fields; ``dated``: a Date is among them."""
    return ResponseHead(101, 1, b"HTTP/1.1 101 Switching Protocols\r\n", lines, -1, False, True, False, False, dated, -1.0, -1)


def without_accept(lines: bytes) -> bytes:
    """The fields of an answer, without its Sec-WebSocket-Accept: HTTP/2 has none (RFC 8441 §5)."""
    return b"".join([line + b"\r\n" for line in lines.split(b"\r\n") if line and line[:21].lower() != _ACCEPT])


def close_frame(code: int, reason: str) -> bytes:
    """A server's close (RFC 6455 §5.5.1)."""
    payload = struct.pack(">H", code) + reason.encode("ascii", "replace")[:MAX_REASON_BYTES]
    return bytes((0x88, len(payload))) + payload


class Frames:
    """One direction of one session: feed it all that an engine sends behind its 101."""

    __slots__ = (
        "_final", "_head", "_left", "_looked", "_message", "_overlong", "_reading", "_scanner", "_within",
        "closes", "lost", "said",
    )  # fmt: skip

    def __init__(self) -> None:
        self.lost = False  # what came is no frame: nothing is read any more
        self.closes = False  # a close has begun: it is the last (§5.5.1)
        self.said: Counts | None = None  # by the message that :meth:`feed` stopped behind
        self._head = b""  # the beginning of a frame's head
        self._left = -1  # bytes of the frame's payload that are to come, -1 = its head is
        self._final = False  # the frame ends its message
        self._within = False  # a message has begun
        self._reading = False  # and this frame's part of it may be of interest
        self._looked = PERHAPS  # what its first bytes have shown
        self._overlong = False
        self._message: bytearray | None = None  # what of it has come, while nobody knows
        self._scanner: UsageScanner | None = None  # of one that ends an answer

    def feed(self, data: bytes, at: int) -> int:
        """Read ``data`` from ``at`` on; returns where a message ended that ends an answer (``said`` has what that used), or
        its length (``said`` is None)."""
        self.said = None
        size = len(data)
        while at < size:
            if self._left < 0:
                at = self._take_head(data, at)
                if self._left < 0:
                    return size
            end = size if size - at < self._left else at + self._left
            if self._reading and end > at:
                self._keep(data, at, end)
            self._left -= end - at
            at = end
            if self._left:
                return size
            self._left = -1
            if self._final:
                self._final = False
                self._within = False
                if self._looked != NO:
                    self.said = self._end()
                    if self.said is not None:
                        return at
        return size

    def stands(self) -> bool:
        """Whether it is between two frames, so that one of ours can follow (within a message too, §5.5), and no close has."""
        return not self.within() and not self.lost and not self.closes

    def within(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return self._left >= 0 or len(self._head) > 0

    def mid_message(self) -> bool:
        """Whether a message has begun that has not ended: no other may begin (§5.4)."""
        return self._within

    def _take_head(self, data: bytes, at: int) -> int:
        """A frame's head, or what there is of it; returns where its payload begins."""
        if self.lost:
            return at
        early = len(self._head)
        if early:
            head = self._head + data[at : at + 10 - early]
            start = 0
        else:
            head = data
            start = at
        there = len(head) - start
        first = head[start]
        length = head[start + 1] & 0x7F if there > 1 else 0
        size = 2 if length < 126 else 4 if length == 126 else 10
        if there < size:
            self._head = head[start:]
            return at
        self._head = b""
        opcode = first & 0x0F
        if size == 4:
            length = head[start + 2] << 8 | head[start + 3]
        elif size == 10:
            length = int.from_bytes(head[start + 2 : start + 10], "big") if head[start + 2] < 0x80 else -1
        # An extension that nobody agreed on, a mask (only clients have one), and 2^63 bytes or more: no frame of a server.
        if first & 0x70 or head[start + 1] & 0x80 or length < 0:
            self._lose()
            return at
        at += size - early
        if opcode >= 8:
            # Control frames stand between those of a message, and are whole.
            if opcode > 10 or length > 125 or not first & 0x80:
                self._lose()
                return at
            self._reading = False
            self._left = length
            self.closes = self.closes or opcode == 8
            return at
        if opcode > 2 or (opcode == 0) != self._within:
            self._lose()
            return at
        self._within = True
        self._final = first & 0x80 != 0
        self._left = length
        if opcode:
            self._looked = PERHAPS if opcode == 1 else NO
        self._reading = self._looked != NO
        return at

    def _lose(self) -> None:
        self.lost = True
        self._left = -1
        self._message = None
        self._scanner = None

    def _keep(self, data: bytes, start: int, end: int) -> None:
        """A piece of a text message that may end an answer."""
        message = self._message
        if self._scanner is not None:
            self._scanner.feed(data[start:end])
            if self._overlong and message is not None:
                message += data[max(start, end - LOOK_BYTES) : end]
                del message[:-LOOK_BYTES]
            return
        held = 0 if message is None else len(message)
        if held < LOOK_BYTES:
            if message is None:
                seen = look(data, start, min(end, start + LOOK_BYTES))
            else:
                begun = bytes(message) + data[start : min(end, start + LOOK_BYTES - held)]
                seen = look(begun, 0, len(begun))
            if seen != PERHAPS:
                self._looked = seen
                self._reading = seen == YES
                self._message = None
                if seen == YES:
                    self._scanner = UsageScanner()
                    if message is not None:
                        self._scanner.feed(bytes(message))
                    self._scanner.feed(data[start:end])
                return
        if held + end - start > MAX_MESSAGE_BYTES:
            # (Its `type` may be its last member; until then it is read as if it were of interest.)
            self._overlong = True
            self._scanner = UsageScanner()
            if message is None:
                message = bytearray()
            self._scanner.feed(bytes(message))
            self._scanner.feed(data[start:end])
            message += data[max(start, end - LOOK_BYTES) : end]
            self._message = message[-LOOK_BYTES:]
        elif message is None:
            self._message = bytearray(data[start:end])
        else:
            message += data[start:end]

    def _end(self) -> Counts | None:
        """The text message is whole."""
        message = self._message
        scanner = self._scanner
        overlong = self._overlong
        self._message = None
        self._scanner = None
        self._overlong = False
        if scanner is not None:
            if overlong:
                last = _LAST_TYPE(bytes(message)) if message is not None else None
                return _counts(scanner) if last is not None and last[1] in _ENDS else None
            return _counts(scanner)
        return None if message is None else ends_answer(bytes(message))


def look(data: bytes, start: int, end: int) -> int:
    """Whether a message that begins with ``data[start:end]`` ends an answer: YES, NO, or PERHAPS where its ``type`` is not
    there, or not plain to see. (A quote within a text is escaped, so what is found in quotes before a colon is a name.)"""
    at = data.find(b'"type"', start, end)
    if at < 0:
        return PERHAPS
    # (Usually it is the first name.)
    first = at == start + 1 and data[start] == 0x7B
    if not first and (data.count(b"{", start, at) != 1 or data.find(b"[", start, at) >= 0):
        return PERHAPS
    at += 6
    while at < end and data[at] in b" \t\r\n:":
        at += 1
    if at >= end or data[at] != 0x22:
        return PERHAPS
    close = data.find(b'"', at + 1, end)
    if close < 0 or data.find(b"\\", at, close) >= 0:
        return PERHAPS
    return YES if data[at + 1 : close] in _ENDS else NO
