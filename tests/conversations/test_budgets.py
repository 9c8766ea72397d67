"""Money: who may not pay for a request is refused, a stream ends where nothing is left, and what was spent is what it cost."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.money import amount
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.limits.account import Defaults
from fastgw.limits.key import KeyRecord
from fastgw.upstream.models import ModelFacts
from tests.conversations.deployed_row import deployed
from tests.conversations.test_cut import TEXT, head
from tests.conversations.test_spent import HANDSHAKE
from tests.e2e.metered import KEY, OTHER_KEY, estimate, say
from tests.e2e.test_realtime_usage import done, frame
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat, request
from tests.support.scripts import chunk, ok

# A token of a prompt costs a thousandth, one that was at hand a half of it, one of an answer two.
SIM = PriceConfig(model="sim", input="1000", cached="500", output="2000")
USED = {"prompt_tokens": 40, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 20}}
COST = "0.05"
ANSWER = ok(json.dumps({"choices": [{"message": {"content": "a"}}], "usage": USED}).encode())
PROMPT = estimate()
LONG_QUERY = json.dumps({"query": "x" * 200, "documents": ["y"]}).encode()


def talked(budget: str, *plays: Any, **settings: Any) -> Any:
    settings.setdefault("prices", [SIM])
    return conversation(1, *plays, api_keys=(KEY, OTHER_KEY), key_budget=budget, **settings)


def budget_of(talk: Conversation, kind: str = "key") -> Mapping[str, str]:
    found: Mapping[str, str] = talk.usage()[f"{kind}_budget"]
    return found


def test_what_is_spent_is_what_was_used_and_every_answer_says_what_is_left() -> None:
    with talked("1", answering(ANSWER)) as talk:
        answer = talk.ask(say(10))
        reserved = amount("0.001") * (PROMPT + 20)
        assert (answer.status, answer.header("x-budget-limit"), answer.header("x-budget-period")) == (200, "1", "month")
        assert amount(str(answer.header("x-budget-remaining"))) == amount("1") - reserved
        assert answer.header("x-budget-warning") is None
        told = budget_of(talk)
        assert (told["spent"], told["reserved"], told["remaining"], told["currency"]) == (COST, "0", "0.95", "USD")
        for _ in range(16):
            talk.ask(say(10))
        assert budget_of(talk)["spent"] == "0.85"
        assert talk.ask(say(1)).header("x-budget-warning") == "80"


def test_a_request_that_may_cost_more_than_is_left_is_refused_and_takes_nothing() -> None:
    with talked("0.2", answering(ANSWER)) as talk:
        over = talk.ask(say(1000))
        assert (over.status, over.json()["error"]["code"]) == (429, "request_exceeds_limit")
        assert "the key's budget of 0.2 USD a month" in over.json()["error"]["message"]
        talk.ask(say(1))
        refused = talk.ask(say((200 - PROMPT) // 2))
        error = refused.json()["error"]
        assert (refused.status, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
        assert refused.header("x-should-retry") == "false"
        assert int(str(refused.header("retry-after"))) >= 1
        assert (budget_of(talk)["spent"], budget_of(talk)["reserved"]) == (COST, "0")
        assert talk.stats.budget_refused == 2
        purse = talk.account().purse
        assert purse is not None
        purse.charge(talk.core.today, amount("1"))
        for path in ("/v1/embeddings", "/tokenize"):
            body = json.dumps({"model": "sim", "input": "x", "prompt": "x"}).encode()
            spent = talk.ask(request("POST", path, headers=[("Content-Type", "application/json")], body=body, key=KEY))
            assert spent.json()["error"]["code"] == "insufficient_quota", "whatever an engine would do stops here"


def test_what_requests_under_way_hold_is_told_apart_from_what_is_spent() -> None:
    with talked("0.2") as talk:
        client = talk.client().says(say(40))
        waits = talk.ask(say(40))
        assert (waits.status, waits.json()["error"]["code"]) == (429, "budget_reserved")
        assert 1 <= int(str(waits.header("retry-after"))) <= 60
        talk.engines[0].last.says(ANSWER)
        client.sees(200)
        again = talk.client().says(say(40))
        talk.engines[0].last.says(ANSWER)
        again.sees(200)


def test_who_names_no_maximum_is_given_what_is_left() -> None:
    with talked("0.2") as talk:
        client = talk.client().says(say())
        told = json.loads(talk.engines[0].last.body)
        assert told["max_tokens"] == (200 - PROMPT) // 2
        talk.engines[0].last.says(ANSWER)
        client.sees(200)


FIVE = PROMPT + 2 * 5  # thousandths that a stream of five tokens costs


@pytest.mark.parametrize(("budget", "quota", "code", "counted"), [
    (f"0.{FIVE:03}", 0, "insufficient_quota", (1, 0)),
    (f"0.{FIVE:03}", 10_000, "insufficient_quota", (1, 0)),
    ("1", PROMPT + 5, "daily_quota_exceeded", (0, 1)),
])  # fmt: skip
def test_a_stream_is_cut_where_the_money_ends_or_the_day_and_is_told_which(
    budget: str, quota: int, code: str, counted: tuple[int, int]
) -> None:
    with talked(budget, daily_token_quota=quota, on_exhausted="cut") as talk:
        client = talk.client().says(say(50, stream=True))
        asked = talk.engines[0].last.says(head("chunked"))
        asked.says(chunk(TEXT + TEXT))
        talk.passes(0.02)
        events = client.seen.events()
        last = json.loads(events[-2])
        assert events[-1] == "[DONE]"
        assert (last["choices"][0]["finish_reason"], last["error"]["code"]) == ("length", code)
        assert (talk.stats.budget_cut, talk.stats.quota_cut) == counted
        assert talk.records[-1]["outcome"] == "quota"
        assert budget_of(talk)["reserved"] == "0"


def test_a_model_without_a_price_is_refused_or_counted_as_such() -> None:
    with talked("1", answering(ANSWER), prices=[]) as talk:
        refused = talk.ask(say(10))
        error = refused.json()["error"]
        assert (refused.status, error["code"], error["param"]) == (403, "model_unpriced", "model")
    with talked("1", answering(ANSWER), prices=[], on_unknown_price="allow") as talk:
        assert talk.ask(say()).status == 200
        assert b"max_tokens" not in talk.engines[0].last.body, "nothing limits it"
        assert budget_of(talk)["spent"] == "0"
    with talked("1", answering(ANSWER), prices=[PriceConfig(model="*", input="1000", output="1000")]) as talk:
        assert talk.ask(say(10)).status == 200
        assert budget_of(talk)["spent"] == COST
    with talked("", answering(ANSWER), prices=[]) as talk:
        assert talk.ask(say(10)).status == 200, "who has no budget need not care"


FALLS = {"fallback": ["dear"], "fallback_on": ["failure"]}


@pytest.mark.parametrize("routes", [
    [RouteConfig(model="sim", aliases=["nick"], **FALLS)],
    [RouteConfig(model="nick", models=["sim"], **FALLS)],
    [RouteConfig(model="nick", models=["sim", "dear"], fallback=["sim"], fallback_on=["failure"])],
    [RouteConfig(model="nick", models=["sim"]), RouteConfig(model="sim", **FALLS)],
], ids=["its own", "a class's", "another of a class", "a member's"])  # fmt: skip
def test_it_is_reserved_for_the_dearest_and_charged_for_who_answered(routes: list[RouteConfig]) -> None:
    """Whoever it may go on to: one that has no price is as good a reason to refuse it."""
    dearest = PriceConfig(model="dear", input="3000", output="6000", cached="1500")
    engines = [EngineConfig(url="http://127.0.0.1:9", models=["sim", "dear"], warm_connections=0)]
    fails = ok(b"{}").replace(b"200 OK", b"503 Service Unavailable")

    def plays(asked: Any) -> None:
        asked.says(ANSWER if b'"dear"' in asked.body else fails)

    def spends(prices: list[PriceConfig]) -> Any:
        return conversation(engines, plays, api_keys=(KEY,), key_budget="1", prices=prices, routes=routes)

    with spends([SIM, dearest]) as talk:
        answer = talk.ask(say(10, model="nick"))
        assert answer.header("x-fallback-model") == "dear"
        assert amount(str(answer.header("x-budget-remaining"))) == amount("1") - amount("0.003") * (PROMPT + 20)
        assert budget_of(talk)["spent"] == "0.15"
    with spends([SIM]) as talk:
        assert talk.ask(say(10, model="nick")).json()["error"]["code"] == "model_unpriced"


@pytest.mark.parametrize("on_unknown", ["refuse", "allow"])
@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize(("priced", "asked"), [
    ("sim", "sim"), ("sim", "short"), ("short", "sim"), ("short", "short"), ("sim", None), ("short", None),
])  # fmt: skip
def test_by_each_of_its_engine_s_own_names_a_model_costs_the_same(
    priced: str, asked: str | None, rest: bool, on_unknown: str
) -> None:
    """None of its names is a cheaper one, nor is no name where there is no other model; and usage has it by one of them."""
    prices = [PriceConfig(model=priced, input=SIM.input, cached=SIM.cached, output=SIM.output)]
    prices += [PriceConfig(model="*", input="1", output="1")] if rest else []
    plays = {"one": lambda asked: asked.says(ANSWER)}
    with deployed({"one": {}}, plays=plays, api_keys=(KEY,), key_budget="1", prices=prices, on_unknown_price=on_unknown) as row:
        engine = row.engines["one"].engine
        engine.discovered_models = ("sim",)
        engine.facts = {"sim": ModelFacts("sim", aliases=("short",))}
        row.learn()
        row.talk.core.accounts.books.kept = True
        unnamed = request("POST", "/rerank", headers=[("Content-Type", "application/json")], body=LONG_QUERY, key=KEY)
        answer = row.ask(chat(asked, key=KEY, max_tokens=10) if asked is not None else unnamed)
        assert answer.status == 200
        assert amount(str(answer.header("x-budget-remaining"))) < amount("0.98"), "it is reserved at its own price"
        assert row.talk.usage(KEY)["key_budget"]["spent"] == COST
        assert [row[2] for row in row.talk.core.accounts.books.rows()] == [priced]


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("routes", [
    [RouteConfig(model="sim", fallback=["short"], fallback_on=["failure"])],
    [RouteConfig(model="nick", models=["sim", "short"])],
    [RouteConfig(model="sim", aliases=["nick"], fallback=["short"], fallback_on=["failure"])],
], ids=["fallback", "class", "alias"])  # fmt: skip
def test_a_model_that_is_named_by_its_engine_s_other_name_is_reserved_at_its_own_price(
    routes: list[RouteConfig], others: bool
) -> None:
    """Where a route falls back to it, or a name stands for it: at what it will be charged."""
    prices = [SIM, PriceConfig(model="long", input="3000", output="6000", cached="1500")]
    prices += [PriceConfig(model="*", input="1", output="1")] if others else []
    fails = ok(b"{}").replace(b"200 OK", b"503 Service Unavailable")
    plays = {"one": lambda asked: asked.says(fails), "two": lambda asked: asked.says(ANSWER)}
    engines = {"one": {"models": ["sim"]}, "two": {}}
    with deployed(engines, *routes, plays=plays, api_keys=(KEY,), key_budget="1", prices=prices) as row:
        engine = row.engines["two"].engine
        engine.discovered_models = ("long",)
        engine.facts = {"long": ModelFacts("long", aliases=("short",))}
        row.learn()
        answer = row.ask(chat(routes[0].aliases[0] if routes[0].aliases else routes[0].model, key=KEY, max_tokens=10))
        left = amount(str(answer.header("x-budget-remaining")))
        assert left < amount("1") - 20 * amount("0.003"), "not at the price of all others, nor of the cheaper one"
        if answer.status == 200:
            assert row.talk.usage(KEY)["key_budget"]["spent"] == "0.15"


def posted(path: str, kind: str, body: bytes) -> bytes:
    return request("POST", path, headers=[("Content-Type", kind)], body=body, key=KEY)


FORM = "multipart/form-data; boundary=b"
UPLOAD = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n--b--\r\n'
ASKED = {
    "chat": say(10),
    "embeddings": posted("/v1/embeddings", "application/json", json.dumps({"model": "sim", "input": "x" * 200}).encode()),
    "images": posted("/v1/images/generations", "application/json", b'{"model":"sim","prompt":"x"}'),
    "images that are sent": posted("/v1/images/edits", FORM, UPLOAD),
    "sound": posted("/v1/audio/transcriptions", FORM, UPLOAD),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dear", ["input", "cached", "output"])
def test_whichever_of_the_prices_is_the_dear_one_as_much_is_reserved_as_may_be_spent(asked: str, dear: str) -> None:
    """By a request that nobody has told how many of its tokens are the prompt's, too."""
    price = PriceConfig(**{"model": "sim", "input": "0", "output": "0", "cached": "0.000001", dear: "1000"})
    with talked("1000", prices=[price]) as talk:
        client = talk.client().says(ASKED[asked])
        reserved = amount(budget_of(talk)["reserved"])
        talk.engines[0].last.says(ANSWER)
        client.sees(200)
        assert 0 < amount(budget_of(talk)["spent"]) <= reserved or (asked, dear) == ("embeddings", "output")


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def opened(talk: Conversation) -> Any:
    client = talk.client().says(request("GET", "/v1/realtime?model=sim", headers=HANDSHAKE, key=KEY))
    if talk.engines[0].asked:
        talk.engines[0].last.says(SWITCH)
    return client


