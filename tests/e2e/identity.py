"""What the tests of group D stand on: keys, a gateway that asks for them, and what an error has to be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.scripted import ScriptedConnection
from tests.support.client import RawClient, RawResponse
from tests.support.gateway import Running, running

KEY = "sk-tenant-0123456789"
OTHER_KEY = "sk-other.tenant_~9"
ENGINE_KEY = "engine-secret-abcdef"
CHAT = "/v1/chat/completions"
UPLOADS = "/v1/audio/transcriptions"
FORM_TYPE = ("Content-Type", "multipart/form-data; boundary=x")


async def ask(client: RawClient, data: bytes) -> RawResponse:
    return await client.ask(data)


def posts(sim: Simulator) -> list[Any]:
    """The requests that the engine got from clients; probes are GETs without this path."""
    return [one for one in sim.requests if one.method == "POST"]


def assert_error(answer: RawResponse, status: int, kind: str) -> None:
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == kind


def assert_unauthorized(answer: RawResponse) -> None:
    assert_error(answer, 401, "authentication_error")
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.header("connection") is None


@asynccontextmanager
async def guarded(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    """A gateway with two keys before a simulated engine that wants another; and one connection to it."""
    async with Simulator(SimConfig(any_model=True, output_tokens=2, api_key=ENGINE_KEY)) as sim:
        engine = EngineConfig(url=sim.url, api_key=ENGINE_KEY, models=("m",))
        async with running([engine], **{"api_keys": (KEY, OTHER_KEY), **settings}) as gw, await gw.client() as client:
            yield gw, sim, client


# Which of the two readers of heads judges: a nominated field takes a request to the complete one.
READERS = {"fast": (), "complete": ("Connection: x-nothing",)}


def with_lines(data: bytes, *lines: str) -> bytes:
    """``data`` with these header lines put in behind its request line."""
    first, rest = data.split(b"\r\n", 1)
    return b"\r\n".join((first, *(line.encode("latin-1") for line in lines), rest))


def rss_kb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def fields_of(one: Any) -> dict[bytes, list[bytes]]:
    """The header of a request that an engine received, by lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in one.headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def form(model: str) -> bytes:
    field = f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    return f'{field}--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'.encode()


def answering(
    lines: bytes, body: bytes = b'{"ok":1}', status: bytes = b"200 OK"
) -> Callable[[ScriptedConnection], Awaitable[None]]:
    """A script that answers requests for completions with these header lines, and probes in an ordinary way."""

    async def handler(conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request()
            if request.method == b"POST":
                await conn.send(b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body))
            else:
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    return handler
