"""What `fastgw check` finds out about engines by asking each once: what is wrong, and what to do."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.upstream.trial import tried
from tests.e2e.engines import fine, scripted
from tests.e2e.test_tls_engines import s_server
from tests.support.pki import Certificates
from tests.support.ports import closed_port
from tests.upstream.test_asked import served

H1 = "answers 200 in HTTP/1.1"


def offering(context: ssl.SSLContext, *protocols: str) -> ssl.SSLContext:
    context.set_alpn_protocols(list(protocols))
    return context


@pytest.mark.parametrize(("shows", "given", "good", "says"), [
    ("", {}, True, H1),
    ("", {"protocol": "h2"}, False, 'does not speak HTTP/2, but HTTP/1 (protocol = "auto" asks in either)'),
    ("gateway", {}, True, f"{H1}, its certificate is good"),
    ("gateway", {"protocol": "h2"}, False, "does not speak HTTP/2: not agreed on by ALPN"),
    ("gateway", {"ca_file": ""}, False, "(a private CA needs its CA file)"),
    ("other", {}, False, "(server_name says"),
    ("ended", {}, False, "has expired"),
    ("other", {"verify": False}, True, f"{H1}, its certificate is not checked"),
    ("clients", {"cert_file": "CLIENT", "key_file": "KEY"}, True, "its certificate is good"),
])  # fmt: skip
async def test_what_is_said_of_an_engine(
    certs: Certificates, shows: str, given: dict[str, Any], good: bool, says: str
) -> None:
    files = {"CLIENT": certs.client.cert, "KEY": certs.client.key}
    given = {"ca_file": certs.ca} | {name: files.get(value, value) for name, value in given.items()}
    context = None
    if shows:
        clients = shows == "clients"
        context = offering(certs.server(certs.gateway if clients else getattr(certs, shows), clients), "http/1.1")
    async with scripted(fine, **({"ssl_context": context} if context else {})) as engine:
        ((well, told),) = await tried([EngineConfig(url=engine.url, **given)], 2.0)
    assert (well, says in told) == (good, True), told


@pytest.mark.parametrize(("paths", "given", "says"), [
    ({b"/api/tags": 200, b"/v1/models": 200}, {}, H1),  # Ollama, of which nobody has said so
    ({b"/api/tags": 200}, {"kind": "ollama"}, H1),
    ({b"/health": 501, b"/v1/models": 200}, {}, H1),
    ({b"/up": 204}, {"health_path": "/up"}, "answers 204 in HTTP/1.1"),
    ({b"/health": 503, b"/v1/models": 200}, {}, "answers 503 in HTTP/1.1 at /health: it is not well, or"),
    ({b"/nothing": 200}, {}, "answers 404 in HTTP/1.1 at /api/tags: it is not well, or health_path has to say where else"),
], ids=str)  # fmt: skip
async def test_an_engine_is_asked_as_its_health_is(paths: dict[bytes, int], given: dict[str, Any], says: str) -> None:
    async def play(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        await conn.send(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % paths.get(asked.target, 404))

    async with ScriptedEngine(play) as engine:
        ((well, told),) = await tried([EngineConfig(url=engine.url, **given)], 2.0)
    assert (well, told.startswith(says)) == (True, True), told


@pytest.mark.parametrize(("protocol", "says"), [("auto", "speaks TLS (https://"), ("h2", "but TLS (https://")])
async def test_one_that_speaks_tls_where_none_is_meant(protocol: Any, says: str) -> None:
    def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x15\x03\x01\x00\x02\x02\x46")  # what OpenSSL answers to a GET, and to a preface
        writer.close()

    async with await asyncio.start_server(alert, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ((well, told),) = await tried([EngineConfig(url=f"http://127.0.0.1:{port}", protocol=protocol)], 2.0)
    assert (well, says in told) == (False, True), told


async def test_one_that_speaks_HTTP2_alone_is_found_out_as_the_gateway_would() -> None:
    async with served() as engine:
        assert await tried([EngineConfig(url=engine.url)], 2.0) == [(True, "speaks HTTP/2 alone")]


async def test_one_that_speaks_none_where_it_is_meant() -> None:
    async def bad(conn: ScriptedConnection) -> None:
        await conn.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with ScriptedEngine(bad) as engine:
        ((well, told),) = await tried([EngineConfig(url=engine.url.replace("http://", "https://"))], 2.0)
    assert (well, told) == (False, "TLS: what answers does not speak TLS (http:// is for that)")


async def test_one_that_wants_a_certificate(certs: Certificates) -> None:
    """By TLS 1.3, where the handshake looks good from here: the alert comes in the answer's place."""
    async with s_server(certs, "-tls1_3", "-Verify", "2", "-verify_return_error", "-CAfile", certs.ca) as url:
        ((well, told),) = await tried([EngineConfig(url=url, ca_file=certs.ca)], 2.0)
    assert (well, told) == (False, "TLS: it wants a client certificate (cert_file)")


async def test_nobody_there_is_no_mistake() -> None:
    found = await tried([EngineConfig(url=f"http{s}://127.0.0.1:{closed_port()}") for s in ("", "s")] * 20, 2.0)
    assert all(well and told.startswith("no answer: ") for well, told in found)
