"""Engines that come and go: names, bounds, the table that is published, and what is dropped with whoever leaves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

import fastgw.upstream.fleet as module
from fastgw import Config, EngineConfig
from fastgw.config.names import POLICIES
from fastgw.limits.breaker import ALL, OPEN, PROBE
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.policy.routing import strategy_of
from fastgw.runners import FleetYard
from fastgw.stats import NullLog, Stats
from fastgw.upstream.fleet import Fleet, FleetFull
from fastgw.upstream.health import Health
from fastgw.upstream.identity import EngineExists, UnknownEngine
from fastgw.upstream.leaving import LOOK_S
from fastgw.upstream.publishing import PUBLISH_SHARE
from fastgw.upstream.scheduler import Scheduler
from tests.policy.routing.test_strategies import Asked


def engine(port: int, name: str = "", **settings: Any) -> EngineConfig:
    return EngineConfig(url=f"http://127.0.0.1:{port}", name=name or f"e{port}", **settings)


class Told:
    """What a fleet has told."""

    def __init__(self) -> None:
        self.tables = self.rooms = 0
        self.joined: list[str] = []
        self.left: list[str] = []
        self.follower: Any = None  # where there is one


@asynccontextmanager
async def fleet(*engines: EngineConfig, **settings: Any) -> AsyncIterator[tuple[Fleet, Told]]:
    """A fleet of engines that nobody is behind."""
    told = Told()
    reactor = Reactor(asyncio.get_running_loop())
    config = Config(engines=engines, warm_connections=0, **settings)

    def published() -> None:
        told.tables += 1

    def room() -> None:
        told.rooms += 1

    made = Fleet(config, reactor, Stats(), NullLog(), Shortage(NullLog()), published=published, room=room)
    made.joined = lambda pool: told.joined.append(pool.engine.name)
    made.left = lambda pool: told.left.append(pool.engine.name)
    try:
        yield made, told
    finally:
        made.close()
        reactor.close()


def serving(made: Fleet, model: str) -> list[str]:
    group = made.table.group(model)
    return [pool.engine.name for pool in group.pools if pool.engine.permitted()] if group is not None else []


async def test_whoever_is_added_inherits_what_the_gateway_says_and_is_not_well_before_it_was_asked() -> None:
    async with fleet(engine(1), vllm_api_key="sk-engines", engine_max_concurrent=7) as (made, told):
        pool = made.add(engine(2, models=("m",)))
        assert (pool.engine.api_key_line, pool.engine.slots) == (b"Authorization: Bearer sk-engines\r\n", 7)
        assert pool.engine.healthy is False
        assert (told.tables, told.joined, made.table.version) == (1, ["e2"], 1)
        assert (serving(made, "m"), serving(made, "x")) == (["e2"], ["e1"])
        assert made.keys() == ["sk-engines", "sk-engines"]


@pytest.mark.parametrize(
    ("again", "says"),
    [
        (engine(9, name="e1"), "another `name`"),
        (EngineConfig(url="http://127.0.0.1:1"), "'e1' has this address"),
        (engine(1, name="other", models=("a",)), "'e1' has this address"),
        (engine(2, name="other", models=("a", "b")), "'e2' has this address"),
    ],
)
async def test_nobody_is_there_twice(again: EngineConfig, says: str) -> None:
    async with fleet(engine(1), engine(2, models=("a",))) as (made, told):
        with pytest.raises(EngineExists, match=says):
            made.add(again)
        assert (len(made), told.tables, told.joined) == (2, 0, [])
        made.add(engine(2, name="other", models=("b",)))  # the same address for other models


async def test_there_are_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENGINES", 2)
    async with fleet(engine(1)) as (made, _):
        made.add(engine(2))
        with pytest.raises(FleetFull, match="remove one first"):
            made.add(engine(3))
        assert made.remove("e1")
        made.add(engine(3))


async def test_who_drains_takes_nothing_more_and_stays_in_the_table_until_it_is_gone() -> None:
    async with fleet(engine(1), engine(2)) as (made, told):
        first = made.drain("e1")
        assert serving(made, "m") == ["e2"]
        assert (first.engine.usable(), first.engine.last_resort(), first.engine.full()) == (False, False, False)
        assert (told.rooms, told.tables) == (1, 0)
        made.drain("e1")
        assert told.rooms == 1
        made.undrain("e1")
        assert (serving(made, "m"), told.rooms) == (["e1", "e2"], 2)
        group = made.table.group("m")
        made.publish()
        assert made.table.group("m") is group  # the same engines: its turns and its lane go on


async def test_who_is_removed_goes_with_its_last_request_and_may_be_kept_before() -> None:
    async with fleet(engine(1), engine(2)) as (made, told):
        pool = made.find("e1")
        pool.engine.inflight = 1
        assert made.remove("e1") is False
        assert (made.leaves("e1"), told.left) == (True, [])
        made.undrain("e1")
        pool.engine.inflight = 0
        await asyncio.sleep(3 * LOOK_S)
        assert (made.leaves("e1"), serving(made, "m")) == (False, ["e1", "e2"])
        pool.engine.inflight = 1
        made.remove("e1")
        await asyncio.sleep(3 * LOOK_S)
        assert told.left == []
        pool.engine.inflight = 0
        await asyncio.sleep(3 * LOOK_S)
        assert (told.left, [one.engine.name for one in made.pools], told.tables) == (["e1"], ["e2"], 1)
        assert made.remove("e2", at_once="a test")
        assert (len(made), made.table.group("m"), made.table.everyone) == (0, None, None)


@pytest.mark.parametrize("call", ["find", "drain", "undrain", "remove", "config_of"])
async def test_a_name_that_nobody_has_is_told(call: str) -> None:
    async with fleet(engine(1)) as (made, _):
        with pytest.raises(UnknownEngine, match="GET /admin/engines"):
            getattr(made, call)("e2")


async def test_nothing_remembers_who_has_gone() -> None:
    """Health, the scheduler and the table: a hundred came, were looked at, and went."""
    async with fleet(engine(1)) as (made, _):
        config = Config()
        health = Health(lambda: made.pools, config, NullLog(), made.publish, lambda: None)
        made.left = lambda pool: health.forget(pool.engine)
        scheduler = Scheduler(lambda: made.pools, interval_s=1.0, timeout_s=1.0, log=NullLog(), changed=lambda: None)
        for at in range(100):
            pool = made.add(engine(2, name=f"n{at}"))
            await health.resolve(pool.engine)
            await asyncio.gather(health.probe(pool), scheduler.round())
            assert made.remove(f"n{at}")
        await asyncio.gather(health.round(), scheduler.round())
        assert {one.name for one in health._known} == {one.name for one in scheduler._watched} == {"e1"}
        assert [one.engine.name for one in made.pools] == ["e1"]
        assert len(made.table.groups()) == 1
        del pool
        gc.collect()
        names = {one.name for one in gc.get_objects() if type(one) is type(made.pools[0].engine)}
        assert not {name for name in names if name.startswith("n")}


async def test_a_probe_that_ends_after_its_engine_has_gone_leaves_nothing() -> None:
    async with fleet(engine(1)) as (made, _):
        health = Health(lambda: made.pools, Config(), NullLog(), made.publish, lambda: None)
        pool = made.find("e1")
        asked = asyncio.ensure_future(health.probe(pool))
        await asyncio.sleep(0)
        made.remove("e1")
        health.forget(pool.engine)
        await asked
        assert not health._known


def _opens(breaker: Any) -> None:
    for _ in range(3):
        breaker.failed(monotonic(), 0.0, probe=False)
    assert breaker.state == OPEN


async def test_an_open_breaker_lets_one_try_when_its_engine_is_seen_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(engine(1), cb_failure_threshold=3) as (made, _):
        config = Config(cb_failure_threshold=3)
        health = Health(lambda: made.pools, config, NullLog(), made.publish, lambda: None)
        pool = made.find("e1")
        breaker = pool.engine.breaker
        meanwhile: list[Any] = []

        async def answers(*_: Any) -> tuple[int, bytes]:
            for one in meanwhile:
                one(breaker)
            return 200, b'{"data": [{"id": "m"}]}'

        monkeypatch.setattr("fastgw.upstream.health.get", answers)
        monkeypatch.setattr("fastgw.upstream.lists.get", answers)
        await health.probe(pool)
        assert health.counts() == (1, 1)
        meanwhile.append(_opens)
        await health.probe(pool)
        assert not pool.engine.permitted(), "it was asked before that"
        assert health.counts() == (0, 1), "what takes no request is not ready"
        meanwhile.clear()
        await health.probe(pool)
        assert pool.engine.permitted()
        assert health.counts() == (1, 1)
        assert breaker.admit(monotonic()) == PROBE
        breaker.failed(monotonic(), 0.0, probe=True)
        await health.probe(pool)
        assert not pool.engine.permitted(), "probes know nothing of what requests meet there"


@pytest.mark.parametrize("back", ["vouched", "rested"])
async def test_a_runner_that_is_well_again_is_tried_at_once(back: str) -> None:
    async with fleet(cb_failure_threshold=3) as (made, _):
        yard = FleetYard(made, NullLog(), lambda: None)
        found = yard.take_in(engine(1, "r"))
        yard.vouched(found, back != "vouched")
        yard.rests(found, back == "rested")
        _opens(found.breaker)
        yard.vouched(found, True)
        yard.rests(found, False)
        assert found.usable()


async def test_a_kind_that_was_learned_is_learned_again_when_its_engine_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(engine(1), engine(2, kind="vllm")) as (made, _):
        health = Health(lambda: made.pools, Config(health_unhealthy_after=1), NullLog(), made.publish, lambda: None)
        kinds = []
        for owner in ("llamacpp", "", "vllm", "", "nobody"):

            async def answers(*_: Any, owner: str = owner) -> tuple[int, bytes]:
                return 200 if owner else 503, b'{"data": [{"id": "m", "owned_by": "%b"}]}' % owner.encode()

            monkeypatch.setattr("fastgw.upstream.health.get", answers)
            monkeypatch.setattr("fastgw.upstream.lists.get", answers)
            for pool in made.pools:
                await health.probe(pool)
            kinds.append([pool.engine.kind.name for pool in made.pools])
        assert kinds == [[kind, "vllm"] for kind in ("llamacpp", "llamacpp", "vllm", "vllm", "auto")]


async def test_who_lists_models_is_told_when_another_context_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of engines is a snapshot: what is told by it is told anew with the next one."""
    async with fleet(engine(1, kind="llamacpp")) as (made, _):
        health = Health(lambda: made.pools, Config(), NullLog(), made.publish, lambda: None)
        pool = made.find("e1")
        tables = []
        for fits in (512, 512, 1024):

            async def answers(_: Any, path: bytes, *__: Any, fits: int = fits) -> tuple[int, bytes]:
                return 200, b'{"n_ctx": %d}' % fits if path == b"/props" else b'{"data": [{"id": "m"}]}'

            monkeypatch.setattr("fastgw.upstream.health.get", answers)
            monkeypatch.setattr("fastgw.upstream.lists.get", answers)
            await health.lists.learn(pool, health._of(pool.engine).learned)
            tables.append(made.table)
        assert tables[0] is tables[1]
        assert tables[2] is not tables[1]


