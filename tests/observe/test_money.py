"""Money as a scraper reads it: what was charged, to whom, and what is left of whose budget."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.config import EngineConfig
from fastgw.config.money import BILLION, amount
from fastgw.config.paying import TenantConfig
from fastgw.limits.purse import MOST_SPENT
from fastgw.observe import money
from fastgw.observe.exposition import pieces
from fastgw.observe.money import Budget
from fastgw.observe.tallies import OTHER, Tallies
from tests.conversations.test_budgets import ANSWER, COST, SIM
from tests.e2e.metered import KEY, say
from tests.support.conversation import answering, conversation

ENGINE = EngineConfig(url="http://127.0.0.1:9", models=["sim"], warm_connections=0)

Told = dict[str, dict[tuple[str, ...], float]]


def told(tallies: Tallies, budgets: dict[str, Budget] | None = None) -> Told:
    """The samples of each metric, by the values of their labels but the currency, which is the same in all."""
    text = b"".join(pieces(money.families(tallies, "EUR", (budgets or {}).get))).decode()
    found: Told = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("currency", "EUR") == "EUR"
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.mark.parametrize(("by", "callers"), [("", 0), ("key", 1), ("tenant", 1)])
@pytest.mark.parametrize("budget", ["", "1"])
def test_what_requests_cost_is_what_is_told(by: Any, callers: int, budget: str) -> None:
    """Whether or not there is a budget, or a store: what has a price is money."""
    with conversation([ENGINE], answering(ANSWER), api_keys=(KEY,), prices=[SIM], key_budget=budget, metrics_by=by) as talk:
        for _ in range(3):
            talk.ask(say(10))
        found = told(talk.tallies)
        cost = 3 * amount(COST) / BILLION
        assert found.pop("gateway_model_cost_total") == {("/v1/chat/completions", "sim"): cost}
        assert [list(one.values()) for one in found.values()] == [[cost]] * callers


def test_without_a_price_nothing_is_told() -> None:
    with conversation([ENGINE], answering(ANSWER), api_keys=(KEY,), metrics_by="key") as talk:
        talk.ask(say(10))
        assert told(talk.tallies) == {}


def test_what_is_left_is_of_callers_that_have_asked_and_the_sums_have_an_end() -> None:
    budgets = {"key_1": Budget(10 * BILLION, 4 * BILLION, 20_000), "key_2": Budget(BILLION, 0, 20_000)}
    with conversation([ENGINE], answering(ANSWER), api_keys=(KEY,), prices=[SIM], metrics_by="key") as talk:
        talk.ask(say(10))
        (name,) = talk.tallies.callers
        talk.tallies.callers["key_1"] = talk.tallies.callers[name]
        talk.tallies.callers[name].cost = MOST_SPENT
        talk.ask(say(10))
        found = told(talk.tallies, budgets)
        assert found["gateway_caller_budget_limit"] == {("key_1",): 10.0}
        assert found["gateway_caller_budget_remaining"] == {("key_1",): 4.0}
        assert found["gateway_caller_budget_ends_timestamp_seconds"] == {("key_1",): 20_000 * 86_400}
        assert found["gateway_caller_cost_total"][name,] == MOST_SPENT / BILLION
        assert OTHER not in talk.tallies.callers


def test_whose_budget_it_is() -> None:
    """A tenant's, where callers are tenants; of a key that has none its own."""
    lab = TenantConfig(name="lab", budget="7")
    with conversation([ENGINE], api_keys=(KEY,), prices=[SIM], key_budget="3", tenants=[lab]) as talk:
        accounts, key = talk.core.accounts, talk.account().id
        limits = {
            (name, tenants): purse.limit // BILLION if (purse := accounts.budget_of(name, tenants)) is not None else None
            for name in ("lab", key, OTHER) for tenants in (False, True)
        }  # fmt: skip
        assert limits == {
            ("lab", False): None, ("lab", True): 7, (key, False): 3, (key, True): 3, (OTHER, False): None, (OTHER, True): None,
        }  # fmt: skip
