"""Both ends in HTTP/1.1: an engine whose script says what it does, and a client of one request after the other."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, RawResponse
from tests.support.scripts import EARLY, chunk

How = Literal["fin", "rst"]
HEALTH = b'{"object":"list","data":[]}'


class H1Turn:
    """One request at an engine, and what is said to it."""

    def __init__(self, conn: ScriptedConnection, request: RawRequest) -> None:
        self.conn = conn
        self.request = request
        self.chunked = False
        self.sent_bytes = 0
        self.over = False  # whole, or broken by itself

    @property
    def connection(self) -> int:
        """Which of the engine's connections it came over."""
        return self.conn.number

    # --- what it says
    async def early(self, count: int = 1) -> None:
        await self.conn.send(EARLY * count)

    async def head(self, *lines: bytes, status: int = 200, length: int | None = None) -> None:
        """``length``: what its head promises; None: it ends when it ends."""
        self.chunked = length is None
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        fields = b"".join(line + b"\r\n" for line in (*lines, framing))
        await self.conn.send(b"HTTP/1.1 %d Own\r\n%b\r\n" % (status, fields))

    async def data(self, payload: bytes) -> None:
        self.sent_bytes += len(payload)
        if payload:
            await self.conn.send(chunk(payload) if self.chunked else payload)

    async def end(self, *trailers: bytes) -> None:
        self.over = True
        if self.chunked:
            await self.conn.send(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")

    async def breaks(self, how: How) -> None:
        """Its connection ends here."""
        self.over = True
        if how == "rst":
            self.conn.reset()
        else:
            self.conn.close()

    # --- what it sees
    async def given_up(self, within_s: float = 5.0) -> float:
        """When it saw that nobody wants the answer any more: its connection closes."""
        return await self.conn.wait_closed(within_s)


Play = Callable[[Any], Awaitable[None]]


class H1Engine(ScriptedEngine):
    """Healthy; each other request is a turn, and ``play``'s business."""

    def __init__(self, play: Play, *, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(self._serve, ssl_context=ssl_context)
        self.play = play
        self.turns: list[H1Turn] = []

    async def _serve(self, conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request(60.0)
            turn = H1Turn(conn, request)
            if request.method == b"GET":
                await turn.head(b"content-type: application/json", length=len(HEALTH))
                await turn.data(HEALTH)
                continue
            self.turns.append(turn)
            await self.play(turn)
            if not turn.over:
                await conn.wait_closed(60.0)
                return


class H1Call:
    """A request that was sent, and its answer."""

    def __init__(self, client: H1Caller) -> None:
        self._client = client
        self.answer: RawResponse | None = None

    async def head(self, within_s: float = 5.0) -> RawResponse:
        if self.answer is None:
            self.answer = await self._client.raw.read_head(within_s)
        return self.answer

    async def until(self, marker: bytes, within_s: float = 5.0) -> RawResponse:
        return await self._client.raw.read_until(await self.head(within_s), marker, within_s)

    async def whole(self, within_s: float = 5.0) -> RawResponse:
        """All of it, or what came until it was cut."""
        answer = await self._client.raw.read_body(await self.head(within_s), within_s)
        self._client.ended = self._client.ended or not answer.complete
        return answer

    def leaves(self, how: str) -> float:
        """It is not wanted any more: ``stream`` as this protocol says that of one request, or the connection ends."""
        now = time.monotonic()
        self._client.ended = True
        if how == "rst":
            self._client.raw.reset()
        else:
            self._client.raw.close()
        return now


class H1Caller:
    """A client with one connection at a time; a new one where the last has ended."""

    def __init__(self, port: int, slow: bool) -> None:
        self._port = port
        self._slow = slow
        self.ended = False
        self.raw: RawClient

    async def connect(self) -> H1Caller:
        self.raw = await RawClient.connect("127.0.0.1", self._port, rcvbuf=8192 if self._slow else 0)
        return self

    async def says(self, data: bytes) -> H1Call:
        """Send a request; what is missing of it stays away."""
        if self.ended:
            self.raw.close()
            await self.connect()
            self.ended = False
        await self.raw.send(data)
        return H1Call(self)

    async def asks(self, data: bytes, within_s: float = 5.0) -> RawResponse:
        call = await self.says(data)
        answer = await call.whole(within_s)
        self.ended = self.ended or (answer.header("connection") or "").lower() == "close"
        return answer

    async def close(self) -> None:
        self.raw.close()
