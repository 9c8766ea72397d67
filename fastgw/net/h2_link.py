"""What both ends of HTTP/2 have of a connection: frames in, frames out, windows, the handshake and the peer's budgets.

    CONNECTING  there is no connection yet
    GREETING    nothing has come from the peer; its first word must be its SETTINGS (RFC 9113 §3.4)
    OPEN        takes requests
    LEAVING     what is under way goes on to its end, and nothing else
    CLOSED      terminal

One read for all streams: frames are gone through, and then each stream tells once what came for it. One write a turn: what a
turn of the loop made for this connection (heads, bodies, credit, resets) is put together, and leaves with one call when the
turn ends. What belongs to streams is the subclass's: it is told of whole field blocks, of DATA, and of what ends them.

Invariant: what the peer makes us hold is bounded: one frame, one field block, and what its streams may send by their windows;
what it makes us do, by its budgets. What breaks the protocol for all ends the connection (§5.4.1), with a GOAWAY that says why.
"""

from __future__ import annotations

import enum
from typing import Final

from fastgw.accel.frames import FrameReader
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.wire import QUEUED, RECV_BYTES, Holder, Wire
from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.budget import Budgets
from fastgw.protocol.h2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PRIORITISED, H2Error
from fastgw.protocol.h2.hpack import MOST_LIST_BYTES
from fastgw.protocol.h2.lean import Control

CONNECTION_WINDOW_BYTES: Final = 4 << 20
"""What a peer may send on all streams of a connection ahead of what was read. (It is read at once: what a stream may hold is
bounded by its own window.)"""
_half_window: Final = CONNECTION_WINDOW_BYTES // 2
MOST_CONTINUATIONS: Final = 8  # frames of one field block behind its first (nghttp2's figure)
TOO_LONG: Final = f"a header block of more than {MOST_LIST_BYTES} bytes, or than {1 + MOST_CONTINUATIONS} frames"


class LinkState(enum.IntEnum):
    CONNECTING = 0
    GREETING = 1
    OPEN = 2
    LEAVING = 3
    CLOSED = 4


CONNECTING: Final = LinkState.CONNECTING
GREETING: Final = LinkState.GREETING
OPEN: Final = LinkState.OPEN
LEAVING: Final = LinkState.LEAVING
CLOSED: Final = LinkState.CLOSED
_greeting: Final = GREETING  # (asked for each frame: the compiled twin has it at hand)


