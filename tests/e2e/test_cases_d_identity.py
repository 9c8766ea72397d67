"""Who asks, what is forwarded, and what is told to whom, over real sockets, row by row: D1, D3, D6 … D10, D12 … D14, D16.

In common to all: a refusal is a whole OpenAI-shaped answer, K = the connection serves the next request, ∅ = the engine
has seen nothing (asserted at the engine), and each exchange leaves exactly one access record (``running`` counts them).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastgw import Config, EngineConfig
from fastgw.config import ConfigErrors
from fastgw.observe.logs import access_fields, as_json, as_text
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.cli.test_cli import environment
from tests.support.client import RawClient, RawResponse, chat, chat_body, request
from tests.support.gateway import Running, running

KEY = "sk-tenant-0123456789"
OTHER_KEY = "sk-other.tenant_~9"
ENGINE_KEY = "engine-secret-abcdef"
CHAT = "/v1/chat/completions"
UPLOADS = "/v1/audio/transcriptions"
FORM_TYPE = ("Content-Type", "multipart/form-data; boundary=x")


async def ask(client: RawClient, data: bytes) -> RawResponse:
    return await client.ask(data)


def posts(sim: Simulator) -> list[Any]:
    """The requests that the engine got from clients; probes are GETs without this path."""
    return [one for one in sim.requests if one.method == "POST"]


def assert_error(answer: RawResponse, status: int, kind: str) -> None:
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == kind


def assert_unauthorized(answer: RawResponse) -> None:
    assert_error(answer, 401, "authentication_error")
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.header("connection") is None


@asynccontextmanager
async def guarded(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    """A gateway with two keys before a simulated engine that wants another; and one connection to it."""
    async with Simulator(SimConfig(any_model=True, output_tokens=2, api_key=ENGINE_KEY)) as sim:
        engine = EngineConfig(url=sim.url, api_key=ENGINE_KEY, models=("m",))
        async with running([engine], **{"api_keys": (KEY, OTHER_KEY), **settings}) as gw, await gw.client() as client:
            yield gw, sim, client


# What is no credential: header lines as they are sent.
NO_CREDENTIAL = {
    "none": (),
    "empty": ("Authorization:",),
    "blank": ("Authorization:    ",),
    "scheme-only": ("Authorization: Bearer",),
    "scheme-and-space": ("Authorization: Bearer ",),
    "no-scheme": (f"Authorization: {KEY}",),
    "basic": ("Authorization: Basic " + base64.b64encode(f"u:{KEY}".encode()).decode(),),
    "digest": (f'Authorization: Digest username="{KEY}"',),
    "token": (f"Authorization: Token {KEY}",),
    "no-space": (f"Authorization: Bearer{KEY}",),
    "tab": (f"Authorization: Bearer\t{KEY}",),
    "colon": (f"Authorization: Bearer:{KEY}",),
    "quoted": (f'Authorization: Bearer "{KEY}"',),
    "two-words": (f"Authorization: Bearer {KEY} {KEY}",),
    "with-comma": (f"Authorization: Bearer {KEY}, Basic x",),
    "twice": (f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"),
    "twice-different": (f"Authorization: Bearer {KEY}", "Authorization: Bearer x"),
    "double-scheme": (f"Authorization: Bearer Bearer {KEY}",),
    "wrong": ("Authorization: Bearer sk-nobody",),
    "prefix": (f"Authorization: Bearer {KEY[:-1]}",),
    "longer": (f"Authorization: Bearer {KEY}0",),
    "other-case": (f"Authorization: Bearer {KEY.upper()}",),
    "both-keys": (f"Authorization: Bearer {KEY},{OTHER_KEY}",),
    "digest-of-key": (f"Authorization: Bearer {sha256(KEY.encode()).hexdigest()}",),
    "key-id": (f"Authorization: Bearer {sha256(KEY.encode()).hexdigest()[:12]}",),
    "engine-key": (f"Authorization: Bearer {ENGINE_KEY}",),
    "x-api-key-empty": ("x-api-key:",),
    "x-api-key-wrong": ("x-api-key: sk-nobody",),
    "x-api-key-bearer": (f"x-api-key: Bearer {KEY}",),
    "x-api-key-twice": (f"x-api-key: {KEY}", f"x-api-key: {KEY}"),
    "wrong-bearer-right-x-api-key": ("Authorization: Bearer x", f"x-api-key: {KEY}"),
    "cookie": (f"Cookie: key={KEY}",),
    "api-key": (f"api-key: {KEY}",),
    "proxy-authorization": (f"Proxy-Authorization: Bearer {KEY}",),
    "underscore-twin": (f"X_Api_Key: {KEY}",),
}

CREDENTIAL = {
    "usual": f"Authorization: Bearer {KEY}",
    "lower": f"authorization: bearer {KEY}",
    "upper": f"AUTHORIZATION: BEARER {KEY}",
    "mixed": f"Authorization: bEaReR {KEY}",
    "no-blank-after-colon": f"Authorization:Bearer {KEY}",
    "blanks": f"Authorization:  \t Bearer {KEY}",
    "several-spaces": f"Authorization: Bearer    {KEY}",
    "other-key": f"Authorization: Bearer {OTHER_KEY}",
    "x-api-key": f"x-api-key: {KEY}",
    "x-api-key-upper": f"X-API-KEY: {OTHER_KEY}",
}
# Which of the two readers of heads judges: a nominated field takes a request to the complete one.
READERS = {"fast": (), "complete": ("Connection: x-nothing",)}


def with_lines(data: bytes, *lines: str) -> bytes:
    """``data`` with these header lines put in behind its request line."""
    first, rest = data.split(b"\r\n", 1)
    return b"\r\n".join((first, *(line.encode("latin-1") for line in lines), rest))


class TestD1:
    """Without a valid credential: E401 aue with ``WWW-Authenticate``, K, ∅. The scheme's case does not matter."""

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("name", NO_CREDENTIAL)
    async def test_D1_refused(self, name: str, reader: str) -> None:
        lines = (*NO_CREDENTIAL[name], *READERS[reader])
        async with guarded() as (gw, sim, client):
            for data in (
                chat("m"),
                chat("m", stream=True, chunked=(3, 50)),
                chat(body=b"not json"),  # who may not ask is not told what is wrong with the question
                chat(path="/v1/embeddings"),
                chat(path="/tokenize", body=b"x" * 100_000),
                request("POST", UPLOADS, headers=[FORM_TYPE], body=b"--x--\r\n"),
                request("GET", "/v1/models"),
                request("GET", "/v1/models/m"),
                request("GET", "/v1/realtime?model=m"),
            ):
                assert_unauthorized(await ask(client, with_lines(data, *lines)))
            head = with_lines(request("HEAD", "/v1/models"), *lines)
            assert (await client.ask(head, head_only=True)).status == 401
            assert posts(sim) == []
            # K: and refusals are not remembered against who asked.
            assert (await ask(client, chat("m", key=KEY))).status == 200
            assert {one["key_id"] for one in gw.records[:10]} == {""}

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("name", CREDENTIAL)
    async def test_D1_accepted(self, name: str, reader: str) -> None:
        async with guarded() as (gw, sim, client):
            for data in (chat("m"), chat("m", stream=True)):
                answer = await ask(client, with_lines(data, CREDENTIAL[name], *READERS[reader]))
                assert (answer.status, answer.complete) == (200, True)
            assert len(posts(sim)) == 2
            assert {one["key_id"] for one in gw.records} <= {sha256(key.encode()).hexdigest()[:12] for key in (KEY, OTHER_KEY)}

    async def test_D1_an_acceptance_is_not_remembered_either(self) -> None:
        async with guarded() as (_, sim, client):
            for _ in range(3):
                assert (await ask(client, chat("m", key=KEY))).status == 200
                assert_unauthorized(await ask(client, chat("m")))
                assert_unauthorized(await ask(client, chat("m", key="x" * len(KEY))))
                assert (await ask(client, chat("m", key=OTHER_KEY))).status == 200
            assert len(posts(sim)) == 6

    async def test_D1_health_needs_no_key(self) -> None:
        async with guarded() as (_, _, client):
            for path in ("/liveness", "/readiness", "/health", "/healthz", "/ready"):
                assert (await ask(client, request("GET", path))).status == 200

    async def test_D1_a_refusal_in_the_shape_that_anthropic_clients_read(self) -> None:
        async with guarded() as (_, _, client):
            answer = await ask(client, chat("m", path="/v1/messages"))
            assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
            assert answer.json()["error"]["type"] == "authentication_error"

    async def test_D1_a_thousand_strangers_leave_nothing(self) -> None:
        async with guarded() as (_, sim, client):
            for turn in range(100):
                await ask(client, chat("m", key=f"sk-stranger-{turn}"))
            base = rss_kb()
            for turn in range(1000):
                assert (await ask(client, chat("m", key=f"sk-stranger-{turn}-{'k' * (turn % 300)}"))).status == 401
            assert rss_kb() - base < 5000
            assert posts(sim) == []


