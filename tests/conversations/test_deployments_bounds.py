"""Bounds and corners of deployments: reloads, engines that come and go, names that are many, uploads and sessions."""

from __future__ import annotations

import json
from typing import Any

from fastgw import RouteConfig
from fastgw.upstream.deployments import MOST_LOOKED_AT, Asker
from fastgw.upstream.fleet import deploy
from fastgw.upstream.models import ModelFacts
from fastgw.upstream.table import MOST_ALIASES, UpstreamTable
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.support.requests import chat, request
from tests.upstream.test_table import place


def test_engines_that_come_have_their_part_at_once() -> None:
    old, new = {"models": ("m",), "version": "v1"}, {"models": ("m",), "version": "v2"}
    engines: dict[str, dict[str, Any]] = {"old": old, "new": new}
    with deployed(engines, RouteConfig(model="m", versions={"v1": 1, "v2": 1})) as row:
        row.engines["new"].engine.version = ""
        row.learn()
        assert {row.goes_to(chat()) for _ in range(12)} == {"old"}
        row.engines["new"].engine.version = "v2"
        row.learn()
        assert {row.goes_to(chat()) for _ in range(24)} == {"old", "new"}


def test_turns_go_on_from_one_table_to_the_next() -> None:
    """A model learned elsewhere does not begin a version's turns anew."""
    pools = [place(port, models=("m",), version="v1") for port in (1, 2, 3)]
    routes = (RouteConfig(model="m", versions={"v1": 1}),)
    first = UpstreamTable(pools, None, routes, deploy)
    second = UpstreamTable(pools, first, routes, deploy)
    assert first.deployed.group("m", Asker()) is second.deployed.group("m", Asker())


def test_a_plain_table_lays_out_nothing() -> None:
    table = UpstreamTable([place(1, models=("m",))], None, (RouteConfig(model="m", max_concurrent=1),), deploy)
    assert table.deployed is None
    assert UpstreamTable([place(1)], None, (), deploy).deployed is None


def test_an_adapter_that_nobody_else_could_load_is_plain() -> None:
    pools = [place(1, kind="vllm"), place(2, kind="llamacpp")]
    pools[0].engine.discovered_models = ("base", "lora")
    pools[1].engine.discovered_models = ("base",)
    pools[0].engine.facts = {"lora": ModelFacts("lora", parent="base"), "base": ModelFacts("base", 4096)}
    table = UpstreamTable(pools, None, (), deploy)
    assert table.deployed is None
    found = table.group("lora")
    assert found is not None
    assert found.pools == (pools[0],)


def test_names_that_engines_say_are_so_many_at_most() -> None:
    pools = [place(1)]
    pools[0].engine.discovered_models = ("m",)
    names = tuple(f"a{number}" for number in range(MOST_ALIASES + 5))
    pools[0].engine.facts = {"m": ModelFacts("m", aliases=names)}
    table = UpstreamTable([*pools, place(2)], None, (), deploy)
    assert sum(table.group(name) is not table.group("none") for name in names) == MOST_ALIASES


def test_a_class_looks_at_so_many_engines_of_a_model() -> None:
    """The first that could take it lies beyond: the class goes to its next model, which has one."""
    far = [place(port, models=("m",)) for port in range(1, MOST_LOOKED_AT + 2)]
    for pool in far[:MOST_LOOKED_AT]:
        pool.engine.healthy = False
    near = place(999, models=("n",))
    table = UpstreamTable([*far, near], None, (RouteConfig(model="c", models=["m", "n"]),), deploy)
    assert table.deployed.stands_for("c", Asker()) == "n"


def test_a_model_that_a_route_names_and_nobody_serves_is_unknown() -> None:
    with deployed({"one": {"models": ("n",)}}, RouteConfig(model="m", versions={"v1": 1}, aliases=["a"])) as row:
        for name in ("m", "a"):
            assert row.ask(chat(name)).status == 404


def test_an_alias_in_an_upload_and_in_a_session() -> None:
    with deployed({"one": {"models": ("whisper",)}}, RouteConfig(model="whisper", aliases=["w"])) as row:
        form = (
            b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nw\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nxx\r\n--b--\r\n'
        )
        fields = [("Content-Type", "multipart/form-data; boundary=b")]
        assert row.ask(request("POST", "/v1/audio/transcriptions", headers=fields, body=form)).status == 200
        assert b"\r\n\r\nwhisper\r\n" in row.engines["one"].last.body
        upgrade = [
            ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ]  # fmt: skip
        client = row.talk.client().says(request("GET", "/v1/realtime?model=w", headers=upgrade))
        start = row.engines["one"].last.start
        assert start is not None
        assert start.target == b"/v1/realtime?model=whisper"
        client.leaves()


def test_a_session_with_an_unknown_model_is_refused_before_it_begins() -> None:
    with deployed({"one": {"models": ("m",)}}) as row:
        upgrade = [
            ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ]  # fmt: skip
        answer = row.ask(request("GET", "/v1/realtime?model=x", headers=upgrade))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_what_a_tenant_sees_is_listed_for_each_and_remembered_for_some() -> None:
    engines = {f"e{number}": {"models": (f"m{number}",), "tenant": f"t{number}"} for number in range(40)}
    with deployed(engines, keys=tuple(tenant_key(f"t{number}") for number in range(40))) as row:
        for _ in range(2):
            for number in range(40):
                body = row.ask(request("GET", "/v1/models", key=key_of(f"t{number}"))).body
                assert [one["id"] for one in json.loads(body)["data"]] == [f"m{number}"]


def test_under_the_profile_the_refusal_is_that_of_the_profile() -> None:
    """S3.8: 400 ``no_route``, in its own words."""
    with deployed({"one": {"models": ("llama",)}}, compat="rakka") as row:
        answer = row.ask(chat("lama"))
        assert (answer.status, answer.error["type"]) == (400, "no_route")
        assert answer.error["message"] == "No route to this deployment."


