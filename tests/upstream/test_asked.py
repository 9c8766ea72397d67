"""Which protocol an engine speaks: asked of it, remembered, learned anew. Against real servers of HTTP/2 and of HTTP/1."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from fastgw import EngineConfig
from fastgw.net.fetch import FetchError
from fastgw.net.h2_fetch import fetch_h2
from fastgw.net.h2_greeting import speaks_h2
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.upstream.h2_slots import MOST_UNWANTED
from tests.e2e.engines import QUIET, fine, pool_engine, scripted
from tests.support.gateway import running
from tests.support.h2 import frames as f
from tests.support.ports import closed_port
from tests.support.requests import chat
from tests.support.scripts import ANSWER, ok


class Served:
    """An engine of HTTP/2, by stock ``h2``: what it was asked, and over how many connections."""

    def __init__(self) -> None:
        self.asked: list[dict[bytes, bytes]] = []
        self.connections = 0
        self.port = 0
        self.h2 = True  # False: it is a server of HTTP/1 now
        self.wants_h1 = ""  # rst, goaway: so it says HTTP_1_1_REQUIRED to a request, and is a server of both
        self.down = False  # who stands before it takes connections and ends them
        self.live: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.live.add(writer)
        if self.down:
            writer.close()
            return
        with suppress(ConnectionError):
            await (self._serve_h2 if self.h2 else self._serve_h1)(reader, writer)
        writer.close()

    async def _serve_h2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        if not self.wants_h1:  # (else it waits for who speaks what)
            writer.write(connection.data_to_send())
        heads: dict[int, dict[bytes, bytes]] = {}
        while data := await reader.read(65536):
            try:
                events = connection.receive_data(data)
            except ProtocolError:  # HTTP/1
                writer.write(ok(ANSWER) if self.wants_h1 else connection.data_to_send())
                if self.wants_h1:
                    continue
                break
            for event in events:
                if isinstance(event, RequestReceived):
                    heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]
                elif isinstance(event, DataReceived):
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, StreamEnded):
                    head = heads.pop(event.stream_id)
                    self.asked.append(head)
                    if self.wants_h1 and head[b":method"] == b"POST":
                        writer.write(f.rst(event.stream_id, 13) if self.wants_h1 == "rst" else f.goaway(0, 13))
                        continue
                    body = ANSWER if head[b":method"] == b"POST" else b'{"object":"list","data":[{"id":"m"}]}'
                    fields = [(":status", "200"), ("content-type", "application/json"), ("content-length", str(len(body)))]
                    connection.send_headers(event.stream_id, fields)
                    connection.send_data(event.stream_id, body, end_stream=True)
            writer.write(connection.data_to_send())

    async def _serve_h1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"PRI"):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        else:
            found = re.search(rb"(?i)content-length: ([0-9]+)", head)
            await reader.readexactly(int(found[1]) if found else 0)
            writer.write(ok(ANSWER, b"connection: close"))

    def becomes_http1(self) -> None:
        """Another program has its port now."""
        self.h2 = False
        self.breaks_off()

    def breaks_off(self) -> None:
        for writer in self.live:
            writer.close()


@asynccontextmanager
async def served(port: int = 0) -> AsyncIterator[Served]:
    engine = Served()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", port)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await asyncio.sleep(0.01)


def _address(port: int) -> Any:
    return ((int(socket.AF_INET), ("127.0.0.1", port)),)


class TestTheQuestion:
    async def test_one_that_speaks_it(self) -> None:
        async with served() as engine:
            assert await speaks_h2(_address(engine.port), 2.0) is True
            status, body = await fetch_h2(_address(engine.port), b"/v1/models", b"Host: a\r\nAccept: x/y\r\n", 2.0, 1000)
            assert (status, body) == (200, b'{"object":"list","data":[{"id":"m"}]}')
            assert engine.asked[0][b"accept"] == b"x/y"

    async def test_one_that_answers_in_http1(self) -> None:
        async with scripted(fine) as engine:
            assert await speaks_h2(_address(int(engine.url.rpartition(":")[2])), 0.5) is False

    async def test_one_that_says_nothing_is_given_up_in_time(self) -> None:
        async with _mute() as port:
            began = time.monotonic()
            assert await speaks_h2(_address(port), 0.2) is False
            assert await speaks_h2(_address(port), 0.1, None) is None
            with pytest.raises(FetchError, match=r"within 0\.2 s"):
                await fetch_h2(_address(port), b"/", b"Host: a\r\n", 0.2, 1000)
            assert time.monotonic() - began < 2

    async def test_nobody_there(self) -> None:
        port = closed_port()
        assert await speaks_h2(_address(port), 1.0) is None
        with pytest.raises(FetchError):
            await fetch_h2(_address(port), b"/", b"Host: a\r\n", 1.0, 1000)

    async def test_an_answer_that_is_too_long(self) -> None:
        async with served() as engine:
            with pytest.raises(FetchError, match="too large"):
                await fetch_h2(_address(engine.port), b"/v1/models", b"Host: a\r\n", 2.0, 10)


    @pytest.mark.parametrize("says", [
        f.raw(f.DATA, f.PADDED, 1, b""), f.raw(f.DATA, f.PADDED, 1, b"\x02a"), f.raw(f.HEADERS, f.PADDED, 1, b""),
        f.raw(f.HEADERS, f.END_HEADERS, 1, b"\x80"), f.raw(f.HEADERS, f.END_HEADERS, 1, b"\x3f\xe1\x7f"), f.rst(1, "CANCEL"),
        f.goaway(0), f.raw(f.DATA, 0, 1, b"x" * (f.FRAME + 1)), f.headers(1, ((b":status", b"1000"),)), b"HTTP/1.1 400 No",
        f.headers(1, f.OK) + f.data(1, b"x" * 600) * 2, f.raw(f.HEADERS, 0, 1, b"x" * 9000) * 9, f.data(1, b"") * 10_001,
    ], ids=lambda said: said[:11].hex())  # fmt: skip
    async def test_whatever_an_engine_says_is_a_verdict(self, says: bytes) -> None:
        """A probe that fails otherwise than as a probe leaves the engine as well as it was."""

        async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f.settings() + says)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(lies, "127.0.0.1", 0)
        async with server:
            with pytest.raises(FetchError):
                await fetch_h2(_address(server.sockets[0].getsockname()[1]), b"/v1/models", b"Host: a\r\n", 2.0, 1000)


@asynccontextmanager
async def _mute(closes: bool = False) -> AsyncIterator[int]:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 if closes else -1)
        writer.close()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)


class TestAuto:
    async def test_G12_one_that_shows_it_is_asked_in_http2_from_then_on(self) -> None:
        async with served() as engine, running([engine.url], upstream_protocol="auto", **QUIET) as gw:
            await gw.until("it has shown it", lambda: pool_engine(gw).h2)
            async with await gw.client() as client:
                for _ in range(3):
                    assert (await client.ask(chat())).body == ANSWER
            posts = [head for head in engine.asked if head[b":method"] == b"POST"]
            assert len(posts) == 3

    async def test_G12_one_of_http1_is_asked_once_and_no_client_notices(self) -> None:
        async with scripted(fine) as engine, running([engine.url], upstream_protocol="auto", **QUIET) as gw:
            async with await gw.client() as client:
                for _ in range(3):
                    assert (await client.ask(chat())).status == 200
            await gw.until("it is well and was asked", lambda: pool_engine(gw).healthy and engine.asked_for_h2)
            assert not pool_engine(gw).h2
            assert engine.asked_for_h2 == 1

    @pytest.mark.parametrize("kind", ["vllm", "llamacpp", "tgi", "ollama", "told"])
    async def test_one_of_a_kind_that_never_speaks_it_is_not_asked(self, kind: Any) -> None:
        """It would stand in its log as an error."""

        async def models(conn: ScriptedConnection) -> None:
            await conn.read_request()
            body = b'{"object":"list","data":[{"id":"m","owned_by":"vllm"}]}'
            await conn.send(ok(body, b"connection: close"))

        async with (
            ScriptedEngine(models) as engine,
            running(
                [EngineConfig(url=engine.url, kind="auto" if kind == "told" else kind, protocol="auto")], health_interval_s=0.05
            ) as gw,
        ):
            await gw.until("it was looked at again", lambda: len(engine.requests) > 4)
            assert pool_engine(gw).kind.name == ("vllm" if kind == "told" else kind)
            assert engine.asked_for_h2 == 0

    async def test_one_that_turns_is_found_by_its_probes_alone(self) -> None:
        """No traffic tells: it is not well in the protocol that it had, and nobody sends it any."""
        async with served() as engine, running([engine.url], upstream_protocol="auto", health_interval_s=0.05) as gw:
            await gw.until("it has shown it", lambda: pool_engine(gw).h2 and pool_engine(gw).healthy)
            engine.becomes_http1()
            await gw.until("it is asked in HTTP/1", lambda: not pool_engine(gw).h2 and pool_engine(gw).healthy)
            async with await gw.client() as client:
                assert (await client.ask(chat())).body == ANSWER
            engine.h2 = True
            await gw.until("it is asked in HTTP/2", lambda: pool_engine(gw).h2 and pool_engine(gw).healthy)
            async with await gw.client() as client:
                assert (await client.ask(chat())).body == ANSWER

    @pytest.mark.parametrize("healthy", [True, False])
    @pytest.mark.parametrize("closes", [True, False])
    async def test_one_that_says_nothing_is_no_other_while_it_is_well(self, closes: bool, healthy: bool) -> None:
        own: dict[str, Any] = {"upstream_protocol": "auto", "health_timeout_s": 0.1, **QUIET}
        async with _mute(closes) as port, running([f"http://127.0.0.1:{port}"], **own) as gw:
            core = gw.gateway.core
            assert core is not None
            pool = core.table.pools[0]
            pool.speaks(True)
            pool.engine.healthy = healthy
            await core.health.probe(pool)
            assert pool.engine.h2 is healthy

    async def test_a_request_that_it_wants_in_http1(self) -> None:
        """HTTP_1_1_REQUIRED of one request is no word about another (RFC 9113 §7), nor about what is asked after it."""
        async with served() as engine, running([engine.url], upstream_protocol="auto", **QUIET) as gw:
            await gw.until("it has shown it", lambda: pool_engine(gw).h2)
            async with await gw.client() as client:
                for time in range(2 * MOST_UNWANTED):
                    engine.wants_h1 = "" if time % 2 else "rst"
                    assert (await client.ask(chat())).body == ANSWER
            assert [head[b":method"] for head in engine.asked].count(b"POST") == 2 * MOST_UNWANTED
            assert pool_engine(gw).h2
            assert (gw.stats.replays_total, pool_engine(gw).failures_total) == (MOST_UNWANTED, 0)

    @pytest.mark.parametrize(("says", "asked"), [("rst", MOST_UNWANTED), ("goaway", 1)])
    async def test_one_that_wants_all_in_http1(self, says: str, asked: int) -> None:
        """HTTP_1_1_REQUIRED, of some requests in a row or of the connection (RFC 9113 §7): no client gets an error for that."""
        async with served() as engine, running([engine.url], upstream_protocol="auto", **QUIET) as gw:
            await gw.until("it has shown it", lambda: pool_engine(gw).h2)
            engine.wants_h1 = says
            async with await gw.client() as client:
                for _ in range(MOST_UNWANTED + 2):
                    assert (await client.ask(chat())).body == ANSWER
            assert [head[b":method"] for head in engine.asked].count(b"POST") == asked
            assert not pool_engine(gw).h2

    async def test_G12_one_that_stops_to_speak_it(self) -> None:
        """It was restarted as another program: no client gets an error for that."""
        async with served() as engine, running([engine.url], upstream_protocol="auto", **QUIET) as gw:
            await gw.until("it has shown it", lambda: pool_engine(gw).h2)
            async with await gw.client() as client:
                assert (await client.ask(chat())).body == ANSWER
                engine.becomes_http1()
                for _ in range(3):
                    assert (await client.ask(chat())).body == ANSWER
            assert not pool_engine(gw).h2

    async def test_G12_one_that_is_away_when_it_is_asked_is_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It speaks HTTP/2 alone, and whoever stands before it takes connections meanwhile: in HTTP/1.1 it never gets well."""
        async with served() as engine:
            engine.down = True
            async with running([engine.url], upstream_protocol="auto", **QUIET) as gw:
                core = gw.gateway.core
                assert core is not None
                await gw.until("it is not well", lambda: pool_engine(gw).healthy is False)
                engine.down = False
                await core.health.round()
                assert not pool_engine(gw).h2, "one of HTTP/1 would have another error in its log"
                monkeypatch.setattr("fastgw.upstream.health.PROTOCOL_EVERY_S", 0.0)
                await core.health.round()
                assert (pool_engine(gw).h2, pool_engine(gw).healthy) == (True, True)
                monkeypatch.undo()
                async with await gw.client() as client:
                    assert (await client.ask(chat())).body == ANSWER
                    engine.down = True
                    engine.breaks_off()
                    await client.ask(chat())
                    for _ in range(4):
                        await core.health.round()
                    assert pool_engine(gw).healthy is False
                    engine.down = False
                    await core.health.round()
                    assert (pool_engine(gw).h2, pool_engine(gw).healthy) == (True, True), "which has shown it, at once"
                    assert (await client.ask(chat())).body == ANSWER


