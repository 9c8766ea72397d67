"""What a new connection speaks: HTTP/2 where its first bytes are the client's preface (RFC 9113 section 3.4), else HTTP/1.1.

Owns: the connection until that is known. Must never: lose a byte of what came before it was.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from fastgw.sim.h2 import H2Connection
from fastgw.sim.h2_seen import H2Owner
from fastgw.sim.scripted import reset_transport
from fastgw.sim.wire import Connection

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# No method of HTTP/1 begins so, and a preface that goes wrong later is for the HTTP/2 side to refuse.
_TOLD: Final = b"PRI "
_SAYS_NO: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Front(asyncio.Protocol):
    """The connection's first protocol; the one that it turns out to be takes its place."""

    number = on_connection = 0

    def __init__(self, simulator: H2Owner) -> None:
        self._sim = simulator
        self._begun = b""
        self._idle: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self._sim.begun(self)
        if self._sim.config.keep_alive_s:
            self._idle = asyncio.get_running_loop().call_later(self._sim.config.keep_alive_s, self.transport.close)

    def data_received(self, data: bytes) -> None:
        self._begun += data
        if self._begun.startswith(_TOLD):
            self._speak_h2()
        elif not _TOLD.startswith(self._begun):
            self._becomes(Connection(self._sim))

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def reset(self) -> None:
        reset_transport(self.transport)

    def _leave(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._sim.told(self)

    def _speak_h2(self) -> None:
        face = self._sim.face.over(self._sim.config)
        match face.preface:
            case "answer":
                self._becomes(H2Connection(self._sim, face))
            case "silent":
                self._becomes(_Silent(self._sim))
            case "400":
                self.transport.write(_SAYS_NO)
                self.transport.close()
            case "reset":
                self.reset()
            case _:
                self.transport.close()

    def _becomes(self, protocol: Connection | H2Connection | _Silent) -> None:
        self._leave()
        begun, self._begun = self._begun, b""
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(begun)


class _Silent(asyncio.Protocol):
    """Takes everything and says nothing, until the other side has had enough."""

    on_connection = 0

    def __init__(self, simulator: H2Owner) -> None:
        self._sim = simulator
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.number = self._sim.opened(self)

    def data_received(self, data: bytes) -> None:
        """Nothing."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._sim.closed(self)

    def reset(self) -> None:
        reset_transport(self.transport)
