"""Tokens per minute and per UTC day with one key, and the money that they cost: reserved when a request is admitted, settled by
``charge``. What stands beside the key, its tenant and the model, is in the same decision (``scopes``).

A request is expected to cost its prompt (estimated from its bytes) and the most tokens that its answers may have. How many
those are is the client's to say; where it says nothing, ``default_max_tokens``, or what is left. ``rewrite`` tells the engine.
Invariant: prompt and answers of what is told are no more than what was reserved. (A stream under ``cut`` whose engine goes on
beyond that is given more, and ended where there is none.) Where no engine can be told, as of images, ``default_max_tokens``
are reserved for each answer.
"""

from __future__ import annotations

from collections.abc import Collection
from random import random
from time import time
from typing import Final

from fastgw.accel.lines import budget_lines, limit_lines
from fastgw.accel.members import STORED, UNCOUNTED
from fastgw.accel.tokens import MOST_TOKENS
from fastgw.config import Config
from fastgw.config.money import written
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import RESPONSES, UPLOAD
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.figures import answers_of, known_as
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import NO_LIMIT, model_of
from fastgw.limits.account import Account
from fastgw.limits.admission import (
    BUDGET,
    BUDGET_RESERVED,
    DAY,
    OVER_BUDGET,
    OVER_DAY,
    OVER_MINUTE,
    REQUESTS,
    TOKENS,
    admit,
    broke,
    lacking_of,
    refusal,
    spent,
    to_end_s,
    wait_whatever_it_costs_s,
)
from fastgw.limits.ledger import day_of, seconds_to_midnight
from fastgw.limits.meter import Meter
from fastgw.limits.purse import Hold, Purse, left_of
from fastgw.limits.spending import OTHERS, Books, Price, at_most
from fastgw.net.clock import micros, monotonic
from fastgw.policy.ratelimit import too_many
from fastgw.policy.scopes import SHORTER, day_left, limits_tokens, minute_left, refused, shares_of, tell

TURN_S: Final = 0.01  # after midnight the gateway's day has turned
CHAT_TEMPLATE: Final = "chat_template"
UNCOUNTED_OF: Final = {name: 1 << at for at, name in enumerate((*UNCOUNTED, "prompt"))}
WHY: Final = {
    "background": "its tokens are limited, and what is made while nobody waits for it is not counted. Leave it out.",
    "previous_response_id": "its tokens are limited, and a stored answer's are not known here. Send the messages in input.",
    "conversation": "its tokens are limited, and a stored conversation's are not known here. Send the messages in input.",
    "chat_template": "its tokens are limited, and what a template adds to the messages is not known here. Leave it out.",
    "prompt": "its tokens are limited, and a stored prompt's are not known here. Send its text in instructions or input.",
}
MOST_TOLD: Final = 2**31 - 1  # an engine that counts in 32 bits reads more as another number, or as endless (llama.cpp)


# Bits of BodyFacts.uncounted that are of the API of responses alone, and the one that is of all.
OF_RESPONSES: Final = UNCOUNTED_OF[CHAT_TEMPLATE] - 1 | STORED
OF_ALL: Final = UNCOUNTED_OF[CHAT_TEMPLATE]


def refuse_uncounted(exchange: Exchange) -> None:
    """Raises where the prompt, or what is made of it, is more than what stands in the body, so that nobody can reserve it.

    :raises GatewayError: ``invalid_parameter``, which names it and says what to do.
    """
    facts = exchange.facts
    if facts is None or not facts.uncounted:
        return
    bits = facts.uncounted & (OF_ALL | OF_RESPONSES if exchange.endpoint.label == RESPONSES else OF_ALL)
    if bits:
        for param, bit in UNCOUNTED_OF.items():
            if bits & bit:
                raise GatewayError("invalid_parameter", f"{param} cannot be used with this key: {WHY[param]}", param=param)


def total(prompt: int, answer: int, answers: int) -> int:
    """Tokens of a prompt and so many answers; more than any quota counts as much as another."""
    if answer > MOST_TOKENS // answers:
        return MOST_TOKENS
    return min(prompt + answer * answers, MOST_TOKENS)


