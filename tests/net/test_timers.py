"""The timer wheel: late by a tick at most, never early, and holding nothing that was given up."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from time import monotonic

import pytest

from fastgw.net.timers import LOT, NEVER, TICK_S, Timed, TimerWheel


class Entry(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.fired: list[float] = []

    def expired(self, now: float) -> None:
        self.fired.append(now)


@pytest.mark.quiet
async def test_a_deadline_fires_once_not_early_and_within_two_ticks() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    entries = [(Entry(), monotonic() + random.Random(number).uniform(0.0, 0.5)) for number in range(200)]
    for entry, deadline in entries:
        wheel.arm(entry, deadline)
    await asyncio.sleep(0.5 + 3 * TICK_S)
    for entry, deadline in entries:
        assert len(entry.fired) == 1
        assert 0 <= entry.fired[0] - deadline < 2.5 * TICK_S
    assert len(wheel) == 0
    wheel.close()


class Slow(Entry):
    """Takes a millisecond of the loop to end."""

    def expired(self, now: float) -> None:
        super().expired(now)
        end = monotonic() + 0.001
        while monotonic() < end:
            pass


async def test_many_that_are_due_at_once_let_the_loop_have_its_turn() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    entries = [Slow() for _ in range(20 * LOT)]
    due = monotonic() + 0.01
    for entry in entries:
        wheel.arm(entry, due)
    done = [0]
    while done[-1] < len(entries):
        await asyncio.sleep(0)
        done.append(sum(len(entry.fired) for entry in entries))
    assert max(after - before for before, after in pairwise(done)) <= LOT
    assert [len(entry.fired) for entry in entries] == [1] * len(entries)
    assert len(wheel) == 0
    wheel.close()


async def test_who_waits_for_the_next_turn_may_still_be_moved_or_forgotten() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    entries = [Slow() for _ in range(4 * LOT)]
    due = monotonic() + 0.01
    for entry in entries:
        wheel.arm(entry, due)
    waiting = entries
    while len(waiting) == len(entries):
        await asyncio.sleep(0)
        waiting = [entry for entry in entries if not entry.fired]
    assert len(waiting) == 3 * LOT
    gone, moved = waiting[0], waiting[1]
    wheel.disarm(gone)
    moved.deadline = monotonic() + 60.0
    for _ in range(len(entries)):
        await asyncio.sleep(0)
    assert [len(entry.fired) for entry in waiting] == [0, 0, *[1] * (3 * LOT - 2)]
    assert len(wheel) == 1
    wheel.close()


async def test_moved_later_by_assignment_and_earlier_by_arming() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    later, earlier = Entry(), Entry()
    begun = monotonic()
    wheel.arm(later, begun + 0.1)
    later.deadline = begun + 0.5
    wheel.arm(earlier, begun + 60.0)
    wheel.arm(earlier, begun + 0.1)
    await asyncio.sleep(0.35)
    assert not later.fired
    assert len(earlier.fired) == 1
    await asyncio.sleep(0.5)
    assert len(later.fired) == 1
    assert later.fired[0] >= begun + 0.5
    wheel.close()


async def test_disarmed_and_never_are_forgotten() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    gone, never = Entry(), Entry()
    wheel.arm(gone, monotonic() + 0.05)
    wheel.disarm(gone)
    wheel.arm(never, monotonic() + 0.05)
    never.deadline = NEVER
    await asyncio.sleep(0.3)
    assert not gone.fired
    assert not never.fired
    assert len(wheel) == 0
    wheel.close()


async def test_an_expiry_may_disarm_its_neighbours_and_arm_itself_again() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    victim = Entry()

    class Killer(Entry):
        def expired(self, now: float) -> None:
            super().expired(now)
            wheel.disarm(victim)
            if len(self.fired) < 3:
                wheel.arm(self, now + 0.05)

    killers = [Killer() for _ in range(5)]
    deadline = monotonic() + 0.1
    for entry in [*killers[:3], victim, *killers[3:]]:
        wheel.arm(entry, deadline)
    await asyncio.sleep(1.0)
    assert all(len(killer.fired) == 3 for killer in killers)
    assert len(victim.fired) <= 1
    assert len(wheel) == 0
    wheel.close()


async def test_ten_thousand_closed_connections_leave_nothing() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    entries = [Entry() for _ in range(10_000)]
    for entry in entries:
        wheel.arm(entry, monotonic() + 75.0)
    assert len(wheel) == 10_000
    for entry in entries:
        wheel.disarm(entry)
    assert len(wheel) == 0
    wheel.close()
