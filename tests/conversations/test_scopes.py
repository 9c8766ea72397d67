"""Limits of tenants and of models beside those of keys: a refusal spends nothing, and each ending settles all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.paying import TenantConfig
from fastgw.limits.scope import Scope
from fastgw.upstream.models import ModelFacts
from tests.conversations.deployed_row import deployed
from tests.conversations.test_budgets import ANSWER, SIM, SWITCH
from tests.conversations.test_cut import TEXT, head
from tests.conversations.test_spent import HANDSHAKE
from tests.e2e.metered import KEY, OTHER_KEY, estimate, say
from tests.e2e.test_realtime_usage import done
from tests.support.byhand.client import HandClient
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat, request
from tests.support.scripts import chunk, ok
from tests.support.tenants import join, scopes_of

PROMPT = estimate()
USED = 50  # tokens, as ANSWER says
STRANGER = "of-nobody-else-0123456789"
PREFIX = {"tenant": "", "model": "", "each": "key_"}


@contextmanager
def talked(
    kind: str, limits: dict[str, Any], *plays: Any, routes: tuple[RouteConfig, ...] = (), **settings: Any
) -> Iterator[Conversation]:
    """``limits`` of a tenant whose keys the first two are, of the model "sim", or of each key for it."""
    tenants = []
    if kind == "tenant":
        tenants = [TenantConfig(name="lab", **limits)]
    else:
        routes = (*routes, RouteConfig(model="sim", **{PREFIX[kind] + name: value for name, value in limits.items()}))
    engines = [EngineConfig(url="http://127.0.0.1:9", models=["sim", "other"], warm_connections=0)]
    settings = {"tenants": tenants, "routes": list(routes), "api_keys": (KEY, OTHER_KEY, STRANGER), **settings}
    with conversation(engines, *plays, **settings) as talk:
        for key in (KEY, OTHER_KEY) if tenants else ():
            join(talk.core, key)
        yield talk
        talk.close()
        for scope in scopes_of(talk.core):
            assert (scope.inflight, 0 if scope.day is None else scope.day.reserved) == (0, 0), scope


def scope_of(talk: Conversation, kind: str) -> Scope:
    """The first one, whose key has asked."""
    return next(one for one in scopes_of(talk.core) if one.kind == kind)


def used(talk: Conversation, kind: str) -> tuple[int, int]:
    """Tokens of the minute, and of the day."""
    scope = scope_of(talk, kind)
    assert scope.day is not None
    minute = 0
    if scope.tokens is not None:
        minute = scope.tokens.burst - scope.tokens.left(round(talk.loop.now * 1e6))
    return minute, scope.day.spent


WHO = {
    # whose limit: who is refused by what the first key has used, and for whom it says nothing
    "tenant": ([say(10), say(10, model="other"), say(10, key=OTHER_KEY)], [say(10, key=STRANGER)]),
    "model": ([say(10), say(10, key=OTHER_KEY), say(10, key=STRANGER)], [say(10, model="other")]),
    "each": ([say(10)], [say(10, model="other"), say(10, key=OTHER_KEY)]),
}
LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "requests": ({"requests_per_minute": 1}, "rate_limit_exceeded"),
    "a burst of requests": ({"requests_per_minute": 600, "burst": 1}, "rate_limit_exceeded"),
    "tokens": ({"tokens_per_minute": PROMPT + 10}, "rate_limit_exceeded"),
    "day": ({"daily_tokens": PROMPT + 10}, "daily_quota_exceeded"),
}


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("kind", WHO)
def test_whom_it_holds_for_is_refused_and_nothing_is_taken_from_the_others(kind: str, what: str) -> None:
    limits, code = LIMITS[what]
    refused, passed = WHO[kind]
    settings = {"rate_limit_per_minute": 100, "tokens_per_minute": 100_000, "daily_token_quota": 100_000}
    with talked(kind, limits, answering(ANSWER), **settings) as talk:
        assert talk.ask(say(10)).status == 200
        before = [talk.usage(key) for key in (KEY, OTHER_KEY, STRANGER)]
        for data in refused:
            answer = talk.ask(data)
            assert (answer.status, answer.json()["error"]["code"]) == (429, code), data
            assert b"lab" not in answer.body
            if kind == "model":
                assert not any(digit.isdigit() for digit in answer.json()["error"]["message"]), "what others do is nobody's"
        after = [talk.usage(key) for key in (KEY, OTHER_KEY, STRANGER)]
        assert [{**one, "requests_remaining": 0, "tokens_remaining": 0} for one in after] == [
            {**one, "requests_remaining": 0, "tokens_remaining": 0} for one in before
        ]
        assert [one["requests_remaining"] for one in after] >= [one["requests_remaining"] for one in before]
        assert talk.asked == [1]
        counted = (talk.stats.limited_tenant, talk.stats.limited_model)
        assert counted == ((len(refused), 0) if kind == "tenant" else (0, len(refused)))
        for data in passed:
            assert talk.ask(data).status == 200, data


@pytest.mark.parametrize("kind", WHO)
def test_who_waits_as_long_as_he_is_told_is_admitted(kind: str) -> None:
    """The longest of all that refuse, the key's among them."""
    limits = {"requests_per_minute": 6, "burst": 1, "tokens_per_minute": 300}
    with talked(kind, limits, answering(ANSWER), rate_limit_per_minute=12, key_burst=1) as talk:
        assert talk.ask(say(250 - PROMPT)).status == 200
        answer = talk.ask(say(290 - PROMPT))
        wait_s = float(answer.header("retry-after-ms") or 0) / 1000
        assert 9 <= wait_s <= 11, "the tokens that it has used come back within ten seconds, and its request"
        talk.passes(wait_s + 0.01)
        assert talk.ask(say(290 - PROMPT)).status == 200