async def test_what_a_runner_says_of_its_engine_outweighs_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: Any) -> tuple[int, bytes]:
        return 200, b"{}"

    monkeypatch.setattr("fastgw.upstream.health.get", answers)
    monkeypatch.setattr("fastgw.upstream.lists.get", answers)
    async with fleet() as (made, _):
        health = Health(lambda: made.pools, Config(), NullLog(), made.publish, lambda: None)
        yard = FleetYard(made, NullLog(), lambda: None)
        found = yard.take_in(engine(1, "r"))
        for ill in (True, False):
            yard.disowned(found, ill)
            await health.probe(made.find("r"))
            assert (found.usable(), found.last_resort()) == (not ill, ill)


# --- those that come and go by themselves
async def test_one_that_is_taken_in_serves_what_is_said_from_the_next_table_on() -> None:
    async with fleet(engine(1)) as (made, told):
        made.take_in(engine(2, "r"))
        made.serves("r", ["a", "b"])
        made.serves("r", ["b", "c"])
        assert told.tables == 0
        await asyncio.sleep(0.01)
        assert told.tables == 1
        assert told.joined == []
        assert [serving(made, model) for model in ("a", "b", "c")] == [["e1"], ["r"], ["r"]]
        assert made.free_name("r") == "r~2"


async def test_tables_that_may_wait_are_few_however_many_come_and_however_slow_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastgw.upstream.publishing.thread_time", count(0.0, 0.001).__next__)  # each of them takes 1 ms
    async with fleet() as (made, told):
        begun = monotonic()
        for port in range(1, 301):
            made.take_in(engine(port))
            made.publish_soon()
            await asyncio.sleep(0)
        assert 1 <= told.tables <= 1 + (monotonic() - begun) * PUBLISH_SHARE / 0.001
        await asyncio.sleep(0.2)
        assert len(made.table.pools) == 300


