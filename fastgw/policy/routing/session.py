"""One engine for each session, as long as it takes requests: what it has cached of the conversation is of use to its next turn.

A session is told by what ``session_sources`` name, the first that a request has; its first request goes to the engine with
least to do, as do requests that tell none. Where its engine is full, ill, drained or gone it moves, and stays where it went.

Invariants: there are no more sessions than the table has room for, whatever engines come and go; where it is full, one of the
key that has most of them makes room, the one that was not used for longest: so no key takes the others' from them. (Where a
reload has made the table smaller, some more make room for each that comes.) One that was not used for ``session_ttl_s`` is none
any more. """

from __future__ import annotations

from typing import Any

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.keys import Keys
from fastgw.policy.routing.least_loaded import by_load
from fastgw.policy.routing.loads import REQUESTS, scores_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.seats import Seat, Seats
from fastgw.upstream.table import Group


class Session(Strategy):
    """See the head of this file. ``remembered``: what outlives this strategy when settings change."""

    __slots__ = ("_keys", "_most", "_sessions", "_ttl_s")

    def __init__(self, keys: Keys, ttl_s: float, most: int, remembered: dict[str, Any]) -> None:
        self._keys = keys
        self._ttl_s = ttl_s
        self._sessions: Seats = remembered.get("session") or Seats(most)
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
        hashed = self._sessions.told(told_of(told, group, exchange))
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
        hashed = self._sessions.told(told_of(told, group, exchange))
        seat = self._sessions.part(hashed).seat(exchange.key_id, hashed)
        if seat is None or monotonic() >= seat.until:
            return found
        for at, pool in enumerate(group.pools):
            if pool.engine.name == seat.name:
                found[at] = (0.0, f"has the session; {found[at][1]}")
        return found


def told_of(told: bytes, group: Group, exchange: ExchangeState) -> bytes:
    """By what a session is known: what tells it, for one model, and for one version of it where there are several; and its key,
    or all who say the same would meet in one part of the table."""
    # (Its own key comes first, in which nobody has a zero byte: whatever else he says, he meets nobody but himself.)
    text = f"{exchange.key_id}\0{group.part}\0{exchange.substitute or exchange.model}\0"
    return text.encode("utf-8", "surrogatepass") + told