@pytest.mark.parametrize("kind", WHO)
def test_more_than_there_ever_is_does_not_wait(kind: str) -> None:
    for limits in ({"tokens_per_minute": 100}, {"daily_tokens": 100}):
        with talked(kind, limits) as talk:
            answer = talk.ask(say(5000))
            assert (answer.status, answer.json()["error"]["code"]) == (429, "request_exceeds_limit")
            assert ("100" in answer.json()["error"]["message"]) == (kind != "model")


def _broken(talk: Conversation, client: HandClient) -> None:
    talk.engines[0].last.says(head("chunked"), chunk(TEXT))
    client.leaves()


ENDINGS: dict[str, tuple[Any, int | None]] = {
    # how it ends, and what that costs (None = an estimate: what the key is charged)
    "answered": (lambda talk, client: talk.engines[0].last.says(ANSWER), USED),
    "refused by its engine": (lambda talk, client: talk.engines[0].last.says(ok(b"{}").replace(b"200 OK", b"400 Bad")), 0),
    "its engine dies": (lambda talk, client: talk.engines[0].last.closes("reset"), 0),
    "its client leaves": (lambda talk, client: client.leaves(), None),
    "its client leaves in the middle": (_broken, None),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", WHO)
def test_each_ending_charges_what_the_key_is_charged_and_gives_back_the_rest(kind: str, ending: str) -> None:
    end, cost = ENDINGS[ending]
    limits = {"tokens_per_minute": 10_000, "daily_tokens": 10_000, **({} if kind == "model" else {"concurrency": 3})}
    with talked(kind, limits, max_retries=0) as talk:
        client = talk.client().says(say(1000, stream=True))
        minute, day = used(talk, kind)
        scope = scope_of(talk, kind)
        assert scope.day is not None
        assert (minute, day, scope.day.reserved, scope.inflight) == (PROMPT + 1000, 0, PROMPT + 1000, 1)
        end(talk, client)
        talk.passes(0.0)
        charged = talk.usage()["total_tokens"]
        assert charged == cost or (cost is None and charged > 0)
        assert used(talk, kind) == (charged, charged)
        assert (scope.inflight, scope.day.reserved) == (0, 0)


@pytest.mark.parametrize("kind", WHO)
def test_who_names_no_maximum_is_given_what_is_left_and_a_stream_is_cut_there(kind: str) -> None:
    for limits in ({"daily_tokens": PROMPT + 5}, {"tokens_per_minute": PROMPT + 300}):
        with talked(kind, limits, answering(ANSWER)) as talk:
            assert talk.ask(say()).status == 200
            assert json.loads(talk.engines[0].last.body)["max_tokens"] == (5 if "daily_tokens" in limits else 300)
    with talked(kind, {"daily_tokens": PROMPT + 5}, on_exhausted="cut") as talk:
        client = talk.client().says(say(50, stream=True))
        held = talk.ask(say(1, key=KEY))
        assert held.json()["error"]["code"] == "daily_quota_reserved"
        talk.engines[0].last.says(head("chunked"), chunk(TEXT + TEXT))
        talk.passes(0.02)
        events = client.seen.events()
        assert (json.loads(events[-2])["error"]["code"], events[-1]) == ("daily_quota_exceeded", "[DONE]")


@pytest.mark.parametrize("kind", WHO)
def test_a_session_counts_each_answer_and_ends_with_the_day(kind: str) -> None:
    with talked(kind, {"daily_tokens": 80, "tokens_per_minute": 1000}) as talk:
        client = talk.client().says(request("GET", "/v1/realtime?model=sim", headers=HANDSHAKE, key=KEY))
        talk.engines[0].last.says(SWITCH)
        for spent in (40, 80):
            assert not client.closed
            talk.engines[0].last.says(done(30, 10))
            assert used(talk, kind) == (spent, spent)
        assert bytes(client.passed_on).startswith(done(30, 10) * 2 + b"\x88")
        assert talk.ask(request("GET", "/v1/realtime?model=sim", headers=HANDSHAKE, key=KEY)).status == 429


@pytest.mark.parametrize("kind", WHO)
def test_an_answer_tells_of_the_limit_that_has_least_left_but_not_of_what_others_use(kind: str) -> None:
    limits = {"requests_per_minute": 5, "tokens_per_minute": 5000}
    with talked(kind, limits, answering(ANSWER), rate_limit_per_minute=100, tokens_per_minute=100_000) as talk:
        own, all_ = (talk.ask(say(10, key=key)) for key in (KEY, STRANGER))
        told = ("5", "4", "5000") if kind != "model" else ("100", "99", "100000")
        fields = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-limit-tokens")
        assert tuple(own.header(name) for name in fields) == told
        assert all_.header(fields[0]) == ("5" if kind == "each" else "100")
        usage = talk.usage()
        assert ("tenant" in usage, "models" in usage) == (kind == "tenant", kind == "each")
        if kind != "model":
            shown = usage["tenant"] if kind == "tenant" else usage["models"]["sim"]
            assert [*shown.values()] == [5, 4, 5000, 4950]


LIMITED = {"concurrency": 2, "requests_per_minute": 100, "tokens_per_minute": 100_000}


def goes_on(talk: Conversation, done: int) -> None:
    """The engine answers the next one that it has."""
    talk.engines[0].asked[done].says(ANSWER)
    talk.passes(0.0)


@pytest.mark.parametrize("kind", ["tenant", "each"])
def test_who_finds_no_room_waits_as_for_his_key_and_everybody_s_turn_comes(kind: str) -> None:
    """Beside limits of the key, of its model and of all: whoever holds a place in one and waits for another gets it."""
    settings: dict[str, Any] = {"key_concurrency": 3, "max_concurrent": 3}
    if kind == "tenant":
        settings["routes"] = (RouteConfig(model="sim", key_concurrency=2, max_concurrent=2),)
    with talked(kind, LIMITED, **settings) as talk:
        many = [say(1), say(1, key=OTHER_KEY), say(1, model="other"), say(1, model="other", key=OTHER_KEY)]
        clients = [talk.client().says(data) for data in many * 5]
        scope = scope_of(talk, kind)
        ended = 0
        while talk.stats.exchanges_open:
            assert scope.inflight <= 2
            goes_on(talk, ended)
            ended += 1
        assert (ended, [one.seen.status for one in clients]) == (20, [200] * 20)


def test_keys_of_a_tenant_that_has_no_room_take_turns() -> None:
    with talked("tenant", {"concurrency": 1}) as talk:
        for key in [KEY] * 30 + [OTHER_KEY]:
            talk.client().says(say(1, key=key))
        stranger = talk.client().says(say(1, key=STRANGER))
        assert len(talk.engines[0].asked) == 2, "who is of another tenant does not wait"
        talk.engines[0].asked[1].says(ANSWER)
        assert stranger.seen.status == 200
        for ended in (0, *range(2, 32)):
            goes_on(talk, ended)
        order = [one["key_id"] for one in talk.records]
        assert order.index(talk.account(OTHER_KEY).id) <= 12, "a key with many waiting does not hold up one with a single one"


def test_who_waits_for_one_model_keeps_his_key_from_no_other() -> None:
    with talked("each", {"concurrency": 1}, key_concurrency=2) as talk:
        for model in ("sim", "sim", "other"):
            talk.client().says(say(1, model=model))
        assert [json.loads(asked.body)["model"] for asked in talk.engines[0].asked] == ["sim", "other"]
        for ended in range(3):
            goes_on(talk, ended)


@pytest.mark.parametrize("how", ["is refused", "waits too long", "leaves"])
@pytest.mark.parametrize("kind", ["tenant", "each"])
def test_who_finds_no_room_in_the_end_has_taken_nothing(kind: str, how: str) -> None:
    settings = {"is refused": {"on_capacity": "reject"}, "waits too long": {"queue_timeout_s": 2.0}}.get(how, {})
    limits = {"concurrency": 2, "requests_per_minute": 2, "burst": 100, "tokens_per_minute": 3300, "daily_tokens": 10_000}
    with talked(kind, limits, **settings) as talk:
        for _ in range(2):
            talk.client().says(say(1000))
        scope = scope_of(talk, kind)
        assert scope.requests is not None
        assert scope.tokens is not None
        assert scope.day is not None
        before = scope.requests.debt, scope.tokens.debt, scope.day.reserved
        third = talk.client().says(say(1000))
        if how == "leaves":
            third.leaves()
        else:
            talk.passes(2.1 if how == "waits too long" else 0.0)
            code = "concurrency_exceeded" if how == "is refused" else "queue_timeout"
            assert third.seen.json()["error"]["code"] == code
            assert float(third.seen.header("retry-after-ms") or 0) < 5000, "what it had taken of the minute is there again"
        now_us = round(talk.loop.now * 1e6)
        assert (scope.requests.left(now_us), scope.tokens.left(now_us) > 1100) == (97 if how == "leaves" else 98, True)
        assert all(now <= then for now, then in zip((scope.tokens.debt, scope.day.reserved), before[1:], strict=True))
        for ended in range(2):
            goes_on(talk, ended)


@pytest.mark.parametrize("kind", WHO)
def test_what_a_budget_refuses_has_taken_nothing(kind: str) -> None:
    limits = {"requests_per_minute": 9, "tokens_per_minute": 9000, "daily_tokens": 9000}
    with talked(kind, limits, answering(ANSWER), key_budget="0.2", prices=[SIM]) as talk:
        assert talk.ask(say(1)).status == 200
        scope = scope_of(talk, kind)
        assert scope.requests is not None
        assert scope.tokens is not None
        before = scope.requests.debt, scope.tokens.debt
        assert talk.ask(say((200 - PROMPT) // 2)).json()["error"]["code"] == "insufficient_quota"
        assert (scope.requests.debt, scope.tokens.debt) == before


FAILS = ok(b"{}").replace(b"200 OK", b"503 Service Unavailable")


def test_a_model_s_limits_are_of_the_one_that_requests_go_to() -> None:
    """An alias is its model, a name for several the one that is chosen; what falls back counts where it was answered."""
    limits = {"daily_tokens": 2 * PROMPT + 80, "key_daily_tokens": 10_000}
    routes = (RouteConfig(model="other", **limits), RouteConfig(model="class:any", models=["sim"]))
    nick = {"aliases": ["nick"], "fallback": ["other"], "fallback_on": ["failure"]}
    fails = False

    def plays(asked: Any) -> None:
        asked.says(FAILS if fails and b'"sim"' in asked.body else ANSWER)

    engines = [EngineConfig(url="http://127.0.0.1:9", models=["sim", "other"], warm_connections=0)]
    settings: dict[str, Any] = {"api_keys": (KEY, STRANGER), "routes": [RouteConfig(model="sim", **limits, **nick), *routes]}
    with conversation(engines, plays, cb_failure_threshold=0, **settings) as talk:
        models = talk.core.accounts.scopes.models

        def days(*names: str) -> list[tuple[int, int]]:
            found = [models[name].together.day for name in names]  # type: ignore[union-attr]
            return [(day.spent, day.reserved) for day in found if day is not None]

        for name in ("nick", "class:any"):
            assert talk.ask(say(10, model=name)).status == 200
        assert days("sim", "other") == [(100, 0), (0, 0)]
        fails = True
        for _ in range(3):
            assert talk.ask(say(10)).header("x-fallback-model") == "other", "no fallback is refused for a limit"
        assert days("sim", "other") == [(100, 0), (150, 0)]
        for name in ("nick", "class:any", "sim"):
            assert talk.ask(say(2 * PROMPT, model=name)).json()["error"]["code"] == "daily_quota_exceeded"
        used = {model: figures["quota_used"] for model, figures in talk.usage()["models"].items()}
        assert used == {"sim": 100, "other": 150}


UNNAMED: dict[str, bytes] = {
    "/rerank": b'{"query":"a","documents":["b"]}', "/score": b'{"text_1":"a","text_2":"b"}', "/generate": b'{"inputs":"a"}',
    "/tokenize": b'{"prompt":"a"}',
}  # fmt: skip


@pytest.mark.parametrize("path", UNNAMED)
@pytest.mark.parametrize(("models", "others", "limited"), [
    (["sim"], ["sim"], True), (["sim", "nick"], ["sim"], True), (["sim"], ["other"], False),
], ids=["one", "an alias", "several"])  # fmt: skip
def test_a_request_that_names_no_model_is_for_the_one_there_is(
    path: str, models: list[str], others: list[str], limited: bool
) -> None:
    """Where there are several it is charged to the one that answered."""
    engines = [
        EngineConfig(url=f"http://127.0.0.1:{at}", models=names, warm_connections=0)
        for at, names in enumerate((models, others), 7)
    ]
    routes = [RouteConfig(model="sim", aliases=["nick"], requests_per_minute=2, key_daily_tokens=1000, daily_tokens=1000)]
    data = request("POST", path, headers=[("Content-Type", "application/json")], body=UNNAMED[path], key=KEY)
    with conversation(engines, answering(ANSWER), answering(ANSWER), api_keys=(KEY,), routes=routes) as talk:
        statuses = [talk.ask(data).status for _ in range(4)]
        assert statuses == ([200, 200, 429, 429] if limited else [200] * 4)
        day = talk.core.accounts.scopes.models["sim"].together.day  # type: ignore[union-attr]
        assert day is not None
        metered = path != "/tokenize"
        assert (day.spent > 0) == metered
        assert day.reserved == 0


def test_who_may_not_use_a_model_uses_up_nothing_of_it() -> None:
    several = (RouteConfig(model="class:any", models=["sim"]),)
    with talked("model", {"requests_per_minute": 1}, answering(ANSWER), routes=several) as talk:
        join(talk.core, OTHER_KEY, tenant="", models=("other",))
        for name in ("sim", "class:any"):
            assert talk.ask(say(1, key=OTHER_KEY, model=name)).status == 403
        assert talk.ask(say(1)).status == 200


def test_rubbish_is_a_request_of_the_tenant_as_of_the_key() -> None:
    with talked("tenant", {"requests_per_minute": 2}, answering(ANSWER)) as talk:
        rubbish = say(1).replace(b'{"model"', b'["model"')
        assert [talk.ask(data).status for data in (rubbish, say(1), say(1))] == [400, 200, 429]


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(("limited", "other"), [("llama3:latest", "llama3"), ("llama3", "llama3:latest")])
def test_by_another_name_that_its_engine_has_a_model_has_the_same_limits(limited: str, other: str, configured: bool) -> None:
    route = RouteConfig(model=limited, requests_per_minute=2, daily_tokens=1000)
    engine = {"kind": "ollama", **({"models": ("llama3:latest",)} if configured else {})}
    with deployed({"one": engine}, route, plays={"one": answering(ANSWER)}, api_keys=(KEY,)) as row:
        if not configured:
            row.engines["one"].engine.discovered_models = ("llama3:latest",)
            row.engines["one"].engine.facts = {"llama3:latest": ModelFacts("llama3:latest", aliases=("llama3",))}
            row.learn()
        assert [row.ask(chat(name, key=KEY)).status for name in (other, limited, other, limited)] == [200, 200, 429, 429]
        assert used(row.talk, "model")[1] == 2 * USED
