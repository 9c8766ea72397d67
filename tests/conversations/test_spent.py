"""Who has spent his tokens gets nothing from an engine any more, whatever it would be, and is told so before a body is sent.

The rows come from the table of endpoints: one that is added to it is tried too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.config.paying import TenantConfig
from fastgw.exchange import endpoints
from fastgw.net.clock import micros
from tests.e2e.metered import KEY, OTHER_KEY, assert_exhausted, assert_limited
from tests.support.answers import RawResponse
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import request
from tests.support.scripts import ok
from tests.support.tenants import join, scopes_of

JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "multipart/form-data; boundary=b")]
BINARY = [("Content-Type", "application/octet-stream")]
HANDSHAKE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
CUT = {"on_exhausted": "cut"}
KEYS = (KEY, OTHER_KEY)
PASSED = "/v1/own/*"
BODY = json.dumps({"model": "sim", "messages": [], "prompt": "", "input": "x"}).encode()
STREAM = BODY[:-1] + b',"stream":true}'
UPLOAD = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n--b--\r\n'


def _rows() -> dict[str, bytes]:
    """One request for each thing that an engine would be asked for, by name."""
    found: dict[str, bytes] = {}
    table = endpoints.EndpointTable((PASSED,))
    for path in [*endpoints.PATHS, PASSED.replace("*", "thing")]:
        endpoint = table.find(path.encode())
        assert endpoint is not None
        for method in sorted(endpoint.methods & {b"GET", b"POST"}):
            verb = method.decode()
            if endpoint.mode is endpoints.TUNNEL:
                found[f"{path} tunnel"] = request(verb, path, headers=HANDSHAKE, key=KEY)
            elif verb == "GET":
                found[f"{path} get"] = request(verb, path, key=KEY)
            else:
                found[f"{path} plain"] = request(verb, path, headers=JSON, body=BODY, key=KEY)
                found[f"{path} stream"] = request(verb, path, headers=JSON, body=STREAM, key=KEY)
                if endpoint.mode is endpoints.UPLOAD:
                    found[f"{path} upload"] = request(verb, path, headers=FORM, body=UPLOAD, key=KEY)
                    if not endpoint.model:
                        found[f"{path} binary"] = request(verb, path, headers=BINARY, body=b"\0" * 100, key=KEY)
    return found


ROWS = _rows()


def of_other(data: bytes) -> bytes:
    return data.replace(KEY.encode(), OTHER_KEY.encode())


def each(talk: Conversation, change: Any = bytes) -> dict[str, RawResponse]:
    """The answers to all of them, each on a connection of its own."""
    return {name: talk.client().says(change(data)).seen for name, data in ROWS.items()}


def test_all_kinds_are_there() -> None:
    table: Any = endpoints.EndpointTable()
    if hasattr(table, "_exact"):  # (the compiled twin does not show it)
        asked = {path.decode() for path, one in table._exact.items() if one.mode is not endpoints.LOCAL}
        assert asked == set(endpoints.PATHS)
    kinds = {name.rpartition(" ")[2] for name in ROWS}
    assert kinds == {"tunnel", "get", "plain", "stream", "upload", "binary"}
    for path in ("/v1/audio/speech", "/v1/images/generations", "/v1/audio/transcriptions", "/tokenize", "/v1/chat/completions"):
        assert f"{path} plain" in ROWS


LIMITS = {"daily_tokens": 1_000_000, "tokens_per_minute": 1_000_000}
BESIDE = {
    "tenant": {"tenants": [TenantConfig(name="lab", **LIMITS)]},
    "model": {"routes": [RouteConfig(model="sim", **LIMITS)]},
    "each": {"routes": [RouteConfig(model="sim", **{"key_" + name: value for name, value in LIMITS.items()})]},
}


@pytest.mark.parametrize("what", ["day", "minute"])
@pytest.mark.parametrize("kind", BESIDE)
def test_a_limit_beside_the_key_s_stops_all_that_it_holds_for_as_the_key_s_own(kind: str, what: str) -> None:
    settings = {**BESIDE[kind], "api_keys": KEYS, "passthrough_paths": (PASSED,), "served_model_name": "sim"}
    named = {name for name, data in ROWS.items() if b"sim" in data} if kind != "tenant" else set(ROWS)
    with conversation(1, answering(ok()), **settings) as talk:
        join(talk.core, KEY)
        assert talk.ask(ROWS["/tokenize plain"]).status == 200
        (scope,) = scopes_of(talk.core)
        assert scope.day is not None
        assert scope.tokens is not None
        assert (scope.day.reserved, scope.tokens.debt, scope.inflight) == (0, 0, 0), "what is not counted takes none"
        if what == "day":
            scope.day.charge(talk.core.today, 1_000_000)
        else:
            scope.tokens.charge(micros(talk.loop.now), 2_000_000)
        refused = {name for name, answer in each(talk).items() if answer.status == 429}
        assert refused == named
        assert talk.asked == [1 + len(ROWS) - len(named)]
        assert talk.stats.limited_tenant + talk.stats.limited_model == len(named)
        if kind != "model":
            assert 429 not in {answer.status for answer in each(talk, of_other).values()}


@pytest.mark.parametrize("settings", [{}, CUT], ids=["refuse", "cut"])
def test_a_spent_quota_stops_whatever_goes_to_an_engine(settings: dict[str, Any]) -> None:
    settings = {**settings, "api_keys": KEYS, "daily_token_quota": 1_000_000, "passthrough_paths": (PASSED,)}
    settings["served_model_name"] = "sim"  # it is listed without an engine being asked
    with conversation(1, answering(ok()), **settings) as talk:
        talk.account(KEY).ledger.settle(talk.core.today, 0, 600_000, 400_000, False)
        for name, answer in each(talk).items():
            assert (answer.status, answer.header("x-should-retry")) == (429, "false"), name
            if name.startswith("/v1/chat/"):
                assert_exhausted(answer)
        assert talk.asked == [0]
        assert talk.stats.quota_refused == len(ROWS)
        assert talk.account(KEY).ledger.reserved == 0
        # What no engine is asked for goes on, and so does another key.
        assert talk.ask(request("GET", "/v1/usage", key=KEY)).status == 200
        assert talk.ask(request("GET", "/v1/models", key=KEY)).status == 200
        assert 429 not in {answer.status for answer in each(talk, of_other).values()}
        assert talk.asked == [len(ROWS)]


def test_who_owes_tokens_of_the_minute_begins_nothing() -> None:
    """And what is not counted takes none of them."""
    settings = {"api_keys": KEYS, "tokens_per_minute": 1_000_000, "passthrough_paths": (PASSED,), "served_model_name": "sim"}
    with conversation(1, answering(ok()), **settings) as talk:
        meter = talk.account(KEY).tokens
        assert meter is not None
        assert talk.ask(request("POST", "/tokenize", headers=JSON, body=BODY, key=KEY)).status == 200
        assert meter.debt == 0
        meter.charge(micros(talk.loop.now), 2_000_000)
        for name, answer in each(talk).items():
            assert answer.status == 429, name
            assert 59 <= int(answer.header("retry-after") or 0) <= 61, name
            if name.startswith("/v1/chat/"):
                assert_limited(answer, "rate_limit_exceeded")
        assert talk.asked == [1]
        assert 429 not in {answer.status for answer in each(talk, of_other).values()}
