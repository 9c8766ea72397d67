"""One request on its way through a runner: from the tunnel to its engine, and the answer back, as both are.

Who sends it over the tunnel is a gateway, which has admitted, read, rewritten and counted it, and reads the answer. Here
nothing of it is looked at: no model, no tokens, no events. It is asked once; over a connection to the engine that was idle and
had died, once more (nothing of an answer had come then).

    unseen    no engine has it: the tunnel's stream is reset with REFUSED_STREAM, and the gateway asks elsewhere
    lost      its engine had it, and died: reset with CONNECT_ERROR, and the gateway does what it does with a lost connection
    broken    what came is no answer: reset with INTERNAL_ERROR, which is to the gateway what it is from any engine
    answered  the engine's status, fields and body, to its clean end or its break

What is not a plain request (a form, a body of unknown length or a long one, a WebSocket) goes the way of every gateway's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import JSON
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.plan import Failure
from fastgw.exchange.relay import BROKEN, END, Relay
from fastgw.exchange.tally import TRUNCATED, Tally
from fastgw.net.client import NO_BODY, ClientStream, Sink
from fastgw.net.clock import monotonic
from fastgw.net.timers import NEVER
from fastgw.net.upstream import FRESH, NOT_TAKEN, Carrier, UpstreamStream
from fastgw.net.wire import DEAD, QUEUED
from fastgw.protocol.body import Source
from fastgw.protocol.h2.frames import CONNECT_ERROR, INTERNAL_ERROR, REFUSED_STREAM
from fastgw.protocol.start import RequestStart
from fastgw.stats import Stats
from fastgw.upstream.pool import Pool

_PASSED: Final = (b"x-forwarded-", b"via")
"""What the gateway says of the request's way."""

MOST_BYTES: Final = 1 << 18
"""Of a body that is held here: as many as a tunnel's requests at once are a quarter of a gigabyte."""


class Known:
    """What one head comes to: the head itself, and the request's start. (A connection's heads are alike.)"""

    __slots__ = ("head", "start")

    def __init__(self, head: RequestHead, start: RequestStart) -> None:
        self.head = head
        self.start = start


def start_of(head: RequestHead, base: bytes) -> RequestStart:
    """The request as the engine gets it, but for its own fields, the id and the body."""
    own = head.own or {}
    told = b"".join([b"%b: %b\r\n" % (name, value) for name, value in own.items() if name.startswith(_PASSED)])
    return RequestStart(head.method, base + head.target, b"".join((head.forward, told, b"x-request-id: ")))


Reset = Callable[[ClientStream, int], None]
"""Ends a tunnel's stream with an error code of HTTP/2's."""


class Passages(GatewayCore):
    """Serves a tunnel's requests: plain ones pass as they are, for the others an exchange is begun, as in any gateway. Of those
    that the engine has not answered, or not to the end, ``tally`` is told. Whoever makes it sets ``pool``, which is the
    engine's, and ``reset``."""

    __slots__ = ("pool", "reset")

    pool: Pool
    reset: Reset

    def open(self, client: ClientStream, head: RequestHead) -> None:
        found = client.known
        known: Known | None = found if isinstance(found, Known) and found.head is head else self._plain(head)
        if known is None or not 0 < head.content_length <= MOST_BYTES or self.draining:
            client.known = None
            GatewayCore.open(self, client, head)
            return
        client.known = known
        given = head.own.get(b"x-request-id") if head.own is not None else None
        request_id = given or self.request_id(head)
        Passage(self.pool, self.stats, self.tally, self.reset, client, known.start, request_id)

    def _plain(self, head: RequestHead) -> Known | None:
        """What a head comes to whose body is one document; None = it is no such request."""
        endpoint = self.endpoints.get(head.path)
        if endpoint is None or endpoint.mode is not JSON or head.method not in endpoint.methods or head.expect:
            return None
        if head.own is not None and b"content-encoding" in head.own:
            return None
        return Known(head, start_of(head, self.pool.engine.base))


