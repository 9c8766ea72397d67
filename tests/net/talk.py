"""Both ends of a socket pair in one test: a connection of the data plane on the real reactor, and a peer that is spoken for.

``heard`` is what a sink, a carrier or a service was told, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.accel.landing import Landing
from fastgw.errors import GatewayError
from fastgw.net.client import ClientStream, Connection, ConnLimits, Service, Sink
from fastgw.net.h1_connection import H1Connection
from fastgw.net.poller import Reactor
from fastgw.net.upstream import Carrier
from fastgw.net.wire import PlainWire
from fastgw.protocol.body import Source
from fastgw.protocol.http1.client import parse_response
from fastgw.stats import Stats

WAIT_S = 2.0


async def until(true: Callable[[], object]) -> None:
    end = monotonic() + WAIT_S
    while not true():
        assert monotonic() < end, "it did not come"
        await asyncio.sleep(0.001)


async def turns(count: int = 5) -> None:
    """Time for what is to be told."""
    for _ in range(count):
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def reacting() -> AsyncIterator[Reactor]:
    reactor = Reactor(asyncio.get_running_loop())
    try:
        yield reactor
    finally:
        await turns(2)
        reactor.close()


class Peer:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def send(self, data: bytes) -> None:
        assert self.sock.send(data) == len(data)

    async def receive(self, size: int, within_s: float = WAIT_S) -> bytes:
        """So many bytes, or what came before the end."""
        loop = asyncio.get_running_loop()
        got = b""
        async with asyncio.timeout(within_s):
            while len(got) < size:
                data = await loop.sock_recv(self.sock, size - len(got))
                if not data:
                    break
                got += data
        return got

    async def some(self, within_s: float = WAIT_S) -> bytes:
        """What is there, or comes first."""
        async with asyncio.timeout(within_s):
            return await asyncio.get_running_loop().sock_recv(self.sock, 65536)

    async def rest(self, within_s: float = WAIT_S) -> bytes | str:
        """All that comes until the end; "reset" where that is what the end is."""
        try:
            return await self.receive(1 << 30, within_s)
        except ConnectionResetError:
            return "reset"

    def at_hand(self) -> bytes:
        """What has come until now."""
        got = b""
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(65536):
                got += data
        return got


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Connected sockets of TCP: a reset shows only there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


class HeardSink(Sink):
    """An exchange that only remembers, and does as told (``then``: by what it was told)."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.then: dict[str, Callable[[], object]] = {}
        self.lands = False  # bodies are received where it says
        self.landed: Landing | None = None

    def _hear(self, name: str, *told: Any) -> None:
        self.heard.append((name, *told) if told else name)
        then = self.then.get(name)
        if then is not None:
            then()

    def on_body(self, data: bytes, last: bool) -> None:
        self._hear("body", bytes(bytearray(data)), last)

    def landing(self, length: int) -> Landing | None:
        if self.lands:
            self.landed = Landing(length)
        return self.landed

    def on_gone(self, how: str) -> None:
        self._hear("gone", how)

    def on_drained(self) -> None:
        self._hear("drained")

    def on_stalled(self) -> None:
        self._hear("stalled")

    def on_error(self, error: GatewayError) -> None:
        self._hear("error", error.kind.name, error.detail)

    def on_total_timeout(self) -> None:
        self._hear("total timeout")

    def on_tunnel_data(self, data: bytes) -> None:
        self._hear("tunnel", bytes(bytearray(data)))

    def body(self) -> bytes:
        if self.landed is not None:
            return self.landed.whole()
        return b"".join(told[1] for told in self.heard if told[0] == "body")


