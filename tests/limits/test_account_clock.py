"""Keys end by the wall clock, and that clock can be set: what has ended stays ended as the clock has it."""

from __future__ import annotations

import pytest

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
    assert not accounts.expire(101.0)
    assert accounts.expire(500.0)


def test_a_rotated_digest_ends_for_good() -> None:
    accounts = accounts_with(key(previous_digest=b"old", previous_until=100.0), unix_s=50.0)
    assert accounts.find(b"old") is not None
    assert accounts.expire(100.0)
    assert accounts.find(b"old") is None
    accounts.expire(20.0)
    assert accounts.find(b"old") is None
    assert accounts.find(b"key_1".ljust(32)) is not None
