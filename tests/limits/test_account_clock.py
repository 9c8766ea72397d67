"""Keys end by the wall clock, and that clock can be set: what has ended stays ended as the clock has it."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits import account
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.key import KeyRecord


def accounts_with(*records: KeyRecord, unix_s: float) -> Accounts:
    accounts = Accounts(Defaults(), (), required=True)
    accounts.apply(records, 0, unix_s)
    return accounts


def key(name: str = "key_1", **fields: float | bytes) -> KeyRecord:
    return KeyRecord(id=name, digest=name.encode().ljust(32), **fields)  # type: ignore[arg-type]


def test_the_end_of_a_key_is_told_once() -> None:
    accounts = accounts_with(key(expires_at=100.0), unix_s=50.0)
    assert [accounts.expire(at) for at in (60.0, 99.9, 100.0, 100.1, 200.0)] == [False, False, True, False, False]


@pytest.mark.parametrize("back_to", [99.0, 10.0])
def test_a_clock_that_was_set_back_ends_a_key_again(back_to: float) -> None:
    """In between it was good again, and heads were judged so."""
    accounts = accounts_with(key(expires_at=100.0), key("key_2", expires_at=500.0), unix_s=50.0)
    assert accounts.expire(101.0)
    accounts.expire(back_to)
    assert accounts.expire(100.5)
    accounts.expire(101.0)
    assert not accounts.expire(101.1)
    assert accounts.expire(500.0)


def test_a_clock_that_was_set_back_ends_a_key_again_at_the_very_same_moment() -> None:
    """The looks are a quarter of a second apart: between the last two of the time that comes twice it was judged good."""
    accounts = accounts_with(key(expires_at=100.0), unix_s=50.0)
    assert accounts.expire(100.0)
    accounts.expire(99.9)
    assert accounts.expire(100.0)
    assert not accounts.expire(100.1)


def test_a_rotated_digest_ends_for_good() -> None:
    accounts = accounts_with(key(previous_digest=b"old", previous_until=100.0), unix_s=50.0)
    assert accounts.find(b"old") is not None
    assert accounts.expire(100.0)
    assert accounts.find(b"old") is None
    accounts.expire(20.0)
    assert accounts.find(b"old") is None
    assert accounts.find(b"key_1".ljust(32)) is not None


# --- many keys
NAMES = ("key_a", "key_b", "key_c")
moments = st.integers(0, 12).map(float)
changes = st.tuples(
    st.sampled_from(NAMES), moments, st.booleans(), moments, st.booleans()
)  # which key, its end, whether it was rotated, the end of what it was before, whether it is deleted
clock = st.tuples(st.just("look"), moments)


class Plain:
    """What the register says, by a walk over all keys at each look."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.rotated: set[str] = set()  # whose text from before is still known
        self.before = 0.0

    def apply(self, record: KeyRecord, now: float) -> None:
        self.rotated.discard(record.id)
        self.records.pop(record.id, None)
        if not record.deleted:
            self.records[record.id] = record
            if record.previous_digest and record.previous_until > now:
                self.rotated.add(record.id)

    def expire(self, now: float) -> bool:
        """Whether something has ended since the look before."""
        before, self.before = self.before, now
        ended = False
        for name, record in self.records.items():
            ended |= before < record.expires_at <= now
            if name in self.rotated and record.previous_until <= now:
                ended = True
                self.rotated.discard(name)
        return ended


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(changes | clock, max_size=25))
def test_keys_end_as_a_walk_over_all_of_them_would_find(steps: list[tuple[object, ...]]) -> None:
    accounts, plain = Accounts(Defaults(), (), required=True), Plain()
    now = latest = 0.0
    back = False
    for step in steps:
        if step[0] == "look":
            now = float(step[1])  # type: ignore[arg-type]
            must, back = plain.expire(now), now < latest
            latest = max(latest, now)
            assert accounts.expire(now) or not must
        else:
            name, end, rotated, until, deleted = step
            old = (b"old " + str(name).encode(), until) if rotated else (b"", 0.0)
            fields = {"expires_at": end, "deleted": deleted, "previous_digest": old[0], "previous_until": old[1]}
            record = key(str(name), **fields)  # type: ignore[arg-type]
            plain.apply(record, now)
            accounts.apply([record], 0, now)
        for one in NAMES:
            assert (accounts.find(one.encode().ljust(32)) is not None) == (one in plain.records)
            known = accounts.find(b"old " + one.encode()) is not None
            assert known == (one in plain.rotated) or (known and back), (one, now)


def test_very_many_that_end_at_once_are_taken_in_turns() -> None:
    """What had been judged by them is void from the first look on."""
    count = 2 * account.MOST_ENDED + 7
    accounts = accounts_with(
        *(key(f"key_{number}", previous_digest=b"%d" % number, previous_until=100.0) for number in range(count)), unix_s=50.0
    )
    assert [accounts.expire(100.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not [number for number in range(count) if accounts.find(b"%d" % number) is not None]


def test_a_key_whose_end_is_moved_all_the_time_takes_no_more_memory() -> None:
    accounts = accounts_with(*(key(f"key_{number}", expires_at=1e9 + number) for number in range(100)), unix_s=50.0)
    tracemalloc.start()
    try:
        for number in range(3 * account.MOST_ENDED):
            accounts.apply([key("key_1", expires_at=1e9 - number)], 0, 50.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500 * account.MOST_ENDED
    assert accounts.expire(1e9 - 3 * account.MOST_ENDED + 1), "and it is told when it comes"


def test_a_change_of_one_key_costs_the_same_among_very_many() -> None:
    """A walk over all keys at each change is milliseconds of the loop."""

    def cost(count: int) -> float:
        accounts = accounts_with(*(key(f"key_{number}", expires_at=1e9 + number) for number in range(count)), unix_s=50.0)
        best = 1e9
        for number in range(200):
            record = key(f"key_{number}", expires_at=2e9 + number)
            begin = time.perf_counter()
            accounts.apply([record], 0, 50.0)
            accounts.expire(60.0 + number)
            best = min(best, time.perf_counter() - begin)
        return best

    assert cost(20_000) < 20 * cost(200)
