"""Who asks, over real sockets, row by row: D1, D3. The others of group D are in ``test_cases_d_*.py``.

In common to all: a refusal is a whole OpenAI-shaped answer, K = the connection serves the next request, ∅ = the engine
has seen nothing (asserted at the engine), and each exchange leaves exactly one access record (``running`` counts them).
"""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest

from tests.e2e.identity import (
    ENGINE_KEY,
    FORM_TYPE,
    KEY,
    OTHER_KEY,
    READERS,
    UPLOADS,
    ask,
    assert_error,
    assert_unauthorized,
    guarded,
    posts,
    rss_kb,
    with_lines,
)
from tests.support.client import chat, request

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
    "two-names": (f"x-api-key: {KEY}", f"api-key: {KEY}"),
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
    "api-key": f"api-key: {KEY}",
}


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