class H2Link(Holder):
    """See the head of this file."""

    __slots__ = (
        "_acked", "_asked_at", "_block", "_block_flags", "_block_stream", "_continuations", "_flushing", "_half_at", "_heard",
        "_out", "_pinged", "_pings", "_room", "_unsaid", "budgets", "control", "reactor", "reader", "state", "window", "wire",
        "writable",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, wire: Wire, control: Control) -> None:
        super().__init__()
        self.reactor = reactor
        self.wire = wire
        self.state = CONNECTING
        self.control = control
        self.budgets = Budgets()
        self.reader = FrameReader()
        self.window = h2.FIRST_WINDOW  # of the connection, towards the peer
        self.writable = True
        self._out: list[bytes] = []  # what this turn has made
        self._flushing = False
        self._room = h2.FIRST_WINDOW  # what the peer may still send on all streams
        self._unsaid = 0
        # A field block of which more is to come: of which stream, 0 = there is none.
        self._block = bytearray()
        self._block_stream = 0
        self._block_flags = 0
        self._continuations = 0
        self._pings = 0  # sent,
        self._acked = 0  # and the last that was acknowledged
        self._asked_at = 0.0  # since when there is none of those that are under way
        self._pinged = False  # asked whether it is there, and not answered
        self._heard = False  # a frame came whole since the last look
        self._half_at = 0.0  # since when a frame, or a field block, is under way that others have to wait for; 0.0 = none is
        wire.holder = self

    # --- what a subclass makes of it
    def on_data(self, number: int, size: int, taken: int, payload: bytes | None, last: bool) -> None:
        """``size`` bytes of a body, which are ``payload`` (None: the reader has them), ``taken`` from the windows; ``last``: it
        ends there."""
        raise NotImplementedError

    def on_block(self, number: int, block: bytes, last: bool) -> None:
        """A whole field block; ``last``: no body follows."""
        raise NotImplementedError

    def on_reset(self, number: int, code: int) -> None:
        """The peer has ended that stream."""
        raise NotImplementedError

    def on_goaway(self, last: int, code: int) -> None:
        """The peer takes no more streams: none above ``last`` was looked at."""
        raise NotImplementedError

    def on_window(self, number: int, more: int) -> None:
        """There is more room on one stream; 0 = the peer said so, which it must not."""
        raise NotImplementedError

    def on_settings(self, more: int) -> None:
        """The peer's settings have come; each stream has so much ``more`` room, or less."""
        raise NotImplementedError

    def on_room(self) -> None:
        """There may be room on the connection again, or on its wire."""
        raise NotImplementedError

    def on_other(self, kind: int, number: int, payload: bytes) -> None:
        """A frame that means nothing here: a PRIORITY, or of a kind that is not known."""
        self.budgets.glitches.spend(monotonic())

    def on_acked(self, ping: int) -> None:
        """The peer has seen all that was sent before that PING."""

    def is_idle(self, number: int) -> bool:
        """Whether nobody has opened that stream yet, or nobody can."""
        raise NotImplementedError

    def deliver(self) -> None:
        """A read has been gone through: tell what came."""
        raise NotImplementedError

    def halved(self) -> None:
        """Half of something has come, and nothing behind it can be read before the rest: see :meth:`half_for`."""

    def flushing(self) -> None:
        """What this turn made is about to go out: what else belongs to it."""

    def flushed(self) -> None:
        """It is out."""

    def broken(self, error: H2Error) -> None:
        """It cannot be read on."""
        raise NotImplementedError

    def ended(self, how: str) -> None:
        """The peer has closed, ``"fin"`` or ``"reset"``."""
        raise NotImplementedError

    def crashed(self, error: BaseException) -> None:
        """A bug showed."""
        raise NotImplementedError

    # --- the write side
    def greet(self) -> None:
        """Say our preface, and give the connection its window."""
        self.state = GREETING
        self._room = CONNECTION_WINDOW_BYTES
        self.put(self.control.begin())
        self.put(h2.window_update(0, CONNECTION_WINDOW_BYTES - h2.FIRST_WINDOW))

    def connected(self) -> None:
        """Its wire is ready."""
        self.greet()
        self.wire.resume()

    def put(self, data: bytes) -> None:
        """Send this with the rest of this turn."""
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            self.reactor.poller.soon(self.flush)

    def flush_soon(self) -> None:
        """See to it that this turn ends with a :meth:`flush`."""
        if not self._flushing:
            self._flushing = True
            self.reactor.poller.soon(self.flush)

    def flush(self) -> None:
        """The turn ends: one call for all that it made."""
        self._flushing = False
        if self.state is CLOSED:
            return
        self.flushing()
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if self.wire.write(data) == QUEUED:
                self.writable = False
        self.flushed()

    def ping(self) -> None:
        """Ask the peer what it has seen."""
        if not self.unacked():
            self._asked_at = monotonic()
        self._pings += 1
        self._out.append(h2.ping(self._pings.to_bytes(8, "big")))
        self.flush_soon()

    def alive(self) -> bool:
        """Asked now and then: False where the peer says nothing, though it was asked whether it is there."""
        if self._heard:
            self._heard = self._pinged = False
        elif self._pinged:
            return False
        else:
            self._pinged = True
            self.ping()
        return True

    def doubt(self) -> None:
        """Ask it now: :meth:`alive` is due next."""
        self._heard = False
        self._pinged = True
        self.ping()

    def unacked(self) -> bool:
        """Whether a PING is under way."""
        return self._acked < self._pings

    def unanswered_for(self, now: float) -> float:
        """So many seconds a PING has been under way; 0.0 = none is."""
        return now - self._asked_at if self.unacked() else 0.0

    def half_for(self, now: float) -> float:
        """So many seconds the connection has waited for the rest of one frame, or one field block; 0.0 = it does not. (The
        payload of DATA goes on as it comes, and is none.)"""
        return now - self._half_at if self._half_at else 0.0

    def on_written(self) -> None:
        self.writable = True
        self.on_room()

    def last_words(self, last: int, code: int) -> None:
        """The GOAWAY behind what this turn has made; nothing is written after it."""
        self._out.append(h2.goaway(last, code))
        self.wire.write(b"".join(self._out))
        self._out.clear()

    # --- the read side
    def on_readable(self) -> None:
        try:
            data = self.wire.recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.ended("reset")
            return
        if not data:
            self.ended("fin")
            return
        self.came(data)

    def came(self, data: bytes) -> None:
        """What was read."""
        reader = self.reader
        reader.feed(data)
        error: H2Error | None = None
        found = 0
        try:
            while reader.next():
                found += 1
                if reader.kind == DATA and not self._block_stream and self.state is not _greeting and not reader.oversized:
                    self._take_data(reader)
                else:
                    self._take(reader)
        except H2Error as broken:
            error = broken
        except Exception as bug:
            self.crashed(bug)
            error = H2Error(h2.INTERNAL_ERROR, "a bug")
        if found > 1 or (found and reader.whole):
            self._heard = True
        if self._block_stream or reader.halfway():
            self._note_half(found)
        elif self._half_at:
            self._half_at = 0.0
        self.deliver()
        if error is not None:
            self.broken(error)
        elif self._unsaid >= _half_window and self.state is not CLOSED:
            self.put(h2.window_update(0, self._unsaid))
            self._room += self._unsaid
            self._unsaid = 0

    def _note_half(self, found: int) -> None:
        """Its time runs from where it began: more of the same, or of one block, is no beginning."""
        if not self._half_at or (found and not self._block_stream):
            self._half_at = monotonic()
            self.halved()

    def _take_data(self, reader: FrameReader) -> None:
        size = taken = reader.stop - reader.start
        payload = None
        flags = reader.flags
        if flags & PADDED:
            taken = reader.size
            payload = unpadded(reader.payload())
            size = len(payload)
        self._unsaid += taken
        self._room -= taken
        if self._room < 0:
            raise H2Error(h2.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        last = reader.whole and flags & END_STREAM != 0
        if size:
            self.budgets.payload()
        elif not last:
            self.budgets.empty()
        self.on_data(reader.stream, size, taken, payload, last)

    def _take(self, reader: FrameReader) -> None:
        """What is not DATA, or comes where DATA cannot."""
        kind = reader.kind
        if self.state is GREETING:
            if kind != h2.SETTINGS or reader.oversized or reader.stream or reader.flags & h2.ACK:
                raise H2Error(h2.PROTOCOL_ERROR, "its first word is not SETTINGS")
        elif reader.oversized:
            raise H2Error(h2.FRAME_SIZE_ERROR, "a frame is larger than allowed")
        if self._block_stream:
            if kind != h2.CONTINUATION or reader.stream != self._block_stream:
                raise H2Error(h2.PROTOCOL_ERROR, "another frame within a field block")
            self._continue(reader)
        elif kind == HEADERS:
            self._take_headers(reader)
        elif kind == h2.WINDOW_UPDATE:
            self._take_window_update(reader)
        elif kind == h2.RST_STREAM:
            if reader.size != 4:
                raise H2Error(h2.FRAME_SIZE_ERROR, "RST_STREAM of another size")
            self._not_idle(reader.stream)
            self.on_reset(reader.stream, int.from_bytes(reader.payload(), "big"))
        elif kind == h2.SETTINGS or kind == h2.PING:
            self._take_control(reader)
        elif kind == h2.GOAWAY:
            if reader.stream or reader.size < 8:
                raise H2Error(h2.PROTOCOL_ERROR if reader.stream else h2.FRAME_SIZE_ERROR, "a malformed GOAWAY")
            payload = reader.payload()
            self.on_goaway(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big"))
        elif kind == h2.CONTINUATION or kind == h2.PUSH_PROMISE:
            raise H2Error(h2.PROTOCOL_ERROR, "a frame that nobody asked for")
        else:
            self.on_other(kind, reader.stream, reader.payload())

    def _not_idle(self, number: int) -> None:
        if self.is_idle(number):
            raise H2Error(h2.PROTOCOL_ERROR, "a frame for a stream that does not exist")

    def stray(self, number: int) -> None:
        """A frame for a stream that has ended, or never was. Raises H2Error."""
        self._not_idle(number)
        self.budgets.glitches.spend(monotonic())

    # --- field blocks
    def _take_headers(self, reader: FrameReader) -> None:
        flags = reader.flags
        block = reader.payload()
        if flags & PADDED:
            block = unpadded(block)
        if flags & PRIORITISED:
            if len(block) < 5:
                raise H2Error(h2.FRAME_SIZE_ERROR, "HEADERS too short for a priority")
            if int.from_bytes(block[:4], "big") & 0x7FFFFFFF == reader.stream:
                raise H2Error(h2.PROTOCOL_ERROR, "a stream that depends on itself")
            block = block[5:]
        number = reader.stream
        if flags & END_HEADERS:
            self.on_block(number, block, flags & END_STREAM != 0)
            return
        if not number:
            raise H2Error(h2.PROTOCOL_ERROR, "HEADERS for no stream")
        self._block += block
        self._half_at = 0.0  # (a new one, whatever was half there before)
        self._block_stream = number
        self._block_flags = flags
        self._continuations = 0

    def _continue(self, reader: FrameReader) -> None:
        self._continuations += 1
        self._block += reader.payload()
        if self._continuations > MOST_CONTINUATIONS or len(self._block) > MOST_LIST_BYTES:
            raise H2Error(h2.ENHANCE_YOUR_CALM, TOO_LONG)
        if reader.flags & END_HEADERS:
            block = bytes(self._block)
            number = self._block_stream
            self._half_at = 0.0
            self._block.clear()
            self._block_stream = 0
            self.on_block(number, block, self._block_flags & END_STREAM != 0)

    # --- the connection's own
    def _take_control(self, reader: FrameReader) -> None:
        control = self.control
        if not (reader.kind == h2.PING and reader.flags & h2.ACK and self.unacked()):
            # (Who answers what it was asked spends nothing.)
            self.budgets.pings.spend(monotonic())
        before = control.window()
        answer = control.take(reader.frame())
        if answer:
            self.put(answer)
        if reader.kind == h2.SETTINGS:
            if not reader.flags & h2.ACK:
                self.on_settings(control.window() - before)
            return
        for data in control.pings:
            number = int.from_bytes(data, "big")
            if self._acked < number <= self._pings:
                self._acked = number
                self._asked_at = monotonic()
                self._pinged = False
                self.on_acked(number)
        control.pings.clear()

    def _take_window_update(self, reader: FrameReader) -> None:
        if reader.size != 4:
            raise H2Error(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size")
        self.budgets.update()
        more = int.from_bytes(reader.payload(), "big") & 0x7FFFFFFF
        number = reader.stream
        if number:
            self._not_idle(number)
            self.on_window(number, more)
            return
        self.window += more
        if not more or self.window > h2.MOST_WINDOW:
            raise H2Error(h2.FLOW_CONTROL_ERROR if more else h2.PROTOCOL_ERROR, "a window of no or of too many bytes")
        self.on_room()


def unpadded(payload: bytes) -> bytes:
    """What stands before the padding (RFC 9113 §6.1)."""
    pad = payload[0] if payload else 0
    if pad >= len(payload):
        raise H2Error(h2.PROTOCOL_ERROR, "more padding than there is room for")
    return payload[1 : len(payload) - pad]