def test_a_session_is_asked_for_its_price_and_ends_with_the_money() -> None:
    for prices, allow in (([], "refuse"), ([PriceConfig(model="other", input="1")], "refuse"), ([], "allow")):
        with talked("1", prices=prices, on_unknown_price=allow) as talk:
            client = opened(talk)
            if allow == "refuse":
                assert (client.seen.status, client.seen.json()["error"]["code"]) == (403, "model_unpriced")
                assert talk.asked == [0]
            else:
                assert client.seen.status == 101
    with talked("0.1") as talk:
        client = opened(talk)
        for spent in ("0.05", "0.1"):
            assert not client.closed
            talk.engines[0].last.says(done(30, 10))
            assert budget_of(talk)["spent"] == spent
        assert bytes(client.passed_on).startswith(done(30, 10) * 2 + b"\x88")
        assert struct.pack(">H", 1008) in client.passed_on
        (record,) = [one for one in talk.records if one["status"] == 101]
        assert (talk.stats.budget_cut, record["error"]) == (1, "insufficient_quota")


def test_what_a_session_s_engine_did_not_count_is_what_is_told_as_estimated() -> None:
    """And what it says that it had at hand is no more than the prompt, in each of its answers: all books say the same."""
    told = {"type": "duration", "seconds": 3}
    seconds = json.dumps({"type": "conversation.item.input_audio_transcription.completed", "usage": told}).encode()
    with talked("1") as talk:
        client = opened(talk)
        lies = done(10, 5, input_token_details={"cached_tokens": 900}, output_token_details={"reasoning_tokens": 900})
        talk.engines[0].last.says(done(40, 20), lies, frame(1, seconds))
        client.leaves()
        usage, record = talk.usage(), talk.records[0]
        counted = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        assert [usage[name] for name in counted] == [record[name] for name in counted] == [80, 25, 10, 5]
        assert (usage["estimated_tokens"], record["estimated"]) == (30, True)


