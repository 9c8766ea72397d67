"""When requests are sent: as soon as a worker is free, at random, or as a trace says.

A closed load waits with its workers: a server that stalls is asked less, and its worst moments are seen by few requests. An
open one does not wait, and its latencies are counted from the moment at which a request was due, so that what a stall keeps
waiting is in them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastgw.bench.trace import Row


class Arrival(NamedTuple):
    """A request, or the first of a session, that is due ``at_s`` after the beginning. 0 tokens: as the plan says."""

    at_s: float
    turns: tuple[Row, ...] = ()


def poisson(rate: float, seed: int) -> Iterator[Arrival]:
    """Independent arrivals, ``rate`` a second on average, the same for the same seed; without end."""
    dice = random.Random(seed)  # noqa: S311 - reproducible, guards nothing
    at = 0.0
    while True:
        at += dice.expovariate(rate)
        yield Arrival(at)


def traced(rows: Iterable[Row], speed: float) -> list[Arrival]:
    """A trace's requests and sessions in the order of their beginnings, ``speed`` times as fast, from 0 on."""
    ordered = sorted(rows, key=lambda row: row.at_s)
    if not ordered:
        return []
    begin = ordered[0].at_s
    moved = [row._replace(at_s=(row.at_s - begin) / speed) for row in ordered]
    sessions: dict[str, list[Row]] = {}
    for number, row in enumerate(moved):
        sessions.setdefault(row.session or f"\0{number}", []).append(row)
    return [Arrival(turns[0].at_s, tuple(turns)) for turns in sessions.values()]


def bounded(arrivals: Iterable[Arrival], requests: int, duration_s: float) -> Iterator[Arrival]:
    """No more than ``requests`` of them, and none that is due after ``duration_s``; 0 = without that bound."""
    some = itertools.islice(arrivals, requests) if requests else arrivals
    return itertools.takewhile(lambda one: one.at_s <= duration_s, some) if duration_s else iter(some)
