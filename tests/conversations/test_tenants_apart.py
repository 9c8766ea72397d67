"""Whatever the fleet, the routes and the failures: no tenant's request reaches an engine of another, and none that has engines
of its own for a model reaches others for it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import ConfigErrors, RouteConfig
from tests.conversations.deployed_row import deployed, fine, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.requests import chat, request

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
