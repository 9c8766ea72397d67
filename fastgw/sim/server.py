"""The simulator as an object: ``async with Simulator(SimConfig(...)) as sim`` and it listens at ``sim.url``.

Owns: the listening socket, the set of connections, the wiring of engine, routes and faults. Must never: outlive its
``stop()``: no socket, timer or task of it is left on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.sim.answers import Clock
from fastgw.sim.config import SimConfig
from fastgw.sim.debug import Debug
from fastgw.sim.engine import Engine, State
from fastgw.sim.faults import FaultChooser
from fastgw.sim.heads import Head, HeadMemo
from fastgw.sim.received import Received, Recorder
from fastgw.sim.routes import Routes
from fastgw.sim.shapes import BadRequestError
from fastgw.sim.wire import Connection, Lived

if TYPE_CHECKING:
    from fastgw.sim.h2_seen import Face, Seen

_BACKLOG: Final = 4096
# How many connections' request counts ``requests_per_connection`` remembers.
_REMEMBERED_CONNECTIONS: Final = 4096
_STOP_S: Final = 2.0
_REOPEN_ATTEMPTS: Final = 100
_REOPEN_GAP_S: Final = 0.05


class Simulator:
    """One simulated engine, in this process and on the running loop.

    ``state`` has counters and gauges, ``requests`` the last requests received, ``refuse()`` makes it unreachable for a
    while, ``set_healthy(False)`` lets ``/health`` answer 503. With ``config.h2``, ``seen`` is what its HTTP/2 connections were,
    and ``face`` how those to come are met.
    """

    seen: Seen
    face: Face

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self.engine = Engine(self.config)
        self.requests = Recorder(self.config.record)
        self.memo = HeadMemo()
        self.clock = Clock()
        self.chooser = FaultChooser(self.config.fault, self.config.fault_rate, self.config.seed)
        self.routes = Routes(self.config, self.engine, Debug(self) if self.config.debug else None)
        self.port = 0
        self._connections: set[Lived] = set()
        self._server: asyncio.AbstractServer | None = None
        self._emptied: asyncio.Event | None = None
        self._reopening: asyncio.Task[None] | None = None
        if self.config.h2:
            from fastgw.sim.h2_seen import Face, Seen

            self.seen = Seen()
            self.face = Face()

    @property
    def url(self) -> str:
        """``http://host:port``, or ``unix:/path``."""
        if self.config.unix:
            return f"unix:{self.config.unix}"
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def state(self) -> State:
        return self.engine.state

    # Lifecycle.

    async def start(self) -> None:
        """Listen. OSError when the address cannot be had."""
        await self._listen()
        if self.config.refuse_s:
            self.refuse(self.config.refuse_s)

    async def stop(self) -> None:
        """Stop listening and drop every connection; returns when nothing is left."""
        if self._reopening is not None:
            self._reopening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reopening
            self._reopening = None
        self._close_listener()
        self._drop_all()
        if self._connections:
            self._emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), _STOP_S)
        if self.config.unix:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.config.unix)

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def refuse(self, seconds: float, drop: bool = False) -> None:
        """Close the listening socket for ``seconds``; connections live on, unless ``drop`` resets them.

        Again while refusing: the new time counts. The port stays the same.
        """
        self._close_listener()
        if drop:
            asyncio.get_running_loop().call_soon(self._drop_all, True)
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().create_task(self._reopen(seconds), name="sim-reopen")

    def set_healthy(self, healthy: bool) -> None:
        self.routes.healthy = healthy

    def state_dict(self) -> dict[str, Any]:
        """``state`` as ``/debug/state`` shows it."""
        own = {"healthy": self.routes.healthy, "recorded": len(self.requests)}
        return {**self.state.as_dict(), **own, **({"h2": self.seen.as_dict()} if self.config.h2 else {})}

    def h2_connections(self) -> list[Any]:
        """What was seen of the last HTTP/2 connections, as ``/debug/h2`` shows it; empty without ``config.h2``."""
        return [msgspec.to_builtins(seen) for seen in self.seen.connections] if self.config.h2 else []

    def meet(self, given: bytes) -> None:
        """Connections to come are met so: a ``Face`` in JSON. BadRequestError when there is no HTTP/2 here, or no such face."""
        if not self.config.h2:
            raise BadRequestError("The simulator speaks HTTP/2 with --h2.")
        self.face = msgspec.json.decode(given, type=type(self.face))

    # What connections report.

    def begun(self, connection: Lived) -> None:
        """A connection that has not said yet what it speaks."""
        self._connections.add(connection)

    def told(self, connection: Lived) -> None:
        """It has, or is gone."""
        self._forget(connection)

    def opened(self, connection: Lived) -> int:
        state = self.state
        state.connections_total += 1
        state.connections_open += 1
        self._connections.add(connection)
        counts = state.requests_per_connection
        counts[state.connections_total] = 0
        if len(counts) > _REMEMBERED_CONNECTIONS:
            del counts[next(iter(counts))]
        return state.connections_total

    def closed(self, connection: Lived) -> None:
        self.state.connections_open -= 1
        self._forget(connection)

    def _forget(self, connection: Lived) -> None:
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def received(self, connection: Lived, head: Head) -> Received:
        state = self.state
        state.received += 1
        if connection.number in state.requests_per_connection:
            state.requests_per_connection[connection.number] = connection.on_connection
        request = Received(state.received, head, connection.number, connection.on_connection)
        self.requests.add(request)
        return request

    def finished(self, outcome: str) -> None:
        state = self.state
        if outcome == "served":
            state.served += 1
        elif outcome == "cancelled":
            state.cancelled += 1
        else:
            state.faulted += 1

    def malformed(self, reason: str) -> None:
        self.state.malformed += 1
        self.state.last_malformed = reason

    # The listening socket.

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        config = self.config

        def factory() -> asyncio.Protocol:
            if not config.h2:
                return Connection(self)
            from fastgw.sim.front import Front  # h2 is imported where somebody asks for it

            return Front(self)

        if config.unix:
            self._server = await loop.create_unix_server(factory, config.unix, backlog=_BACKLOG)
            return
        family = socket.AF_INET6 if ":" in config.host else socket.AF_UNSPEC
        port = self.port or config.port
        server = await loop.create_server(factory, config.host, port, family=family, backlog=_BACKLOG, reuse_address=True)
        self._server = server
        self.port = server.sockets[0].getsockname()[1]

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for attempt in range(_REOPEN_ATTEMPTS):
            try:
                await self._listen()
                return
            except OSError:
                # Somebody else has the port for the moment; it was ours, so it is worth waiting for.
                if attempt == _REOPEN_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_REOPEN_GAP_S)

    def _drop_all(self, reset: bool = False) -> None:
        for connection in list(self._connections):
            if reset:
                connection.reset()
            else:
                connection.transport.abort()
