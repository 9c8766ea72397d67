"""Whatever the fleet, the routes and the failures: no tenant's request reaches an engine of another, and none that has engines
of its own for a model reaches others for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import ConfigErrors, RouteConfig
from tests.conversations.deployed_row import deployed, fine, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.conversations.test_responses import Keeper, made, post
from tests.support.conversation import answering
from tests.support.requests import chat, request
from tests.support.scripts import ok

TENANTS = ("a", "b", "c")
MODELS = ("m", "n", "o")
NAMES = (*MODELS, "alias", "class:x")
PLAYS = {"fine": fine, "dies": lambda asked: asked.closes("reset"), "busy": status(503), "fails": status(500)}

engines = st.lists(
    st.fixed_dictionaries({
        "models": st.lists(st.sampled_from(MODELS), max_size=2, unique=True),
        "tenant": st.sampled_from(("", "", *TENANTS)),
        "version": st.sampled_from(("", "v1", "v2")),
    }),
    min_size=2, max_size=6,
)  # fmt: skip
routes = st.fixed_dictionaries({}, optional={
    "versions": st.dictionaries(st.sampled_from(("v1", "v2")), st.integers(1, 3), min_size=1),
    "sticky": st.booleans(),
    "fallback": st.lists(st.sampled_from(("n", "o")), min_size=1, unique=True),
    "mirror_to": st.sampled_from(("version:v1", "version:v2", "n")),
})  # fmt: skip
asked = st.lists(st.tuples(st.sampled_from(TENANTS), st.sampled_from((*NAMES, "file"))), min_size=1, max_size=8)


@settings(deadline=None)
@given(engines, routes, asked, st.lists(st.sampled_from(sorted(PLAYS)), min_size=6, max_size=6))
def test_tenants_stay_apart(
    fleet: list[dict[str, Any]], fields: dict[str, Any], requests: list[tuple[str, str]], how: list[str]
) -> None:
    if "fallback" in fields:
        fields = {**fields, "fallback_on": ["failure"]}
    try:
        first = RouteConfig(model="m", aliases=["alias"], **fields)
    except ConfigErrors:
        return
    virtual = RouteConfig(model="class:x", models=["m", "n"])
    names = [f"e{at}" for at in range(len(fleet))]
    plays: Any = {name: PLAYS[one] for name, one in zip(names, how, strict=False)}
    keys = tuple(tenant_key(tenant) for tenant in TENANTS)
    with deployed(dict(zip(names, fleet, strict=True)), first, virtual, plays=plays, keys=keys) as row:
        for number, (tenant, name) in enumerate(requests):
            tag = [("x-request-id", f"{tenant}-{number}")]
            if name == "file":
                data = request("GET", "/v1/files", headers=tag, key=key_of(tenant))
            else:
                data = chat(name, headers=tag, key=key_of(tenant))
            row.ask(data)
        row.talk.passes(0.1)
        for pool in row.engines.values():
            own = pool.engine.tenant
            for stream in pool.asked:
                tenant = stream.request_id.decode()[0]
                assert own in ("", tenant)
                model = stream.json()["model"] if stream.body else ""
                has = any(
                    one["tenant"] == tenant and (model in one["models"] or not model) for one in fleet
                )  # fmt: skip
                assert own == tenant or not has
        for client in list(row.talk.core.unread):
            client.close()


@pytest.mark.parametrize("becomes", ["another tenant's", "another model's"])
@pytest.mark.parametrize("waits_for", ["any engine", "the one with its response"])
def test_who_waits_for_an_engine_that_becomes_anothers_is_not_let_go_to_it(waits_for: str, becomes: str) -> None:
    """It is answered as if it came now: of a model that is another tenant's nobody is told, for another there is a fallback."""
    told = "resp_1"
    fleet: dict[str, dict[str, Any]] = {"a": {"models": ("m",), "max_concurrent": 1}, "b": {"models": ("n",)}}
    route = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"])
    plays = {"a": answering(ok(b'{"id":"%b","object":"response"}' % told.encode()))}
    with deployed(fleet, route, plays=plays, keys=(tenant_key("a"), tenant_key("b"))) as row:
        path, body = "/v1/responses", {"model": "m", "input": "hi"}
        assert row.goes_to(asking(path, body)) == "a"
        engine = row.engines["a"].engine
        engine.inflight = 1
        if waits_for != "any engine":
            body["previous_response_id"] = told
        client = row.talk.client().says(asking(path, body))
        row.talk.passes(0.1)
        assert row.talk.waiting == 1
        falls = becomes == "another model's"
        if becomes == "another model's":
            engine.configured_models = frozenset(["o"])
        else:
            engine.tenant = "b"
        row.learn()
        engine.inflight = 0
        row.talk.core.room()
        row.talk.passes(0.1)
        assert (row.talk.waiting, row.asked) == (0, {"a": 1, "b": int(falls)})
        assert client.seen.status == (200 if falls else 404)


