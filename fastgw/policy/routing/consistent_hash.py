"""One engine for each key by hashing alone: gateways that know nothing of each other agree, and nothing is remembered.

A key is looked up in a table in which each engine has a share by its weight, laid out so that most entries stay as they are
when an engine comes or goes (Eisenbud et al., "Maglev", NSDI 2016, section 3.4). An engine that has more than
``hash_bound_percent`` of its share of all requests under way is passed over, for the next that the key's own order names
(Mirrokni et al., "Consistent Hashing with Bounded Loads", 2018): so a key that everybody uses is served by as many engines as
that takes. Two more than its share it may have in any case: of a few requests a share in percent is less than one, and whoever
is passed over for that loses what is cached of him.

The hash is SHA-256 of the key and of the engines' names: the same in each process and in each version.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.hashing import digest
from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.keys import Keys
from fastgw.policy.routing.least_loaded import by_load
from fastgw.policy.routing.loads import REQUESTS, loads_of, scores_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

SIZES: Final = (1021, 4093, 16381)
"""Primes. A larger table moves fewer keys that need not move, and takes longer to lay out: the largest, with a thousand
engines, six milliseconds when one of them comes or goes."""
ENTRIES: Final = 64  # for each engine, where there is a table so large
ABOVE: Final = 2
"""Requests above its share that an engine may have, however few there are: with less, half of what is cached is lost where
engines have less than one request each on average; with more, little is won."""
TRIES: Final = 32  # entries that one key may be led to, before it goes to the engine with least to do


class ConsistentHash(Strategy):
    """See the head of this file."""

    __slots__ = ("_bound_percent", "_keys")

    def __init__(self, keys: Keys, bound_percent: int) -> None:
        self._keys = keys
        self._bound_percent = bound_percent

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        told = self._keys.read(exchange)
        if told is None:
            return by_load(group, tried, REQUESTS)
        entries: list[int] | None = group.notes.get("hash")
        if entries is None:
            entries = group.notes["hash"] = laid_out(group.pools)
        loads = loads_of(group, REQUESTS)
        loads.sync()
        number = int.from_bytes(digest(told)[:7], "little")
        size = len(entries)
        at = number % size
        skip = number // size % (size - 1) + 1
        pools = group.pools
        for _ in range(TRIES):
            place = entries[at]
            pool = pools[place]
            most = loads.bound(place, self._bound_percent, ABOVE)
            if loads.load(place) < most and pool not in tried and pool.engine.usable():
                return pool
            at += skip
            if at >= size:
                at -= size
        return by_load(group, tried, REQUESTS)

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        told = self._keys.read(exchange)
        found = scores_of(group, REQUESTS)
        if told is None:
            return found
        entries = laid_out(group.pools)
        number = int.from_bytes(digest(told)[:7], "little")
        size = len(entries)
        at, skip = number % size, number // size % (size - 1) + 1
        order: dict[int, int] = {}
        for _ in range(TRIES):
            order.setdefault(entries[at], len(order))
            at = (at + skip) % size
        rooms = sum(pool.engine.weight for pool in group.pools)
        under_way = sum(pool.engine.inflight + pool.engine.queued for pool in group.pools) + 1
        for at, (_, why) in enumerate(found):
            engine = group.pools[at].engine
            share = under_way * engine.weight
            most = max(-(-share * self._bound_percent // (100 * rooms)), -(-share // rooms) + ABOVE)
            over = engine.inflight + engine.queued >= most
            place = order.get(at, len(group.pools))
            said = f"number {place + 1} for this key; {why}" + ("; above its bound" if over else "")
            found[at] = (float(place + (TRIES if over else 0)), said)
        return found


def laid_out(pools: tuple[Pool, ...]) -> list[int]:
    """The table: entries are places in ``pools``. Depends on names and weights alone, not on their order."""
    count = len(pools)
    size = SIZES[-1]
    for one in SIZES:
        if one >= ENTRIES * count:
            size = one
            break
    order = sorted(range(count), key=lambda place: pools[place].engine.label)
    nexts = []
    skips = []
    weights = []
    for place in order:
        name = digest(pools[place].engine.label)
        nexts.append(int.from_bytes(name[:7], "little") % size)
        skips.append(int.from_bytes(name[7:14], "little") % (size - 1) + 1)
        weights.append(pools[place].engine.weight)
    return _filled(size, order, nexts, skips, weights)


def _filled(size: int, order: list[int], nexts: list[int], skips: list[int], weights: list[int]) -> list[int]:
    """Each engine takes the next free entry of its own order, in turns, as often as its weight says."""
    entries = [-1] * size
    most = max(weights)
    credit = [0] * len(order)
    left = size
    while True:
        for turn in range(len(order)):
            have = credit[turn] + weights[turn]
            if have < most:
                credit[turn] = have
                continue
            credit[turn] = have - most
            at = nexts[turn]
            skip = skips[turn]
            while entries[at] >= 0:
                at += skip
                if at >= size:
                    at -= size
            entries[at] = order[turn]
            at += skip
            nexts[turn] = at if at < size else at - size
            left -= 1
            if not left:
                return entries
