"""A client's request on an HTTP/2 connection, and its answer: the body on its way in, DATA under flow control on its way out.

What a read brings for a stream is told once, when the read has been gone through. What is written waits for the end of the
turn, when the connection frames what windows let go, of all its streams in turns; what they do not stays here, and whoever
writes is told so (``QUEUED``) and stops. So never more than one write waits, or the one answer that was whole anyway.

    not opened   its head has come; the service has not seen it yet
    opened       an exchange lives (``sink``), or its answer is still on its way
    over         both sides have ended, or one has reset it: the connection does not know it any more

A body that nobody takes (``held``) stays here too, and its client gets no more credit: at most :data:`WINDOW_BYTES` of it,
which the sink is told of (``hold``), for they are of the memory that all have together.
"""

from __future__ import annotations

from time import time
from typing import Final

from fastgw.accel.frames import header
from fastgw.accel.heads import ResponseHead
from fastgw.accel.landing import Landing
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.net.client import MAX_REFUSALS, NO_BODY, NO_HEAD, ClientStream, Service, Sink
from fastgw.net.clock import monotonic
from fastgw.net.h1_states import BODY_PROGRESS_BYTES, WRITE_PROGRESS_BYTES
from fastgw.net.h2_held import Held
from fastgw.net.h2_link import CLOSED, H2Link
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.wire import DEAD, QUEUED, SENT, Wire
from fastgw.protocol.body import PLAIN
from fastgw.protocol.h2.answers import CONTINUE, engine_block, local_block, trailer_block
from fastgw.protocol.h2.frames import CANCEL, DATA, END_STREAM, FIRST_WINDOW, INTERNAL_ERROR, headers, window_update
from fastgw.protocol.h2.lean import Control
from fastgw.protocol.http1.writer import http_date

WINDOW_BYTES: Final = 262144
"""What a client may send on a stream ahead of whoever takes it. The first of it is the protocol's :data:`FIRST_WINDOW`; whose
first half was taken gets the rest."""
FRAME_BYTES: Final = 16384  # what every peer takes in one DATA frame

GONE_ON: Final = 1  # a frame went out, and there is more
ALL_GONE: Final = 0
STUCK: Final = -1  # on the stream's window
NO_ROOM: Final = -2  # on the connection's


class ClientLink(H2Link):
    """A connection, as the streams on it need it."""

    __slots__ = ()

    def __init__(self, reactor: Reactor, wire: Wire, control: Control) -> None:
        super().__init__(reactor, wire, control)

    def head(self, block: bytes) -> bytes:
        """The field block as it goes out: the connection's first says that no table is kept."""
        raise NotImplementedError

    def ready(self, stream: H2ClientStream) -> None:
        """It has something to send: :meth:`H2ClientStream.go` when this turn ends."""
        raise NotImplementedError

    def over(self, stream: H2ClientStream, code: int) -> None:
        """Forget the stream; with RST_STREAM where ``code`` is not negative."""
        raise NotImplementedError

    def part(self, stream: H2ClientStream) -> None:
        """All of it is framed, and it ends in RST_STREAM: send that once the client has read what is before it."""
        raise NotImplementedError

    def spare(self, stream: H2ClientStream) -> None:
        """Its answer is whole before its body is: forget it, and see to it that the client reads that answer."""
        raise NotImplementedError

    def deliver_soon(self, stream: H2ClientStream) -> None:
        """Tell what has come for it, not from here."""
        raise NotImplementedError

    def retire(self) -> None:
        """Take no more requests; what is under way goes on."""
        raise NotImplementedError


