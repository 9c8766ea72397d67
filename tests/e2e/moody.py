"""Engines in a bad mood, and gateways that soon have enough of them.

Engines are told what to do by a ``Moody``, or by the simulator's faults. Recovery times are short here; what they are by
default, and that chance adds a fifth to them at most, is the breaker's own test's to say.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from fastgw.limits.breaker import OPEN
from fastgw.sim import RawRequest, ScriptedConnection
from tests.e2e.engines import QUIET, Play, fine, ok, pool_engine, posts, scripted
from tests.support.client import RawResponse
from tests.support.gateway import Running

RECOVERY_S = 0.3
MOST_S = RECOVERY_S * 1.2  # chance adds a fifth at most
FAULTY = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Moody:
    """An engine that meets each request as its mood is at that moment; its health is always good."""

    def __init__(self, mood: Play = fine) -> None:
        self.mood = mood
        self.engine = scripted(self._meet)

    async def _meet(self, conn: ScriptedConnection, seen: RawRequest) -> None:
        await self.mood(conn, seen)

    @property
    def asked(self) -> int:
        return len(posts(self.engine))

    @property
    def url(self) -> str:
        return self.engine.url

    async def __aenter__(self) -> Moody:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.engine.__aexit__(*exc)


class Held:
    """A mood: requests stay unanswered until ``release``."""

    def __init__(self, answer: bytes = b"") -> None:
        self.release = asyncio.Event()
        self.came = asyncio.Event()
        self._answer = answer or ok()

    async def __call__(self, conn: ScriptedConnection, _: RawRequest) -> None:
        self.came.set()
        await self.release.wait()
        await conn.send(self._answer)


def breaker_settings(**more: Any) -> dict[str, Any]:
    return {"cb_recovery_timeout_s": RECOVERY_S, **QUIET, **more}


def breaker(gw: Running, at: int = 0) -> Any:
    return pool_engine(gw, at).breaker


def spared(answer: RawResponse) -> None:
    """The refusal of an open breaker: what a client, or its SDK, needs to come back in time."""
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "circuit_open", "upstream_error")
    assert int(answer.header("retry-after") or 0) >= 1
    assert int(answer.header("retry-after-ms") or 0) >= 1
    assert b"127.0.0.1" not in answer.body


async def recovered(gw: Running, at: int = 0) -> None:
    """Wait until an open breaker would let a request try; no longer than it may last."""
    assert breaker(gw, at).state == OPEN
    left = breaker(gw, at).until - monotonic()
    assert left <= MOST_S
    await asyncio.sleep(max(0.0, left) + 0.01)
