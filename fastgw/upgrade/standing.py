"""What limits hold, as rows for another process, and from such rows: meters, ledgers, budgets, and what is under way.

Must never: give more back than was taken, or count anything twice. Where a row cannot say all of it (what a meter's debt was at
each moment since something was taken) it says the least: too little comes back then, never too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.account import Account, Accounts
from fastgw.limits.lows import NONE, Lows
from fastgw.limits.meter import Meter, Meters, Past
from fastgw.limits.purse import KEY, TENANT, Purse
from fastgw.limits.scope import EACH, MODEL, Scope
from fastgw.limits.spending import SpentRow
from fastgw.upgrade.words import HeldRow, MeterRow, PurseRow, ScopeRow, SettledRow

ENGINE: Final = "engine"

Place = tuple[str, str, str]
"""Where something is held: the kind, the name, the model."""


# --- out
def of_meter(meter: Meter | None, now_us: int) -> MeterRow | None:
    """None = it is as good as new."""
    if meter is None:
        return None
    past = meter.past
    held = past is not None and past.open > 0
    if meter.idle(now_us) and not held:
        return None
    low, beyond, lowered_us = NONE, 0, 0
    if past is not None:
        beyond, lowered_us = past.beyond, past.lowered_us
        if held:
            low = past.lows.least(0) if past.lows is not None else NONE
            low = meter.debt if low == NONE else min(low, meter.debt)
    return MeterRow(meter.debt, meter.at_us, meter.since_us, beyond, lowered_us, low)


def of_purse(purse: Purse | None, stored: bool) -> PurseRow | None:
    if purse is None or stored or not purse.spent:
        return None
    return PurseRow(purse.begins, purse.spent, purse.told)


def of_account(account: Account, now_us: int, stored: bool, last: bool = False) -> ScopeRow | None:
    """None = nothing of it is to be told. Its days only where this is the ``last`` word: before it the store may take them."""
    requests, tokens = of_meter(account.requests, now_us), of_meter(account.tokens, now_us)
    days = account.ledger.rows() if last else []
    money = of_purse(account.purse, stored)
    if requests is None and tokens is None and not days and money is None:
        return None
    return ScopeRow(KEY, account.id, "", requests, tokens, days, money, None)


def of_scope(place: Place, scope: Scope | None, money: Purse | None, now_us: int, stored: bool) -> ScopeRow | None:
    """The same of what stands beside keys, as :func:`beside` has it."""
    requests = of_meter(scope.requests, now_us) if scope is not None else None
    tokens = of_meter(scope.tokens, now_us) if scope is not None else None
    spent, day = of_purse(money, stored), of_purse(scope.day, stored) if scope is not None else None
    if requests is None and tokens is None and spent is None and day is None:
        return None
    kind, name, model = place
    return ScopeRow(kind, name, model, requests, tokens, [], spent, day)


def beside(accounts: Accounts) -> Iterator[tuple[Place, Scope | None, Purse | None]]:
    """What stands beside keys: a place, its scope, and the money of it."""
    scopes = accounts.scopes
    tenants = {scope.id for scope in scopes.together() if scope.kind == TENANT}
    tenants |= {purse.name for purse in accounts.purses() if purse.kind == TENANT and purse.models is None}
    for name in tenants:
        purse = accounts.budget_of(name, True)
        yield (TENANT, name, ""), scopes.tenant(name), purse if purse is not None and purse.kind == TENANT else None
    yield from (((MODEL, scope.id, ""), scope, None) for scope in scopes.together() if scope.kind == MODEL)
    for (key, model), scope in scopes.each():
        yield (EACH, key, model), scope, None


# --- in
def find(accounts: Accounts, place: Place, now_us: int, today: int) -> Scope | None:
    """The scope there; None = there is none by the settings of now."""
    kind, name, model = place
    scopes = accounts.scopes
    if kind == KEY:
        return accounts.by_id(name)
    if kind == TENANT:
        return scopes.tenant(name)
    known = scopes.models.get(name if kind == MODEL else model)
    if known is None:
        return None
    if kind == MODEL:
        return known.together
    return scopes.of_key(name, known, now_us, today) if known.each else None


def money_of(accounts: Accounts, place: Place) -> Purse | None:
    kind, name, _ = place
    if kind not in (KEY, TENANT):
        return None
    purse = accounts.budget_of(name, kind == TENANT)
    return purse if purse is not None and purse.kind == kind else None


def put_meter(meter: Meter | None, row: MeterRow | None, now_us: int) -> None:
    """Go on from ``row``, by the limits that ``meter`` has."""
    if meter is None or row is None:
        return
    meter.debt, meter.at_us, meter.since_us = row.debt, row.at_us, row.since_us
    if row.beyond or row.low != NONE:
        past = meter.past = Past()
        past.beyond, past.lowered_us = row.beyond, row.lowered_us
        if row.low != NONE:
            past.lows = Lows()
            past.lows.mark(row.at_us, row.low)
    meter.change(meter.rate, meter.burst, now_us)  # (what it owes beyond limits that are others now is set aside)


def put_purse(purse: Purse | None, row: PurseRow | None, today: int) -> None:
    if purse is not None and row is not None:
        purse.roll(today)
        purse.restore(row.begins, row.spent, row.told)


def put(core: GatewayCore, row: ScopeRow, now_us: int) -> None:
    """Take a row over. The ledger's days are all that was used on them, what the store has included."""
    accounts, today = core.accounts, core.today
    place = (row.kind, row.name, row.model)
    scope = find(accounts, place, now_us, today)
    put_purse(money_of(accounts, place), row.money, today)
    if scope is None:
        return
    put_meter(scope.requests, row.requests, now_us)
    put_meter(scope.tokens, row.tokens, now_us)
    put_purse(scope.day, row.day, today)
    if isinstance(scope, Account):
        ledger = scope.ledger
        for day, *counts, _ in sorted(row.days):
            if not ledger.dirty:
                accounts.touched.append(scope)
            ledger.restore(day, 0, 0, 0, 0)
            ledger.add(day, *counts)