class Passage(Sink):
    """See the head of this file. Sets itself as the sink of ``client``."""

    __slots__ = (
        "_again", "_body", "_call", "_client", "_end", "_head", "_open", "_pieces", "_pool", "_relay", "_request_id",
        "_reused", "_start", "_stats", "_stream", "_tally",
    )  # fmt: skip

    def __init__(
        self, pool: Pool, stats: Stats, tally: Tally, reset: Reset, client: ClientStream, start: RequestStart, request_id: bytes
    ) -> None:
        self._pool = pool
        self._stats = stats
        self._tally = tally
        self._end = reset
        self._client = client
        self._start = start
        self._request_id = request_id
        self._pieces: list[bytes] | None = None
        self._body = b""
        self._call: Call | None = None
        self._stream: UpstreamStream | None = None
        self._relay: Relay | None = None
        self._head: ResponseHead | None = None
        self._reused = False  # the connection was idle
        self._again = False  # it has been asked again
        self._open = True  # it has not ended
        stats.exchanges_open += 1
        stats.exchanges_total += 1
        client.sink = self

    # --- from the gateway
    def on_body(self, data: bytes, last: bool) -> None:
        if not last:
            if self._pieces is None:
                self._pieces = []
            self._pieces.append(keep(data))
            return
        if self._pieces is not None:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces = None
        self._body = data
        self._call = Call(self)
        self._ask(0)

    def on_drained(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.resume()

    def on_gone(self, how: str) -> None:
        self._leave()

    def on_stalled(self) -> None:
        self._leave()

    def on_error(self, error: GatewayError) -> None:
        self._reset(INTERNAL_ERROR)

    # --- to the engine
    def _ask(self, fresh: int) -> None:
        pool = self._pool
        call = self._call
        assert call is not None
        try:
            stream = pool.open(call, monotonic(), fresh)
        except GatewayError:
            self._reset(REFUSED_STREAM)
            return
        pool.engine.inflight += 1
        self._stream = stream
        self._reused = stream.connected
        if stream.connected:
            self.send()

    def send(self) -> None:
        """The engine is connected."""
        stream = self._stream
        assert stream is not None
        body = self._body
        stream.send(self._start, b"", self._request_id, len(body), b"", body, 0, NEVER)

    def unreachable(self) -> None:
        """No engine has seen it."""
        self._reset(REFUSED_STREAM)

    # --- the answer
    def begins(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        """Its head."""
        self._body = b""
        self._head = head
        client = self._client
        length = head.content_length
        if length == len(rest) and length and not source.done:
            client.answer(head, self._request_id, b"", rest)
            self._ends(True)
            return
        if source.done and source.length < 0:
            client.begin(head, NO_BODY, self._request_id, b"")
            client.flush()
            client.finish()
            self._ends(not rest)
            return
        client.begin(head, source.length, self._request_id, b"")
        relay = self._relay = Relay(client, source, None, False)
        verdict = relay.start(rest)
        if verdict == BROKEN and not relay.begun:
            self._reset(INTERNAL_ERROR)
        else:
            self._went(relay, verdict)

    def goes_on(self, data: bytes) -> None:
        """Some of its body."""
        relay = self._relay
        assert relay is not None
        self._went(relay, relay.feed(data))

    def _went(self, relay: Relay, verdict: int) -> None:
        if relay.written == DEAD:
            self._leave()
        elif verdict == END:
            self._client.finish()
            self._ends(True)
        elif verdict == BROKEN:
            self._break_off()
        elif relay.written == QUEUED:
            stream = self._stream
            assert stream is not None
            stream.hold()

    def ended(self, how: str) -> None:
        """The engine has closed, or this stream of it."""
        relay = self._relay
        stream = self._stream
        if relay is not None:
            if relay.eof(how) == END:
                self._client.finish()
                self._ends(False)
            else:
                self._break_off()
            return
        if stream is None:
            return
        untaken = how in NOT_TAKEN
        unseen = untaken or (self._reused and not stream.begun())
        self._let_go()
        if unseen and not self._again:
            self._again = True
            self._ask(FRESH)
        else:
            self._reset(REFUSED_STREAM if untaken else CONNECT_ERROR)

    def failed(self) -> None:
        """What came is no answer."""
        if self._relay is not None:
            self._break_off()
        else:
            self._reset(INTERNAL_ERROR)

    # --- the end
    def _let_go(self) -> None:
        """Give the place at the engine up; whatever it does for this ends."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._pool.engine.inflight -= 1
            stream.cancel()

    def _over(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.passage = None
        if self._open:
            self._open = False
            self._stats.exchanges_open -= 1

    def _ends(self, reusable: bool) -> None:
        """The answer has passed whole."""
        stream, self._stream = self._stream, None
        head = self._head
        if stream is not None and head is not None:
            pool = self._pool
            pool.engine.inflight -= 1
            if reusable and head.keep_alive and not stream.queued():
                pool.give_back(stream, monotonic(), head.idle_s, head.max_requests)
            else:
                stream.cancel()
        self._over()

    def _break_off(self) -> None:
        """The engine has not answered to the end."""
        self._tally.failed(TRUNCATED)
        self._let_go()
        self._client.break_off(True)  # (behind what it has said)
        self._over()

    def _reset(self, code: int) -> None:
        """End the tunnel's stream, before an answer."""
        self._let_go()
        self._tally.failed(Failure.LOST.value)
        self._end(self._client, code)
        self._over()

    def _leave(self) -> None:
        """The gateway wants nothing more of it."""
        self._let_go()
        self._over()


class Call(Carrier):
    """What the engine's stream tells."""

    __slots__ = ("passage",)

    def __init__(self, passage: Passage) -> None:
        self.passage: Passage | None = passage

    def on_stream(self) -> None:
        passage = self.passage
        if passage is not None:
            passage.send()

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        passage = self.passage
        if passage is not None:
            passage.unreachable()

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        passage = self.passage
        if passage is not None:
            passage.begins(head, source, rest)

    def on_error(self, error: GatewayError) -> None:
        passage = self.passage
        if passage is not None:
            passage.failed()

    def on_data(self, data: bytes) -> None:
        passage = self.passage
        if passage is not None:
            passage.goes_on(data)

    def on_end(self, how: str) -> None:
        passage = self.passage
        if passage is not None:
            passage.ended(how)

    def on_drained(self) -> None:
        """(The whole request was given at once.)"""

    def on_silent(self) -> None:
        """(Nobody waits for a sign here: the gateway does.)"""
