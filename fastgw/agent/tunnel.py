"""The agent's end of a tunnel: a WebSocket over a wire of the data plane, that :class:`~fastgw.agent.link.Link` speaks over.

Owns: the dial, the handshake, and the texts that have come and are not read yet. What comes in binary messages is HTTP/2, and
whoever serves that is given the wire (:meth:`TunnelSocket.stream`) once the gateway has taken us. Must never: speak to a
gateway that does not say that it takes tunnels.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import WSMessage, WSMsgType

from fastgw.errors import GatewayError
from fastgw.net.poller import Reactor
from fastgw.net.unusable import TlsError
from fastgw.net.wire import RECV_BYTES, Address, Holder, PlainWire, Wire
from fastgw.net.ws_wire import Talk, WebSocketEnd, WebSocketWire
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.runner_words import MAX_FRAME_BYTES
from fastgw.protocol.websocket import TUNNEL, accepts, new_key

MOST_TEXTS: Final = 256
"""That wait to be read by us: a gateway that says more at once is no gateway."""


class NoTunnel(Exception):
    """The dial came to nothing; the text says why. ``status``: what was answered, 0 = nothing."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TunnelSocket(Talk):
    """What a WebSocket of aiohttp's is to who speaks over it."""

    __slots__ = ("_over", "_texts", "close_code", "end", "why")

    def __init__(self, reactor: Reactor, wire: Wire) -> None:
        self._texts: asyncio.Queue[WSMessage] = asyncio.Queue()
        self._over = asyncio.Event()
        self.close_code: int | None = None
        self.why = ""
        self.end = WebSocketEnd(reactor, wire, True, MAX_FRAME_BYTES, self)

    def stream(self) -> WebSocketWire:
        """The wire in it: asked for before anything is read."""
        return self.end.stream()

    def on_text(self, text: bytes) -> None:
        if self._texts.qsize() >= MOST_TEXTS:
            self.end.cut()
        else:
            self._texts.put_nowait(WSMessage(WSMsgType.TEXT, text.decode("utf-8", "replace"), None))

    def on_sign(self) -> bool:
        if self._texts.empty():  # (who reads those hears that it lives)
            self._texts.put_nowait(WSMessage(WSMsgType.PONG, b"", None))
        return True

    def on_over(self, code: int, why: str) -> None:
        self.close_code = code
        self.why = why
        self._texts.put_nowait(self._closed())
        self._over.set()

    async def receive(self) -> WSMessage:
        """The next text, or sign of life; once it has ended, that."""
        if self._over.is_set() and self._texts.empty():
            return self._closed()
        return await self._texts.get()

    def _closed(self) -> WSMessage:
        return WSMessage(WSMsgType.CLOSED, self.close_code, self.why)

    async def ping(self) -> None:
        """Have it answer; what has come or gone since the last time is a sign of life too. Raises ConnectionResetError where
        nothing is sent any more."""
        if self.end.heard:
            self.end.heard = False
            self.on_sign()
        if not self.end.ping():
            raise ConnectionResetError("the connection has ended")

    async def send_str(self, text: str) -> None:
        """Raises ConnectionResetError where nothing is sent any more."""
        if not self.end.say(text.encode()):
            raise ConnectionResetError("the connection has ended")

    async def close(self) -> None:
        self.end.close(1000, "")
        await self._over.wait()


class _Dial(Holder):
    """A connection until it is a WebSocket."""

    __slots__ = ("_head", "_reader", "done", "wire")

    def __init__(self, wire: Wire, head: bytes) -> None:
        super().__init__()
        self.wire = wire
        self._head = head
        self._reader = ResponseReader()
        self.done: asyncio.Future[tuple[int, bytes, bytes]] = asyncio.get_running_loop().create_future()
        wire.holder = self

    def on_dialled(self, code: int) -> None:
        if code:
            self._fail(self.wire.why(code))
        else:
            self.wire.resume()
            self.wire.write(self._head)

    def on_readable(self) -> None:
        try:
            data = self.wire.recv(RECV_BYTES)
            head = self._reader.feed(data) if data else None
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, GatewayError) as error:
            self._fail(str(error) or "no answer")
            return
        if not data:
            self._fail("closed before an answer")
        elif head is not None and not self.done.done():
            self.wire.pause()
            self.done.set_result((head.status, head.forward, self._reader.rest))

    def on_left(self) -> None:
        self._fail("closed before an answer")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(NoTunnel(why))


async def dialled(reactor: Reactor, url: str, wire: Callable[[Reactor], Wire] | None = None) -> TunnelSocket:
    """A WebSocket with the gateway at ``url``, that takes tunnels. Whoever awaits bounds the time. Raises NoTunnel, OSError."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    why = "no address"
    for family, _, _, _, address in found[:4]:
        made = wire(reactor) if wire is not None else _wire(reactor, host) if secure else PlainWire(reactor)
        try:
            return await _spoken(reactor, made, (int(family), address), parts.netloc, url.partition(parts.netloc)[2])
        except (NoTunnel, OSError) as error:
            made.dispose()
            if isinstance(error, NoTunnel) and error.status:
                raise
            why = str(error)
        except BaseException:
            made.dispose()
            raise
    raise NoTunnel(why)


def _wire(reactor: Reactor, host: str) -> Wire:
    from fastgw.net.certificates import believed

    try:
        return believed(host, "", "", "", True).wire(reactor)
    except TlsError as error:
        raise NoTunnel(str(error)) from None


async def _spoken(reactor: Reactor, wire: Wire, address: Address, authority: str, path: str) -> TunnelSocket:
    key = new_key(os.urandom(16))
    dial = _Dial(
        wire,
        b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n" % (path.encode(), authority.encode(), key, TUNNEL),
    )
    code = wire.dial(address)
    if code:
        raise NoTunnel(wire.why(code))
    status, lines, rest = await dial.done
    if status != 101:
        raise NoTunnel(f"answered {status}", status)
    if not accepts(lines, key):
        raise NoTunnel("the answer is to another handshake")
    if b"sec-websocket-protocol: " + TUNNEL not in lines.lower():
        raise NoTunnel("takes no tunnels here: they are dialled at the gateway's port for clients", 101)
    made = TunnelSocket(reactor, wire)
    made.stream()
    made.end.begin(rest)
    return made
