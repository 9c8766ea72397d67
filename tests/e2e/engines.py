"""Engines by script, for the tests of what an HTTP/1.1 engine can do wrong."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running
from tests.support.scripts import ANSWER as ANSWER
from tests.support.scripts import EARLY as EARLY
from tests.support.scripts import EVENT as EVENT
from tests.support.scripts import JSON_CHUNKED as JSON_CHUNKED
from tests.support.scripts import SSE_HEAD as SSE_HEAD
from tests.support.scripts import chunk as chunk
from tests.support.scripts import ok

Play = Callable[[ScriptedConnection, RawRequest], Awaitable[None]]

# Set apart from what is under test: probes stay out of the way, and nothing is warm unless a test wants it.
QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0}


def scripted(play: Play, **options: Any) -> ScriptedEngine:
    """An engine whose health is good and whose every POST is ``play``'s business."""

    async def handler(conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request()
            if request.method == b"GET":
                await conn.send(ok(b'{"object":"list","data":[]}', b"connection: close"))
                return
            await play(conn, request)

    return ScriptedEngine(handler, **options)


async def fine(conn: ScriptedConnection, _: RawRequest) -> None:
    await conn.send(ok())


def posts(engine: ScriptedEngine) -> list[RawRequest]:
    return [request for request in engine.requests if request.method == b"POST"]


def pool_engine(gw: Running, at: int = 0) -> Any:
    """The gateway's own account of its engine number ``at``."""
    core = gw.gateway.core
    assert core is not None
    return core.table.pools[at].engine


def refused(answer: RawResponse, status: int, *secrets: str) -> None:
    """``E status upe``: one JSON error of the table, nothing of the inside in it."""
    assert (answer.status, answer.complete) == (status, True)
    assert answer.header("content-type") == "application/json"
    error = answer.error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "upstream_error"
    text = answer.body.decode() + answer.raw_head.decode("latin-1")
    for secret in ("127.0.0.1", "Traceback", "fastgw/", "Errno", *secrets):
        assert secret not in text


async def ask(client: RawClient, timeout: float = 5.0, **fields: Any) -> RawResponse:  # noqa: ASYNC109
    await client.send(chat(**fields))
    return await client.read_response(timeout)


def aborted(answer: RawResponse) -> None:
    assert not answer.complete
    assert answer.how_ended in ("eof", "reset")
    assert b"[DONE]" not in answer.body
    assert not answer.raw_body.endswith(b"\r\n0\r\n\r\n")


async def _at_once(conn: ScriptedConnection, how: str) -> None:
    if how == "rst":
        conn.reset()
    else:
        conn.close()


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