async def test_large_tables_are_few_also_where_one_comes_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.upstream.publishing.AT_ONCE_S", 0.0)
    monkeypatch.setattr("fastgw.upstream.publishing.thread_time", count(0.0, 0.001).__next__)
    async with fleet() as (made, told):
        begun = monotonic()
        for port in range(1, 301):
            made.add(engine(port))
        for port in range(1, 101):
            assert made.remove(f"e{port}")
            made.change(f"e{port + 100}", {"weight": 3})
        assert 1 <= told.tables <= 1 + (monotonic() - begun) * PUBLISH_SHARE / 0.001
        await asyncio.sleep(0.3)
        assert len(made.table.pools) == 200
        assert all(pool in made.pools for pool in made.table.pools)


async def test_an_engine_is_judged_beside_those_of_its_model_and_an_ejection_is_told() -> None:
    small = [engine(port, models=("small",)) for port in range(1, 5)]
    async with fleet(*small, engine(5, models=("large",)), outlier_errors=1, outlier_ttft_factor=3.0) as (made, _):
        restraint = made._watching.restraint
        assert restraint is not None
        restraint.look(0.0)
        for pool in made.pools:
            watch = pool.engine.watch
            assert watch is not None
            for _ in range(9):
                watch.took(5.0 if pool.engine.name == "e5" else 0.5, 0.0)
        made.pools[0].engine.watch.failed()  # type: ignore[union-attr]
        made.pools[4].engine.watch.was_late(ALL)  # type: ignore[union-attr]
        restraint.look(1.0)
        assert [pool.engine.name for pool in made.pools if pool.engine.held] == ["e1"]
        events, _ = made.events.since(0)
        assert [(one.what, one.engine) for one in events] == [("engine_ejected", "e1")]


