"""A gateway that merges embeddings, before an engine that answers as the test says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.sim.scripted import RawRequest
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running

TOGETHER: dict[str, Any] = {"embedding_merge_s": 0.15, "health_interval_s": 3600.0}

Answerer = Callable[[ScriptedConnection, RawRequest], Awaitable[None]]


def ask(value: Any, *, key: str | None = None, headers: Any = (), **fields: Any) -> bytes:
    body = json.dumps({"model": "sim", "input": value, **fields}).encode()
    return request("POST", "/v1/embeddings", headers=[("Content-Type", "application/json"), *headers], body=body, key=key)


def vectors(seen: RawRequest) -> bytes:
    """What an engine answers: for each text, its length and first letter; a token for each byte."""
    asked = json.loads(seen.body)["input"]
    many = isinstance(asked, list) and not isinstance(asked[0], int)
    rows = [
        {"object": "embedding", "index": at, "embedding": [len(one), hash(str(one)) % 97]}
        for at, one in enumerate(asked if many else [asked])
    ]
    count = sum(len(str(one)) for one in (asked if many else [asked]))
    rows.reverse()
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json.dumps({"object": "list", "data": rows, "model": "sim", "usage": usage}).encode()


def framed(body: bytes, extra: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n" % (status, extra, len(body))
    return head + body


async def plainly(conn: ScriptedConnection, seen: RawRequest) -> None:
    await conn.send(framed(vectors(seen)))


class Stage:
    """The gateway ``gw`` before an engine that answers as the test says; ``calls`` are the embedding calls that it got."""

    def __init__(self, gw: Running, engine: ScriptedEngine) -> None:
        self.gw = gw
        self.engine = engine

    @property
    def calls(self) -> list[RawRequest]:
        return [seen for seen in self.engine.requests if seen.method == b"POST"]

    @property
    def inputs(self) -> list[list[Any]]:
        """The inputs of each call."""
        found = [json.loads(seen.body)["input"] for seen in self.calls]
        return [one if isinstance(one, list) else [one] for one in found]

    def judge(self) -> None:
        """Nothing is held, and no engine is thought to be at work."""
        core = self.gw.gateway.core
        assert core is not None
        assert (len(core.merger), len(core.merger.calls)) == (0, 0)
        assert [pool.engine.inflight for pool in core.table.pools] == [0] * len(core.table.pools)


@asynccontextmanager
async def stage(answer: Answerer = plainly, *, engine: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Stage]:
    async def handler(conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"GET":
                await conn.send(framed(b'{"object":"list","data":[]}'))
            else:
                await answer(conn, seen)

    async with ScriptedEngine(handler) as scripted:
        target = EngineConfig(url=scripted.url, warm_connections=0, **(engine or {}))
        async with running([target], **{**TOGETHER, **settings}) as gw:
            found = Stage(gw, scripted)
            yield found
            await gw.idle()
            found.judge()


async def clients(stack: AsyncExitStack, port: int, count: int) -> list[RawClient]:
    return [await stack.enter_async_context(RawClient.connect("127.0.0.1", port)) for _ in range(count)]


async def all_at_once(port: int, requests: list[bytes]) -> list[RawResponse]:
    """Each request on a connection of its own, in this order, without a pause between them."""
    async with AsyncExitStack() as stack:
        crowd = await clients(stack, port, len(requests))
        for client, data in zip(crowd, requests, strict=True):
            await client.send(data)
        return [await client.read_response() for client in crowd]


MUCH = 1000


def refuses_many(what: str) -> Answerer:
    """An engine that answers requests for one text, and has ``what`` for others."""

    async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
        if isinstance(json.loads(seen.body)["input"], str):
            await plainly(conn, seen)
        elif what == "reset":
            conn.reset()
        elif what == "close":
            conn.close()
        elif what == "silent":
            await conn.wait_closed(10.0)
        elif what == "cut":
            await conn.send(framed(vectors(seen))[:-5])
            conn.close()
        elif what == "stall":
            await conn.send(framed(vectors(seen))[:-5])
            await conn.wait_closed(10.0)
        elif what == "long":
            await conn.send(framed(vectors(seen) + b" " * MUCH))
        elif what == "long chunks":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            body = vectors(seen) + b" " * MUCH
            await conn.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        elif what == "garbage":
            await conn.send(b"garbage\r\n\r\n")
        elif what == "bad chunks":
            await conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
        elif what == "one too few":
            found = json.loads(vectors(seen))
            del found["data"][0]
            await conn.send(framed(json.dumps(found).encode()))
        elif what == "no json":
            await conn.send(framed(b"OK"))
        elif what == "empty":
            await conn.send(framed(b""))
        elif what == "coded":
            await conn.send(framed(vectors(seen), b"content-encoding: identity\r\n"))
        elif what == "etag":
            await conn.send(framed(vectors(seen), b'etag: "1"\r\n'))
        else:
            await conn.send(framed(b'{"error":{"message":"no"}}', status=what.encode() + b" No"))

    return answer
