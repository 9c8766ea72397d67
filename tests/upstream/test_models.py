"""What engines say of their models: each kind's words, what is no word at all, and what a gateway has learned of each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastgw.config.names import EngineKind
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from fastgw.sim.kinds import LOADED_CONTEXT
from fastgw.upstream import lists
from fastgw.upstream.kinds.registry import KINDS, kind_of
from fastgw.upstream.models import (
    MOST_ALIASES,
    MOST_CONTEXT,
    Facts,
    ModelFacts,
    Reader,
    by_info,
    by_props,
    by_running,
    by_state,
    in_list,
    trained_for,
)
from tests.e2e.metered import ask, say
from tests.support.client import RawClient
from tests.support.gateway import running
from tests.support.probed import PROBED

ONE: Facts = {"m": ModelFacts("m", 7)}


def said(*rows: dict[str, Any]) -> Facts:
    return in_list(json.dumps({"data": rows}).encode(), [row["id"] for row in rows])


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ({"id": "m", "max_model_len": 8192}, ModelFacts("m", 8192)),
        ({"id": "m", "meta": {"n_ctx_train": 4096}}, ModelFacts("m", 4096)),
        ({"id": "m", "meta": {"n_ctx": 512, "n_ctx_train": 4096}}, ModelFacts("m", 512)),
        ({"id": "m", "max_model_len": "8192"}, ModelFacts("m")),
        ({"id": "m", "max_model_len": True}, ModelFacts("m")),
        ({"id": "m", "max_model_len": -1}, ModelFacts("m")),
        ({"id": "m", "max_model_len": MOST_CONTEXT + 1}, ModelFacts("m")),
        ({"id": "m", "meta": [1]}, ModelFacts("m")),
        ({"id": "m", "root": "m", "parent": None}, ModelFacts("m", root="m")),
        ({"id": "m", "owned_by": "acme", "root": "x" * 257}, ModelFacts("m", owner="acme")),
        ({"id": "a", "root": "/adapters/a", "parent": "m"}, ModelFacts("a", 0, "m", root="/adapters/a")),
        ({"id": "m", "aliases": ["x", "m", 7, "y\n", "x"]}, ModelFacts("m", aliases=("x",))),
        ({"id": "m", "aliases": [str(at) for at in range(99)]},
         ModelFacts("m", aliases=tuple(str(at) for at in range(MOST_ALIASES)))),
        ({"id": "m", "status": {"value": "unloaded"}}, ModelFacts("m", loaded=False)),
        ({"id": "m", "status": {"value": "loaded"}}, ModelFacts("m", loaded=True)),
        ({"id": "m", "state": "not-loaded"}, ModelFacts("m", loaded=False)),
    ],
)  # fmt: skip
def test_what_a_list_says_of_a_model(row: dict[str, Any], fact: ModelFacts) -> None:
    assert said(row) == {fact.name: fact}


def test_names_of_one_model_are_each_others() -> None:
    found = said(
        {"id": "a", "root": "/m", "parent": None}, {"id": "b", "root": "/m", "parent": None}, {"id": "c", "root": "/c"},
        {"id": "l", "root": "/m", "parent": "a"},
    )  # fmt: skip
    assert {name: one.aliases for name, one in found.items()} == {"a": ("b",), "b": ("a",), "c": (), "l": ()}


NOTHING = (b"", b"x", b"[]", b"7", b'{"data":7}', b'{"data":[7]}', b'{"data":[{"id":[]}]}', b"{" * 100_000)


@pytest.mark.parametrize("body", NOTHING)
def test_what_is_no_list_says_nothing(body: bytes) -> None:
    assert in_list(body, ["m"]) == {"m": ModelFacts("m")}
    for read in (by_props, by_info, by_state):
        assert read(body, ONE) == ONE
    assert trained_for(body) == 0


@pytest.mark.parametrize(
    ("read", "document", "fact"),
    [
        (by_props, {"default_generation_settings": {"n_ctx": 512}}, ModelFacts("m", 512)),
        (by_props, {"default_generation_settings": {"n_ctx": 0}, "role": "router"}, ModelFacts("m", 7)),
        (by_info, {"model_id": "other", "max_total_tokens": 2048}, ModelFacts("m", 2048)),
        (by_info, {"model_id": "other"}, ModelFacts("m", 7)),
        (by_state, {"data": [{"id": "m", "state": "not-loaded", "max_context_length": 99}]}, ModelFacts("m", 99, loaded=False)),
        (by_state, {"data": [{"id": "m", "state": "loaded", "max_context_length": 99, "loaded_context_length": 9}]},
         ModelFacts("m", 9, loaded=True)),
        (by_state, {"data": [{"id": "n", "state": "loaded"}]}, ModelFacts("m", 7)),
        (by_running, {"models": [{"name": "m", "context_length": 50}]}, ModelFacts("m", 50, loaded=True)),
        (by_running, {"models": []}, ModelFacts("m", 7, loaded=False)),
    ],
)  # fmt: skip
def test_what_a_path_of_its_own_says(read: Reader, document: dict[str, Any], fact: ModelFacts) -> None:
    assert read(json.dumps(document).encode(), ONE) == {"m": fact}


def test_ollama_takes_a_name_without_its_tag_and_tgi_may_have_no_list() -> None:
    body = b'{"models": [{"name": "q:latest"}, {"name": "b:7b"}]}'
    found = in_list(body, ["q:latest", "b:7b"], kind_of("ollama").also)
    assert {name: one.aliases for name, one in by_running(b"{}", found).items()} == {"q:latest": ("q",), "b:7b": ()}
    assert by_info(b'{"model_id":"m","max_total_tokens":5}', {}) == {"m": ModelFacts("m", 5)}
    assert trained_for(b'{"model_info":{"general.x":"y","llama.context_length":131072}}') == 131072


FULL = 131_072
TOLD: dict[EngineKind, dict[str, tuple[int, str, bool | None, tuple[str, ...]]]] = {
    "vllm": {"m": (FULL, "", None, ()), "m:lora": (0, "m", None, ())},
    "sglang": {"m": (FULL, "", None, ()), "m:lora": (0, "m", None, ())},
    "tgi": {"m": (FULL, "", None, ()), "m:lora": (FULL, "", None, ())},
    "llamacpp": {"m": (LOADED_CONTEXT, "", None, ("m-short",)), "m:lora": (LOADED_CONTEXT, "", None, ("m:lora-short",))},
    "ollama": {"m": (LOADED_CONTEXT, "", True, ("m:latest",)), "m:lora": (FULL, "", False, ())},
    "lmstudio": {"m": (LOADED_CONTEXT, "", True, ()), "m:lora": (FULL, "", False, ())},
}


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS if kind.owned_by or kind.asked[0]])
async def test_a_gateway_finds_out_what_an_engine_is_and_what_its_models_are(kind: EngineKind) -> None:
    async with Simulator(SimConfig(plays=kind, models=("m", "m:lora"))) as sim, running([sim.url], model_refresh_s=0.05) as gw:
        (pool,) = gw.gateway.fleet.pools
        engine = pool.engine
        await gw.until("it is known", lambda: engine.kind.name == kind)
        def found() -> Any:
            return {name: (one.context_tokens, one.parent, one.loaded, one.aliases) for name, one in engine.facts.items()}

        await gw.until("its models are", lambda: found() == TOLD[kind])
        assert engine.discovered_models == ("m", "m:lora")
        assert engine.healthy


async def test_one_that_is_none_of_these_is_asked_once() -> None:
    async with Simulator() as sim, running([sim.url], model_refresh_s=0.05, health_interval_s=0.05) as gw:
        (pool,) = gw.gateway.fleet.pools
        await gw.until("its models are known", lambda: pool.engine.discovered_models)
        await gw.until("they are read again", lambda: sum(one.path == "/v1/models" for one in sim.requests) > 2)
        asked = [one.path for one in sim.requests if one.path not in ("/health", "/v1/models")]
        assert sorted(asked) == sorted(PROBED - {"/health", "/v1/models"})
        assert pool.engine.kind.name == "auto"


async def test_an_alias_leads_to_the_engine_that_has_it_and_is_not_listed() -> None:
    async with (
        Simulator(SimConfig(plays="llamacpp", models=("m",), any_model=True)) as sim,
        Simulator(SimConfig(models=("other",))) as other,
        running([other.url, sim.url]) as gw,
    ):
        await gw.until("both are known", lambda: all(pool.engine.facts for pool in gw.gateway.fleet.pools))
        for _ in range(2):
            async with RawClient.connect(gw.url) as client:
                assert (await ask(client, say(model="m-short", max_tokens=1, key=None))).status == 200
        assert set(gw.gateway.fleet.table.models) == {"m", "other"}


async def test_a_list_that_fails_now_and_then_forgets_nothing() -> None:
    """(Of one kind: `/info` is closed in the face of every second question.)"""
    asked = 0

    async def play(conn: ScriptedConnection) -> None:
        nonlocal asked
        one = await conn.read_request()
        body = b'{"data":[{"id":"m"}]}'
        if one.target == b"/info":
            asked += 1
            if asked > 2:
                return
            body = b'{"model_id":"m","max_total_tokens":77}'
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))

    settings: dict[str, Any] = {"warm_connections": 0, "model_refresh_s": 0.05, "health_interval_s": 0.05}
    async with ScriptedEngine(play) as engine, running([engine.url], **settings) as gw:
        (pool,) = gw.gateway.fleet.pools
        await gw.until("it fails", lambda: asked > 4)
        await asyncio.sleep(0.05)
        assert pool.engine.facts["m"].context_tokens == 77


async def test_no_more_models_are_asked_for_one_by_one_than_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_SHOWN", 2)
    models = tuple(f"m{at}" for at in range(5))
    async with Simulator(SimConfig(plays="ollama", models=models)) as sim, running([sim.url], health_interval_s=0.05) as gw:
        (pool,) = gw.gateway.fleet.pools
        await gw.until("it is known", lambda: len(pool.engine.facts) == 5)
        await gw.until("some are asked for", lambda: sum(one.path == "/api/show" for one in sim.requests) == 2)
