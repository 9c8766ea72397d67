"""Whether a key may make a request: one decision over its requests and tokens per minute, its tokens of the day, those of its
tenant, of the model, and of the key for that model, and money.

All of them are asked, and all are taken from or none, so that a refusal by one spends nothing of the others. What a refused
request is told is the longest wait of all that refuse: who obeys it once is admitted, if nobody else came.

Must never: read a clock or throw dice.
"""

from __future__ import annotations

from typing import Final

from fastgw.limits.account import Account
from fastgw.limits.ledger import DAY_S
from fastgw.limits.promises import Promises
from fastgw.limits.purse import Purse
from fastgw.limits.scope import Scope, Share

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
DAY: Final = "day"
"""The day's tokens are used."""
RESERVED: Final = "reserved"
"""Not used, but reserved by requests under way: some of it will come back when they end."""
BUDGET: Final = "budget"
"""What may be spent in the period is spent."""
BUDGET_RESERVED: Final = "budget_reserved"
OVER_MINUTE: Final = "over_minute"
OVER_DAY: Final = "over_day"
OVER_BUDGET: Final = "over_budget"
"""More than the whole limit: waiting does not help."""

RESERVED_S: Final = 1.0
RESERVED_EACH_S: Final = 0.1
"""When requests under way end nobody knows: the first is told to look again so soon, and others so far apart after him."""


class Refusal:
    """Why (one of the names above), whose limit it is (None = the key's own, or a budget), and how long to wait."""

    __slots__ = ("reason", "scope", "wait_s")

    def __init__(self, reason: str, wait_s: float, scope: Scope | None = None) -> None:
        self.reason = reason
        self.scope = scope
        self.wait_s = wait_s

    def __repr__(self) -> str:
        return f"<Refusal {self.reason} {self.wait_s:g} s>"


def admit(
    account: Account, day: int, now_us: int, minute: int, daily: int, money: int = 0, shares: tuple[Share, ...] = ()
) -> bool:
    """Take one request, ``minute`` tokens of the minute's, ``daily`` of the day's, ``money`` of the key's budget and its
    tenant's, and what ``daily`` costs of each of ``shares``, all or none.

    They are held: ``account.tokens.settle`` and ``account.ledger.settle`` (or ``release``) are called once for the tokens, a
    ``Hold`` releases the money, and each share what it has taken.
    """
    requests = account.requests
    if requests is not None and not requests.take(now_us, 1):
        return False
    tokens = account.tokens
    if tokens is not None and minute and not tokens.take(now_us, minute):
        if requests is not None:
            requests.give(now_us, 1)
        return False
    ledger = account.ledger
    dated = daily > 0 and ledger.limit > 0
    well = not dated or ledger.reserve(day, daily)
    if well and (shares or money):
        well = (not shares or _take(shares, day, now_us, daily)) and (not money or _pay(account, day, money, now_us, shares))
        if not well and dated:
            ledger.release(daily)
    if not well:
        if requests is not None:
            requests.give(now_us, 1)
        if tokens is not None and minute:
            tokens.give(now_us, minute)
        return False
    if tokens is not None and minute:
        tokens.hold()
    return True


def _take(shares: tuple[Share, ...], day: int, now_us: int, cost: int) -> bool:
    """Take of all of them, or none."""
    for at, share in enumerate(shares):
        if not share.take(day, now_us, cost):
            _give(shares[:at], now_us)
            return False
    return True


def _give(shares: tuple[Share, ...], now_us: int) -> None:
    for share in shares:
        share.give(now_us)


def _pay(account: Account, day: int, money: int, now_us: int, shares: tuple[Share, ...]) -> bool:
    """Take ``money`` of both budgets; where one has it not, give back what ``shares`` have taken."""
    own = account.purse
    if own is None or own.reserve(day, money):
        shared = account.shared
        if shared is None or shared.reserve(day, money):
            return True
        if own is not None:
            own.release(money)
    _give(shares, now_us)
    return False


