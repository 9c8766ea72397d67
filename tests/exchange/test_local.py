"""The list of models: written once for each table and each set of models that a key may use, however often it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from time import perf_counter
from typing import Any
from urllib.parse import quote

import pytest

from fastgw import EngineConfig, RouteConfig
from fastgw.exchange import local
from fastgw.limits.key import KeyRecord
from fastgw.protocol.openai import models_list
from fastgw.upstream.models import ModelFacts
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running

MANY = 10_000
HEADS = 200
NAMES = ("b", "a", "\u00e9 %/x", "c")


class Written(list[int]):
    """How many models each list had that was written."""

    def __call__(self, models: list[tuple[str, str, int, int]]) -> bytes:
        self.append(len(models))
        return models_list(models)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    counted = Written()
    monkeypatch.setattr(local, "models_list", counted)
    return counted


def engine(models: Iterable[str], at: int = 9) -> EngineConfig:
    """Nobody is there: the list is that of the configuration."""
    return EngineConfig(url=f"http://127.0.0.1:{at}", models=tuple(models))


def keys(gw: Running, models: dict[str, tuple[str, ...]]) -> None:
    records = [
        KeyRecord(id=f"key_{name}", digest=sha256(name.encode()).digest(), models=allowed) for name, allowed in models.items()
    ]
    core: Any = gw.gateway.core
    core.accounts.apply(records, 0, 0.0)


async def listed(client: RawClient, key: str | None = None) -> list[str]:
    answer = await client.ask(request("GET", "/v1/models", key=key))
    assert answer.status == 200
    assert {one["owned_by"] for one in answer.json()["data"]} <= {"fastgw"}
    return [one["id"] for one in answer.json()["data"]]


async def test_a_list_is_written_once(written: Written) -> None:
    async with running([engine(NAMES)], served_model_name="mine") as gw, await gw.client() as client:
        whole = [await client.ask(request("GET", "/v1/models")) for _ in range(3)]
        assert [one["id"] for one in whole[0].json()["data"]] == ["mine", *sorted(NAMES)]
        assert len({one.body for one in whole}) == 1
        empty = await client.ask(request("HEAD", "/v1/models"), head_only=True)
        assert empty.header("content-length") == str(len(whole[0].body))
        for one in whole[0].json()["data"]:
            assert (await client.ask(request("GET", "/v1/models/" + quote(one["id"], safe="")))).json() == one
        for name in ("d", "", "%", "%62%", "b" * 200, "%62" * 9000):
            assert (await client.ask(request("GET", f"/v1/models/{name}"))).status == 404
        assert written == [5]


async def test_each_key_has_its_own_and_few_are_remembered(written: Written) -> None:
    names = [f"m{at:02}" for at in range(40)]
    async with running([engine(names)]) as gw, await gw.client() as client:
        keys(gw, {name: (name, "strange", "m39") for name in names} | {"same": ("m39", "m05", "strange"), "all": ()})
        for _ in range(2):
            assert await listed(client, "m05") == ["m05", "m39"]
            assert await listed(client, "same") == ["m05", "m39"]
            assert await listed(client, "all") == names
        assert written == [2, 40], "keys with the same models share a list"
        for name in names:
            assert await listed(client, name) == list(dict.fromkeys((name, "m39")))
        assert len(gw.gateway.core.locals["models"].__self__._listed._pages) == local.MOST_PAGES  # type: ignore[union-attr, attr-defined]
        keys(gw, {"m05": ("m06",)})
        assert await listed(client, "m05") == ["m06"]
        assert (await client.ask(request("GET", "/v1/models/m06", key="m05"))).status == 200
        assert (await client.ask(request("GET", "/v1/models/m05", key="m05"))).status == 404


async def test_another_table_is_another_list(written: Written) -> None:
    async with running([engine(["a"]), engine([], 8)]) as gw, await gw.client() as client:
        core: Any = gw.gateway.core
        assert await listed(client) == ["a"]
        core.table.pools[1].engine.discovered_models = ("b", "a")
        gw.gateway.fleet.publish()
        assert await listed(client) == ["a", "b"]
        assert (await client.ask(request("GET", "/v1/models/b"))).status == 200
        assert written == [1, 2]


def test_how_much_context_fits_is_the_least_of_those_who_serve_a_model_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: dict[str, dict[str, Any]] = {
        "a": {"models": ("m", "n")}, "b": {"models": ("m",)}, "theirs": {"models": ("m",), "tenant": "acme"},
        "named": {"models": ("mine",), "served_name": "org/mine"},
    }  # fmt: skip
    said = {"a": {"m": 8192}, "b": {"m": 4096, "n": 1}, "theirs": {"m": 2048}, "named": {"org/mine": 512}}
    routes = RouteConfig(model="m", aliases=["gpt"]), RouteConfig(model="class:fast", models=["n", "m"])
    with deployed(engines, *routes, keys=(tenant_key("acme"), tenant_key("other"))) as row:
        for name, contexts in said.items():
            row.engines[name].engine.facts = {model: ModelFacts(model, fits) for model, fits in contexts.items()}
        row.learn()

        def fits(tenant: str, one: str = "") -> Any:
            answer = row.ask(request("GET", f"/v1/models{one}", key=key_of(tenant))).json()
            if one:
                return answer.get("max_model_len")
            return {model["id"]: model.get("max_model_len") for model in answer["data"]}

        whole = {"m": 4096, "n": None, "gpt": 4096, "class:fast": 4096, "mine": 512}
        assert fits("other") == whole
        assert fits("acme") == {**whole, "m": 2048, "gpt": 2048, "class:fast": 2048}
        assert {name: fits("other", f"/{name}") for name in whole} == whole
        assert fits("acme", "/gpt") == 2048
        monkeypatch.setattr(local, "MOST_LOOKED_AT", 3)
        row.learn()
        assert set(fits("other").values()) == {None}, "too many engines to look at"
        assert fits("other", "/m") == 4096


@pytest.mark.quiet
async def test_ten_thousand_models_cost_a_request_no_more_than_ten() -> None:
    """(Asked for without the list itself: the system has to send that.)"""
    least_s = []
    for count in (10, MANY):
        async with running([engine(f"org/model-{at}" for at in range(count))]) as gw, await gw.client() as client:
            assert len((await client.ask(request("GET", "/v1/models"))).json()["data"]) == count
            took = []
            for _ in range(HEADS):
                begin = perf_counter()
                await client.ask(request("HEAD", "/v1/models"), head_only=True)
                await client.ask(request("GET", "/v1/models/org/model-9"))
                took.append(perf_counter() - begin)
            least_s.append(min(took))
    assert least_s[1] < least_s[0] + 100e-6, least_s
