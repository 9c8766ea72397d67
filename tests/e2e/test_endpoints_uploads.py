"""Multipart bodies through the gateway: what the engine gets, byte by byte."""

from __future__ import annotations

import asyncio
import hashlib
from time import monotonic

import pytest

from fastgw import EngineConfig, RouteConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.asked import ask, audio, before, post
from tests.e2e.front import front
from tests.support.client import chat, request
from tests.support.gateway import running


def form(*parts: tuple[str, bytes], boundary: str = "boundary-7f3a") -> tuple[bytes, str]:
    """A multipart body and its content type; ``file`` parts have a file name."""
    lines = b""
    for name, value in parts:
        extra = '; filename="a.wav"' if name == "file" else ""
        lines += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"
    return lines + b"--%b--\r\n" % boundary.encode(), f"multipart/form-data; boundary={boundary}"


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
    @pytest.mark.parametrize("routes", [[], [RouteConfig(model="m")]], ids=["no question", "which?"])
    async def test_a_form_without_a_model_goes_on_where_that_is_no_question(self, size: int, routes: list[RouteConfig]) -> None:
        body, content_type = form(("file", audio(size)), ("language", b"en"))
        async with before(routes=routes) as (gw, sim), await gw.client() as client:
            await client.send_slowly(post("/v1/audio/transcriptions", body, content_type), 65536, pause=0.0)
            answer = await client.read_response()
            got = [seen.body_length for seen in sim.requests.to("/v1/audio/transcriptions")]
            if not routes:
                assert (got, answer.status) == ([len(body)], 200), answer.body
                return
            assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "missing_model", "model")
            assert "field named `model`" in answer.error["message"]
            assert got == []

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
