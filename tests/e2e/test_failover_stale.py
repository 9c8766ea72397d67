"""Two engines restart at once: the request that met a dead connection at the first does not meet another at the second."""

from __future__ import annotations

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, chat
from tests.support.gateway import running

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def one_answer_a_connection(conn: ScriptedConnection) -> None:
    """Keeps the connection open after its answer, and closes it when another request comes."""
    if await conn.read_request() is not None:
        await conn.send(ANSWER)
        await conn.read_request()


async def test_a_repeated_request_takes_only_new_connections() -> None:
    async with ScriptedEngine(one_answer_a_connection) as one, ScriptedEngine(one_answer_a_connection) as two:
        engines = [EngineConfig(url=each.url, warm_connections=0) for each in (one, two)]
        async with running(engines, health_interval_s=60.0) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            await gw.until("the first probes are over", lambda: all(pool.engine.probed_at for pool in gw.gateway.fleet.pools))
            for _ in range(2):  # an idle connection to each
                await client.send(chat("m", False))
                assert (await client.read_response()).status == 200
            assert [len(pool.idle) for pool in gw.gateway.fleet.pools] == [1, 1]
            await one.stop_listening()
            await client.send(chat("m", False))
            assert (await client.read_response()).status == 200
            assert gw.stats.replays_total == 1
            assert gw.stats.failovers_total == 1
