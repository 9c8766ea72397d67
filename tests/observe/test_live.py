"""What a gateway does now: rates between two looks, percentiles of the last half minute, and no more than fits a page."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from fastgw.control.admin_live import EVERY_S
from fastgw.limits.breaker import OPEN
from fastgw.observe import live as module
from fastgw.observe.latencies import Latencies
from fastgw.observe.live import MARK_S, MOST_ENGINES, MOST_MODELS, MOST_POINTS, STALE_S, Live
from fastgw.observe.recent import Recent
from fastgw.observe.tallies import Cell
from tests.observe.test_metrics import Breaker, Server, Source


class Counted:
    """What is read of the tallies."""

    def __init__(self) -> None:
        self.models: dict[str, Cell] = {}
        self.recent = Recent()

    def cells(self) -> list[Cell]:
        return list(self.models.values())


def source_of(*servers: Server) -> Source:
    return Source(servers=list(servers), tallies=Counted())  # type: ignore[arg-type]


class Watched:
    """A look a second, by a clock that is set by hand."""

    def __init__(self, source: Source) -> None:
        self.now = 100.0
        self.source = source
        self.live = Live(source, Latencies(lambda: source.servers), clock=lambda: self.now, wall=lambda: 1e9 + self.now)

    def look(self, after_s: float = 1.0) -> module.Now:
        self.now += after_s
        return self.live.look()


def served(source: Source, model: str = "m", times: int = 1, first_s: float = 0.05, gap_s: float = 0.02) -> Cell:
    counted: Any = source.tallies
    cell: Cell = counted.models.setdefault(model, Cell("/v1/chat/completions", model))
    for _ in range(times):
        cell.count(b"POST", 200)
        cell.first_token.observe(first_s)
        cell.gaps.observe(gap_s)
        cell.prompt.observe(10)
        cell.completion.observe(100)
    return cell


def test_rates_are_of_the_time_between_two_looks() -> None:
    source = source_of(Server("a", answered_total=5))
    served(source, times=50)
    watched = Watched(source)
    assert watched.look().point.requests_s is None  # (what was before nobody has watched)
    served(source, times=4)
    source.servers[0].answered_total, source.servers[0].failures_total = 9, 1
    now = watched.look(2.0)
    assert (now.point.requests_s, now.point.prompt_s, now.point.completion_s) == (2.0, 20.0, 200.0)
    assert (now.engines[0].requests_s, now.engines[0].failures_s) == (2.0, 0.5)
    served(source)
    assert watched.look(STALE_S + 1).point.requests_s is None, "nobody has looked for a while: that is no rate"


def test_percentiles_are_of_the_last_half_minute() -> None:
    source = source_of()
    watched = Watched(source)
    served(source, times=100, first_s=5.0, gap_s=1.0)
    assert watched.look().ttft is None
    served(source, times=10, first_s=0.05)
    now = watched.look()
    assert now.ttft is not None
    assert 0.04 < now.ttft[0] <= now.ttft[2] <= 0.06
    assert now.models[0].ttft == now.ttft
    assert now.point.ttft_p95 == now.ttft[1]
    for _ in range(int(4 * MARK_S)):
        now = watched.look()
    assert (now.ttft, now.models[0].ttft, now.models[0].requests_s) == (None, None, 0.0)


def test_of_a_large_fleet_those_are_told_that_are_ill_and_then_the_busiest() -> None:
    servers = [Server(f"e{at}", inflight=at) for at in range(MOST_ENGINES + 20)]
    servers[3].healthy = False
    servers[4].breaker = Breaker(OPEN)
    source = source_of(*servers)
    for at in range(MOST_MODELS + 5):
        served(source, f"m{at}", 0)
    watched = Watched(source)
    watched.look()
    served(source, "m54", 3)
    now = watched.look()
    assert (now.engines_total, now.engines_well, len(now.engines)) == (MOST_ENGINES + 20, MOST_ENGINES + 19, MOST_ENGINES)
    assert [one.name for one in now.engines[:3]] == ["e3", "e4", f"e{MOST_ENGINES + 19}"]
    assert (now.models_total, len(now.models), now.models[0].name) == (MOST_MODELS + 5, MOST_MODELS, "m54")


def test_engines_of_one_name_are_one_row_and_the_worst_of_them_is_told() -> None:
    servers = [Server("a", inflight=1, slots=4, healthy=False), Server("a", inflight=2, slots=4, breaker=Breaker(OPEN))]
    (only,) = Watched(source_of(*servers)).look().engines
    assert (only.inflight, only.slots, only.health, only.breaker) == (3, 8, "not_well", "open")
    (only,) = Watched(source_of(*servers, Server("a"))).look().engines
    assert (only.slots, only.health) == (0, "not_well")  # (0 = no limit)


@pytest.mark.quiet
def test_a_look_at_a_hundred_engines_costs_less_than_a_hundredth_of_a_core() -> None:
    source = source_of(*(Server(f"e{at}", inflight=at) for at in range(MOST_ENGINES)))
    for at in range(MOST_MODELS):
        served(source, f"m{at}")
    watched = Watched(source)
    took = []
    for _ in range(20):
        for engine in source.servers:  # (all stream)
            engine.first_tokens.observe(0.2)
            engine.gaps.observe(0.02)
        began = time.perf_counter()
        msgspec.json.encode(watched.look())
        took.append(time.perf_counter() - began)
    assert min(took) < 0.01 * EVERY_S, took


def test_ten_minutes_are_kept() -> None:
    watched = Watched(source_of())
    for _ in range(MOST_POINTS + 10):
        watched.look()
    points = watched.live.past()["points"]
    assert isinstance(points, list)
    assert len(points) == MOST_POINTS
    assert points[-1].at == pytest.approx(1e9 + watched.now)
