"""One decision over requests, tokens of the minute and tokens of the day: all or nothing, and one wait for all of them."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.limits.account import Account, Defaults
from fastgw.limits.admission import (
    DAY,
    OVER_DAY,
    OVER_MINUTE,
    REQUESTS,
    RESERVED,
    TOKENS,
    admit,
    refusal,
    spent,
    wait_whatever_it_costs_s,
)
from fastgw.limits.ledger import DAY_S, day_of, seconds_to_midnight
from fastgw.limits.promises import MOST_S
from fastgw.limits.purse import TENANT
from fastgw.limits.scope import EACH, Limits, Scope, Share

BEGUN_S = 20_000 * DAY_S + 86_000.0  # ten minutes before a midnight: also the monotonic clock here


def account_with(requests: int = 0, burst: int = 0, tokens: int = 0, daily: int = 0, concurrency: int = 0) -> Account:
    account = Account("one")
    account.set(
        Defaults(
            requests_per_minute=requests, burst=burst, tokens_per_minute=tokens, daily_tokens=daily, concurrency=concurrency
        ),
        None,
        int(BEGUN_S * 1e6),
    )
    return account


def state_of(account: Account, now_us: int, *scopes: Scope) -> list[int]:
    """What is taken of each."""
    found = []
    for one in (account, *scopes):
        found += [0 if meter is None else meter.left(now_us) * 0 + meter.debt for meter in (one.requests, one.tokens)]
        found.append(account.ledger.reserved if one is account else 0 if one.day is None else one.day.reserved)
    return found


class Running(NamedTuple):
    since_us: int
    reserved: int
    used: int
    shares: tuple[Share, ...] = ()


def give_back(account: Account, now_us: int, cost: int, shares: tuple[Share, ...]) -> None:
    """In the moment in which it was taken."""
    if account.requests is not None:
        account.requests.give(now_us, 1)
    if account.tokens is not None:
        account.tokens.settle(now_us, now_us, cost, 0)
    if account.ledger.limit:
        account.ledger.release(cost)
    for share in shares:
        share.give(now_us)


def held_by_others(account: Account, scopes: list[Scope], day: int, cost: int) -> bool:
    """Whether it is only reserved, somewhere."""
    book = account.ledger
    if book.limit and book.left(day) < cost <= book.limit - book.prompt - book.completion:
        return True
    return any(one.day is not None and one.day.left(day) < cost <= one.day.limit - one.day.spent for one in scopes)


limits = st.tuples(
    st.sampled_from([0, 1, 3, 60]), st.sampled_from([0, 1, 5]), st.sampled_from([0, 100, 3000]),
    st.sampled_from([0, 150, 5000]), st.sampled_from([0, 1, 3]),
)  # fmt: skip
acts = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end"]), st.sampled_from([0.0, 0.001, 0.5, 7.0, 60.0, 400.0]),
        st.integers(1, 180), st.integers(0, 180),
    ),
    min_size=1,
    max_size=40,
)  # fmt: skip


@given(limits, st.lists(limits, max_size=2), acts)
@example((1, 1, 100, 150, 0), [], [("ask", 0.0, 90, 90), ("end", 0.0, 1, 0), ("ask", 0.0, 70, 1)])
@example((60, 0, 0, 0, 0), [(1, 1, 100, 150, 0)], [("ask", 0.0, 90, 90), ("end", 0.0, 1, 0), ("ask", 0.0, 70, 1)])
def test_who_obeys_once_is_admitted_if_nobody_else_came(
    limit: tuple[int, int, int, int, int],
    beside: list[tuple[int, int, int, int, int]],
    acts: list[tuple[str, float, int, int]],
) -> None:
    """Of whatever stands beside the key, too."""
    account = account_with(*limit)
    now = BEGUN_S
    running: list[Running] = []
    scopes = [Scope(kind, "one") for kind, _ in zip((EACH, TENANT), beside, strict=False)]
    for scope, found_in in zip(scopes, beside, strict=True):
        scope.limit(Limits(*found_in), (TENANT, "one"), (), int(now * 1e6))

    def shares() -> tuple[Share, ...]:
        return tuple([Share(scope) for scope in scopes])

    def end(which: int) -> None:
        one = running.pop(which)
        account.inflight -= 1
        if account.tokens is not None:
            account.tokens.settle(int(now * 1e6), one.since_us, one.reserved, one.used)
        for share in one.shares:
            share.settle(day_of(now), int(now * 1e6), one.since_us, one.used)
        account.ledger.settle(day_of(now), one.reserved if account.ledger.limit else 0, one.used, 0, False)

    for kind, step, cost, other in acts:
        now += step
        now_us = int(now * 1e6)
        if kind == "end":
            if running:
                end(other % len(running))
            continue
        daily = cost
        before = state_of(account, now_us, *scopes)
        mine = shares()
        found = refusal(account, day_of(now), now_us, seconds_to_midnight(now), cost, daily, 0.5, 0, mine)
        room = not account.concurrency or account.inflight < account.concurrency
        if found is None and room:
            assert admit(account, day_of(now), now_us, cost, daily, 0, mine)
            account.inflight += 1
            running.append(Running(now_us, cost, min(cost, other), mine))
            continue
        if found is None:
            # The key has no room: what was taken comes back in the same moment, and nothing of it is missed.
            assert admit(account, day_of(now), now_us, cost, daily, 0, mine)
            give_back(account, now_us, cost, mine)
            assert state_of(account, now_us, *scopes) == before
            continue
        assert not admit(account, day_of(now), now_us, cost, daily, 0, mine)
        assert state_of(account, now_us, *scopes) == before, "a refusal spends nothing"
        if found.reason in (OVER_MINUTE, OVER_DAY):
            least = [one for limited in (limit, *beside) for one in limited[2:4] if one]
            assert cost > min(least)
            continue
        held = held_by_others(account, scopes, day_of(now), cost)
        # It waits, once; those under way end, and nobody else comes.
        while running:
            end(0)
        now += ceil(found.wait_s * 1e3) / 1e3 + 1e-6  # as it is told; and these are floats
        mine = shares()
        again = refusal(account, day_of(now), int(now * 1e6), seconds_to_midnight(now), cost, daily, 0.5, 0, mine)
        # (What of the day was held by others may have been used by them.)
        assert again is None or (held and again.reason is DAY)
        if again is None:
            assert admit(account, day_of(now), int(now * 1e6), cost, daily, 0, mine)
            account.inflight += 1
            running.append(Running(int(now * 1e6), cost, min(cost, other), mine))
        for scope in scopes:
            assert scope.day is None or scope.day.spent + scope.day.reserved <= scope.day.limit


@pytest.mark.parametrize(
    ("requests", "tokens", "used", "reason", "least_s", "most_s"),
    [
        (60, 6000, 0, REQUESTS, 0.9, 1.0),
        (60, 600, 0, TOKENS, 10.0, 10.1),
        (12, 600, 0, TOKENS, 10.0, 10.1),
        (1, 600, 0, REQUESTS, 59.9, 60.0),
        (60, 600, 950, DAY, 400.0, 400.0),
    ],
)
def test_the_longest_wait_is_told(
    requests: int, tokens: int, used: int, reason: str, least_s: float, most_s: float
) -> None:
    account = account_with(requests, 1, tokens, 1000)
    now_us = int(BEGUN_S * 1e6)
    day = day_of(BEGUN_S)
    account.ledger.settle(day, 0, used, 0, False)
    assert account.requests is not None
    assert account.tokens is not None
    assert account.requests.take(now_us, 1)
    assert account.tokens.take(now_us, tokens - 1 if tokens < 1000 else 0)
    found = refusal(account, day, now_us, seconds_to_midnight(BEGUN_S), 101, 101, 0.5)
    assert found is not None
    assert found.reason is reason
    assert least_s <= found.wait_s <= most_s


def test_what_is_only_reserved_is_told_to_look_again_soon() -> None:
    account = account_with(daily=1000)
    day, now_us = day_of(BEGUN_S), int(BEGUN_S * 1e6)
    assert admit(account, day, now_us, 0, 900)
    told = []
    for _ in range(50):
        found = refusal(account, day, now_us, 400.0, 0, 200, 0.5)
        assert found is not None
        assert found.reason is RESERVED
        told.append(found.wait_s)
    assert told[0] == 1.0
    assert sorted(told) == told
    assert 5.0 < told[-1] < MOST_S
    assert not spent(account, day)
    account.ledger.settle(day, 900, 900, 0, False)
    found = refusal(account, day, now_us, 400.0, 0, 200, 0.5)
    assert found is not None
    assert (found.reason, found.wait_s) == (DAY, 400.0)
    account.ledger.settle(day, 0, 100, 0, False)
    assert spent(account, day)


def test_the_wait_for_whatever_it_costs_is_enough_for_everything() -> None:
    account = account_with(2, 1, 600)
    now_us = int(BEGUN_S * 1e6)
    assert admit(account, day_of(BEGUN_S), now_us, 600, 0)
    wait_s = wait_whatever_it_costs_s(account, now_us)
    assert wait_s == 60.0
    assert admit(account, day_of(BEGUN_S), now_us + int(wait_s * 1e6), 600, 0)
