"""An upgraded connection: bytes pass both ways, each side slowed by the other, until either closes.

What the engine sends is read as it passes (``protocol.websocket``): each answer that it ends is counted at once, so that what
was counted stands however the session ends. A session that may not go on is closed behind the message that said so; one whose
engine is lost, or whose gateway ends, as soon as the engine's last frame is whole. What is closed in the middle of a frame is
broken off.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.figures import spent_kind
from fastgw.exchange.phases import IS_UPGRADED
from fastgw.exchange.session import WebSocketSession
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tally import TRUNCATED
from fastgw.net.clock import monotonic
from fastgw.net.wire import DEAD, QUEUED
from fastgw.protocol.websocket import Counts

ENDING_S: Final = 2.0
"""Either side has said its last: the other ends the session in less, or its next sign of life is due in so long. (Over HTTP/2
an engine may wait for our end when both have said their close; over HTTP/1 it is its to close.)"""


def says_close(exchange: ExchangeState, error: GatewayError) -> bool:
    """Tell the client that its session ends for ``error``. False = it cannot be told."""
    session = exchange.session
    if session is None or not session.frames.stands():
        return False
    return exchange.client.pass_on(session.last_words(exchange.gateway, error)) != DEAD


class Tunnel:
    """What takes the place of a relay after an upgrade. (It keeps neither the exchange nor the call: both end before it.)"""

    __slots__ = ("_ending", "_session")

    def __init__(self, session: WebSocketSession) -> None:
        self._session = session
        self._ending = False  # the client has said its last

    def open(self, exchange: ExchangeState, call: Call, head: ResponseHead, rest: bytes) -> None:
        """The engine took the session: its 101 goes down, and what it has said already."""
        exchange.move(IS_UPGRADED)
        # That is its breaker's verdict. One that came with the end would hold a probe's place for hours.
        call.succeeded()
        stream = call.stream
        assert stream is not None
        stream.tunnel()
        stream.due(monotonic() + exchange.gateway.between_bytes_timeout_s)
        # However it ends, it was one request at least.
        exchange.guards = [*(exchange.guards or ()), lambda: self._over(exchange)]
        down = self._read(exchange, rest) if rest else rest
        session = self._session
        if session.opens(exchange, head, down) == DEAD:
            exchange.client_broke()
            return
        if exchange.error_kind:
            self._spent(exchange, call)
            return
        early = session.early(exchange)
        if early:
            exchange.bytes_in += len(early)
            self.up(exchange, call, early)
        if call.stream is not None and not stream.queued():
            # Much of it may have come early, and reading stopped for that.
            exchange.client.resume()

    def up(self, exchange: ExchangeState, call: Call, data: bytes) -> None:
        """From the client to the engine."""
        stream = call.stream
        if stream is None:
            return
        stream.due(monotonic() + self._silence_s(exchange))
        if stream.write(data) == QUEUED:
            exchange.client.pause()

    def drained(self, exchange: ExchangeState, call: Call) -> None:
        """The engine has what it could not take at once."""
        if self._ending and call.stream is not None:
            call.stream.end()
        self._session.drained(exchange)
        exchange.client.resume()

    def client_ended(self, exchange: ExchangeState, call: Call) -> None:
        """Nothing comes from the client any more, which still listens: so is the engine told, which ends it then."""
        stream = call.stream
        if stream is None:
            return
        self._ending = True
        stream.due(monotonic() + ENDING_S)
        stream.end()

    def down(self, exchange: ExchangeState, call: Call, data: bytes) -> None:
        """From the engine to the client."""
        stream = call.stream
        assert stream is not None
        data = self._read(exchange, data)
        stream.due(monotonic() + self._silence_s(exchange))
        written = exchange.client.pass_on(data)
        if written == DEAD:
            exchange.client_broke()
        elif exchange.error_kind:
            self._spent(exchange, call)
        elif written == QUEUED:
            stream.hold()

    def _silence_s(self, exchange: ExchangeState) -> float:
        if self._ending or self._session.frames.closes:
            return min(ENDING_S, exchange.gateway.between_bytes_timeout_s)
        return exchange.gateway.between_bytes_timeout_s

    def _read(self, exchange: ExchangeState, data: bytes) -> bytes:
        """Count what ``data`` says of answers; returns what of it goes down: all, unless nothing is left to go on with. Then it
        ends with a close, and ``error_kind`` says why."""
        session = self._session
        session.hears(exchange, data)
        frames = session.frames
        at = 0
        size = len(data)
        while at < size:
            at = frames.feed(data, at)
            said = frames.said
            if said is not None and not self._said(exchange, said):
                exchange.error_kind = spent_kind(exchange)
                return data[:at] + session.last_words(exchange.gateway, GatewayError(exchange.error_kind))
        return data

    def _said(self, exchange: ExchangeState, said: Counts) -> bool:
        """An answer of the session has ended; whether there may be another."""
        self._session.answers += 1
        going_on = True
        for hook in exchange.gateway.on_said:
            going_on = hook(exchange, said) and going_on
        return going_on

    def _over(self, exchange: ExchangeState) -> None:
        if self._session.frames.lost:
            # What it used from there on nobody knows.
            exchange.estimated = True
            exchange.detail = exchange.detail or "frames that could not be read"
        cut_off = self._session.cut_off(exchange)
        if cut_off is not None or not self._session.answers:
            for hook in exchange.gateway.on_said:
                hook(exchange, cut_off)

    @staticmethod
    def _spent(exchange: ExchangeState, call: Call) -> None:
        """The client has its close: both sides end."""
        call.leave()
        exchange.client.hang_up()
        exchange.end("quota", False)

    def closed(self, exchange: ExchangeState, call: Call, how: str) -> None:
        """The engine has closed (``"fin"``), fallen silent (``"silent"``), or broken off: ``how`` says why, where it did."""
        frames = self._session.frames
        torn = how == "fin" and frames.within()
        ended = how == "silent" or (how == "fin" and not torn)
        # (Where one side has said its last, how the connection goes is nobody's loss; one that goes without that is an engine
        # that was killed, or what stands before it.)
        unsaid = how != "silent" and (how != "fin" or torn or not frames.lost)
        lost = unsaid and not (self._ending or frames.closes)
        if lost:
            call.pool.engine.truncations_total += 1
            exchange.gateway.stats.truncations_total += 1
            call.failed(TRUNCATED)
            exchange.error_kind = "bad_gateway"
        call.leave()
        name = "upstream_timeout" if how == "silent" else "bad_gateway"
        told = not self._ending and says_close(exchange, GatewayError(name))
        if ended or told:
            exchange.client.hang_up()
        else:
            exchange.client.tear_off()
        if lost or not ended:
            why = "closed within a frame" if torn else "closed without a close frame" if how == "fin" else how
            exchange.detail = exchange.detail or ("" if how == "reset" else f"{call.pool.engine.name}: {why}")
        exchange.end("truncated" if lost else "ok", False)
