"""``/ws/runners``: the WebSockets of runners, by aiohttp, on whichever port they came.

Owns: the frames, and the two bounds that a session (``protocol/runners.py``, which decides all the rest) cannot hold: how many
connections may be there that have not registered (:data:`MOST_NEW`; whoever comes then takes the place of the one that has
waited longest, of the address that has most of them), and how long a message may wait to be taken (:data:`WRITE_S`). A
connection comes as a request of the control listener, or with its socket and what was read of it from the port for clients
(:meth:`RunnerSockets.adopt`). Must never: let frames be compressed, read a message longer than ``MAX_FRAME_BYTES``, or go on
for a page of a browser (``Origin``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSMsgType, web

from fastgw.errors import GatewayError, described
from fastgw.net.clock import monotonic
from fastgw.protocol.masking import MaskWatch
from fastgw.protocol.runner_words import AUTH_FAILED, MAX_FRAME_BYTES
from fastgw.protocol.runners import AWAY, LATER, POLICY, House, Session, State, Terms
from fastgw.stats import EventLog

if TYPE_CHECKING:
    import socket

MOST_NEW: Final = 64
WRITE_S: Final = 10.0
CLOSE_S: Final = 2.0
"""For a runner to answer our close."""
HEAD_S: Final = 5.0
MAX_LINE_BYTES: Final = 8190

NOT_A_FRAME: Final = b"\xf0\x80"
"""Reserved bits: whoever reads that closes with 1002."""
IN_URL: Final = "The token stands in `register`, and never in a URL, which is logged: have it replaced."


class _Reader:
    """What reads a WebSocket's frames, where none comes to it that is not masked: aiohttp's own does not look."""

    __slots__ = ("_reader", "_watch")

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._watch = MaskWatch()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        passed, on = self._watch.take(data)
        found: tuple[bool, bytes] = self._reader.feed_data(passed if on else passed + NOT_A_FRAME)
        return found

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class Masked(web.RequestHandler):
    """A connection on which runners may speak WebSocket."""

    __slots__ = ()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """(aiohttp's name for what reads all that comes from there on.)"""
        super().set_parser(_Reader(parser), data_received_cb)  # type: ignore[arg-type]


class _Connection:
    """One WebSocket, and what is to be written on it."""

    __slots__ = ("_writer", "session", "ws")

    def __init__(self, ws: web.WebSocketResponse, session: Session) -> None:
        self.ws = ws
        self.session = session
        self._writer: asyncio.Task[None] | None = None
        session.wake = self.wake

    def wake(self) -> None:
        """There is something to be written, or it is to be closed."""
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="runner messages")

    async def written(self) -> None:
        """What there is has been written, or will never be."""
        if self._writer is not None:
            await asyncio.wait({self._writer})

    async def _write(self) -> None:
        session = self.session
        try:
            async with asyncio.timeout(WRITE_S):
                while session.out:
                    await self.ws.send_frame(session.out.popleft(), WSMsgType.TEXT)
                if session.closing is not None:
                    code, reason = session.closing
                    await self.ws.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError, RuntimeError):
            session.out.clear()
            self.cut()
        finally:
            self._writer = None

    def cut(self) -> None:
        """It does not take what is written: no more of it."""
        transport = self.ws._req.transport if self.ws._req is not None else None
        if transport is not None:
            transport.abort()


