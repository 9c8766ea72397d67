"""The gateway's own TLS, with clients as they are: curl, openssl, the OpenAI SDK; certificates as keys, and new ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
from pathlib import Path
from time import time
from typing import Any

import openai
import pytest

from fastgw import Config, EngineConfig, Gateway
from fastgw.app import StartError
from fastgw.net import handshake
from fastgw.sim import RawRequest, ScriptedConnection, SimConfig, Simulator
from tests.e2e.engines import QUIET, fine, posts, scripted
from tests.e2e.test_cases_k_process import serve
from tests.support import tls_client
from tests.support.client import SECURED, RawClient, chat, request
from tests.support.gateway import Running, running
from tests.support.pki import Certificates, Pair
from tests.support.tls_client import TlsClient

ENDS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def by(*pairs: Pair, **more: Any) -> dict[str, Any]:
    """The settings of a gateway that shows these."""
    return {"tls_cert_file": [pair.cert for pair in pairs], "tls_key_file": [pair.key for pair in pairs], **more}


async def said(*argv: str, stdin: bytes = b"", within_s: float = 10.0) -> tuple[int, str]:
    """What a program says, and its exit code."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]}")
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(within_s):
        out, _ = await child.communicate(stdin)
    return child.returncode or 0, out.decode("latin-1")


async def curl(gw: Running, path: str, *options: str, ca: str = "") -> tuple[int, str]:
    trust = ("--cacert", ca) if ca else ()
    return await said("curl", "-sS", "--max-time", "5", *trust, *options, f"https://localhost:{gw.port}{path}")


async def s_client(gw: Running, *options: str, stdin: bytes = b"", ca: str = "") -> str:
    where = ("-connect", f"127.0.0.1:{gw.port}", "-servername", "localhost", *(("-CAfile", ca) if ca else ()))
    return (await said("openssl", "s_client", *where, *options, stdin=stdin))[1]


@pytest.mark.parametrize(
    "options", [("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",), ("--http1.1",), ("--http2",)], ids=" ".join
)
@pytest.mark.parametrize("http2", [False, None], ids=["http2 off", "http2 auto"])
async def test_curl(certs: Certificates, options: tuple[str, ...], http2: bool | None) -> None:
    spoken = "2" if http2 is None and options != ("--http1.1",) else "1.1"
    async with scripted(fine) as engine, running([engine.url], **by(certs.gateway), http2=http2, **QUIET) as gw:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 50_000}]})
        code, text = await curl(
            gw, "/v1/chat/completions", *options, "-d", body, "-H", "content-type: application/json", "-w", "%{http_version}",
            ca=certs.ca,
        )  # fmt: skip
        assert (code, text[-len(spoken) :]) == (0, spoken)
        assert gw.stats.connections_total == 1
        (seen,) = posts(engine)
        assert seen.header(b"x-forwarded-proto") == b"https"
        assert seen.body.decode() == body
        assert gw.url.startswith("https://")
        code, text = await curl(gw, "/healthz", *options)
        assert code == 60, "who does not know the CA goes no further"


@pytest.mark.parametrize(("http2", "offers", "chosen"), [
    (None, ["h2", "http/1.1"], "h2"),
    (None, ["http/1.1", "h2"], "h2"),
    (True, ["h2"], "h2"),
    (None, ["http/1.1"], "http/1.1"),
    (None, ["http/1.0"], None),
    (None, [], None),
    (False, ["h2", "http/1.1"], "http/1.1"),
    (False, ["h2"], None),
])  # fmt: skip
async def test_what_is_chosen_of_what_a_client_offers(
    certs: Certificates, http2: bool | None, offers: list[str], chosen: str | None
) -> None:
    """HTTP/1.1 where nothing is: nobody who offers HTTP/2 gets it without having been told so."""
    async with running(**by(certs.gateway), http2=http2) as gw:
        context = certs.trusting()
        if offers:
            context.set_alpn_protocols(offers)
        sock = socket.create_connection(("127.0.0.1", gw.port))
        sock.setblocking(False)
        async with await TlsClient(sock, context).shake() as client:
            assert client.tls.selected_alpn_protocol() == chosen
            if chosen != "h2":
                assert (await client.ask(request("GET", "/healthz"))).status == 200


