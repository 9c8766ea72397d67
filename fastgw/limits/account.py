"""Who a request counts for: one account per key, and the register in which a credential's digest finds it.

Owns: what a key may use and what it uses now: its meters, its ledger of the day, its requests under way. A key from the
store and one from the configuration are the same here. Must never: hold a key, only digests; keep of a key's record what the
data plane does not need (a name, a date: hundreds of bytes each); or walk over all keys because one has changed or ended.
Invariant: a change of a key changes its account in place, so that what was taken stays taken, and the requests under way go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import Any

from fastgw.config.money import written
from fastgw.config.names import PRIORITIES
from fastgw.digests import certified
from fastgw.limits.key import KeyRecord
from fastgw.limits.ledger import Ledger
from fastgw.limits.purse import KEY, TENANT, Purse
from fastgw.limits.scope import Scope, metered
from fastgw.limits.scopes import Scopes
from fastgw.limits.spending import Books, Use

ALONE = nullcontext()
KEY_ID_CHARS = 12  # of the digest in hex: names a key in logs without being usable as one
NORMAL = PRIORITIES.index("normal")
MOST_ENDED = 2000  # moments at which keys end that are looked at in one go: some milliseconds
MOST_RETIRED = 1000  # keys that have left the configuration, and may come back with what they have used
SHARED_UP_TO = 16  # entries of a list of models or networks: most keys have the list of many others


def _models(names: tuple[str, ...]) -> frozenset[str] | None:
    return frozenset(names) or None


def _networks(texts: tuple[str, ...]) -> tuple[Any, ...] | None:
    if not texts:
        return None
    from ipaddress import ip_network  # a millisecond that only those with networks pay

    return tuple([ip_network(text, strict=False) for text in texts]) or None


_shared_models = lru_cache(maxsize=1024)(_models)
_shared_networks = lru_cache(maxsize=1024)(_networks)


def flow_of(tenant: str) -> str:
    """What stands for a tenant where requests of several are told apart; a key without one is told by its own id."""
    return sys.intern("tenant " + tenant)


class Defaults:
    """What holds for keys that say nothing else. 0 = no limit; ``burst`` 0 = a minute's worth. ``scoped``: there are limits of
    models beside them."""

    __slots__ = (
        "budget", "budget_period", "burst", "concurrency", "cut", "daily_tokens", "requests_per_minute", "scoped",
        "tokens_per_minute",
    )  # fmt: skip

    def __init__(
        self,
        *,
        requests_per_minute: int = 0,
        burst: int = 0,
        tokens_per_minute: int = 0,
        daily_tokens: int = 0,
        concurrency: int = 0,
        cut: bool = False,
        budget: int = 0,
        budget_period: str = "month",
        scoped: bool = False,
    ) -> None:
        self.requests_per_minute = requests_per_minute
        self.burst = burst
        self.tokens_per_minute = tokens_per_minute
        self.daily_tokens = daily_tokens
        self.concurrency = concurrency
        self.cut = cut
        self.budget = budget
        self.budget_period = budget_period
        self.scoped = scoped


class Account(Scope):
    """What one key may use, and what it uses.

    ``ledger``: its tokens of the day. ``joint``: what all keys of its tenant may use together (None = no limit); ``scoped``: it
    has that, or models have limits. ``flow`` is the tenant for which the queue is fair. ``stored``: a key of the store, with
    its ``digest``, and from before a rotation ``previous_digest`` until ``previous_until`` (Unix seconds).
    """

    __slots__ = (
        "cut",
        "digest",
        "disabled",
        "expires_at",
        "flow",
        "joint",
        "ledger",
        "models",
        "networks",
        "pays",
        "previous_digest",
        "previous_until",
        "priority",
        "purse",
        "reserves",
        "scoped",
        "shared",
        "stored",
        "tenant",
        "use",
    )

    def __init__(self, name: str) -> None:
        super().__init__(KEY, name)
        self.flow = name
        self.tenant = ""  # whose it is, where it names one
        self.priority = NORMAL
        self.ledger = Ledger(0)
        self.joint: Scope | None = None
        self.scoped = False
        self.cut = False
        self.purse: Purse | None = None  # what it may spend,
        self.shared: Purse | None = None  # and what all keys of its tenant may
        self.pays = False  # there is one of them
        self.reserves = False  # tokens, or money, are taken before a request, and settled after it
        self.models: frozenset[str] | None = None
        self.networks: tuple[Any, ...] | None = None
        self.expires_at = 0.0
        self.disabled = False
        self.stored = False
        self.digest = b""
        self.previous_digest = b""
        self.previous_until = 0.0
        self.use: Use | None = None  # where it was counted last, of one model on one day

    def __repr__(self) -> str:
        return f"<Account {self.id} inflight={self.inflight} tokens={self.ledger.prompt + self.ledger.completion}>"

    def set(
        self, defaults: Defaults, record: KeyRecord | None, now_us: int, shared: Purse | None = None, joint: Scope | None = None
    ) -> None:
        """Take over what ``record`` (None = a key of the configuration) and the defaults say. ``shared`` and ``joint``: its
        tenant's."""
        requests = defaults.requests_per_minute
        burst = defaults.burst
        tokens = defaults.tokens_per_minute
        daily = defaults.daily_tokens
        budget, period = defaults.budget, defaults.budget_period
        self.concurrency = defaults.concurrency
        self.cut = defaults.cut
        if record is not None:
            self.stored = True
            self.digest = record.digest
            self.previous_digest = record.previous_digest
            self.previous_until = record.previous_until if record.previous_digest else 0.0
            if record.requests_per_minute is not None:
                # A key with a rate of its own does not inherit a burst that was meant for another rate.
                requests, burst = record.requests_per_minute, 0
            if record.burst is not None:
                burst = record.burst
            if record.tokens_per_minute is not None:
                tokens = record.tokens_per_minute
            if record.daily_tokens is not None:
                daily = record.daily_tokens
            if record.concurrency is not None:
                self.concurrency = record.concurrency
            if record.budget is not None:
                budget = record.budget
            if record.budget_period is not None:
                period = record.budget_period
            if record.on_exhausted is not None:
                self.cut = record.on_exhausted == "cut"
            self.priority = PRIORITIES.index(record.priority) if record.priority is not None else NORMAL
            self.flow = flow_of(record.tenant) if record.tenant else self.id
            if record.tenant != self.tenant:
                self.tenant = sys.intern(record.tenant)
                self.use = None
            self.models = (_models if len(record.models) > SHARED_UP_TO else _shared_models)(record.models)
            self.networks = (_networks if len(record.networks) > SHARED_UP_TO else _shared_networks)(record.networks)
            self.expires_at = record.expires_at or 0.0  # the one zero of this line, not one for each key
            self.disabled = record.disabled or record.deleted
        self.requests = metered(self.requests, requests, burst, now_us)
        self.tokens = metered(self.tokens, tokens, 0, now_us)
        self.ledger.limit = daily
        self.purse = pursed(self.purse, KEY, self.id, budget, period)
        self.shared = shared
        self.pays = self.purse is not None or shared is not None
        self.joint = joint
        self.scoped = joint is not None or defaults.scoped
        self.reserves = self.pays or self.tokens is not None or daily > 0 or self.scoped

    def limited(self) -> bool:
        """Whether anything of it is: what several processes have to agree on."""
        return self.reserves or self.requests is not None or self.concurrency > 0

    def ends_after(self, unix_s: float) -> float:
        """The next moment, after ``unix_s``, at which the key expires, or its digest from before a rotation; 0.0 = none."""
        ends_at = self.expires_at if self.expires_at > unix_s else 0.0
        if self.previous_until > unix_s and (not ends_at or self.previous_until < ends_at):
            ends_at = self.previous_until
        return ends_at

    def allows(self, ip: str) -> bool:
        """Whether a client at ``ip`` may use the key."""
        networks = self.networks
        if networks is None:
            return True
        from ipaddress import ip_address

        try:
            address = ip_address(ip)
        except ValueError:
            return False  # a Unix socket: nobody can say from where
        mapped = getattr(address, "ipv4_mapped", None)
        for network in networks:  # noqa: SIM110 - the compiled twin takes no closure here
            if address in network or (mapped is not None and mapped in network):
                return True
        return False


