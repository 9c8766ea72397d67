"""TLS over a socket that is spoken over by awaiting, for probes: what ``net/tls.py`` is to the data plane."""

from __future__ import annotations

import asyncio
import socket
import ssl

from fastgw.net.channel import Channel
from fastgw.net.tls_end import MAX_HANDSHAKE_BYTES, RECORD_BYTES, End


class TlsChannel(Channel):
    """See the head of this file."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, end: End) -> None:
        super().__init__(loop, sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = end.session(self._incoming, self._outgoing)

    async def shake(self) -> None:
        """The handshake. Raises OSError where it fails."""
        read = 0
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                await self._flush()  # (an alert says to the peer why)
                raise
            else:
                await self._flush()
                return
            data = await super().receive()
            read += len(data)
            if not data:
                raise ConnectionResetError("closed within the TLS handshake")
            if read > MAX_HANDSHAKE_BYTES + 65536:  # (the last read may have more than the handshake's)
                raise ConnectionResetError("a TLS handshake that is too long")
            self._incoming.write(data)

    def protocol(self) -> str:
        return self._tls.selected_alpn_protocol() or ""

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                data = await super().receive()
                if not data:
                    raise ConnectionResetError("the TLS connection was cut") from None
                self._incoming.write(data)

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            await super().send(data)


async def secured(loop: asyncio.AbstractEventLoop, sock: socket.socket, end: End) -> Channel:
    """TLS over ``sock``, which is connected. Raises OSError where the handshake fails."""
    channel = TlsChannel(loop, sock, end)
    try:
        await channel.shake()
    except ssl.SSLError:
        raise
    except ValueError as error:  # (a name that no certificate could have)
        raise OSError(f"TLS: {error}") from error
    return channel
