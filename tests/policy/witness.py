"""Filters that override every hook, and an engine whose answers go by a request's tag."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from fastgw import policy
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import NO_LIMIT
from fastgw.sim import RawRequest, ScriptedConnection
from tests.e2e.engines import ANSWER, EVENT, JSON_CHUNKED, QUIET, SSE_HEAD, chunk, ok
from tests.e2e.test_realtime_usage import SWITCH, done
from tests.support.client import RawResponse, chat
from tests.support.gateway import Running

Said = Callable[[str, Any], Any]
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
RETRIES: dict[str, Any] = {"policy": "ordered", "max_retries": 1, "retry_statuses": ["503"], **QUIET}
MORE = EVENT.replace(b"word", b"more")
MUCH = ANSWER[:-1] + b',"x":"' + b"word " * 400 + b'"}'
DONE = b"data: [DONE]\n\n"


class Witness(Filter):
    """Overrides every hook. ``told`` is what it was told of each request, by the request's tag; ``acts`` is asked first."""

    name = "witness"

    def __init__(self, acts: Said | None = None) -> None:
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        self.data: defaultdict[str, bytes] = defaultdict(bytes)
        self.rooms = 0
        self._acts = acts

    def _tell(self, hook: str, exchange: Any) -> Any:
        tag = (exchange.head.get(b"X-Tag") or b"").decode()
        self.told[tag].append(hook)
        return self._acts(hook, exchange) if self._acts is not None else None

    def on_origin(self, exchange: Any) -> None:
        self._tell("on_origin", exchange)

    def on_arrival(self, exchange: Any) -> None:
        self._tell("on_arrival", exchange)

    def on_head(self, exchange: Any) -> None:
        self._tell("on_head", exchange)

    def on_request(self, exchange: Any) -> None:
        self._tell("on_request", exchange)

    def preflight(self, exchange: Any) -> bytes:
        self._tell("preflight", exchange)
        return b"x-preflight: 1\r\n"

    def on_body(self, exchange: Any) -> bool | None:
        return self._tell("on_body", exchange)  # type: ignore[no-any-return]

    def on_route(self, exchange: Any) -> bool | None:
        return self._tell("on_route", exchange)  # type: ignore[no-any-return]

    def rewrite(self, exchange: Any, engine: Any, body: bytes) -> bytes:
        self._tell("rewrite", exchange)
        return body

    def on_attempt(self, exchange: Any, engine: Any) -> None:
        assert exchange.call is None or exchange.call.pool.engine is engine
        self._tell("on_attempt", exchange)

    def on_crowded(self, exchange: Any) -> bool:
        return False

    def on_full(self, exchange: Any) -> bool:
        self._tell("on_full", exchange)
        return False

    def on_lost(self, exchange: Any, why: str) -> bool:
        return False

    def on_refused(self, exchange: Any, error: Any) -> None:
        assert error.kind.status >= 400

    def on_response(self, exchange: Any, head: Any) -> None:
        assert exchange.call.head is head
        self._tell("on_response", exchange)

    def on_data(self, exchange: Any, data: bytes) -> None:
        assert data
        self._tell("on_data", exchange)
        self.data[(exchange.head.get(b"x-tag") or b"").decode()] += data

    def on_allowance(self, exchange: Any) -> bool:
        self._tell("on_allowance", exchange)
        exchange.allowance = NO_LIMIT
        return True

    def on_turn(self, exchange: Any) -> None:
        self._tell("on_turn", exchange)

    def on_said(self, exchange: Any, said: Any) -> bool:
        self._tell("on_said", exchange)
        return True

    def on_finish(self, exchange: Any, outcome: str) -> None:
        self._tell("on_finish", exchange)

    def on_room(self) -> None:
        self.rooms += 1


class Stage:
    """An engine whose answers go by the request's tag, and two witnesses: ``before`` and ``behind`` all other filters."""

    def __init__(self) -> None:
        self.before = Witness()
        self.behind = Witness()
        self.let = asyncio.Event()
        self.seen: list[str] = []

    async def play(self, conn: ScriptedConnection, asked: RawRequest) -> None:
        tag = (asked.header(b"x-tag") or b"").decode()
        self.seen.append(tag)
        if tag in ("retry", "room") and self.seen.count(tag) == 1:
            await conn.send(BUSY)
        elif tag.startswith("hold"):
            await self.let.wait()
            await conn.send(ok())
        elif tag in ("stream", "cut"):
            await conn.send(SSE_HEAD + chunk(EVENT))
            await asyncio.sleep(0.02)
            await conn.send(chunk(MORE))
            await asyncio.sleep(0.02)
            await conn.send(chunk(DONE) + b"0\r\n\r\n")
        elif tag == "long":
            await conn.send(JSON_CHUNKED + chunk(ANSWER[:9]))
            await asyncio.sleep(0.02)
            await conn.send(chunk(ANSWER[9:]) + b"0\r\n\r\n")
        elif tag == "once":
            await conn.send(JSON_CHUNKED + chunk(ANSWER) + b"0\r\n\r\n")
        elif tag == "ends":
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT)
            await asyncio.sleep(0.02)
            await conn.send(b"data: [DO")
            conn.close()
        elif tag == "much":
            await conn.send(ok(MUCH))
        elif tag == "empty":
            await conn.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await conn.send(ok())

    async def session(self, conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if not asked.target.startswith(b"/v1/realtime"):
            await conn.send(ok(b'{"object":"list","data":[]}', b"connection: close"))
            return
        await conn.send(SWITCH)
        await conn.send(done(1, 2))

    def between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy, "ORDER", (lambda _: self.before, *policy.ORDER, lambda _: self.behind))


def tagged(tag: str, **more: Any) -> bytes:
    return chat("m", headers=[("x-tag", tag)], stream=tag in ("stream", "cut"), **more)


HEAD = ["on_origin", "on_arrival", "on_head", "on_request"]
WALK = ["on_body", "on_route"]
SENT = ["on_attempt", "rewrite"]
PLAIN = [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_finish"]

async def held(gw: Running, stage: Stage, tag: str = "hold") -> asyncio.Task[RawResponse]:
    """A request that an engine is at work on."""

    async def asked() -> RawResponse:
        async with await gw.client() as client:
            return await client.ask(tagged(tag))

    task = asyncio.ensure_future(asked())
    await gw.until("at the engine", lambda: tag in stage.seen)
    return task


async def ask(gw: Running, data: bytes) -> RawResponse:
    async with await gw.client() as client:
        return await client.ask(data)
