"""Engines behind TLS: whom they are believed by, what is told where they are not, sessions, tunnels, nginx."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw import EngineConfig
from fastgw.net import certificates
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from fastgw.sim.websocket import accept_key
from tests.e2e.engines import ask, fine, posts, refused, scripted
from tests.support.client import request
from tests.support.gateway import running
from tests.support.pki import Certificates, Pair
from tests.support.ports import closed_port
from tests.support.scripts import ok


def named(url: str) -> str:
    return url.replace("127.0.0.1", "localhost")


async def test_a_request_goes_through_and_the_name_is_the_urls(certs: Certificates) -> None:
    async with scripted(fine, ssl_context=certs.server()) as engine:
        for url in (engine.url, named(engine.url)):
            async with running([EngineConfig(url=url, ca_file=certs.ca)]) as gw, await gw.client() as client:
                await gw.until("it is well", lambda: any(line[1] == "engine is well" for line in gw.events.lines))
                assert (await ask(client)).status == 200
                assert posts(engine)[-1].header(b"host") == url[8:].encode()
                assert gw.stats.dials_total == 1, "the warm connection has shaken hands already"


@pytest.mark.parametrize(("shows", "given", "says"), [
    ("gateway", {}, "comes from a CA that is not trusted"),
    ("gateway", {"ca_file": "CA", "server_name": "elsewhere.example"}, "its certificate is for another name"),
    ("other", {"ca_file": "CA"}, "its certificate is not for this address"),
    ("ended", {"ca_file": "CA"}, "its certificate has expired"),
    ("alone", {}, "its certificate is self-signed"),
    ("strange", {"ca_file": "CA"}, "comes from a CA that is not trusted"),
])  # fmt: skip
async def test_who_cannot_be_believed_gets_nothing_and_the_log_says_why(
    certs: Certificates, shows: str, given: dict[str, str], says: str
) -> None:
    given = {name: certs.ca if value == "CA" else value for name, value in given.items()}
    async with (
        scripted(fine, ssl_context=certs.server(getattr(certs, shows))) as engine,
        running([EngineConfig(url=engine.url, **given)], health_interval_s=0.2) as gw,
        await gw.client() as client,
    ):
        await gw.until("a verdict", lambda: any(line[1] == "engine is not well" for line in gw.events.lines))
        reason = next(line[2]["reason"] for line in gw.events.lines if line[1] == "engine is not well")
        assert reason.startswith("TLS: ")
        assert says in reason
        refused(await ask(client), 502)
        assert engine.requests == []
        assert says in gw.records[-1]["detail"]


@pytest.mark.parametrize(("given", "well"), [
    ({"ca_file": "ALONE"}, True),
    ({"verify": False}, True),
    ({"ca_file": "CA", "server_name": "LOCALHOST"}, False),
])  # fmt: skip
async def test_what_makes_a_self_signed_one_good(certs: Certificates, given: dict[str, Any], well: bool) -> None:
    files = {"ALONE": certs.alone.cert, "CA": certs.ca}
    given = {name: files.get(value, value) for name, value in given.items()}
    async with (
        scripted(fine, ssl_context=certs.server(certs.alone)) as engine,
        running([EngineConfig(url=named(engine.url), **given)]) as gw,
        await gw.client() as client,
    ):
        assert ((await ask(client)).status == 200) == well
        assert any("its certificate is not checked" in note for note in gw.gateway.config.warnings) == ("verify" in given)


@asynccontextmanager
async def s_server(certs: Certificates, *options: str) -> AsyncIterator[str]:
    """An engine that is ``openssl s_server``: it says in an alert why it ends a handshake. Its URL."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program")
    port = closed_port()
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certs.gateway.cert, "-key", certs.gateway.key,
            "-www", "-quiet", *options]  # fmt: skip
    server = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            await asyncio.sleep(0.01)
        yield f"https://127.0.0.1:{port}"
    finally:
        server.terminate()
        await server.wait()


async def why_not(url: str, certs: Certificates, **given: Any) -> str:
    """What the log says of an engine that is not well; a request to it is refused."""
    async with running([EngineConfig(url=url, ca_file=certs.ca, **given)]) as gw, await gw.client() as client:
        await gw.until("a verdict", lambda: any(line[1] == "engine is not well" for line in gw.events.lines))
        refused(await ask(client), 502)
        return str(next(line[2]["reason"] for line in gw.events.lines if line[1] == "engine is not well"))


async def test_an_engine_that_does_not_speak_tls(certs: Certificates) -> None:
    async def bad(conn: ScriptedConnection) -> None:
        await conn.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with ScriptedEngine(bad) as engine:
        url = engine.url.replace("http://", "https://")
        assert await why_not(url, certs) == "TLS: what answers does not speak TLS (http:// is for that)"


async def test_an_engine_that_speaks_no_version_of_ours(certs: Certificates) -> None:
    async with s_server(certs, "-no_tls1_2", "-no_tls1_3", "-cipher", "DEFAULT@SECLEVEL=0") as url:
        assert await why_not(url, certs) == "TLS: no version of TLS in common"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_an_engine_that_wants_a_certificate_says_so(certs: Certificates, version: str) -> None:
    async with s_server(certs, version, "-Verify", "2", "-verify_return_error", "-CAfile", certs.ca) as url:
        assert "wants a client certificate" in await why_not(url, certs)
        told = await why_not(url, certs, cert_file=certs.strange.cert, key_file=certs.strange.key)
        assert told == "TLS: it does not trust the CA of our certificate"