class HeardService(Service):
    """Opens one remembering sink for each request, and does ``then`` with it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[RequestHead] = []
        self.sinks: list[HeardSink] = []
        self.refused: list[str] = []
        self.ended: list[str] = []
        self.crashes: list[BaseException] = []
        self.then: Callable[[ClientStream, HeardSink], object] | None = None

    def open(self, stream: ClientStream, head: RequestHead) -> None:
        sink = HeardSink()
        self.heads.append(head)
        self.sinks.append(sink)
        stream.sink = sink
        if self.then is not None:
            self.then(stream, sink)

    def refuse(self, stream: ClientStream, error: GatewayError) -> None:
        self.refused.append(error.kind.name)
        stream.refuse(error.kind.status, b"{}", b"x-request-id: id-0\r\n", error.kind.close)

    def crashed(self, stream: ClientStream, error: BaseException) -> None:
        self.crashes.append(error)
        stream.close(True)

    def closed(self, connection: Connection, peer_ip: str) -> None:
        self.ended.append(peer_ip)


LIMITS = {"head_bytes": 32768, "header_count": 100, "head_s": 10.0, "idle_s": 10.0, "body_s": 10.0, "write_s": 10.0}


class Front:
    """A client's connection: ``peer`` is the client."""

    def __init__(self, reactor: Reactor, socks: tuple[socket.socket, socket.socket] | None = None, **limits: float) -> None:
        ours, theirs = socks or socket.socketpair()
        ours.setblocking(False)
        self.peer = Peer(theirs)
        self.service = HeardService()
        self.stats = Stats()
        given = ConnLimits(**{**LIMITS, **limits})  # type: ignore[arg-type]
        wire = PlainWire(reactor, ours.detach())
        self.conn = H1Connection(reactor, wire, self.service, given, self.stats, "192.0.2.1", False, b"")

    @property
    def stream(self) -> ClientStream:
        stream = self.conn.stream
        assert stream is not None
        return stream

    @property
    def sink(self) -> HeardSink:
        return self.service.sinks[-1]

    async def ask(self, data: bytes) -> HeardSink:
        """Send a request; the sink that it got."""
        before = len(self.service.sinks)
        self.peer.send(data)
        await until(lambda: len(self.service.sinks) > before)
        return self.sink

    def end(self) -> None:
        self.conn.close()
        self.peer.sock.close()
        assert self.stats.connections_open == 0
        assert self.service.crashes == []


@contextlib.asynccontextmanager
async def front(tcp: bool = False, **limits: float) -> AsyncIterator[Front]:
    async with reacting() as reactor:
        place = Front(reactor, tcp_pair() if tcp else None, **limits)
        try:
            yield place
        finally:
            place.end()


class HeardCarrier(Carrier):
    """Remembers what a stream tells; ``source`` is what reads the answer, ``payload`` what it has read."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.then: dict[str, Callable[[], object]] = {}
        self.head: ResponseHead | None = None
        self.source: Source | None = None
        self.payload = b""

    def _hear(self, name: str, *told: Any) -> None:
        self.heard.append((name, *told) if told else name)
        then = self.then.get(name)
        if then is not None:
            then()

    def on_stream(self) -> None:
        self._hear("stream")

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        self._hear("unreachable", detail, timed_out)

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        self.head = head
        self.source = source
        self.payload += source.feed(rest) if head.status != 101 else rest
        self._hear("head", head.status)

    def on_error(self, error: GatewayError) -> None:
        self._hear("error", error.kind.name, error.detail)

    def on_data(self, data: bytes) -> None:
        assert self.source is not None
        assert self.head is not None
        self.payload += self.source.feed(data) if self.head.status != 101 else data
        self._hear("data")

    def on_end(self, how: str) -> None:
        self._hear("end", how)

    def on_drained(self) -> None:
        self._hear("drained")

    def on_silent(self) -> None:
        self._hear("silent")


def answered(fields: bytes = b"", status: bytes = b"200 OK") -> ResponseHead:
    """An engine's head; ``fields`` are whole lines."""
    return parse_response(b"HTTP/1.1 " + status + b"\r\n" + fields.removesuffix(b"\r\n"))
