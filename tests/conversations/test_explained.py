"""Which engine a request would get, and did get, and why: ``/admin/explain`` and ``x-fastgw-explain``."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fastgw import RouteConfig
from fastgw.explaining import ExplainDesk
from tests.conversations.deployed_row import Deployed, deployed, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.requests import chat

ENGINES: dict[str, dict[str, Any]] = {
    "a": {"models": ("m",), "version": "v1", "max_concurrent": 4},
    "b": {"models": ("m",), "version": "v1"},
    "c": {"models": ("m",), "version": "v2"},
    "theirs": {"models": ("m",), "tenant": "acme"},
}
ROUTE = RouteConfig(model="m", versions={"v1": 3, "v2": 1}, aliases=["gpt"], policy="ordered")


def told(row: Deployed, model: str, **asked: str) -> dict[str, Any]:
    found = ExplainDesk(row.talk.core).explain(model, asked.get("key_id", ""), asked.get("request_id", ""))
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

    def test_nobody_serves_it(self) -> None:
        with deployed(ENGINES, ROUTE) as row:
            said = told(row, "gtp")
            assert said["engine"] is None
            assert "Did you mean gpt" in said["why"]


class TestTold:
    def ask(self, row: Deployed, key: str | None = None, **fields: Any) -> str | None:
        answer = row.ask(chat("gpt", key=key, headers=[("x-fastgw-explain", "1")], **fields))
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