def test_keys_of_a_tenant_spend_one_budget_and_each_its_own() -> None:
    tenants = [TenantConfig(name="lab", budget="0.3", budget_period="week")]
    with talked("", answering(ANSWER), tenants=tenants) as talk:
        shared = talk.core.accounts.purses()[0]
        for key, budget in ((KEY, None), (OTHER_KEY, amount("0.1"))):
            account = talk.account(key)
            record = KeyRecord(id=account.id, digest=account.id.encode().ljust(32), tenant="lab", budget=budget)
            account.set(Defaults(), record, 0, shared)
        assert talk.ask(say(1)).header("x-budget-period") == "week"
        assert talk.ask(say(1, key=OTHER_KEY)).header("x-budget-period") == "month"
        own = talk.ask(say(30, key=OTHER_KEY)).json()["error"]["message"]
        assert "the key's budget of 0.1 USD a month" in own
        assert budget_of(talk, "tenant")["spent"] == "0.1"
        theirs = talk.ask(say(100)).json()["error"]["message"]
        assert "the tenant's budget of 0.3 USD a week" in theirs


@pytest.mark.parametrize(("asked", "told"), [(2, (0, 0)), (3, (1, 0)), (4, (1, 1))])
def test_each_line_is_told_once(asked: int, told: tuple[int, int]) -> None:
    dear = ok(json.dumps({"usage": {"prompt_tokens": 50, "completion_tokens": 125}}).encode())
    with talked("1", answering(dear)) as talk:
        for _ in range(asked):
            talk.passes(0.5)
            assert talk.ask(say(1)).status == 200
        talk.passes(0.5)
        assert (talk.core.stats.budgets_warned, talk.core.stats.budgets_spent) == told


@pytest.mark.parametrize("sticky", [True, False])
def test_a_model_of_several_versions_costs_what_it_does_whichever_answers(sticky: bool) -> None:
    route = RouteConfig(model="sim", versions={"v1": 1, "v2": 1}, sticky=sticky)
    engines = {name: {"models": ("sim",), "version": name} for name in ("v1", "v2")}
    plays = dict.fromkeys(engines, answering(ANSWER))
    prices = [PriceConfig(model="*", input=SIM.input, cached=SIM.cached, output=SIM.output)]
    with deployed(engines, route, plays=plays, api_keys=(KEY,), key_budget="1", prices=prices) as row:
        assert row.ask(say(10)).status == 200
        assert budget_of(row.talk)["spent"] == COST
