"""A client's connection that goes on as somebody else's in this process, who wants a socket: its own, or one of a pair.

Where bytes pass as they are, its descriptor is given away, with what has been read of it. Where it is encrypted it cannot be:
TLS is spoken between it and the wire. Then one end of a pair of sockets is, and here bytes pass between the other and the
client's stream, each side slowed by the other, until either ends.
"""

from __future__ import annotations

import socket
from typing import Final

from fastgw.errors import GatewayError
from fastgw.net.client import ClientStream, Sink
from fastgw.net.poller import Reactor
from fastgw.net.wire import DEAD, QUEUED, Holder, PlainWire

READ_BYTES: Final = 16384


def given_away(reactor: Reactor, client: ClientStream, lines: bytes) -> tuple[socket.socket, bytes, bool]:
    """A socket by which somebody else goes on with a client that asks for WebSocket, and what has been read of it: the
    handshake, with the client's own ``lines`` of it and nothing else that it said, and what came behind. The stream is over,
    and the last of them true (the connection is nobody's client any more), or the bridge's. Raises GatewayError where its
    protocol has other requests on the connection."""
    head = b"GET /ws/runners HTTP/1.1\r\nHost: runners\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b\r\n" % lines
    fd, behind = client.release()
    if fd >= 0:
        return socket.socket(fileno=fd), head + behind, True
    if not client.take_over():
        raise GatewayError("bad_request", "This is spoken over HTTP/1.1.")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    bridge = Bridge(reactor, client, ours.detach())
    client.sink = bridge
    early = client.early()
    if early:
        bridge.on_tunnel_data(early)
    return theirs, head, False


class _End(Holder):
    """Our end of the pair."""

    __slots__ = ("bridge", "wire")

    def __init__(self, bridge: Bridge, wire: PlainWire) -> None:
        self.bridge = bridge
        self.wire = wire
        wire.holder = self
        wire.resume()

    def on_readable(self) -> None:
        try:
            data = self.wire.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self.bridge.down(data)

    def on_left(self) -> None:
        self.bridge.down(b"")

    def on_written(self) -> None:
        self.bridge.client.resume()

    def on_broken(self) -> None:
        self.bridge.down(b"")


class Bridge(Sink):
    """See the head of this file."""

    __slots__ = ("_end", "client")

    def __init__(self, reactor: Reactor, client: ClientStream, fd: int) -> None:
        self.client = client
        self._end: _End | None = _End(self, PlainWire(reactor, fd))

    def _leave(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end.wire.dispose()

    def down(self, data: bytes) -> None:
        """To the client; b"" = there will be no more."""
        end = self._end
        if end is None:
            return
        if not data:
            self._leave()
            self.client.hang_up()
            return
        written = self.client.pass_on(data)
        if written == DEAD:
            self._leave()
            self.client.close()
        elif written == QUEUED:
            end.wire.hold()

    # --- a sink
    def on_tunnel_data(self, data: bytes) -> None:
        end = self._end
        if end is None:
            return
        written = end.wire.write(data)
        if written == DEAD:
            self.down(b"")
        elif written == QUEUED:
            self.client.pause()

    def on_tunnel_end(self) -> None:
        self.down(b"")

    def on_drained(self) -> None:
        if self._end is not None:
            self._end.wire.resume()

    def on_gone(self, how: str) -> None:
        self._leave()

    def on_stalled(self) -> None:
        self._leave()

    def on_error(self, error: GatewayError) -> None:
        self.down(b"")

    def on_total_timeout(self) -> None:
        """It has no limit of its own."""