async def test_what_is_said_of_models_holds_when_settings_are_read_again() -> None:
    async with fleet(engine(1)) as (made, _):
        made.take_in(engine(2, "r"))
        made.serves("r", ["a"])
        config = Config(engines=[engine(1)], warm_connections=0, engine_max_idle=3)
        made.follow(config, await made.prepare(config))
        assert serving(made, "a") == ["r"]
        assert made.find("r").engine.configured_models == {"a"}


async def test_one_that_is_lost_leaves_when_nothing_is_under_way_there() -> None:
    async with fleet(engine(1), engine(2)) as (made, told):
        pool = made.find("e2")
        pool.engine.inflight = 1
        made.lose("e2", "its runner is gone")
        await asyncio.sleep(0.06)
        assert made.leaves("e2")
        assert pool.engine.draining
        pool.engine.inflight = 0
        await asyncio.sleep(0.08)
        assert told.left == ["e2"]
        assert [one.engine.name for one in made.table.pools] == ["e1"]


async def test_engines_are_watched_while_somebody_wants_to_know() -> None:
    async with fleet(engine(1), engine(2)) as (made, _):
        assert [one.watch for one in made.engines()] == [None, None]
        aware = Config(engines=[engine(1), engine(2), engine(3)], policy="prefix_aware", warm_connections=0, ewma_decay_s=3.0)
        made.follow(aware, await made.prepare(aware))
        watches = [one.watch for one in made.engines()]
        assert all(watches)
        assert watches[0].journal.decay_s == 3.0  # type: ignore[union-attr]
        assert len({watch.number for watch in watches if watch is not None}) == 3
        made.remove("e2")
        late = made.add(engine(4))
        assert late.engine.watch is not None
        assert late.engine.watch.number == watches[1].number, "a number is given out again"  # type: ignore[union-attr]
        again = Config(engines=[engine(1), engine(3)], warm_connections=0)
        made.follow(again, await made.prepare(again))
        assert not any(one.watch for one in made.engines())


async def test_engines_are_held_back_as_settings_say_and_not_longer() -> None:
    async with fleet(engine(1), engine(2), outlier_errors=1) as (made, _):
        first = made.engines()[0]
        assert first.watch is not None
        first.watch.failed()
        async with asyncio.timeout(5):
            while not first.held:  # noqa: ASYNC110 - what is waited for is another object's plain field
                await asyncio.sleep(0.01)
        assert not first.usable()
        again = Config(engines=[engine(1), engine(2)], warm_connections=0)
        made.follow(again, await made.prepare(again))
        assert first.usable()
        assert not first.held


async def test_no_policy_remembers_an_engine_that_has_gone() -> None:
    asked: Any = Asked(fields=b"x-session-id: s\r\n", body=b'{"messages":"%b"}' % (b"x" * 3000))
    strategies = [strategy_of(name) for name in POLICIES]
    async with fleet(engine(1), policy="prefix_aware", outlier_errors=1, slow_start_s=1.0) as (made, _):
        for at in range(20):
            pool = made.add(engine(2, name=f"n{at}"))
            pool.engine.healthy = True
            for strategy in strategies:
                assert made.table.everyone is not None
                strategy.pick(made.table.everyone, (), asked)
                strategy.pick(made.table.everyone, made.pools[:1], asked)
            assert made._watching.restraint is not None
            made._watching.restraint.look(float(at))
            assert made.remove(f"n{at}")
        made._watching.restraint.look(100.0)
        del pool, strategy, strategies
        gc.collect()
        names = {one.name for one in gc.get_objects() if type(one) is type(made.pools[0].engine)}
        assert not {name for name in names if name.startswith("n")}
        assert made._watching.journal is not None
        assert made._watching.journal.watch().number <= 2, "numbers are given out again"
