"""Which engine a request would get, and did get, and why: ``/admin/explain`` and ``x-fastgw-explain``."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from fastgw import RouteConfig
from fastgw.config.names import Policy
from fastgw.control.admin_explain import Asked
from fastgw.errors import GatewayError
from fastgw.explaining import ExplainDesk
from fastgw.policy import explain
from fastgw.policy.explain import MOST_ENGINES
from fastgw.upstream import standing
from fastgw.upstream.models import ModelFacts
from fastgw.upstream.standing import obstacle
from fastgw.upstream.target import Engine
from tests.conversations.deployed_row import Deployed, deployed, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.conversation import kills
from tests.support.requests import chat, request

ENGINES: dict[str, dict[str, Any]] = {
    "a": {"models": ("m",), "version": "v1", "max_concurrent": 4},
    "b": {"models": ("m",), "version": "v1"},
    "c": {"models": ("m",), "version": "v2"},
    "theirs": {"models": ("m",), "tenant": "acme"},
}
ROUTE = RouteConfig(model="m", versions={"v1": 3, "v2": 1}, aliases=["gpt"], policy="ordered")


def told(row: Deployed, model: str, **asked: Any) -> dict[str, Any]:
    found = ExplainDesk(row.talk.core).explain(Asked(model=model, **asked))
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return shown


class TestAsked:
    def test_it_says_what_a_request_of_that_id_then_gets(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            for number in range(20):
                said = told(row, "gpt", request_id=f"r-{number}")
                assert (said["stands_for"], said["policy"]) == ("m", "ordered")
                assert row.goes_to(chat("gpt", headers=[("x-request-id", f"r-{number}")])) == said["engine"]
                assert said["drawn"] == row.engines[said["engine"]].engine.version
            assert [(one["version"], one["share"]) for one in said["versions"]] == [("v1", 0.75), ("v2", 0.25)]

    @pytest.mark.parametrize(
        "route",
        [
            RouteConfig(model="m", versions={"v1": 50, "v2": 50}),
            RouteConfig(model="m", versions={"v1": 50, "v2": 50}, sticky=True),
            RouteConfig(model="m", adapter_of="base"),
            RouteConfig(model="m", adapter_of="base", policy="capability", needs=("gpu",)),
        ],
        ids=["drawn", "sticky", "adapter", "the route's needs"],
    )
    def test_what_is_needed_is_found_in_whatever_part_of_a_model_has_it(self, route: RouteConfig) -> None:
        engines: dict[str, dict[str, Any]] = {
            "has": {"kind": "vllm", "version": "v1", "features": ("gpu",), "models": ("base", *["m"] * (not route.adapter_of))},
            "lacks": {"kind": "vllm", "version": "v2", "models": ("base", "m")},
        }
        needs = "" if route.needs else "gpu"
        fields = [("x-fastgw-needs", needs), ("x-fastgw-explain", "1")]
        policy = "least_loaded" if route.needs else "capability"
        fall = RouteConfig(model="n", fallback=("m",), fallback_on=("failure",))
        with deployed(engines, route, fall, policy=policy, explain_keys=("*",)) as row:
            for number in range(20):
                head = [*fields, ("x-request-id", f"r-{number}")]
                said = told(row, "m", request_id=f"r-{number}", needs=needs)
                answer = row.ask(chat("m", headers=head), f"127.0.0.{number + 1}")
                assert (answer.status, said["engine"], row.asked["lacks"]) == (200, "has", 0)
                assert "engine=has" in (answer.header("x-fastgw-explain") or "")
                assert row.ask(chat("n", headers=head)).status == 200, "by a fallback too"
            assert row.asked == {"has": 40, "lacks": 0}
            if needs:
                head = [("x-fastgw-needs", "tpu"), ("x-fastgw-explain", "1")]
                answer = row.ask(chat("m", headers=head))
                assert (answer.status, answer.error["code"]) == (422, "needs_unmet")
                said_of = answer.header("x-fastgw-explain") or ""
                assert "engines=2" in said_of, "all of the model are looked at before"
                assert said_of.count(": lacks tpu") == (2 if policy == "capability" else 0), said_of
                assert "may be asked" not in said_of

    @pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "ordered"])
    def test_asking_changes_nothing(self, policy: Any) -> None:
        with deployed({name: {"models": ("m",)} for name in "abc"}, policy=policy) as row:
            for _ in range(5):
                said = {told(row, "m")["engine"] for _ in range(3)}
                assert said == {row.goes_to(chat())}
            assert row.talk.stats.exchanges_total == 5

    def test_what_keeps_engines_from_it(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            row.engines["b"].engine.healthy = False
            row.engines["c"].engine.draining = True
            row.engines["a"].engine.inflight = 4
            said = told(row, "m")
            why = {one["engine"]: one["why"] for one in said["candidates"]}
            assert why["a"].startswith("is full: 4 ")
            assert why["b"].startswith("is not well")
            row.engines["a"].engine.inflight = 0
            assert told(row, "m")["engine"] == "a"

    def test_for_whom(self) -> None:
        with deployed(ENGINES, ROUTE, keys=(tenant_key("acme"), tenant_key("other", "n"))) as row:
            assert told(row, "m", key_id="key-of-acme")["engine"] == "theirs"
            assert told(row, "m", key_id="key-of-other")["why"] == "the key may not use this model"
            with pytest.raises(KeyError):
                told(row, "m", key_id="nobody")

    def test_a_runners_alias_stands_for_what_its_engine_is_asked_for(self) -> None:
        engines = {name: {"models": ("gpt", name)} for name in ("small", "big")}
        with deployed(engines, policy="ordered") as row:
            for name, pool in row.engines.items():
                pool.engine.aliases = {"gpt": name}
            for name in ("small", "big"):
                said = told(row, "gpt")
                assert (said["engine"], said["stands_for"]) == (name, name)
                row.ask(chat("gpt"))
                assert row.sent(name)["model"] == said["stands_for"]
                row.engines[name].engine.draining = True
            assert told(row, "gpt")["stands_for"] == "small", "nobody is there: as the first would be asked"
            assert "stands_for" not in told(row, "big")

    def test_nobody_serves_it(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            said = told(row, "gtp")
            assert said["engine"] is None
            assert "Did you mean gpt" in said["why"]


    def test_the_policy_that_chooses_is_named_whoever_has_named_it(self) -> None:
        routes = [RouteConfig(model="m", policy="ordered", fallback=["n"]), RouteConfig(model="n", policy="least_loaded")]
        choices: dict[str, Any] = {"policy_header": "x-policy", "policy_choices": ["random", "session"]}
        with deployed({"a": {"models": ("m", "k")}, "b": {"models": ("n",)}}, *routes, policy="weighted", **choices) as row:
            assert [told(row, model)["policy"] for model in "mnk"] == ["ordered", "least_loaded", "weighted"]
            assert told(row, "m", policy="session")["policy"] == "session"
            with pytest.raises(GatewayError, match="clients may choose random, session"):
                told(row, "m", policy="ordered")

    def test_what_strategies_look_at_can_be_said(self) -> None:
        """And what is told is what a request that says it then gets."""
        engines: dict[str, dict[str, Any]] = {
            name: {"models": ("m",), "machine": name, "features": ("vision",) if name == "c" else ()} for name in "abcd"
        }
        choices: dict[str, Any] = {
            "policy_header": "x-policy", "policy_choices": ["consistent_hash", "capability", "session", "prefix_aware"],
            "session_sources": ["header:x-who", "cookie:sid", "body:thread"],
        }  # fmt: skip
        with deployed(engines, **choices) as row:
            for number in range(8):
                said = told(row, "m", policy="consistent_hash", session=f"s{number}")
                headers = [("x-policy", "consistent_hash"), ("x-session-id", f"s{number}")]
                assert row.goes_to(chat(headers=headers)) == said["engine"]
                away = told(row, "m", policy="consistent_hash", address=f"10.0.0.{number}")
                assert row.goes_to(chat(headers=headers[:1]), f"10.0.0.{number}") == away["engine"]
                sits = row.goes_to(chat(thread=f"t{number}", headers=[("x-policy", "session")]))
                assert told(row, "m", policy="session", session=f"t{number}")["candidates"][0]["engine"] == sits
            assert told(row, "m", policy="capability", needs="vision, c")["engine"] == "c"
            nobody = told(row, "m", policy="capability", needs="vision, a")
            assert (nobody["engine"], nobody["policy"]) == (None, "capability")
            assert nobody["why"] == "No engine for this model has all that the request needs at once: a, vision."
            assert {one["why"] for one in nobody["candidates"]} == {"lacks vision", "lacks a", "lacks a, vision"}
            for name in "abc":
                row.engines[name].engine.facts = {"m": ModelFacts("m", 1000)}
            row.learn()
            far = told(row, "m", policy="capability", prompt="word " * 100, max_tokens=2000)
            assert far["engine"] == "d", "the others take a thousand tokens"
            prompt = "once upon a time " * 60
            body = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"stream":false}' % prompt.encode()
            headers = [("content-type", "application/json"), ("x-policy", "prefix_aware")]
            reads = row.goes_to(request("POST", "/v1/chat/completions", headers=headers, body=body))
            known = told(row, "m", policy="prefix_aware", prompt=prompt)["candidates"]
            assert [one["engine"] for one in known if not one["why"].startswith("has 0 ")] == [reads]

    def test_a_tenant_without_a_key(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            assert told(row, "m", tenant="acme")["engine"] == "theirs"
            assert told(row, "m", tenant="other")["engine"] != "theirs"

    @pytest.mark.parametrize(("asked", "says"), [
        ({"policy": "ordered"}, "clients may choose none"), ({"needs": "gpu"}, "no needs_header is set"),
        ({"session": "s"}, "session_sources and hash_sources look for no text"),
    ])  # fmt: skip
    def test_what_no_request_could_say_here_is_refused(self, asked: dict[str, str], says: str) -> None:
        nothing: dict[str, Any] = {"needs_header": "", "session_sources": ["key"], "hash_sources": ["address"]}
        with deployed(ENGINES, ROUTE, **nothing) as row, pytest.raises(GatewayError, match=says):
            told(row, "m", **asked)


class TestTold:
    def ask(self, row: Deployed, key: str | None = None, model: str = "gpt") -> str | None:
        answer = row.ask(chat(model, key=key, headers=[("x-fastgw-explain", "1")]))
        return answer.header("x-fastgw-explain")

    def test_whoever_may_is_told(self) -> None:
        keys = tenant_key("x"), tenant_key("y")
        with deployed(ENGINES, ROUTE, keys=keys, explain_keys=["key-of-x", "tenant:z"], plays={"a": status(503)}) as row:
            said = self.ask(row, key_of("x"))
            assert said is not None
            assert "model=m" in said
            assert "policy=ordered" in said
            assert self.ask(row, key_of("y")) is None
            assert row.ask(chat("gpt", key=key_of("x"))).header("x-fastgw-explain") is None

    def test_off_by_default_and_no_engine_hears_of_it(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            assert self.ask(row) is None
            assert all(stream.field(b"x-fastgw-explain") is None for pool in row.engines.values() for stream in pool.asked)

    def test_the_way_of_a_fallback(self) -> None:
        engines = {"a": {"models": ("m",)}, "n 1": {"models": ("n",)}}
        route = RouteConfig(model="m", aliases=["gpt"], fallback=["n"], fallback_on=["failure"])
        with deployed(engines, route, explain_keys=["*"], plays={"a": status(503)}) as row:
            assert self.ask(row) == 'engine="n 1"; model=n; policy=round_robin; instead_of=m'

    def test_the_policy_that_worked(self) -> None:
        routes = [RouteConfig(model="m", policy="ordered", fallback=["n"], fallback_on=["failure"]), RouteConfig(model="n")]
        settings: dict[str, Any] = {"policy_header": "x-policy", "policy_choices": ["random"], "policy": "least_loaded"}
        with deployed({"a": {"models": ("m",)}, "b": {"models": ("n",)}}, *routes, explain_keys=["*"], **settings) as row:
            def policy(*fields: tuple[str, str]) -> str | None:
                return row.ask(chat(headers=[("x-fastgw-explain", "1"), *fields])).header("x-fastgw-explain")

            assert policy() == "engine=a; model=m; policy=ordered"
            assert policy(("x-policy", "random")) == "engine=a; model=m; policy=random"
            row.engines["a"].play = status(503)
            assert policy() == "engine=b; model=n; policy=least_loaded; instead_of=m"

    def test_why_there_is_no_answer(self) -> None:
        many = {f"e{number:02}": {"models": ("m",), "max_concurrent": 1} for number in range(12)}
        with deployed(many, explain_keys=["*"], policy="ordered", on_capacity="reject") as row:
            def why(model: str = "m", **fields: Any) -> str | None:
                return row.ask(chat(model, headers=[("x-fastgw-explain", "1")], **fields)).header("x-fastgw-explain")

            for pool in row.engines.values():
                pool.engine.inflight = 1
            full = why()
            assert full is not None
            assert full.startswith('error=at_capacity; model=m; policy=ordered; engine_0="e00: is full: 1 requests under way,')
            assert full.endswith("; engines=12")
            assert full.count("is full") == MOST_ENGINES
            for pool in row.engines.values():
                pool.engine.inflight = 0
                pool.engine.draining = True
            drained = why()
            assert drained is not None
            assert drained.startswith('error=engines_unavailable; model=m; policy=ordered; engine_0="e00: is being drained"')
            assert why("gtp") == "error=model_not_found; model=gtp"
            assert why(max_tokens="many") == "error=invalid_parameter"
            assert row.ask(chat()).header("x-fastgw-explain") is None

    def test_an_error_looks_at_no_more_engines_than_it_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who is refused pays nothing for it: a look at a thousand engines would be milliseconds of everybody's, each time."""
        looked: list[str] = []

        def look(engine: Engine) -> str:
            looked.append(engine.name)
            return obstacle(engine)

        for module in (standing, explain):
            monkeypatch.setattr(module, "obstacle", look)
        many = {f"e{number:02}": {"models": ("m",)} for number in range(5 * MOST_ENGINES)}
        for policy in get_args(Policy):
            with deployed(many, explain_keys=["*"], policy=policy) as row:
                for pool in row.engines.values():
                    pool.engine.draining = True
                said = self.ask(row, model="m")
                assert said is not None
                assert said.startswith("error=engines_unavailable; model=m; ")
                assert said.endswith(f'engine_7="e07: is being drained"; engines={len(many)}')
                assert len(looked) <= MOST_ENGINES, policy
                looked.clear()

    def test_those_that_were_tried_are_told_first(self) -> None:
        engines = {f"e{number}": {"models": ("m",)} for number in range(3)}
        settings: dict[str, Any] = {"max_retries": 1, "retry_fresh": True, "policy": "ordered", "explain_keys": ["*"]}
        with deployed(engines, plays={"e1": kills, "e2": kills}, **settings) as row:
            row.engines["e0"].engine.draining = True
            said = self.ask(row, model="m")
            assert said is not None
            first, second, third, count = said.split("; ")[-4:]
            assert (first, second) == ('engine_0="e1: was tried"', 'engine_1="e0: is being drained"')
            assert (third, count) == ('engine_2="e2: may be asked"', "engines=3")

    def test_nobody_else_is_told_why_there_is_none(self) -> None:
        few = replace(tenant_key("x"), requests_per_minute=1)
        with deployed(ENGINES, ROUTE, keys=(few, tenant_key("y")), explain_keys=["key-of-x"]) as row:
            for pool in row.engines.values():
                pool.engine.draining = True
            assert self.ask(row) is None
            assert self.ask(row, key_of("y")) is None
            said = self.ask(row, key_of("x"))
            assert said is not None
            assert said.startswith("error=engines_unavailable; model=m; drawn=v")
            assert self.ask(row, key_of("x")) == "error=rate_limit_exceeded"