def rss_kb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


HOSTILE_KEYS = {
    "sql": "' OR '1'='1",
    "sql-comment": "'; DROP TABLE keys; --",
    "sql-no-blanks": "'OR'1'='1'--",
    "wildcard": "%",
    "star": "*",
    "regex": ".*",
    "null": "null",
    "none": "None",
    "undefined": "undefined",
    "json": '{"$ne":null}',
    "template": "{{key}}",
    "format": "%s%s%s%n",
    "path": "../../../etc/passwd",
    "utf-8": "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel\N{KEY}",
    "utf-8-fullwidth": "".join(chr(ord(char) + 0xFEE0) for char in KEY),
    "30kB": "k" * 30_000,
    "30kB-key-first": KEY + "k" * 30_000,
    "nbsp-behind": KEY + "\xa0",
    "nel-behind": KEY + "\x85",
    "zero-width-behind": KEY + "\u200b",
    "space-inside": KEY[:5] + " " + KEY[5:],
    "wrong-with-space": "sk-nobody ",
    "percent-encoded": "%73" + KEY[1:],
    "nul-escaped": KEY + "%00",
    "backslash-nul": KEY + "\\0",
}


class TestD3:
    """Hostile keys are E401, E431 over the head's limit, E400 where HTTP itself forbids the bytes; only digests are kept."""

    @pytest.mark.parametrize("field", ["Authorization: Bearer ", "x-api-key: "])
    @pytest.mark.parametrize("name", HOSTILE_KEYS)
    async def test_D3_hostile_key(self, name: str, field: str) -> None:
        line = (field + HOSTILE_KEYS[name]).encode() + b"\r\n"
        async with guarded() as (gw, sim, client):
            answer = await ask(client, chat("m").replace(b"\r\n", b"\r\n" + line, 1))
            assert_unauthorized(answer)
            assert HOSTILE_KEYS[name].encode()[:40] not in answer.body or name in {"null", "none", "star", "wildcard"}
            assert posts(sim) == []
            assert (await ask(client, chat("m", key=KEY))).status == 200
            assert gw.records[0]["key_id"] == ""

    @pytest.mark.parametrize("size", [32_768, 40_000, 200_000])
    async def test_D3_a_key_over_the_head_limit(self, size: int) -> None:
        async with guarded() as (_, sim, client):
            answer = await ask(client, chat("m", key="k" * size))
            assert_error(answer, 431, "invalid_request_error")
            assert answer.header("connection") == "close"
            assert posts(sim) == []

    @pytest.mark.parametrize("octet", [b"\0", b"\x01", b"\r", b"\n", b"\x1b", b"\x7f"])
    @pytest.mark.parametrize("field", [b"Authorization: Bearer ", b"x-api-key: "])
    async def test_D3_bytes_that_no_field_can_hold(self, field: bytes, octet: bytes) -> None:
        async with guarded() as (_, sim, client):
            line = field + KEY.encode() + octet + b"x\r\n"
            assert_error(await ask(client, chat("m").replace(b"\r\n", b"\r\n" + line, 1)), 400, "invalid_request_error")
            assert posts(sim) == []

    @pytest.mark.parametrize("blank", [" ", "  ", "\t", " \t "])
    async def test_D3_blanks_around_a_field_are_no_part_of_it(self, blank: str) -> None:
        """RFC 9110 §5.5: they are taken off before a value is judged, so they make no key wrong and no key right."""
        async with guarded() as (_, _, client):
            assert (await ask(client, with_lines(chat("m"), f"Authorization: Bearer {KEY}{blank}"))).status == 200
            assert_unauthorized(await ask(client, with_lines(chat("m"), f"Authorization: Bearer {KEY[:-1]}{blank}")))

    async def test_D3_only_digests_are_kept(self) -> None:
        async with guarded() as (gw, _, client):
            assert (await ask(client, chat("m", key=KEY))).status == 200
            config = gw.gateway.config
            assert config.api_keys == ()
            assert set(config.api_key_digests) == {sha256(key.encode()).digest() for key in (KEY, OTHER_KEY)}
            assert KEY not in repr(config)
            assert ENGINE_KEY not in repr(config)


