"""What is forwarded, and what is not, over real sockets: D8 … D10."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.identity import (
    ENGINE_KEY,
    FORM_TYPE,
    KEY,
    READERS,
    UPLOADS,
    answering,
    ask,
    assert_error,
    assert_unauthorized,
    fields_of,
    form,
    guarded,
    posts,
    with_lines,
)
from tests.support.client import RawClient, chat, chat_body, request
from tests.support.gateway import Running, running

CLIENT_SECRETS = {
    "Authorization": f"Bearer {KEY}",
    "x-api-key": "secret-x-api-key",
    "api-key": "secret-api-key",
    "Cookie": "session=secret-cookie",
    "Proxy-Authorization": "Basic secret-proxy",
    "X_Api_Key": "secret-twin",
}


def assert_no_secret(one: Any) -> None:
    for name, value in one.headers:
        assert b"secret-" not in value or value == b"Bearer " + ENGINE_KEY.encode(), (name, value)
        assert KEY.encode() not in value
    assert KEY not in one.target


class TestD8:
    """An engine sees the key that is configured for it and nothing of the client's: no key, no cookie."""

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("upper", [False, True])
    async def test_D8_the_clients_secrets_stay_here(self, upper: bool, reader: str) -> None:
        lines = [f"{name.upper() if upper else name}: {value}" for name, value in CLIENT_SECRETS.items()]
        async with guarded() as (_, sim, client):
            for data in (
                chat("m"),
                chat("m", stream=True),
                chat("m", chunked=(5,)),
                chat("m", path="/v1/embeddings", input="x"),
                request("POST", UPLOADS, headers=[FORM_TYPE], body=form("m")),
            ):
                assert (await ask(client, with_lines(data, *lines, *READERS[reader]))).status == 200
            assert len(posts(sim)) == 5
            for one in posts(sim):
                assert fields_of(one)[b"authorization"] == [b"Bearer " + ENGINE_KEY.encode()]
                assert not {b"x-api-key", b"api-key", b"cookie", b"proxy-authorization", b"x_api_key"} & set(fields_of(one))
                assert_no_secret(one)

    async def test_D8_byte_by_byte(self) -> None:
        lines = [f"{name}: {value}" for name, value in CLIENT_SECRETS.items()]
        async with guarded() as (_, sim, client):
            await client.send_slowly(with_lines(chat("m"), *lines), 1, pause=0)
            assert (await client.read_response()).status == 200
            assert_no_secret(posts(sim)[0])

    async def test_D8_no_engine_key_means_no_key(self) -> None:
        async with (
            Simulator(SimConfig(models=("m",))) as sim,
            running([sim.url], api_keys=(KEY,)) as gw,
            await gw.client() as client,
        ):
            for name, value in CLIENT_SECRETS.items():
                answer = await ask(
                    client,
                    with_lines(
                        chat("m"), f"{name}: {value}", *([] if name == "Authorization" else [f"Authorization: Bearer {KEY}"])
                    ),
                )
                assert answer.status == 200
                assert_no_secret(posts(sim)[-1])
                assert b"authorization" not in fields_of(posts(sim)[-1])

    async def test_D8_an_open_gateway_forwards_no_key_either(self) -> None:
        async with guarded(api_keys=()) as (_, sim, client):
            for line in (
                "Authorization: Bearer secret-1",
                "Authorization: Basic secret-2",
                "x-api-key: secret-3",
                f"Authorization: Bearer {ENGINE_KEY}",
            ):
                assert (await ask(client, with_lines(chat("m"), line))).status == 200
                assert fields_of(posts(sim)[-1])[b"authorization"] == [b"Bearer " + ENGINE_KEY.encode()]
                assert_no_secret(posts(sim)[-1])

    async def test_D8_the_engines_key_opens_nothing_here(self) -> None:
        async with guarded() as (_, sim, client):
            assert_unauthorized(await ask(client, chat("m", key=ENGINE_KEY)))
            assert_unauthorized(await ask(client, with_lines(chat("m"), f"x-api-key: {ENGINE_KEY}")))
            assert posts(sim) == []

    async def test_D8_a_key_that_is_both_is_sent_once(self) -> None:
        async with guarded(api_keys=(ENGINE_KEY,)) as (_, sim, client):
            assert (await ask(client, chat("m", key=ENGINE_KEY))).status == 200
            assert fields_of(posts(sim)[0])[b"authorization"] == [b"Bearer " + ENGINE_KEY.encode()]

    async def test_D8_each_engine_gets_its_own_key_also_after_a_failover(self) -> None:
        async def dies(conn: ScriptedConnection) -> None:
            request = await conn.read_request()
            if request.method == b"GET":
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                return
            conn.reset()

        async with ScriptedEngine(dies) as first, Simulator(SimConfig(models=("m",), api_key="key-of-second")) as second:
            engines = [
                EngineConfig(url=first.url, api_key="key-of-first", models=("m",)),
                EngineConfig(url=second.url, api_key="key-of-second", models=("m",)),
            ]
            async with running(engines, api_keys=(KEY,), policy="ordered") as gw, await gw.client() as client:
                assert (await ask(client, chat("m", key=KEY))).status == 200
            tried = [one for one in first.requests if one.method == b"POST"]
            assert tried
            for one in first.requests:
                assert one.header(b"authorization") == b"Bearer key-of-first"
                assert b"key-of-second" not in one.head
                assert KEY.encode() not in one.head
            for one in second.requests:
                assert one.header("authorization") == "Bearer key-of-second"

    async def test_D8_a_key_in_a_websocket_protocol_stays_here(self) -> None:
        async def refuses(conn: ScriptedConnection) -> None:
            while True:
                await conn.read_request()
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ]
        async with ScriptedEngine(refuses) as engine:
            one = EngineConfig(url=engine.url, api_key=ENGINE_KEY)
            async with running([one], api_keys=(KEY,)) as gw, await gw.client() as client:
                protocols = f"realtime, openai-insecure-api-key.{KEY}, openai-beta.realtime-v1"
                data = request(
                    "GET", "/v1/realtime?model=m", headers=[*upgrade, ("Sec-WebSocket-Protocol", protocols)], key=KEY
                )
                await ask(client, with_lines(data, "Cookie: secret-cookie"))
            seen = [each for each in engine.requests if each.target.startswith(b"/v1/realtime")]
            assert len(seen) == 1
            assert KEY.encode() not in seen[0].head
            assert b"secret-cookie" not in seen[0].head
            assert seen[0].header(b"sec-websocket-protocol") == b"realtime, openai-beta.realtime-v1"
            assert seen[0].header(b"authorization") == b"Bearer " + ENGINE_KEY.encode()


HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
}
HOP_LINES = [
    "Keep-Alive: timeout=5, max=9",
    "Proxy-Connection: keep-alive",
    "Proxy-Authenticate: Basic",
    "Proxy-Authorization: Basic eA==",
    "TE: trailers, deflate",
    "Trailer: x-a",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
]
NOMINATIONS = ["x-a", "X-A", " x-a ,, x-b", "close, x-a, x-b", "x-a,authorization,content-length", "host, x-a",
               "content-type, x-a", "x-request-id, x-a",
               "x-forwarded-for, x-a", "transfer-encoding, x-a", "accept, x-a, user-agent"]  # fmt: skip


class TestD9:
    """Fields of one hop stay on it, known or nominated, both ways; what frames or routes a message cannot be nominated away."""

    @pytest.mark.parametrize("nominated", NOMINATIONS)
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_D9_request(self, nominated: str, chunked: bool) -> None:
        lines = ["X-A: one", "x-a: two", "X-C: kept", f"Connection: {nominated}", *HOP_LINES]
        if "x-b" in nominated:
            lines.append("X-B: one")
        async with guarded() as (_, sim, client):
            data = chat("m", key=KEY, chunked=(9,) if chunked else None)
            answer = await ask(client, with_lines(data, *lines))
            assert answer.status == 200
            (seen,) = posts(sim)
            fields = fields_of(seen)
            assert not {b"x-a", b"x-b"} & set(fields)
            assert fields[b"x-c"] == [b"kept"]
            assert not {name.encode() for name in HOP} & set(fields), fields
            assert fields.get(b"te", [b"trailers"]) == [b"trailers"]
            # What nobody can take away: whom it is for, how long it is, who we are, and the key meant for the engine.
            assert fields[b"host"] == [sim.url.removeprefix("http://").encode()]
            assert fields[b"content-length"] == [str(len(chat_body("m"))).encode()]
            assert fields[b"authorization"] == [b"Bearer " + ENGINE_KEY.encode()]
            assert len(fields[b"x-request-id"]) == 1
            assert fields[b"x-forwarded-for"] == [b"127.0.0.1"]
            assert seen.body == chat_body("m")
            if "close" not in nominated:
                assert (await ask(client, chat("m", key=KEY))).status == 200

    async def test_D9_several_connection_fields(self) -> None:
        async with guarded() as (_, sim, client):
            lines = ("Connection: x-a", "X-A: 1", "CONNECTION: X-B", "x-b: 2", "Connection: keep-alive", "X-C: kept")
            assert (await ask(client, with_lines(chat("m", key=KEY), *lines))).status == 200
            fields = fields_of(posts(sim)[0])
            assert not {b"x-a", b"x-b", b"connection"} & set(fields)
            assert fields[b"x-c"] == [b"kept"]

    async def test_D9_nominating_the_key_does_not_take_it_away(self) -> None:
        async with guarded() as (_, sim, client):
            assert (await ask(client, with_lines(chat("m", key=KEY), "Connection: authorization"))).status == 200
            assert_unauthorized(await ask(client, with_lines(chat("m"), "Connection: authorization")))
            assert len(posts(sim)) == 1

    @pytest.mark.parametrize("te", ["trailers", "gzip", "trailers, gzip;q=0.5", "", "chunked"])
    async def test_D9_te_says_trailers_or_nothing(self, te: str) -> None:
        async with guarded() as (_, sim, client):
            assert (await ask(client, with_lines(chat("m", key=KEY), f"TE: {te}", "Connection: TE"))).status == 200
            assert fields_of(posts(sim)[0]).get(b"te", [b"trailers"]) == [b"trailers"]

    @pytest.mark.parametrize(
        "trailer",
        ["Authorization: Bearer secret-1", "X-Forwarded-For: 9.9.9.9", "Content-Length: 3", "Host: evil", "Cookie: secret-2"],
    )
    @pytest.mark.parametrize("kind", ["json", "form", "raw"])
    async def test_D9_a_trailer_is_no_header(self, kind: str, trailer: str) -> None:
        """What would frame, route or identify is refused when it comes behind the body; other trailers end here."""
        data = {
            "json": chat("m", key=KEY, chunked=(10,)),
            "form": request("POST", UPLOADS, headers=[FORM_TYPE], body=form("m"), key=KEY, chunked=(10,)),
            "raw": request("POST", "/v1/raw", headers=[("Content-Type", "text/plain")], body=b"x" * 99, key=KEY, chunked=(10,)),
        }[kind]
        async with guarded(passthrough_paths=("/v1/raw",)) as (_, sim, client):
            await client.send(data[:-2] + b"X-Harmless: 1\r\n\r\n")
            assert (await client.read_response()).status == (404 if kind == "raw" else 200)
            (seen,) = posts(sim)
            assert seen.trailers == ()
            assert b"x-harmless" not in fields_of(seen)
            assert fields_of(seen)[b"authorization"] == [b"Bearer " + ENGINE_KEY.encode()]
            await client.send(data[:-2] + trailer.encode() + b"\r\n\r\n")
            answer = await client.read_response()
            assert_error(answer, 400, "invalid_request_error")
            assert answer.header("connection") == "close"
            for one in posts(sim):
                assert one.trailers == ()
                assert_no_secret(one)
                assert fields_of(one)[b"x-forwarded-for"] == [b"127.0.0.1"]

    @pytest.mark.parametrize(
        "nominated", ["x-a", "X-A, x-b", "keep-alive, x-a", "x-a, content-length", "x-a, date, content-type"]
    )
    async def test_D9_response(self, nominated: str) -> None:
        lines = [f"Connection: {nominated}", "X-A: one", "X-C: kept", *HOP_LINES[:-3], "Upgrade: h2c"]
        if "x-b" in nominated:
            lines.append("X-B: one")
        handler = answering("".join(line + "\r\n" for line in lines).encode())
        async with ScriptedEngine(handler) as engine, running([engine.url]) as gw, await gw.client() as client:
            for _ in range(2):
                answer = await ask(client, chat("m"))
                assert (answer.status, answer.body, answer.how_ended) == (200, b'{"ok":1}', "length")
                names = {name.lower() for name, _ in answer.headers}
                assert not names & {"x-a", "x-b", "te", *HOP}, names
                assert answer.header("x-c") == "kept"
                assert answer.header("content-length") == "8"
                assert answer.header("date")