async def test_openssl_sees_what_is_spoken_and_what_is_not(certs: Certificates) -> None:
    async with running(**by(certs.gateway, certs.rsa)) as gw:
        for version in ("-tls1_2", "-tls1_3"):
            text = await s_client(gw, version, ca=certs.ca)
            assert "Verify return code: 0 (ok)" in text
            assert ("New, TLSv1.3" in text) == (version == "-tls1_3")
        for version in ("-tls1", "-tls1_1"):
            text = await s_client(gw, version, "-cipher", "DEFAULT@SECLEVEL=0")
            assert "alert protocol version" in text or "Cipher is (NONE)" in text
        for cipher in ("AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"):
            text = await s_client(gw, "-tls1_2", "-cipher", f"{cipher}@SECLEVEL=0")
            assert "Cipher is (NONE)" in text, cipher
        text = await s_client(gw, "-tls1_2", ca=certs.ca, stdin=b"R\n")
        assert "no renegotiation" in text.lower() or "renegotiation" in text.lower()
        text = await s_client(gw, "-tls1_3")
        assert "Max Early Data: 0" in text or "Early data was not sent" in text
        await gw.until("all are gone", lambda: gw.stats.connections_open == 0)
        assert gw.stats.handshakes_failed >= 5


async def test_a_client_that_asks_for_new_terms_is_refused_and_nobody_else_notices(certs: Certificates) -> None:
    async with running(**by(certs.gateway)) as gw:
        text = await s_client(gw, "-tls1_2", stdin=b"R\nGET /healthz HTTP/1.1\nhost: a\n\n")
        assert "HTTP/1.1 200" not in text.partition("RENEGOTIATING")[2] or "no renegotiation" in text
        code, _ = await curl(gw, "/healthz", ca=certs.ca)
        assert code == 0


@pytest.mark.parametrize(
    ("name", "subject"), [("localhost", "gateway"), ("x.b.example", "other"), ("nobody.example", "gateway")]
)
async def test_the_certificate_is_that_of_the_name(certs: Certificates, name: str, subject: str) -> None:
    async with running(**by(certs.gateway, certs.other)) as gw:
        text = await s_client(gw, "-servername", name)
        assert f"subject=CN = {subject}" in text or f"subject=CN={subject}" in text


