"""What the tests of bad bodies stand on: a gateway, its engine and one connection, and what a refusal has to be."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastgw import EngineConfig, RouteConfig
from fastgw.observe.logs import access_fields, as_json, as_text
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat, chat_body, request
from tests.support.gateway import Running, running

GOOD = chat("m")
CHAT = "/v1/chat/completions"
UPLOADS = "/v1/audio/transcriptions"
# A probe's own time limit: many times what it takes, so that only a gateway that is held up fails on a shared machine.
PROBE_S = 0.25


class Stand:
    """A gateway, its only engine, and one client connection."""

    def __init__(self, gw: Running, sim: Simulator, client: RawClient) -> None:
        self.gw = gw
        self.sim = sim
        self.client = client

    @property
    def reached(self) -> list[Any]:
        """The requests that the engine got from clients; probes are GETs."""
        return [one for one in self.sim.requests if one.method == "POST"]

    async def ask(self, data: bytes) -> RawResponse:
        await self.client.send(data)
        return await self.client.read_response()

    async def form(self, content_type: str | None, body: bytes, path: str = UPLOADS, **options: Any) -> RawResponse:
        headers = [] if content_type is None else [("Content-Type", content_type)]
        return await self.ask(request("POST", path, headers=headers, body=body, **options))

    async def body(self, body: bytes, **options: Any) -> RawResponse:
        return await self.ask(chat(body=body, **options))

    async def still_serves(self) -> None:
        """K: the same connection serves a good request, and the engine got nothing but that since the last one."""
        before = len(self.reached)
        answer = await self.ask(GOOD)
        assert (answer.status, answer.complete) == (200, True)
        assert [one.body for one in self.reached[before:]] == [chat_body("m")]

    @asynccontextmanager
    async def row(self, row: object) -> AsyncIterator[None]:
        """One of many over the one connection, which serves a good request behind it; a failure names it."""
        self.sim.requests.clear()
        try:
            yield
            await self.still_serves()
        except BaseException as error:
            error.add_note(f"this was the row {row!r}")
            raise

    async def still_usable(self) -> None:
        """K, and the process lives: the same connection serves a good request, and another one a probe, in time."""
        await self.still_serves()
        async with await self.gw.client() as other:
            start = time.monotonic()
            await other.send(request("GET", "/liveness"))
            assert (await other.read_response()).status == 200
            assert time.monotonic() - start < PROBE_S


@asynccontextmanager
async def stand(*, any_model: bool = False, **settings: Any) -> AsyncIterator[Stand]:
    """``any_model`` = the engine is asked whatever the name is; else the gateway knows that it serves only ``m``."""
    sim = SimConfig(any_model=True, output_tokens=1)
    async with Simulator(sim) as engine:
        known = ("*",) if any_model else ("m",)
        settings.setdefault("routes", [RouteConfig(model="m")])  # (so that a request has to say which model it wants)
        async with running([EngineConfig(url=engine.url, models=known)], **settings) as gw, await gw.client() as client:
            yield Stand(gw, engine, client)


def assert_refused(answer: RawResponse, *codes: str, status: int = 400) -> None:
    """E nnn invalid_request_error, whole, and without a word about closing."""
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == "invalid_request_error"
    if codes:
        assert answer.error["code"] in codes, answer.error
    assert answer.header("connection") is None


def rss_kb() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


LABELS = {"/v1/chat/completions", "/v1/embeddings", UPLOADS, "/v1/models/{id}", "/liveness", "unknown"}


def assert_loggable(gw: Running) -> None:
    """Each record is one line of JSON that says nothing else, and one line of plain text without a control character."""
    for record in gw.raw_records:
        fields = access_fields(record)
        line = as_json(fields)
        assert line.count(b"\n") == 1
        assert not set(line[:-1]) & set(range(32))
        assert json.loads(line) == json.loads(json.dumps(fields))
        text = as_text(fields).decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable(), text
        assert fields["endpoint"] in LABELS


def multipart(model: bytes, boundary: bytes = b"xxBOUNDARYxx") -> bytes:
    """A transcription request whose ``model`` field holds ``model`` as it is."""
    return b"".join(
        (
            b"--%b\r\n" % boundary,
            b'Content-Disposition: form-data; name="model"\r\n\r\n',
            model,
            b"\r\n--%b\r\n" % boundary,
            b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF',
            b"\r\n--%b--\r\n" % boundary,
        )
    )


def upload(body: bytes, content_type: str = "multipart/form-data; boundary=xxBOUNDARYxx", **options: Any) -> bytes:
    return request("POST", UPLOADS, headers=[("Content-Type", content_type)], body=body, **options)
