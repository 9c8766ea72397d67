"""Runners that restart, engines that were found and are not: what clients are told of their models, who waits for a tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw import RouteConfig
from fastgw.control.admin_explain import Asked
from fastgw.explaining import ExplainDesk
from fastgw.upstream.absent import AWAY_S, ENGINE, RUNNER, START_S, Who
from tests.conversations.deployed_row import Deployed, deployed, key_of, tenant_key
from tests.support.answers import RawResponse
from tests.support.requests import chat, request
from tests.support.scripts import ok

GONE = {"r": {"models": ("m",)}, "o": {"models": ("n",)}}
SILENT = {**GONE, "any": {}}  # who judges any name itself
THEIRS = {**SILENT, "t": {"models": ("t",), "tenant": "acme"}}


def asked(path: str, model: str, key: str | None = None) -> bytes:
    if path == "/v1/realtime":
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        return request("GET", f"{path}?model={model}", headers=[*fields, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")])
    return chat(model, key=key) if path == "/v1/chat/completions" else request("GET", f"/v1/models/{model}", key=key)


def away(answer: RawResponse, kind: str = RUNNER) -> bool:
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, kind, "upstream_error"), answer.body
    assert int(answer.header("retry-after") or 0) >= 1
    return True


@contextmanager
def restarting(
    engines: dict[str, dict[str, Any]], *routes: RouteConfig, kind: str = RUNNER, tenant: str = "", **more: Any
) -> Iterator[Deployed]:
    """The engine ``r`` was a runner's, or has been found, and has gone just now."""
    with deployed(engines, *routes, **more) as row:
        row.talk.core.table.absent.begin(row.talk.loop.now - START_S)
        row.talk.core.table.absent.went(Who(kind, "r"), ["m"], row.talk.loop.now, tenant)
        row.learn("r")
        yield row


@pytest.mark.parametrize("kind", [RUNNER, ENGINE])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/realtime", "/v1/models/"])
@pytest.mark.parametrize(("engines", "route", "name"), [
    (GONE, None, "m"), (GONE, RouteConfig(model="m", aliases=["short"]), "short"),
    (GONE, RouteConfig(model="class:c", models=["m"]), "class:c"), (SILENT, None, "m"), (THEIRS, None, "m"),
], ids=["alone", "by an alias", "by a class", "beside one that takes any name", "with tenants"])  # fmt: skip
def test_a_model_whose_runner_restarts_is_asked_for_again_and_no_404(
    engines: dict[str, dict[str, Any]], route: RouteConfig | None, name: str, path: str, kind: str
) -> None:
    """Clients' libraries give up at a 404, and come again after a 503."""
    with restarting(engines, *([route] if route is not None else []), kind=kind) as row:
        assert away(row.talk.client().says(asked(path, name)).seen, kind)
        why = ExplainDesk(row.talk.core).explain(Asked(model=name))["why"]
        assert why.startswith("The runner" if kind == RUNNER else "No engine")
        assert "may " in why
        if engines is GONE:
            listed = row.talk.client().says(request("GET", "/v1/models")).sees(200).json()["data"]
            assert [one["id"] for one in listed] == ["n"], "what is served now"
        row.talk.passes(AWAY_S)
        if engines is GONE or path == "/v1/models/":
            assert row.talk.client().says(asked(path, name)).seen.status == 404


def test_who_has_a_fallback_gets_that_and_who_may_not_have_it_is_told_so() -> None:
    route = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"])
    with restarting(GONE, route) as row:
        assert row.ask(chat("m")).header("x-fallback-model") == "n"
    with restarting(THEIRS, keys=(tenant_key("x", "n"),)) as row:
        assert row.talk.client().says(request("GET", "/v1/models/m", key=key_of("x"))).seen.status == 404
        assert row.ask(chat("m", key=key_of("x"))).status in (403, 404)
    with restarting(THEIRS, kind=ENGINE, tenant="acme", keys=(tenant_key("x"), tenant_key("acme"))) as row:
        for path in ("/v1/chat/completions", "/v1/models/"):
            assert away(row.talk.client().says(asked(path, "m", key_of("acme"))).seen, ENGINE)
            assert row.talk.client().says(asked(path, "m", key_of("x"))).seen.status != 503, "no word of others' engines"


