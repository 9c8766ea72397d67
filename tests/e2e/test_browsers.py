"""What a web page can do with a gateway, and whose word the fields of an answer are.

The page is in somebody's browser on the gateway's own machine, or anywhere: it chooses names and addresses, and what a browser
sends unasked; ``Host`` and ``Origin`` are the browser's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import fastgw
from fastgw import EngineConfig
from fastgw.accel.fields import KEEP, OUR_PREFIXES, OURS, request_field, response_field
from fastgw.limits.key import KeyRecord
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running

PAGE = "https://page.example"
LISTED = "https://app.example"
KEY = "sk-tenant-0001"
UPGRADE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
# A field's name where a source writes its line: at the beginning of a text or of a line in it, or behind what is put in.
LINE = re.compile(rb'(?:"|\\n|%b)([a-z]+(?:-[a-z]+)+-?)(?:%b)?(?:: |"$)', re.MULTILINE).findall
UPLOADS = "/v1/audio/transcriptions"
CHAT = "/v1/chat/completions"
FORM_TYPES = (
    None, "text/plain", "Text/Plain; charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b",
)  # fmt: skip


@asynccontextmanager
async def before(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    """A gateway without keys on loopback, unless the settings say otherwise, and one client of it."""
    settings.setdefault("allowed_hosts", [])
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], **settings) as gw,
        RawClient.connect(gw.url) as client,
    ):
        yield gw, sim, client


def posts(sim: Simulator) -> list[Any]:
    return [one for one in sim.requests if one.method == "POST" or one.target.startswith("/v1/realtime")]


class TestRebinding:
    """Without keys, on loopback, the name under which a browser came must be one that no stranger can own."""

    @pytest.mark.parametrize(
        "host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "gw.localhost", "host.docker.internal", "g.local"]
    )
    async def test_good_names(self, host: str) -> None:
        async with before() as (_, sim, client):
            assert (await client.ask(chat("m", host=host))).status == 200
            assert len(posts(sim)) == 1

    @pytest.mark.parametrize("host", ["page.example", "page.example:8080", "localhost.page.example", "127.0.0.1.nip.io"])
    @pytest.mark.parametrize(
        "what",
        [
            lambda host: chat("m", host=host),
            lambda host: chat("m", True, host=host),
            lambda host: request("GET", "/v1/models", host=host),
            lambda host: request("GET", "/v1/realtime?model=m", host=host, headers=UPGRADE),
            lambda host: request("GET", "http://" + host + "/v1/models"),
            lambda host: request(
                "POST", UPLOADS, host=host, headers=[("Content-Type", "multipart/form-data; boundary=b")], body=b"x"
            ),
        ],
    )
    async def test_names_that_a_page_brought(self, host: str, what: Any) -> None:
        async with before() as (_, sim, client):
            answer = await client.ask(what(host))
            assert (answer.status, answer.error["code"]) == (421, "host_not_allowed")
            assert answer.complete
            assert posts(sim) == []
            assert (await client.ask(chat("m"))).status == 200, "the connection is good for others"

    async def test_the_same_head_again_is_refused_again(self) -> None:
        async with before() as (_, _, client):
            assert [(await client.ask(chat("m", host="page.example"))).status for _ in range(3)] == [421] * 3

    async def test_allowed_hosts(self) -> None:
        async with before(allowed_hosts=["gw.example", "*.corp.example"]) as (_, _, client):
            for host, status in (
                ("gw.example", 200),
                ("a.corp.example:1", 200),
                ("gw.example.org", 421),
                ("corp.example", 421),
            ):
                assert (await client.ask(chat("m", host=host))).status == status, host

    async def test_with_keys_any_name_will_do(self) -> None:
        async with before(api_keys=[KEY]) as (_, _, client):
            assert (await client.ask(chat("m", host="page.example", key=KEY))).status == 200

    async def test_open_to_all_any_name_will_do(self) -> None:
        """Whoever listens beyond loopback without keys has said so; there a page can come by address as well."""
        async with before(host="0.0.0.0", allow_anonymous=True) as (_, _, client):
            assert (await client.ask(chat("m", host="page.example"))).status == 200

    async def test_open_to_all_listed_names_are_the_only_ones(self) -> None:
        async with before(host="0.0.0.0", allow_anonymous=True, allowed_hosts=["gw.example"]) as (gw, _, client):
            for host, status in (("gw.example", 200), ("10.0.0.7:8080", 200), ("page.example", 421)):
                assert (await client.ask(chat("m", host=host))).status == status, host
            await gw.idle()
            (refused,) = [record for record in gw.records if record["status"] == 421]
            assert refused["detail"] == "page.example", "the log says which"

    async def test_a_first_key_ends_it_and_on_a_kept_connection_too(self) -> None:
        async with before() as (gw, _, client):
            data = chat("m", host="page.example", key=KEY)
            assert (await client.ask(data)).status == 421
            core = gw.gateway.core
            assert core is not None
            core.accounts.apply([KeyRecord(id="key_1", digest=sha256(KEY.encode()).digest())], 0, 0.0)
            core.version += 1
            assert (await client.ask(data)).status == 200


class TestUnasked:
    """Without keys, what a browser sends to another origin without asking it is refused, unless that origin is listed."""

    @pytest.mark.parametrize("content_type", FORM_TYPES)
    @pytest.mark.parametrize("path", ["/v1/chat/completions", UPLOADS, "/v1/up"])
    @pytest.mark.parametrize("origin", [PAGE, "null", "http://localhost:3000"])
    async def test_bodies_that_a_form_could_send(self, content_type: str | None, path: str, origin: str) -> None:
        async with before(cors_origins=[LISTED], passthrough_paths=["/v1/up"]) as (_, sim, client):
            fields = [("Origin", origin), *([("Content-Type", content_type)] if content_type else [])]
            answer = await client.ask(request("POST", path, headers=fields, body=b'{"model":"m","messages":[]}'))
            assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
            assert posts(sim) == []

    @pytest.mark.parametrize("origin", [PAGE, LISTED, None])
    async def test_websockets(self, origin: str | None) -> None:
        async with before(cors_origins=[LISTED]) as (_, sim, client):
            fields = [*UPGRADE, *([("Origin", origin)] if origin else [])]
            await client.send(request("GET", "/v1/realtime?model=m", headers=fields))
            assert (await client.read_head()).status == (403 if origin == PAGE else 101)
            assert len(posts(sim)) == (origin != PAGE)

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ([("Origin", LISTED)], 200),  # listed, and no type at all: some libraries send none
            ([("Content-Type", "application/json"), ("Origin", PAGE)], 200),  # a browser asks first, and is told no
            ([], 200),  # no page: curl
        ],
    )
    async def test_who_may(self, fields: list[tuple[str, str]], status: int) -> None:
        async with before(cors_origins=[LISTED]) as (_, _, client):
            body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
            assert (await client.ask(request("POST", "/v1/chat/completions", headers=fields, body=body))).status == status

    async def test_with_keys_a_page_has_none(self) -> None:
        async with before(api_keys=[KEY]) as (_, _, client):
            fields = [("Origin", PAGE), ("Content-Type", "text/plain")]
            assert (await client.ask(request("POST", "/v1/chat/completions", headers=fields, body=b"{}"))).status == 401
            assert (
                await client.ask(request("POST", "/v1/chat/completions", headers=fields, body=b"{}", key=KEY))
            ).status == 415


class TestOurOwnFields:
    """What the gateway says in an answer's fields it says alone; an engine's words of that kind do not go down."""

    THEIRS = (
        *(b"%b: theirs" % name for name in sorted(OURS)),
        *(b"%b%b: theirs" % (prefix, end) for prefix in OUR_PREFIXES for end in (b"allow-origin", b"remaining-requests", b"x")),
        b"Access-Control-Allow-Origin: *", b"ACCESS-CONTROL-ALLOW-CREDENTIALS: true", b"access_control_allow_origin: *",
        b"X_RateLimit_Limit_Requests: 1", b"X-Should_Retry: true",
    )  # fmt: skip
    KEPT = (b"x-theirs: kept", b"retry-after: 7", b"vary: Accept", b"server: engine")

    def engine(self, framing: str) -> ScriptedEngine:
        async def handler(conn: ScriptedConnection) -> None:
            while True:
                seen = await conn.read_request()
                if seen.method != b"POST":
                    await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                await conn.send(self.answer(seen, framing))

        return ScriptedEngine(handler)

    def answer(self, seen: RawRequest, framing: str) -> bytes:
        lines = b"".join(line + b"\r\n" for line in (*self.THEIRS, *self.KEPT))
        body = b'data: {"choices":[]}\n\ndata: [DONE]\n\n' if framing == "stream" else b'{"object":"x"}'
        kind = b"text/event-stream" if framing == "stream" else b"application/json"
        if framing == "length":
            return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (kind, lines, len(body), body)
        status = b"503 Busy" if framing == "error" else b"200 OK"
        return b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            status, kind, lines, len(body), body,
        )  # fmt: skip

    @pytest.mark.parametrize("framing", ["length", "chunked", "stream", "error"])
    @pytest.mark.parametrize("origin", [None, PAGE, LISTED])
    async def test_each_is_ours_or_absent(self, framing: str, origin: str | None) -> None:
        settings: dict[str, Any] = {
            "cors_origins": [LISTED], "rate_limit_per_minute": 100, "tokens_per_minute": 10_000, "server_timing": True,
        }  # fmt: skip
        fields = [("Content-Type", "application/json"), *([("Origin", origin)] if origin else [])]
        async with self.engine(framing) as engine, running([engine.url], **settings) as gw, await gw.client() as client:
            answer = await client.ask(request("POST", CHAT, headers=fields, body=b'{"model":"m"}'))
        names = [name.lower() for name, _ in answer.headers]
        for name, value in answer.headers:
            assert "theirs" not in value, name
            assert "_" not in name
        for name in {one for one in names if one.encode() in OURS or one.encode().startswith(OUR_PREFIXES)}:
            assert names.count(name) == 1, f"{name} stands there twice"
        assert answer.header("access-control-allow-origin") == (LISTED if origin == LISTED else None)
        assert answer.header("x-ratelimit-remaining-requests") == "99"
        assert answer.header("x-request-id")
        assert answer.header("retry-after-ms") is None
        assert [answer.header(line.split(b":")[0].decode()) for line in self.KEPT[:2]] == ["kept", "7"]

    async def test_a_tunnels_answer_too(self) -> None:
        async def handler(conn: ScriptedConnection) -> None:
            seen = await conn.read_request()
            if b"realtime" not in seen.target:
                await conn.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
                return
            lines = b"".join(line + b"\r\n" for line in self.THEIRS)
            await conn.send(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + lines + b"\r\n"
            )  # fmt: skip

        async with ScriptedEngine(handler) as engine, running([engine.url]) as gw, RawClient.connect(gw.url) as client:
            await client.send(request("GET", "/v1/realtime?model=m", headers=UPGRADE))
            head = await client.read_head()
            assert head.status == 101
            assert head.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            assert not any("theirs" in value or name.lower().startswith("access") for name, value in head.headers)

    def test_the_table_has_all_that_the_gateway_writes(self) -> None:
        """Every field that a line of the sources writes is in the table, is a request's, or tells of the message itself."""
        of_the_message = {
            b"accept-encoding", b"anthropic-version", b"cache-control", b"content-disposition", b"content-length",
            b"content-type", b"retry-after", b"sec-websocket-accept", b"sec-websocket-version", b"transfer-encoding",
            b"www-authenticate",
        }  # fmt: skip
        package = Path(fastgw.__file__).parent
        written: set[bytes] = set()
        for folder in ("accel", "exchange", "limits", "net", "policy", "protocol"):
            for path in (*(package / folder).rglob("*.py"), *(package.parent / "native" / folder).rglob("*.pyx")):
                written |= set(LINE(path.read_bytes()))
        assert {b"x-budget-remaining", b"x-ratelimit-reset-", b"x-request-id", b"access-control-allow-origin"} <= written
        unknown = {name for name in written - of_the_message if response_field(name) == KEEP and request_field(name) == KEEP}
        assert unknown == set()