async def test_sessions_go_on(certs: Certificates) -> None:
    async with running(**by(certs.gateway, certs.other)) as gw:
        context = certs.trusting()
        session = None
        for _ in range(3):
            async with asyncio.timeout(5):
                sock = socket.create_connection(("127.0.0.1", gw.port))
                sock.setblocking(False)
                client = await TlsClient(sock, context, session).shake()
            async with client:
                assert (await client.ask(request("GET", "/healthz"))).status == 200
                session = client.tls.session
        await gw.until("the counters", lambda: gw.stats.handshakes_total == 3)
        assert gw.stats.handshakes_resumed == 2


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_does_not_outlive_the_certificate_of_its_client(
    certs: Certificates, monkeypatch: pytest.MonkeyPatch, most: ssl.TLSVersion
) -> None:
    """OpenSSL judges a certificate when it is shown; a session that goes on does not show it."""
    async with running(**by(certs.gateway), tls_client_ca_file=certs.ca) as gw:
        context = certs.trusting(certs.client)
        context.maximum_version = most

        async def comes(session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
            sock = socket.create_connection(("127.0.0.1", gw.port))
            sock.setblocking(False)
            async with await TlsClient(sock, context, session).shake() as client:
                assert (await client.ask(request("GET", "/healthz"))).status == 200
                return client.tls.session

        session = await comes(await comes())
        assert gw.stats.handshakes_resumed == (most is ssl.TLSVersion.TLSv1_2)
        ended = time() + 365 * 86400.0
        monkeypatch.setattr(handshake, "time", lambda: ended)
        if most is ssl.TLSVersion.TLSv1_3:
            await comes(session)  # (shown anew, and judged by OpenSSL's clock)
            return
        with pytest.raises((ConnectionError, AssertionError, ssl.SSLError)):
            await comes(session)
        told = [fields for _, message, fields in gw.events.lines if message == "TLS handshake failed"]
        assert told == [{"client": "127.0.0.1", "reason": handshake.OVER}]
        assert gw.stats.handshakes_failed == 1


async def test_the_openai_sdk(certs: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certs.ca)
    async with (
        Simulator(SimConfig()) as sim,
        running([sim.url], **by(certs.gateway)) as gw,
        openai.AsyncOpenAI(base_url=f"https://localhost:{gw.port}/v1", api_key="x", max_retries=0) as client,
    ):
        made = await client.chat.completions.create(
            model="sim", messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=20
        )
        events = [event async for event in made]
        assert events[-1].choices[0].finish_reason
        assert (await client.models.list()).data


async def test_events_leave_one_by_one_and_a_client_that_leaves_stops_its_engine(certs: Certificates) -> None:
    go = asyncio.Event()
    left = asyncio.Event()

    async def play(conn: ScriptedConnection, _: RawRequest) -> None:
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for at in range(3):
            event = b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % at
            await conn.send(b"%x\r\n%b\r\n" % (len(event), event))
            await go.wait()
            go.clear()
        await conn.wait_closed(5.0)
        left.set()

    async with scripted(play) as engine, running([engine.url], **by(certs.gateway), **QUIET) as gw, await gw.client() as client:
        assert isinstance(client, TlsClient)
        await client.send(chat(stream=True))
        answer = await client.read_head()
        for at in range(3):
            await client.read_until(answer, b'"%d"' % at, 2.0)
            assert answer.how_ended == "open"
            go.set()
        client.close()
        async with asyncio.timeout(2):
            await left.wait()
        await gw.idle()


@pytest.mark.parametrize("told", [True, False], ids=["close_notify", "cut"])
async def test_an_answer_until_the_end_of_the_connection_is_whole_only_where_the_end_was_told(
    certs: Certificates, told: bool
) -> None:
    """HTTP/1.0 on the engine's side, over TLS: whoever can cut the connection must not be able to shorten the answer."""

    async def play(conn: ScriptedConnection, _: RawRequest) -> None:
        body = b'{"object":"chat.completion","choices":[]}'
        transport = conn._transport
        assert transport is not None
        transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + body)
        if told:
            conn.close()
        else:
            with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
                sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.2)

    target = {"ca_file": certs.ca, "warm_connections": 0}
    async with (
        scripted(play, ssl_context=certs.server()) as engine,
        running([EngineConfig(url=engine.url, **target)], health_interval_s=60.0) as gw,
        await gw.client() as client,
    ):
        await client.send(chat())
        answer = await client.read_response()
        assert (answer.status == 200 and answer.complete) == told, (answer.status, answer.body)
        assert gw.stats.truncations_total == (0 if told else 1)


class TestCertificatesAsKeys:
    """A client certificate whose fingerprint is known is a key."""

    def settings(self, certs: Certificates, auth: str) -> dict[str, Any]:
        return by(
            certs.gateway, tls_client_ca_file=certs.ca, tls_client_auth=auth, api_keys=["sk-of-a-client"],
            tls_client_keys=[certs.authority.fingerprint(certs.client)],
        )  # fmt: skip

    async def ask(self, gw: Running, certs: Certificates, pair: Pair | None, key: str = "") -> Any:
        context = certs.trusting(pair)
        sock = socket.create_connection(("127.0.0.1", gw.port))
        sock.setblocking(False)
        headers = [("authorization", f"Bearer {key}")] if key else []
        async with await TlsClient(sock, context).shake() as client:
            await client.send(chat(headers=headers) if headers else chat())
            return await client.read_response()

    async def test_it_is_one_where_no_other_is_brought(self, certs: Certificates) -> None:
        async with scripted(fine) as engine, running([engine.url], **self.settings(certs, "optional"), **QUIET) as gw:
            answer = await self.ask(gw, certs, certs.client)
            assert answer.status == 200
            fingerprint = certs.authority.fingerprint(certs.client).replace(":", "").lower()
            assert fingerprint.startswith(gw.records[0]["key_id"])
            assert (await self.ask(gw, certs, certs.client, "sk-of-a-client")).status == 200
            assert gw.records[1]["key_id"] != gw.records[0]["key_id"]
            for pair, key, message in (
                (certs.client, "sk-wrong", "The API key is not valid."),
                (certs.other, "", "The client certificate is not valid."),
                (None, "", None),
            ):
                answer = await self.ask(gw, certs, pair, key)
                assert answer.status == 401
                assert message is None or answer.error["message"] == message
            assert (await self.ask(gw, certs, None, "sk-of-a-client")).status == 200

    async def test_what_one_connection_was_judged_by_is_not_another_ones(self, certs: Certificates) -> None:
        """The same head, from the same address, by a certificate and then without."""
        async with scripted(fine) as engine, running([engine.url], **self.settings(certs, "optional"), **QUIET) as gw:
            for _ in range(3):
                assert (await self.ask(gw, certs, certs.client)).status == 200
                assert (await self.ask(gw, certs, None)).status == 401
                assert (await self.ask(gw, certs, certs.other)).status == 401

    async def test_where_one_is_required_nobody_gets_in_without(self, certs: Certificates) -> None:
        async with scripted(fine) as engine, running([engine.url], **self.settings(certs, "required"), **QUIET) as gw:
            assert (await self.ask(gw, certs, certs.client)).status == 200
            for pair in (None, certs.strange):
                with pytest.raises((ConnectionError, ssl.SSLError, Exception), match=r"(?i)alert|cut|reset|no answer"):
                    await self.ask(gw, certs, pair, "sk-of-a-client")
            assert len(posts(engine)) == 1


