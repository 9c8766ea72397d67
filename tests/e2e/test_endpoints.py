"""Every endpoint through the gateway: what the engine gets, what the client gets, byte by byte.

What an endpoint *means* is the engine's business, so most tests compare: the same request to the engine directly and
through the gateway has the same answer, and the body that the engine read is the one that was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from fastgw.sim.websocket import accept_key
from tests.e2e.front import front
from tests.support.client import NoResponse, RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running

JSON_TYPE = ("Content-Type", "application/json")


@asynccontextmanager
async def before(
    sim: dict[str, Any] | None = None, *, engine: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Running, Simulator]]:
    """A gateway before one simulator."""
    simulator = Simulator(SimConfig(**(sim or {})))
    await simulator.start()
    try:
        async with running([EngineConfig(url=simulator.url, **(engine or {}))], **settings) as gw:
            yield gw, simulator
    finally:
        await simulator.stop()


@asynccontextmanager
async def two_engines(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, Simulator]]:
    """A gateway before two simulators, both known to be well, and their models known."""
    async with Simulator() as one, Simulator() as two:
        urls = [one.url, two.url]
        async with running(urls, **settings) as gw:
            await known(gw)
            yield gw, one, two


async def known(gw: Running) -> None:
    """Wait until each engine is known to be well, and what models it has."""
    engines = [pool.engine for pool in gw.gateway.core.table.pools]
    await gw.until("engines known", lambda: all(engine.healthy and engine.discovered_models for engine in engines))


async def ask(where: str, data: bytes, *, head_only: bool = False, timeout_s: float = 10.0) -> RawResponse:
    """One request on a connection of its own."""
    async with RawClient.connect(where) as client:
        await client.send(data)
        return await client.read_response(timeout_s, head_only)


def post(path: str, body: bytes, content_type: str = "application/json", **more: Any) -> bytes:
    return request("POST", path, headers=[("Content-Type", content_type), *more.pop("headers", ())], body=body, **more)


def form(*parts: tuple[str, bytes], boundary: str = "boundary-7f3a") -> tuple[bytes, str]:
    """A multipart body and its content type; ``file`` parts have a file name."""
    lines = b""
    for name, value in parts:
        extra = '; filename="a.wav"' if name == "file" else ""
        lines += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"
    return lines + b"--%b--\r\n" % boundary.encode(), f"multipart/form-data; boundary={boundary}"


def audio(size: int) -> bytes:
    """``size`` bytes that are no text and nowhere repeat."""
    return hashlib.shake_128(b"audio").digest(size)


GENERATIONS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 9},
    "/v1/completions": {"prompt": "Once", "max_tokens": 9},
    "/v1/responses": {"input": "Once", "max_output_tokens": 9},
    "/v1/messages": {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 9},
}
PLAIN = {
    "/v1/embeddings": {"input": ["water", "fire"], "dimensions": 8},
    "/v1/rerank": {"query": "red", "documents": ["a red car", "the sea", "rust"], "top_n": 2},
    "/v1/score": {"text_1": "a cat", "text_2": ["a dog", "a stone"]},
    "/tokenize": {"prompt": "some words to count"},
    "/detokenize": {"tokens": [int.from_bytes(b"\x01word", "big"), int.from_bytes(b"\x01s", "big")]},
    "/v1/images/generations": {"prompt": "a pixel"},
}  # fmt: skip


class TestJsonEndpoints:
    """A JSON request is routed by its `model`, and neither it nor its answer is changed."""

    @pytest.mark.parametrize("path", [*GENERATIONS, *PLAIN])
    async def test_the_answer_is_the_engines(self, path: str) -> None:
        body = json.dumps({"model": "sim", **(GENERATIONS | PLAIN)[path], "an_extra": {"é": [1.50, None]}}).encode()
        async with before() as (gw, sim):
            direct = await ask(sim.url, post(path, body))
            through = await ask(gw.url, post(path, body))
            assert (through.status, through.body) == (direct.status, direct.body)
            assert through.status == 200, through.body
            assert through.header("content-type") == direct.header("content-type")
            first, second = sim.requests.to(path)
            assert first.body == second.body == body
        assert [record["endpoint"] for record in gw.records] == [path]
        assert gw.records[0]["model"] == "sim"

    @pytest.mark.parametrize("path", list(GENERATIONS))
    async def test_the_stream_is_the_engines(self, path: str) -> None:
        body = json.dumps({"model": "sim", **GENERATIONS[path], "stream": True}).encode()
        async with before() as (gw, sim):
            direct = await ask(sim.url, post(path, body))
            through = await ask(gw.url, post(path, body))
        assert through.body == direct.body
        assert through.how_ended == "terminal-chunk"
        assert len(through.events()) > 8
        assert through.header("x-accel-buffering") == "no"

    @pytest.mark.parametrize("path", [
        "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/v2/rerank", "/rerank",
        "/v1/score", "/score", "/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/v1/audio/speech",
        "/v1/images/generations", "/v1/chat/completions", "/v1/completions",
    ])  # fmt: skip
    async def test_the_engine_gets_the_same_bytes_at_the_same_path(self, path: str) -> None:
        body = b'{ "model":"a/b" ,\t"x":[1e3,"\\u00e9\xc3\xa9"], "model_":"c"}\n'
        async with front() as place, await place.client() as client:
            await client.send(post(path + "?beta=1&a=%20", body, headers=[("anthropic-version", "2023-06-01")]))
            assert (await client.read_response()).status == 200
            (seen,) = place.work
            assert (seen.method, seen.target, seen.body) == (b"POST", path.encode() + b"?beta=1&a=%20", body)
            assert seen.header(b"anthropic-version") == b"2023-06-01"

    @pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/rerank", "/score"])
    async def test_where_engines_need_no_model_none_is_asked_for(self, path: str) -> None:
        async with front() as place, await place.client() as client:
            await client.send(post(path, b'{"prompt":"x"}'))
            assert (await client.read_response()).status == 200
            assert place.work[0].body == b'{"prompt":"x"}'

    @pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/responses", "/v1/audio/speech"])
    async def test_elsewhere_a_request_without_a_model_is_refused(self, path: str) -> None:
        async with front() as place, await place.client() as client:
            await client.send(post(path, b'{"input":"x"}'))
            refused = await client.read_response()
            assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "missing_model", "model")
            assert not place.touched

    async def test_errors_of_messages_have_the_shape_its_sdk_reads(self) -> None:
        async with front(api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(post("/v1/messages", b'{"model":"m"}'))
            refused = await client.read_response()
        assert refused.status == 401
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"

    async def test_speech_is_binary_and_comes_as_it_is_made(self) -> None:
        body = json.dumps({"model": "sim", "voice": "x", "input": "Fifty words are a long speech. " * 10}).encode()
        async with before({"itl_ms": 2.0}) as (gw, sim):
            direct = await ask(sim.url, post("/v1/audio/speech", body))
            async with await gw.client() as client:
                await client.send(post("/v1/audio/speech", body))
                begin = monotonic()
                answer = await client.read_until(await client.read_head(), direct.body[:1024])
                first = monotonic() - begin
                await client.read_body(answer)
                whole = monotonic() - begin
        assert answer.body == direct.body
        assert len(answer.body) > 50 * 1024
        assert answer.header("content-type") == direct.header("content-type") == "audio/mpeg"
        assert first < whole / 2, "the first bytes waited for the last"


class TestUploads:
    """Multipart bodies stream through, routed by their `model` field, whatever its place."""

    @pytest.mark.parametrize("path", [
        "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations",
    ])  # fmt: skip
    @pytest.mark.parametrize("chunked", [None, (1,), (1000,)])
    async def test_the_engine_gets_the_same_form(self, path: str, chunked: tuple[int, ...] | None) -> None:
        body, content_type = form(("model", b"m"), ("file", audio(5000)), ("language", b"en"))
        async with front() as place, await place.client() as client:
            await client.send(post(path, body, content_type, chunked=chunked))
            assert (await client.read_response()).status == 200
            (seen,) = place.work
            assert (seen.body, seen.header(b"content-type")) == (body, content_type.encode())

    @pytest.mark.parametrize("first", [True, False], ids=["model before the file", "model after the file"])
    @pytest.mark.parametrize("size", [10, 70_000, 900_000, 3 << 20])
    async def test_the_model_field_decides_wherever_it_stands(self, first: bool, size: int) -> None:
        file = ("file", audio(size))
        fields = [("model", b"two"), file] if first else [file, ("model", b"two")]
        body, content_type = form(*fields)
        async with Simulator(SimConfig(models=["one"])) as one, Simulator(SimConfig(models=["two"])) as two:
            engines = [EngineConfig(url=one.url, models=["one"]), EngineConfig(url=two.url, models=["two"])]
            async with running(engines) as gw:
                answer = await ask(gw.url, post("/v1/audio/transcriptions", body, content_type))
            assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
            assert not one.requests.to("/v1/audio/transcriptions")
        assert gw.records[0]["model"] == "two"

    async def test_a_model_that_nobody_serves_is_refused_before_the_file_is_sent(self) -> None:
        body, content_type = form(("model", b"three"), ("file", audio(9 << 20)))
        async with before(engine={"models": ["sim"]}) as (gw, sim), await gw.client() as client:
            head, _, rest = post("/v1/audio/transcriptions", body, content_type).partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n" + rest[:20_000])
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert not sim.requests.to("/v1/audio/transcriptions")

    @pytest.mark.parametrize("size", [10, 3 << 20])
    async def test_a_form_without_a_model_is_refused_whoever_would_take_it(self, size: int) -> None:
        body, content_type = form(("file", audio(size)), ("language", b"en"))
        async with before() as (gw, sim), await gw.client() as client:  # one engine, that takes anything
            await client.send_slowly(post("/v1/audio/transcriptions", body, content_type), 65536, pause=0.0)
            refused = await client.read_response()
            assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "missing_model", "model")
            assert "field named `model`" in refused.error["message"]
            assert not sim.requests.to("/v1/audio/transcriptions")

    @pytest.mark.parametrize("what", ["second model", "epilogue", "half"])
    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_what_comes_behind_the_model_is_judged_before_it_goes_on(self, what: str, framing: str) -> None:
        """The form has been passed on for the most part when it turns out to be two forms: no engine gets it whole."""
        body, content_type = form(("model", b"m"), ("file", audio(3 << 20)), *([("model", b"n")] if what[0] == "s" else []))
        body = body + b"\r\nmore" if what == "epilogue" else body[:-4] if what == "half" else body
        whole = []

        async def engine(conn: ScriptedConnection) -> None:
            while True:
                whole.append(await conn.read_request())
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        async with ScriptedEngine(engine) as scripted, running([scripted.url]) as gw, await gw.client() as client:
            data = post("/v1/audio/transcriptions", body, content_type, chunked=(60_000,) if framing == "chunked" else None)
            await client.send_slowly(data, 65536, pause=0.0)
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (400, "invalid_multipart")
            await gw.idle()
            assert [one for one in whole if one.method == b"POST"] == []

    @pytest.mark.parametrize("at", ["first", "last", "alone"])
    @pytest.mark.parametrize("size", [0, 200_000, 3 << 20])
    @pytest.mark.parametrize("framing", ["length", "chunked", "slow"])
    async def test_served_name_holds_in_forms(self, at: str, size: int, framing: str) -> None:
        """The engine's own name for the model stands in its place, whatever the lengths; nothing else has changed."""
        file = [("file", audio(size))] if at != "alone" else [("language", b"en")]
        fields = [("model", b"m"), *file] if at == "first" else [*file, ("model", b"m")]
        body, content_type = form(*fields)
        wanted, _ = form(*[(name, b"org/the-engines-own-name" if name == "model" else value) for name, value in fields])
        named = {"served_name": "org/the-engines-own-name", "models": ["m"]}
        async with before({"any_model": True}, engine=named) as (gw, _):
            async with await gw.client() as client:
                chunked = (50_000,) if framing == "chunked" else None
                data = post("/v1/audio/transcriptions", body, content_type, chunked=chunked)
                if framing == "slow":
                    await client.send_slowly(data, [200, 70_000], pause=0.0)
                else:
                    await client.send(data)
                answer = await client.read_response(10.0)
                assert answer.json()["sha256"] == hashlib.sha256(wanted).hexdigest()
            await gw.idle()
        assert gw.records[0]["model"] == "m"

    async def test_served_name_holds_in_the_query_of_a_session(self) -> None:
        named = {"served_name": "the own/name&", "models": ["m"]}
        async with before({"any_model": True}, engine=named) as (gw, sim), await gw.client() as client:
            upgrade = [
                ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ]  # fmt: skip
            await client.send(request("GET", "/v1/realtime?intent=x&mod%65l=m&model_kind=y", headers=upgrade))
            assert (await client.read_head()).status == 101
            targets = [one.target for one in sim.requests if "realtime" in one.target]
            assert targets == ["/v1/realtime?intent=x&mod%65l=the%20own%2Fname%26&model_kind=y"]

    @pytest.mark.parametrize("size", [10, 3 << 20])
    async def test_a_kept_upload_is_sent_again_where_its_idle_connection_was_dead(self, size: int) -> None:
        body, content_type = form(("file", audio(size)), ("model", b"m"))
        got: list[bytes] = []

        async def engine(conn: ScriptedConnection) -> None:
            first = await conn.read_request()
            if first.method == b"POST":
                got.append(first.body)
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            if first.method == b"POST" and len(got) == 1:
                await conn.read_some()  # the next request has begun to arrive: gone, without a byte of answer
                conn.reset()
                return
            while True:
                seen = await conn.read_request()
                got.append(seen.body)
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        async with ScriptedEngine(engine) as scripted, running([scripted.url], warm_connections=0) as gw:
            async with await gw.client() as client:
                await client.send(post("/v1/audio/transcriptions", form(("model", b"m"))[0], content_type))
                assert (await client.read_response()).status == 200
                await client.send(post("/v1/audio/transcriptions", body, content_type))
                assert (await client.read_response(10.0)).status == 200
            assert gw.stats.replays_total == 1
            assert got[1:] == [body]

    @pytest.mark.parametrize("chunked", [None, (50_000,)], ids=["length", "chunked"])
    async def test_a_large_upload_holds_the_client_back_while_the_engine_does_not_read(
        self, chunked: tuple[int, ...] | None
    ) -> None:
        size = 24 << 20
        body, content_type = form(("model", b"m"), ("file", audio(size)))
        data = post("/v1/audio/transcriptions", body, content_type, chunked=chunked)
        go = asyncio.Event()

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            conn.pause_reading()
            await go.wait()
            conn.resume_reading()
            digest = hashlib.sha256()
            left = b""
            if chunked is None:
                count = len(body)
                while count:
                    piece = await conn.read_some()
                    digest.update(piece)
                    count -= len(piece)
            else:
                while True:
                    line = await conn.read_until(b"\r\n")
                    count = int(line, 16)
                    left = await conn.read_exactly(count + 2)
                    if not count:
                        break
                    digest.update(left[:-2])
            text = digest.hexdigest().encode()
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 64\r\n\r\n" + text)

        async with front(engine) as place, await place.client() as client:
            client.sock.setblocking(False)
            sent = at = 0
            quiet = monotonic()
            while monotonic() - quiet < 0.4 and at < len(data):
                try:
                    sent = client.sock.send(data[at : at + 262144])
                    at += sent
                    quiet = monotonic()
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            assert at < 16 << 20, "the gateway swallowed an upload that the engine does not read"
            (conn,) = place.gw.gateway.core.connections if place.gw.gateway.core else ()
            upstream = conn.stream.sink.call.stream  # type: ignore[union-attr]
            assert upstream.queued() < 1 << 20, "held in the gateway instead of by the client"
            go.set()
            await client.send(data[at:])
            answer = await client.read_response(20)
        assert answer.body.decode() == hashlib.sha256(body).hexdigest()
        assert place.gw.records[0]["bytes_in"] == len(body)

    async def test_an_upload_goes_to_the_next_engine_when_the_first_cannot_be_reached(self) -> None:
        body, content_type = form(("model", b"sim"), ("file", audio(5 << 20)))
        async with Simulator() as gone:
            nowhere = gone.url
        async with Simulator() as sim, running([nowhere, sim.url], policy="ordered") as gw:
            answer = await ask(gw.url, post("/v1/audio/transcriptions", body, content_type))
            assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()

    async def test_an_answer_that_comes_before_the_upload_is_over(self) -> None:
        """The engine has seen enough: its answer goes down, and what is still to come is not sent to it."""
        body, content_type = form(("model", b"sim"), ("file", audio(6 << 20)))
        data = post("/v1/audio/transcriptions", body, content_type, headers=[("x-sim-fault", "status=413,early")])
        async with before() as (gw, sim), await gw.client() as client:
            await client.send(data[:400_000])
            answer = await client.read_response()
            assert answer.status == 413
            await gw.idle()
            assert sim.requests.to("/v1/audio/transcriptions")[0].body_length < len(body)

    async def test_a_client_that_leaves_in_mid_upload_cancels_it(self) -> None:
        body, content_type = form(("model", b"sim"), ("file", audio(1 << 20)))
        async with before() as (gw, sim):
            client = await gw.client()
            await client.send(post("/v1/audio/transcriptions", body, content_type)[:-1000])
            await gw.until("the engine reads it", lambda: bool(sim.requests.to("/v1/audio/transcriptions")))
            client.reset()
            await gw.idle()
            await gw.until("the engine knows", lambda: sim.requests.to("/v1/audio/transcriptions")[0].outcome == "cancelled")
        assert gw.records[0]["outcome"] == "client_closed"

    async def test_an_upload_over_its_own_limit(self) -> None:
        body, content_type = form(("model", b"sim"), ("file", audio(60_000)))
        async with before(max_upload_bytes=50_000) as (gw, sim):
            for chunked in (None, (9000,)):
                async with await gw.client() as client:
                    await client.send_slowly(post("/v1/audio/transcriptions", body, content_type, chunked=chunked), 8000)
                    assert (await client.read_response()).status == 413
            assert all(seen.outcome == "cancelled" for seen in sim.requests.to("/v1/audio/transcriptions"))

    async def test_an_upload_may_be_larger_than_a_json_body(self) -> None:
        body, content_type = form(("model", b"sim"), ("file", audio(60_000)))
        async with before(max_body_bytes=2000) as (gw, _):
            assert (await ask(gw.url, post("/v1/audio/transcriptions", body, content_type))).json()["bytes"] == len(body)
            assert (await ask(gw.url, chat("sim", content="x" * 2000))).status == 413