SPOOFS = {
    "x-forwarded-for": "X-Forwarded-For: 198.51.100.7",
    "twice": "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 198.51.100.8",
    "list": "X-Forwarded-For: 10.0.0.1, 127.0.0.1, 198.51.100.7",
    "100-hops": "X-Forwarded-For: " + ", ".join(f"198.51.100.{hop}" for hop in range(100)),
    "proto": "X-Forwarded-Proto: https",
    "host": "X-Forwarded-Host: evil.example",
    "port": "X-Forwarded-Port: 1",
    "prefix": "X-Forwarded-Prefix: /evil",
    "forwarded": "Forwarded: for=198.51.100.7;proto=https;host=evil.example",
    "x-real-ip": "X-Real-IP: 198.51.100.7",
    "twin": "X_Forwarded_For: 198.51.100.7",
    "twin-real-ip": "X_Real_Ip: 198.51.100.7",
    "all": "X-Forwarded-For: 198.51.100.7\r\nX-Real-IP: 198.51.100.7\r\nForwarded: for=198.51.100.7\r\nX-Forwarded-Host: evil",
}
# Trusted are 127.0.0.2 and 10.0.0.0/8: what such a peer says → whom the request comes from.
CHAINS = {
    "none": ("", "127.0.0.2"),
    "one": ("198.51.100.7", "198.51.100.7"),
    "rightmost": ("203.0.113.1, 198.51.100.7", "198.51.100.7"),
    "spoofed-left": ("127.0.0.1, 10.0.0.9, 198.51.100.7", "198.51.100.7"),
    "through-trusted": ("203.0.113.1, 198.51.100.7, 10.0.0.1, 10.0.0.2", "198.51.100.7"),
    "all-trusted": ("10.0.0.3, 10.0.0.2, 10.0.0.1", "10.0.0.3"),
    "no-blanks": ("203.0.113.1,198.51.100.7,10.0.0.1", "198.51.100.7"),
    "port": ("198.51.100.7:4711, 10.0.0.1", "198.51.100.7"),
    "ipv6": ("2001:db8::7, 10.0.0.1", "2001:db8::7"),
    "ipv6-brackets": ("[2001:db8::7]:443, 10.0.0.1", "2001:db8::7"),
    "mapped": ("198.51.100.7, ::ffff:10.0.0.1", "198.51.100.7"),
    "garbage-last": ("198.51.100.7, unknown", "127.0.0.2"),
    "garbage-behind-trusted": ("198.51.100.7, <script>, 10.0.0.1", "10.0.0.1"),
    "obfuscated": ("_hidden, 10.0.0.1", "10.0.0.1"),
    "empty-hop": ("198.51.100.7, , 10.0.0.1", "10.0.0.1"),
    "100-hops": (", ".join(f"203.0.113.{hop}" for hop in range(100)), "203.0.113.99"),
    "100-trusted-hops": (", ".join(["198.51.100.7", *(f"10.0.0.{hop}" for hop in range(100))]), "10.0.0.68"),
}


