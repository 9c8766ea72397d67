"""Requests without a model, stored completions, lists: what goes on though it names no model, and who gets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw import RouteConfig
from fastgw.config.paying import PriceConfig
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.support.requests import request

JSON = [("content-type", "application/json")]
PATHS = "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/audio/speech", "/api/chat"
ONE: dict[str, Any] = {"a": {}}
LIKE: dict[str, Any] = {"a": {"models": ("m", "n")}, "b": {"models": ("n", "m")}}
UNLIKE: dict[str, Any] = {"a": {"models": ("m",)}, "b": {"models": ("n",)}}
HALF: dict[str, Any] = {"a": {"models": ("m",)}, "b": {}}
X = tenant_key("x")
# (engines, routes, keys, settings): whether it goes on
ROWS: dict[str, tuple[dict[str, Any], tuple[RouteConfig, ...], tuple[Any, ...], dict[str, Any], bool]] = {
    "one engine": (ONE, (), (), {}, True),
    "one engine, a key": (ONE, (), (X,), {}, True),
    "engines that serve the same": (LIKE, (), (), {}, True),
    "engines that do not": (UNLIKE, (), (), {}, False),
    "one of which judges names itself": (HALF, (), (), {}, False),
    "in order, for anybody": (UNLIKE, (), (), {"compat": "minisgl"}, True),
    "in order, for a key of some models": (UNLIKE, (), (tenant_key("x", "m"),), {"compat": "minisgl"}, False),
    "a route": (ONE, (RouteConfig(model="m", policy="ordered"),), (), {}, False),
    "a key of some models": (ONE, (), (tenant_key("x", "m"),), {}, False),
    "a budget": (ONE, (), (replace(X, budget=10**12),), {}, False),
    "a price": (ONE, (), (), {"prices": [PriceConfig(model="m", input="1", output="1")]}, False),
    "a tenant's engines": ({"a": {"tenant": "x"}}, (), (X,), {}, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_body_without_a_model_goes_on_where_that_is_no_question(name: str) -> None:
    engines, routes, keys, settings, goes = ROWS[name]
    with deployed(engines, *routes, keys=keys, **settings) as row:
        for path in PATHS:
            key = key_of("x") if keys else None
            answer = row.ask(request("POST", path, headers=JSON, body=b'{"input":"x"}', key=key))
            assert answer.status == (200 if goes else 400), (path, answer.body)
            if not goes:
                assert b"model" in answer.body
        assert sum(row.asked.values()) == (len(PATHS) if goes else 0)
        if goes:
            assert row.sent("a") == {"input": "x"}


BODIES: tuple[Any, ...] = ([], "text", 5, [{"model": "m"}], {"stream": "sse", "n": [1], "max_output_tokens": "x"}, {"model": 5})


def test_what_is_passed_on_may_be_any_json_and_goes_to_its_model() -> None:
    with deployed(UNLIKE, passthrough_paths=["/api/embed", "/infill"]) as row:
        for body in BODIES:
            answer = row.ask(request("POST", "/infill", headers=JSON, body=json.dumps(body).encode()))
            assert answer.status == 200, (body, answer.body)
        for body in ({"model": "n", "stream": 5}, {"N": 1, "model": "n", "max_tokens": []}, {"model": "n"}):
            assert row.goes_to(request("POST", "/api/embed", headers=JSON, body=json.dumps(body).encode())) == "b"
            assert row.sent("b") == body
        before = row.asked
        for text in (b'{"model":"m","model":"n"}', b'{"n":[],"Model":"m"}', b'{"n":[],"bootstrap_host":"h"}', b"{"):
            assert row.ask(request("POST", "/infill", headers=JSON, body=text)).status == 400, text
        assert row.asked == before


def test_and_a_key_of_some_models_gets_no_other_by_it() -> None:
    with deployed(UNLIKE, keys=(tenant_key("x", "m"),), passthrough_paths=["/infill"]) as row:
        twice = b'"lora_path":"m","lora_path":"n"', b'"parameters":{"adapter_id":"m","adapter_id":"n"}'
        bodies = [json.dumps(one).encode() for one in (*BODIES, {"model": "n", "n": []})]
        for body in (*bodies, *[b'{"model":"m",%b}' % one for one in twice]):
            answer = row.ask(request("POST", "/infill", headers=JSON, body=body, key=key_of("x")))
            assert answer.status == 403, body
        assert row.goes_to(request("POST", "/infill", headers=JSON, body=b'{"n":[],"model":"m"}', key=key_of("x"))) == "a"


STORED = (
    ("GET", "/v1/chat/completions/chatcmpl-1"), ("POST", "/v1/chat/completions/chatcmpl-1"),
    ("DELETE", "/v1/chat/completions/chatcmpl-1"), ("GET", "/v1/chat/completions/chatcmpl-1/messages?limit=2"),
    ("GET", "/v1/chat/completions?limit=2"), ("DELETE", "/v1/models/ft-1"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "target"), STORED)
def test_further_methods_are_passed_on(method: str, target: str) -> None:
    """What is not known to be anybody's, only where there are no keys; and ``Allow`` says which there are."""
    body, heads = (b'{"metadata":{"n":"1"}}', JSON) if method == "POST" else (None, [])
    with deployed(ONE) as row:
        assert row.goes_to(request(method, target, headers=heads, body=body)) == "a"
        assert (row.engines["a"].last.start.method, row.engines["a"].last.start.target) == (method.encode(), target.encode())
        assert method in (row.ask(request("OPTIONS", target)).header("allow") or "")
    with deployed(ONE, keys=(X,)) as row:
        for key in (None, key_of("x")):
            refused = row.ask(request(method, target, headers=heads, body=body, key=key))
            assert refused.status == 405
            assert method not in (refused.header("allow") or "").split(", ")