def asking(path: str, body: dict[str, Any]) -> bytes:
    fields = [("content-type", "application/json")]
    return request("POST", path, headers=fields, body=json.dumps(body).encode(), key=key_of("a"))


def embedding(key: str) -> bytes:
    body = b'{"model":"m","input":"hi"}'
    return request("POST", "/v1/embeddings", headers=[("content-type", "application/json")], body=body, key=key)


@pytest.mark.parametrize(
    "waits",
    ["in the queue", "to be sent again", "once more to it", "for a stream", "for the engine of a response", "to be merged"],
)
def test_an_engine_that_is_given_to_a_tenant_gets_nothing_of_who_waited_for_it(waits: str) -> None:
    engines = {"x": {"models": ("m",)}, "y": {"models": ("m",), "max_concurrent": 1}}
    if waits != "to be sent again":
        del engines["x"]
    if waits == "once more to it":
        engines["y"] = {"models": ("m",)}
    if waits == "for a stream":
        engines["y"] = {"models": ("m",), "protocol": "h2", "max_connections": 1}
    keys, plays = (tenant_key("a"), tenant_key("b")), dict.fromkeys(engines, None)
    with deployed(engines, keys=keys, plays=plays, policy="ordered", retry_fresh=True, embedding_merge_s=0.05) as row:
        asks, engine = chat("m", key=key_of("a")), row.engines["y"]
        if waits == "for a stream":
            engine.greeting = {"max_concurrent_streams": 1}
        if waits == "for the engine of a response":
            engine.play = Keeper("y", "one read", 0)
            asks = post(made(row, "a")[0], "a")
            engine.play = None
        clients = [row.talk.client().says(embedding(key_of("a")) if waits == "to be merged" else asks) for _ in range(2)]
        before = row.asked["y"]
        if waits == "to be sent again":
            for asked in row.engines["x"].asked:
                asked.closes("reset")
        if waits == "once more to it":
            for asked in engine.asked:  # (over connections that are kept, and may have died)
                asked.says(ok())
            clients = [row.talk.client().says(asks) for _ in range(2)]
            before = row.asked["y"]
        engine.engine.tenant = "b"
        row.learn()
        if waits == "once more to it":
            for asked in engine.under_way:
                asked.closes("reset")
        elif waits == "for a stream":
            engine.last.answers()
        elif before:
            engine.last.says(ok())
        row.talk.passes(1.0)
        assert (clients[1].seen.status in (404, 502, 503), row.asked["y"]) == (True, before)


def test_nor_does_it_of_what_takes_no_place_there() -> None:
    """Which goes to one that is full, over the connection that is there."""
    engines = {"x": {"models": ("m",)}, "y": {"models": ("m",), "max_concurrent": 1, "protocol": "h2"}}
    keys, plays = (tenant_key("a"), tenant_key("b")), dict.fromkeys(engines, None)
    with deployed(engines, keys=keys, plays=plays, policy="ordered", retry_fresh=True) as row:
        x, y = row.engines.values()
        x.engine.draining = True
        row.talk.client().says(chat("m", key=key_of("a")))
        x.engine.draining = False
        counts = row.talk.client().says(chat("m", key=key_of("a"), path="/tokenize"))
        x.last.closes("reset")
        x.engine.tenant = y.engine.tenant = "b"
        row.learn()
        row.talk.passes(1.0)
        assert (counts.seen.status, row.asked) == (503, {"x": 1, "y": 1})