ADMIN_PATHS = [
    "/admin",
    "/admin/",
    "/admin/keys",
    "/admin/keys/1",
    "/v1/admin/keys",
    "/admin/models/load",
    "/runners",
    "/runners/1",
    "/ws/runners",
    "/metrics",
    "/metrics/",
    "/dashboard",
    "/dashboard/",
    "/dashboard/index.html",
    "/static/app.js",
    "/events",
    "/debug/state",
    "/debug/requests",
    "/debug/pprof/",
    "/config",
    "/v1/config",
    "/stats",
    "/status",
    "/reload",
    "/shutdown",
    "/workers",
    "/add_worker",
    "/get_server_info",
    "/docs",
    "/openapi.json",
    "/version",
    "/.env",
    "/",
    "/v1",
    "/v1/",
]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class TestD6:
    """What belongs to operators is not on the data port: 404 whatever the key, the method or the engine behind."""

    @pytest.mark.parametrize("path", ADMIN_PATHS)
    async def test_D6_not_on_the_data_port(self, path: str) -> None:
        async with (
            Simulator(SimConfig(debug=True)) as sim,
            running([sim.url], api_keys=(KEY,), admin_key="sk-admin-of-these-tests", runner_auth_token="sk-runner") as gw,
            await gw.client() as client,
        ):
            await gw.until("probed", lambda: len(sim.requests) > 0)
            for key in (None, KEY, "sk-admin-of-these-tests", "sk-runner", ENGINE_KEY):
                for method in METHODS:
                    await client.send(
                        request(method, path, key=key, body=b"{}" if method in ("POST", "PUT", "PATCH") else None)
                    )
                    answer = await client.read_response(head_only=method == "HEAD")
                    assert answer.status == 404
                    if method != "HEAD":
                        assert_error(answer, 404, "invalid_request_error")
            seen = {one.path for one in sim.requests}
            assert seen <= {"/health", "/v1/models"}, "the engine's own pages are not reached either"

    async def test_D6_upgrade_is_no_way_in(self) -> None:
        upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Key", "x"),
            ("Sec-WebSocket-Version", "13"),
        ]
        async with guarded() as (_, _, client):
            for path in ("/ws/runners", "/admin", "/metrics"):
                assert (await ask(client, request("GET", path, headers=upgrade, key=KEY))).status == 404

    async def test_D6_only_what_is_configured_is_passed_through(self) -> None:
        async with guarded(passthrough_paths=("/v1/extra", "/v1/more/*")) as (_, sim, client):
            for path in ("/v1/extra/x", "/v1/extra/", "/v1/more", "/v1/more/", "/v1/moreover", "/v1/other"):
                assert (await ask(client, request("GET", path, key=KEY))).status == 404
            assert_unauthorized(await ask(client, request("GET", "/v1/extra")))
            before = len(sim.requests)
            await ask(client, request("GET", "/v1/extra", key=KEY))
            assert [one.path for one in sim.requests if one.path.startswith("/v1/extra")] == ["/v1/extra"], before

    def test_D6_no_key_is_not_open_to_the_network(self) -> None:
        assert Config().host == "127.0.0.1"
        for host in ("0.0.0.0", "::", "192.0.2.1"):
            with pytest.raises(ConfigErrors, match="allow_anonymous"):
                Config(host=host)
            with pytest.raises(ConfigErrors, match="allow_anonymous"):
                Config(host=host, admin_key="sk-admin-of-these-tests", vllm_api_key=ENGINE_KEY)
            assert Config(host=host, api_keys=(KEY,)).host == host


OTHER_SPELLINGS = [
    "/v1/../admin",
    "/v1/./chat/completions",
    "/./v1/chat/completions",
    "/v1/chat/../chat/completions",
    "/v1/chat/completions/..",
    "/v1/chat/completions/.",
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat//completions",
    "/v1/chat/completions//",
    "///v1/chat/completions",
    "/V1/chat/completions",
    "/v1/Chat/completions",
    "/v1/chat/COMPLETIONS",
    "/%76%31/chat/completions",
    "/v1/chat/completion%73",
    "/v1%2fchat/completions",
    "/v1/chat%2Fcompletions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/%2E%2E/admin",
    "/v1/%252e%252e/admin",
    "/v1/.%2e/admin",
    "/v1/%c0%ae%c0%ae/admin",
    "/v1/%00",
    "/v1/chat/completions%00",
    "/v1/chat/completions%20",
    "/v1/chat/completions%0d%0aX-Injected:%20yes",
    "/v1/chat/completions;x",
    "/v1/chat/completions;x=1",
    "/v1;/chat/completions",
    "/v1/..;/admin",
    "/v1/chat/completions,",
    "/v1/chat/completions.json",
    "/v1/chat/completions&x",
    "/v1/chat/completions%3fx=1",
    "/%2fv1/chat/completions",
    "/v1/chat/completions%",
    "/v1/chat/completions%zz",
    "/health/",
    "/HEALTH",
    "/health%2f..%2fadmin",
    "/v1/models/../admin",
    "/v1/models/%2e%2e/%2e%2e/admin",
    "/v1/models/..%2f..%2fadmin",
]


class TestD7:
    """Another spelling of a path is another path: 404, nothing is normalised, nothing reaches another route, ∅."""

    @pytest.mark.parametrize("path", OTHER_SPELLINGS)
    async def test_D7_not_found(self, path: str) -> None:
        async with guarded() as (_, sim, client):
            for target in (path, path + "?x=1", "http://gateway" + path):
                for method, body in (("POST", chat_body("m")), ("GET", None)):
                    answer = await ask(
                        client, request(method, target, key=KEY, headers=[("Content-Type", "application/json")], body=body)
                    )
                    if path.startswith("/v1/models/") and method == "POST":
                        assert answer.status in (404, 405)
                    else:
                        assert_error(answer, 404, "invalid_request_error")
                    assert b"njected" not in answer.raw_head
            assert posts(sim) == []
            assert {one.target for one in sim.requests} <= {"/health", "/v1/models"}
            assert (await ask(client, chat("m", key=KEY))).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/chat\\completions",
            "/v1\\..\\admin",
            "/v1/chat/completions#x",
            "/v1/chat/completions\x80",
            "v1/chat/completions",
        ],
    )
    async def test_D7_no_target_at_all(self, path: str) -> None:
        async with guarded() as (_, sim, client):
            assert_error(await ask(client, chat("m", path=path, key=KEY)), 400, "invalid_request_error")
            assert posts(sim) == []

    @pytest.mark.parametrize(
        "tail", ["../admin", "x/../../admin", "%2e%2e/admin", "%2E%2e/x", ".%2e/admin", "x%2f..%2fy", "..", "..;/x", "%2f%2f"]
    )
    async def test_D7_nothing_leads_out_of_a_prefix(self, tail: str) -> None:
        async with guarded(passthrough_paths=("/v1/more/*",)) as (_, sim, client):
            for method in ("GET", "POST"):
                answer = await ask(
                    client, request(method, "/v1/more/" + tail, key=KEY, body=b"{}" if method == "POST" else None)
                )
                assert_error(answer, 404, "invalid_request_error")
            assert not [one for one in sim.requests if "more" in one.target or "admin" in one.target]

    async def test_D7_the_query_is_forwarded_as_it_is(self) -> None:
        async with guarded() as (_, sim, client):
            for query in ("?x=1", "?api-version=2024-02-01&y=%2e%2e%2f", "??", "?a=/../b;c", "?"):
                assert (await ask(client, chat("m", path=CHAT + query, key=KEY))).status == 200
                assert posts(sim)[-1].target == CHAT + query


