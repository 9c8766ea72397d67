"""The body of a client's request on its way in: from the socket to the sink, or to where the sink has it received.

Owns: where it ends, and how much of it has come. Which request it is of, and what follows, is the connection's
(``net/h1_connection.py``), whose states (``net/h1_states.py``) are kept here.
"""

from __future__ import annotations

from fastgw.errors import GatewayError
from fastgw.net.client import NO_HEAD, ConnLimits
from fastgw.net.clock import monotonic
from fastgw.net.h1_client import H1ClientStream, Host
from fastgw.net.h1_states import BODY, BODY_PROGRESS_BYTES, BUSY, CLOSED, DISCARD_BYTES, HEAD, OPENING, State
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.wire import RECV_BYTES, PlainWire, Wire
from fastgw.protocol.body import Source
from fastgw.protocol.http1.writer import CONTINUE


class Arrival(Host):
    """A connection, as far as bodies come over it."""

    __slots__ = (
        "_broken",  # a body could not be read to its end: what is left of it may still come
        "_drained_bytes",  # bytes seen in BODY since the last progress, in DISCARD, in LINGER
        "_long",  # the last body was longer than a read
        "body",
        "body_begun",
        "state",
        "stream",
        "surplus",
    )

    def _set_up(self, reactor: Reactor, wire: Wire, limits: ConnLimits) -> None:
        Host._set_up(self, reactor, wire, limits)
        self.state: State = HEAD
        self.stream: H1ClientStream | None = None
        self.body: Source | None = None
        self.body_begun = False  # some of it has come
        self.surplus = b""
        self._broken = False
        self._drained_bytes = 0
        self._long = False

    def go_ahead(self) -> None:
        stream = self.stream
        if stream is None or not stream.head.expect or self.body is None or self.body_begun:
            return
        if self.state is OPENING or self.state is BODY:
            self.wire.write(CONTINUE)

    def body_unwelcome(self) -> bool:
        body = self.body
        stream = self.stream
        return body is not None and stream is not None and (stream.head.expect != 0 or body.left > DISCARD_BYTES)

    def _hand_over(self, stream: H1ClientStream, rest: bytes) -> bool:
        """The first that came is how HTTP/2 begins: whether somebody takes the wire for that. Then nothing is left here."""
        if not stream.service.other_protocol(self, rest):
            return False
        self.state = CLOSED
        self.stream = None
        wheel = self.reactor.wheel
        wheel.disarm(self)
        wheel.disarm(stream)
        return True

    def release(self) -> tuple[int, bytes]:
        """See :meth:`~fastgw.net.client.ClientStream.release`."""
        fd = self.wire.release()
        if fd < 0:
            return -1, b""
        surplus = self.surplus
        self.close()
        return fd, surplus

    def release_wire(self) -> tuple[Wire | None, bytes]:
        """See :meth:`~fastgw.net.client.ClientStream.release_wire`."""
        wire, surplus = self.wire, self.surplus
        if wire.closed or wire.queued_bytes:
            return None, b""
        wire.pause()
        self.wire = PlainWire(self.reactor)  # (which ends in its place)
        self.close()
        return wire, surplus

    def _take_body(self, data: bytes) -> None:
        body = self.body
        stream = self.stream
        assert body is not None
        assert stream is not None
        sink = stream.sink
        assert sink is not None
        try:
            payload = body.feed(data)
        except GatewayError as error:
            self.body = None
            self._broken = True
            self.state = BUSY
            sink.on_error(error)
            return
        landing = body.landing
        if landing is not None:
            landing.put(payload)
            payload = b""
        self._came(payload, len(data))

    def _came(self, payload: bytes, size: int) -> None:
        """``size`` bytes of the body, as it is framed: the ``payload``, unless it has gone to where it is received."""
        body = self.body
        stream = self.stream
        assert body is not None
        assert stream is not None
        sink = stream.sink
        assert sink is not None
        self.body_begun = True
        if body.done:
            self._long = body.length > RECV_BYTES
            self.body = None
            self.surplus = body.rest
            self.state = BUSY
            self.deadline = NEVER
            sink.on_body(payload, True)
            return
        self._drained_bytes += size
        if self._drained_bytes >= BODY_PROGRESS_BYTES:
            # A trickle is a stall too: only so many bytes buy more time.
            self._drained_bytes = 0
            self.deadline = monotonic() + self.limits.body_s
        if payload or body.landing is not None:
            sink.on_body(payload, False)

    def overdue(self) -> bool:
        if self.state is not BODY or not self.wire.reading or self.wire.queued_bytes:
            return False
        self._body_late("request_timeout_s reached within the body")
        return True

    def _body_late(self, detail: str) -> None:
        stream = self.stream
        assert stream is not None
        sink = stream.sink
        self.body = None
        self._broken = True
        self.state = BUSY
        self.deadline = NEVER
        if sink is not None:
            sink.on_error(GatewayError("request_timeout", detail=detail))

    def _said_last(self) -> bool:
        """Whether the client has told that nothing follows (RFC 9112 §9.6), and nothing does: then a close is as good as one in
        stages, for there is nothing that could turn it into an RST."""
        stream = self.stream
        if stream is None or self._broken or stream.head.keep_alive or stream.head is NO_HEAD:
            return False
        wire = self.wire
        if self.body is not None or self.surplus or wire.queued_bytes:
            return False
        # Mostly the answer came in a later look than the request, which would have told of anything unread.
        return (wire.reading and wire.silent_since(wire.watched_in)) or not wire.unread()