class TestPassthrough:
    """`passthrough_paths` adds paths; what is not in the table is a 404 of the gateway's."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def test_any_method_and_any_body(self, method: str) -> None:
        body = None if method in ("GET", "DELETE") else audio(3000)
        async with front(passthrough_paths=["/v1/files/*"]) as place, await place.client() as client:
            await client.send(
                request(method, "/v1/files/abc/content?x=%2F", headers=[("Content-Type", "application/x-y")], body=body)
            )
            assert (await client.read_response()).status == 200
            (seen,) = place.work
            assert (seen.method.decode(), seen.target, seen.body) == (method, b"/v1/files/abc/content?x=%2F", body or b"")

    @pytest.mark.parametrize("target", [
        "/v1/files", "/v1/files/", "/v1/filesystem", "/v1/files/../models", "/v1/files/%2e%2e/x", "/v1/files/a%2Fb",
        "/V1/files/a", "/v1/batches", "/files/a",
    ])  # fmt: skip
    async def test_what_the_pattern_does_not_name(self, target: str) -> None:
        async with front(passthrough_paths=["/v1/files/*"]) as place, await place.client() as client:
            await client.send(request("GET", target))
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (404, "unknown_url")
            assert not place.touched

    @pytest.mark.parametrize("target", [
        "/v1/chat/%63ompletions", "/v1/chat/%63%6Fmpletions", "/v1/chat/completions/", "/v1/chat//completions",
        "/v1/audio/transcription%73", "/v1/audio/speec%68/", "/v1/messages/%63ount_tokens",
    ])  # fmt: skip
    async def test_no_other_spelling_of_an_endpoint_passes_it_by(self, target: str) -> None:
        below = ["/v1/chat/*", "/v1/audio/*", "/v1/messages/*"]
        async with front(passthrough_paths=below) as place, await place.client() as client:
            await client.send(request("POST", target, headers=[("Content-Type", "application/json")], body=b"{}"))
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (404, "unknown_url")
            assert not place.touched
            for other in ("/v1/chat/%66iles", "/v1/audio/files//a/", "/v1/chat/completions/a%20b"):
                await client.send(request("GET", other))
                assert (await client.read_response()).status == 200

    async def test_a_json_body_that_names_a_model_is_routed_by_it(self) -> None:
        async with Simulator(SimConfig(models=["one"])) as one, Simulator(SimConfig(models=["two"])) as two:
            engines = [EngineConfig(url=one.url, models=["one"]), EngineConfig(url=two.url, models=["two"])]
            async with running(engines, passthrough_paths=["/v1/moderations"]) as gw:
                for _ in range(3):
                    answer = await ask(gw.url, post("/v1/moderations", b'{"model":"two","input":"x"}'))
                    assert answer.json() == {"detail": "Not Found"}, "the engine's own 404"
            assert (len(one.requests.to("/v1/moderations")), len(two.requests.to("/v1/moderations"))) == (0, 3)

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("size", [100, 3_000_000])
    async def test_so_is_a_form_and_no_model_goes_to_an_engine_that_has_it_not(self, first: bool, size: int) -> None:
        named = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntwo\r\n'
        file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(size) + b"\r\n"
        body = (named + file if first else file + named) + b"--b--\r\n"
        async with Simulator(SimConfig(models=["one"])) as one, Simulator(SimConfig(models=["two"])) as two:
            engines = [EngineConfig(url=one.url, models=["one"]), EngineConfig(url=two.url, models=["two"])]
            async with running(engines, passthrough_paths=["/v1/up"]) as gw:
                for _ in range(3):
                    answer = await ask(gw.url, post("/v1/up", body, "multipart/form-data; boundary=b"))
                    if first or size < 1000:
                        assert answer.json() == {"detail": "Not Found"}, "the engine's own 404"
                    else:
                        assert answer.status == 400 or answer.json() == {"detail": "Not Found"}
                        if answer.status == 400:
                            assert "must come before the file" in answer.error["message"]
            assert one.requests.to("/v1/up") == [] or not first
            assert all(b'name="model"' not in seen.body for seen in one.requests.to("/v1/up"))

    async def test_a_form_without_a_model_goes_on_as_it_comes(self) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(3_000_000) + b"\r\n--b--\r\n"
        async with front(passthrough_paths=["/v1/files"], memory_budget_bytes=1 << 20, max_body_bytes=1 << 19) as place:
            answer = await ask(place.gw.url, post("/v1/files", body, "multipart/form-data; boundary=b"))
            assert answer.status == 200
            (seen,) = place.work
            assert len(seen.body) >= 1 << 20

    async def test_a_json_body_is_read_whatever_its_length(self) -> None:
        body = b'{"model":"two","input":"' + b"x" * 30_000 + b'"}'
        async with front(passthrough_paths=["/v1/up"], max_body_bytes=20_000) as place:
            answer = await ask(place.gw.url, post("/v1/up", body))
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
            assert not place.touched

    async def test_a_key_is_needed_there_too(self) -> None:
        async with front(passthrough_paths=["/v1/files"], api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(request("GET", "/v1/files"))
            assert (await client.read_response()).status == 401
            await client.send(request("GET", "/v1/files", key="sk-a"))
            assert (await client.read_response()).status == 200
            assert [seen.header(b"authorization") for seen in place.work] == [None]


class TestModels:
    """`GET /v1/models` is one list over all engines."""

    async def test_the_list_is_the_union(self) -> None:
        async with (
            Simulator(SimConfig(models=["a", "org/b"])) as one, Simulator(SimConfig(models=["a", "c"])) as two,
            Simulator(SimConfig(models=["hidden"])) as three,
        ):  # fmt: skip
            engines = [
                EngineConfig(url=one.url),
                EngineConfig(url=two.url, kind="vllm"),
                EngineConfig(url=three.url, models=["d"]),
            ]
            async with running(engines) as gw:
                await gw.until("models learned", lambda: len(gw.gateway.core.table.models) == 4)
                listed = (await ask(gw.url, request("GET", "/v1/models"))).json()
                assert listed["object"] == "list"
                assert sorted(row["id"] for row in listed["data"]) == ["a", "c", "d", "org/b"]
                for row in listed["data"]:
                    assert row["object"] == "model"
                    assert isinstance(row["created"], int)
                    assert isinstance(row["owned_by"], str)
                    one_row = await ask(gw.url, request("GET", f"/v1/models/{row['id']}"))
                    assert (one_row.status, one_row.json()) == (200, row)
                encoded = await ask(gw.url, request("GET", "/v1/models/org%2Fb"))  # as the SDKs write it
                assert (encoded.status, encoded.json()["id"]) == (200, "org/b")
                missing = await ask(gw.url, request("GET", "/v1/models/e"))
                assert (missing.status, missing.error["code"]) == (404, "model_not_found")

    async def test_right_after_the_start_it_waits_for_the_engine(self) -> None:
        async with before({"models": ["slow-to-say"]}) as (gw, _):
            listed = await ask(gw.url, request("GET", "/v1/models"))
            assert [row["id"] for row in listed.json()["data"]] == ["slow-to-say"]

    async def test_the_served_name_is_listed_first_and_works(self) -> None:
        async with before({"any_model": True}, served_model_name="house-model") as (gw, _sim):
            listed = await ask(gw.url, request("GET", "/v1/models"))
            assert listed.json()["data"][0]["id"] == "house-model"
            assert (await ask(gw.url, chat("house-model"))).status == 200

    async def test_an_ollama_engine_tells_its_tags(self) -> None:
        async with before({"models": ["qwen:7b"]}, engine={"kind": "ollama"}) as (gw, sim):
            await gw.until("models learned", lambda: "qwen:7b" in gw.gateway.core.table.models)
            assert {seen.path for seen in sim.requests} == {"/api/tags"}
            assert (await ask(gw.url, request("GET", "/v1/models/qwen:7b"))).status == 200

    async def test_it_follows_the_engine(self) -> None:
        async with before({"models": ["old"]}, health_interval_s=0.05, model_refresh_s=0.05) as (gw, sim):
            await gw.until("the first list", lambda: "old" in gw.gateway.core.table.models)
            port = sim.port
            await sim.stop()
            async with Simulator(SimConfig(models=["new"], port=port)):
                await gw.until("the new list", lambda: list(gw.gateway.core.table.models) == ["new"])

    async def test_it_needs_a_key_when_there_are_keys(self) -> None:
        async with before(api_keys=["sk-a"]) as (gw, _):
            assert (await ask(gw.url, request("GET", "/v1/models"))).status == 401
            assert (await ask(gw.url, request("GET", "/v1/models", key="sk-a"))).status == 200
            assert (await ask(gw.url, request("GET", "/v1/models/sim"))).status == 401


class TestOtherMethods:
    """HEAD is GET without the body, OPTIONS says what a path takes; anything else is a 405 that says so too."""

    @pytest.mark.parametrize(
        "path", ["/liveness", "/readiness", "/health", "/healthz", "/ready", "/v1/models", "/v1/models/sim"]
    )
    async def test_head_is_get_without_the_body(self, path: str) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await gw.until("a healthy engine", lambda: "sim" in gw.gateway.core.table.models)
            await client.send(request("HEAD", path) + request("GET", path))
            head = await client.read_response(head_only=True)
            get = await client.read_response()
        assert head.status == get.status == 200
        assert head.header("content-length") == str(len(get.body))
        assert head.header("content-type") == get.header("content-type")

    @pytest.mark.parametrize(("method", "path", "allow"), [
        ("HEAD", "/v1/chat/completions", {"POST", "OPTIONS"}), ("GET", "/v1/completions", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models", {"GET", "HEAD", "OPTIONS"}), ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/v1/embeddings", {"POST", "OPTIONS"}), ("PATCH", "/v1/audio/speech", {"POST", "OPTIONS"}),
    ])  # fmt: skip
    async def test_a_method_that_a_path_does_not_take(self, method: str, path: str, allow: set[str]) -> None:
        async with front() as place, await place.client() as client:
            await client.send(request(method, path, body=b"" if method in ("POST", "PUT", "PATCH") else None))
            refused = await client.read_response(head_only=method == "HEAD")
            assert refused.status == 405
            assert set((refused.header("allow") or "").replace(" ", "").split(",")) == allow
            await place.probe(client)
            assert not place.touched

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "*", "/healthz"])
    async def test_options_needs_no_key_and_reaches_no_engine(self, path: str) -> None:
        async with front(api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(request("OPTIONS", path))
            answer = await client.read_response()
            assert (answer.status, answer.body) == (204, b"")
            assert "OPTIONS" in (answer.header("allow") or "")
            assert answer.header("access-control-allow-origin") is None
            await place.probe(client)
            assert not place.touched

    async def test_options_of_an_unknown_path(self) -> None:
        async with front() as place, await place.client() as client:
            await client.send(request("OPTIONS", "/v1/nothing"))
            assert (await client.read_response()).status == 404


class TestCors:
    """Off by default; with `cors_origins`, only those origins hear yes."""

    ORIGIN = ("Origin", "https://app.example")
    PREFLIGHT = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization, x-trace"))

    def names(self, answer: RawResponse) -> list[str]:
        return [name.lower() for name, _ in answer.headers if name.lower().startswith("access-control-")]

    async def test_off(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            for data in (
                chat("sim", headers=[self.ORIGIN]),
                request("OPTIONS", "/v1/models", headers=[self.ORIGIN, *self.PREFLIGHT]),
            ):
                await client.send(data)
                assert self.names(await client.read_response()) == []

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_known_origin(self, stream: bool) -> None:
        async with (
            before(cors_origins=["https://app.example", "http://localhost:3000"]) as (gw, _),
            await gw.client() as client,
        ):
            await client.send(chat("sim", stream=stream, headers=[self.ORIGIN]))
            answer = await client.read_response()
            assert answer.status == 200
            assert answer.header("access-control-allow-origin") == "https://app.example"
            assert answer.header("vary") == "Origin"
            assert "x-request-id" in (answer.header("access-control-expose-headers") or "")
            await client.send(request("OPTIONS", "/v1/chat/completions", headers=[self.ORIGIN, *self.PREFLIGHT]))
            answer = await client.read_response()
            assert answer.status == 204
            assert answer.header("access-control-allow-origin") == "https://app.example"
            assert "POST" in (answer.header("access-control-allow-methods") or "")
            assert (answer.header("access-control-allow-headers") or "") == "authorization, x-trace"
            assert int(answer.header("access-control-max-age") or 0) > 0
            assert answer.header("access-control-allow-credentials") is None

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example"])
    async def test_another_origin(self, origin: str) -> None:
        async with before(cors_origins=["https://app.example"]) as (gw, _), await gw.client() as client:
            for data in (
                chat("sim", headers=[("Origin", origin)]), request("GET", "/v1/models", headers=[("Origin", origin)]),
                request("OPTIONS", "/v1/chat/completions", headers=[("Origin", origin), *self.PREFLIGHT]),
            ):  # fmt: skip
                await client.send(data)
                answer = await client.read_response()
                assert answer.status in (200, 204)
                assert self.names(answer) == []

    async def test_any_origin_and_errors_too(self) -> None:
        async with before(cors_origins=["*"], api_keys=["sk-a"]) as (gw, _), await gw.client() as client:
            for data, status in (
                (chat("sim", headers=[self.ORIGIN]), 401), (chat("sim", headers=[self.ORIGIN], key="sk-a"), 200),
                (chat("x", headers=[self.ORIGIN], key="sk-a"), 404), (request("GET", "/healthz", headers=[self.ORIGIN]), 200),
            ):  # fmt: skip
                await client.send(data)
                answer = await client.read_response()
                assert answer.status == status
                assert answer.header("access-control-allow-origin") == "*", status


def frame(opcode: int, payload: bytes, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    """A client's WebSocket frame."""
    size = len(payload)
    head = struct.pack(">BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0xFE, size)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class TestRealtime:
    """A WebSocket handshake on `/v1/realtime` makes a tunnel; the client's key stays on this side of it."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="

    def handshake(self, target: str = "/v1/realtime?model=sim", **more: Any) -> bytes:
        fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", self.KEY),
        ]
        return request("GET", target, headers=[*fields, *more.pop("headers", ())], **more)

    async def test_frames_pass_both_ways(self) -> None:
        async with before() as (gw, _sim), await gw.client() as client:
            await client.send(self.handshake())
            answer = await client.read_head()
            assert answer.status == 101
            assert answer.header("sec-websocket-accept") == accept_key(self.KEY.encode()).decode()
            assert (answer.header("upgrade"), answer.header("connection")) == ("websocket", "Upgrade")
            for payload in (b"hello", audio(40_000), b""):
                await client.send_slowly(frame(2, payload), 10_000)
                got = b""
                wanted = frame(2, payload, b"\0\0\0\0").replace(b"\0\0\0\0", b"", 1)
                while len(got) < len(wanted):
                    got += await client.read_some()
                assert got[0] == 0x82
                assert got.endswith(payload)
            await client.send(frame(8, b"\x03\xe8"))
            data, how = await client.read_until_closed()
            assert (data, how) == (b"\x88\x02\x03\xe8", "fin")
            await gw.idle()
        (record,) = gw.records
        assert (record["endpoint"], record["status"], record["outcome"]) == ("/v1/realtime", 101, "ok")
        assert record["bytes_in"] > 40_000 < record["bytes_out"]

    async def test_frames_sent_with_the_handshake_are_not_lost(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await client.send(self.handshake() + frame(1, b"early"))
            assert (await client.read_head()).status == 101
            assert await client.read_some() == b"\x81\x05early"

    async def test_much_that_was_sent_before_the_engine_agreed_arrives_whole(self) -> None:
        got = 0

        async def handler(conn: ScriptedConnection) -> None:
            nonlocal got
            request_ = await conn.read_request()
            if request_.target != b"/v1/realtime":
                await conn.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
                return
            await asyncio.sleep(0.2)
            await conn.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            while data := await conn.read_some():
                got += len(data)

        async with (
            ScriptedEngine(handler) as engine, running([engine.url], warm_connections=0) as gw,
            await gw.client() as client,
        ):
            await client.send(self.handshake("/v1/realtime"))
            await gw.until("the handshake is under way", lambda: gw.stats.exchanges_open == 1)
            await client.send(b"x" * 300_000)
            await gw.until("all of it has arrived", lambda: got == 300_000)

    async def test_leaving_closes_the_engines_side(self) -> None:
        async with before() as (gw, _sim):
            client = await gw.client()
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            client.reset()
            await gw.idle()
        assert gw.records[0]["outcome"] in ("ok", "client_closed")

    @pytest.mark.parametrize(("offered", "seen"), [
        ("realtime, openai-insecure-api-key.sk-tenant", "realtime"),
        ("openai-insecure-api-key.sk-tenant, realtime, openai-beta.realtime-v1", "realtime, openai-beta.realtime-v1"),
        ("openai-insecure-api-key.sk-tenant", None),
    ])  # fmt: skip
    async def test_a_browsers_key_in_the_subprotocol_counts_and_never_leaves(self, offered: str, seen: str | None) -> None:
        async with before({"api_key": "sk-engine"}, api_keys=["sk-tenant"], vllm_api_key="sk-engine") as (gw, sim):
            async with await gw.client() as client:
                await client.send(self.handshake(headers=[("Sec-WebSocket-Protocol", offered)]))
                answer = await client.read_head()
                assert answer.status == 101
                assert answer.header("sec-websocket-protocol") == (None if seen is None else "realtime")
                (request_,) = sim.requests.to("/v1/realtime")
                assert request_.header("sec-websocket-protocol") == seen
                assert request_.header("authorization") == "Bearer sk-engine"
                assert not any(b"sk-tenant" in value for _, value in request_.headers)
            await gw.idle()
        assert gw.records[0]["key_id"]

    @pytest.mark.parametrize("offered", ["realtime", "openai-insecure-api-key.sk-other", "openai-insecure-api-key."])
    async def test_no_key_or_a_wrong_one(self, offered: str) -> None:
        async with before(api_keys=["sk-tenant"]) as (gw, sim), await gw.client() as client:
            await client.send(self.handshake(headers=[("Sec-WebSocket-Protocol", offered)]))
            assert (await client.read_response()).status == 401
            await client.send(self.handshake(key="sk-tenant"))
            assert (await client.read_head()).status == 101
            assert sim.requests.to("/v1/realtime")[0].header("authorization") is None

    async def test_a_subprotocol_is_no_key_elsewhere(self) -> None:
        async with before(api_keys=["sk-tenant"]) as (gw, _):
            field = ("Sec-WebSocket-Protocol", "openai-insecure-api-key.sk-tenant")
            assert (await ask(gw.url, request("GET", "/v1/models", headers=[field]))).status == 401

    async def test_an_engine_that_refuses_the_handshake_is_heard(self) -> None:
        async def refuse(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b'HTTP/1.1 403 Forbidden\r\ncontent-length: 10\r\n\r\n{"no":"!"}')

        async with front(refuse) as place, await place.client() as client:
            await client.send(self.handshake())
            answer = await client.read_response()
            assert (answer.status, answer.body) == (403, b'{"no":"!"}')
            await place.probe(client)

    async def test_an_engine_that_cannot_be_reached_is_passed_over(self) -> None:
        async with Simulator() as gone:
            nowhere = gone.url
        async with Simulator() as sim, running([nowhere, sim.url], policy="ordered") as gw, await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await client.send(frame(1, b"hi"))
            assert await client.read_some() == b"\x81\x02hi"

    async def test_a_stop_closes_it(self) -> None:
        async with before(drain_timeout_s=0.1) as (gw, _), await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await gw.gateway.stop()
            data, how = await client.read_until_closed()
            assert (data, how) in ((b"", "fin"), (b"", "reset"))

    async def test_an_engine_that_hangs_up_ends_it(self) -> None:
        async with Simulator() as sim, running([sim.url]) as gw, await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await sim.stop()
            assert await client.read_until_closed() == (b"", "fin")
            await gw.idle()

    async def test_what_is_no_handshake(self) -> None:
        async with before() as (gw, sim), await gw.client() as client:
            await client.send(request("GET", "/v1/realtime?model=sim"))
            assert (await client.read_response()).status == 400
        async with before(engine={"models": ["sim"]}) as (gw, sim):
            async with await gw.client() as client:
                await client.send(self.handshake("/v1/realtime?model=other"))
                assert (await client.read_response()).status == 404
            assert not sim.requests.to("/v1/realtime")


class TestOldAndEagerClients:
    """HTTP/1.0, pipelining and `Expect` as real programs use them."""

    async def test_http_1_0_gets_a_body_that_ends_with_the_connection(self) -> None:
        """As `ab` without `-k` asks."""
        async with before() as (gw, sim), await gw.client() as client:
            direct = await ask(sim.url, chat("sim", stream=True))
            await client.send(chat("sim", stream=True, version="HTTP/1.0"))
            answer = await client.read_response()
            assert answer.header("transfer-encoding") is None
            assert (answer.how_ended, answer.body) == ("eof", direct.body)
            assert answer.header("connection") in (None, "close")

    async def test_http_1_0_with_keep_alive(self) -> None:
        """As `ab -k` asks: it needs a length and the promise, or the close."""
        async with before() as (gw, _), await gw.client() as client:
            for _turn in range(3):
                await client.send(chat("sim", version="HTTP/1.0", headers=[("Connection", "Keep-Alive")]))
                answer = await client.read_response()
                assert answer.how_ended == "length"
                assert (answer.header("connection") or "").lower() == "keep-alive"
            await client.send(chat("sim", stream=True, version="HTTP/1.0", headers=[("Connection", "Keep-Alive")]))
            answer = await client.read_response()
            assert (answer.how_ended, answer.header("connection")) == ("eof", "close")
        assert gw.stats.connections_total == 1

    @pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
    async def test_http_1_0_for_local_answers(self, path: str) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await client.send(request("GET", path, version="HTTP/1.0", host=None))
            answer = await client.read_response()
            assert (answer.status, answer.how_ended) == (200, "length")
            assert await client.read_until_closed() == (b"", "fin")

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        async with before() as (gw, sim), await gw.client() as client:
            bodies = [chat("sim", content=f"number {i}", max_tokens=3 + i, stream=i % 2 == 1) for i in range(8)]
            expected = [(await ask(sim.url, data)).body for data in bodies]
            await client.send(b"".join(bodies))
            assert [(await client.read_response()).body for _ in bodies] == expected
        assert gw.stats.connections_total == 1

    async def test_expect_as_curl_sends_it(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            head, _, body = chat("sim", content="x" * 300_000, headers=[("Expect", "100-continue")]).partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert (await client.read_some()) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await client.read_response()).status == 200


class TestUnixSockets:
    """Both sides may be Unix sockets."""

    async def test_both_sides(self, tmp_path: Path) -> None:
        listen, engine = tmp_path / "gateway.sock", tmp_path / "engine.sock"
        async with before({"unix": str(engine)}, unix_socket=str(listen)) as (gw, sim):
            assert gw.gateway.addresses[1] == f"unix:{listen}"
            for where in (str(listen), gw.url):
                plain = await ask(where, chat("sim"))
                stream = await ask(where, chat("sim", stream=True))
                assert (plain.status, stream.status) == (200, 200)
                assert stream.events()[-1] == "[DONE]"
            assert {seen.header("host") for seen in sim.requests.to("/v1/chat/completions")} != {None}
        assert [record["client"] for record in gw.records] == ["unix", "unix", "127.0.0.1", "127.0.0.1"]
        assert not listen.exists()

    async def test_a_socket_file_left_by_a_crash_is_replaced(self, tmp_path: Path) -> None:
        import socket

        listen = tmp_path / "gateway.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(listen))
        async with before(unix_socket=str(listen)):
            assert (await ask(str(listen), request("GET", "/liveness"))).status == 200

    async def test_a_caller_on_the_socket_is_no_forwarded_address(self, tmp_path: Path) -> None:
        listen = tmp_path / "gateway.sock"
        async with before(unix_socket=str(listen)) as (_gw, sim):
            await ask(str(listen), chat("sim", headers=[("X-Forwarded-For", "6.6.6.6")]))
            assert "6.6.6.6" not in (sim.requests.to("/v1/chat/completions")[0].header("x-forwarded-for") or "")


class TestRouting:
    """By model first; then the policy's turn."""

    async def test_models_over_several_engines(self) -> None:
        async with (
            Simulator(SimConfig(models=["a", "b"])) as one, Simulator(SimConfig(models=["b", "c"])) as two,
            Simulator(SimConfig(models=["d"])) as three,
        ):  # fmt: skip
            engines = [EngineConfig(url=one.url), EngineConfig(url=two.url, models=["b", "c"]), EngineConfig(url=three.url)]
            async with running(engines) as gw:
                await gw.until("models learned", lambda: set(gw.gateway.core.table.models) == {"a", "b", "c", "d"})
                for model, where in (("a", {0}), ("b", {0, 1}), ("c", {1}), ("d", {2})):
                    for sim in (one, two, three):
                        sim.requests.clear()
                    for _ in range(4):
                        assert (await ask(gw.url, chat(model))).status == 200
                    reached = {i for i, sim in enumerate((one, two, three)) if sim.requests.to("/v1/chat/completions")}
                    assert reached == where, model
                # A name that nobody lists goes to an engine that may know it, and its own answer comes back.
                unknown = await ask(gw.url, chat("nobody's"))
                assert (unknown.status, unknown.error["type"]) == (404, "NotFoundError")
                assert not [seen for seen in two.requests.to("/v1/chat/completions") if b"nobody" in seen.body]

    async def test_with_configured_models_only_an_unknown_one_stops_here(self) -> None:
        async with before(engine={"models": ["sim"]}) as (gw, sim):
            refused = await ask(gw.url, chat("nobody's"))
            assert (refused.status, refused.error["code"], refused.error["param"]) == (404, "model_not_found", "model")
            assert not sim.requests.to("/v1/chat/completions")

    async def test_the_engines_own_name_for_a_model(self) -> None:
        """`served_name` is spliced into the body; not a byte around it changes."""
        body = b'{"messages" : [{"role":"user","content":"say \\"model\\": \\"house\\""}], "model":\t"house" ,"n":1}'
        async with before({"models": ["meta/real"]}, engine={"models": ["house"], "served_name": "meta/real"}) as (gw, sim):
            answer = await ask(gw.url, post("/v1/chat/completions", body))
            assert answer.status == 200
            (seen,) = sim.requests.to("/v1/chat/completions")
            assert seen.body == body.replace(b'\t"house"', b'\t"meta/real"')
            stream = await ask(gw.url, chat("house", stream=True))
            assert stream.events()[-1] == "[DONE]"
            assert [row["id"] for row in (await ask(gw.url, request("GET", "/v1/models"))).json()["data"]] == ["house"]
        assert [record["model"] for record in gw.records[:2]] == ["house", "house"]

    @pytest.mark.parametrize(("weights", "turns"), [((1, 1, 1), 9), ((3, 1, 2), 12), ((1, 5, 1), 14)])
    async def test_round_robin_keeps_the_weights_exactly(self, weights: tuple[int, ...], turns: int) -> None:
        async with Simulator() as one, Simulator() as two, Simulator() as three:
            sims = (one, two, three)
            # (They are told what each serves: the turns begin anew while that is still being learned.)
            told = zip(sims, weights, strict=True)
            engines = [EngineConfig(url=sim.url, weight=weight, models=("sim",)) for sim, weight in told]
            async with running(engines) as gw:
                await gw.until("all engines well", lambda: gw.gateway.core.health.counts() == (3, 3))
                async with await gw.client() as client:
                    for _ in range(turns):
                        await client.send(chat("sim"))
                        assert (await client.read_response()).status == 200
            served = [len(sim.requests.to("/v1/chat/completions")) for sim in sims]
        assert served == [turns * weight // sum(weights) for weight in weights]

    async def test_ordered_stays_with_the_first_that_is_well(self) -> None:
        settings = {"policy": "ordered", "health_interval_s": 0.05, "health_unhealthy_after": 1}
        async with two_engines(**settings) as (gw, one, two):

            async def served(count: int) -> tuple[int, int]:
                for sim in (one, two):
                    sim.requests.clear()
                for _ in range(count):
                    assert (await ask(gw.url, chat("sim"))).status == 200
                return len(one.requests.to("/v1/chat/completions")), len(two.requests.to("/v1/chat/completions"))

            assert await served(4) == (4, 0)
            one.set_healthy(False)
            await gw.until("the first left out", lambda: gw.gateway.core.health.counts() == (1, 2))
            assert await served(4) == (0, 4)
            one.set_healthy(True)
            await gw.until("the first back", lambda: gw.gateway.core.health.counts() == (2, 2))
            assert await served(4) == (4, 0)

    async def test_an_engine_that_goes_away_costs_nobody_a_request(self) -> None:
        # (Without its breaker, which would spare it for longer than this test lasts.)
        async with two_engines(health_interval_s=0.1, connect_timeout_s=1.0, cb_failure_threshold=0) as (gw, one, _):
            one.refuse(0.5, drop=True)
            for _ in range(20):
                assert (await ask(gw.url, chat("sim"))).status == 200
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # (a busy machine may not have found it unwell: that alone does not say that it is back)
            await gw.until("it is back", lambda: gw.gateway.core.health.counts() == (2, 2))
            one.requests.clear()
            for _ in range(4):
                assert (await ask(gw.url, chat("sim"))).status == 200
            assert len(one.requests.to("/v1/chat/completions")) == 2
        assert gw.stats.failovers_total >= 1


class TestHealth:
    """Probes ask what each kind of engine answers, and the verdict shows everywhere at once."""

    async def seen_by(self, well: bytes, **engine: Any) -> list[bytes]:
        """The probes' targets, of an engine that answers 200 only at ``well``."""

        async def serve(conn: ScriptedConnection) -> None:
            seen = await conn.read_request()
            status = b"200 OK" if seen.target == well else b"404 Not Found"
            await conn.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")

        async with ScriptedEngine(serve) as scripted:
            target = EngineConfig(url=scripted.url, warm_connections=0, **engine)
            async with running([target], health_interval_s=60.0) as gw:
                await gw.until("a verdict", lambda: gw.gateway.core.health.counts() == (1, 1))
                return [seen.target for seen in scripted.requests]

    @pytest.mark.parametrize(("kind", "well", "order"), [
        ("auto", b"/health", [b"/health"]),
        ("auto", b"/healthz", [b"/health", b"/healthz"]),
        ("vllm", b"/v1/models", [b"/health", b"/healthz", b"/v1/models"]),
        ("auto", b"/api/tags", [b"/health", b"/healthz", b"/v1/models", b"/api/tags"]),
        ("ollama", b"/api/tags", [b"/api/tags"]),
    ])  # fmt: skip
    async def test_the_order_of_probes(self, kind: str, well: bytes, order: list[bytes]) -> None:
        assert (await self.seen_by(well, kind=kind))[: len(order)] == order

    async def test_a_path_of_its_own(self) -> None:
        assert (await self.seen_by(b"/up?deep=1", health_path="/up?deep=1"))[0] == b"/up?deep=1"

    @pytest.mark.parametrize("healthy", [True, False])
    async def test_bodies(self, healthy: bool) -> None:
        async with before() as (gw, sim):
            sim.set_healthy(healthy)
            well, status = (1, 200) if healthy else (0, 503)
            live = await ask(gw.url, request("GET", "/liveness"))
            assert (live.status, live.body) == (200, b'{"status":"ok"}')
            ready = await ask(gw.url, request("GET", "/readiness"))
            assert ready.status == status
            assert {"ready": healthy, "healthy_workers": well, "total_workers": 1}.items() <= ready.json().items()
            assert ("reason" in ready.json()) is (not healthy)
            ready = await ask(gw.url, request("GET", "/ready"))
            assert (ready.status, ready.json()["healthy_engines"], ready.json()["total_engines"]) == (status, well, 1)
            health = await ask(gw.url, request("GET", "/health"))
            assert (health.status, health.json()["status"]) == (200, "ok")
            healthz = await ask(gw.url, request("GET", "/healthz"))
            assert (healthz.status, healthz.body) == (200, b"ok")

    async def test_without_engines(self) -> None:
        async with running([]) as gw:
            ready = await ask(gw.url, request("GET", "/readiness"))
            assert (ready.status, ready.json()) == (
                503, {"ready": False, "healthy_workers": 0, "total_workers": 0, "reason": "no_workers_configured"},
            )  # fmt: skip
            assert (await ask(gw.url, request("GET", "/ready"))).status == 503
            assert (await ask(gw.url, request("GET", "/liveness"))).status == 200
            refused = await ask(gw.url, chat("m"))
            assert (refused.status, refused.error["code"]) == (503, "no_engines")
            assert refused.header("retry-after") is not None

    async def test_none_needs_a_key(self) -> None:
        async with before(api_keys=["sk-a"]) as (gw, _), await gw.client() as client:
            for path in ("/liveness", "/readiness", "/health", "/healthz", "/ready"):
                await client.send(request("GET", path))
                assert (await client.read_response()).status == 200, path

    async def test_readiness_asks_the_engine_and_does_not_remember_long(self) -> None:
        async with before(health_interval_s=3600.0) as (gw, sim):
            assert (await ask(gw.url, request("GET", "/readiness"))).status == 200
            sim.set_healthy(False)
            await asyncio.sleep(1.05)
            answer = await ask(gw.url, request("GET", "/readiness"))
            # One failed probe is not yet an unhealthy engine; the next question settles it.
            await asyncio.sleep(1.05)
            answer = await ask(gw.url, request("GET", "/readiness"))
            assert (answer.status, answer.json()["ready"]) == (503, False)


class TestReceipts:
    """What the answer says about the request: its id and where its time went."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_server_timing_when_asked_for(self, stream: bool) -> None:
        async with before({"ttft_ms": 60.0}, server_timing=True) as (gw, _):
            begin = monotonic()
            answer = await ask(gw.url, chat("sim", stream=stream))
            took_ms = (monotonic() - begin) * 1e3
        parts = dict(part.strip().split(";dur=") for part in (answer.header("server-timing") or "").split(","))
        spent = {name: float(value) for name, value in parts.items()}
        assert set(spent) == {"parse", "queue", "upstream", "gateway"}
        assert 55.0 <= spent["upstream"] <= took_ms
        assert 0.0 <= spent["gateway"] < 50.0
        assert min(spent.values()) >= 0.0

    async def test_server_timing_is_off_by_default(self) -> None:
        async with before() as (gw, _):
            assert (await ask(gw.url, chat("sim"))).header("server-timing") is None

    async def test_a_request_id_is_accepted_returned_sent_on_and_logged(self) -> None:
        async with before() as (gw, sim):
            given = await ask(gw.url, chat("sim", headers=[("X-Request-ID", "trace-1/a:b")]))
            assert given.header("x-request-id") == "trace-1/a:b"
            assert sim.requests.to("/v1/chat/completions")[0].header("x-request-id") == "trace-1/a:b"
            made = [
                await ask(gw.url, data)
                for data in (chat("sim"), chat("sim", stream=True), chat("no-such"), request("GET", "/healthz"))
            ]
            ids = [answer.header("x-request-id") for answer in made]
            assert len(set(ids)) == 4
            assert all(ids)
        assert [record["request_id"].decode() for record in gw.records] == ["trace-1/a:b", *ids]

    async def test_an_answer_has_a_date_also_where_the_engine_gave_none(self) -> None:
        async with front() as place, await place.client() as client:
            await client.send(chat())
            assert "GMT" in ((await client.read_response()).header("date") or "")


@pytest.mark.together
class TestTimeouts:
    """Each limit ends what it limits, at its time, and nothing else."""

    async def timed(self, begin: float, low: float, high: float) -> None:
        took = monotonic() - begin
        assert low <= took <= high, f"took {took:.2f} s"

    async def test_idle_connections_are_closed_in_silence(self) -> None:
        async with before(keepalive_timeout_s=0.4) as (gw, _), await gw.client() as client:
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200
            begin = monotonic()
            assert await client.read_until_closed() == (b"", "fin")
            await self.timed(begin, 0.35, 2.0)

    async def test_an_engine_that_never_begins(self) -> None:
        async with before(first_byte_timeout_s=0.4) as (gw, _sim), await gw.client() as client:
            begin = monotonic()
            await client.send(chat("sim", headers=[("x-sim-fault", "stall-before")]))
            answer = await client.read_response()
            await self.timed(begin, 0.35, 2.0)
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200

    async def test_an_engine_that_stops_in_mid_stream(self) -> None:
        async with before(between_bytes_timeout_s=0.4) as (gw, _), await gw.client() as client:
            await client.send(chat("sim", stream=True, headers=[("x-sim-fault", "stall-after-events=3")]))
            answer = await client.read_response()
            assert not answer.complete
            assert json.loads(answer.events()[-1])["error"]["code"] == "upstream_timeout"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_limit_of_the_whole_exchange(self, stream: bool) -> None:
        async with before({"itl_ms": 50.0}, request_timeout_s=0.5) as (gw, sim), await gw.client() as client:
            begin = monotonic()
            await client.send(chat("sim", stream=stream, max_tokens=500))
            answer = await client.read_response()
            await self.timed(begin, 0.4, 2.0)
            if stream:
                assert not answer.complete
                assert json.loads(answer.events()[-1])["error"]["code"] == "upstream_timeout"
            else:
                assert answer.status == 504
            await gw.until("the engine stopped", lambda: sim.state.running == 0)

    async def test_a_first_byte_limit_never_cuts_a_live_stream(self) -> None:
        async with before({"itl_ms": 30.0}, first_byte_timeout_s=0.3) as (gw, _):
            answer = await ask(gw.url, chat("sim", stream=True, max_tokens=30))
            assert (answer.events()[-1], answer.complete) == ("[DONE]", True)

    async def test_a_head_that_never_ends(self) -> None:
        async with front(head_timeout_s=0.4) as place, await place.client() as client:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
            assert (await client.read_response()).status == 408
        async with front(head_timeout_s=0.4) as place, await place.client() as client:
            with pytest.raises(NoResponse):
                await client.read_response()