class H2ClientStream(ClientStream):
    """See the head of this file."""

    __slots__ = (
        "_begun", "_late", "_moved", "_out", "_owed", "_taken", "_trailers", "_unsaid", "begun", "body_at", "by", "code",
        "dirty", "ended", "fault", "got", "held", "is_over", "landing", "last", "length", "link", "number", "opened",
        "out_bytes", "pieces", "queued", "refused", "room", "spoiled", "stuck_at", "told", "window",
    )  # fmt: skip

    def __init__(
        self, link: ClientLink, service: Service, peer_ip: str, trusted: bool, forwarded: bytes, number: int, window: int
    ) -> None:
        self._set_up(link.reactor.wheel, service, peer_ip, trusted, forwarded)
        self.link = link
        self.number = number
        self.refused = 0  # of its connection's requests in a row, when it was opened
        self.is_over = False
        # --- in
        self.fault: GatewayError | None = None  # in the place of a head
        self.opened = False
        self.ended = False  # the client's side has
        self.dirty = False  # there is something to be told: it is in its link's list
        self.held = False  # by the service
        self.told = False  # the end of the body is
        self.length = -1  # of the body, as it was told
        self.got = 0
        self.room = FIRST_WINDOW  # what the client may still send
        self.spoiled: GatewayError | None = None  # what came behind the body makes it none
        self.pieces: list[bytes] = []  # of the body, that have not been told,
        self.by: Held | None = None  # and what came behind them while it was held
        self.landing: Landing | None = None
        self.body_at = 0.0  # when the body last went on
        self._late = 0  # bytes since
        self._unsaid = 0  # taken, and not said to the client
        # --- out
        self.window = window  # towards the client
        self.out_bytes = 0
        self.begun = False  # the answer's head is out
        self.last = False  # what is queued is the end
        self.code = -1  # with which it is reset behind that
        self.queued = False  # it is in its link's list of those that have something to send
        self.stuck_at = 0.0  # since when what is queued has not gone on, 0 = it has
        self._begun = b""  # the block of an answer that goes out with the first of its body
        self._trailers = b""  # the block of what goes out behind the body
        self._out: list[bytes] = []
        self._taken = 0  # bytes of the first of it that have gone
        self._moved = 0  # bytes that have gone since `stuck_at`
        self._owed = False  # somebody waits for `on_drained`

    def __repr__(self) -> str:
        state = "over" if self.is_over else "open" if self.sink is not None else "answered"
        return f"<H2ClientStream {self.number} {state} pieces={len(self.pieces)} queued={self.out_bytes}>"

    # --- the request
    def due(self, deadline: float) -> None:
        self.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        self.deadline = NEVER
        sink = self.sink
        if sink is None:
            return
        try:
            if not self.told and not self.held and not self.out_bytes:
                self.body_late("request_timeout_s reached within the body")
            else:
                sink.on_total_timeout()
        except Exception as error:
            self.service.crashed(self, error)

    def body_late(self, detail: str) -> None:
        """What is left of the body is not waited for any more."""
        sink = self.sink
        self.told = True
        if sink is not None:
            sink.on_error(GatewayError("request_timeout", detail=detail))

    def go_ahead(self) -> None:
        if self.head.expect and not self.got and not self.ended and not self.begun and not self.is_over:
            self.link.put(headers(self.number, self.link.head(CONTINUE), False))

    def padded(self, size: int) -> None:
        """So many bytes of its window went into padding, which nobody else takes."""
        self._unsaid += size
        self._say()

    def hold_back(self) -> None:
        self.held = True

    def go_on(self) -> None:
        self.body_at = monotonic()
        if not self.held:
            return
        self.held = False
        if self.pieces or self.by is not None or (self.ended and not self.told):
            self.link.deliver_soon(self)
        else:
            self._say()

    def mind_leaving(self, minded: bool) -> None:
        """(Its connection is always read.)"""

    def open(self) -> None:
        """Have the service begin an exchange; then what has come of the body."""
        self.opened = True
        now = self.received_at = self.body_at = monotonic()
        fault = self.fault
        if fault is not None:
            self.head = NO_HEAD
            self.told = True
            self.service.refuse(self, fault)
            return
        head = self.head
        head.content_length = self.length  # (the same head may have come again behind it)
        self.service.open(self, head)
        sink = self.sink
        if sink is not None and not self.ended and self.length > 0:
            self.landing = sink.landing(self.length)
        self.body_at = now

    def tell(self) -> None:
        """What has come of the body, once."""
        pieces = self.pieces
        count = len(pieces)
        sink = self.sink
        last = self.ended
        if sink is None or self.told:
            pieces.clear()
            self.by = None
        elif self.by is not None:
            self._tell_by()
        elif count or last:
            data = b"" if not count else pieces[0] if count == 1 else b"".join(pieces)
            pieces.clear()
            self._pass(sink, data, last)

    def _pass(self, sink: Sink, data: bytes, last: bool) -> None:
        size = len(data)
        self._late += size
        if self._late >= BODY_PROGRESS_BYTES:
            self._late = 0
            self.body_at = monotonic()
        landing = self.landing
        if landing is not None:
            landing.put(data)
            data = b""
        self.told = last
        if not last:
            self._unsaid += size
        elif self.spoiled is not None:
            sink.on_error(self.spoiled)
            return
        sink.on_body(data, last)
        if not last:
            self._say()

    def _say(self) -> None:
        """The body goes on: the client gets credit for what was taken, unless some of it is held back."""
        if self.held or self.ended or self.is_over or self.sink is None or self._unsaid < FIRST_WINDOW // 2:
            return
        more = WINDOW_BYTES - self.room
        if more > 0 and self.by is None:
            self._unsaid = 0
            self.room += more
            self.link.put(window_update(self.number, more))

    def put_by(self, payload: bytes) -> None:
        """More has come, and is held."""
        if self.by is None:
            self.by = Held(self.pieces)
            self.pieces.clear()
        self.by.data += payload

    def wait(self) -> None:
        """It is held, and more of it may have come: that counts."""
        sink = self.sink
        if self.pieces:
            self.put_by(b"")
        if sink is None or self.told:
            self.by = None
        if self.by is None or sink is None:
            return
        try:
            self.by.count(sink)
        except GatewayError as error:
            self.told = True
            self.by = None
            sink.on_error(error)

    def _tell_by(self) -> None:
        """What was held, until it is again."""
        while True:
            by = self.by
            sink = self.sink
            if by is None or sink is None or self.told or self.held:
                return
            data = by.take(sink)
            if not by.data:
                self.by = None
            self._pass(sink, data, self.ended and self.by is None)

    # --- an answer that is whole
    def answer(self, head: ResponseHead, request_id: bytes, extra: bytes, body: bytes) -> None:
        length = -1 if head.status == 204 else len(body)
        date = b"" if head.has_date else http_date(time())
        self._answered(engine_block(head, length, request_id, extra, date), body)

    def local(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        self._own(status, content_type, body, lines)

    def refuse(self, status: int, body: bytes, lines: bytes, close: bool) -> None:
        self._own(status, b"application/json", body, lines)
        if close and self.refusals >= MAX_REFUSALS:
            self.link.retire()

    def _own(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        block = local_block(status, content_type, len(body), lines, http_date(time()))
        self._answered(block, b"" if self.head.method == b"HEAD" or status == 204 or status == 304 else body)

    def _answered(self, block: bytes, body: bytes) -> None:
        self.sink = None
        self.deadline = NEVER
        self.last = True
        self._begun = b""
        if self.is_over:
            return
        if body:
            self._head_out(block, False)
            self._queue(body)
        else:
            self._head_out(block, True)

    def _head_out(self, block: bytes, last: bool) -> None:
        """The answer's head; ``last``: and its end."""
        link = self.link
        self.begun = True
        data = headers(self.number, link.head(block), last)
        self.sent += len(data)
        link.put(data)
        if last:
            self.last = True
            self._ended()

    # --- an answer in pieces
    def begin(self, head: ResponseHead, length: int, request_id: bytes, extra: bytes) -> None:
        self.frames = PLAIN
        self.bounded = length >= 0 or length == NO_BODY
        if length == NO_BODY:
            # How long it would be may be told (HEAD, 304), but not of a status that never has one.
            length = head.content_length if head.status != 204 else -1
            self.last = True
        date = b"" if head.has_date else http_date(time())
        self._begun = engine_block(head, length, request_id, extra, date)

    def flush(self) -> int:
        if self._begun:
            return self.write_wire(b"")
        return self._state()

    def _state(self) -> int:
        return DEAD if self.link.state is CLOSED or self.is_over else QUEUED if self.out_bytes else SENT

    def write(self, payload: bytes) -> int:
        return self.write_wire(payload) if payload else self._state()

    def write_wire(self, wire: bytes) -> int:
        if self.is_over:
            return DEAD
        block = self._begun
        if block:
            self._begun = b""
            self._head_out(block, self.last)
        if not wire or self.is_over:
            return SENT
        return self._queue(wire)

    def _queue(self, payload: bytes) -> int:
        """Behind what is queued already; framed when the turn ends, as far as windows let it."""
        link = self.link
        size = len(payload)
        self._out.append(payload)
        self.sent += size
        waits = self.out_bytes
        size = self.out_bytes = waits + size
        if not self.queued:
            self.queued = True
            link.ready(self)
        if size <= self.window and size <= link.window and link.writable and not self.stuck_at:
            return SENT
        self._owed = True
        return QUEUED

    def trail(self, lines: bytes) -> None:
        self._trailers = trailer_block(lines)

    def end(self, payload: bytes) -> int:
        self.last = not self.begun and not payload and not self._trailers
        if payload or self._begun:
            written = self.write_wire(payload)
            self.last = True
            return written
        self.last = True
        return self._state()

    def finish(self) -> None:
        self.sink = None
        self.deadline = NEVER
        self.last = True
        self._close_up()

    def _close_up(self) -> None:
        """What is queued, and then the end."""
        if not self.is_over and not self.queued:
            self.queued = True
            self.link.ready(self)

    def break_off(self, told: bool) -> None:
        self._begun = b""
        self.sink = None
        self.deadline = NEVER
        if told and self.begun:
            self.code = INTERNAL_ERROR
            self._close_up()
        elif not self.is_over:
            self.link.over(self, INTERNAL_ERROR)

    def close(self, reset: bool = False) -> None:
        self.sink = None
        if not self.is_over:
            self.link.over(self, INTERNAL_ERROR if reset else CANCEL)

    def go(self, out: list[bytes]) -> int:
        """Put one DATA frame of what is queued on ``out``, or the end."""
        link = self.link
        left = self.out_bytes
        size = left if left < FRAME_BYTES else FRAME_BYTES
        if size:
            if size > self.window:
                size = self.window
            if size > link.window:
                size = link.window
            if size <= 0:
                return NO_ROOM if self.window > 0 else STUCK
        elif not self.last and self.code < 0:
            return ALL_GONE
        left -= size
        self.out_bytes = left
        ends = not left and self.last and self.code < 0
        trailers = ends and bool(self._trailers)
        if size or (ends and not trailers):
            out.append(header(size, DATA, END_STREAM if ends and not trailers else 0, self.number))
            self._take(out, size)
            link.budgets.sent(1)
        if trailers:
            out.append(headers(self.number, link.head(self._trailers), True))
        if left:
            self._moved += size
            if self._moved >= WRITE_PROGRESS_BYTES and self.stuck_at:
                self.stuck_at = monotonic()
                self._moved = 0
            return GONE_ON
        self.stuck_at = 0.0
        if ends:
            self._ended()
        elif self.code >= 0:
            link.part(self)
        return ALL_GONE

    def _take(self, out: list[bytes], size: int) -> None:
        """``size`` bytes of what is queued."""
        self.window -= size
        self.link.window -= size
        pieces = self._out
        if not self.out_bytes and not self._taken:
            out.extend(pieces)
            pieces.clear()
            return
        while size:
            first = pieces[0]
            at = self._taken
            left = len(first) - at
            if left > size:
                out.append(first[at : at + size])
                self._taken = at + size
                return
            out.append(first[at:] if at else first)
            self._taken = 0
            size -= left
            del pieces[0]

    def kept(self) -> None:
        """What is queued stays for longer than the read that it came with."""
        if self._out and not self.stuck_at:
            self.stuck_at = monotonic()
            self._moved = 0
            self._out = [keep(piece) for piece in self._out]

    def drained(self) -> None:
        """What was queued has been framed: whoever waits for that may go on."""
        sink = self.sink
        if self._owed and sink is not None:
            self._owed = False
            try:
                sink.on_drained()
            except Exception as error:
                self.service.crashed(self, error)

    def _ended(self) -> None:
        """Our side has."""
        self.link.over(self, -1) if self.ended else self.link.spare(self)
