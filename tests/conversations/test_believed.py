"""A failure that only one caller got, or that is of one model alone: whom it keeps from an engine, and who is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw import RouteConfig
from fastgw.exchange.plan import MOST_SIBLINGS
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.conversations.test_whose_fault import CHAT, ENGINES, KEYED, LLAMA_500, ROUTE, asking, error, event
from tests.support.byhand.engine import Play
from tests.support.conversation import answering
from tests.support.requests import request
from tests.support.scripts import ANSWER, EVENT, JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok


def poisoned(said: bytes) -> Play:
    """An engine that answers well, but for one prompt."""

    def play(asked: Any) -> None:
        asked.says(said if b"poison" in asked.body else ok(ANSWER))
        if b"poison" in asked.body and said in BROKEN_OFF:
            asked.closes("fin")

    return play


POISON = request("POST", CHAT, headers=[("content-type", "application/json")], body=b'{"model":"m","messages":["poison"]}')


def refusal(status: int, said: dict[str, Any]) -> bytes:
    return ok(json.dumps(said).encode()).replace(b"200 OK", b"%d No" % status)


POISONS = {
    "500": LLAMA_500 % 2 + b"{}", "424": LLAMA_500.replace(b"500 Internal", b"424 Internal") % 2 + b"{}",
    "200": ok(json.dumps(error(500)).encode()),
    "a provider's 403": refusal(403, {}), "a key's 401": refusal(401, {}),
    "a model's 404": refusal(404, error("model_not_found")), "a model's 400": refusal(400, error("model_not_found")),
    "an event's 403": SSE_HEAD + chunk(event(error(403))) + LAST_CHUNK,
    "a later event's": SSE_HEAD + chunk(EVENT + event(error(403))) + LAST_CHUNK,
    "broken off": JSON_CHUNKED + chunk(b'{"choices":['), "broken off before an event": SSE_HEAD,
}  # fmt: skip
BROKEN_OFF = (POISONS["broken off"], POISONS["broken off before an event"])


@pytest.mark.parametrize("threshold", [1, 5])
@pytest.mark.parametrize("how", POISONS)
def test_what_only_one_caller_gets_keeps_no_other_from_an_engine(how: str, threshold: int) -> None:
    """He is spared it; and so are all, as soon as another has failed there as well."""
    one, other, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    with deployed(KEYED, plays={"a": poisoned(POISONS[how])}, cb_failure_threshold=threshold) as row:
        for _ in range(3):
            for _ in range(threshold):
                row.ask(POISON, one)
            assert row.ask(asking(CHAT), one).status == 503
            assert row.talk.core.health.counts() == (1, 1)
            assert row.ask(asking(CHAT), other).status == 200
        for _ in range(threshold):
            row.ask(POISON, one)
        assert row.ask(POISON, other).status != 503
        assert (row.ask(asking(CHAT), third).status, row.ask(asking(CHAT), other).status) == (503, 503)
        assert row.talk.core.health.counts() == (0, 1)


@pytest.mark.parametrize("how", [how for how in POISONS if how.startswith("a ") and "event" not in how])
def test_what_an_engine_lacks_keeps_nobody_from_its_other_models(how: str) -> None:
    """However many ask for it, who are spared the engine then."""
    engines = {"a": {"models": ("m", "n"), "api_key": "of-the-gateway"}}
    other = asking(CHAT, model="n")
    with deployed(engines, plays={"a": poisoned(POISONS[how])}, cb_failure_threshold=4) as row:
        for _ in range(3):
            assert {row.ask(POISON, f"127.0.0.{at}").status for at in range(1, 5)} == {502}
            assert row.ask(asking(CHAT), "127.0.0.5").status == 503
            assert row.ask(other, "127.0.0.1").status == 200


def test_a_breaker_that_one_opens_and_another_closes_is_told_of_once_in_a_while() -> None:
    """But where all are kept from it that is told, whatever was told before."""
    with deployed({"a": ENGINES["a"]}, plays={"a": poisoned(POISONS["500"])}, cb_failure_threshold=2) as row:

        def told() -> list[str]:
            return [line for _, line, _ in row.talk.events.lines if line.startswith("circuit breaker")]

        for times in (1, 2):
            for _ in range(20):
                for _ in range(2):
                    row.ask(POISON)
                assert row.ask(asking(CHAT), "127.0.0.2").status == 200
            assert told() == ["circuit breaker open", "circuit breaker closed"] * times
            row.talk.passes(31.0 if times == 1 else 1.0)
        for ip in ("127.0.0.1", "127.0.0.2"):
            row.ask(POISON, ip)
        assert told()[4:] == ["circuit breaker open"]


def test_who_is_turned_away_by_all_asks_a_few_of_them() -> None:
    engines = {f"a{at}": KEYED["a"] for at in range(9)}
    with deployed(engines, plays=dict.fromkeys(engines, poisoned(POISONS["a provider's 403"]))) as row:
        assert (row.ask(POISON).status, sum(row.asked.values())) == (502, 1 + MOST_SIBLINGS)


def test_a_tenant_with_several_keys_is_one_caller() -> None:
    """Its keys keep nobody else from an engine, by what they get there or by what they are told."""
    keys = tenant_key("x"), replace(tenant_key("x-too"), tenant="x"), tenant_key("y")
    told = refusal(429, {}).replace(b"\r\n\r\n", b"\r\nretry-after: 30\r\n\r\n")

    def by(tenant: str, data: bytes) -> bytes:
        return data.replace(b"\r\n", b"\r\nauthorization: Bearer %b\r\n" % key_of(tenant).encode(), 1)

    for said in (POISONS["500"], told):
        with deployed({"a": ENGINES["a"]}, plays={"a": poisoned(said)}, keys=keys, cb_failure_threshold=2) as row:
            for tenant in ("x", "x-too") * 2:
                row.ask(by(tenant, POISON))
            engine = row.engines["a"].engine
            assert (row.ask(by("y", asking(CHAT))).status, engine.rests()) == (200, False)
            for tenant in ("x", "x-too", "y"):
                row.ask(by(tenant, POISON))
            assert engine.rests() or row.ask(by("y", asking(CHAT))).status == 503


def test_nor_does_his_probe() -> None:
    """That he tries again and again keeps it from himself alone; of a connection that breaks nobody is the cause."""
    settings: dict[str, Any] = {"cb_failure_threshold": 2, "cb_recovery_timeout_s": 1.0}
    with deployed({"a": ENGINES["a"]}, plays={"a": poisoned(POISONS["500"])}, **settings) as row:
        for _ in range(5):
            row.ask(POISON)
            row.talk.passes(1.3)
        client = row.talk.client("127.0.0.2").says(asking(CHAT))
        assert client.sees(200)
        row.engines["a"].play = lambda asked: asked.closes("reset")
        assert [row.ask(asking(CHAT)).status for _ in range(2)] == [502, 502]
        assert row.ask(asking(CHAT), "127.0.0.2").status == 503


def test_where_one_caller_spares_a_fallback_no_other_goes_without() -> None:
    plays = {"a": answering(LLAMA_500 % 2 + b"{}"), "b": poisoned(POISONS["500"])}
    with deployed(ENGINES, ROUTE, plays=plays, cb_failure_threshold=3) as row:
        for _ in range(3):
            row.ask(POISON.replace(b'"m"', b'"n"'))
        assert row.ask(asking(CHAT)).status == 500
        assert row.ask(asking(CHAT), "127.0.0.2").header("x-fallback-model") == "n"


def test_where_one_caller_spares_an_engine_no_other_waits_for_another() -> None:
    """It is asked at once, although the one beside it is only full."""
    two = {name: {"models": ("m",), "max_concurrent": 1} for name in "ab"}
    settings: dict[str, Any] = {"policy": "ordered", "cb_failure_threshold": 2}
    with deployed(two, plays={"a": poisoned(POISONS["500"]), "b": None}, **settings) as row:
        assert [row.ask(POISON).status for _ in range(2)] == [500, 500]
        held = row.talk.client().says(asking(CHAT))
        assert (held.waits, row.asked["b"]) == (True, 1)
        assert row.talk.client("127.0.0.2").says(asking(CHAT)).sees(200)
        assert row.asked["a"] == 3
        held.leaves()


def test_who_has_lost_his_engine_goes_to_one_that_another_has_spared_meanwhile() -> None:
    two = {name: {"models": ("m",), "max_concurrent": 1} for name in "ab"}
    settings: dict[str, Any] = {"policy": "ordered", "cb_failure_threshold": 2, "retry_fresh": True, "max_retries": 1}
    with deployed(two, plays={"a": None, "b": poisoned(POISONS["500"])}, **settings) as row:
        client = row.talk.client("127.0.0.2").says(asking(CHAT))
        assert [row.ask(POISON).status for _ in range(2)] == [500, 500]
        row.engines["a"].last.closes("reset")
        row.talk.passes(1.0)
        assert client.sees(200)


PARTS = {
    "of a class": ({"a": {"models": ("m",)}, "b": {"models": ("n",)}}, RouteConfig(model="c", models=["m", "n"])),
    "of versions": (
        {"a": {"models": ("c",), "version": "1"}, "b": {"models": ("c",), "version": "2"}},
        RouteConfig(model="c", versions={"1": 1, "2": 1}, sticky=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("parts", PARTS)
def test_where_one_caller_spares_an_engine_no_other_is_given_another_part(parts: str) -> None:
    engines, route = PARTS[parts]
    poison, fine = (data.replace(b'"m"', b'"c"') for data in (POISON, asking(CHAT)))
    with deployed(engines, route, plays={"a": poisoned(POISONS["500"])}, cb_failure_threshold=2) as row:
        others = [ip for ip in (f"127.0.0.{at}" for at in range(2, 20)) if row.goes_to(fine, ip) == "a"]
        assert len(others) > 2
        for ip in others[1:]:
            for _ in range(2):
                row.ask(poison, others[0])
            assert row.goes_to(fine, others[0]) == "b"
            assert row.goes_to(fine, ip) == "a"