async def test_a_certificate_is_shown_to_an_engine_that_asks_for_it(certs: Certificates) -> None:
    async with (
        scripted(fine, ssl_context=certs.server(clients=True)) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca, cert_file=certs.client.cert, key_file=certs.client.key)]) as gw,
        await gw.client() as client,
    ):
        assert (await ask(client)).status == 200


async def test_the_settings_of_the_gateway_hold_for_engines_that_say_nothing(certs: Certificates) -> None:
    context = certs.server(clients=True)
    async with (
        scripted(fine, ssl_context=context) as engine,
        running(
            [engine.url], engine_ca_file=certs.ca, engine_cert_file=certs.client.cert, engine_key_file=certs.client.key
        ) as gw,
        await gw.client() as client,
    ):
        assert (await ask(client)).status == 200


async def test_a_handshake_that_does_not_end_is_a_connect_timeout(certs: Certificates) -> None:
    async def silent(conn: ScriptedConnection) -> None:
        await conn.wait_closed(10.0)

    async with ScriptedEngine(silent) as engine:
        target = EngineConfig(url=engine.url.replace("http://", "https://"), ca_file=certs.ca, warm_connections=0)
        settings = {"connect_timeout_s": 0.3, "health_interval_s": 60.0, "health_timeout_s": 0.2}
        async with running([target], **settings) as gw, await gw.client() as client:
            answer = await ask(client)
            assert answer.status in (502, 504)
            assert "connect timeout" in gw.records[0]["detail"]


async def test_the_session_goes_on_in_the_next_connection(certs: Certificates) -> None:
    async def once(conn: ScriptedConnection, _: RawRequest) -> None:
        resumed.append(conn._transport.get_extra_info("ssl_object").session_reused)  # type: ignore[union-attr]
        transport = conn._transport
        assert transport is not None
        transport.write(ok(b"{}", b"connection: close"))
        conn.close()

    resumed: list[bool] = []
    async with (
        scripted(once, ssl_context=certs.server()) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca, warm_connections=0)], health_interval_s=60.0) as gw,
        await gw.client() as client,
    ):
        for _ in range(3):
            assert (await ask(client)).status == 200
        assert resumed == [False, True, True]


async def test_a_websocket_to_an_engine_behind_tls(certs: Certificates) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="

    async def handler(conn: ScriptedConnection) -> None:
        seen = await conn.read_request()
        transport = conn._transport
        assert transport is not None
        if seen.header(b"upgrade") is None:
            transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n" + b'{"data":[]}')
            return
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: "
            + accept_key(key.encode()) + b"\r\n\r\n"
        )  # fmt: skip
        while True:
            transport.write(await conn.read_exactly(10_000))

    async with (
        ScriptedEngine(handler, ssl_context=certs.server()) as engine,
        running([EngineConfig(url=engine.url, ca_file=certs.ca)], health_interval_s=60.0) as gw,
        await gw.client() as client,
    ):
        lines = [
            ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)
        ]  # fmt: skip
        await client.send(request("GET", "/v1/realtime?model=m", headers=lines))
        assert (await client.read_head()).status == 101
        frame = b"\x82\xfe\x27\x08" + bytes(9996)
        for _ in range(3):
            await client.send(frame)
            got = b""
            while len(got) < len(frame):
                got += await client.read_some()
            assert got == frame


@pytest.mark.parametrize("how", ["added", "followed"])
async def test_files_of_an_engine_that_comes_later_are_looked_after(
    certs: Certificates, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the gateway spoke TLS before: the new engine's CA is read, and read again when it changes."""
    monkeypatch.setattr(certificates, "LOOK_S", 0.1)
    ca = str(tmp_path / "ca.pem")
    shutil.copy(certs.stranger.ca, ca)
    async with (
        scripted(fine) as first,
        scripted(fine, ssl_context=certs.server()) as second,
        running([EngineConfig(url=first.url, models=["other"])], health_interval_s=0.1) as gw,
    ):
        engine = EngineConfig(url=second.url, ca_file=ca, name="late", models=["m"])
        if how == "added":
            gw.gateway.fleet.add(engine)
        else:
            config = gw.gateway.config
            await gw.gateway.follow(replace(config, engines=(*config.engines, engine)))
        await gw.until("a verdict", lambda: any("not trusted" in line[2].get("reason", "") for line in gw.events.lines))
        shutil.copy(certs.ca, ca)
        late = next(one for one in gw.gateway.fleet.engines() if one.name == "late")
        await gw.until("it is believed", lambda: late.healthy, 10.0)
        async with await gw.client() as client:
            assert (await ask(client)).status == 200


NGINX = """
daemon off; master_process off; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl; server_name localhost;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_cache shared:a:1m;
    client_max_body_size 100m;
    location /v1/chat {{ default_type application/json; return 200 '{{"choices":[]}}'; }}
    location / {{ default_type application/json; return 200 '{{"data":[]}}'; }}
  }}
}}
"""


async def test_nginx_as_an_engine(certs: Certificates, tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("there is no nginx")
    port = closed_port()
    pair: Pair = certs.rsa
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, cert=pair.cert, key=pair.key))
    nginx = await asyncio.create_subprocess_exec("nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log"))
    try:
        target = EngineConfig(url=f"https://localhost:{port}", ca_file=certs.ca)
        async with running([target], health_interval_s=0.2) as gw, await gw.client() as client:
            await gw.until("it is well", lambda: any(line[1] == "engine is well" for line in gw.events.lines))
            for content in ("short", "x" * 300_000):
                answer = await ask(client, content=content)
                assert (answer.status, answer.body) == (200, b'{"choices":[]}')
    finally:
        nginx.terminate()
        await nginx.wait()
