"""One request at an engine over HTTP/2: its body under flow control on the way up, and what of its answer has come.

What a read brings for a stream is put together here and told once, when the read has been gone through (:meth:`deliver`): the
head, the payload, how it ended. A stream whose client does not take it is *held*: what still comes stays here, and the engine
gets no more credit, so that never more than a window (:data:`WINDOW_BYTES`) is held for it.

    waiting for a place   no connection has room: ``link`` is None, and ``home`` has it in its queue
    placed                it has its place among the streams of ``link``; ``number`` is 0 until the request goes out
    sent                  ``number`` is its own; the link knows it until both sides have ended, or one has reset it
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError, Source
from fastgw.net.clock import monotonic
from fastgw.net.h2_held import Held
from fastgw.net.h2_link import CLOSED, H2Link
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER, TICK_S
from fastgw.net.upstream import WANTS_HTTP1, Carrier, UpstreamStream
from fastgw.net.wire import QUEUED, SENT, Wire
from fastgw.protocol.body import DataSource, NoSource
from fastgw.protocol.h2.frames import FIRST_WINDOW
from fastgw.protocol.h2.heads import bad_answer
from fastgw.protocol.h2.lean import Control
from fastgw.protocol.h2.writer import request_block, start_block
from fastgw.protocol.start import RequestStart

WINDOW_BYTES: Final = 65535
"""What an engine may send on a stream ahead of its client: the protocol's own first window, given again when half was taken."""
FRAME_BYTES: Final = 16384  # what every peer takes in one DATA frame
_half_window: Final = FIRST_WINDOW // 2
NOT_ALLOWED: Final = ", and protocol = h2: with auto it is asked in HTTP/1.1"
LINGER_S: Final = 2.0
"""An answer that is complete by its length has its END_STREAM, or trailers, still to come: so long they are waited for."""


class Link(H2Link):
    """A connection, as the streams on it need it."""

    __slots__ = ("blamed", "connects", "own")

    def __init__(self, reactor: Reactor, wire: Wire, control: Control, own: tuple[bytes, bytes]) -> None:
        super().__init__(reactor, wire, control)
        self.own = own  # what all requests to this engine have: pseudo-fields, and fields
        self.blamed = False  # one of its streams has told that it ended
        self.connects = False  # the engine takes WebSockets on it (RFC 8441 §3)

    def unread(self) -> bool:
        """Whether there is something to be read of it."""
        return self.wire.unread()

    def begin(self, stream: H2UpstreamStream, block: bytes, last: bool) -> None:
        """Send a request's head: the stream has its number then."""
        raise NotImplementedError

    def data(self, stream: H2UpstreamStream, payload: bytes, last: bool) -> None:
        """Send some of its body, which fits all windows."""
        raise NotImplementedError

    def stuck(self, stream: H2UpstreamStream) -> None:
        """It has more to send than it may: it is told (:meth:`H2UpstreamStream.pump`) when there is room."""
        raise NotImplementedError

    def credit(self, stream: H2UpstreamStream, more: int) -> None:
        """The engine may send so much more on it."""
        raise NotImplementedError

    def leave(self, stream: H2UpstreamStream, code: int) -> None:
        """Nobody wants the stream any more: it is reset, where it has not ended (``code`` < 0: with CANCEL)."""
        raise NotImplementedError


class Places:
    """Whoever has the streams that wait for a place; the layer above is one."""

    __slots__ = ("unwanted",)

    def __init__(self) -> None:
        self.unwanted = 0  # requests in a row that the engine wanted in HTTP/1.1, none answered between

    def gave_up(self, stream: H2UpstreamStream) -> None:
        """It found no place in time."""
        raise NotImplementedError

    def left(self, stream: H2UpstreamStream) -> None:
        """It wants no place any more."""
        raise NotImplementedError

    def wants_h1(self, detail: str, requests: int) -> bool:
        """The engine will not have so many requests more in HTTP/2; 0 = none at all: whether they are asked in HTTP/1.1."""
        raise NotImplementedError

    def no_tunnels(self) -> GatewayError | None:
        """The engine takes no WebSockets over HTTP/2: what whoever wants one is told; None = it is asked for in HTTP/1.1."""
        raise NotImplementedError

    def crashed(self, error: BaseException) -> None:
        """A bug showed while a stream was served."""
        raise NotImplementedError