async def test_new_certificates_are_taken_over_and_no_stream_ends(certs: Certificates, tmp_path: Path) -> None:
    cert, key = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")

    def put(pair: Pair) -> None:
        shutil.copy(pair.key, key)
        shutil.copy(pair.cert, cert)

    put(certs.gateway)
    go = asyncio.Event()

    async def play(conn: ScriptedConnection, _: RawRequest) -> None:
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await conn.send(b"a\r\ndata: {}\n\n\r\n")
        await go.wait()
        await conn.send(b'e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n')

    async with (
        scripted(play) as engine,
        running([engine.url], **by(Pair(cert, key)), **QUIET) as gw,
        await gw.client() as client,
    ):
        await client.send(chat(stream=True))
        answer = await client.read_head()
        shutil.copy(certs.gateway.key, cert)
        gw.gateway.renew_certificates()
        await gw.until("it was told", lambda: gw.events.errors())
        assert gw.events.errors()[0][1] == "certificates were not taken over"
        gw.events.lines.clear()
        assert "subject=CN = gateway" in await s_client(gw)
        put(certs.other)
        await gw.until("the look at the files", lambda: gw.events.lines, 10.0)
        assert gw.events.lines[0][1] == "certificates were read again"
        assert "subject=CN = other" in await s_client(gw)
        go.set()
        await client.read_body(answer)
        assert answer.complete, answer


