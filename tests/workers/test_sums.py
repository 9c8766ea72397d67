"""What workers have counted, in one place: each figure there is the sum of theirs, whatever is told when, whoever has gone."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.accel.histograms import Histogram
from fastgw.config import EngineConfig
from fastgw.counters import COUNTERS
from fastgw.housekeeping import LAG
from fastgw.limits.account import Accounts, Defaults
from fastgw.observe.tallies import Tallies
from fastgw.stats import Stats
from fastgw.upstream.target import Engine
from fastgw.workers import words
from fastgw.workers.figures import Figures
from fastgw.workers.sums import Sums
from tests.observe.test_metrics import Pool, Source, scraped
from tests.observe.test_tallies import OK, TEXT, USAGE
from tests.support.conversation import KEY, Conversation, conversation
from tests.support.requests import chat
from tests.support.scripts import LAST_CHUNK, SSE_HEAD, chunk

ENGINES = [EngineConfig(url=f"http://127.0.0.{at}:9", models=[f"m{at}"], warm_connections=0) for at in (1, 2)]
SETTINGS: dict[str, Any] = {"api_keys": [KEY], "metrics_by": "key", "cb_failure_threshold": 2}
LIVE = {row.metric for name, row in COUNTERS.items() if name.endswith("_open")}
LIVE |= {"gateway_engine_inflight", "gateway_engine_idle_connections"}
# Read of a process, and no sums.
OWN = (
    "gateway_config_loaded", "process_", "gateway_engine_healthy", "gateway_engine_load_imbalance", "gateway_engine_slots",
    "gateway_store_up",
)  # fmt: skip


def around(talk: Conversation) -> Any:
    fleet = SimpleNamespace(pools=talk.engines)
    return SimpleNamespace(core=talk.core, fleet=fleet, keeping=talk.keeping)


def queue_of(talk: Conversation) -> dict[str, Any]:
    waiting = talk.waiting
    return {"waiting": waiting, "bytes": 100 * waiting, "by_class": {"high": 0, "normal": waiting, "low": 0}}


def figures_of(talk: Conversation) -> Figures:
    return Figures(around(talk), lambda: queue_of(talk), lambda: {"process_cpu_seconds_total": 1.5})


def tell(figures: Figures, sums: Sums, worker: object) -> None:
    """As it goes over the line."""

    async def said() -> None:
        async for counted in figures.told():
            word = words.read(words.write(counted))
            assert isinstance(word, words.Counted)
            sums.told(worker, word)

    asyncio.run(said())


class Control:
    """The control process: its figures, and no traffic."""

    def __init__(self) -> None:
        self.stats, self.tallies, self.lag = Stats(), Tallies("key"), Histogram(LAG)
        self.engines = [Engine(config) for config in ENGINES]
        table = SimpleNamespace(models={"m1": 1, "m2": 1}, routes={}, known=lambda model: None, version=1)
        accounts = Accounts(Defaults(), [], required=False)
        core = SimpleNamespace(stats=self.stats, tally=self.tallies, table=table, accounts=accounts)
        fleet = SimpleNamespace(engines=lambda: self.engines)
        around: Any = SimpleNamespace(core=core, fleet=fleet, keeping=SimpleNamespace(lag=self.lag))
        self.sums = Sums(around)

    def series(self) -> dict[Any, float]:
        there = self.sums.queue
        waiting = {"bytes": there.get("bytes", 0), "by_class": {one: there.get(one, 0) for one in ("high", "normal", "low")}}
        source = Source(stats=self.stats, servers=self.engines, waiting=waiting, tallies=self.tallies, lag=self.lag)
        source.connections = self.sums.connections  # type: ignore[method-assign]
        return read(source)


def read(source: Source) -> dict[Any, float]:
    """What is a sum of the metrics, where there is any."""
    source.pools = lambda: [Pool(engine, ()) for engine in source.servers]  # type: ignore[method-assign]
    found = {of: value for of, value in scraped(source).items() if not of[0].startswith(OWN)}
    return {of: value for of, value in found.items() if value and not of[0].endswith(("_info", "_created"))}


def series(talk: Conversation) -> dict[Any, float]:
    engines = [pool.engine for pool in talk.engines]
    source = Source(stats=talk.stats, servers=engines, waiting=queue_of(talk), tallies=talk.tallies, lag=talk.keeping.lag)
    idle = {pool.engine.name: len(pool.idle) for pool in talk.engines}
    source.connections = lambda engine, idle_=False, **_: idle[engine]  # type: ignore[method-assign]
    return read(source)


def same(found: dict[Any, float], *parts: dict[Any, float]) -> None:
    wanted: dict[Any, float] = {}
    for part in parts:
        for of, value in part.items():
            wanted[of] = wanted.get(of, 0) + value
    # (How a breaker stands is the worst of all.)
    assert {of for of in found if not of[0].endswith("_state")} == {of for of in wanted if not of[0].endswith("_state")}
    others = {of: (found[of], wanted[of]) for of in found if not of[0].endswith("_state")}
    assert {of: two for of, two in others.items() if two[0] != pytest.approx(two[1])} == {}


def something(talk: Conversation, dice: random.Random) -> Any:
    """Something happens there; whoever has a stream under way then."""
    at = dice.randrange(2)
    how = dice.choice(["plain", "stream", "refused", "fails", "open", "nobody"])
    stream = how in ("stream", "open")
    before = len(talk.engines[at].asked)
    model = "x" if how == "nobody" else f"m{at + 1}"
    client = talk.client().says(chat(model, stream=stream, key="wrong" if how == "refused" else KEY))
    if len(talk.engines[at].asked) == before:
        return None
    asked = talk.engines[at].last
    talk.passes(dice.random())
    if how == "plain":
        asked.says(OK)
    elif how == "fails":
        asked.says(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
    else:
        asked.says(SSE_HEAD, chunk(TEXT))
        if how == "open":
            return client
        talk.passes(dice.random())
        asked.says(chunk(USAGE) + LAST_CHUNK)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_each_figure_is_the_sum(seed: int) -> None:
    """Of two workers, told now and then, one of which goes with streams under way."""
    dice = random.Random(seed)
    control = Control()
    parts: list[dict[Any, float]] = []
    for worker in ("one", "two"):
        with conversation(ENGINES, **SETTINGS) as talk:
            figures = figures_of(talk)
            left = []
            for _ in range(30):
                left.append(something(talk, dice))
                if not dice.randrange(4):
                    tell(figures, control.sums, worker)
            tell(figures, control.sums, worker)
            tell(figures, control.sums, worker)  # (nothing has moved)
            same(control.series(), *parts, series(talk))
            assert control.stats.exchanges_open == sum(one is not None for one in left)
            if worker == "one":  # it is gone; what it had counted is not
                control.sums.gone(worker)
                gone = dict(series(talk))
                parts = [{of: value for of, value in gone.items() if of[0] not in LIVE}]
                same(control.series(), *parts)
                assert not any(control.stats.live().values())
            for client in left:
                if client is not None:
                    client.leaves()
    recent = control.tallies.recent
    assert len({one.number for one in recent.since(0)}) == recent.last > 0
    assert control.sums.process() == {"process_cpu_seconds_total": 3.0}


def test_what_became_of_others_is_told_once() -> None:
    """Models that a table does not know any more, and keys that have gone, are others' in a worker: there is no more of it."""
    control = Control()
    with conversation(ENGINES, **SETTINGS) as talk:
        figures = figures_of(talk)
        for model, engine in (("m1", talk.engines[0]), ("m2", talk.engines[1])):
            talk.client().says(chat(model, key=KEY))
            engine.last.says(OK)
        tell(figures, control.sums, "one")
        table: Any = SimpleNamespace(models={"m2": 1}, routes={}, known=lambda model: None, version=2)
        talk.tallies._fold(table)
        (caller,) = talk.tallies.callers
        talk.tallies.callers["other"] = talk.tallies.callers.pop(caller)
        tell(figures, control.sums, "one")
        found = control.series()
        wanted = series(talk)
        for name in ("gateway_requests_total", "gateway_request_duration_seconds_count", "gateway_caller_tokens_total"):
            told, counted = ([value for of, value in one.items() if of[0] == name] for one in (found, wanted))
            assert sum(told) == sum(counted) > 0
