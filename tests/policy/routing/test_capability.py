"""An engine that can do what the request needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastgw import Config
from fastgw.config import RouteConfig
from fastgw.net.clock import hold
from fastgw.policy.routing import strategy_of
from fastgw.policy.routing.capability import KEPT_S, MOST_KEPT
from fastgw.upstream.models import ModelFacts
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from tests.policy.routing.test_strategies import Asked, place

CONFIG = Config(routes=[RouteConfig(model="see", needs=["vision"])])


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


def three() -> list[Pool]:
    see = ["vision"]
    return [place(1, machine="gpu"), place(2, machine="gpu", features=see), place(3, machine="cpu", features=see)]


def needing(words: bytes, model: str = "m") -> Any:
    return Asked(model, fields=b"X-Fastgw-Needs: %b\r\n" % words)


def prompting(tokens: int, answer: int = 0) -> Any:
    """A request of about so many tokens."""
    return Asked(body=b'{"messages":[{"role":"user","content":"%b"}],"max_tokens":%d,"model":"m"}' % (b"abc " * tokens, answer))


def ports(group: Group, request: Any, count: int = 4, config: Config = CONFIG) -> set[int]:
    strategy = strategy_of("capability", config=config)
    found = [strategy.pick(group, (), request) for _ in range(count)]
    return {pool.engine.port for pool in found if pool is not None}


def knowing(port: int, context: int, loaded: bool | None = None, **settings: Any) -> Pool:
    pool = place(port, **settings)
    pool.engine.facts = {"m": ModelFacts("m", context, loaded=loaded)}
    return pool


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (b"", {1, 2, 3}),
        (b"gpu", {1, 2}),
        (b"vision", {2, 3}),
        (b" gpu , vision ", {2}),
        (b"cpu,,", {3}),
        (b"tpu", set()),
        (b"GPU", set()),
        (b"gpu," * 100, set()),  # longer than anybody has words for
    ],
)
def test_machine_and_features_are_words_that_a_request_asks_for(words: bytes, found: set[int]) -> None:
    pools = three()
    assert ports(Group(pools), needing(words), 6) == found


def test_a_route_needs_what_it_says_beside_what_the_request_says() -> None:
    pools = three()
    assert ports(Group(pools), Asked("see")) == {2, 3}
    assert ports(Group(pools), needing(b"gpu", "see")) == {2}
    assert ports(Group(pools), needing(b"gpu", "see"), config=Config(needs_header="", routes=CONFIG.routes)) == {2, 3}


def test_a_request_goes_where_its_context_fits_and_where_none_does_to_the_longest() -> None:
    group = Group([knowing(1, 1000), knowing(2, 4000), knowing(3, 4000)])
    assert ports(group, prompting(500)) == {1, 2, 3}
    assert ports(group, prompting(900, answer=500)) == {2, 3}
    assert ports(group, prompting(1100)) == {2, 3}
    assert ports(group, prompting(9000)) == {2, 3}, "the prompt is an estimate: the engine has the last word"
    group.pools[0].engine.facts = {}
    hold(1000.0 + KEPT_S)
    assert ports(group, prompting(9000)) == {1}, "one that does not say may take it"


def test_who_has_the_model_comes_before_who_must_load_it() -> None:
    group = Group([knowing(1, 0, loaded=False), knowing(2, 0, loaded=True), knowing(3, 0)])
    assert ports(group, prompting(10)) == {2, 3}
    group.pools[1].engine.healthy = False
    group.pools[2].engine.slots = group.pools[2].engine.inflight = 1
    assert ports(group, prompting(10)) == {1}


def test_of_those_who_are_fit_the_one_with_least_to_do() -> None:
    group = Group([place(1, inflight=0), place(2, inflight=3, machine="gpu"), place(3, inflight=2, machine="gpu")])
    assert ports(group, needing(b"gpu"), 1) == {3}


def test_the_name_that_an_engine_knows_is_the_one_that_its_facts_have() -> None:
    pool = knowing(1, 0, served_name="inner")
    pool.engine.facts = {"inner": ModelFacts("inner", 100)}
    group = Group([pool, knowing(2, 5000)])
    assert ports(group, prompting(1000)) == {2}


def test_strangers_cannot_fill_memory_with_needs() -> None:
    group = Group([place(1), place(2)])
    strategy = strategy_of("capability", config=CONFIG)
    for number in range(3 * MOST_KEPT):
        asked = needing(b"%d" % number)
        assert strategy.pick(group, (), asked) is None
        assert strategy.unmet(group, asked) == f"No engine for this model has what the request needs: {number}."
        assert len(group.notes["capability"]) <= MOST_KEPT


def test_the_operator_is_told_what_an_engine_lacks() -> None:
    group = Group([place(1, machine="gpu"), knowing(2, 100, machine="gpu", features=["vision"]), knowing(3, 0, False)])
    strategy = strategy_of("capability", config=CONFIG)
    asked = prompting(500)
    asked.head = needing(b"gpu").head
    told = {one.engine: (one.fit, one.why) for one in strategy.explain(group, (), asked)}
    assert told["127.0.0.1:1"] == (True, "0 requests under way, at weight 1")
    assert told["127.0.0.1:2"][0] is False
    assert "takes 100 tokens, and" in told["127.0.0.1:2"][1]
    assert told["127.0.0.1:3"] == (False, "lacks gpu")