NGHTTPD = shutil.which("nghttpd")


@contextmanager
def nghttpd(folder: Path, *options: str) -> Iterator[int]:
    port = closed_port()
    (folder / "v1" / "chat").mkdir(parents=True)
    (folder / "v1" / "chat" / "completions").write_bytes(ANSWER)
    (folder / "v1" / "models").write_bytes(b'{"object":"list","data":[{"id":"m"}]}')
    (folder / "health").write_bytes(b"{}")
    assert NGHTTPD is not None
    with subprocess.Popen(
        [NGHTTPD, "--no-tls", "-d", str(folder), *options, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield port
        finally:
            child.terminate()


@pytest.mark.skipif(NGHTTPD is None, reason="nghttpd is not installed")
class TestNghttpd:
    @pytest.mark.parametrize("protocol", ["auto", "h2"])
    async def test_requests_at_once(self, tmp_path: Path, protocol: str) -> None:
        with nghttpd(tmp_path, "-m", "8") as port:
            url = f"http://127.0.0.1:{port}"
            async with running([url], upstream_protocol=protocol, health_interval_s=0.1) as gw:
                await gw.until("it is well", lambda: pool_engine(gw).healthy and pool_engine(gw).h2)
                before = gw.stats.dials_total  # (kept warm, in what it was asked in at first)

                async def one(size: int) -> bytes:
                    async with await gw.client() as client:
                        return (await client.ask(chat(content="x" * size))).body

                answers = await asyncio.gather(*[one(size) for size in (10, 100_000, 1000, 70_000) * 10])
                assert answers == [ANSWER] * 40
                assert gw.stats.dials_total - before <= 40 / 8 + 2
