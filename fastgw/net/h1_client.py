"""A client's request on an HTTP/1 connection, and its answer: which framing it gets, which lines, and what follows for the
connection.

There is one stream for each connection, used for one request after the other. What has been begun goes out with the first bytes
of its body, in one send. Invariant: a request is answered in full by exactly one of ``answer``, ``local``, ``refuse``,
``finish``, or cut off by ``break_off`` or ``close``; each lets go of ``sink``.
"""

from __future__ import annotations

from time import time

from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import plain_answer
from fastgw.net.client import NO_BODY, ClientStream, Connection, ConnLimits, Service
from fastgw.net.clock import monotonic
from fastgw.net.h1_states import WRITE_PROGRESS_BYTES
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER, TimerWheel
from fastgw.net.wire import DEAD, QUEUED, SENT, Wire
from fastgw.protocol.body import CHUNKS, PLAIN
from fastgw.protocol.http1.writer import (
    CHUNKED,
    CLOSE,
    KEEP_ALIVE,
    frame,
    http_date,
    length_line,
    response_head,
    simple_response,
    upgrade_head,
)


class Host(Connection):
    """A connection, as the stream on it needs it; and whether its client takes what is written."""

    __slots__ = (
        "_in_kernel",  # bytes that the client had not acknowledged when its progress was last looked at
        "held_back",
        "limits",
        "reactor",
        "wire",
    )

    def _set_up(self, reactor: Reactor, wire: Wire, limits: ConnLimits) -> None:
        """What a constructor begins with. (Compiled, a call of a base's ``__init__`` costs as much as all of this.)"""
        self.deadline = NEVER
        self.wheel_slot = 0
        self.reactor = reactor
        self.wire = wire
        self.limits = limits
        self.held_back = False  # by the service
        self._in_kernel = 0

    def on_congested(self) -> None:
        self._in_kernel = self.wire.unacknowledged()
        self.reactor.wheel.arm(self, monotonic() + self.limits.write_s)

    def on_progressed(self) -> None:
        self._in_kernel = self.wire.unacknowledged()
        self.deadline = monotonic() + self.limits.write_s

    def takes(self, now: float) -> bool:
        """When what is queued is late: whether the client has taken some of it all the same, and gets more time.

        (The kernel holds megabytes and asks for more only when much of them has left.)
        """
        left = self.wire.unacknowledged()
        if left > self._in_kernel - WRITE_PROGRESS_BYTES:
            return False
        self._in_kernel = left
        self.reactor.wheel.arm(self, now + self.limits.write_s)
        return True

    def ended(self, keep_alive: bool) -> None:
        """The answer has been written whole; ``keep_alive``: another request may follow."""
        raise NotImplementedError

    def linger(self) -> None:
        """No request follows: what is queued goes out, then the end."""
        raise NotImplementedError

    def body_unwelcome(self) -> bool:
        """Whether what is left of the request's body may never come, or is too long to be read for nothing."""
        raise NotImplementedError

    def overdue(self) -> bool:
        """The limit for the whole exchange has passed: True where it is the request's body that is late (the sink has been
        told)."""
        raise NotImplementedError

    def go_ahead(self) -> None:
        """Ask for a body of which nothing has come, where the client waits for that."""
        raise NotImplementedError

    def tunnel(self) -> None:
        """Bytes pass as they are from here on, without a limit of time."""
        raise NotImplementedError

    def release(self) -> tuple[int, bytes]:
        """See :meth:`~fastgw.net.client.ClientStream.release`."""
        return -1, b""

    def release_wire(self) -> tuple[Wire | None, bytes]:
        """See :meth:`~fastgw.net.client.ClientStream.release_wire`."""
        return None, b""

    def early(self) -> bytes:
        """What came before that; read on."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again, unless the service holds the client back."""
        if not self.held_back:
            self.wire.resume()