def test_a_gateway_that_has_just_started_knows_of_no_model_that_it_is_none() -> None:
    with deployed(GONE) as row:
        row.talk.core.table.absent.begin(row.talk.loop.now)
        for path in ("/v1/chat/completions", "/v1/realtime", "/v1/models/"):
            assert away(row.talk.client().says(asked(path, "llama")).seen)
        assert row.ask(chat("n")).status == 200
        row.talk.passes(START_S)
        assert row.ask(chat("llama")).status == 404


# --- a tunnel in its grace
@contextmanager
def broken(engines: dict[str, dict[str, Any]], *routes: RouteConfig, **more: Any) -> Iterator[Deployed]:
    """The connection over which the engine ``r`` is asked has broken."""
    with deployed(engines, *routes, **more) as row:
        engine = row.engines["r"].engine
        engine.healthy, engine.away = False, True
        yield row


def back(row: Deployed) -> None:
    engine = row.engines["r"].engine
    engine.healthy, engine.away = True, False
    row.talk.core.room()
    row.talk.passes(0.05)


@pytest.mark.parametrize("settings", [{}, {"max_concurrent": 8}], ids=["where nobody ever waits", "where there is a queue"])
def test_who_asks_for_a_tunnel_that_has_just_broken_waits_for_it(settings: dict[str, Any]) -> None:
    with broken({"r": {"models": ("m",)}}, **settings) as row:
        clients = [row.talk.client().says(chat("m")) for _ in range(3)]
        assert (row.talk.waiting, row.asked) == (3, {"r": 0})
        left = clients.pop()
        left.leaves()
        back(row)
        for client in clients:
            client.sees(200)
        assert row.asked == {"r": 2}
        assert row.ask(chat("m")).status == 200


def test_its_wait_is_bounded_as_any() -> None:
    with broken({"r": {"models": ("m",)}}, queue_timeout_s=0.5, queue_size=1) as row:
        first = row.talk.client().says(chat("m"))
        row.talk.client().says(chat("m")).sees(429, "queue_full")
        row.talk.passes(0.7)
        first.sees(503, "queue_timeout")
    with broken({"r": {"models": ("m",)}}) as row:
        first = row.talk.client().says(chat("m"))
        row.engines["r"].engine.draining = True  # it is gone for good
        row.talk.core.room()
        row.talk.passes(0.05)
        first.sees(503, "engines_unavailable")


@pytest.mark.parametrize(("size", "missing", "held"), [(9000, 0, True), (3 << 20, 0, True), (9000, 2000, False)],
                         ids=["small", "large", "not whole"])  # fmt: skip
def test_a_form_goes_on_to_another_while_all_of_it_is_held(size: int, missing: int, held: bool) -> None:
    """Who sends one of which some is passed on, and kept nowhere, is told 502, once: no other engine gets half of it."""
    file = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % (b"s" * size)
    body = b"--b\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n" + file
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    upload = request("POST", "/v1/audio/transcriptions", headers=kind, body=body)
    with deployed({"r": {"models": ("m",)}, "o": {"models": ("m",)}}, policy="ordered", plays=dict.fromkeys("ro")) as row:
        row.engines["r"].engine.fleeting = True
        client = row.talk.client().says(upload[: len(upload) - missing])
        assert row.asked == {"r": 1, "o": 0}
        row.engines["r"].last.closes("reset")
        if not held:
            client.sees(502, "bad_gateway")
        assert row.asked == {"r": 1, "o": int(held)}
        if held:
            assert row.engines["o"].last.body == body
            row.engines["o"].last.says(ok())
            client.sees(200)


def test_nobody_waits_for_it_where_another_is() -> None:
    with broken({"r": {"models": ("m",)}, "o": {"models": ("m",)}}) as row:
        assert row.goes_to(chat("m")) == "o"
    with broken(GONE, RouteConfig(model="m", fallback=["n"], fallback_on=["failure"])) as row:
        client = row.talk.client().says(chat("m"))
        back(row)
        assert client.sees(200).header("x-fallback-model") is None, "its own is there in a moment"