def expected_cost(exchange: Exchange) -> int:
    """Tokens that a request is expected to take: its prompt's, estimated, and those of its answers; at least 1."""
    facts = exchange.facts
    if facts is None:
        return 1
    if not exchange.endpoint.generates:
        return facts.prompt_tokens or 1
    answer = facts.token_limit
    if answer < 0:
        answer = exchange.gateway.default_cost
    return total(facts.prompt_tokens, answer, answers_of(exchange)) or 1


def untold_cost(exchange: Exchange, account: Account) -> int:
    """Tokens reserved for answers whose length nobody knows before: each ``default_max_tokens``, or what the day has left."""
    cost = answer = exchange.gateway.default_max
    prompt = 0
    facts = exchange.facts
    if facts is not None:
        prompt = facts.prompt_tokens
        cost = total(prompt, answer, facts.choices)
    left = account.ledger.left(exchange.gateway.today)
    if exchange.shares:
        left = day_left(exchange.shares, exchange.gateway.today, left)
    if left >= 0:
        cost = min(cost, max(left, prompt + 1))
    return cost


def _to_midnight_s(exchange: Exchange) -> float:
    """Seconds until the day has turned here too, which is a moment after midnight."""
    unix_s = time()
    turned = day_of(unix_s) == exchange.gateway.today + 1
    return TURN_S if turned else seconds_to_midnight(unix_s) + TURN_S


def price_for(exchange: Exchange, account: Account) -> Price | None:
    """By what money is reserved for it; None = no budget has anything to say.

    :raises GatewayError: ``unpriced_model``, where there is a budget and nobody knows what it may cost.
    """
    if not account.pays:
        return None
    books = exchange.gateway.accounts.books
    asked = model_of(exchange)
    if books.may and asked in books.may:
        price = _dearest(exchange, books, books.may[asked])
    else:
        price = books.most(known_as(exchange, asked, books.dearest))
    if price is None and books.refuses:
        exchange.gateway.stats.budget_refused += 1
        raise GatewayError("unpriced_model", param="model")
    return price


def _dearest(exchange: Exchange, books: Books, models: Collection[str]) -> Price | None:
    """What the dearest of ``models`` costs, each by the name by which it will be charged; None = of one that is not known."""
    found = []
    for model in models:
        price = books.prices.get(known_as(exchange, model, books.prices)) or books.prices.get(OTHERS)
        if price is None:
            return None
        found.append(price)
    return at_most(found)


def hold_for(account: Account, price: Price, prompt: int, answers: int) -> Hold:
    """What is to be reserved for a prompt and the tokens of all its answers."""
    made = Hold.__new__(Hold)
    made.make(account.purse, account.shared, price, price.cost(prompt, answers, 0), prompt + answers)
    return made


def untold_hold(account: Account, price: Price, tokens: int) -> Hold:
    """The same, of tokens of which nobody knows before how many will be the prompt's: the dearer price holds for all."""
    dearer = max(price.cost(tokens, 0, 0), price.cost(0, tokens, 0))
    return Hold(account.purse, account.shared, price, dearer, tokens)


