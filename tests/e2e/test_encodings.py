"""Compressed request bodies: engines get them as they were before; what is not unpacked is refused."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import zstandard

from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat_body, chunk, request
from tests.support.gateway import Running, running

CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}
CHAT = "/v1/chat/completions"
UPLOADS = "/v1/audio/transcriptions"
LONG = chat_body("m", content=" ".join(f"word{turn}" for turn in range(20_000)))


@asynccontextmanager
async def before(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], **settings) as gw,
        RawClient.connect(gw.url) as client,
    ):
        yield gw, sim, client


def post(body: bytes, coding: str | None, path: str = CHAT, kind: str = "application/json", **more: Any) -> bytes:
    fields = [("Content-Type", kind), *([("Content-Encoding", coding)] if coding is not None else [])]
    return request("POST", path, headers=fields, body=body, **more)


def refused(answer: RawResponse, status: int, code: str) -> None:
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert answer.error["code"] == code


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("framing", ["length", "chunked", "slow"])
async def test_the_engine_gets_what_was_compressed(coding: str, framing: str) -> None:
    for plain in (chat_body("m"), LONG):
        packed = CODINGS[coding](plain)
        async with before() as (gw, sim, client):
            if framing == "slow":
                await client.send_slowly(post(packed, coding), 4096)
                answer = await client.read_response(10.0)
            else:
                answer = await client.ask(post(packed, coding, chunked=(1000, 7) if framing == "chunked" else None), 10.0)
            assert answer.status == 200, answer.body
            (seen,) = [one for one in sim.requests if one.method == "POST"]
            assert json.loads(seen.body)["messages"] == json.loads(plain)["messages"]
            assert seen.header("content-encoding") is None
            assert seen.header("content-length") == str(len(seen.body))
            # The next request on the connection is nobody's but its own.
            assert (await client.ask(post(chat_body("m"), None))).status == 200
            assert (await client.ask(post(packed, coding), 10.0)).status == 200
        assert gw.records[0]["model"] == "m"
        assert gw.records[0]["bytes_in"] == len(plain)


@pytest.mark.parametrize("coding", CODINGS)
async def test_uploads_too(coding: str) -> None:
    """An upload goes on while it comes, so its length is not known before: it is sent in chunks."""
    sound = random.Random(7).randbytes(400_000) + bytes(100_000)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; name="file"; '
        b'filename="a.wav"\r\n\r\n' + sound + b"\r\n--b--\r\n"
    )
    async with before() as (gw, sim, client):
        await client.send_slowly(
            post(CODINGS[coding](form), coding, UPLOADS, "multipart/form-data; boundary=b"), [8192], pause=0.0
        )  # fmt: skip
        assert (await client.read_response()).status == 200
        (seen,) = [one for one in sim.requests if one.method == "POST"]
        assert seen.body == form
        assert seen.header("content-encoding") is None
    assert gw.records[0]["model"] == "m"


@pytest.mark.parametrize("path", [CHAT, UPLOADS, "/v1/up"])
@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip, identity", "", "utf-8"])
async def test_other_codings_are_refused(coding: str, path: str) -> None:
    async with before(passthrough_paths=["/v1/up"]) as (_, sim, client):
        kind = "multipart/form-data; boundary=b" if path == UPLOADS else "application/json"
        answer = await client.ask(post(b"whatever", coding, path, kind))
        refused(answer, 415, "unsupported_encoding")
        assert answer.header("accept-encoding") == "gzip, deflate, zstd"
        assert not [one for one in sim.requests if one.method == "POST"]
        assert (await client.ask(post(chat_body("m"), None))).status == 200


async def test_two_fields_are_two_codings() -> None:
    async with before() as (_, _, client):
        fields = [("Content-Type", "application/json"), ("Content-Encoding", "gzip"), ("content-encoding", "gzip")]
        refused(await client.ask(request("POST", CHAT, headers=fields, body=b"x")), 415, "unsupported_encoding")


@pytest.mark.parametrize("coding", ["identity", "Identity"])
async def test_identity_is_none(coding: str) -> None:
    async with before() as (_, sim, client):
        assert (await client.ask(post(chat_body("m"), coding))).status == 200
        assert sim.requests.to(CHAT)[0].header("content-encoding") is None


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", ["garbage", "short", "more"])
async def test_what_does_not_unpack(coding: str, cut: str) -> None:
    packed = CODINGS[coding](chat_body("m"))
    bad = {"garbage": b"{}" * 50, "short": packed[:-3], "more": packed + b"tail"}[cut]
    async with before() as (_, sim, client):
        refused(await client.ask(post(bad, coding)), 400, "invalid_encoding")
        assert not [one for one in sim.requests if one.method == "POST"]
        assert (await client.ask(post(chat_body("m"), None))).status == 200


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_bomb(coding: str) -> None:
    """20 MiB of blanks are a few kilobytes: neither the limit of the body nor that of the ratio lets them through, and what has
    been unpacked is counted among what all bodies hold."""
    bomb = CODINGS[coding](chat_body("m") + b" " * (20 << 20))
    for settings in ({}, {"max_decompression_ratio": 0}):
        async with before(**settings) as (gw, _, client):
            refused(await client.ask(post(bomb, coding), 10.0), 413, "body_too_large")
            assert gw.stats.body_bytes_open == 0


async def test_who_may_not_ask_has_nothing_unpacked() -> None:
    async with before(api_keys=["sk-a"]) as (_, _, client):
        refused(await client.ask(post(b"no gzip at all", "gzip")), 401, "invalid_api_key")


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/tokenize", UPLOADS, "/v1/up"])
@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "utf-8; charset=utf-16", '"utf-7"'])
async def test_other_characters_are_refused(path: str, charset: str) -> None:
    async with before(passthrough_paths=["/v1/up"]) as (_, sim, client):
        answer = await client.ask(post(chat_body("m"), None, path, f"application/json; charset={charset}"))
        refused(answer, 415, "unsupported_media_type")
        assert not [one for one in sim.requests if one.method == "POST"]


async def test_a_chunked_compressed_body_that_stops_leaves_nothing() -> None:
    async with before(body_timeout_s=0.2) as (gw, sim, client):
        head = post(b"", "gzip", chunked=(1,)).removesuffix(b"0\r\n\r\n")
        await client.send(head + chunk(gzip.compress(LONG)[:20_000]).removesuffix(b"0\r\n\r\n"))
        assert (await client.read_response()).status == 408
        await gw.idle()
        assert gw.stats.body_bytes_open == 0
        assert not [one for one in sim.requests if one.method == "POST"]
