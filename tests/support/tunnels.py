"""Runners with tunnels, in the test's own process: all of ``fastgw runner --tunnel`` but its command line and its looks at the
engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastgw import EngineConfig
from fastgw.agent.tunnel import TunnelSocket, dialled
from fastgw.behind import Behind, config_for
from fastgw.net.certificates import believed
from fastgw.protocol import runner_words as words
from tests.support.gateway import Events, Running

TOKEN = "runners-0123456789abcdef"


class InTunnel:
    """A runner that has dialled in."""

    def __init__(self, id: str, url: str) -> None:
        self.id = id
        self.events = Events()
        self.behind = Behind(config_for(EngineConfig(url=url, name="engine", warm_connections=0)), self.events)
        self.socket: TunnelSocket | None = None

    async def dial(self, gw: Running, models: Sequence[str] = (), token: str = TOKEN, ca: str = "") -> TunnelSocket:
        """Connect (again), register, and serve."""
        url = gw.url.replace("http", "ws", 1) + "/ws/runners"
        async with asyncio.timeout(5):
            made = await dialled(self.behind.reactor, url, believed("127.0.0.1", ca, "", "", True).wire if ca else None)
            status = words.RunnerStatus(
                health="healthy",
                engines=[words.EngineStatus(engine_type="openai", is_healthy=True, loaded_models=list(models))],
            )
            first = words.Register(runner_id=self.id, http_port=1, protocol_version=1, auth_token=token, status=status)
            await made.send_str(words.written(first).decode())
            answer = words.from_gateway((await made.receive()).data)
        assert isinstance(answer, words.RegisterAck), answer
        assert made.end.wire is not None
        self.behind.serve(made.end.wire)
        self.socket = made
        return made

    async def stop(self) -> None:
        if self.socket is not None:
            self.socket.end.cut()
        await self.behind.stop()
        assert not self.events.errors(), self.events.errors()


@asynccontextmanager
async def tunnelled(gw: Running, *urls: str, models: Sequence[str] = ()) -> AsyncIterator[list[InTunnel]]:
    """A runner before each of these engines; ``gw`` has :data:`TOKEN`."""
    made: list[InTunnel] = []
    try:
        for at, url in enumerate(urls):
            one = InTunnel(f"r{at}", url)
            made.append(one)
            await one.dial(gw, models)
        core = gw.gateway.core
        assert core is not None
        await gw.until("all have connections", lambda: all(_ready(gw, one.id) for one in made))
        yield made
    finally:
        for one in made:
            await one.stop()


def _ready(gw: Running, id: str) -> bool:
    pool = next((pool for pool in gw.gateway.fleet.pools if pool.engine.name == id), None)
    core = gw.gateway.core
    assert core is not None
    return pool is not None and pool.connections == 1 and pool in core.table.pools
