"""Whoever is limited: a key, and beside it a tenant, a model, or one key's use of one model.

Owns: :class:`Scope`, what may be used within one of them and what is used now, and :class:`Share`, what one request has taken
of one that its key's account is not. Must never: read a clock, or take a part of what is asked for.

**No two wait for each other.** A request needs a place in each of its scopes, takes them from the narrowest to the widest
(:func:`holder`), and waits for one with those before it in its hands: who holds a wide one waits for no narrow one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fastgw.limits.meter import Meter
from fastgw.limits.purse import DAY, KEY, TENANT, Purse
from fastgw.limits.shared import Record

MINUTE_US: Final = 60_000_000
MODEL: Final = "model"
"""All that anybody asks of one model."""
EACH: Final = "each"
"""What one key asks of one model."""


class Limits(NamedTuple):
    """0 = none; ``burst`` 0 = a minute's worth."""

    requests_per_minute: int = 0
    burst: int = 0
    tokens_per_minute: int = 0
    daily_tokens: int = 0
    concurrency: int = 0


class Scope:
    """What may be used together within a ``kind``: by a key, by a tenant's, of a model, by a key of a model.

    ``requests`` and ``tokens`` are its meters (None = no limit), ``day`` its tokens of the UTC day (an account has a ledger
    instead). ``concurrency`` 0 = no limit of requests under way. ``parked``: those that wait for one; the queue's. ``record``:
    where other processes have it (None = there are none). """

    __slots__ = ("concurrency", "day", "id", "inflight", "kind", "parked", "record", "requests", "tokens")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.id = name
        self.requests: Meter | None = None
        self.tokens: Meter | None = None
        self.day: Purse | None = None
        self.concurrency = 0
        self.inflight = 0
        self.parked: Any = None
        self.record: Record | None = None

    def __repr__(self) -> str:
        return f"<Scope {self.kind} {self.id} inflight={self.inflight}>"

    def limit(self, limits: Limits, day_of: tuple[str, str], models: tuple[str, ...], now_us: int) -> bool:
        """From now on these hold; what was taken stays taken. ``day_of``: whose the rows are in which the store has what its
        ``models`` (none = all) have used. True = what of its day is used already is to be asked."""
        self.requests = metered(self.requests, limits.requests_per_minute, limits.burst, now_us)
        self.tokens = metered(self.tokens, limits.tokens_per_minute, 0, now_us)
        self.concurrency = limits.concurrency
        day = self.day
        if not limits.daily_tokens:
            self.day = None
            return False
        if day is None:
            self.day = Purse(*day_of, models)
            self.day.change(limits.daily_tokens, DAY, b"")
            return True
        day.change(limits.daily_tokens, DAY, b"")
        others = day.models != models
        day.models = models
        return others

    def room(self) -> bool:
        """Whether one more may be under way."""
        return not self.concurrency or self.inflight < self.concurrency

    def charge(self, today: int, now_us: int, used: int) -> None:
        """Tokens were used by a request that has taken nothing here."""
        if self.tokens is not None:
            self.tokens.charge(now_us, used)
        if self.day is not None:
            self.day.charge(today, used)

    def idle(self, now_us: int, today: int) -> bool:
        """Whether it decides as a new one would, so that nothing is lost when it is forgotten."""
        if self.inflight or (self.parked is not None and len(self.parked)):
            return False
        for meter in (self.requests, self.tokens):
            if meter is not None and not meter.idle(now_us):
                return False
        day = self.day
        return day is None or (day.left(today) == day.limit and day.spent == 0)