def with_budget(before: bytes, account: Account, today: int) -> bytes:
    """The lines ``before``, and what is left of the budget that has least left: the key's, or its tenant's."""
    purse = account.purse
    shared = account.shared
    if purse is None or (shared is not None and shared.left(today) < purse.left(today)):
        purse = shared
    assert purse is not None
    left = purse.left(today)
    return budget_lines(before, purse.line, purse.percent(), left // 1000)


class Quota(Filter):
    """See the head of this file."""

    __slots__ = ()
    name = "quota"
    limits = True

    @classmethod
    def from_config(cls, config: Config) -> Quota:
        return cls()

    def on_request(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves or exchange.endpoint.local:
            return
        # Nobody need send a body to be told this; and whatever an engine would do stops here, counted or not.
        if spent(account, exchange.gateway.today):
            # (What it would cost is not known, so it is told to wait until it may cost anything.)
            wait_s = max(1.0, _to_midnight_s(exchange), wait_whatever_it_costs_s(account, micros(exchange.at)))
            raise self._exhausted(exchange, account, 0, wait_s)
        purse = broke(account, exchange.gateway.today) if account.pays else None
        if purse is not None:
            wait_s = to_end_s(purse, exchange.gateway.today, _to_midnight_s(exchange))
            raise self._broke(exchange, account, purse, 0, wait_s)
        if not exchange.endpoint.metered:
            self._check_debt(exchange, account)
        elif exchange.endpoint.mode is UPLOAD and not exchange.is_json():
            # What an upload costs shows at its end only; but whoever owes tokens does not begin another.
            now_us = micros(exchange.at)
            if (account.tokens is not None and account.tokens.wait_us(now_us, 1)) or (
                account.requests is not None and account.requests.wait_us(now_us, 1)
            ):
                self._refuse(exchange, account, now_us, 1, 0, 0)

    def on_turn(self, exchange: Exchange) -> None:
        self.on_request(exchange)
        self._admit(exchange, exchange.account, 0, 0, None)

    def on_body(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves:
            self._admit(exchange, account, 0, 0, None)
            return
        if account.scoped and not exchange.endpoint.local:
            exchange.shares = shares_of(exchange, account)
        shares = exchange.shares
        if not exchange.endpoint.metered:
            if exchange.session is not None:
                price_for(exchange, account)  # (nothing is reserved, but what spends nothing would never end)
            self._admit(exchange, account, 0, 0, None)
            return
        facts = exchange.facts
        ledger = account.ledger
        price = price_for(exchange, account) if account.pays else None
        if price is None and account.tokens is None and not ledger.limit and not (shares and limits_tokens(shares)):
            self._admit(exchange, account, 0, 0, None)  # (it has a budget, and is let pass it)
            return
        refuse_uncounted(exchange)
        if facts is None or not exchange.endpoint.generates:
            cost = expected_cost(exchange)
            if exchange.endpoint.untold:
                self._admit_untold(exchange, account, price)
            else:
                self._admit(exchange, account, cost, cost, None if price is None else hold_for(account, price, cost, 0))
            return
        gateway = exchange.gateway
        today = gateway.today
        prompt = facts.prompt_tokens
        answers = answers_of(exchange)
        named = facts.token_limit
        if named == 0:
            named = 1  # there are engines to which 0 is no limit
        usual = gateway.default_max if exchange.own is None else min(gateway.default_max, exchange.own.most)
        bound = usual if named < 0 else named
        least = min(bound, gateway.default_cost) if named < 0 else bound
        of_day = ledger.left(today)
        if shares:
            of_day = day_left(shares, today, of_day)
        cut = account.cut and facts.stream and (of_day >= 0 or price is not None) and not exchange.endpoint.dialect
        by_day = False
        if of_day >= 0 and (named < 0 or cut):
            # No more than the day has left for each of them. (Where that is nothing, the least is refused.)
            left = max((of_day - prompt) // answers, 1)
            by_day = left < bound
            bound = min(bound, left)
        if price is not None and (named < 0 or cut):
            afford = left_of(account.purse, account.shared, today) - price.cost(prompt, 0, 0)
            left = max(price.tokens(afford) // answers, 1)
            by_day = by_day or left < bound
            bound = min(bound, left)
        meter = account.tokens
        if named < 0 and (meter is not None or shares):
            # As much as the minute has left, but not less than a request of this kind is expected to take.
            now_us = micros(exchange.at)
            left = -1 if meter is None else meter.left(now_us)
            if shares:
                left = minute_left(shares, now_us, left)
            if left >= 0:
                bound = min(bound, max((left - prompt) // answers, least))
        exchange.bound = min(bound, MOST_TOLD)
        cost = total(prompt, bound, answers)
        hold = None if price is None else hold_for(account, price, prompt, cost - prompt)
        self._admit(exchange, account, cost, cost, hold)
        if cut:
            # It is ended where the day, or the money, ends. If that is not what bounds it, its engine ends it, in its own
            # words, and only one that goes on is cut.
            exchange.allowance = cost - prompt if by_day else cost - prompt + 1

    def _check_debt(self, exchange: Exchange, account: Account) -> None:
        """Raises where the key owes tokens of the minute. (What is not counted takes none: nothing would give them back.)"""
        meter = account.tokens
        if meter is None:
            return
        now_us = micros(exchange.at)
        if meter.wait_us(now_us, 1) > 0:
            exchange.gateway.stats.limited_tokens += 1
            raise GatewayError(
                "rate_limited",
                f"Too many tokens with this key: more than {meter.rate} per minute.",
                retry_after_s=meter.told_s(now_us, 1, random()),  # noqa: S311 - spreads a crowd, guards nothing
            )

    def on_route(self, exchange: Exchange) -> None:
        if exchange.upload is None:
            return  # admitted when its body was there
        account = exchange.account
        if account is not None and account.scoped:
            exchange.shares = shares_of(exchange, account)
        if account is not None and account.reserves and exchange.endpoint.metered:
            self._admit_untold(exchange, account, price_for(exchange, account))
        else:
            self._admit(exchange, account, 0, 0, None)

    def _admit_untold(self, exchange: Exchange, account: Account, price: Price | None) -> None:
        """One of whose tokens no engine can be told how many they may be: as many are taken as there are at most."""
        for share in exchange.shares:
            share.untold = True
        daily = untold_cost(exchange, account)
        minute = daily if account.tokens is None else min(daily, account.tokens.burst)
        hold = None if price is None else untold_hold(account, price, daily)
        if hold is not None:
            hold.reserved = min(hold.reserved, max(left_of(hold.own, hold.shared, exchange.gateway.today), 1))
        self._admit(exchange, account, minute, daily, hold)

    def _admit(
        self, exchange: Exchange, account: Account | None, minute: int, daily: int, hold: Hold | None
    ) -> None:
        """Take one request, so many tokens of the minute's and of the day's, the money of ``hold``, and what it needs of what
        stands beside its key, all or none; raises where it is none."""
        if account is None or (account.requests is None and not account.reserves):
            return
        if exchange.endpoint.local:
            return
        now = exchange.at
        now_us = micros(now)
        today = exchange.gateway.today
        money = 0 if hold is None else hold.reserved
        shares = exchange.shares
        if not admit(account, today, now_us, minute, daily, money, shares):
            self._refuse(exchange, account, now_us, minute, daily, money)
        exchange.routed_at = now
        meter = account.tokens
        if meter is not None and minute:
            exchange.reserved_minute = minute
            exchange.minute = meter
        self._tell(exchange, account, now_us, minute > 0)
        if account.ledger.limit:
            exchange.reserved = daily
        if hold is not None:
            exchange.money = hold
            exchange.extra_head = with_budget(exchange.extra_head, account, today)

    def _refuse(self, exchange: Exchange, account: Account, now_us: int, minute: int, daily: int, money: int) -> None:
        exchange.routed_at = 0.0  # nothing was taken, and nothing is to be
        self._tell(exchange, account, now_us, minute > 0)
        meter = account.tokens
        chance = random()  # noqa: S311 - spreads a crowd, guards nothing
        to_midnight_s = _to_midnight_s(exchange)
        found = refusal(
            account, exchange.gateway.today, now_us, to_midnight_s, minute, daily, chance, money, exchange.shares
        )  # fmt: skip
        assert found is not None
        if found.scope is not None:
            raise refused(exchange, found, found.scope, daily)
        stats = exchange.gateway.stats
        reason = found.reason
        if reason is REQUESTS:
            stats.limited_requests += 1
            raise too_many(account, found.wait_s)
        if reason is TOKENS or reason is OVER_MINUTE:
            assert meter is not None
            stats.limited_tokens += 1
            if reason is OVER_MINUTE:
                message = f"The request may need {minute} tokens, and this key may use {meter.burst} in a minute: {SHORTER}"
                raise GatewayError("over_limit", message)
            raise GatewayError(
                "rate_limited",
                f"Too many tokens with this key: more than {meter.rate} per minute.",
                retry_after_s=found.wait_s,
            )
        if reason is DAY:
            raise self._exhausted(exchange, account, daily, found.wait_s)
        if reason in (BUDGET, BUDGET_RESERVED, OVER_BUDGET):
            purse = lacking_of(account, exchange.gateway.today, money)
            assert purse is not None
            raise self._broke(exchange, account, purse, money, found.wait_s, reason)
        stats.quota_refused += 1
        if reason is OVER_DAY:
            message = f"The request may need {daily} tokens, and this key may use {account.ledger.limit} in a day: {SHORTER}"
            raise GatewayError("over_limit", message)
        raise GatewayError("quota_reserved", retry_after_s=found.wait_s)

    def _tell(self, exchange: Exchange, account: Account, now_us: int, tokens: bool) -> None:
        """What is left of the minute's, in the answer's head."""
        if exchange.shares:
            tell(exchange, account, now_us, tokens)
            return
        meter = account.tokens
        if meter is not None and tokens:
            exchange.extra_head = limit_lines(
                exchange.extra_head, b"tokens", meter.rate, meter.left(now_us), meter.reset_us(now_us)
            )

    @staticmethod
    def _exhausted(exchange: Exchange, account: Account, cost: int, wait_s: float) -> GatewayError:
        exchange.gateway.stats.quota_refused += 1
        exchange.routed_at = 0.0
        ledger = account.ledger
        left = ledger.left(exchange.gateway.today)
        message = None
        if left > 0:
            message = f"The request may need {cost} tokens, and of the key's {ledger.limit} for today {left} are left."
        return GatewayError("quota_exhausted", message, retry_after_s=wait_s)

    @staticmethod
    def _broke(
        exchange: Exchange, account: Account, purse: Purse, money: int, wait_s: float, reason: str = BUDGET
    ) -> GatewayError:
        exchange.gateway.stats.budget_refused += 1
        exchange.routed_at = 0.0
        today = exchange.gateway.today
        exchange.extra_head = with_budget(exchange.extra_head, account, today)
        if reason is BUDGET_RESERVED:
            return GatewayError("budget_reserved", retry_after_s=wait_s)
        currency = exchange.gateway.config.currency
        whose = f"the {purse.kind}'s budget of {written(purse.limit)} {currency} a {purse.period}"
        if reason is OVER_BUDGET:
            message = f"The request may cost {written(money)} {currency}, and {whose} is less: {SHORTER}"
            return GatewayError("over_limit", message)
        message = f"Of {whose} nothing is left."
        if purse.spent < purse.limit:
            message = f"The request may cost {written(money)} {currency}, and of {whose} {written(purse.left(today))} is left."
        return GatewayError("budget_exhausted", message, retry_after_s=wait_s)

    def on_allowance(self, exchange: Exchange) -> bool:
        """A stream has used what it was given: as much again as an answer is expected to take, if there is any."""
        account = exchange.account
        relay = exchange.call.relay if exchange.call is not None else None
        if account is None or relay is None or relay.sse is None:
            exchange.allowance = NO_LIMIT
            return True
        passed = relay.sse.tokens
        # (One event may have brought more than was allowed, and the prompt be longer than was thought.)
        hold = exchange.money
        had = exchange.reserved if hold is None else hold.tokens
        for share in exchange.shares:
            had = max(had, share.daily)
        more = max(0, relay.prompt + passed - had) + exchange.gateway.default_cost
        today = exchange.gateway.today
        ledger = account.ledger
        if ledger.limit:
            more = min(more, ledger.left(today))
        for share in exchange.shares:
            more = share.affords(today, more)
        if hold is not None:
            more = hold.extend(today, more)
        if ledger.limit or hold is None:
            exchange.reserved += ledger.extend(today, more)
        for share in exchange.shares:
            share.extend(today, more)
        exchange.allowance = had + more - relay.prompt
        return exchange.allowance > passed


def take_back(exchange: Exchange, meter: Meter | None, since: float) -> float:
    """Give back all that was taken for a request that no engine has been asked for. ``meter``, from ``since``: its request.

    Returns how long it will be until as much may be taken again: 0.0 where that is now.
    """
    account = exchange.account
    if account is None or exchange.sent_at:
        return 0.0
    now_us = micros(monotonic())
    if meter is not None:
        meter.settle(now_us, micros(since), 1, 0)
    minute = exchange.reserved_minute
    daily = exchange.reserved
    if exchange.minute is not None:
        exchange.minute.settle(now_us, micros(exchange.routed_at), minute, 0)
    if daily:
        account.ledger.release(daily)
    exchange.reserved_minute = 0
    exchange.minute = None
    exchange.reserved = 0
    for share in exchange.shares:
        share.release(now_us, micros(exchange.routed_at))
        daily = max(daily, share.daily, share.minute)
    money = 0
    if exchange.money is not None:
        money = exchange.money.reserved
        exchange.money.release()
        exchange.money = None
    chance = random()  # noqa: S311 - spreads a crowd, guards nothing
    to_midnight_s = _to_midnight_s(exchange)
    found = refusal(account, exchange.gateway.today, now_us, to_midnight_s, minute, daily, chance, money, exchange.shares)
    return found.wait_s if found is not None else 0.0
