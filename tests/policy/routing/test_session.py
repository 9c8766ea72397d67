"""One engine for each session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastgw import Config, RouteConfig
from fastgw.net.clock import hold
from fastgw.policy.routing import strategy_of
from fastgw.upstream.deployments import Asker
from fastgw.upstream.fleet import deploy
from fastgw.upstream.seats import PART
from fastgw.upstream.table import Group, UpstreamTable
from tests.policy.routing.test_strategies import Asked, place


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


def asked(session: int, key: str = "key", model: str = "m") -> Any:
    made = Asked(model, fields=b"x-session-id: %d\r\n" % session)
    made.key_id = key
    return made


def port(strategy: Any, group: Group, request: Any, tried: Any = ()) -> int:
    pool = strategy.pick(group, tried, request)
    assert pool is not None
    return int(pool.engine.port)


def test_a_session_stays_whatever_the_load_and_begins_where_there_is_least() -> None:
    strategy = strategy_of("session")
    group = Group([place(1, inflight=5), place(2), place(3)])
    where = {}
    for session in range(10):
        where[session] = port(strategy, group, asked(session))
        group.pools[where[session] - 1].engine.inflight += 1
    assert Counter(where.values()) == {2: 5, 3: 5}
    group.pools[1].engine.inflight = group.pools[2].engine.inflight = 50
    assert {session: port(strategy, group, asked(session)) for session in range(10)} == where
    assert port(strategy, group, asked(0, "another key")) == 1, "sessions of two keys are two"
    assert port(strategy, group, Asked()) == 1, "who tells none goes by load"


@pytest.mark.parametrize("state", ["ill", "full", "drained", "tried"])
def test_a_session_moves_when_its_engine_does_not_take_it_and_stays_where_it_went(state: str) -> None:
    strategy = strategy_of("session")
    group = Group([place(1), place(2), place(3)])
    first = port(strategy, group, asked(1))
    engine = group.pools[first - 1].engine
    engine.healthy = state != "ill"
    engine.draining = state == "drained"
    engine.slots = engine.inflight = int(state == "full")
    second = port(strategy, group, asked(1), (group.pools[first - 1],) if state == "tried" else ())
    assert second != first
    engine.healthy, engine.draining, engine.slots, engine.inflight = True, False, 0, 0
    assert port(strategy, group, asked(1)) == second


def test_a_session_is_forgotten_after_its_time_and_kept_by_requests() -> None:
    strategy = strategy_of("session", config=Config(session_ttl_s=100.0))
    group = Group([place(1), place(2)])
    first = port(strategy, group, asked(1))
    group.pools[first - 1].engine.inflight = 9
    for moment in (1060.0, 1150.0, 1240.0):
        hold(moment)
        assert port(strategy, group, asked(1)) == first
    hold(1341.0)
    assert port(strategy, group, asked(1)) != first


def test_there_are_no_more_sessions_than_the_table_has_room_for_and_the_one_used_last_stays() -> None:
    strategy = strategy_of("session", config=Config(session_table=16, session_ttl_s=100.0))
    group = Group([place(1), place(2)])
    kept = port(strategy, group, asked(0))
    for session in range(1, 100):
        if session % 10 == 0:
            hold(1000.0 + 6 * session)
            assert port(strategy, group, asked(0)) == kept
        port(strategy, group, asked(session))


def test_no_key_takes_the_sessions_of_others_and_there_is_one_table_for_all_engines() -> None:
    remembered: dict[str, Any] = {}
    strategy = strategy_of("session", config=Config(session_table=40), remembered=remembered)
    groups = [Group([place(1), place(2), place(3)]), Group([place(4), place(5), place(6)])]

    def goes(key: str, at: int, session: int = 1, by: Any = strategy) -> int:
        return port(by, groups[at], asked(session, key, f"m{at}"))

    where = {(key, at): goes(key, at) for key in ("a", "b") for at in (0, 1)}
    for pool in (*groups[0].pools, *groups[1].pools):
        pool.engine.inflight = 9 * (pool.engine.port in where.values())  # (a session that is forgotten goes elsewhere)
    for session in range(500):
        goes("greedy", session % 2, session)
    assert remembered["session"].count == 40
    [part] = remembered["session"].parts
    assert {key: len(seats) for key, seats in part.seats.items()} == {"a": 2, "b": 2, "greedy": 36}
    assert where == {(key, at): goes(key, at) for key, at in where}
    for session in range(200):
        goes("more", 0, session, strategy_of("session", config=Config(session_table=500), remembered=remembered))
    count = remembered["session"].count
    other = strategy_of("session", config=Config(session_table=16), remembered=remembered)
    goes("new", 0, by=other)
    assert remembered["session"].count == count - 64 + 1, "so many at a time make room: nobody's request pays for all of them"
    for session in range(8):
        goes("new", 0, session, by=other)
    goes("new", 0, by=other)
    assert remembered["session"].count == 16, "a smaller table, by other settings, goes on with what it has room for"
    assert goes("a", 0, by=other) == where["a", 0]


@pytest.mark.parametrize("keys", [1, 1 << 20])
def test_what_grows_is_never_large_or_one_request_would_pay_for_all_sessions(keys: int) -> None:
    """A dictionary that is full is laid out anew, with all that it has, by whoever comes next."""
    most = 8 * PART
    remembered: dict[str, Any] = {}
    strategy = strategy_of("session", config=Config(session_table=most), remembered=remembered)
    group = Group([place(1), place(2)])
    for session in range(3 * most // 2):
        port(strategy, group, asked(session % 97 if keys > 1 else session, f"key-{session % keys}"))
    sessions = remembered["session"]
    assert 0.99 * most < sessions.count <= most
    assert max(max(len(part.seats), *map(len, part.seats.values())) for part in sessions.parts) <= 2 * PART


@pytest.mark.parametrize("part", ["everyone", "version"])
def test_sessions_outlive_the_coming_and_going_of_other_engines(part: str) -> None:
    strategy = strategy_of("session")
    pools = [place(at + 1, version="v1", models=("m",)) for at in range(4)]
    routes = (RouteConfig(model="m", versions={"v1": 1}),) if part == "version" else ()

    def engines(table: UpstreamTable) -> Group:
        found = table.everyone if part == "everyone" else table.deployed.group("m", Asker())
        assert found is not None
        return found

    table = UpstreamTable(pools[:3], None, routes, deploy)
    where = {session: port(strategy, engines(table), asked(session)) for session in range(30)}
    table = UpstreamTable(pools[1:], table, routes, deploy)
    after = {session: port(strategy, engines(table), asked(session)) for session in range(30)}
    assert {session for session in where if after[session] != where[session]} == {
        session for session in where if where[session] == 1
    }


def test_the_operator_is_told_where_a_session_is() -> None:
    strategy = strategy_of("session")
    group = Group([place(1), place(2, inflight=1)])
    assert strategy.explain(group, (), asked(1))[0].engine == "127.0.0.1:1"
    group.pools[0].engine.inflight = 2
    assert port(strategy, group, asked(1)) == 2
    group.pools[1].engine.inflight = 9
    best, other = strategy.explain(group, (), asked(1))
    assert (best.engine, best.fit, best.why) == ("127.0.0.1:2", True, "has the session; 9 requests under way, at weight 1")
    assert other.engine == "127.0.0.1:1"


def test_keys_that_are_sessions_themselves_are_as_many_sessions() -> None:
    strategy = strategy_of("session", config=Config(session_sources=["key"]))
    group = Group([place(1), place(2), place(3)])
    where = set()
    for number in range(6):
        request: Any = Asked()
        request.key_id = f"key_{number}"
        at = port(strategy, group, request)
        group.pools[at - 1].engine.inflight += 1
        where.add(at)
    assert where == {1, 2, 3}
