"""What the gateway says itself is the same to clients of HTTP/1.1 and of HTTP/2, with TLS and without: status, error, fields.

Each row is asked for over the client's four ways, and held against what a plain client of HTTP/1.1 was told.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw import RouteConfig
from tests.e2e.engines import pool_engine
from tests.e2e.test_ways_engines import fine
from tests.support.answers import RawResponse
from tests.support.gateway import Running
from tests.support.requests import chat, request
from tests.support.ways.way import KEY, Way, say

WAYS = tuple(Way(protocol, tls, "h1", False) for protocol in ("h1", "h2") for tls in (False, True))  # type: ignore[arg-type]
CHAT = "/v1/chat/completions"
LIMITS: dict[str, Any] = {"max_body_bytes": 5000}

# What is asked for, and the status of it; K: the next request of the same client is answered.
ROWS: dict[str, tuple[bytes, int]] = {
    "alive": (request("GET", "/liveness"), 200),
    "no key": (chat(), 401),
    "a wrong key": (chat(key="sk-wrong"), 401),
    "no JSON": (say(body=b"{"), 400),
    "no model": (say(body=b"{}"), 400),
    "too deep": (say(body=b'{"model":"m","messages":' + b"[" * 100 + b"]" * 100 + b"}"), 400),
    "no such model": (say(model="another"), 404),
    "another type": (request("POST", CHAT, headers=[("Content-Type", "text/plain")], body=b"hi", key=KEY), 415),
    "too long": (say(content="x" * 6000), 413),
    "no such path": (request("GET", "/v1/nothing", key=KEY), 404),
    "a path that climbs": (request("GET", "/v1/../admin", key=KEY), 404),
    "another method": (request("DELETE", CHAT, key=KEY), 405),
    "an expectation that is none": (say(headers=[("expect", "200-ok")]), 417),
    "metrics": (request("GET", "/metrics", key=KEY), 404),
    "what it used": (request("GET", "/v1/usage", key=KEY), 200),
}


def told(answer: RawResponse) -> tuple[Any, ...]:
    """Of an answer, what does not differ each time, nor by the protocol's own words."""
    fields = sorted(
        (name.lower(), value) for name, value in answer.headers
        if name.lower() not in ("date", "x-request-id", "connection", "keep-alive", "content-length")
    )  # fmt: skip
    assert answer.complete
    assert answer.header("x-request-id")
    return answer.status, fields, answer.body


async def asked(way: Way, gw: Running, seen: dict[str, dict[str, tuple[Any, ...]]]) -> None:
    for name, (data, status) in ROWS.items():
        async with way.client(gw) as client:
            answer = await client.asks(data)
            assert answer.status == status, (str(way), name, answer.status, answer.body)
            seen.setdefault(name, {})[str(way)] = told(answer)
            assert (await client.asks(request("GET", "/liveness"))).status == 200, (str(way), name)


async def test_they_are_told_the_same() -> None:
    seen: dict[str, dict[str, tuple[Any, ...]]] = {}
    for way in WAYS:
        async with way.engine(fine) as engine:
            target = msgspec.structs.replace(way.target(engine.url), models=["m"])
            async with way.gateway(engines=[target], routes=[RouteConfig(model="m")], **LIMITS) as gw:
                await gw.until("it is well", lambda gw=gw: pool_engine(gw).healthy is True)
                await asked(way, gw, seen)
            assert engine.turns == []
    assert {name: said for name, by_way in seen.items() for said in by_way.values() if said != by_way["h1-h1"]} == {}
