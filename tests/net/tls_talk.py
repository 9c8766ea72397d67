"""Both ends of a socket pair with TLS between them: a wire of ours, and a peer that is OpenSSL by itself.

``TlsPeer`` is a ``Peer`` whose bytes go through TLS; what it reads from a connection that was cut ends as "cut".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from time import monotonic

from fastgw.net.certificates import Showing, Shown
from fastgw.net.poller import Reactor
from fastgw.net.tls import TlsWire
from fastgw.net.wire import Holder
from tests.net.talk import WAIT_S, Peer, tcp_pair, until
from tests.support.pki import Certificates


class TlsPeer(Peer):
    """The other end; a client unless ``context`` is a server's."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = "localhost") -> None:
        super().__init__(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        serves = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(self.incoming, self.outgoing, serves, None if serves else name)
        self.ended = ""

    def _put(self) -> None:
        data = self.outgoing.read()
        if data:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            assert self.sock.send(data) == len(data)

    async def _more(self, within_s: float) -> bool:
        """Whether some bytes have come."""
        try:
            async with asyncio.timeout(within_s):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionResetError:
            self.ended = "reset"
            return False
        if not data:
            self.ended = self.ended or "cut"
            return False
        self.incoming.write(data)
        return True

    async def shake(self, with_last: bytes = b"") -> None:
        """The handshake; ``with_last`` is sent in one piece with the last of it."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._put()
                assert await self._more(WAIT_S), "the handshake ended"
            else:
                break
        if with_last:
            self.tls.write(with_last)
        self._put()

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._put()

    def leave(self, told: bool = True, last: bytes = b"") -> None:
        """End our side, by close_notify or without a word, with ``last`` in one piece before it."""
        if last:
            self.tls.write(last)
        if told:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
        self._put()
        self.sock.shutdown(socket.SHUT_WR)

    async def receive(self, size: int, within_s: float = WAIT_S) -> bytes:
        got = b""
        end = monotonic() + within_s
        while len(got) < size and not self.ended:
            try:
                data = self.tls.read(min(size - len(got), 65536))
            except ssl.SSLWantReadError:
                await self._more(end - monotonic())
                continue
            if not data:
                self.ended = "told"
            got += data
        return got

    async def rest(self, within_s: float = WAIT_S) -> bytes | str:
        """All that comes until the end; "reset" or "cut" where that was no proper one."""
        got = await self.receive(1 << 30, within_s)
        return got if self.ended == "told" else self.ended


class Shaken(Holder):
    """Waits for the handshake."""

    def __init__(self, wire: TlsWire) -> None:
        super().__init__()
        self.codes: list[int] = []
        wire.holder = self

    def on_dialled(self, code: int) -> None:
        self.codes.append(code)


async def secured(
    reactor: Reactor, certs: Certificates, with_last: bytes = b"", shown: Shown | None = None
) -> tuple[TlsWire, TlsPeer]:
    """A wire that has accepted, and its client, shaken hands."""
    ours, theirs = tcp_pair()
    wire = TlsWire(reactor, shown or Shown(Showing([(certs.gateway.cert, certs.gateway.key)])), ours.detach())
    shaken = Shaken(wire)
    peer = TlsPeer(theirs, certs.trusting())
    wire.accept()
    await peer.shake(with_last)
    await until(lambda: shaken.codes)
    assert shaken.codes == [0], wire.trouble
    return wire, peer
