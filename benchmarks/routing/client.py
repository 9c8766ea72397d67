"""Plays a trace over HTTP/1.1: each session is a client with a connection of its own, which asks its turns one after the
other.

Owns: when a request is sent, and what counts as its first token and as an answer: 200, events, ``[DONE]``, the last chunk.
Times are those of the trace: the clock here is ``speed`` times as fast, so that five minutes of a trace take half a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from benchmarks.routing.trace import Session
from benchmarks.wire.proxies import KEY

ANSWER_S = 60.0
"""An answer that takes longer, on the wall's clock, has failed."""
LOOK_S = 0.01
_LAST = b"data: [DONE]"
_ERROR = b'data: {"error"'
_END = b"0\r\n\r\n"


@dataclass
class Played:
    """What came of a trace. Times in its seconds; ``failed``: why, and how often."""

    ttft_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    length_s: float = 0.0
    sent_bytes: int = 0
    late_p99_ms: float = 0.0
    """How late the client's own timers are: what it measures is too long by as much."""


class Asked(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[str] | None = None
        self._head = b""
        self._tail = b""
        self.first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._over("the connection was closed")

    def data_received(self, data: bytes) -> None:
        if not self.first_at:
            # A head may come long before the first event, and in pieces.
            self._head += data
            if not self._head.startswith(b"HTTP/1.1 200 "):
                if b"\r\n" in self._head:
                    self._over("status " + self._head[9:12].decode("latin-1"))
                return
            if b"\r\n\r\n" not in self._head or b"data: " not in self._head:
                return
            self.first_at = time.monotonic()
            data = self._head
        data = self._tail + data
        self._tail = data[-64:]
        if _ERROR in data:
            self._over("an error in the stream")
        if self._tail.endswith(_END):
            self._over("" if _LAST in self._tail else "no [DONE]")

    async def ask(self, request: bytes, body: bytes) -> str:
        """Send, and return why it failed; empty = it was answered whole."""
        assert self.transport is not None
        self._head = self._tail = b""
        self.first_at = 0.0
        self._answer = self._loop.create_future()
        self.transport.writelines((request, body))
        deadline = self._loop.call_later(ANSWER_S, self._over, "no answer in time")
        try:
            return await self._answer
        finally:
            deadline.cancel()

    def _over(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(why)


class Player:
    """Everybody's clock and results."""

    def __init__(self, port: int, speed: float) -> None:
        self._port = port
        self._speed = speed
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self.found = Played()

    async def session(self, session: Session) -> None:
        await asyncio.sleep(session.start_s / self._speed)
        connection: Asked | None = None
        for number, turn in enumerate(session.turns):
            await asyncio.sleep(turn.think_s / self._speed)
            if connection is None or connection.transport is None:
                try:
                    _, connection = await self._loop.create_connection(Asked, "127.0.0.1", self._port)
                except OSError:
                    self._note("no connection", 0.0, 0.0, 0)
                    continue
            body = session.body(number)
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: engines\r\ncontent-type: application/json\r\n"
                f"authorization: Bearer {KEY}\r\nx-session-id: {session.name}\r\ncontent-length: {len(body)}\r\n\r\n"
            ).encode()
            began = time.monotonic()
            why = await connection.ask(head, body)
            self._note(why, began, connection.first_at, len(body))
            if why and connection.transport is not None:
                connection.transport.abort()
                connection = None
        if connection is not None and connection.transport is not None:
            connection.transport.close()

    def _note(self, why: str, began: float, first_at: float, size: int) -> None:
        found = self.found
        found.sent_bytes += size
        if why:
            found.failed[why] = found.failed.get(why, 0) + 1
            return
        now = time.monotonic()
        found.ttft_s.append((first_at - began) * self._speed)
        found.whole_s.append((now - began) * self._speed)
        found.length_s = (now - self._began) * self._speed


async def watch(late: list[float], look: Callable[[], None] = lambda: None) -> None:
    """``look`` every `LOOK_S`, for ever; by how much each was late goes to ``late``."""
    while True:
        due = time.monotonic() + LOOK_S
        await asyncio.sleep(LOOK_S)
        late.append(time.monotonic() - due)
        look()


def late_ms(late: list[float]) -> float:
    """The 99th percentile."""
    return sorted(late)[int(0.99 * (len(late) - 1))] * 1e3 if late else 0.0


async def play(sessions: Sequence[Session], port: int, speed: float) -> Played:
    """Until the last session is through."""
    player = Player(port, speed)
    late: list[float] = []
    watching = asyncio.create_task(watch(late), name="how late it is")
    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(player.session(session), name=session.name)
    watching.cancel()
    player.found.late_p99_ms = late_ms(late)
    return player.found
