"""Client certificates in the register of accounts: whose they are, and that no text of a key is ever one."""

from __future__ import annotations

from typing import Any

from fastgw.digests import certified
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.key import KeyRecord

ONE, OTHER = bytes(range(32)), bytes(range(1, 33))


def record(name: str, **fields: Any) -> KeyRecord:
    return KeyRecord(id=name, digest=name.encode().ljust(32), **fields)


def whose(accounts: Accounts, fingerprint: bytes) -> str:
    found = accounts.find_certificate(fingerprint)
    return found.id if found is not None else ""


def test_a_certificate_is_no_text_and_a_text_no_certificate() -> None:
    """Who knows a certificate, which is no secret, may not send what has its digest; nor is a text's digest a fingerprint."""
    accounts = Accounts(Defaults(), [certified(ONE)], required=True)
    accounts.apply([record("a", certificates=(OTHER.hex(),))], 0, 1.0)
    assert [accounts.find(one) for one in (ONE, OTHER)] == [None, None]
    assert whose(accounts, ONE) == ONE.hex()[:12]
    assert whose(accounts, OTHER) == "a"
    assert whose(accounts, b"a".ljust(32)) == ""


def test_it_goes_from_one_key_to_another_in_one_look() -> None:
    accounts = Accounts(Defaults(), (), required=True)
    accounts.apply([record("a", certificates=(ONE.hex(),))], 0, 1.0)
    # As the store tells it: each key as it is now, by its last change.
    accounts.apply([record("b", certificates=(ONE.hex(), OTHER.hex())), record("a", certificates=())], 0, 1.0)
    assert (whose(accounts, ONE), whose(accounts, OTHER)) == ("b", "b")
    accounts.apply([record("b", deleted=True)], 0, 1.0)
    assert (whose(accounts, ONE), whose(accounts, OTHER)) == ("", "")


def test_what_the_configuration_says_comes_back_when_the_store_has_it_no_more() -> None:
    accounts = Accounts(Defaults(), [certified(ONE)], required=True)
    accounts.apply([record("a", certificates=(ONE.hex(),), disabled=True)], 0, 1.0)
    found = accounts.find_certificate(ONE)
    assert found is not None
    assert found.disabled
    accounts.apply([record("a", deleted=True)], 0, 1.0)
    assert whose(accounts, ONE) == ONE.hex()[:12]
