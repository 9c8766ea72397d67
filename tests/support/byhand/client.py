"""A client by hand: a test says what it sends, and looks at what it sees.

A subclass of the real base, so that it works over both twins. What the client's bytes mean is read by the gateway's own reader
of heads, as on a connection; what its answer is, by ``answers.py``, as over sockets.
"""

from __future__ import annotations

from typing import Any, Literal

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.net import clock
from fastgw.net.client import ClientStream, Connection
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.wire import DEAD, SENT
from fastgw.protocol.body import CHUNKS, PLAIN, LengthSource, Source
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader
from fastgw.protocol.http1.writer import CHUNKED, frame, length_line
from tests.support.answers import RawResponse, parse_head
from tests.support.byhand.loop import HandLoop


class HandConnection(Connection):
    """What the drain asks about a client."""

    def __init__(self, client: HandClient) -> None:
        super().__init__()
        self.client = client

    def streams(self) -> list[ClientStream]:
        return [self.client] if self.client.sink is not None else []

    def close_idle(self) -> bool:
        if self.client.sink is not None:
            return False
        self.client.close()
        return True

    def close(self, reset: bool = False) -> None:
        self.client.close(reset)


class HandClient(ClientStream):
    """A client with one connection: requests one after the other, as HTTP/1 has them.

    ``takes``: what becomes of what is written to it. ``answers``: what it has seen so far; the last one may still go on.
    ``closed``: how its connection ended, empty = it has not.
    """

    def __init__(self, loop: HandLoop, reactor: Reactor, core: Any, peer_ip: str, trusted: bool) -> None:
        lines = b"" if trusted else b"x-forwarded-for: %b\r\nx-forwarded-proto: http\r\n" % peer_ip.encode()
        super().__init__(reactor.wheel, core, peer_ip, trusted, lines)
        self._loop = loop
        self._core = core
        self._reader = RequestReader()
        self._body: Source | None = None
        self._begun = b""
        self._unread = bytearray()  # of the answer
        self.minds = False
        self.takes = SENT
        self.answers: list[RawResponse] = []
        self.closed = ""
        self.held_back = False
        self.paused = False
        self.went_ahead = False
        self.passed_on = bytearray()  # of an upgraded protocol
        self.trailed = b""  # what it would be told behind the body

    # --- what a test says
    def says(self, data: bytes) -> HandClient:
        """Send a request, or more of one; then whatever follows from it happens."""
        assert not self.closed, "its connection has ended"
        try:
            self._take(data)
        except Exception as error:
            self._core.crashed(self, error)
        self._loop.settle()
        return self

    def _take(self, data: bytes) -> None:
        sink = self.sink
        if self.tunnel_open:
            assert sink is not None
            sink.on_tunnel_data(data)
            return
        if self._body is not None:
            self._take_body(data)
            return
        assert sink is None, "HTTP/1 has one request at a time"
        head = self._reader.feed(data)
        if head is None:
            return
        self.received_at = clock.monotonic()
        self.head = head
        self.sent = 0
        rest = self._reader.rest
        self._body = RequestChunks() if head.chunked else LengthSource(max(head.content_length, 0))
        if not head.chunked and head.content_length <= 0:
            self._body = None
        count = len(self.answers)
        self.service.open(self, head)
        if len(self.answers) > count and self.sink is None:
            self._body = None  # answered already; what follows of the body is read for nothing
        elif self._body is None:
            sink = self.sink
            assert sink is not None
            sink.on_body(b"", True)
        elif rest:
            self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        sink = self.sink
        try:
            payload = body.feed(data)
        except GatewayError as error:
            self._body = None
            if sink is not None:
                sink.on_error(error)
            return
        if body.done:
            self._body = None
        if sink is not None and (payload or body.done):
            sink.on_body(payload, body.done)

    def leaves(self, how: Literal["fin", "reset"] = "fin") -> HandClient:
        sink, self.sink = self.sink, None
        self.closed = self.closed or how
        if sink is not None:
            sink.on_gone(how)
        self._loop.settle()
        return self

    def stalls(self) -> HandClient:
        """It has taken nothing for too long."""
        sink, self.sink = self.sink, None
        self.close(True)
        self._core.stats.stalled += 1
        assert sink is not None
        sink.on_stalled()
        self._loop.settle()
        return self

    def drains(self) -> HandClient:
        """What was queued for it has gone out."""
        self.takes = SENT
        if self.sink is not None:
            self.sink.on_drained()
        self._loop.settle()
        return self

    # --- what it sees
    @property
    def seen(self) -> RawResponse:
        """The last one."""
        assert self.answers, "nothing has come"
        return self.answers[-1]

    def sees(self, status: int, code: str | None = None) -> RawResponse:
        """One whole answer of this status, and this error where there is a ``code``."""
        answer = self.seen
        assert (answer.status, answer.complete) == (status, True), (answer, answer.body, self.closed)
        if code is not None:
            assert answer.error["code"] == code, answer.error
        return answer

    @property
    def waits(self) -> bool:
        """Whether its last request has had no word of an answer."""
        return self.sink is not None and (not self.answers or self.answers[-1].how_ended != "open")

    # --- what the layers above ask for
    def expired(self, now: float) -> None:
        self.deadline = NEVER
        if self.sink is not None:
            try:
                self.sink.on_total_timeout()
            except Exception as error:
                self._core.crashed(self, error)

    def due(self, deadline: float) -> None:
        self.wheel.arm(self, deadline)

    def go_ahead(self) -> None:
        self.went_ahead = True

    def hold_back(self) -> None:
        self.held_back = True

    def go_on(self) -> None:
        self.held_back = False

    def mind_leaving(self, minded: bool) -> None:
        self.minds = minded

    def _whole(self, head: bytes, body: bytes) -> None:
        self.sent += len(head) + len(body)
        answer = parse_head(head, head_only=self.head.method == b"HEAD")
        self.answers.append(answer)
        self._read(body)
        self.sink = None
        self.deadline = NEVER
        self._ended()

    def _read(self, data: bytes) -> None:
        answer = self.answers[-1]
        self._unread += data
        if not answer.complete:
            answer.feed(self._unread)
        assert answer.how_ended == "open" or not self._unread, "bytes behind the end of an answer"

    def _ended(self) -> None:
        self.held_back = False
        if self.service.draining:
            self.close()

    def answer(self, head: ResponseHead, request_id: bytes, extra: bytes, body: bytes) -> None:
        self._whole(self._head(head, length_line(len(body)), request_id, extra), body)

    @staticmethod
    def _head(head: ResponseHead, framing: bytes, request_id: bytes, extra: bytes) -> bytes:
        own = b"x-request-id: %b\r\n%b" % (request_id, extra)
        return b"HTTP/1.1 " + b"%b%b%b%b\r\n" % (head.status_line.removeprefix(b"HTTP/1.1 "), head.forward, own, framing)

    def local(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        told = b"content-type: %b\r\n" % content_type if content_type else b""
        framing = length_line(len(body)) if status != 204 else b""
        shown = b"" if self.head.method == b"HEAD" else body
        self._whole(b"HTTP/1.1 %d Own\r\n%b%b%b\r\n" % (status, told, lines, framing), shown)

    def refuse(self, status: int, body: bytes, lines: bytes, close: bool) -> None:
        self.local(status, b"application/json", body, lines)
        if close:
            self.close()

    def begin(self, head: ResponseHead, length: int, request_id: bytes, extra: bytes) -> None:
        self.bounded = length != -1
        self.frames = PLAIN if self.bounded else CHUNKS
        if length >= 0:
            framing = length_line(length)
        elif length == -1:
            framing = CHUNKED
        else:
            framing = length_line(head.content_length) if head.content_length >= 0 and head.status != 204 else b""
        self._begun = self._head(head, framing, request_id, extra)

    def flush(self) -> int:
        return self.write_wire(b"")

    def write(self, payload: bytes) -> int:
        if not payload:
            return self.takes
        return self.write_wire(frame(payload, False) if self.frames == CHUNKS else payload)

    def write_wire(self, wire: bytes) -> int:
        if self.takes == DEAD or self.closed:
            return DEAD
        if self._begun:
            self.sent += len(self._begun)
            self.answers.append(parse_head(self._begun, head_only=self.head.method == b"HEAD"))
            self._begun = b""
        self.sent += len(wire)
        self._read(wire)
        return self.takes

    def trail(self, lines: bytes) -> None:
        assert self.bounded or self.answers == [] or self.answers[-1].how_ended == "open", "the end has been said"
        self.trailed = lines

    def end(self, payload: bytes) -> int:
        return self.write_wire(frame(payload, True) if self.frames == CHUNKS else payload)

    def finish(self) -> None:
        self.sink = None
        self.deadline = NEVER
        assert self.answers[-1].complete, "it was said to be whole"
        self._ended()

    def break_off(self, told: bool) -> None:
        self._begun = b""
        self.sink = None
        self._cut("eof" if told and self.frames == CHUNKS else "reset")

    def close(self, reset: bool = False) -> None:
        self.sink = None
        self._cut("reset" if reset else "eof")

    def _cut(self, how: Literal["eof", "reset"]) -> None:
        self.closed = self.closed or how
        self.wheel.disarm(self)
        if self.answers and self.answers[-1].how_ended == "open":
            self.answers[-1].how_ended = how

    # --- an upgraded protocol
    tunnel_open = False

    def upgrade(self, head: ResponseHead, request_id: bytes, data: bytes) -> int:
        self.tunnel_open = True
        self.deadline = NEVER
        self._begun = b""
        whole = self._head(head, b"connection: upgrade\r\n", request_id, b"")
        self.answers.append(parse_head(whole))
        self.sent += len(whole)
        return self.pass_on(data)

    def early(self) -> bytes:
        return b""

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def pass_on(self, data: bytes) -> int:
        self.sent += len(data)
        self.passed_on += data
        return self.takes

    def hang_up(self) -> None:
        self.sink = None
        self._cut("eof")