def pursed(purse: Purse | None, kind: str, name: str, limit: int, period: str) -> Purse | None:
    """The budget as it is now, from what it was; None = there is none."""
    if not limit:
        return None
    if purse is None:
        purse = Purse(kind, name)
    purse.change(limit, period, b"x-budget-limit: %b\r\nx-budget-period: %b\r\n" % (written(limit).encode(), period.encode()))
    return purse


class Accounts:
    """The register: digests to accounts.

    ``required``: a request without a key is refused. It becomes true with the first key, and stays so when that is
    deleted: a gateway that was closed does not open by itself.
    """

    __slots__ = (
        "_by_certificate", "_by_digest", "_by_id", "_certificates", "_defaults", "_ends", "_ends_most", "_latest", "_retired",
        "_tenants", "_twice", "anonymous", "books", "crossed", "region", "required", "scopes", "touched", "unread",
    )  # fmt: skip

    def __init__(self, defaults: Defaults, digests: Iterable[bytes], *, required: bool, now_us: int = 0) -> None:
        self._defaults = defaults
        self._by_digest: dict[bytes, Account] = {}
        self._by_certificate: dict[str, Account] = {}  # keys of the store,
        self._certificates: dict[str, tuple[str, ...]] = {}  # and which each has; most have none
        self._by_id: dict[str, Account] = {}
        self._latest = 0.0  # the latest time of a look (Unix seconds)
        self._twice = False  # the last look was at an earlier one
        # A heap of when a key expires, or its digest from before a rotation, and its id. A moment that was put off or given up
        # stays in it, and is passed over when it comes.
        self._ends: list[tuple[float, str]] = []
        self._ends_most = MOST_ENDED
        self.anonymous = Account("anonymous")
        self.anonymous.set(defaults, None, now_us)
        self.required = required
        self.touched: list[Account] = []  # those whose ledger holds what has not been written down yet
        self.books = Books()
        self.region: Any = None  # None = there is no other process
        self._tenants: dict[str, Purse] = {}
        self.unread: list[Purse] = []  # of which it is not known what was spent before
        self.crossed: list[Purse] = []  # of which somebody is to be told
        self.scopes = Scopes(self.unread)
        self._meet(self.anonymous.purse)
        self._retired: dict[bytes, Account] = {}
        self.admit(digests, now_us)

    def __len__(self) -> int:
        return len(self._by_id)

    def share_in(self, region: Any) -> None:
        """What is used is counted in a region that other processes have too (:class:`~fastgw.limits.region.Region`)."""
        self.region = self.scopes.region = region

    def inside(self, *things: Scope | Purse) -> Any:
        """``with`` it these are as all processes have used them, and nobody else uses them meanwhile."""
        return ALONE if self.region is None else self.region.inside(*things)

    def all(self) -> list[Account]:
        """Every account, that of requests without a key included."""
        return [self.anonymous, *self._by_id.values()]

    def by_id(self, name: str) -> Account | None:
        return self.anonymous if name == self.anonymous.id else self._by_id.get(name)

    def find(self, digest: bytes) -> Account | None:
        """The account of a credential, whatever its state."""
        return self._by_digest.get(digest)

    def find_certificate(self, fingerprint: bytes) -> Account | None:
        """The account of a client certificate, by its SHA-256, whatever its state. A key of the store goes before one of the
        configuration: it may be disabled."""
        account = self._by_certificate.get(fingerprint.hex()) if self._by_certificate else None
        return account if account is not None else self._by_digest.get(certified(fingerprint))

    def apply(self, records: Iterable[KeyRecord], now_us: int, unix_s: float) -> int:
        """Take changed keys over; returns how many. Their accounts stay the same objects."""
        count = 0
        back = unix_s < self._latest  # the clock was set back: a moment may have been passed that is to come again
        for record in records:
            count += 1
            self.required = True
            account = self._by_id.get(record.id)
            if account is not None and account.stored:
                for digest in (account.digest, account.previous_digest):
                    if self._by_digest.get(digest) is account:
                        del self._by_digest[digest]
                for certificate in self._certificates.pop(record.id, ()):
                    if self._by_certificate.get(certificate) is account:
                        del self._by_certificate[certificate]
            if record.deleted:
                if account is not None:
                    account.disabled = True
                    del self._by_id[record.id]
                continue
            if account is None:
                account = self._by_id[record.id] = Account(record.id)
            expires_at = account.expires_at
            previous_until = account.previous_until
            account.set(
                self._defaults, record, now_us, self._tenants.get(record.tenant), self.scopes.tenant(record.tenant)
            )  # fmt: skip
            self._meet(account.purse)
            self._by_digest[record.digest] = account
            if record.certificates:
                self._certificates[record.id] = record.certificates
                for certificate in record.certificates:
                    self._by_certificate[certificate] = account
            if account.previous_digest and account.previous_until > unix_s:
                self._by_digest[account.previous_digest] = account
            if account.expires_at > unix_s and (back or account.expires_at != expires_at):
                heappush(self._ends, (account.expires_at, account.id))
            if account.previous_until > unix_s and (back or account.previous_until != previous_until):
                heappush(self._ends, (account.previous_until, account.id))
        if len(self._ends) > self._ends_most:
            self._forget_ends()
        return count

    # --- budgets
    def share(self, budgets: Mapping[str, tuple[int, str]]) -> None:
        """What the keys of each tenant may spend together, and in which period. Keys that are there take it over when they are
        told of again."""
        before = self._tenants
        self._tenants = {}
        for name, (limit, period) in budgets.items():
            purse = pursed(before.get(name), TENANT, name, limit, period)
            if purse is not None:
                self._tenants[name] = purse
                self._meet(purse)

    def purses(self) -> list[Purse]:
        """All budgets there are, of tokens as well, and those of keys that may come back."""
        accounts = (*self.all(), *self._retired.values())
        return [*self._tenants.values(), *self.scopes.days(), *[one.purse for one in accounts if one.purse is not None]]

    def budget_of(self, name: str, tenants: bool) -> Purse | None:
        """The budget of a key, by its id; with ``tenants`` of a tenant, or of a key that has none. None = there is no limit."""
        purse = self._tenants.get(name) if tenants else None
        if purse is None:
            account = self.by_id(name)
            purse = account.purse if account is not None else None
        return purse

    def holder_of(self, purse: Purse) -> tuple[Scope | Purse, ...]:
        """What is brought into a section for ``purse``: itself, where it is money, or whose day it is."""
        if purse.models is None:
            return (purse,)
        return tuple(scope for scope in self.scopes.everyone() if scope.day is purse)

    def cross(self, purse: Purse) -> None:
        """Have somebody told, where it has crossed a line of which nobody was told in its period. (Of tokens nobody is.)"""
        percent = purse.percent()
        if percent > purse.told and purse.models is None:
            purse.tell(percent)
            self.crossed.append(purse)

    def _meet(self, purse: Purse | None) -> None:
        if purse is None:
            return
        if not purse.ends:  # (it is new, or its period is: once it has one it was asked for)
            self.unread.append(purse)
        elif purse.known and purse.models is None and purse.percent() > purse.told:
            # What was spent before may be more than a limit that is new. Whether that is one of which another process has told
            # already is asked before it is told.
            purse.known = False
            self.unread.append(purse)

    # --- keys of the configuration, when it is read again
    def follow(self, defaults: Defaults, now_us: int) -> None:
        """From now on these hold for keys that say nothing else. Those that are there take them over when they are told of
        again: of the configuration by :meth:`admit`, of the store by :meth:`apply`; requests without one at once."""
        self._defaults = defaults
        self.anonymous.set(defaults, None, now_us)
        self._meet(self.anonymous.purse)

    def admit(self, digests: Iterable[bytes], now_us: int) -> bool:
        """Keys of the configuration, new ones or such as are there; one that comes back has what it had used. True = a key is
        among them of which nothing was known here."""
        fresh = False
        for digest in digests:
            account = self._by_digest.get(digest)
            if account is None:
                account = self._retired.pop(digest, None)
                if account is None:
                    account = Account(digest.hex()[:KEY_ID_CHARS])
                    fresh = True
                self._by_digest[digest] = account
                self._by_id[account.id] = account
            if not account.stored:
                account.set(self._defaults, None, now_us)
                self._meet(account.purse)
            self.required = True
        return fresh

    def retire(self, digests: Iterable[bytes]) -> None:
        """Keys that the configuration has no more: no request with one is let in; those under way go on."""
        for digest in digests:
            account = self._by_digest.get(digest)
            if account is None or account.stored:
                continue
            del self._by_digest[digest]
            self._by_id.pop(account.id, None)
            self._retired[digest] = account
            if len(self._retired) > MOST_RETIRED:
                del self._retired[next(iter(self._retired))]

    def expire(self, unix_s: float) -> bool:
        """Whether a key or a rotated digest has just ended: what heads were judged by is no longer true."""
        if unix_s < self._latest:
            # The clock was set back: what had ended may be good again, and ends again within the time that comes twice.
            self._twice = True
            return True
        ended = self._twice  # the last of that time
        self._twice = False
        self._latest = unix_s
        for _ in range(MOST_ENDED):
            if not self._ends or self._ends[0][0] > unix_s:
                break
            at, name = heappop(self._ends)
            account = self._by_id.get(name)
            if account is None:
                continue
            if at == account.expires_at:
                ended = True
            if at == account.previous_until:
                ended = True
                if account.previous_digest != account.digest and self._by_digest.get(account.previous_digest) is account:
                    del self._by_digest[account.previous_digest]
        return ended

    def _forget_ends(self) -> None:
        """Drop the moments that hold no more: a key whose end is moved to and fro must not fill the memory."""
        kept: dict[tuple[float, str], None] = {}
        for moment in self._ends:
            account = self._by_id.get(moment[1])
            if account is not None and (moment[0] == account.expires_at or moment[0] == account.previous_until):
                kept[moment] = None
        self._ends = list(kept)
        heapify(self._ends)
        self._ends_most = 2 * len(self._ends) + MOST_ENDED