class _Handshake(web.BaseRequest):
    """A request whose answer does not name the library that wrote it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


class _Adopted(Masked):
    """A connection that came to the port for clients, with what was read there."""

    __slots__ = ("_head", "ended", "peer", "told")

    def __init__(
        self, manager: web.Server, loop: asyncio.AbstractEventLoop, peer: str, told: bool, head: bytes,
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=HEAD_S,
            access_log=None,  # type: ignore[arg-type]  # None = none, as its code has it
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            lingering_time=0.0,
        )
        self.peer = peer
        self.told = told
        self._head = head
        self.ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        head, self._head = self._head, b""
        if head:
            self.data_received(head)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.ended()


def _handshake(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    return _Handshake(message, payload, protocol, writer, task, asyncio.get_running_loop())


class RunnerSockets:
    """See the head of this file. ``house`` is told what runners say."""

    def __init__(self, house: House, terms: Terms, log: EventLog, clock: Callable[[], float] = monotonic) -> None:
        self._house = house
        self._terms = terms
        self._log = log
        self._clock = clock
        self._live: dict[Session, _Connection] = {}  # in the order in which they came
        self._server: web.Server | None = None

    def __len__(self) -> int:
        return len(self._live)

    async def adopt(
        self, sock: socket.socket, head: bytes, peer: str, told: bool, ended: Callable[[], None]
    ) -> None:
        """Take over a connection of which ``head`` (a request's, and what came behind it) has been read. ``told``: its URL had
        more than a path; ``ended`` is called when it is no more."""
        loop = asyncio.get_running_loop()
        if self._server is None:
            self._server = web.Server(self._adopted, request_factory=_handshake)
        server = self._server
        try:
            await loop.connect_accepted_socket(lambda: _Adopted(server, loop, peer, told, head, ended), sock)
        except OSError:
            sock.close()  # it has left
            ended()

    async def _adopted(self, request: web.BaseRequest) -> web.StreamResponse:
        conn: Any = request.protocol
        try:
            return await self.serve(request, conn.peer, conn.told)
        except GatewayError as error:
            return web.Response(status=error.kind.status)  # (what can be refused has been, by who handed it over)
        finally:
            conn.force_close()

    async def serve(self, request: web.BaseRequest, peer: str, told: bool | None = None) -> web.WebSocketResponse:
        """Speak with the runner behind ``request`` until its connection ends. Raises GatewayError for what is no WebSocket of a
        runner's."""
        if "Origin" in request.headers:
            raise GatewayError("forbidden", "Runners are no pages of a browser.")
        if request.headers.get("Upgrade", "").lower() != "websocket" or request.method != "GET":
            raise GatewayError("bad_request", "Runners speak WebSocket here: send `Upgrade: websocket`.")
        ws = web.WebSocketResponse(
            timeout=CLOSE_S, autoping=False, compress=False, max_msg_size=MAX_FRAME_BYTES, decode_text=False
        )
        try:
            await ws.prepare(request)
        except web.HTTPException:
            raise GatewayError("bad_request", "This is no handshake of a WebSocket (RFC 6455).") from None
        now = self._clock()
        session = Session(self._house, self._terms, peer, now)
        conn = self._live[session] = _Connection(ws, session)
        self._make_room(now)
        if request.query_string if told is None else told:
            session.fail(AUTH_FAILED, IN_URL, POLICY, now)
        try:
            await self._read(conn)
        finally:
            session.on_end(self._clock())
            del self._live[session]
            if session.why:
                self._log.warning("runner refused", **session.refusal())
            await conn.written()
        return ws

    async def _read(self, conn: _Connection) -> None:
        ws, session = conn.ws, conn.session
        while session.closing is None:
            message = await ws.receive()
            now = self._clock()
            kind = message.type
            if kind is WSMsgType.TEXT:
                session.on_text(message.data, now)
            elif kind is WSMsgType.PING or kind is WSMsgType.PONG:
                if session.on_control(now) and kind is WSMsgType.PING:
                    try:
                        async with asyncio.timeout(WRITE_S):
                            await ws.pong(message.data)
                    except (TimeoutError, ConnectionError):
                        conn.cut()
            elif kind is WSMsgType.BINARY:
                session.on_binary(now)
            else:
                return  # closed, by them or for what aiohttp could not read
        await conn.written()

    def _make_room(self, now: float) -> None:
        new = [session for session in self._live if session.state is State.NEW]
        if len(new) > MOST_NEW:
            ((crowd, _),) = Counter(session.peer for session in new).most_common(1)
            leaves = next(session for session in new if session.peer == crowd)
            leaves.close(LATER, "there are too many that have not registered", now)

    def tick(self, now: float, unix: float) -> None:
        """Time goes by for those that have not registered. (The others are the registry's.)"""
        for session in [one for one in self._live if one.state is State.NEW]:
            session.tick(now, unix)

    async def stop(self) -> None:
        """Close all; who does not answer that in time is cut."""
        now = self._clock()
        for session in list(self._live):
            session.close(AWAY, "the gateway stops", now)
        end = now + CLOSE_S
        while self._live and self._clock() < end:  # noqa: ASYNC110 - they are many, and there is no event for the last of them
            await asyncio.sleep(0.01)
        for conn in list(self._live.values()):
            conn.cut()
        server, self._server = self._server, None
        if server is not None:
            with suppress(Exception):
                await server.shutdown(CLOSE_S)

    def fault(self, error: BaseException) -> None:
        """An error that is ours."""
        self._log.error("runner connection failed", error=described(error))
