"""The timer wheel: late by a tick at most, never early, and holding nothing that was given up."""

from __future__ import annotations

import asyncio
import random
from time import monotonic

import pytest

from fastgw.net.timers import NEVER, TICK_S, Timed, TimerWheel


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
