"""The engine that has most of the prompt at hand, unless it has too much to do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from fastgw import Config
from fastgw.net.clock import hold
from fastgw.policy.routing import strategy_of
from fastgw.stats import Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group, UpstreamTable
from tests.policy.routing.test_loads import ask, watched
from tests.policy.routing.test_strategies import Asked, place


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


def said(size: int, seed: int) -> bytes:
    return b'{"role":"user","content":"%b"}' % random.Random(seed).randbytes(size // 2).hex().encode()


def chat(*messages: bytes, model: str = "m", before: bytes = b"", behind: bytes = b"") -> Any:
    body = b'{%b"messages":[%b]%b}' % (before or b'"model":"%b",' % model.encode(), b",".join(messages), behind)
    return Asked(model, body=body)


def fleet(count: int = 3, **settings: Any) -> Group:
    pools = [place(at + 1, **settings) for at in range(count)]
    watched(pools)
    return Group(pools)


def goes(strategy: Any, group: Group, request: Any, tried: Any = ()) -> int:
    """The engine that gets it, where it is under way from then on."""
    pool = strategy.pick(group, tried, request)
    assert pool is not None
    ask(pool, request.facts.prompt_tokens)
    return int(pool.engine.port)


def over(group: Group) -> None:
    """All that is under way has ended."""
    for pool in group.pools:
        watch = pool.engine.watch
        assert watch is not None
        pool.engine.inflight = 0
        watch.ended(watch.reading, watch.making)


def test_a_conversation_stays_where_it_is_and_others_go_by_load() -> None:
    stats = Stats()
    strategy = strategy_of("prefix_aware", stats=stats)
    group = fleet()
    turns = {name: [said(3000, name)] for name in range(3)}
    where = {name: goes(strategy, group, chat(*turn)) for name, turn in turns.items()}
    assert sorted(where.values()) == [1, 2, 3]
    over(group)
    for step in range(3):
        for name, turn in turns.items():
            turn += [said(500, 100 * step + name), said(700, 200 * step + name)]
            assert goes(strategy, group, chat(*turn)) == where[name]
            over(group)
    assert stats.prefix_hits == 9
    assert 0.5 < stats.prefix_hit_tokens / stats.prefix_tokens < 1.0


def test_what_stands_beside_the_messages_does_not_matter_and_the_model_does() -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet()
    message = said(4000, 1)
    first = goes(strategy, group, chat(message))
    over(group)
    beside = chat(message, before=b'"temperature":0.5,"model":"m","tools":[{"a":1}],', behind=b',"max_tokens":5')
    for _ in range(3):
        assert goes(strategy, group, beside) == first
        over(group)
    assert goes(strategy, group, chat(message, model="other")) != first


def test_a_prompt_of_any_shape_counts() -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet()
    text = random.Random(1).randbytes(2000).hex().encode()
    for body in (b'{"model":"m","prompt":"%b"}', b'{"input":[{"role":"user","content":"%b"}],"model":"m"}'):
        first = goes(strategy, group, Asked(body=body % text))
        over(group)
        assert goes(strategy, group, Asked(body=body % text)) == first
        over(group)


def test_short_prompts_and_requests_without_one_go_by_load() -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet()
    assert [goes(strategy, group, chat(said(100, 1))) for _ in range(3)] == [1, 2, 3]
    request = Asked()
    assert strategy.pick(group, (), request) is not None  # type: ignore[arg-type]


def test_it_is_quicker_to_read_a_prompt_anew_than_to_wait_for_longer_ones() -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet(2)
    turn = [said(8000, 1)]
    first = goes(strategy, group, chat(*turn))
    over(group)
    ask(group.pools[first - 1], 1000)  # its cache saves more than that
    assert goes(strategy, group, chat(*turn)) == first
    over(group)
    ask(group.pools[first - 1], 5000)
    assert goes(strategy, group, chat(*turn)) != first


def test_what_is_at_hand_is_no_work_for_the_next() -> None:
    """An engine that is given a prompt which it has is not busy with it."""
    strategy = strategy_of("prefix_aware")
    group = fleet(2)
    long = chat(said(40_000, 1))
    first = goes(strategy, group, long)
    pool = group.pools[first - 1]
    assert pool.engine.watch is not None
    assert pool.engine.watch.reading > 9000
    over(group)
    goes(strategy, group, long)
    assert pool.engine.watch.reading < 1000


def test_no_engine_gets_more_than_its_share_for_its_cache() -> None:
    """All ask the same long prompt, and each answer takes long: it goes to as many as the guard says."""
    stats = Stats()
    strategy = strategy_of("prefix_aware", stats=stats)
    group = fleet(4)
    prompt = chat(said(20_000, 1))
    for count in range(200):
        port = goes(strategy, group, prompt)
        watch = group.pools[port - 1].engine.watch
        assert watch is not None
        watch.began(watch.reading, 100)
        most = max(pool.engine.inflight for pool in group.pools)
        assert most <= max(4, -(-(count + 1) * 150 // 400) + 1)
    assert stats.prefix_moved > 0
    assert min(pool.engine.inflight for pool in group.pools) > 20


@pytest.mark.parametrize("state", ["ill", "full", "tried"])
def test_an_engine_that_does_not_take_it_has_its_cache_in_vain(state: str) -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet()
    prompt = chat(said(8000, 1))
    first = goes(strategy, group, prompt)
    over(group)
    engine = group.pools[first - 1].engine
    engine.healthy = state != "ill"
    engine.slots = engine.inflight = int(state == "full")
    assert goes(strategy, group, prompt, (group.pools[first - 1],) if state == "tried" else ()) != first


def test_what_is_known_outlives_the_coming_and_going_of_other_engines() -> None:
    strategy = strategy_of("prefix_aware")
    pools = [place(at + 1) for at in range(4)]
    watched(pools)
    table = UpstreamTable(pools[:3])
    prompts = {name: chat(said(3000, name)) for name in range(9)}
    assert table.everyone is not None
    where = {}
    for name, prompt in prompts.items():
        where[name] = goes(strategy, table.everyone, prompt)
    table = UpstreamTable(pools[1:], table)
    assert table.everyone is not None
    over(table.everyone)
    for name, prompt in prompts.items():
        port = goes(strategy, table.everyone, prompt)
        assert port == where[name] or where[name] == 1
        over(table.everyone)


def test_an_engine_keeps_as_much_as_is_set() -> None:
    remembered: dict[str, Any] = {}
    strategy = strategy_of("prefix_aware", config=Config(prefix_cache_tokens=3000), remembered=remembered)
    group = fleet(2)
    first, others = chat(said(8000, 1)), [chat(said(8000, seed)) for seed in range(2, 8)]
    goes(strategy, group, first)
    for other in others:
        goes(strategy, group, other)
    told = strategy.explain(group, (), first)  # type: ignore[arg-type]
    assert all("has 0 of the prompt's" in one.why for one in told)
    known = remembered["prefix"]
    assert all(known.taken(slot) <= 12_000 for slot in (0, 1))


def test_another_size_of_the_table_begins_anew_and_another_cache_goes_on() -> None:
    group = fleet(2)
    prompt = chat(said(8000, 1))
    remembered: dict[str, Any] = {}

    def by(**settings: Any) -> Any:
        goes(strategy_of("prefix_aware", config=Config(**settings), remembered=remembered), group, prompt)
        return remembered["prefix"]

    before = by()
    assert by(prefix_cache_tokens=5000) is before
    assert by(prefix_table_bytes=1 << 20) is not before


def test_all_models_have_one_table_which_is_as_large_as_is_set() -> None:
    remembered: dict[str, Any] = {}
    strategy = strategy_of("prefix_aware", config=Config(prefix_table_bytes=1 << 16), remembered=remembered)
    groups = [fleet(2) for _ in range(5)]
    for number in range(400):
        group = groups[number % 5]
        goes(strategy, group, chat(said(20_000, number), model=f"m{number % 5}"))
        over(group)
    assert len(remembered) == 1
    assert remembered["prefix"].nodes() < 64, "it is full, and nobody has another"


def test_asking_why_changes_nothing() -> None:
    strategy = strategy_of("prefix_aware")
    group = fleet(2)
    prompt, other = chat(said(8000, 1)), chat(said(8000, 2))
    first = goes(strategy, group, prompt)
    over(group)
    for _ in range(5):
        told = strategy.explain(group, (), prompt)  # type: ignore[arg-type]
        assert told[0].engine == f"127.0.0.1:{first}"
        assert told[0].why.startswith("has ")
        assert not told[0].why.startswith("has 0 ")
        strategy.explain(group, (), other)  # type: ignore[arg-type]
    assert goes(strategy, group, other) != first, "what was only explained is at no engine"


def test_without_watches_it_goes_by_what_is_under_way() -> None:
    strategy = strategy_of("prefix_aware")
    group = Group([place(1), place(2)])
    prompt = chat(said(8000, 1))
    pool: Pool | None = None
    for _ in range(5):
        pool = strategy.pick(group, (), prompt)  # type: ignore[arg-type]
        assert pool is not None
        assert pool.engine.port == 1
        group.cursor = 0
    assert pool is not None
