"""One engine for each session, as long as it takes requests: what it has cached of the conversation is of use to its next turn.

A session is told by what ``session_sources`` name, the first that a request has; its first request goes to the engine with
least to do, as do requests that tell none. Where its engine is full, ill, drained or gone it moves, and stays where it went.

Invariants: there are no more sessions than the table has room for, who was not used for longest goes first; one that was not
used for ``session_ttl_s`` is none any more. What a group remembers the one that takes its place goes on with. """

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.keys import Keys
from fastgw.policy.routing.least_loaded import by_load
from fastgw.policy.routing.loads import REQUESTS, scores_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Seat:
    """Where a session is, and until when it is one."""

    __slots__ = ("name", "until")

    def __init__(self, name: str, until: float) -> None:
        self.name = name
        self.until = until


class Sessions:
    """Those of one group. ``seats`` by a hash of what tells them (the process's own: nobody makes two meet); the one used last
    stands last, give or take half its time. ``places``: of the engines in the group, by their names."""

    __slots__ = ("memory", "places", "seats")

    def __init__(self, group: Group) -> None:
        before: dict[int, Seat] | None = group.before.get("session")
        self.seats: dict[int, Seat] = before if before is not None else {}
        self.memory = self.seats
        self.places: dict[str, Pool] = {pool.engine.name: pool for pool in group.pools}


class Session(Strategy):
    """See the head of this file."""

    __slots__ = ("_keys", "_most", "_ttl_s")

    def __init__(self, keys: Keys, ttl_s: float, most: int) -> None:
        self._keys = keys
        self._ttl_s = ttl_s
        self._most = most

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        told = self._keys.read(exchange)
        if told is None:
            return by_load(group, tried, REQUESTS)
        sessions: Sessions | None = group.notes.get("session")
        if sessions is None:
            sessions = group.notes["session"] = Sessions(group)
        seats = sessions.seats
        key = hash((told, exchange.key_id))  # (not each apart: equal texts and bytes have one hash)
        now = monotonic()
        seat: Seat | None = seats.get(key)
        pool: Pool | None = None
        if seat is not None and now < seat.until:
            pool = sessions.places.get(seat.name)
            if pool is not None and pool not in tried and pool.engine.usable():
                if seat.until - now < self._ttl_s * 0.5:
                    del seats[key]
                    seats[key] = seat
                    seat.until = now + self._ttl_s
                return pool
        pool = by_load(group, tried, REQUESTS)
        if pool is None:
            return None
        if seat is not None:
            del seats[key]
        while len(seats) >= self._most:
            del seats[next(iter(seats))]
        seats[key] = Seat(pool.engine.name, now + self._ttl_s)
        return pool

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        found = scores_of(group, REQUESTS)
        told = self._keys.read(exchange)
        sessions: Sessions | None = group.notes.get("session")
        if told is None or sessions is None:
            return found
        seat = sessions.seats.get(hash((told, exchange.key_id)))
        if seat is None or monotonic() >= seat.until:
            return found
        for at, pool in enumerate(group.pools):
            if pool.engine.name == seat.name:
                found[at] = (0.0, f"has the session; {found[at][1]}")
        return found
