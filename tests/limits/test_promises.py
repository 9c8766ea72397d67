"""Crowds that are told when to come back, and do so to the letter, on a clock of their own."""

from __future__ import annotations

import heapq
import random

import pytest

from fastgw.limits.drain import DrainRate
from fastgw.limits.meter import Meter
from fastgw.limits.promises import MOST_S, SPREAD, Promises

SECOND = 1_000_000
MINUTE = 60 * SECOND


def crowd(meter: Meter, arrivals: list[float], chance: random.Random, cost: int = 1) -> list[tuple[float, int]]:
    """When each was admitted, and at which try, if all do what they are told."""
    heap = [(at, number, 1) for number, at in enumerate(arrivals)]
    heapq.heapify(heap)
    admitted: list[tuple[float, int]] = []
    while heap:
        now, number, tries = heapq.heappop(heap)
        now_us = int(now * 1e6)
        if meter.take(now_us, cost):
            admitted.append((now, tries))
            continue
        wait = meter.told_s(now_us, cost, chance.random())
        assert wait >= meter.wait_us(now_us, cost) / 1e6
        heapq.heappush(heap, (now + wait, number, tries + 1))
    return admitted


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("burst", [1, 1000])
def test_two_thousand_clients_of_one_address(seed: int, burst: int) -> None:
    chance = random.Random(seed)
    admitted = crowd(Meter(1000, SECOND, burst), [100.0] * 2000, chance)
    assert len(admitted) == 2000
    assert max(at for at, _ in admitted) - 100.0 <= 1.1 * (2000 - burst) / 1000
    assert max(tries for _, tries in admitted) <= 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("over_s", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize(("rate", "clients"), [(100, 1000), (10, 100)])
def test_a_crowd_that_does_not_come_in_one_instant(over_s: float, rate: int, clients: int, seed: int) -> None:
    """While it goes on coming newcomers take what was promised; nobody needs a third retry, and nobody waits for long."""
    chance = random.Random(seed)
    admitted = crowd(Meter(rate, SECOND, rate), [100.0 + chance.random() * over_s for _ in range(clients)], chance)
    assert max(tries for _, tries in admitted) <= 3
    assert max(at for at, _ in admitted) - 100.0 <= 1.5 * (clients - rate) / rate + (1.0 if rate < 100 else 0.0)


def test_a_client_that_is_alone_is_told_no_more_than_the_meters_word() -> None:
    """However long it has been busy."""
    meter = Meter(10, SECOND, 10)
    now_us = 100 * SECOND
    for _ in range(50):
        while meter.take(now_us, 1):
            now_us += 1000
        word_us = meter.wait_us(now_us, 1)
        assert meter.told_s(now_us, 1, 0.9) == pytest.approx(word_us / 1e6)
        now_us += word_us


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_under_a_steady_load_of_others(seed: int) -> None:
    """Newcomers take places that were promised: whoever lost his is behind all that were given, and two retries are enough."""
    chance = random.Random(seed)
    arrivals = [100.0] * 2000 + [100.0 + chance.random() * 6.0 for _ in range(3000)]
    admitted = crowd(Meter(1000, SECOND, 1000), arrivals, chance)
    tries = sorted(tries for _, tries in admitted)
    assert tries[round(0.995 * len(tries))] <= 3
    assert max(at for at, _ in admitted) - 100.0 <= 6.5


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_given_room_by_what_each_needs(seed: int) -> None:
    chance = random.Random(seed)
    meter = Meter(100_000, MINUTE, 100_000)
    admitted = crowd(meter, [100.0 + chance.random() / 100 for _ in range(190)], chance, 1000)
    assert max(at for at, _ in admitted) - 100.0 <= 1.1 * 54.0
    assert max(tries for _, tries in admitted) <= 3


def test_the_first_is_told_the_meters_own_word_and_is_not_put_behind_himself() -> None:
    meter = Meter(1, SECOND, 1)
    assert meter.take(10 * SECOND, 1)
    assert meter.told_s(10 * SECOND, 1, 0.9) == 1.0
    assert meter.told_s(10_300_000, 1, 0.9) == pytest.approx(0.7)
    # The third is somebody else, or does not do what he is told.
    assert 1.7 <= meter.told_s(10_300_000, 1, 0.9) <= 3.0
    # All that was told is over.
    assert meter.take(20 * SECOND, 1)
    assert meter.told_s(20 * SECOND, 1, 0.9) == 1.0


def test_hammering_moves_nobody_beyond_the_bound() -> None:
    promises = Promises()
    for turn in range(100_000):
        told = promises.told(50.0 + turn / 10_000, 0.5, 0.1, turn % 10 / 10)
        assert 0.4 <= told <= MOST_S
    assert told >= MOST_S * (1 - SPREAD)
    # It is forgotten as it passes.
    assert promises.told(60.0 + MOST_S - 2.0, 0.5, 0.1, 0.0) <= 2.1
    assert promises.told(60.0 + MOST_S + 1.0, 0.5, 0.1, 0.0) == 0.5


def test_who_comes_a_moment_early_is_told_that_moment() -> None:
    """However much he asks for."""
    promises = Promises()
    assert promises.told(5.0, 50.0, 60.0, 0.9) == 50.0
    assert promises.told(54.999, 0.001, 60.0, 0.9) == pytest.approx(0.001)


def test_a_word_beyond_the_bound_stands() -> None:
    promises = Promises()
    assert [promises.told(5.0, 300.0, 1.0, 0.5) for _ in range(3)] == [300.0] * 3


def test_a_crowd_too_large_to_be_told_places_comes_spread_all_the_same() -> None:
    chance = random.Random(1)
    promises = Promises()
    told = [promises.told(5.0, 1.0, 1.0, chance.random()) for _ in range(1000)]
    last = sorted(told)[100:]
    assert last[0] >= MOST_S * (1 - SPREAD)
    assert last[-1] <= MOST_S
    for begin in range(45, 60, 3):
        assert 100 < sum(begin <= one < begin + 3 for one in last) < 260


class Engine:
    """Places that take so long each, a queue in front that is given up after so long, and clients that come when told.

    ``varies``: by so much of the time at most a request takes less, or more. ``retries``: who is refused then is ``lost``.
    """

    def __init__(
        self, slots: int, each_s: float, timeout_s: float, size: int, seed: int, varies: float = 0.5, retries: int = 1000
    ) -> None:
        self.slots = slots
        self.each_s = each_s
        self.timeout_s = timeout_s
        self.size = size
        self.varies = varies
        self.retries = retries
        self.chance = random.Random(seed)
        self.drain = DrainRate()
        self.queue: dict[int, float] = {}
        self.busy = 0
        self.served: dict[int, int] = {}
        self.tries: dict[int, int] = {}
        self.lost: list[int] = []
        self.events: list[tuple[float, int, str, int]] = []
        self.serial = 0
        self.busy_s = 0.0
        self.looked = 0.0

    def at(self, when: float, kind: str, who: int) -> None:
        self.serial += 1
        heapq.heappush(self.events, (when, self.serial, kind, who))

    def begin(self, now: float, who: int) -> None:
        self.busy += 1
        self.drain.began(now)
        self.served[who] = self.tries[who]
        self.at(now + self.each_s * (1.0 - self.varies + 2 * self.varies * self.chance.random()), "done", who)

    def refuse(self, now: float, who: int, ahead: int) -> None:
        told_s = self.drain.retry_after_s(ahead + 1, now, self.chance.random(), self.timeout_s)
        if self.tries[who] > self.retries:
            self.lost.append(who)
        else:
            self.at(now + told_s, "comes", who)

    def run(self, until: float, since: float) -> None:
        """``busy_s``: place-seconds from ``since`` on."""
        while self.events and self.events[0][0] <= until:
            now, _, kind, who = heapq.heappop(self.events)
            if kind == "late" and self.queue.get(who) != now:
                continue  # it does not wait any more
            if now > since:
                self.busy_s += self.busy * (now - max(self.looked, since))
            self.looked = now
            if kind == "comes":
                self.tries[who] = self.tries.get(who, 0) + 1
                if self.busy < self.slots:
                    self.begin(now, who)
                elif len(self.queue) < self.size:
                    self.queue[who] = now + self.timeout_s
                    self.at(now + self.timeout_s, "late", who)
                else:
                    self.refuse(now, who, len(self.queue))
            elif kind == "late":
                del self.queue[who]
                self.refuse(now, who, 0)  # (who waits was there after it, and has no more time)
            else:
                self.busy -= 1
                self.drain.left(now)
                if self.queue:
                    first = next(iter(self.queue))
                    del self.queue[first]
                    self.begin(now, first)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("slots", "each_s", "timeout_s", "clients", "size"),
    [(10, 0.5, 5.0, 1000, 1000), (50, 1.0, 5.0, 2000, 2000), (4, 0.1, 2.0, 1000, 1000), (8, 4.0, 10.0, 120, 1000)],
)
def test_a_queue_that_was_given_up_in_a_mass_is_not_left_idle(
    slots: int, each_s: float, timeout_s: float, clients: int, size: int, seed: int
) -> None:
    engine = Engine(slots, each_s, timeout_s, size, seed)
    for who in range(clients):
        engine.at(100.0, "comes", who)
    over_s = 100.0 + timeout_s
    # As long as it takes to serve all the others, or a minute.
    until = over_s + min(0.9 * (clients - timeout_s * slots / each_s) * each_s / slots, 50.0)
    engine.run(until, over_s)
    assert engine.busy_s >= 0.9 * slots * (engine.looked - over_s)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("varies", [0.0, 0.5])
@pytest.mark.parametrize("before", [0, 2, 104], ids=["cold", "hardly warm", "warm"])
@pytest.mark.parametrize("over_s", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize(("timeout_s", "size"), [(5.0, 500), (3.0, 1000)])
def test_a_crowd_at_a_queue_gets_in_with_two_retries_and_keeps_the_engines_busy(
    timeout_s: float, size: int, over_s: float, before: int, varies: float, seed: int
) -> None:
    """Whatever is known of the places: nothing, little (``before``: requests per second until then), or that they are full."""
    engine = Engine(20, 0.2, timeout_s, size, seed, varies, retries=2)
    chance = random.Random(seed)
    for number in range(10 * before):
        engine.at(90.0 + number / before, "comes", 10_000 + number)
    for who in range(2000):
        engine.at(100.0 + chance.random() * over_s, "comes", who)
    engine.run(1000.0, 100.0)
    assert not [who for who in engine.lost if who < 10_000]
    assert engine.looked - 100.0 <= 1.3 * 20.0
    assert engine.busy_s >= 0.85 * 20 * (engine.looked - 100.0)
