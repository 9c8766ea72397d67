"""``: waiting``: who has asked for a stream is told that it is waited for, while there is nothing of it (sse_heartbeat_s).

Proxies, load balancers and clients give a connection up that says nothing for a minute; a request may wait for longer, for room
or for its prompt to be read. So comments go down until the first event comes. The first of them brings the head of the answer,
before anybody knows how that will be: 200, a stream of events. Whatever is no stream then is the last event of one: an error in
the API that its client speaks, and the end of the message.

Owns: who gets comments, and when. Must never: say one to who has not asked for events; put one behind another that has not been
taken; or between an engine's own. Invariant: what is waited for goes on as it would without (queue, retries, fallbacks).
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.fields import response_status
from fastgw.accel.heads import ResponseHead
from fastgw.config import Config
from fastgw.exchange.dialects import OLLAMA
from fastgw.exchange.engine_error import as_event
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.figures import coded
from fastgw.exchange.filter import Filter
from fastgw.exchange.phases import BACKOFF, CONNECTING, HELD, QUEUED, RECEIVING, ROUTING, WAITING
from fastgw.net.client import UNTOLD
from fastgw.net.timers import NEVER, Timed
from fastgw.net.wire import DEAD, SENT
from fastgw.protocol.body import source_of

COMMENT: Final = b": waiting\n\n"
_LINES: Final = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_HEAD: Final = ResponseHead(200, 1, response_status(200, b""), _LINES, -1, False, True, True, False, False, 0.0, 0)
_WAITS: Final = frozenset((QUEUED, BACKOFF, CONNECTING, WAITING))
_BEFORE: Final = frozenset((RECEIVING, ROUTING, HELD))
"""A refusal is still likely, and soon: that has a status of its own."""
_ALWAYS: Final = "/generate_stream"  # answered with events whatever its body says


class Heartbeats(Filter):
    """See the head of this file."""

    __slots__ = ("_every_s",)
    name = "heartbeats"
    stays = True  # who has had a head has no other, whatever the settings are by then

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s

    def after(self, before: Filter, config: Config) -> Filter:
        return Heartbeats(config.sse_heartbeat_s)

    def on_request(self, exchange: Exchange) -> None:
        endpoint = exchange.endpoint
        if self._every_s and endpoint.generates and endpoint.dialect != OLLAMA:  # (whose lines have no comments)
            beat = Heartbeat(exchange, self._every_s)
            exchange.guards = [*(exchange.guards or ()), beat.stop]
            exchange.gateway.reactor.wheel.arm(beat, exchange.started_at + self._every_s)

    def on_response(self, exchange: Exchange, head: ResponseHead) -> None:
        if not exchange.client.sent or exchange.session is not None or (head.sse and head.status < 300 and not coded(head)):
            return
        call = exchange.call
        assert call is not None
        call.head = None  # (nobody has been answered)
        body = _said(head, call.rest) if head.status >= 400 else b""
        exchange.detail = f"{call.pool.engine.name}: answered {head.status}, behind a heartbeat"
        exchange.status = _HEAD.status
        exchange.client.conclude(as_event(head.status, body, exchange.endpoint))
        exchange.end("engine_error", False)


def _said(head: ResponseHead, rest: bytes) -> bytes:
    """The body that came with an error; nothing where its framing is broken."""
    try:
        return source_of(head, b"POST").feed(rest)
    except FramingError:
        return b""


class Heartbeat(Timed):
    """That of one request."""

    __slots__ = ("_every_s", "_exchange")

    def __init__(self, exchange: Exchange, every_s: float) -> None:
        super().__init__()
        self._exchange = exchange
        self._every_s = every_s

    def expired(self, now: float) -> None:
        self.deadline = NEVER
        exchange = self._exchange
        waits = exchange.phase in _WAITS
        if not waits and exchange.phase not in _BEFORE:
            return  # there is an answer
        facts = exchange.facts
        if facts is not None and not facts.stream and exchange.endpoint.label != _ALWAYS:
            return
        exchange.gateway.reactor.wheel.arm(self, now + self._every_s)
        if waits:
            try:
                _beat(exchange)
            except Exception as error:
                exchange.gateway.crashed(exchange.client, error)

    def stop(self) -> None:
        """It is over."""
        self._exchange.gateway.reactor.wheel.disarm(self)


def _beat(exchange: Exchange) -> None:
    client = exchange.client
    if not client.sent:
        exchange.status = _HEAD.status
        client.begin(_HEAD, UNTOLD, exchange.request_id, exchange.own_lines())
    elif client.write(b"") != SENT:
        return  # the last one has not been taken yet
    if client.write(COMMENT) == DEAD:
        exchange.client_broke()