@asynccontextmanager
async def behind_proxies() -> AsyncIterator[tuple[Running, Simulator]]:
    async with (
        Simulator(SimConfig(models=("m",), output_tokens=1)) as sim,
        running([sim.url], trusted_proxies=("127.0.0.2/32", "10.0.0.0/8")) as gw,
    ):
        yield gw, sim


class TestD10:
    """A stranger's word about where a request comes from is replaced; a trusted proxy's counts as far as trust reaches."""

    @pytest.mark.parametrize("name", SPOOFS)
    @pytest.mark.parametrize("trusting", [False, True])
    async def test_D10_untrusted_peer(self, trusting: bool, name: str) -> None:
        proxies = ("127.0.0.2/32", "198.51.100.0/24", "10.0.0.0/8") if trusting else ()
        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], trusted_proxies=proxies) as gw:
            async with await gw.client() as client:
                for data in (chat("m"), chat("m", stream=True)):
                    assert (await ask(client, with_lines(data, SPOOFS[name]))).status == 200
                    fields = fields_of(posts(sim)[-1])
                    assert fields[b"x-forwarded-for"] == [b"127.0.0.1"]
                    assert fields[b"x-forwarded-proto"] == [b"http"]
                    text = b"\n".join(b"%b: %b" % pair for pair in posts(sim)[-1].headers).lower()
                    for word in (b"198.51.100", b"evil", b"https", b"10.0.0"):
                        assert word not in text
            assert {one["client"] for one in gw.records} == {"127.0.0.1"}

    @pytest.mark.parametrize("name", CHAINS)
    async def test_D10_trusted_peer(self, name: str) -> None:
        chain, expected = CHAINS[name]
        async with behind_proxies() as (gw, sim), RawClient.connect("127.0.0.1", gw.port, source="127.0.0.2") as client:
            hops = chain.split(", ")
            lists = [[chain]] if len(hops) < 2 else [[chain], [", ".join(hops[:1]), ", ".join(hops[1:])]]
            for values in lists if chain else [[]]:  # the same list in one field and in two
                lines = [f"X-Forwarded-For: {value}" for value in values]
                spoofed = ("X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.1", "X-Forwarded-Host: evil.example")
                assert (await ask(client, with_lines(chat("m"), *lines, *spoofed))).status == 200
                assert gw.records[-1]["client"] == expected
                fields = fields_of(posts(sim)[-1])
                (sent,) = fields[b"x-forwarded-for"]
                told = sent.decode().split(", ")
                assert told[-1] == "127.0.0.2"
                assert len(told) <= 33
                if name != "100-trusted-hops":  # there the walk ends at its own limit, not at an answer
                    assert expected in told
                assert "script" not in sent.decode()
                assert not {b"x-real-ip", b"forwarded", b"x-forwarded-host"} & set(fields)

    @pytest.mark.parametrize(
        ("said", "sent"), [("https", b"https"), ("http", b"http"), ("HTTPS", b"http"), ("javascript", b"http"), ("", b"http")]
    )
    async def test_D10_the_protocol_from_a_trusted_peer(self, said: str, sent: bytes) -> None:
        async with behind_proxies() as (gw, sim), RawClient.connect("127.0.0.1", gw.port, source="127.0.0.2") as client:
            assert (await ask(client, with_lines(chat("m"), f"X-Forwarded-Proto: {said}"))).status == 200
            assert fields_of(posts(sim)[0])[b"x-forwarded-proto"] == [sent]

    async def test_D10_both_kinds_of_peers_at_once(self) -> None:
        async with behind_proxies() as (gw, sim):
            for source, expected in (("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "198.51.100.7"), ("127.0.0.3", "127.0.0.3")):
                async with RawClient.connect("127.0.0.1", gw.port, source=source) as client:
                    assert (await ask(client, with_lines(chat("m"), "X-Forwarded-For: 198.51.100.7"))).status == 200
                assert gw.records[-1]["client"] == expected
            assert len(posts(sim)) == 3

    async def test_D10_the_cap_per_address_counts_the_socket_peer(self) -> None:
        async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url], max_connections_per_ip=2) as gw:
            first, second = await gw.client(), await gw.client()
            for number, client in enumerate((first, second)):
                assert (await ask(client, with_lines(chat("m"), f"X-Forwarded-For: 198.51.100.{number}"))).status == 200
            async with await gw.client() as third:  # another claimed address buys no further connection
                data, _ = await third.read_until_closed()
                assert data.startswith(b"HTTP/1.1 503 ")
            async with RawClient.connect("127.0.0.1", gw.port, source="127.0.0.2") as other:
                assert (await ask(other, chat("m"))).status == 200
            first.close()
            second.close()
