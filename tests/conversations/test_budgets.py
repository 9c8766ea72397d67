"""Money: who may not pay for a request is refused, a stream ends where nothing is left, and what was spent is what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.config.money import amount
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.limits.account import Defaults
from fastgw.limits.key import KeyRecord
from tests.conversations.test_cut import TEXT, head
from tests.e2e.metered import KEY, OTHER_KEY, estimate, say
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import request
from tests.support.scripts import chunk, ok

# A token of a prompt costs a thousandth, one that was at hand a half of it, one of an answer two.
SIM = PriceConfig(model="sim", input="1000", cached="500", output="2000")
USED = {"prompt_tokens": 40, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 20}}
COST = "0.05"
ANSWER = ok(json.dumps({"choices": [{"message": {"content": "a"}}], "usage": USED}).encode())
PROMPT = estimate()


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


def test_a_stream_is_cut_where_the_money_ends() -> None:
    with talked(f"0.{PROMPT + 2 * 5:03}", on_exhausted="cut") as talk:  # of five tokens
        client = talk.client().says(say(50, stream=True))
        asked = talk.engines[0].last.says(head("chunked"))
        asked.says(chunk(TEXT + TEXT))
        talk.passes(0.02)
        events = client.seen.events()
        last = json.loads(events[-2])
        assert events[-1] == "[DONE]"
        assert (last["choices"][0]["finish_reason"], last["error"]["code"]) == ("length", "insufficient_quota")
        assert (talk.stats.budget_cut, talk.stats.quota_cut) == (1, 0)
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


def test_it_is_reserved_for_the_dearest_and_charged_for_who_answered() -> None:
    prices = [SIM, PriceConfig(model="dear", input="3000", output="6000", cached="1500")]
    routes = [RouteConfig(model="sim", fallback=["dear"], fallback_on=["failure"], aliases=["nick"])]
    fails = ok(b"{}").replace(b"200 OK", b"503 Service Unavailable")

    def plays(asked: Any) -> None:
        asked.says(ANSWER if b'"dear"' in asked.body else fails)

    with talked("1", plays, prices=prices, routes=routes) as talk:
        answer = talk.ask(say(10, model="nick"))
        assert answer.header("x-fallback-model") == "dear"
        assert amount(str(answer.header("x-budget-remaining"))) == amount("1") - amount("0.003") * (PROMPT + 20)
        assert budget_of(talk)["spent"] == "0.15"


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
