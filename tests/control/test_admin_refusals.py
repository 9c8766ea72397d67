"""What the admin API refuses, and how: bodies, fields, queries, methods and paths that mean nothing; a store that cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest

from fastgw.control import admin_keys as module
from fastgw.control import server as server_module
from fastgw.control.admin_keys import FIELDS, KeysUnavailable
from fastgw.limits.key import KeyRecord
from tests.control.test_admin_keys import operator
from tests.control.test_server import ADMIN_KEY, until
from tests.support.client import RawClient, request


@pytest.mark.parametrize("field", sorted(FIELDS))
async def test_a_field_of_another_type_is_named(field: str) -> None:
    wrong: list[Any] = [{"a": 1}, True]
    wrong += [1] if field not in ("expires_at",) and FIELDS[field][0] != (int | None) else []
    wrong += ["7", 1.5] if FIELDS[field][0] == (int | None) else []
    wrong += [None, [1], "x"] if field in ("models", "networks", "certificates") else [["x"]]
    wrong += [None] if field in ("name", "tenant") else []
    async with operator() as op:
        for value in wrong:
            for method, path in (("POST", "keys"), ("PATCH", "keys/key_1")):
                response = await op.ask(method, path, {field: value})
                assert response.status == 400, (field, value)
                assert response.error["message"].startswith(f"{field}: must be "), value
        assert op.keys.records == {}


async def test_all_problems_are_told_at_once() -> None:
    async with operator() as op:
        response = await op.ask("POST", "keys", {"nmae": "x", "burst": "7", "disabled": True, "id": "key_1", "name": "ok"})
        assert response.status == 400
        assert response.error["type"] == "invalid_request_error"
        for words in ("no field 'nmae'", "burst: must be a whole number", "no field 'disabled'", "no field 'id'"):
            assert words in response.error["message"]
        assert "name: must" not in response.error["message"]
        response = await op.ask("POST", "keys", {"burst": -1, "priority": "urgent"})
        assert response.error["message"] == "burst: must be from 0 to 1000000; priority: must be high, normal or low"
        response = await op.ask("POST", "keys", {f"field{number}": 1 for number in range(500)})
        assert response.status == 400
        assert len(response.body) < 4096
        assert (await op.ask("PATCH", "keys/key_x", {"k" * 9000: 1})).body.count(b"k") < 100


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"name": "a"} x',
        b'{"name": NaN}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b"[]",
        b'"name"',
        b"null",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"\x00",
    ],
)
async def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    async with operator() as op:
        for method, path in (("POST", "keys"), ("PATCH", "keys/key_1")):
            response = await op.ask(method, path, body=body)
            assert response.status == 400
            assert response.error["code"] == "invalid_json"
        assert [line for line in op.log.lines if line[0] == "error"] == []


@pytest.mark.parametrize(
    "body", [b'{"name":"a","name":"b"}', b'{"name":"a","n\\u0061me":"b"}', b'{"grace_s":0,"grace_s":2592000}', b'{"x":1,"x":1}']
)
async def test_what_says_a_thing_twice_is_refused(body: bytes) -> None:
    async with operator() as op:
        for method, path in (("POST", "keys"), ("PATCH", "keys/key_1"), ("POST", "keys/key_1/rotate")):
            response = await op.ask(method, path, body=body)
            assert (response.status, response.error["code"]) == (400, "duplicate_member")


async def test_only_utf_8_is_read() -> None:
    async with operator() as op:
        for charset, status in (("utf-8", 201), ('"UTF-8"', 201), ("utf-16", 415), ("latin1", 415)):
            kind = [("Content-Type", f"application/json; charset={charset}")]
            response = await op.raw(request("POST", "/admin/keys", body=b'{"name":"a"}', key=ADMIN_KEY, headers=kind))
            assert response.status == status, charset


async def test_a_key_may_have_a_thousand_models_with_the_longest_names() -> None:
    async with operator() as op:
        models = [f"{number:04}" + "m" * 252 for number in range(1000)]
        response = await op.ask("POST", "keys", body=json.dumps({"name": "a", "models": models}).encode())
        assert response.status == 201


async def test_a_body_is_bounded_in_whatever_way_it_comes() -> None:
    async with operator() as op:
        body = json.dumps({"name": "x" * (1 << 20)}).encode()
        for data in (
            request("POST", "/admin/keys", body=body, key=ADMIN_KEY),
            request("POST", "/admin/keys", body=body, key=ADMIN_KEY, chunked=[65_536]),
            request("POST", "/admin/keys/key_1/rotate", body=body, key=ADMIN_KEY, chunked=[1000]),
        ):
            response = await op.raw(data)
            assert response.status == 413
            assert response.error["code"] == "body_too_large"
            assert response.header("connection") == "close"
        assert op.keys.records == {}
        assert (await op.made(name="y"))["name"] == "y"
    exact = b'{"name":"12345"}'
    async with operator(max_body_bytes=len(exact)) as op:
        assert (await op.ask("POST", "keys", body=exact)).status == 201
        assert (await op.ask("POST", "keys", body=exact + b" ")).status == 413


async def test_a_slow_body_is_given_up_and_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BODY_S", 0.2)
    monkeypatch.setattr(server_module, "LINGER_S", 0.1)
    async with operator() as op, RawClient.connect(op.control.url) as client:
        head = f"POST /admin/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 20\r\n\r\n"
        await client.send(head.encode() + b'{"name":')
        response = await client.read_response()
        assert response.status == 408
        assert (await client.read_until_closed())[1] != "timeout"
        await until(lambda: op.control.open == 0)
        assert op.keys.records == {}


async def test_a_client_that_leaves_with_half_a_body_makes_nothing() -> None:
    async with operator() as op:
        async with RawClient.connect(op.control.url) as client:
            head = f"POST /admin/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 20\r\n\r\n"
            await client.send(head.encode() + b"{")
            await until(lambda: op.control.open == 1)
        await until(lambda: op.control.open == 0)
        assert op.keys.records == {}
        assert [line for line in op.log.lines if line[0] == "error"] == []


async def test_expectations_and_encodings() -> None:
    async with operator() as op:
        async with RawClient.connect(op.control.url) as client:
            head = (
                f"POST /admin/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
                "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            )
            await client.send(head.encode())
            assert (await client.read_some()).startswith(b"HTTP/1.1 100 ")
            await client.send(b"{}")
            assert (await client.read_response()).status == 201
        for name, value, status in (("Expect", "tea", 417), ("Content-Encoding", "gzip", 415)):
            data = request("POST", "/admin/keys", headers=[(name, value)], body=b"{}", key=ADMIN_KEY)
            assert (await op.raw(data)).status == status


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=", "limit=-1", "limit=1e2", "limit=%D9%A1", "tennant=x", "limit=1&limit=2", "=x"]
)
async def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    async with operator() as op:
        response = await op.ask("GET", f"keys?{query}")
        assert response.status == 400
        assert response.error["param"] == (query.partition("=")[0] or None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "keys", "GET, HEAD, POST"),
        ("DELETE", "keys", "GET, HEAD, POST"),
        ("OPTIONS", "keys", "GET, HEAD, POST"),
        ("POST", "keys/key_1", "DELETE, GET, HEAD, PATCH"),
        ("GET", "keys/key_1/rotate", "POST"),
        ("HEAD", "keys/key_1/disable", "POST"),
        ("POST", "audit", "GET, HEAD"),
    ],
)
async def test_other_methods_are_told_which_ones_there_are(method: str, path: str, allowed: str) -> None:
    async with operator() as op:
        response = await op.ask(method, path)
        assert response.status == 405
        assert response.header("allow") == allowed


@pytest.mark.parametrize(
    "path",
    [
        "",
        "keys/",
        "keys//",
        "keys//rotate",
        "keys/a/b",
        "keys/a/rotate/",
        "key",
        "KEYS",
        "keys/..%2f..",
        "keys/%00",
        "keys/a;b",
        "keys/a'%20OR%201=1",
        "keys/" + "a" * 129,
        "../healthz",
    ],
)
async def test_other_paths_are_not_found_and_never_reach_the_store(path: str) -> None:
    async with operator() as op:
        op.keys.failing = AssertionError("the store was asked")
        response = await op.ask("GET", path)
        assert response.status in (404, 405)
        assert [line for line in op.log.lines if line[0] == "error"] == []


async def test_a_store_that_cannot_is_503_and_comes_back() -> None:
    async with operator() as op:
        op.keys.failing = KeysUnavailable("disk full: /var/lib/secret")
        response = await op.ask("POST", "keys", {"name": "a"})
        assert response.status == 503
        assert response.header("retry-after") == "1"
        assert response.error["code"] == "store_unavailable"
        assert b"/var" not in response.body
        op.keys.failing = None
        assert (await op.ask("POST", "keys", {"name": "a"})).status == 201


@pytest.mark.parametrize("pasted", ["fgw_" + "Q" * 43, "fgw_q", "sk-" + "x" * 40, "Bearer fgw_abc", "a" * 33, "caf\u00e9"])
async def test_a_key_that_is_pasted_in_the_wrong_place_is_not_repeated(pasted: str) -> None:
    async with operator() as op:
        asked = [
            await op.ask("POST", "keys", {pasted: 1}),
            await op.ask("POST", "keys/key_1/rotate", {pasted: 1}),
            await op.ask("GET", f"keys?{quote(pasted)}=1"),
            await op.ask("GET", f"keys/{quote(pasted)}"),
        ]
        assert [response.status for response in asked] == [400, 400, 400, 404]
        for response in asked:
            assert pasted not in response.body.decode(), response.body
        assert pasted not in str(op.log.lines)
        told = (await op.ask("POST", "keys", {"tennant": "x"})).error["message"]
        assert told == "there is no field 'tennant' that can be set", "a mistake in writing is told"


async def test_a_store_that_hangs_does_not_hold_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKEND_S", 0.1)
    async with operator() as op:

        async def hanging(**named: object) -> tuple[Sequence[KeyRecord], bool]:
            await asyncio.sleep(60)
            return (), False

        op.keys.page = hanging  # type: ignore[method-assign]
        assert (await op.ask("GET", "keys")).status == 503
        assert (await op.ask("POST", "keys", {})).status == 201


async def test_a_fault_of_the_store_is_500_and_tells_nothing() -> None:
    async with operator() as op:
        op.keys.failing = RuntimeError('near "fgw_text": syntax error')
        response = await op.ask("GET", "keys")
        assert response.status == 500
        assert b"syntax" not in response.body
        assert [line[0] for line in op.log.lines] == ["info", "error"]
        assert op.log.lines[0][2]["status"] == 500
        assert "syntax" not in str(op.log.lines)
