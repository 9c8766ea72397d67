"""Tunnels: runners whose engines are asked over the connection that they have dialled.

What a runner says in texts is a session's (``protocol/runners.py``), as of any other; what comes in binary messages is HTTP/2,
the gateway being its client, on a connection of the engine's pool that was adopted and not dialled (``Pool.adopt``). Owns both
halves of each such WebSocket, and how they end: a connection that breaks ends the requests on it as a lost engine's; one that
another takes the place of, or that is to close in good order, takes no more requests and closes behind the last.

Must never: send a runner anything but requests for its own engine, or take bytes from one that has not registered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from fastgw.net.clock import monotonic
from fastgw.net.h2_link import LEAVING, OPEN
from fastgw.net.h2_upstream import H2UpstreamConn
from fastgw.net.poller import Reactor
from fastgw.net.wire import Wire
from fastgw.net.ws_wire import CLOSE_S, Talk, WebSocketEnd
from fastgw.protocol.runner_words import AUTH_FAILED, MAX_FRAME_BYTES
from fastgw.protocol.runners import AWAY, LATER, POLICY, House, Session, State, Terms
from fastgw.protocol.websocket import TUNNEL, accept_of
from fastgw.stats import EventLog
from fastgw.upstream.pool import Pool

MOST_NEW: Final = 64
"""That have not registered: whoever comes then takes the place of the one that has waited longest, of the address that has
most."""
MOST_LIVE: Final = 4096
"""With those that close behind their last request."""
MOST_AHEAD_BYTES: Final = 1 << 16
"""Of texts that the runner has not taken: the others wait in its session, which bounds them."""
IN_URL: Final = "The token stands in `register`, and never in a URL, which is logged: have it replaced."


def _switching(key: bytes) -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n" % (accept_of(key), TUNNEL)
    )


class Tunnel(Talk):
    """One runner's connection."""

    __slots__ = ("_left", "_tunnels", "conn", "end", "ended", "session")

    def __init__(
        self, tunnels: Tunnels, reactor: Reactor, wire: Wire, session: Session, ended: Callable[[], None]
    ) -> None:
        self._tunnels = tunnels
        self.ended = ended
        self._left = False
        self.session = session
        self.conn: H2UpstreamConn | None = None
        self.end = WebSocketEnd(reactor, wire, False, MAX_FRAME_BYTES, self)
        session.wake = self.write

    # --- what a WebSocket tells
    def on_text(self, text: bytes) -> None:
        try:
            self.session.on_text(text, monotonic())
            if self.conn is None and self.session.state is State.REGISTERED:
                self._open()
        except Exception as error:
            self._tunnels.crashed(error)
            self.end.cut()

    def on_sign(self) -> bool:
        return self.session.on_control(monotonic())

    def on_room(self) -> None:
        self.write()

    def on_over(self, code: int, why: str) -> None:
        self._tunnels.over(self)

    # --- what is said
    def _open(self) -> None:
        """The runner is known: from here on its engine is asked here."""
        pool = self._tunnels.pool_of(self.session.runner_id)
        if pool is not None and self.session.closing is None:
            self.conn = pool.adopt(self.end.stream())

    def write(self) -> None:
        """What the session has to say, as far as the runner takes it; then it may be that it is to close."""
        session, end = self.session, self.end
        while session.out and end.waiting() < MOST_AHEAD_BYTES:
            if not end.say(session.out.popleft()):
                session.out.clear()
        if session.closing is not None and not session.out:
            self._leave(*session.closing)

    def _leave(self, code: int, reason: str) -> None:
        """Close: behind the requests that are under way, where neither side is at fault."""
        if self._left:
            return
        self._left = True
        conn = self.conn
        if conn is None or self.session.why or conn.state not in (OPEN, LEAVING):
            self.end.close(code, reason)
        else:
            self.end.farewell = (code, reason)
            self.end.reader.forget_texts()
            conn.retire(reason)  # (what closes with its last request closes the WebSocket)


class Tunnels:
    """See the head of this file. ``house`` is told what runners say; ``pool_of`` gives the pool of a runner's engine."""

    def __init__(self, house: House, terms: Terms, log: EventLog, pool_of: Callable[[str], Pool | None]) -> None:
        self._house = house
        self._terms = terms
        self._log = log
        self.pool_of = pool_of
        self._live: dict[Tunnel, None] = {}  # in the order in which they came,
        self._new: dict[Tunnel, None] = {}  # and those of them that have not registered

    def __len__(self) -> int:
        return len(self._live)

    def adopt(
        self, reactor: Reactor, wire: Wire, surplus: bytes, key: bytes, peer: str, told: bool, ended: Callable[[], None]
    ) -> None:
        """Take over a connection whose handshake, with ``key``, has been read and not answered, and ``surplus`` behind it.
        ``told``: its URL had more than a path; ``ended`` is called when it is no more."""
        now = monotonic()
        session = Session(self._house, self._terms, peer, now)
        session.tunnelled = True
        tunnel = Tunnel(self, reactor, wire, session, ended)
        self._live[tunnel] = self._new[tunnel] = None
        wire.write(_switching(key))
        self._make_room(now)
        if told:
            session.fail(AUTH_FAILED, IN_URL, POLICY, now)
        tunnel.end.begin(surplus)

    def over(self, tunnel: Tunnel) -> None:
        """It has ended."""
        session = tunnel.session
        self._live.pop(tunnel, None)
        self._new.pop(tunnel, None)
        tunnel.ended()
        session.on_end(monotonic())
        if session.why:
            self._log.warning("runner refused", **session.refusal())

    def crashed(self, error: BaseException) -> None:
        """An error that is ours."""
        self._log.error("runner connection failed", error=f"{type(error).__name__}: {error}")

    def _make_room(self, now: float) -> None:
        strange = [tunnel for tunnel in self._live if not tunnel.session.runner_id]
        # (Of those that never registered who was told to close goes first: it may be in no hurry.)
        strange.sort(key=lambda tunnel: tunnel.session.state is State.NEW)
        if len(self._live) > MOST_LIVE:
            strange[0].end.cut()  # (the one that has just come is among them)
        elif len(strange) > 2 * MOST_NEW:
            strange[0].end.cut()
        new = [tunnel.session for tunnel in self._new if tunnel.session.state is State.NEW]
        if len(new) > MOST_NEW:
            ((crowd, _),) = Counter(session.peer for session in new).most_common(1)
            leaves = next(session for session in new if session.peer == crowd)
            leaves.close(LATER, "there are too many that have not registered", now)

    def tick(self, now: float, unix: float) -> None:
        """Time goes by for those that have not registered. (The others are the registry's.)"""
        for tunnel in list(self._new):
            if tunnel.session.state is State.NEW:
                tunnel.session.tick(now, unix)
            else:
                self._new.pop(tunnel)

    async def stop(self) -> None:
        """Close all, each behind the requests that are under way; who has not ended in time is cut."""
        now = monotonic()
        for tunnel in list(self._live):
            tunnel.session.close(AWAY, "the gateway stops", now)
        end = now + CLOSE_S
        while self._live and monotonic() < end:  # noqa: ASYNC110 - as in ``control/runners_ws.py``
            await asyncio.sleep(0.01)
        for tunnel in list(self._live):
            tunnel.end.cut()