async def test_names_that_are_no_text_are_a_line_in_the_log_and_no_more(certs: Certificates, tmp_path: Path) -> None:
    """Where several certificates are shown, Python would print what it made of such a name, as often as somebody wants."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = certs.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    said = outgoing.read().replace(b"localhost", b"loc\xfflhost")
    both = (certs.gateway, certs.other)
    shows = [f"--tls-cert-file={','.join(pair.cert for pair in both)}", f"--tls-key-file={','.join(pair.key for pair in both)}"]
    async with serve(tmp_path, "http://127.0.0.1:9", *shows, "--log-flood-rate=5") as served:
        for _ in range(30):
            client = await RawClient.connect("127.0.0.1", served.port)
            await client.send(said)
            await client.read_until_closed()
            client.close()
        await served.until("lines are left out", lambda: served.said("lines left out"))
        assert 5 <= len(served.said("an exception that nobody could be told of")) < 30
        assert "lhost" not in served.log.read_text()
        assert served.said("TLS handshake failed")[0]["reason"] == "TLS: it asks for a name that is no text"


async def test_each_record_says_what_its_own_connection_spoke(certs: Certificates, tmp_path: Path) -> None:
    """Clients of one address, whose heads are the same: what is remembered of the first is not told of the next."""
    here = f"{tmp_path}/gw.sock"
    flags = (f"--tls-cert-file={certs.gateway.cert}", f"--tls-key-file={certs.gateway.key}", f"--unix-socket={here}")
    versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)
    async with scripted(fine) as engine, serve(tmp_path, engine.url, *flags) as served:
        for version in versions:
            context = certs.trusting()
            context.maximum_version = version
            sock = socket.create_connection(("127.0.0.1", served.port))
            sock.setblocking(False)
            async with await TlsClient(sock, context).shake() as client:
                for _ in range(2):
                    assert (await client.ask(chat())).status == 200
        url = f"https://localhost:{served.port}/v1/chat/completions"
        body = ("--cacert", certs.ca, "-d", '{"model":"m","messages":[]}', "-H", "content-type: application/json")
        assert (await said("curl", "-sS", "--http2", *body, url))[0] == 0
        async with RawClient.connect(here) as client:
            assert (await client.ask(chat())).status == 200
        await served.until("all are told", lambda: len(served.said("request")) == 8)
        told = [(line["protocol"], line.get("tls")) for line in served.said("request")]
        assert told == [*[("h1", tls) for tls in ("1.2", "1.3", "1.2") for _ in range(2)], ("h2", "1.3"), ("h1", None)]


async def test_a_unix_socket_beside_it_stays_without(certs: Certificates, tmp_path: Path) -> None:
    path = str(tmp_path / "gw.sock")
    async with scripted(fine) as engine, running([engine.url], unix_socket=path, **by(certs.gateway), **QUIET) as gw:
        async with RawClient.connect(path) as client:
            assert (await client.ask(chat())).status == 200
        assert posts(engine)[0].header(b"x-forwarded-proto") == b"http"
        assert gw.gateway.addresses[-1] == f"unix:{path}"


async def test_a_trusted_proxy_says_how_its_client_came_or_it_came_as_the_proxy_did(certs: Certificates) -> None:
    async with (
        scripted(fine) as engine,
        running([engine.url], trusted_proxies=["127.0.0.0/8"], **by(certs.gateway), **QUIET) as gw,
        await gw.client() as client,
    ):
        for lines, proto in (((), b"https"), ((("x-forwarded-proto", "http"),), b"http")):
            assert (await client.ask(chat(headers=list(lines)))).status == 200
            assert posts(engine)[-1].header(b"x-forwarded-proto") == proto


async def test_over_the_cap_nobody_is_shaken_hands_with(certs: Certificates) -> None:
    async with running(max_connections=1, **by(certs.gateway)) as gw, await gw.client() as client:
        with pytest.raises(ConnectionError):
            await gw.client()
        assert gw.stats.connections_refused == 1
        assert (await client.ask(request("GET", "/healthz"))).status == 200


async def test_the_control_listener_too(certs: Certificates) -> None:
    settings = by(certs.gateway, control_listen="127.0.0.1:0", control_tls=True, admin_key="sk-admin-of-these-tests")
    async with running(**settings) as gw:
        url = gw.gateway.control_url
        assert url.startswith("https://")
        code, text = await said("curl", "-sS", "--cacert", certs.ca, f"{url}/metrics")
        assert code == 0
        assert "gateway_tls_handshakes_total" in text
        code, text = await said("curl", "-sS", "--http2", "--cacert", certs.ca, "-w", "%{http_version}", f"{url}/healthz")
        assert (code, text[-3:]) == (0, "1.1")
        port = int(url.rpartition(":")[2])
        with tls_client.spoken_at(port):
            async with RawClient.connect(f"https://127.0.0.1:{port}") as client:
                assert (await client.ask(request("GET", "/healthz"))).status == 200
        assert port not in SECURED


@pytest.mark.parametrize(("settings", "says"), [
    ({"tls_cert_file": ["CERT"], "tls_key_file": ["OTHER"]}, "the key does not belong to the certificate"),
    ({"tls_cert_file": ["KEY"], "tls_key_file": ["KEY"]}, "in PEM"),
    ({"tls_cert_file": ["CERT"], "tls_key_file": ["KEY"], "tls_client_ca_file": "KEY"}, "in PEM"),
])  # fmt: skip
async def test_a_start_with_what_cannot_be_used_is_none(certs: Certificates, settings: dict[str, Any], says: str) -> None:
    files = {"CERT": certs.gateway.cert, "KEY": certs.gateway.key, "OTHER": certs.other.key}
    given = {
        name: files[value] if isinstance(value, str) else [files[one] for one in value] for name, value in settings.items()
    }  # fmt: skip
    with pytest.raises(StartError, match=says):
        await Gateway(Config(port=0, **given)).start()
    with pytest.raises(StartError, match=r"CA file .*: "):
        await Gateway(Config(port=0, engines=[EngineConfig(url="https://a", ca_file=certs.gateway.key)])).start()
