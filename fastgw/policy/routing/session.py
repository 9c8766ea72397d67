"""One engine for each session, as long as it takes requests: what it has cached of the conversation is of use to its next turn.

A session is told by what ``session_sources`` name, the first that a request has; its first request goes to the engine with
least to do, as do requests that tell none. Where its engine is full, ill, drained or gone it moves, and stays where it went.

Invariants: there are no more sessions than the table has room for, whatever engines come and go; where it is full, one of the
key that has most of them makes room, the one that was not used for longest: so no key takes the others' from them. (Where a
reload has made the table smaller, some more make room for each that comes.) One that was not used for ``session_ttl_s`` is none
any more. No request pays for the others' sessions: a dictionary that has no room left is laid out anew as a whole, which takes a
large one tens of milliseconds; so the table is in parts, each a small one, and chance says in which a session is. """

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.keys import Keys
from fastgw.policy.routing.least_loaded import by_load
from fastgw.policy.routing.loads import REQUESTS, scores_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

AT_ONCE: Final = 64  # sessions that make room for one that comes
PART: Final = 1024
"""Sessions that a part has room for at least, where there is more than one: laid out anew in a fraction of a millisecond, and
large enough that chance fills all of them alike."""
_HIGH: Final = 32


class Seat:
    """Where a session is, and until when it is one."""

    __slots__ = ("name", "until")

    def __init__(self, name: str, until: float) -> None:
        self.name = name
        self.until = until


class Part:
    """Some of a gateway's: ``count`` of them. ``seats`` by keys, and for each by a hash of what tells them (the process's own:
    nobody makes two meet); the one used last stands last, give or take half its time. (What is taken from in front is an
    OrderedDict: a dict would step over all that it has lost there each time.)"""

    __slots__ = ("_most", "_ranks", "count", "seats")

    def __init__(self) -> None:
        self.seats: dict[str, OrderedDict[int, Seat]] = {}
        self.count = 0
        self._ranks: dict[int, OrderedDict[str, None]] = {}  # keys by how many they have: one more or less is a step
        self._most = 0  # that one has

    def seat(self, key: str, told: int) -> Seat | None:
        seats = self.seats.get(key)
        found: Seat | None = seats.get(told) if seats is not None else None
        return found

    def put(self, key: str, told: int, seat: Seat, most: int) -> None:
        """A session that is not here; with it there are ``most`` at the most, or as many less as one call takes away."""
        for _ in range(AT_ONCE):
            if self.count < most:
                break
            greedy = next(iter(self._ranks[self._most]))
            self.drop(greedy, next(iter(self.seats[greedy])))
        seats = self.seats.get(key)
        if seats is None:
            seats = self.seats[key] = OrderedDict()
        seats[told] = seat
        self.count += 1
        self._rank(key, len(seats) - 1, len(seats))

    def drop(self, key: str, told: int) -> None:
        """One that is here is none any more."""
        seats = self.seats[key]
        del seats[told]
        self.count -= 1
        if not seats:
            del self.seats[key]
        self._rank(key, len(seats) + 1, len(seats))

    def used(self, key: str, told: int) -> None:
        """It was the last one."""
        self.seats[key].move_to_end(told)

    def _rank(self, key: str, before: int, now: int) -> None:
        if now:
            if now not in self._ranks:
                self._ranks[now] = OrderedDict()
            self._ranks[now][key] = None
        if before:
            del self._ranks[before][key]
            if not self._ranks[before]:
                del self._ranks[before]
        if now > self._most or self._most not in self._ranks:
            self._most = now


class Sessions:
    """All of a gateway, for ``most`` of them. (Where settings change, it keeps its ``parts``.)"""

    __slots__ = ("_mask", "parts")

    def __init__(self, most: int) -> None:
        count = 1
        while 2 * count * PART <= most:
            count *= 2
        self._mask = count - 1
        self.parts = [Part() for _ in range(count)]

    @property
    def count(self) -> int:
        return sum([part.count for part in self.parts])

    def part(self, told: int) -> Part:
        """The one for what is told so. (Not by the bits that a dictionary begins with, or all in a part would collide there.)"""
        found: Part = self.parts[told >> _HIGH & self._mask]
        return found

    def share(self, most: int) -> int:
        """How many each part has room for, where all have ``most``."""
        return max(1, most // len(self.parts))


class Session(Strategy):
    """See the head of this file. ``remembered``: what outlives this strategy when settings change."""

    __slots__ = ("_keys", "_most", "_sessions", "_ttl_s")

    def __init__(self, keys: Keys, ttl_s: float, most: int, remembered: dict[str, Any]) -> None:
        self._keys = keys
        self._ttl_s = ttl_s
        self._sessions: Sessions = remembered.get("session") or Sessions(most)
        remembered["session"] = self._sessions
        self._most = self._sessions.share(most)

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        told = self._keys.read(exchange)
        if told is None:
            return by_load(group, tried, REQUESTS)
        places: dict[str, Pool] | None = group.notes.get("session")
        if places is None:
            places = group.notes["session"] = {pool.engine.name: pool for pool in group.pools}
        key = exchange.key_id
        hashed = told_of(told, group, exchange)
        sessions = self._sessions.part(hashed)
        now = monotonic()
        seat = sessions.seat(key, hashed)
        pool: Pool | None = None
        if seat is not None and now < seat.until:
            pool = places.get(seat.name)
            if pool is not None and pool not in tried and pool.engine.usable():
                if seat.until - now < self._ttl_s * 0.5:
                    sessions.used(key, hashed)
                    seat.until = now + self._ttl_s
                return pool
        pool = by_load(group, tried, REQUESTS)
        if pool is None:
            return None
        if seat is not None:
            sessions.drop(key, hashed)
        sessions.put(key, hashed, Seat(pool.engine.name, now + self._ttl_s), self._most)
        return pool

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        found = scores_of(group, REQUESTS)
        told = self._keys.read(exchange)
        if told is None:
            return found
        hashed = told_of(told, group, exchange)
        seat = self._sessions.part(hashed).seat(exchange.key_id, hashed)
        if seat is None or monotonic() >= seat.until:
            return found
        for at, pool in enumerate(group.pools):
            if pool.engine.name == seat.name:
                found[at] = (0.0, f"has the session; {found[at][1]}")
        return found


def told_of(told: bytes, group: Group, exchange: ExchangeState) -> int:
    """By what a session is known: what tells it, for one model, and for one version of it where there are several; and its key,
    or all who say the same would meet in one part of the table."""
    # (Not the hash of each apart: equal texts and bytes have one.)
    return hash((told, exchange.substitute or exchange.model, group.part, exchange.key_id))