def _untold(head: ResponseHead) -> ResponseHead:
    """One that has trailers, and is not to be taken for the usual answer, which is its body and nothing else."""
    return ResponseHead(
        head.status, head.minor, head.status_line, head.forward, -1, head.chunked, head.keep_alive, head.sse, head.json,
        head.has_date, head.idle_s, head.max_requests,
    )  # fmt: skip


class H2UpstreamStream(UpstreamStream):
    """See the head of this file."""

    __slots__ = (
        "_finished", "_got", "_length", "_out", "_owed", "_source", "_taken", "_to_send", "_told", "_unsaid", "_waits",
        "by", "dirty", "ended", "error", "fate", "head", "held", "home", "interim", "link", "method", "number", "out_bytes",
        "piece", "pieces", "pings", "reactor", "room", "sent_whole", "trailers", "window",
    )  # fmt: skip

    def __init__(self, home: Places, reactor: Reactor, carrier: Carrier) -> None:
        self._set_up(reactor.wheel)
        self.home = home
        self.reactor = reactor
        self.carrier = carrier
        self.link: Link | None = None
        self.number = 0
        self.pings = 0  # that its connection had been sent before it was
        self.method = b""
        # --- up
        self.window = 0  # of this stream, towards the peer
        self.out_bytes = 0
        self.sent_whole = False  # our side has ended
        self._out: deque[bytes] | None = None  # what flow control does not let go yet
        self._taken = 0  # bytes of the first of it that have gone
        self._to_send = 0  # of the body, -1 = it ends with `end`
        self._owed = False  # somebody waits for `on_drained`
        # --- down
        self.head: ResponseHead | None = None
        self.interim = 0
        self.room = FIRST_WINDOW  # what the engine may still send
        self.piece: bytes | None = None  # payload that has not been told: a read usually brings one,
        self.pieces: list[bytes] = []  # else more,
        self.by: Held | None = None  # and what came behind it while it was held
        self.trailers = b""  # behind the body, as lines
        self.ended = False  # the engine's side has
        self.fate = ""  # how it ended otherwise,
        self.error: GatewayError | None = None  # or what was wrong with it
        self.dirty = False  # there is something to be told: it is in its link's list
        self.held = False
        self._told = False  # the head is
        self._finished = False  # and the end
        self._source: DataSource | None = None
        self._length = -1
        self._waits = False  # for trailers, which are announced: its length is not its end
        self._got = 0
        self._unsaid = 0  # taken by the client, and not said to the engine

    def __repr__(self) -> str:
        where = "waiting" if self.link is None else f"number={self.number}"
        return f"<H2UpstreamStream {where} ended={self.ended} queued={self.out_bytes}{' held' if self.held else ''}>"

    def due(self, deadline: float) -> None:
        if self.wheel_slot and self.wheel_slot * TICK_S <= deadline:
            self.deadline = deadline
        else:
            self.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        carrier = self.carrier
        link = self.link
        if link is None:
            self.home.gave_up(self)
        elif carrier is None:
            link.leave(self, -1)
        else:
            try:
                if self._lacks_trailers():
                    self._ends_without(carrier)
                else:
                    carrier.on_silent()
            except Exception as error:
                self.crash(error, carrier)

    def crash(self, error: BaseException, carrier: Carrier) -> None:
        """A bug above: log it, and do not leave the exchange (and its client) waiting."""
        self.cancel()
        self.home.crashed(error)
        try:
            carrier.on_error(GatewayError("internal", source=Source.GATEWAY))
        except Exception as again:
            self.home.crashed(again)

    # --- up
    def send(
        self, start: RequestStart, trace: bytes, request_id: bytes, length: int, lead: bytes, body: bytes, skip: int, due: float
    ) -> None:
        link = self.link
        assert link is not None
        if start.block is None:
            start.block = start_block(start)
        self.method = start.method
        self.waiting = True
        self.due(due)
        self._to_send = length
        self.sent_whole = not length
        link.begin(self, request_block(link.own, start.block, trace, request_id, length, start.method), self.sent_whole)
        if self.link is None:
            return
        if lead:
            self._put(lead, 0)
        if len(body) > skip:
            self._put(body, skip)

    def _put(self, data: bytes, skip: int) -> None:
        """Send what may go now of ``data[skip:]``; the rest waits."""
        link = self.link
        if link is None or self.sent_whole:
            return
        if not self.out_bytes:
            skip += self._go(link, data, skip)
            if skip == len(data):
                return
            self._taken = skip
            if self._out is None:
                self._out = deque()
            link.stuck(self)
        assert self._out is not None
        if skip and self.out_bytes:
            data = data[skip:]
            skip = 0
        self._out.append(keep(data))
        self.out_bytes += len(data) - skip

    def _go(self, link: Link, data: bytes, start: int) -> int:
        """As much of ``data[start:]`` as windows and the wire have room for; returns how much."""
        gone = 0
        left = len(data) - start
        while left and link.writable:
            size = left if left < FRAME_BYTES else FRAME_BYTES
            if size > self.window:
                size = self.window
            if size > link.window:
                size = link.window
            if size <= 0:
                break
            at = start + gone
            if self._to_send > 0:
                self._to_send -= size
                self.sent_whole = not self._to_send
            link.data(self, data[at : at + size], self.sent_whole)
            gone += size
            left -= size
        return gone

    def pump(self) -> bool:
        """There may be room for what waits: whether it has all gone."""
        out = self._out
        link = self.link
        if link is None or not out:
            return True
        while out:
            data = out[0]
            gone = self._go(link, data, self._taken)
            self._taken += gone
            self.out_bytes -= gone
            if self._taken < len(data):
                return False
            self._taken = 0
            out.popleft()
        if self._to_send == 0 and not self.sent_whole:
            self._end(link)
        carrier = self.carrier
        if self._owed and carrier is not None:
            self._owed = False
            try:
                carrier.on_drained()
            except Exception as error:
                self.crash(error, carrier)
        return not self.out_bytes

    def write(self, data: bytes) -> int:
        self._put(data, 0)
        if self.out_bytes:
            self._owed = True
            return QUEUED
        return SENT

    def end(self) -> None:
        if self._to_send < 0:
            self._to_send = 0
            link = self.link
            if link is not None and not self.out_bytes and not self.sent_whole:
                self._end(link)

    def _end(self, link: Link) -> None:
        self.sent_whole = True
        link.data(self, b"", True)

    def queued(self) -> int:
        return self.out_bytes

    # --- down
    def begun(self) -> bool:
        return self.head is not None or self.interim > 0

    def blames(self) -> bool:
        link = self.link
        if link is None or link.state is not CLOSED:
            return True
        first = not link.blamed
        link.blamed = True
        return first

    def deliver(self) -> None:
        """Tell what has come."""
        carrier = self.carrier
        if carrier is None:
            self._forget()
            return
        if self.held:
            return
        try:
            self._tell(carrier)
        except Exception as error:
            self.crash(error, carrier)

    def deliver_soon(self) -> None:
        """The same, when what runs now has returned: whoever asked for something is not told from within."""
        self.reactor.poller.soon(self.deliver)

    def came(self, payload: bytes) -> None:
        """More of the answer."""
        if not self.held and self.by is None:
            if self.piece is None:
                self.piece = payload
            else:
                self.pieces.append(payload)
            return
        if self.by is None:
            self.by = Held([self.piece, *self.pieces] if self.piece is not None else [])
            self._forget()
        self.by.data += payload

    def _forget(self) -> None:
        self.piece = None
        if self.pieces:
            self.pieces.clear()

    def _taken_off(self) -> bytes:
        """All that has come of the answer."""
        data = self.piece
        if self.by is not None:
            data = bytes(self.by.data)  # (what came before it went there)
            self.by = None
        elif data is None:
            return b""
        elif self.pieces:
            data = b"".join((data, *self.pieces))
        self._forget()
        return data

    def _tell(self, carrier: Carrier) -> None:
        data = self._taken_off()
        count = len(data)
        self._got += count
        head = self.head
        if head is not None and not self._told:
            self._told = True
            self.waiting = False
            self._begin(carrier, head, data)
        elif self._told and (count or self.ended) and not self._finished:
            self._note_end()
            carrier.on_data(data)
            if self._lacks_trailers():
                self.due(monotonic() + LINGER_S)
        if count and not self.ended:
            self._took(count)
        if self.held or self.carrier is not carrier:
            return
        if self.error is not None:
            error, self.error = self.error, None
            self.cancel()
            carrier.on_error(error)
        elif self.fate and self._lacks_trailers():
            self._ends_without(carrier)
        elif self.fate and not self._finished:
            self._finished = True
            carrier.on_end(self.fate)

    def _begin(self, carrier: Carrier, head: ResponseHead, data: bytes) -> None:
        """The head, and what came with it."""
        length = head.content_length
        status = head.status
        if self.method == b"HEAD" or status == 204 or status == 304:
            self._finished = self.closed = True
            carrier.on_head(head, NoSource(), data)
            return
        if self.ended and not data:
            if length > 0:
                self.error = bad_answer("the stream ends before its length")
                return
            length = 0
        self._length = length
        waits = self._waits = head.chunked and length >= 0 and not self.ended
        source = self._source = DataSource(length, not length and not waits, waits)
        self._note_end()
        if waits or (self.trailers and length > 0):
            head = _untold(head)
        if not length and not waits:
            self._finished = self.closed = True
        carrier.on_head(head, source, data)
        if self._lacks_trailers():
            self.due(monotonic() + LINGER_S)

    def _note_end(self) -> None:
        """Whether what is told next is the last of the answer."""
        if self.ended or (0 <= self._length <= self._got and not self._waits):
            self._finished = self.closed = True
            if self._source is not None:
                self._source.ended = self.ended
                self._source.fields = self.trailers

    def _lacks_trailers(self) -> bool:
        """Whether nothing but those is still to come."""
        return self._waits and self._got >= self._length and not self._finished and self.carrier is not None

    def _ends_without(self, carrier: Carrier) -> None:
        """They do not come: the answer is whole all the same."""
        assert self._source is not None
        self._source.waits = self._waits = False
        self._note_end()
        carrier.on_data(b"")

    def padded(self, size: int) -> None:
        """So many bytes of its window went into padding, which nobody else takes."""
        if not self._finished:
            self._took(size)

    def _took(self, size: int) -> None:
        """The client's side took it, or will: the engine gets credit for it, unless that is late."""
        self._unsaid += size
        if not self.held and self._unsaid >= _half_window:
            self._say()

    def _say(self) -> None:
        link = self.link
        if link is not None and not self.ended and not self._finished and self.carrier is not None:
            more = WINDOW_BYTES - self.room
            if more > 0:
                self._unsaid = 0
                self.room += more
                link.credit(self, more)

    def hold(self) -> None:
        self.deadline = NEVER
        self.held = True

    def resume(self) -> None:
        if not self.held:
            return
        self.held = False
        if self.piece is not None or self.by is not None or self.ended or self.fate or self.error is not None:
            self.deliver_soon()  # (and what was held counts as taken then)
        elif self._unsaid >= _half_window:
            self._say()

    def tunnel(self) -> None:
        raise AssertionError("a stream that is no tunnel")

    def wants_h1(self, why: str) -> None:
        """The engine will not have this in HTTP/2."""
        if self.home.wants_h1(why, 1):
            self.fate = WANTS_HTTP1
        else:
            self.error = bad_answer(why + NOT_ALLOWED)

    def cancel(self) -> None:
        carrier_gone = self.carrier is None
        self.carrier = None
        self.closed = True
        self._forget()
        self.by = None
        self._out = None
        self.out_bytes = 0
        link = self.link
        if carrier_gone:
            return
        if link is not None and self._finished and not self.ended and self.sent_whole and not self.fate:
            self.due(monotonic() + LINGER_S)
            return
        self.wheel.disarm(self)
        if link is not None:
            link.leave(self, -1)
        else:
            self.home.left(self)
