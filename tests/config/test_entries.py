"""An engine and a route as programs write them: one that exists is valid, and shows no secret."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import Config, ConfigErrors, EngineConfig, RouteConfig
from fastgw.config.check import MAX_ROUTES
from fastgw.config.entries import (
    ENGINE_FIELDS,
    MAX_ALIASES,
    MAX_CLASS,
    MAX_FALLBACKS,
    MAX_NAME_BYTES,
    MAX_RANKS,
    MAX_VERSIONS,
    ROUTE_FIELDS,
)
from fastgw.config.row import Setting
from fastgw.config.table import TABLE

URL = "http://a:1"


def test_what_is_left_open_comes_from_the_url() -> None:
    engine = EngineConfig(url="http://a:1/base/v1", models=["m"])
    assert (engine.url, engine.name, engine.models) == ("http://a:1/base", "a:1/base", ("m",))
    assert EngineConfig(url=URL, name="mine").name == "mine"


@pytest.mark.parametrize(("fields", "told"), [
    ({"url": "a:1"}, ["url"]),
    ({"weight": 0}, ["weight"]),
    ({"weight": True}, ["weight"]),
    ({"ranks": MAX_RANKS + 1}, ["ranks"]),
    ({"ranks": 2, "kind": "ollama"}, ["ranks"]),
    ({"tenant": 1, "version": "a\nb"}, ["tenant", "version"]),
    ({"version": "a\nb"}, ["version"]),
    ({"kind": "vLLM"}, ["kind"]),
    ({"models": "m"}, ["models"]),
    ({"models": ["m", " "]}, ["models"]),
    ({"models": ["m", "a\x1b[2J"]}, ["models"]),
    ({"models": ["m", "x" * (MAX_NAME_BYTES + 1)]}, ["models"]),
    ({"name": " "}, ["name"]),
    ({"name": "a\nb"}, ["name"]),
    ({"name": "é" * (MAX_NAME_BYTES // 2) + "x"}, ["name"]),
    ({"health_path": "health"}, ["health_path"]),
    ({"cancel": 1}, ["cancel"]),
    ({"max_connections": 2, "warm_connections": 3}, ["warm_connections"]),
    ({"weight": 1001, "max_concurrent": -1}, ["max_concurrent", "weight"]),
    ({"api_key": "a b", "health_path": "x"}, ["api_key", "health_path"]),
])  # fmt: skip
def test_every_mistake_of_an_engine_is_told(fields: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigErrors) as found:
        EngineConfig(**{"url": URL, **fields})
    assert sorted(one.name for one in found.value.errors) == told


@pytest.mark.parametrize(("fields", "told"), [
    ({"model": " "}, ["model"]),
    ({"max_concurrent": -1}, ["max_concurrent"]),
    ({"timeout_s": float("nan")}, ["timeout_s"]),
    ({"on_capacity": "wait"}, ["on_capacity"]),
    ({"on_capacity": "fallback"}, ["fallback"]),
    ({"fallback": "m"}, ["fallback"]),
    ({"fallback": ["m"]}, ["fallback"]),
    ({"fallback": [f"m{number}" for number in range(MAX_FALLBACKS + 1)]}, ["fallback"]),
    ({"policy": "fastest"}, ["policy"]),
    ({"policy": "fastest", "timeout_s": -1.0}, ["policy", "timeout_s"]),
    ({"fallback": ["n", "n"]}, ["fallback"]),
    ({"fallback": ["n"], "fallback_on": ["luck"]}, ["fallback_on"]),
    ({"fallback_on": ["failure"]}, ["fallback"]),
    ({"aliases": ["m"]}, ["aliases"]),
    ({"aliases": [f"a{number}" for number in range(MAX_ALIASES + 1)]}, ["aliases"]),
    ({"versions": {"v1": -1}}, ["versions"]),
    ({"versions": {"v1": True}}, ["versions"]),
    ({"versions": {"v1": 0}}, ["versions"]),
    ({"versions": ["v1"]}, ["versions"]),
    ({"versions": {f"v{number}": 1 for number in range(MAX_VERSIONS + 1)}}, ["versions"]),
    ({"versions": {"v1": 1}, "adapter_of": "b"}, ["versions"]),
    ({"adapter_of": "m"}, ["adapter_of"]),
    ({"mirror_to": "m"}, ["mirror_to"]),
    ({"mirror_to": "n", "mirror_percent": 101}, ["mirror_percent"]),
    ({"models": ["m"]}, ["models"]),
    ({"models": [f"n{number}" for number in range(MAX_CLASS + 1)]}, ["models"]),
    ({"models": ["n"], "max_concurrent": 1, "sticky": True}, ["max_concurrent", "sticky"]),
    ({"machine": "gpu"}, ["machine"]),
    ({"choose": "best"}, ["choose"]),
])  # fmt: skip
def test_every_mistake_of_a_route_is_told(fields: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigErrors) as found:
        RouteConfig(**{"model": "m", **fields})
    assert sorted(one.name for one in found.value.errors) == told


@pytest.mark.parametrize(("holder", "row"), [
    *((EngineConfig, row) for row in ENGINE_FIELDS),
    *((RouteConfig, row) for row in ROUTE_FIELDS),
    *((Config, row) for row in TABLE),
], ids=lambda one: getattr(one, "name", None) or one.__name__)  # fmt: skip
@pytest.mark.parametrize("wrong", [(5j,), {"a": 5j}, 5j, b"text", "no"], ids=repr)
def test_a_value_of_another_type_is_a_mistake_of_its_field(holder: Any, row: Setting, wrong: object) -> None:
    """(Text is no mistake of a text, and a choice says which ones it takes.)"""
    if row.kind == "text" and wrong == "no":
        return
    needed = {EngineConfig: {"url": URL}, RouteConfig: {"model": "m"}, Config: {}}[holder]
    with pytest.raises(ConfigErrors) as found:
        holder(**{**needed, row.name: wrong})
    assert [one.name for one in found.value.errors] == [row.name]


def test_names_may_be_as_long_as_that_and_cancel_is_said_as_in_files() -> None:
    longest = "é" * (MAX_NAME_BYTES // 2)
    as_files: Any = {"cancel": "auto"}
    engine = EngineConfig(url=URL, name=longest, models=[longest], **as_files)
    assert (engine.name, engine.models, engine.cancel) == (longest, (longest,), None)


def test_no_repr_and_no_mistake_shows_a_key() -> None:
    assert "secret" not in repr(EngineConfig(url=URL, api_key="secret"))
    with pytest.raises(ConfigErrors) as found:
        EngineConfig(url=URL, api_key="a secret")
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(("routes", "told"), [
    ([{"model": "m"}, {"model": "m"}], "two routes are for the model 'm'"),
    ([{"model": "m", "aliases": ["a"]}, {"model": "n", "aliases": ["a"]}], "the alias 'a' is named twice"),
    ([{"model": "m", "aliases": ["a"]}, {"model": "a"}], "the alias 'a' is a model with a route of its own"),
    ([{"model": "m", "aliases": ["a"]}, {"model": "n", "fallback": ["a"]}], "fallback of 'n' names 'a'"),
    ([{"model": "c", "models": ["m"]}, {"model": "d", "models": ["c"]}], "models of 'd' names 'c'"),
    ([{"model": "c", "models": ["m"]}, {"model": "n", "mirror_to": "c"}], "mirror_to of 'n' names 'c'"),
    ([{"model": f"m{number}"} for number in range(MAX_ROUTES + 1)], "there are more than"),
])  # fmt: skip
def test_a_name_means_one_thing(routes: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigErrors, match=told):
        Config(routes=[RouteConfig(**route) for route in routes])
