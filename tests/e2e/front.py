"""A gateway before an engine that records all it gets: what the case tests stand on.

Owns: what "the engine sees nothing" means (no connection, not one byte, beside the gateway's own probes), what a refusal
must look like to the client, and the probe that other clients are not made to wait. Must never: send a request that a test
did not ask for on the connection under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from fastgw import EngineConfig
from fastgw.sim.scripted import RawRequest, ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, RawResponse, parse_head, request
from tests.support.gateway import Running, running
from tests.support.probed import PROBED

PROBE_S = 0.25  # the rule says 50 ms on an idle machine; this one is shared
ERROR_FIELDS = {"message", "type", "param", "code"}
TAIL = b"POST /v1/chat/completions HTTP/1.1\r\nHost: smuggled\r\nContent-Length: 26\r\n\r\n" + b'{"model":"m","smuggled":1}'
"""What a confused parser would take for a second request."""

Handler = Callable[[ScriptedConnection, bytes], Awaitable[None]]

_PER_REQUEST = re.compile(rb"(?im)^(?:x-request-id|date): [^\r\n]*\r\n")
_PROBES = tuple(f"GET {path} ".encode() for path in PROBED)


def answer_to(seen: RawRequest) -> bytes:
    """A plain answer that says which request it answers."""
    if seen.head.startswith(_PROBES):
        body = b'{"object":"list","data":[]}'
    else:
        tag = seen.header(b"x-tag") or b""
        body = json.dumps({"id": "x", "tag": tag.decode("latin-1"), "got": len(seen.body)}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def serve(conn: ScriptedConnection) -> None:
    while True:
        seen = await conn.read_request()
        await conn.send(answer_to(seen))


class Front:
    """The gateway ``gw`` and the ``engine`` behind it."""

    def __init__(self, gw: Running, engine: ScriptedEngine) -> None:
        self.gw = gw
        self.engine = engine
        self._before = tuple(engine.connections)  # not how many: one that only asked for HTTP/2 is taken off the list again

    @property
    def touched(self) -> list[ScriptedConnection]:
        """Connections that clients' requests made the gateway open."""
        return [conn for conn in self.engine.connections if conn not in self._before]

    @property
    def work(self) -> list[RawRequest]:
        """Clients' requests as the engine got them."""
        return [seen for seen in self.engine.requests if not seen.head.startswith(_PROBES)]

    async def client(self, **options: Any) -> RawClient:
        return await RawClient.connect("127.0.0.1", self.gw.port, **options)

    async def probe(self, client: RawClient) -> None:
        """Another client's request is answered at once, on the connection it has."""
        begin = monotonic()
        await client.send(request("GET", "/healthz"))
        assert (await client.read_response()).status == 200
        took = monotonic() - begin
        assert took < PROBE_S, f"another connection waited {took:.3f} s"


@asynccontextmanager
async def front(
    handler: Handler | None = None, *, engine: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Front]:
    """The gateway's own probes are over when this begins, and no connection to the engine is kept warm.

    ``handler(conn, head)`` plays the engine from the first client's head on; without one, it answers each request.
    """
    settings.setdefault("health_interval_s", 3600.0)
    settings.setdefault("passthrough_paths", ["/v1/files"])

    probes = 0

    async def sorted_out(conn: ScriptedConnection) -> None:
        nonlocal probes
        head = await conn.read_until(b"\r\n\r\n")
        if head.startswith(_PROBES):
            probes += 1
            await conn.send(answer_to(RawRequest(head, b"")))
        elif handler is not None:
            await handler(conn, head)

    async with ScriptedEngine(serve if handler is None else sorted_out) as scripted:
        target = EngineConfig(url=scripted.url, warm_connections=0, **(engine or {}))
        async with running([target], **settings) as gw:
            await gw.until("the gateway's own probes", lambda: probes + len(scripted.requests) >= 2)
            yield Front(gw, scripted)


async def refusal(client: RawClient, *statuses: int, type: str | None = None, timeout: float = 5.0) -> RawResponse:  # noqa: ASYNC109
    """Exactly one answer, an error in OpenAI's shape that gives nothing away, and then the connection's clean end."""
    raw, how = await client.read_until_closed(timeout)
    assert how == "fin", f"ended by {how} after {raw[:300]!r}"
    head, blank, body = raw.partition(b"\r\n\r\n")
    answer = parse_head(head + blank)
    rest = bytearray(body)
    answer.feed(rest)
    assert answer.complete, raw
    assert not rest, f"more than one answer: {bytes(rest)!r}"
    judge(answer, *statuses, type=type)
    assert answer.header("connection") == "close"
    return answer


def judge(answer: RawResponse, *statuses: int, type: str | None = None) -> None:
    """One of ``statuses``, as an OpenAI-shaped JSON error without internals."""
    assert answer.status in statuses, (answer.status, answer.body)
    assert answer.header("content-type") == "application/json"
    assert answer.json().keys() == {"error"}
    assert answer.error.keys() == ERROR_FIELDS
    if type is None:
        type = "server_error" if answer.status == 501 else "invalid_request_error" if answer.status < 506 else ""
    assert answer.error["type"] == type
    for internal in (b"httptools", b"Error(", b"Traceback", b".py", b"127.0.0.1", b"smuggled"):
        assert internal not in answer.body


def stable(raw: bytes) -> bytes:
    """Answers without what differs each time; an interim 100 depends on whether the body was already there."""
    return _PER_REQUEST.sub(b"", raw.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