CLIENT_SECRETS = {
    "Authorization": f"Bearer {KEY}",
    "x-api-key": "secret-x-api-key",
    "api-key": "secret-api-key",
    "Cookie": "session=secret-cookie",
    "Proxy-Authorization": "Basic secret-proxy",
    "X_Api_Key": "secret-twin",
}


def fields_of(one: Any) -> dict[bytes, list[bytes]]:
    """The header of a request that an engine received, by lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in one.headers:
        found.setdefault(name.lower(), []).append(value)
    return found


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
            Simulator(SimConfig(any_model=True)) as sim,
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

        async with ScriptedEngine(dies) as first, Simulator(SimConfig(any_model=True, api_key="key-of-second")) as second:
            engines = [
                EngineConfig(url=first.url, api_key="key-of-first"),
                EngineConfig(url=second.url, api_key="key-of-second"),
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
            ("Sec-WebSocket-Key", "eA=="),
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


def form(model: str) -> bytes:
    field = f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    return f'{field}--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'.encode()


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


def answering(
    lines: bytes, body: bytes = b'{"ok":1}', status: bytes = b"200 OK"
) -> Callable[[ScriptedConnection], Awaitable[None]]:
    """A script that answers requests for completions with these header lines, and probes in an ordinary way."""

    async def handler(conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request()
            if request.method == b"POST":
                await conn.send(b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body))
            else:
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    return handler


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
        Simulator(SimConfig(any_model=True, output_tokens=1)) as sim,
        running([sim.url], trusted_proxies=("127.0.0.2/32", "10.0.0.0/8")) as gw,
    ):
        yield gw, sim


class TestD10:
    """A stranger's word about where a request comes from is replaced; a trusted proxy's counts as far as trust reaches."""

    @pytest.mark.parametrize("name", SPOOFS)
    @pytest.mark.parametrize("trusting", [False, True])
    async def test_D10_untrusted_peer(self, trusting: bool, name: str) -> None:
        proxies = ("127.0.0.2/32", "198.51.100.0/24", "10.0.0.0/8") if trusting else ()
        async with Simulator(SimConfig(any_model=True)) as sim, running([sim.url], trusted_proxies=proxies) as gw:
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
        async with Simulator(SimConfig(any_model=True)) as sim, running([sim.url], max_connections_per_ip=2) as gw:
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


GOOD_IDS = ["a", "req-1", "7f2c0d1e-6f1a-4c7b-9d55-0a6b1c2d3e4f", "x" * 128, "A.b_c:d~e+f/g=h@i-j", "req-1700000000000000000"]
BAD_IDS = {
    "empty": b"",
    "blank": b"   ",
    "129": b"x" * 129,
    "8kB": b"x" * 8192,
    "30kB": b"x" * 30_000,
    "space-inside": b"a b",
    "tab-inside": b"a\tb",
    "quote": b'a"b',
    "json": b'","level":"error","message":"forged',
    "comma": b"a, b",
    "unicode": "\N{SNOWMAN}".encode(),
    "latin-1": b"\xe9",
    "crlf-encoded": b"a%0d%0aX-Injected:%20yes",
    "crlf-escaped": b"a\\r\\nX-Injected: yes",
    "overlong-line-feed": b"a\xc0\x8ab",
    "nel": b"a\xc2\x85b",
    "line-separator": "a\N{LINE SEPARATOR}b".encode(),
    "script": b"<script>alert(1)</script>",
    "jndi": b"${jndi:ldap://x/a}",
    "format": b"%s%n",
    "semicolon": b"a;b",
}
GOOD_TRACES = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-may-bring",
]
BAD_TRACES = [
    "garbage",
    "",
    "00",
    "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
    "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-' OR '1'='1-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01,00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x" * 9000,
    "\xe9\xe9",
]


def one_line_each(gw: Running) -> None:
    """Each record is one line of JSON, and one of plain text without a control character."""
    for record in gw.raw_records:
        line = as_json(access_fields(record))
        assert line.count(b"\n") == 1
        assert json.loads(line)["message"] == "request"
        assert as_text(access_fields(record)).decode()[:-1].isprintable()


class TestD12:
    """A request id that is not fit to be repeated is replaced by ours, everywhere; a broken traceparent is not passed on."""

    @pytest.mark.parametrize("given", GOOD_IDS)
    async def test_D12_a_good_id_goes_everywhere(self, given: str) -> None:
        async with guarded() as (gw, sim, client):
            answer = await ask(client, with_lines(chat("m", key=KEY), f"X-Request-ID: {given}"))
            assert answer.header_all("x-request-id") == [given]
            assert fields_of(posts(sim)[0])[b"x-request-id"] == [given.encode()]
            assert gw.records[0]["request_id"] == given.encode()
            answer = await ask(client, with_lines(chat("nobody", key=KEY), f"x-request-id: {given}"))  # refusals too
            assert (answer.status, answer.header("x-request-id")) == (404, given)

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("name", BAD_IDS)
    async def test_D12_a_bad_id_is_replaced(self, name: str, reader: str) -> None:
        async with guarded() as (gw, sim, client):
            line = b"X-Request-ID: " + BAD_IDS[name] + b"\r\n"
            data = with_lines(chat("m", key=KEY), *READERS[reader]).replace(b"\r\n", b"\r\n" + line, 1)
            ids = []
            for turn in range(2):
                answer = await ask(client, data)
                assert answer.status == 200
                (own,) = answer.header_all("x-request-id")
                assert re.fullmatch(r"[0-9a-f]{16}", own)
                assert fields_of(posts(sim)[turn])[b"x-request-id"] == [own.encode()]
                assert gw.records[turn]["request_id"] == own.encode()
                assert b"njected" not in answer.raw_head
                ids.append(own)
            assert ids[0] != ids[1]
            one_line_each(gw)

    async def test_D12_two_ids_are_nobodys(self) -> None:
        async with guarded() as (_, sim, client):
            answer = await ask(client, with_lines(chat("m", key=KEY), "X-Request-ID: one", "X-Request-ID: two"))
            own = answer.header("x-request-id")
            assert own not in ("one", "two", None)
            assert fields_of(posts(sim)[0])[b"x-request-id"] == [str(own).encode()]

    @pytest.mark.parametrize("size", [40_000, 1_000_000])
    async def test_D12_an_id_over_the_head_limit(self, size: int) -> None:
        async with guarded() as (gw, sim, client):
            with_id = chat("m", key=KEY, headers=[("X-Request-ID", "x" * size)])
            answer = await ask(client, with_id)
            assert_error(answer, 431, "invalid_request_error")
            assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id") or "")
            assert posts(sim) == []
            await gw.until("one record", lambda: len(gw.records) == 1)
            one_line_each(gw)

    @pytest.mark.parametrize("octets", [b"a\rb", b"a\nb", b"a\0b", b"a\r\n b", b"a\x1b[31m"])
    async def test_D12_line_ends_and_controls(self, octets: bytes) -> None:
        async with guarded() as (gw, sim, client):
            data = chat("m", key=KEY).replace(b"\r\n", b"\r\nX-Request-ID: " + octets + b"\r\n", 1)
            answer = await ask(client, data)
            assert_error(answer, 400, "invalid_request_error")
            assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id") or "")
            assert posts(sim) == []
            one_line_each(gw)

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("trace", GOOD_TRACES)
    async def test_D12_a_good_traceparent_is_passed_on(self, trace: str, reader: str) -> None:
        async with guarded() as (_, sim, client):
            lines = (f"traceparent: {trace}", "tracestate: a=1,b=2", *READERS[reader])
            assert (await ask(client, with_lines(chat("m", key=KEY), *lines))).status == 200
            assert fields_of(posts(sim)[0])[b"traceparent"] == [trace.encode()]
            assert fields_of(posts(sim)[0])[b"tracestate"] == [b"a=1,b=2"]

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("trace", BAD_TRACES, ids=range(len(BAD_TRACES)))
    async def test_D12_a_bad_traceparent_is_not(self, trace: str, reader: str) -> None:
        async with guarded() as (gw, sim, client):
            lines = (f"TraceParent: {trace}", *READERS[reader])
            assert (await ask(client, with_lines(chat("m", key=KEY), *lines))).status == 200
            assert b"traceparent" not in fields_of(posts(sim)[0])
            one_line_each(gw)

    async def test_D12_two_traceparents_are_none(self) -> None:
        async with guarded() as (_, sim, client):
            assert (
                await ask(client, with_lines(chat("m", key=KEY), *(f"traceparent: {one}" for one in GOOD_TRACES[:2])))
            ).status == 200
            assert b"traceparent" not in fields_of(posts(sim)[0])

    async def test_D12_a_thousand_ids_leave_nothing(self) -> None:
        async with guarded() as (_, _, client):
            for turn in range(100):
                await ask(client, with_lines(request("GET", "/liveness"), f"x-request-id: warm-{turn}"))
            base = rss_kb()
            for turn in range(1000):
                line = f"x-request-id: {'i' * (turn % 200)}{turn}"
                assert (await ask(client, with_lines(request("GET", "/liveness"), line, f"traceparent: {turn}"))).status == 200
            assert rss_kb() - base < 5000


PROMPT = "my-prompt-is-a-secret"
# What no error may say: an address, a URL, a path, a stack, an exception, an operating system's words.
INTERNALS = re.compile(
    rb"https?:|unix:|127\.0\.0\.1|localhost|::1|[a-z]+\.py\b|/(?:usr|tmp|home|root|opt|var|proc)/|site-packages|traceback|exception|errno|0x[0-9a-f]{6}"
    rb"|asyncio|uvloop|httptools|msgspec|refused|reset by peer|broken pipe|line \d+|sim-|fastgw[/.]|<[a-z]",
    re.IGNORECASE,
)


def assert_tells_nothing(answer: RawResponse, *secrets_: str) -> None:
    text = answer.raw_head + answer.body
    assert not INTERNALS.search(answer.body), answer.body
    assert not INTERNALS.search(re.sub(rb"(?im)^(date|x-request-id|server):.*$", b"", answer.raw_head)), answer.raw_head
    for secret in (KEY, ENGINE_KEY, PROMPT, *secrets_):
        assert secret.encode() not in text


def ire(**options: Any) -> bytes:
    return chat("m", key=KEY, content=PROMPT, **options)


REFUSALS: dict[str, tuple[int, bytes]] = {
    "400-json": (400, chat(key=KEY, body=b'{"model":"m","messages":"' + PROMPT.encode())),
    "400-utf-8": (400, chat(key=KEY, body=b'{"model":"m","messages":"' + PROMPT.encode() + b'\xff"}')),
    "400-missing-model": (400, chat(key=KEY, body=b'{"messages":"%b"}' % PROMPT.encode())),
    "400-model-type": (400, chat(key=KEY, body=b'{"model":["%b"]}' % PROMPT.encode())),
    "400-parameter": (400, chat(key=KEY, body=b'{"model":"m","n":"%b"}' % PROMPT.encode())),
    "400-duplicate": (400, chat(key=KEY, body=b'{"model":"m","model":"%b"}' % PROMPT.encode())),
    "400-head": (400, ire().replace(b"Host: localhost", b"Host: " + PROMPT.encode() + b" x")),
    "400-name": (400, ire(headers=[(f"a {PROMPT}", "x")])),
    "400-value": (400, ire().replace(b"\r\n", b"\r\nX: " + PROMPT.encode() + b"\0\r\n", 1)),
    "400-framing": (400, ire(headers=[("Transfer-Encoding", "chunked")])),
    "400-chunk": (400, request("POST", CHAT, key=KEY, headers=[("Transfer-Encoding", "chunked")]) + PROMPT.encode() + b"\r\n"),
    "400-multipart": (
        400,
        request("POST", UPLOADS, key=KEY, headers=[FORM_TYPE], body=PROMPT.encode() * 999),
    ),
    "401": (401, chat("m", key="sk-wrong-" + PROMPT, content=PROMPT)),
    "404-path": (404, ire(path=f"/v1/{PROMPT}")),
    "404-model": (404, chat(PROMPT, key=KEY)),
    "404-models": (404, request("GET", f"/v1/models/{PROMPT}", key=KEY)),
    "405": (405, request("PUT", CHAT, key=KEY, body=PROMPT.encode())),
    "411": (411, request("POST", CHAT, key=KEY)),
    "413": (413, chat(key=KEY, body=PROMPT.encode() * 500)),
    "413-chunked": (413, chat(key=KEY, body=PROMPT.encode() * 500, chunked=(100,))),
    "415": (415, request("POST", CHAT, key=KEY, headers=[("Content-Type", PROMPT)], body=PROMPT.encode())),
    "417": (417, ire(headers=[("Expect", PROMPT)])),
    "431": (431, ire(headers=[("X-Long", PROMPT * 2000)])),
    "431-count": (431, ire(headers=[(f"X-{number}", PROMPT) for number in range(150)])),
    "501-method": (501, request(PROMPT[:2].upper() + "FOO", CHAT, key=KEY)),
    "501-coding": (501, ire(headers=[("Transfer-Encoding", "gzip")]).replace(b"Content-Length", b"X-Length")),
    "505": (505, ire(version="HTTP/3.0")),
}
# Faults of an engine: what it does → what the client is told.
FAULTS = {
    "502-garbage": (502, "garbage"),
    "502-close": (502, "close"),
    "502-reset": (502, "reset"),
    "502-status-line": (502, "status-line=HTTP/1.1%20999%20secret-of-the-engine"),
    "502-head": (502, "head=300000"),
    "502-101": (502, "unsolicited-101"),
    "504": (504, "stall-before"),
}


@pytest.mark.together
class TestD13:
    """No 4xx or 5xx tells a URL, an address, a path, a stack, a key or a prompt."""

    @pytest.mark.parametrize("name", REFUSALS)
    async def test_D13_refusals(self, name: str) -> None:
        status, data = REFUSALS[name]
        async with guarded(max_body_bytes=4096) as (_, _, client):
            answer = await ask(client, data)
            assert answer.status == status
            assert_tells_nothing(answer)

    async def test_D13_408(self) -> None:
        async with guarded(body_timeout_s=0.2, head_timeout_s=0.3) as (gw, _, client):
            answer = await ask(client, ire()[:-5])
            assert answer.status == 408
            assert_tells_nothing(answer)
            async with await gw.client() as other:
                answer = await ask(other, ire()[:60])
                assert answer.status == 408
                assert_tells_nothing(answer)

    @pytest.mark.parametrize("compat", ["", "minisgl", "rakka"])
    @pytest.mark.parametrize("name", FAULTS)
    async def test_D13_engine_faults(self, name: str, compat: str) -> None:
        status, fault = FAULTS[name]
        if compat and status == 504:
            status = {"minisgl": 502, "rakka": 400}[compat]
        async with guarded(first_byte_timeout_s=0.2, compat=compat) as (gw, sim, client):
            answer = await ask(client, ire(headers=[("X-Sim-Fault", fault)]))
            assert answer.status == status
            assert_tells_nothing(answer, sim.url, str(sim.port), "secret-of-the-engine")
            assert gw.records[0]["detail"], "the operator is told"

    @pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
    @pytest.mark.parametrize(
        "fault", ["reset-after-events=2", "half-event", "bad-chunk,after-events=2", "stall-after-events=1"]
    )
    async def test_D13_error_events(self, fault: str, path: str) -> None:
        async with guarded(between_bytes_timeout_s=0.2) as (_, sim, client):
            await client.send(ire(stream=True, path=path, max_tokens=9, headers=[("X-Sim-Fault", fault)]))
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (200, False)
            event = next(data for data in answer.events() if '"error"' in data)
            for word in (str(sim.port), KEY, ENGINE_KEY, PROMPT):
                assert word not in event
            assert not INTERNALS.search(event.encode()), event

    @pytest.mark.parametrize("where", ["tcp", "unix", "name"])
    async def test_D13_an_engine_that_is_not_there(self, where: str, tmp_path: Path) -> None:
        url = {
            "tcp": "http://127.0.0.1:9",
            "unix": f"unix:{tmp_path}/engine.sock",
            "name": "http://no-such-engine.invalid:8000",
        }[where]
        async with running([url], api_keys=(KEY,), connect_timeout_s=1.0) as gw, await gw.client() as client:
            for data in (ire(), ire(stream=True)):
                answer = await ask(client, data)
                assert answer.status in (502, 503, 504)
                assert_tells_nothing(answer, "no-such-engine", "engine.sock", ":9")
            for path in ("/readiness", "/ready", "/health"):
                assert_tells_nothing(await ask(client, request("GET", path)), "no-such-engine", "engine.sock")

    async def test_D13_503(self) -> None:
        async with running([], api_keys=(KEY,)) as gw, await gw.client() as client:
            answer = await ask(client, ire())
            assert (answer.status, answer.header("retry-after") is not None) == (503, True)
            assert_tells_nothing(answer)
        async with running([], max_connections=1) as gw, await gw.client(), await gw.client() as second:
            data, _ = await second.read_until_closed()
            assert data.startswith(b"HTTP/1.1 503 ")
            assert not INTERNALS.search(data)

    async def test_D13_500(self) -> None:
        """A bug in the gateway, with the worst of messages: the client learns that, the log learns where."""
        async with (
            Simulator(SimConfig(any_model=True)) as sim,
            running([sim.url], api_keys=(KEY,), expect_internal_errors=True) as gw,
            await gw.client() as client,
        ):
            core = gw.gateway.core
            assert core is not None

            def fails(exchange: Any) -> None:
                (PROMPT + KEY).encode() and bytes.decode(exchange.body + b"\xff")

            core.on_body = (fails,)
            answer = await ask(client, ire())
            assert answer.status == 500
            assert_tells_nothing(answer)
            ((_, message, told),) = gw.events.errors()
            assert message == "internal error"
            assert "UnicodeDecodeError" in str(told)
            assert "fails" in str(told)
            assert PROMPT not in repr(gw.events.lines) + repr(gw.raw_records)


class TestD14:
    """A redirect is for the client to judge: passed through or E502, and never followed, also not by probes."""

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_D14_never_followed(self, stream: bool, status: int) -> None:
        async def never(conn: ScriptedConnection) -> None:
            await conn.read_request()

        async with ScriptedEngine(never) as internal:
            lines = b"Location: %b/latest/meta-data\r\nRefresh: 0; url=%b\r\n" % (internal.url.encode(), internal.url.encode())
            handler = answering(lines, b"moved", b"%d Elsewhere" % status)
            async with (
                ScriptedEngine(handler) as engine,
                running([EngineConfig(url=engine.url, api_key=ENGINE_KEY)]) as gw,
                await gw.client() as client,
            ):
                for turn in range(2):
                    answer = await ask(client, chat("m", stream))
                    assert answer.status in (status, 502)
                    if answer.status == status:
                        assert answer.body == b"moved"
                        assert answer.header("location") == f"{internal.url}/latest/meta-data"
                    assert len([one for one in engine.requests if one.method == b"POST"]) == turn + 1
            assert internal.connections == []

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_D14_probes_follow_nothing(self, status: int) -> None:
        async def never(conn: ScriptedConnection) -> None:
            await conn.read_request()

        async with ScriptedEngine(never) as internal:

            async def redirects(conn: ScriptedConnection) -> None:
                while True:
                    await conn.read_request()
                    where = internal.url.encode()
                    await conn.send(b"HTTP/1.1 %d Moved\r\nlocation: %b/x\r\ncontent-length: 0\r\n\r\n" % (status, where))

            async with ScriptedEngine(redirects) as engine:
                one = EngineConfig(url=engine.url, api_key=ENGINE_KEY)
                async with running([one], health_interval_s=0.05, model_refresh_s=0.05) as gw, await gw.client() as client:
                    await gw.until("some probes", lambda: len(engine.requests) > 6)
                    assert (await ask(client, request("GET", "/readiness"))).status == 503
                    await ask(client, request("GET", "/v1/models"))
            assert internal.connections == []


class Canaries:
    """Words that occur nowhere else, one for each thing that must stay where it is."""

    def __init__(self) -> None:
        self.key, self.wrong_key, self.engine_key, self.admin_key = (f"sk-canary{secrets.token_hex(8)}" for _ in range(4))
        self.prompt, self.answer, self.cookie, self.query = (f"canary{secrets.token_hex(8)}" for _ in range(4))

    def all(self) -> list[str]:
        return list(vars(self).values())

    def assert_absent(self, text: str, where: str) -> None:
        for name, word in vars(self).items():
            assert word not in text, f"the {name} canary is in {where}"

    def chat(self, **options: Any) -> bytes:
        options = {"key": self.key, "content": self.prompt, "path": f"{CHAT}?key={self.query}", **options}
        headers = [("Cookie", f"session={self.cookie}"), ("X-Title", self.prompt), *options.pop("headers", ())]
        return chat(options.pop("model", "m"), headers=headers, **options)


async def all_outcomes(port: int, canary: Canaries) -> int:
    """Every way in which a request can end; what fastgw itself says must not repeat a canary. How many exchanges it were."""
    count = 0

    async def one(data: bytes, status: int, *, own: bool = True) -> None:
        nonlocal count
        async with RawClient.connect("127.0.0.1", port) as client:
            await client.send(data)
            answer = await client.read_response()
            assert answer.status == status, answer.body
            if own:
                canary.assert_absent((answer.raw_head + answer.body).decode("latin-1"), f"a {status}")
            count += 1

    def fault(text: str, **options: Any) -> bytes:
        return canary.chat(headers=[("X-Sim-Fault", text)], **options)

    said = json.dumps({"choices": [{"message": {"content": canary.answer}}]}).encode()
    answer = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    for status in (b"200 OK", b"400 Bad Request", b"429 Too Many Requests", b"500 Internal Server Error"):
        raw = base64.b64encode(answer % (status, len(said), said)).decode().replace("=", "%3D").replace("+", "%2B")
        await one(fault(f"raw={raw}"), int(status[:3]), own=False)
    # Served.
    await one(canary.chat(), 200, own=False)
    await one(canary.chat(stream=True), 200, own=False)
    await one(canary.chat(chunked=(7,)), 200, own=False)
    upload = form("m").replace(b"RIFF", canary.prompt.encode())
    await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=upload), 200, own=False)
    await one(request("GET", f"/v1/models?key={canary.key}", headers=[("x-api-key", canary.key)]), 200)
    # Refused.
    await one(canary.chat(key=canary.wrong_key), 401)
    await one(canary.chat(key=None), 401)
    await one(canary.chat(body=b'{"model":"m","messages":"' + canary.prompt.encode()), 400)
    await one(canary.chat(body=b'{"model":"m","messages":"' + canary.prompt.encode() + b'\xff"}'), 400)
    await one(canary.chat(body=b'{"model":"m","stream":"%b"}' % canary.prompt.encode()), 400)
    await one(canary.chat(body=b'{"model":"m","%b":NaN}' % canary.prompt.encode()), 400)
    await one(canary.chat(body=b'{"model":"m","stream":true,"stream":"%b"}' % canary.prompt.encode()), 400)
    await one(canary.chat(body=b'{"model":{"%b":1}}' % canary.prompt.encode()), 400)
    await one(canary.chat(model="nobody"), 404)
    await one(canary.chat(path="/v1/nothing"), 404)
    await one(canary.chat(content=canary.prompt * 1000), 413)
    await one(canary.chat(content=canary.prompt * 1000, chunked=(999,)), 413)
    await one(canary.chat().replace(b"application/json", b"text/" + canary.prompt.encode()), 415)
    await one(canary.chat(headers=[("X-Long", canary.prompt * 2000)]), 431)
    await one(canary.chat(headers=[("Transfer-Encoding", canary.key)]), 400)
    await one(canary.chat(headers=[("X-Bad", canary.key + "\0")]), 400)
    await one(canary.chat(headers=[("Host", canary.key)]), 400)
    await one(request(canary.prompt[:6].upper(), "/", key=canary.key), 501)
    await one(
        request("POST", CHAT, key=canary.key, headers=[("Transfer-Encoding", "chunked")]) + canary.prompt.encode() + b"\r\n",
        400,
    )
    await one(canary.chat()[:-9], 408)
    await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=canary.prompt.encode() * 99), 400)
    await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=form("m") + canary.prompt.encode()), 400)
    # An engine fails before it answers, with words of its own.
    for text, status in (
        ("garbage", 502),
        ("reset", 502),
        (f"status-line={canary.answer}", 502),
        (f"header={canary.answer}%0D", 502),
        (f"header=transfer-encoding:{canary.answer}", 502),
        ("stall-before", 504),
    ):
        await one(fault(text), status)
    # It breaks off in the middle; the client leaves.
    broken = base64.b64encode(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        + canary.answer.encode()
        + b"\r\n"
    )
    for text in (
        "reset-after-events=2",
        "half-event",
        "bad-chunk,after-events=1",
        "stall-after-events=1",
        "error-event",
        f"raw={broken.decode().replace('=', '%3D')}",
    ):
        async with RawClient.connect("127.0.0.1", port) as client:
            await client.send(fault(text, stream=True, max_tokens=9))
            with_error = await client.read_response()
            assert with_error.status in (200, 502)
            count += 1
    for waits_for in (b"data: ", None):
        async with RawClient.connect("127.0.0.1", port) as client:
            await client.send(fault("itl-ms=50" if waits_for else "stall-before", stream=True, max_tokens=50))
            if waits_for:
                await client.read_until(await client.read_head(), waits_for)
            else:
                await asyncio.sleep(0.05)
            client.reset()
            count += 1
    return count


D16_SETTINGS: dict[str, Any] = {
    "cb_failure_threshold": 0,  # one engine gets all the faults
    "max_body_bytes": 8192,
    "body_timeout_s": 0.3,
    "first_byte_timeout_s": 0.3,
    "between_bytes_timeout_s": 0.3,
    "log_level": "debug",
}


@pytest.mark.together
class TestD16:
    """Keys and prompts pass through and stay nowhere: not in logs, records, events, errors, the process list or a file."""

    async def test_D16_records_events_and_errors(self) -> None:
        canary = Canaries()
        async with Simulator(SimConfig(any_model=True, output_tokens=4)) as sim:
            engine = EngineConfig(url=sim.url, api_key=canary.engine_key, models=("m",))
            settings = {**D16_SETTINGS, "api_keys": (canary.key,), "admin_key": canary.admin_key}
            async with running([engine], **settings) as gw:
                count = await all_outcomes(gw.port, canary)
                await gw.idle()
                assert len(gw.records) == count
                assert {one["outcome"] for one in gw.records} >= {"ok", "error", "client_closed", "truncated"}
                canary.assert_absent(repr(gw.raw_records), "a record")
                canary.assert_absent(repr(gw.events.lines), "an event")
                canary.assert_absent(repr(gw.gateway.config) + repr(gw.gateway.core) + repr(gw.stats.snapshot()), "a repr")
                for record in gw.raw_records:
                    canary.assert_absent((as_json(access_fields(record)) + as_text(access_fields(record))).decode(), "a line")
                key_id = sha256(canary.key.encode()).hexdigest()[:12]
                assert {one["key_id"] for one in gw.records} == {"", key_id}

    @pytest.mark.parametrize("log_format", ["json", "text"])
    @pytest.mark.deadline_s(60)
    async def test_D16_a_process_and_its_output(self, log_format: str, tmp_path: Path) -> None:
        canary = Canaries()
        (tmp_path / "keys.txt").write_text(canary.key + "\n")
        (tmp_path / "keys.txt").chmod(0o600)
        work = tmp_path / "work"
        work.mkdir()
        async with Simulator(SimConfig(any_model=True, output_tokens=4)) as sim:
            env = environment(
                GATEWAY_API_KEYS=f"{canary.key},sk-another",
                FASTGW_API_KEYS_FILE=str(tmp_path / "keys.txt"),
                BACKENDS=f"{sim.url}|{canary.engine_key}|m",
                ADMIN_KEY=canary.admin_key,
                FASTGW_LOG_FORMAT=log_format,
                **{f"FASTGW_{name.upper()}": str(value) for name, value in D16_SETTINGS.items()},
            )
            process = serve(work, env, tmp_path / "stderr")
            try:
                port = await listening(tmp_path / "stderr", process)
                count = await all_outcomes(port, canary)
                canary.assert_absent(text_of(f"/proc/{process.pid}/cmdline"), "the process list")
                limits = text_of(f"/proc/{process.pid}/limits")
                assert re.search(r"Max core file size +0 ", limits), "a core file would hold keys and prompts"
                assert process.poll() is None
            finally:
                process.send_signal(signal.SIGTERM)
                returncode = await asyncio.to_thread(process.wait, 20)
            assert returncode == 0
        told = text_of(tmp_path / "stderr")
        canary.assert_absent(told, "the log")
        assert os.listdir(work) == [], "nothing was written elsewhere"
        if log_format == "json":
            lines = [json.loads(line) for line in told.splitlines()]
            assert len([line for line in lines if line["message"] == "request"]) == count
        else:
            assert all(line.isprintable() for line in told.splitlines())
            assert len(told.splitlines()) > count

    @pytest.mark.parametrize("command", ["check", "serve"])
    def test_D16_a_mistake_in_the_configuration_shows_no_key(self, command: str, tmp_path: Path) -> None:
        canary = Canaries()
        env = environment(
            GATEWAY_API_KEYS=f"{canary.key},with blank {canary.wrong_key}",
            VLLM_URL=f"http://user:{canary.engine_key}@127.0.0.1:1",
            ADMIN_KEY=canary.admin_key,
            GATEWAY_PORT="many",
        )
        done = subprocess.run(
            [sys.executable, "-m", "fastgw", command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        canary.assert_absent(done.stdout + done.stderr, "what it says about its configuration")

    def test_D16_check_shows_no_key(self, tmp_path: Path) -> None:
        canary = Canaries()
        env = environment(
            GATEWAY_API_KEYS=canary.key, BACKENDS=f"http://127.0.0.1:1|{canary.engine_key}|m", ADMIN_KEY=canary.admin_key
        )
        done = subprocess.run(
            [sys.executable, "-m", "fastgw", "check"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        canary.assert_absent(done.stdout + done.stderr, "the summary")


def text_of(path: str | Path) -> str:
    return Path(path).read_text()


def serve(folder: Path, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """``fastgw serve`` as a process of its own, on a free port, with all it says in ``log``."""
    with open(log, "wb") as output:
        command = [sys.executable, "-m", "fastgw", "serve", "--port", "0"]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)


async def listening(log: Path, process: subprocess.Popen[bytes]) -> int:
    """The port of a gateway that was just started, read from its log."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = re.search(r"listening.*?http://127\.0\.0\.1:(\d+)", text_of(log))
        if found is not None:
            return int(found[1])
        assert process.poll() is None, text_of(log)
        await asyncio.sleep(0.02)
    pytest.fail(f"it does not listen: {text_of(log)}")
