"""What all strategies do when their first choice is not to be had: the rule of the last resort, told once.

An engine that takes a request now is better than one that is not well, and that one is better than nobody; one that has been
tried, is full, or is being spared or drained is not.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgw.upstream.pool import Pool


def search(pools: tuple[Pool, ...], start: int, tried: tuple[Pool, ...]) -> int:
    """The place in ``pools`` of the first that takes a request, from ``start`` on and around; else of the first that is a last
    resort; -1 = nobody."""
    count = len(pools)
    resort = -1
    resort_ill = False
    for step in range(count):
        at = start + step
        if at >= count:
            at -= count
        pool = pools[at]
        if pool in tried:
            continue
        if pool.engine.usable():
            return at
        # (One that is only held back is better than one that is not well.)
        if (resort < 0 or (resort_ill and pool.engine.healthy is not False)) and pool.engine.last_resort():
            resort = at
            resort_ill = pool.engine.healthy is False
    return resort


def those(pools: tuple[Pool, ...], tried: tuple[Pool, ...]) -> list[Pool]:
    """All that take a request; else all that are a last resort, those that are well before those that are not."""
    fit = [pool for pool in pools if pool not in tried and pool.engine.usable()]
    if not fit:
        fit = [pool for pool in pools if pool not in tried and pool.engine.last_resort()]
        well = [pool for pool in fit if pool.engine.healthy is not False]
        fit = well or fit
    return fit


def draw(pools: tuple[Pool, ...], tried: tuple[Pool, ...], chance: Callable[[], float]) -> Pool | None:
    """Any of :func:`those`, each as likely as the others."""
    fit = those(pools, tried)
    return fit[int(chance() * len(fit))] if fit else None


def lighter(one: Pool, other: Pool) -> bool:
    """Whether ``one`` would have less to do than ``other`` with one request more: of its slots where both have a number of them
    (as configured, or found by the scheduler), else by its weight. False where they are equal."""
    first = one.engine
    second = other.engine
    less = first.inflight + first.queued + 1
    more = second.inflight + second.queued + 1
    if first.slots and second.slots:
        return less * second.slots < more * first.slots
    return less * second.weight < more * first.weight