def put_address(meters: Meters | None, name: str, row: MeterRow, now_us: int) -> None:
    if meters is not None:
        put_meter(meters.get(name, now_us), row, now_us)


# --- what is under way
def held(place: Place, scope: Scope | None, money: Purse | None) -> HeldRow:
    """What is held there now."""
    inflight = daily = open_ = 0
    if scope is not None:
        inflight = scope.inflight
        daily = scope.ledger.reserved if isinstance(scope, Account) else scope.day.reserved if scope.day is not None else 0
        tokens = scope.tokens
        open_ = tokens.past.open if tokens is not None and tokens.past is not None else 0
    return HeldRow(*place, inflight=inflight, daily=daily, money=0 if money is None else money.reserved, open=open_)


class Mirror:
    """What another process holds of the limits here, and at the engines: it counts here as if it were held here, as far as it
    was said last, until that has it no more."""

    __slots__ = ("_core", "_rows")

    def __init__(self, core: GatewayCore) -> None:
        self._core = core
        self._rows: dict[Place, tuple[HeldRow, Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Iterable[HeldRow], now_us: int) -> None:
        """These are others now."""
        core = self._core
        for row in rows:
            place = (row.kind, row.name, row.model)
            before, what, money = self._rows.pop(place, (HeldRow(*place), None, None))
            if what is None and money is None and row.kind != ENGINE:
                what = find(core.accounts, place, now_us, core.today)
                money = money_of(core.accounts, place)
            self._differ(before, row, what, money)
            if row != HeldRow(*place) and (what is not None or money is not None or row.kind == ENGINE):
                self._rows[place] = (row, what, money)
        self.follow()
        core.room()

    def follow(self) -> None:
        """Engines have come and gone: what is held at one counts at whoever has its name. (A runner's comes when it has dialled
        in, and may be another object each time.)"""
        engines = {pool.engine.name: pool.engine for pool in self._core.table.pools}
        for place, (row, what, money) in self._rows.items():
            engine = engines.get(row.name) if row.kind == ENGINE else what
            if engine is not what and engine is not None:
                empty = HeldRow(*place)
                self._differ(row, empty, what, None)
                self._differ(empty, row, engine, None)
                self._rows[place] = (row, engine, money)

    def rows(self) -> list[HeldRow]:
        """As they were said last."""
        return [row for row, _, _ in self._rows.values()]

    def end(self, now_us: int) -> None:
        """It holds nothing any more."""
        self.take([HeldRow(*place) for place in list(self._rows)], now_us)

    @staticmethod
    def _differ(before: HeldRow, row: HeldRow, what: Any, money: Purse | None) -> None:
        if money is not None:
            money.reserved = max(0, money.reserved + row.money - before.money)
        if what is None:
            return
        what.inflight = max(0, what.inflight + row.inflight - before.inflight)
        if row.kind == ENGINE:
            what.light = max(0, what.light + row.light - before.light)
            return
        if isinstance(what, Account):
            what.ledger.reserved = max(0, what.ledger.reserved + row.daily - before.daily)
        elif what.day is not None:
            what.day.reserved = max(0, what.day.reserved + row.daily - before.daily)
        _opened(what.tokens, row.open - before.open)


def _opened(meter: Meter | None, more: int) -> None:
    """So many times more something is taken that may come back. (What came back was settled before it is said here.)"""
    if meter is None or not more:
        return
    past = meter.past
    if past is None:
        past = meter.past = Past()
    past.open = max(0, past.open + more)
    if not past.open:
        past.forget()


# --- what was used
def count(core: GatewayCore, rows: Iterable[SpentRow]) -> None:
    """What requests have used that have ended elsewhere counts here: in the day of their keys, in budgets, and in the books."""
    accounts, today = core.accounts, core.today
    for row in rows:
        book(accounts, row)
        key, _, _, day, prompt, completion, requests, estimated, cached, reasoning, cost, _ = row
        account = accounts.by_id(key)
        if account is None:
            continue  # (its key has gone: what it has used is in the books)
        if not account.ledger.dirty:
            accounts.touched.append(account)
        account.ledger.add(day, prompt, completion, requests, estimated, cached, reasoning)
        for purse in (account.purse, account.shared):
            if purse is not None and cost > 0 and purse.charge(today, cost):
                accounts.cross(purse)


def book(accounts: Accounts, row: SpentRow) -> None:
    """It waits for the store here."""
    if not accounts.books.kept:
        return
    key, tenant, model, day = row[:4]
    accounts.books.use(key, tenant, model, day).add(row)


def settle(core: GatewayCore, row: SettledRow, now_us: int) -> None:
    """The minutes and the days of what stands beside the key, by one request that has ended elsewhere."""
    accounts, today = core.accounts, core.today
    account = accounts.by_id(row.key)
    if account is None:
        return
    _settle(account, row.taken, row, now_us)
    for scope in accounts.scopes.of(account.id, account.joint, row.model, now_us, today):
        _settle(scope, row.shares.get(scope.kind, 0), row, now_us)
        if scope.day is not None:
            scope.day.charge(today, row.used)


def _settle(scope: Scope, taken: int, row: SettledRow, now_us: int) -> None:
    if row.fresh and scope.requests is not None:
        scope.requests.charge(now_us, 1)
    tokens = scope.tokens
    if tokens is None:
        return
    if not taken or row.fresh:
        tokens.charge(now_us, row.used)
        return
    _opened(tokens, 1)  # (the mirror closes it again, when it is told that it is less)
    tokens.settle(now_us, row.since_us, taken, row.used)
