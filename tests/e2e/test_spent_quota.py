"""Who has spent his tokens gets nothing from an engine any more, whatever it would be, and is told so before a body is sent.

The rows come from the table of endpoints: one that is added to it is tried too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.exchange import endpoints
from fastgw.net.clock import micros, monotonic
from tests.e2e.metered import KEY, OTHER_KEY, account_of, ask, assert_exhausted, assert_limited, metered
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running

JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "multipart/form-data; boundary=b")]
BINARY = [("Content-Type", "application/octet-stream")]
HANDSHAKE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
CUT = {"on_exhausted": "cut"}
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


async def each(gw: Running, change: Any = bytes) -> dict[str, RawResponse]:
    """The answers to all of them, each on a connection of its own."""
    answers = {}
    for name, data in ROWS.items():
        async with RawClient.connect(gw.url) as client:
            await client.send(change(data))
            answers[name] = await client.read_head() if name.endswith("tunnel") else await client.read_response(5.0)
    return answers


def test_all_kinds_are_there() -> None:
    table: Any = endpoints.EndpointTable()
    if hasattr(table, "_exact"):  # (the compiled twin does not show it)
        asked = {path.decode() for path, one in table._exact.items() if one.mode is not endpoints.LOCAL}
        assert asked == set(endpoints.PATHS)
    kinds = {name.rpartition(" ")[2] for name in ROWS}
    assert kinds == {"tunnel", "get", "plain", "stream", "upload", "binary"}
    for path in ("/v1/audio/speech", "/v1/images/generations", "/v1/audio/transcriptions", "/tokenize", "/v1/chat/completions"):
        assert f"{path} plain" in ROWS


@pytest.mark.parametrize("settings", [{}, CUT], ids=["refuse", "cut"])
async def test_a_spent_quota_stops_whatever_goes_to_an_engine(settings: dict[str, Any]) -> None:
    settings = {**settings, "daily_token_quota": 1_000_000, "passthrough_paths": (PASSED,)}
    async with metered(**settings) as (gw, sim, client):
        account_of(gw).ledger.settle(gw.gateway.core.today, 0, 600_000, 400_000, False)  # type: ignore[union-attr]
        seen = len(sim.requests)
        for name, answer in (await each(gw)).items():
            assert (answer.status, answer.header("x-should-retry")) == (429, "false"), name
            if name.startswith("/v1/chat/"):
                assert_exhausted(answer)
        assert [one.path for one in list(sim.requests)[seen:] if not one.path.startswith(("/health", "/v1/models"))] == []
        assert gw.stats.quota_refused == len(ROWS)
        assert account_of(gw).ledger.reserved == 0
        # What no engine is asked for goes on, and so does another key.
        assert (await ask(client, request("GET", "/v1/usage", key=KEY))).status == 200
        assert (await ask(client, request("GET", "/v1/models", key=KEY))).status == 200
        assert 429 not in {answer.status for answer in (await each(gw, of_other)).values()}


async def test_who_owes_tokens_of_the_minute_begins_nothing() -> None:
    """And what is not counted takes none of them."""
    async with metered(tokens_per_minute=1_000_000, passthrough_paths=(PASSED,)) as (gw, sim, client):
        meter = account_of(gw).tokens
        assert meter is not None
        before = await ask(client, request("POST", "/tokenize", headers=JSON, body=BODY, key=KEY))
        assert before.status != 429
        assert meter.debt == 0
        meter.charge(micros(monotonic()), 2_000_000)
        seen = len(sim.requests)
        for name, answer in (await each(gw)).items():
            assert answer.status == 429, name
            assert 50 <= int(answer.header("retry-after") or 0) <= 62, name
            if name.startswith("/v1/chat/"):
                assert_limited(answer, "rate_limit_exceeded")
        assert [one.path for one in list(sim.requests)[seen:] if not one.path.startswith(("/health", "/v1/models"))] == []
        assert 429 not in {answer.status for answer in (await each(gw, of_other)).values()}