class Share:
    """What a request has taken of ``scope``. ``taken``: its tokens are still to be settled, or given back: ``minute`` of them
    from the meter ``tokens``, ``daily`` of ``day`` (the scope may be given others meanwhile); and one from ``requests``.
    ``untold``: it may use more than a minute has, for nobody can tell its engine how much, and takes all that there is."""

    __slots__ = ("daily", "day", "minute", "requests", "scope", "taken", "tokens", "untold")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.requests: Meter | None = None
        self.tokens: Meter | None = None
        self.day: Purse | None = None
        self.minute = 0
        self.daily = 0
        self.taken = False
        self.untold = False

    def __repr__(self) -> str:
        return f"<Share of {self.scope!r} {self.minute}/{self.daily}{' taken' if self.taken else ''}>"

    def needs(self, cost: int) -> int:
        """Tokens of the minute that are taken where ``cost`` may be used."""
        tokens = self.scope.tokens
        return cost if tokens is None or not self.untold else min(cost, tokens.burst)

    def take(self, today: int, now_us: int, cost: int) -> bool:
        """Take one request and ``cost`` tokens, all or none. Who owes tokens, or has none left of the day, has nothing to take
        from, also where it costs none."""
        scope = self.scope
        day, tokens, requests = scope.day, scope.tokens, scope.requests
        minute = self.needs(cost)
        if day is not None and (day.over(today) or cost > day.left(today)):
            return False
        if tokens is not None and tokens.wait_us(now_us, minute or 1):
            return False
        if requests is not None and not requests.take(now_us, 1):
            return False
        self.requests = requests
        self.tokens = self.day = None
        if tokens is not None and minute:
            tokens.take(now_us, minute)
            tokens.hold()
            self.tokens = tokens
            self.minute = minute
        if day is not None:
            day.reserve(today, cost)
            self.day = day
            self.daily = cost
        self.taken = True
        return True

    def give(self, now_us: int) -> None:
        """Undo a :meth:`take` of the same microsecond."""
        if self.requests is not None:
            self.requests.give(now_us, 1)
        self.release(now_us, now_us)

    def release(self, now_us: int, since_us: int) -> None:
        """No token that was taken, at ``since_us``, was used."""
        if not self.taken:
            return
        self.taken = False
        if self.tokens is not None:
            self.tokens.settle(now_us, since_us, self.minute, 0)
        if self.day is not None:
            self.day.release(self.daily)

    def settle(self, today: int, now_us: int, since_us: int, used: int) -> None:
        """So many tokens were used; what was taken beyond comes back. Of a session it is called for each answer."""
        scope = self.scope
        taken = self.tokens if self.taken else None
        if taken is None or taken is not scope.tokens:
            self.release(now_us, since_us)  # (its limit is newer than the request, or nothing was taken)
            scope.charge(today, now_us, used)
            return
        self.taken = False
        taken.settle(now_us, since_us, self.minute, used)
        if self.day is not None:
            self.day.release(self.daily)
        if scope.day is not None:
            scope.day.charge(today, used)

    def affords(self, today: int, tokens: int) -> int:
        """How many of so many tokens of the day there are, for a stream that goes on."""
        return tokens if self.day is None else min(tokens, self.day.left(today))

    def extend(self, today: int, tokens: int) -> None:
        """Take as many more as :meth:`affords` has said."""
        if self.day is not None and self.day.reserve(today, tokens):
            self.daily += tokens


def holder(account: Scope, shares: tuple[Share, ...], at: int) -> Scope | None:
    """The ``at``-th scope in which a request of ``account`` needs a place, the narrowest first; None = it has them all."""
    if not shares:
        return None if at else account
    share = shares[0]
    ahead = 1 if share.scope.kind == EACH else 0
    if at == ahead:
        return account
    if at > ahead:
        at -= 1
    if at >= len(shares):
        return None
    share = shares[at]
    return share.scope


def places(account: Scope | None, shares: tuple[Share, ...], count: int) -> tuple[Scope, ...]:
    """The first ``count`` of those."""
    if account is None or not count:
        return ()
    return tuple([scope for at in range(count) if (scope := holder(account, shares, at)) is not None])


def hold_requests(shares: tuple[Share, ...]) -> None:
    """The request of each may come back, until :func:`settle_requests` is called once."""
    for share in shares:
        if share.requests is not None:
            share.requests.hold()


def give_requests(shares: tuple[Share, ...], now_us: int) -> None:
    """It comes back in the same microsecond."""
    for share in shares:
        if share.requests is not None:
            share.requests.give(now_us, 1)


def settle_requests(shares: tuple[Share, ...], now_us: int, since_us: int, used: int) -> None:
    """It does (``used`` 0), or it does not (1)."""
    for share in shares:
        if share.requests is not None:
            share.requests.settle(now_us, since_us, 1, used)


def metered(meter: Meter | None, rate: int, burst: int, now_us: int) -> Meter | None:
    """The meter as it is now, from what it was; None = there is no limit."""
    if not rate:
        return None
    if meter is None:
        return Meter(rate, MINUTE_US, burst or rate)
    meter.change(rate, burst or rate, now_us)
    return meter


WHOSE: Final = {
    KEY: ("with this key", "this key may use", "the key's", "The key has"),
    TENANT: ("with the keys of this tenant", "the keys of this tenant may use", "the tenant's", "The tenant has"),
    EACH: ("with this key for this model", "this key may use of this model", "the key's, for this model,",
           "The key has for this model"),
    MODEL: ("for this model, of all who ask for it", "may be used of this model", "the model's", "The model has"),
}  # fmt: skip
"""How a refusal names a scope: what was done, what may be used, whose that is, and who has something."""