class TestCorsEverywhere:
    """A page of a listed origin may read every answer to a request whose head could be read, refusals included."""

    ROWS = (
        ("200", chat("m", headers=[("Origin", LISTED)], key=KEY), 200),
        ("stream", chat("m", True, headers=[("Origin", LISTED)], key=KEY), 200),
        ("400", chat(body=b"no", headers=[("Origin", LISTED)], key=KEY), 400),
        ("401", chat("m", headers=[("Origin", LISTED)]), 401),
        ("404", request("GET", "/nowhere", headers=[("Origin", LISTED)]), 404),
        ("405", request("DELETE", "/v1/chat/completions", headers=[("Origin", LISTED)]), 405),
        ("411", request("POST", "/v1/chat/completions", headers=[("Origin", LISTED)], key=KEY), 411),
        ("413", chat(body=b"x" * 20_000, headers=[("Origin", LISTED)], key=KEY), 413),
        ("415", request("POST", CHAT, headers=[("Origin", LISTED), ("Content-Type", "a/b")], body=b"x", key=KEY), 415),
        ("417", request("POST", CHAT, headers=[("Origin", LISTED), ("Expect", "x")], body=b"x", key=KEY), 417),
        ("health", request("GET", "/healthz", headers=[("Origin", LISTED)]), 200),
        ("models", request("GET", "/v1/models", headers=[("Origin", LISTED)], key=KEY), 200),
        ("preflight", request("OPTIONS", "/v1/chat/completions", headers=[("Origin", LISTED)]), 204),
        ("preflight of nothing", request("OPTIONS", "/nowhere", headers=[("Origin", LISTED)]), 404),
    )  # fmt: skip

    @pytest.mark.parametrize("row", ROWS, ids=[name for name, *_ in ROWS])
    async def test_every_answer(self, row: tuple[str, bytes, int]) -> None:
        _, data, status = row
        async with before(cors_origins=[LISTED], api_keys=[KEY], max_body_bytes=10_000) as (_, _, client):
            answer = await client.ask(data)
            assert answer.status == status
            self.judge(answer)
            other = await client.ask(data.replace(LISTED.encode(), PAGE.encode()))
            assert not any(name.lower().startswith("access-control") for name, _ in other.headers)

    @staticmethod
    def judge(answer: RawResponse) -> None:
        names = [name.lower() for name, _ in answer.headers]
        assert names.count("access-control-allow-origin") == 1
        assert answer.header("access-control-allow-origin") == LISTED
        assert "origin" in (answer.header("vary") or "").lower()

    async def test_limits_and_engines_that_are_away(self) -> None:
        data = chat("m", headers=[("Origin", LISTED)])
        async with before(cors_origins=[LISTED], rate_limit_per_second=1, rate_limit_burst=1) as (_, _, client):
            for status in (200, 429):
                answer = await client.ask(data)
                assert answer.status == status
                self.judge(answer)
        async with running([EngineConfig(url="http://127.0.0.1:9")], cors_origins=[LISTED]) as gw, await gw.client() as client:
            answer = await client.ask(data)
            assert answer.status >= 502
            self.judge(answer)