def refusal(
    account: Account,
    day: int,
    now_us: int,
    to_midnight_s: float,
    minute: int,
    daily: int,
    chance: float,
    money: int = 0,
    shares: tuple[Share, ...] = (),
) -> Refusal | None:
    """Why :func:`admit` would refuse; None = it would not.

    ``chance``: see :meth:`Promises.told`.
    """
    tokens = account.tokens
    ledger = account.ledger
    if tokens is not None and minute > tokens.burst:
        return Refusal(OVER_MINUTE, 0.0)
    if ledger.limit and daily > ledger.limit:
        return Refusal(OVER_DAY, 0.0)
    lacking = lacking_of(account, day, money)
    if lacking is not None and money > lacking.limit:
        return Refusal(OVER_BUDGET, 0.0)
    found = _of_shares(shares, day, now_us, to_midnight_s, daily, chance) if shares else None
    if found is not None and found.reason in (OVER_MINUTE, OVER_DAY):
        return found
    requests = account.requests
    if requests is not None and requests.wait_us(now_us, 1):
        found = _longer(found, REQUESTS, requests.told_s(now_us, 1, chance))
    if tokens is not None and minute and tokens.wait_us(now_us, minute):
        found = _longer(found, TOKENS, tokens.told_s(now_us, minute, chance))
    if daily and ledger.limit and ledger.left(day) < daily:
        if ledger.prompt + ledger.completion + daily > ledger.limit:
            found = _longer(found, DAY, max(1.0, to_midnight_s))
        else:
            promises = ledger.promises
            if promises is None:
                promises = ledger.promises = Promises()
            found = _longer(found, RESERVED, promises.told(now_us / 1e6, RESERVED_S, RESERVED_EACH_S, chance))
    if lacking is not None:
        if lacking.spent + money > lacking.limit:
            found = _longer(found, BUDGET, to_end_s(lacking, day, to_midnight_s))
        else:
            found = _longer(found, BUDGET_RESERVED, _told(lacking, now_us, chance))
    return found


def _of_shares(
    shares: tuple[Share, ...], day: int, now_us: int, to_midnight_s: float, cost: int, chance: float
) -> Refusal | None:
    """The same of what stands beside the key."""
    for share in shares:
        scope = share.scope
        if scope.tokens is not None and share.needs(cost) > scope.tokens.burst:
            return Refusal(OVER_MINUTE, 0.0, scope)
        if scope.day is not None and cost > scope.day.limit:
            return Refusal(OVER_DAY, 0.0, scope)
    found: Refusal | None = None
    for share in shares:
        scope = share.scope
        tokens, left = scope.tokens, scope.day
        minute = share.needs(cost)
        requests = scope.requests
        if requests is not None and requests.wait_us(now_us, 1):
            found = _longer(found, REQUESTS, requests.told_s(now_us, 1, chance), scope)
        if tokens is not None and tokens.wait_us(now_us, minute or 1):
            found = _longer(found, TOKENS, tokens.told_s(now_us, minute or 1, chance), scope)
        if left is not None and (left.over(day) or cost > left.left(day)):
            if left.over(day) or left.spent + cost > left.limit:
                found = _longer(found, DAY, max(1.0, to_midnight_s), scope)
            else:
                found = _longer(found, RESERVED, _told(left, now_us, chance), scope)
    return found


def _told(purse: Purse, now_us: int, chance: float) -> float:
    """How long one waits for what others have reserved of it."""
    if purse.promises is None:
        purse.promises = Promises()
    return purse.promises.told(now_us / 1e6, RESERVED_S, RESERVED_EACH_S, chance)


def lacking_of(account: Account, day: int, money: int) -> Purse | None:
    """Of the key's budget and its tenant's the one that does not have ``money`` left; where neither has, the one that has it
    again later."""
    own, shared = account.purse, account.shared
    if own is not None and own.left(day) >= money:
        own = None
    if shared is not None and shared.left(day) >= money:
        shared = None
    if own is None or (shared is not None and shared.ends > own.ends):
        return shared
    return own


def broke(account: Account, day: int) -> Purse | None:
    """The budget that is spent, so that no request whatever would be admitted in its period; None = there is none."""
    found = account.purse
    if found is not None and not found.over(day):
        found = None
    shared = account.shared
    if shared is not None and shared.over(day) and (found is None or shared.ends > found.ends):
        found = shared
    return found


def to_end_s(purse: Purse, day: int, to_midnight_s: float) -> float:
    """Seconds until the budget's next period."""
    return max(1.0, to_midnight_s + (purse.ends - day - 1) * DAY_S)


def spent(account: Account, day: int) -> bool:
    """Whether the day's tokens are used, so that no request whatever would be admitted today."""
    ledger = account.ledger
    return ledger.limit > 0 and ledger.left(day) <= 0 and ledger.prompt + ledger.completion >= ledger.limit


def wait_whatever_it_costs_s(account: Account, now_us: int) -> float:
    """Seconds until any request is admitted that may be at all, by requests and tokens per minute."""
    wait_us = 0
    if account.requests is not None:
        wait_us = account.requests.wait_us(now_us, 1)
    if account.tokens is not None:
        wait_us = max(wait_us, account.tokens.reset_us(now_us))
    return wait_us / 1e6


def _longer(found: Refusal | None, reason: str, wait_s: float, scope: Scope | None = None) -> Refusal:
    if found is not None and found.wait_s >= wait_s:
        return found
    return Refusal(reason, wait_s, scope)
