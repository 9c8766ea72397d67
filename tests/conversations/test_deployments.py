"""Deployments (S3.6, S3.11, S4.9): how one name becomes engines, by version, tenant, alias and class."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import RouteConfig
from fastgw.policy.deployments import MODEL_FIELD, told
from fastgw.upstream.models import ModelFacts
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.conversation import kills
from tests.support.requests import chat, request
from tests.support.scripts import ok

TWO_VERSIONS: dict[str, dict[str, Any]] = {
    "old": {"models": ("m",), "version": "v1"},
    "new": {"models": ("m",), "version": "v2"},
    "next": {"models": ("m",), "version": "v3"},
}


def listed(body: bytes) -> list[str]:
    return [one["id"] for one in json.loads(body)["data"]]


class TestVersions:
    def test_each_version_gets_its_share_and_one_that_is_not_named_nothing(self) -> None:
        with deployed(TWO_VERSIONS, RouteConfig(model="m", versions={"v1": 3, "v2": 1})) as row:
            for _ in range(400):
                row.ask(chat())
            asked = row.asked
            assert asked["next"] == 0
            assert 60 <= asked["new"] <= 140

    @pytest.mark.parametrize("sticky", [True, False])
    def test_a_key_stays_at_its_version_where_that_is_wanted(self, sticky: bool) -> None:
        keys = tuple(tenant_key(f"t{number}") for number in range(40))
        with deployed(TWO_VERSIONS, RouteConfig(model="m", versions={"v1": 1, "v2": 1}, sticky=sticky), keys=keys) as row:
            seen = {
                number: Counter(row.goes_to(chat(key=key_of(f"t{number}"))) for _ in range(8)) for number in range(40)
            }
            stays = [number for number, engines in seen.items() if len(engines) == 1]
            if sticky:
                assert len(stays) == 40
                first = Counter(next(iter(engines)) for engines in seen.values())
                assert min(first["old"], first["new"]) > 5
            else:
                assert len(stays) < 10

    def test_who_was_a_canary_stays_one_when_the_share_grows(self) -> None:
        keys = tuple(tenant_key(f"t{number}") for number in range(60))
        told: list[set[int]] = []
        for share in (10, 30):
            route = RouteConfig(model="m", versions={"v1": 100 - share, "v2": share}, sticky=True)
            with deployed(TWO_VERSIONS, route, keys=keys) as row:
                told.append({number for number in range(60) if row.goes_to(chat(key=key_of(f"t{number}"))) == "new"})
        assert told[0] < told[1]

    def test_without_keys_it_is_the_address_that_stays(self) -> None:
        with deployed(TWO_VERSIONS, RouteConfig(model="m", versions={"v1": 1, "v2": 1}, sticky=True)) as row:
            seen = {ip: {row.goes_to(chat(), ip) for _ in range(6)} for ip in (f"127.0.0.{n}" for n in range(1, 20))}
            assert all(len(engines) == 1 for engines in seen.values())
            assert len(set.union(*seen.values())) == 2

    @pytest.mark.parametrize("goes", ["ill", "ejected", "away"])
    def test_only_the_keys_of_a_version_that_goes_move_and_they_come_back(self, goes: str) -> None:
        keys = tuple(tenant_key(f"t{number}") for number in range(60))
        route = RouteConfig(model="m", versions={"v1": 2, "v2": 2, "v3": 1}, sticky=True)
        with deployed(TWO_VERSIONS, route, keys=keys) as row:
            def places() -> dict[int, str]:
                return {number: row.goes_to(chat(key=key_of(f"t{number}"))) for number in range(60)}

            before = places()
            engine = row.engines["new"].engine
            row.learn(*("new",) if goes == "away" else ())
            engine.healthy, engine.ejected_until, engine.held = goes != "ill", 2.0**40 * (goes == "ejected"), goes == "ejected"
            after = places()
            assert {number for number in before if after[number] != before[number]} == {
                number for number in before if before[number] == "new"
            }
            assert {after[number] for number in before if before[number] == "new"} == {"old", "next"}
            engine.healthy, engine.ejected_until, engine.held = True, 0.0, False
            row.learn()
            assert places() == before

    def test_while_no_engine_of_a_version_is_well_the_others_have_its_share(self) -> None:
        with deployed(TWO_VERSIONS, RouteConfig(model="m", versions={"v1": 1, "v2": 1})) as row:
            row.engines["new"].engine.healthy = False
            assert {row.goes_to(chat()) for _ in range(20)} == {"old"}
            row.engines["new"].engine.healthy = True
            assert {row.goes_to(chat()) for _ in range(20)} == {"old", "new"}

    def test_a_limit_of_the_route_holds_for_all_its_versions_together(self) -> None:
        route = RouteConfig(model="m", versions={"v1": 1, "v2": 1}, max_concurrent=2, on_capacity="reject")
        silent = {"old": lambda asked: None, "new": lambda asked: None}
        with deployed(TWO_VERSIONS, route, plays=silent) as row:  # type: ignore[arg-type]
            clients = [row.talk.client().says(chat()) for _ in range(6)]
            assert sum(row.asked.values()) == 2
            assert Counter(client.seen.status for client in clients if client.sink is None) == {429: 4}
            for name in ("old", "new"):
                for stream in list(row.engines[name].asked):
                    stream.closes("reset")

    def test_who_waits_for_a_version_goes_when_it_has_room(self) -> None:
        engines = {name: {**fields, "max_concurrent": 1} for name, fields in TWO_VERSIONS.items()}
        route = RouteConfig(model="m", versions={"v1": 1, "v2": 1})
        silent = {"old": lambda asked: None, "new": lambda asked: None}
        with deployed(engines, route, plays=silent) as row:  # type: ignore[arg-type]
            clients = [row.talk.client().says(chat()) for _ in range(10)]
            assert row.asked == {"old": 1, "new": 1, "next": 0}
            assert row.talk.waiting == 8
            for _ in range(10):
                for name in ("old", "new"):
                    for stream in row.engines[name].asked:
                        if not stream.closed and stream.waiting:
                            stream.says(ok())
            assert [client.seen.status for client in clients] == [200] * 10
            assert row.asked["old"] + row.asked["new"] == 10


class TestTenants:
    ENGINES: ClassVar[dict[str, dict[str, Any]]] = {
        "shared": {"models": ("m", "s")},
        "theirs": {"models": ("m", "own"), "tenant": "acme"},
    }
    KEYS = (tenant_key("acme"), tenant_key("other"))

    def test_a_tenant_s_engines_are_its_own_and_it_uses_no_others(self) -> None:
        with deployed(self.ENGINES, keys=self.KEYS) as row:
            assert {row.goes_to(chat(key=key_of("acme"))) for _ in range(4)} == {"theirs"}
            assert {row.goes_to(chat(key=key_of("other"))) for _ in range(4)} == {"shared"}
            assert row.goes_to(chat("s", key=key_of("acme"))) == "shared"

    def test_what_only_a_tenant_has_is_unknown_to_all_others(self) -> None:
        with deployed(self.ENGINES, keys=self.KEYS) as row:
            assert row.goes_to(chat("own", key=key_of("acme"))) == "theirs"
            refused = row.ask(chat("own", key=key_of("other")))
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert "own" not in refused.error["message"]
            close = row.ask(chat("owm", key=key_of("other")))
            assert "own" not in close.error["message"]
            assert "own" in row.ask(chat("owm", key=key_of("acme"))).error["message"]

    def test_no_fallback_and_no_further_name_tells_of_what_only_a_tenant_has(self) -> None:
        """A name whose model is another's is 404 as one that nobody has, also by an alias, by a class, and where engines judge
        names themselves."""
        routes = (
            RouteConfig(model="own", aliases=["mine"], fallback=["s"], fallback_on=["failure"]),
            RouteConfig(model="class:own", models=["own"], fallback=["s"], fallback_on=["failure"]),
        )
        with deployed(self.ENGINES, *routes, keys=self.KEYS) as row:
            row.engines["theirs"].engine.healthy = None
            for name in ("own", "mine", "class:own"):
                assert row.goes_to(chat(name, key=key_of("acme"))) == "theirs"
                assert row.ask(chat(name, key=key_of("other"))).status == 404
            row.engines["theirs"].engine.draining = True
            assert row.goes_to(chat("own", key=key_of("acme"))) == "shared", "whose it is, falls back"
            assert row.ask(chat("own", key=key_of("other"))).status == 404
        with deployed({**self.ENGINES, "judges": {}}, *routes, keys=self.KEYS) as row:
            for tenant, more in (("acme", {"own", "mine", "class:own"}), ("other", set())):
                answer = row.ask(request("GET", "/v1/models", key=key_of(tenant)))
                assert set(listed(answer.body)) == {"m", "s"} | more

    def test_two_tenants_whose_engines_judge_names_wait_apart(self) -> None:
        engines: dict[str, dict[str, Any]] = {
            f"of {tenant}": {"tenant": tenant, "max_concurrent": 1} for tenant in ("acme", "other")
        }
        routes = tuple(RouteConfig(model=model, max_concurrent=9) for model in ("m", "n"))
        silent: Any = dict.fromkeys(engines, lambda asked: None)
        with deployed(engines, *routes, keys=self.KEYS, plays=silent) as row:
            for tenant in ("acme", "acme", "acme", "other"):
                for model in ("m", "n"):
                    row.talk.client().says(chat(model, key=key_of(tenant)))
            assert row.asked == {"of acme": 1, "of other": 1}, "each has room at its own"
            answered = 0
            for _ in range(4):
                for stream in row.engines["of other"].asked:
                    if not stream.closed and stream.waiting:
                        stream.says(ok())
                        answered += 1
                row.talk.passes(0.01)
            assert answered == 2, "who waits at one's engines does not wait behind those of another"
            for _ in range(8):
                for stream in row.engines["of acme"].asked:
                    if not stream.closed and stream.waiting:
                        stream.says(ok())
                row.talk.passes(0.01)
            assert row.talk.waiting == 0

    def test_each_sees_its_own_models(self) -> None:
        with deployed(self.ENGINES, keys=self.KEYS) as row:
            for tenant, models in (("acme", ["m", "own", "s"]), ("other", ["m", "s"])):
                answer = row.ask(request("GET", "/v1/models", key=key_of(tenant)))
                assert sorted(listed(answer.body)) == models
            assert row.ask(request("GET", "/v1/models/own", key=key_of("acme"))).status == 200
            assert row.ask(request("GET", "/v1/models/own", key=key_of("other"))).status == 404

    NAMES: ClassVar[list[str]] = ["m", "s", "own", "gpt", "class:any", "m-latest", "own-latest", "nobody's", "s-latest"]

    @pytest.mark.parametrize("tenant", ["acme", "other"])
    @given(allowed=st.sets(st.sampled_from(NAMES)))
    def test_the_list_its_rows_and_what_is_answered_agree(self, tenant: str, allowed: set[str]) -> None:
        """Whatever a key may use, and by which names."""
        engines = {"shared": {"kind": "vllm"}, "theirs": {"tenant": "acme"}}
        routes = [RouteConfig(model="m", aliases=["gpt"]), RouteConfig(model="class:any", models=["own", "s"])]
        with deployed(engines, *routes, keys=(tenant_key(tenant, *sorted(allowed)),)) as row:
            for name, models in (("shared", ("m", "s")), ("theirs", ("m", "own"))):
                engine = row.engines[name].engine
                engine.discovered_models = models
                engine.facts = {model: ModelFacts(model, aliases=(f"{model}-latest",)) for model in models}
            row.learn()
            page = listed(row.ask(request("GET", "/v1/models", key=key_of(tenant))).body)
            rows = {
                name: row.ask(request("GET", f"/v1/models/{quote(name, safe='')}", key=key_of(tenant))).status
                for name in self.NAMES
            }
            assert rows == {name: 200 if name in page else 404 for name in self.NAMES}
            assert len(page) == len(set(page))
            assert {row.ask(chat(name, key=key_of(tenant))).status for name in page} <= {200}
            assert allowed - set(page) <= {"nobody's", "own", "own-latest", "class:any"}

    def test_an_engine_that_judges_names_itself_is_nobody_else_s_either(self) -> None:
        engines = {"shared": {"models": ("s",)}, "theirs": {"tenant": "acme"}}
        with deployed(engines, keys=self.KEYS) as row:
            assert row.goes_to(chat("anything", key=key_of("acme"))) == "theirs"
            assert row.ask(chat("anything", key=key_of("other"))).status == 404

    def test_its_engines_down_it_is_not_let_onto_those_of_all(self) -> None:
        with deployed(self.ENGINES, keys=self.KEYS, plays={"theirs": lambda asked: asked.closes("reset")}) as row:
            row.engines["theirs"].engine.draining = True
            assert row.ask(chat(key=key_of("acme"))).status == 503
            assert row.asked["shared"] == 0


class TestNames:
    ROUTE = RouteConfig(model="llama", aliases=["gpt-4o", "gpt-4"], max_concurrent=9)
    ENGINES: ClassVar[dict[str, dict[str, Any]]] = {"one": {"models": ("llama",)}, "two": {"models": ("qwen",)}}

    def test_S4_09_an_alias_is_rewritten_to_its_model(self) -> None:
        with deployed(self.ENGINES, self.ROUTE) as row:
            assert row.goes_to(chat("gpt-4o")) == "one"
            assert row.sent("one")["model"] == "llama"
            [record] = row.talk.records
            assert (record["model"], record["served_model"]) == ("gpt-4o", "llama")

    def test_it_is_listed_and_what_it_hides_is_not_reached(self) -> None:
        engines = {**self.ENGINES, "real": {"models": ("gpt-4o",)}}
        with deployed(engines, self.ROUTE) as row:
            assert row.goes_to(chat("gpt-4o")) == "one"
            assert sorted(listed(row.ask(request("GET", "/v1/models")).body)) == ["gpt-4", "gpt-4o", "llama", "qwen"]

    @pytest.mark.parametrize(("models", "asked", "status"), [
        (("llama",), "gpt-4o", 200), (("gpt-4o",), "gpt-4o", 200), (("gpt-4o",), "llama", 403), (("qwen",), "gpt-4o", 403),
    ])  # fmt: skip
    def test_a_key_may_use_a_name_or_what_it_stands_for(self, models: tuple[str, ...], asked: str, status: int) -> None:
        with deployed(self.ENGINES, self.ROUTE, keys=(tenant_key("t", *models),)) as row:
            assert row.ask(chat(asked, key=key_of("t"))).status == status

    def test_an_engine_is_asked_by_its_own_other_names_as_they_are(self) -> None:
        with deployed({"one": {}}) as row:
            engine = row.engines["one"].engine
            engine.discovered_models = ("llama-3.1-8b",)
            engine.facts = {"llama-3.1-8b": ModelFacts("llama-3.1-8b", aliases=("small",))}
            row.learn()
            assert row.goes_to(chat("small")) == "one"
            assert row.sent("one")["model"] == "small"


class TestClasses:
    """S4.9: ``class:<name>``, loaded before available, by machine and load."""

    ENGINES: ClassVar[dict[str, dict[str, Any]]] = {
        "a": {"models": ("small",), "machine": "cpu"},
        "b": {"models": ("large",), "machine": "gpu"},
    }

    def route(self, **fields: Any) -> RouteConfig:
        return RouteConfig(model="class:fast", models=["small", "large"], **fields)

    def test_S4_09_the_first_of_its_models_that_has_room(self) -> None:
        with deployed(self.ENGINES, self.route()) as row:
            assert row.goes_to(chat("class:fast")) == "a"
            assert row.sent("a")["model"] == "small"
            row.engines["a"].engine.healthy = False
            answer = row.ask(chat("class:fast"))
            assert answer.header("x-fastgw-model") == "large"
            assert row.sent("b")["model"] == "large"

    def test_who_answers_in_place_of_another_of_its_models_is_named(self) -> None:
        lines = told(b"x-a: b\r\n" + MODEL_FIELD % b"small", "small", "large")
        assert lines == b"x-a: b\r\nx-fastgw-model: large\r\nx-fallback-model: large\r\n"
        assert told(b"", "small", "large") == b"x-fallback-model: large\r\n", "its own name was asked for"

    def test_S4_09_loaded_before_available(self) -> None:
        with deployed(self.ENGINES, self.route()) as row:
            row.engines["a"].engine.facts = {"small": ModelFacts("small", loaded=False)}
            assert row.goes_to(chat("class:fast")) == "b"
            row.engines["b"].engine.facts = {"b's": ModelFacts("b's", loaded=False, aliases=("large",))}
            assert row.goes_to(chat("class:fast")) == "a"

    def test_S4_09_by_machine_and_by_load(self) -> None:
        with deployed(self.ENGINES, self.route(machine="gpu")) as row:
            assert row.goes_to(chat("class:fast")) == "b"
        with deployed(self.ENGINES, self.route(choose="least_loaded")) as row:
            row.engines["a"].engine.inflight = 3
            assert row.goes_to(chat("class:fast")) == "b"
            row.engines["a"].engine.inflight = 0
            assert row.goes_to(chat("class:fast")) == "a"

    def test_a_key_gets_those_of_its_models_that_it_may_use(self) -> None:
        keys = tenant_key("one", "large"), tenant_key("all", "class:fast"), tenant_key("none", "other")
        with deployed(self.ENGINES, self.route(), keys=keys) as row:
            assert row.goes_to(chat("class:fast", key=key_of("one"))) == "b"
            assert row.goes_to(chat("class:fast", key=key_of("all"))) == "a"
            assert row.ask(chat("class:fast", key=key_of("none"))).status == 403

    def test_who_may_use_the_class_may_go_on_to_the_next_of_it(self) -> None:
        keys = tenant_key("all", "class:fast"), tenant_key("one", "small")
        with deployed(self.ENGINES, self.route(), keys=keys, plays={"a": status(503)}) as row:
            assert row.ask(chat("class:fast", key=key_of("all"))).header("x-fallback-model") == "large"
            assert row.ask(chat("class:fast", key=key_of("one"))).status == 503

    def test_no_model_is_named_where_none_has_answered(self) -> None:
        with deployed(self.ENGINES, self.route(), plays=dict.fromkeys("ab", kills)) as row:
            answer = row.ask(chat("class:fast"))
            assert (answer.status, row.asked) == (502, {"a": 1, "b": 1})
            assert [answer.header(name) for name in ("x-fastgw-model", "x-fallback-model")] == [None, None]

    def test_a_class_of_which_nothing_is_there(self) -> None:
        with deployed({"x": {"models": ("other",)}}, self.route()) as row:
            assert row.ask(chat("class:fast")).status == 404
            assert listed(row.ask(request("GET", "/v1/models")).body) == ["other"]

    def test_when_its_model_fails_the_next_one_answers(self) -> None:
        route = self.route(fallback=["other"], fallback_on=["failure"])
        engines = {**self.ENGINES, "c": {"models": ("other",)}}
        with deployed(engines, route, plays=dict.fromkeys("ab", status(503))) as row:
            answer = row.ask(chat("class:fast"))
            assert (answer.status, row.asked) == (200, {"a": 1, "b": 1, "c": 1})
            assert answer.header("x-fallback-model") == "other"


class TestAdapters:
    """LoRA adapters as models, with affinity to the engines that hold them."""

    ENGINES: ClassVar[dict[str, dict[str, Any]]] = {
        "holds": {"kind": "vllm"},
        "could": {"kind": "vllm"},
        "cannot": {"kind": "llamacpp"},
    }

    @pytest.mark.parametrize("routes", [(), (RouteConfig(model="lora", adapter_of="base"),)], ids=["told", "configured"])
    def test_who_holds_it_is_asked_and_in_need_who_can_load_it(self, routes: tuple[RouteConfig, ...]) -> None:
        with deployed(self.ENGINES, *routes) as row:
            for name, pool in row.engines.items():
                pool.engine.discovered_models = ("base", "lora") if name == "holds" else ("base",)
            if not routes:
                row.engines["holds"].engine.facts = {"lora": ModelFacts("lora", parent="base")}
            row.learn()
            assert {row.goes_to(chat("lora")) for _ in range(6)} == {"holds"}
            assert {row.goes_to(chat("base")) for _ in range(6)} == {"holds", "could", "cannot"}
            row.engines["holds"].engine.healthy = False
            assert {row.goes_to(chat("lora")) for _ in range(6)} == {"could"}
            assert row.sent("could")["model"] == "lora"

    def test_one_that_nobody_holds_yet(self) -> None:
        with deployed({"could": {"kind": "vllm"}}, RouteConfig(model="lora", adapter_of="base")) as row:
            row.engines["could"].engine.discovered_models = ("base",)
            row.learn()
            assert row.goes_to(chat("lora")) == "could"