@pytest.mark.parametrize("path", ["", "a/", "a/b", "a/messages/", "a//messages", "%61", "../completions", "a" * 257])
def test_what_is_no_path_of_a_stored_completion(path: str) -> None:
    with deployed(ONE) as row:
        assert row.ask(request("GET", f"/v1/chat/completions/{path}")).status == 404
        assert row.ask(request("PUT", "/v1/chat/completions/a", headers=JSON, body=b"{}")).status == 405
        assert sum(row.asked.values()) == 0


def test_models_are_listed_in_the_shape_of_who_asks() -> None:
    anthropic = [("anthropic-version", "2023-06-01")]
    with deployed(LIKE, keys=(X, tenant_key("y", "m"))) as row:
        for key, names in (("x", ["m", "n"]), ("y", ["m"])):
            for heads in (anthropic, [], anthropic):
                answer = row.ask(request("GET", "/v1/models", headers=heads, key=key_of(key)))
                page = json.loads(answer.body)
                assert [one["id"] for one in page["data"]] == names
                assert answer.header("cache-control") == "no-store"
                if heads:
                    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, names[0], names[-1])
                    assert [(one["type"], one["display_name"]) for one in page["data"]] == [("model", name) for name in names]
                    assert page["data"][0]["created_at"].endswith("Z")
                else:
                    assert page["object"] == "list"
        one = json.loads(row.ask(request("GET", "/v1/models/m", headers=anthropic, key=key_of("x"))).body)
        assert (one["type"], one["id"], sorted(one)) == ("model", "m", ["created_at", "display_name", "id", "type"])
        refused = row.ask(request("GET", "/v1/models/zz", headers=anthropic, key=key_of("x")))
        assert (refused.status, json.loads(refused.body)["type"]) == (404, "error")


@pytest.mark.parametrize(("path", "key", "status", "kept_by_nobody"), [
    ("/v1/models", "", 401, True), ("/v1/models", "x", 200, True), ("/v1/usage", "x", 200, True),
    ("/v1/models/zz", "x", 404, True), ("/healthz", "", 200, False),
])  # fmt: skip
def test_what_depends_on_a_key_is_kept_by_no_cache(path: str, key: str, status: int, kept_by_nobody: bool) -> None:
    with deployed(LIKE, keys=(X,)) as row:
        answer = row.ask(request("GET", path, key=key_of(key) if key else None))
        assert (answer.status, answer.header("cache-control")) == (status, "no-store" if kept_by_nobody else None)