class H1ClientStream(ClientStream):
    """See the head of this file."""

    __slots__ = ("_begun", "_lasts", "host")

    def __init__(self, host: Host, wheel: TimerWheel, service: Service, peer_ip: str, trusted: bool, forwarded: bytes) -> None:
        super().__init__(wheel, service, peer_ip, trusted, forwarded)
        self.host = host
        self._begun = b""  # the head of an answer that goes out with the first of its body
        self._lasts = False  # the answer's framing lets the connection go on

    def __repr__(self) -> str:
        return f"<H1ClientStream {self.peer_ip} sent={self.sent} {'open' if self.sink is not None else 'free'}>"

    # --- the request
    def due(self, deadline: float) -> None:
        self.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        self.deadline = NEVER
        sink = self.sink
        if sink is None:
            return
        host = self.host
        try:
            if not host.overdue():
                sink.on_total_timeout()
        except Exception as error:
            self.service.crashed(self, error)

    def go_ahead(self) -> None:
        self.host.go_ahead()

    def hold_back(self) -> None:
        host = self.host
        host.held_back = True
        host.wire.hold()

    def go_on(self) -> None:
        host = self.host
        host.held_back = False
        host.wire.resume()

    def mind_leaving(self, minded: bool) -> None:
        host = self.host
        if not host.held_back:
            host.wire.watch_leaving(minded)

    # --- an answer that is whole
    def answer(self, head: ResponseHead, request_id: bytes, extra: bytes, body: bytes) -> None:
        request = self.head
        if head.has_date and request.minor and not head.sse:
            if not request.keep_alive or self.service.draining:
                extra += CLOSE
            data = plain_answer(head.status_line, head.forward, request_id, extra, body)
        else:
            data = self._head(head, length_line(len(body)), request_id, extra, True, body)
        self._answered(data, request.keep_alive)

    def local(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        self._own(status, content_type, body, lines, self.head.keep_alive and not self.service.draining)

    def refuse(self, status: int, body: bytes, lines: bytes, close: bool) -> None:
        keep = self.head.keep_alive and not close and not self.service.draining and not self.host.body_unwelcome()
        self._own(status, b"application/json", body, lines, keep)

    def _own(self, status: int, content_type: bytes, body: bytes, lines: bytes, keep: bool) -> None:
        """An answer of the gateway's own."""
        request = self.head
        if keep and request.minor == 0:
            lines += KEEP_ALIVE
        head_only = request.method == b"HEAD"
        self._answered(simple_response(status, b"", content_type, body, lines, not keep, head_only, http_date(time())), keep)

    def _answered(self, data: bytes, keep: bool) -> None:
        """Write an answer whole, and end the request."""
        self._begun = b""
        self.sent += len(data)
        host = self.host
        wire = host.wire
        self.sink = None
        self.deadline = NEVER
        if wire.write(data) == DEAD:
            host.close()
        else:
            host.ended(keep)

    def _head(
        self, head: ResponseHead, framing: bytes, request_id: bytes, extra: bytes, lasts: bool, body: bytes = b""
    ) -> bytes:
        """The head of an engine's answer; ``lasts``: its framing lets the connection go on."""
        request = self.head
        if not request.keep_alive or not lasts or self.service.draining:
            connection = CLOSE
        else:
            connection = KEEP_ALIVE if request.minor == 0 else b""
        date = b"" if head.has_date else http_date(time())
        return response_head(head, framing, request_id, extra, date, connection, body)

    # --- an answer in pieces
    def begin(self, head: ResponseHead, length: int, request_id: bytes, extra: bytes) -> None:
        self.frames = PLAIN
        self.bounded = self._lasts = True
        if length >= 0:
            framing = length_line(length)
        elif length == NO_BODY:
            # How long it would be may be told (HEAD, 304), but not of a status that never has one.
            told = head.content_length
            framing = length_line(told) if told >= 0 and head.status != 204 else b""
        else:
            self.bounded = False
            if self.head.minor == 1:
                self.frames = CHUNKS
                framing = CHUNKED
            else:
                # HTTP/1.0: the close is the end, so the connection cannot be kept.
                self._lasts = False
                framing = b""
        self._begun = self._head(head, framing, request_id, extra, self._lasts)

    def flush(self) -> int:
        if self._begun:
            return self.write_wire(b"")
        return QUEUED if self.host.wire.queued_bytes else SENT

    def write(self, payload: bytes) -> int:
        if not payload:
            return QUEUED if self.host.wire.queued_bytes else SENT
        return self.write_wire(frame(payload, False) if self.frames == CHUNKS else payload)

    def write_wire(self, wire: bytes) -> int:
        if self._begun:
            wire = self._begun + wire
            self._begun = b""
        self.sent += len(wire)
        return self.host.wire.write(wire)

    def end(self, payload: bytes) -> int:
        if self.frames == CHUNKS:
            return self.write_wire(frame(payload, True))
        if payload or self._begun:
            return self.write_wire(payload)
        return QUEUED if self.host.wire.queued_bytes else SENT

    def finish(self) -> None:
        host = self.host
        self.sink = None
        self.deadline = NEVER
        host.ended(self.head.keep_alive and self._lasts)

    def break_off(self, told: bool) -> None:
        host = self.host
        self._begun = b""
        self.sink = None
        if told and self.frames == CHUNKS:
            host.linger()
        else:
            host.close(True)

    def close(self, reset: bool = False) -> None:
        host = self.host
        self.sink = None
        host.close(reset)

    # --- an upgraded protocol
    def upgrade(self, head: ResponseHead, request_id: bytes, data: bytes) -> int:
        host = self.host
        host.tunnel()
        # A session has no end in sight: this limit is for exchanges.
        self.deadline = NEVER
        self._begun = b""
        return self.write_wire(upgrade_head(head, request_id) + data)

    def take_over(self) -> bool:
        self.host.tunnel()
        self.deadline = NEVER
        self._begun = b""
        return True

    def release(self) -> tuple[int, bytes]:
        self.sink = None
        return self.host.release()

    def release_wire(self) -> tuple[Wire | None, bytes]:
        self.sink = None
        return self.host.release_wire()

    def early(self) -> bytes:
        return self.host.early()

    def pause(self) -> None:
        self.host.wire.hold()

    def resume(self) -> None:
        self.host.resume()

    def pass_on(self, data: bytes) -> int:
        self.sent += len(data)
        return self.host.wire.write(data)

    def hang_up(self) -> None:
        host = self.host
        self.sink = None
        host.linger()
