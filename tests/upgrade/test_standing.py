"""What limits hold, as rows: never more comes back than was taken, and nothing is there twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.limits.account import Account, Defaults
from fastgw.limits.ledger import Ledger
from fastgw.limits.meter import Meter, Meters
from fastgw.upgrade import words
from fastgw.upgrade.forward import Forward
from fastgw.upgrade.standing import Mirror, of_account, of_meter, put_address, put_meter
from fastgw.upgrade.words import HeldRow, MeterRow

MINUTE_US = 60_000_000
STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "hold", "charge"]), st.integers(0, 60), st.integers(0, 30_000_000)), max_size=12
)


@given(before=STEPS, after=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30_000_000)), max_size=6))
def test_a_meter_that_went_over_gives_no_more_than_it_would_have(before: Any, after: Any) -> None:
    """Whatever was taken, held and settled: it has at most as much left as the one that stayed, and at first as much."""
    own = Meter(100, MINUTE_US, 100)
    now, held = 1, []
    for what, cost, wait in before:
        now += wait
        if what == "charge":
            own.charge(now, cost)
        elif own.take(now, cost) and what == "hold":
            own.hold()
            held.append((now, cost))
    row = of_meter(own, now)
    other = Meter(100, MINUTE_US, 100)
    put_meter(other, msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=MeterRow | None), now)
    if held:
        assert other.past is not None, "something may come back there"
        other.past.open = len(held)
    assert other.left(now) == own.left(now)
    for (since, taken), (used, wait) in zip(held, after, strict=False):
        now += wait
        for meter in (own, other):
            meter.settle(now, since, taken, used)
        assert other.left(now) <= own.left(now)


def test_what_is_as_good_as_new_is_no_row() -> None:
    account = Account("key_1")
    account.set(Defaults(requests_per_minute=60, tokens_per_minute=60), None, 0)
    assert of_account(account, 0, True, last=True) is None
    assert account.requests is not None
    account.requests.take(0, 1)
    row = of_account(account, 0, True)
    assert row is not None
    assert (row.requests is not None, row.tokens) == (True, None)
    assert of_account(account, MINUTE_US, True) is None


def test_days_are_said_at_the_last_alone() -> None:
    """Until then the store may take them, and what it has then is more."""
    account = Account("key_1")
    account.ledger.settle(20_000, 0, 5, 6, False)
    assert of_account(account, 0, True) is None
    row = of_account(account, 0, True, last=True)
    assert row is not None
    assert [day[:4] for day in row.days] == [(20_000, 5, 6, 1)]


def test_what_ended_elsewhere_counts_as_what_ended_here() -> None:
    ledger, other = Ledger(0), Ledger(0)
    for prompt, completion, estimated in ((3, 4, False), (5, 6, True)):
        ledger.settle(20_000, 0, prompt, completion, estimated, 1, 2)
    other.add(20_000, 8, 10, 2, 11, 2, 4)
    counts = ("prompt", "completion", "requests", "estimated", "cached", "reasoning", "dirty")
    assert [getattr(other, name) for name in counts] == [getattr(ledger, name) for name in counts]


def test_addresses_are_taken_where_there_is_a_table() -> None:
    meters = Meters(10, 1_000_000, 10, 100)
    meters.get("192.0.2.1", 0).take(0, 4)
    row = of_meter(meters.get("192.0.2.1", 0), 0)
    assert row is not None
    other = Meters(10, 1_000_000, 10, 100)
    put_address(other, "192.0.2.1", row, 0)
    put_address(None, "192.0.2.1", row, 0)
    assert (other.names(), other.get("192.0.2.1", 0).left(0)) == (["192.0.2.1"], 6)


class _Core:
    """As much of a core as a mirror needs."""

    def __init__(self, account: Account) -> None:
        self.today = 20_000
        self.accounts = self
        self.scopes = self
        self.by_id = {account.id: account}.get
        self.budget_of = lambda name, tenants: None
        self.rooms = 0
        self.table = SimpleNamespace(pools=[])

    def room(self) -> None:
        self.rooms += 1


def test_what_another_holds_is_held_here_until_it_says_otherwise_or_goes() -> None:
    account = Account("key_1")
    account.set(Defaults(tokens_per_minute=100, daily_tokens=1000, concurrency=5), None, 0)
    account.inflight, account.ledger.reserved = 1, 10  # of this process's own
    core = _Core(account)
    mirror = Mirror(core)  # type: ignore[arg-type]
    mirror.take([HeldRow("key", "key_1", "", inflight=3, daily=300, open=2)], 0)
    mirror.take([HeldRow("key", "nobody", "", inflight=3)], 0)
    assert account.tokens is not None
    assert account.tokens.past is not None
    assert (account.inflight, account.ledger.reserved, account.tokens.past.open) == (4, 310, 2)
    mirror.take([HeldRow("key", "key_1", "", inflight=1, daily=100, open=1)], 0)
    assert (account.inflight, account.ledger.reserved, account.tokens.past.open) == (2, 110, 1)
    assert [row.name for row in mirror.rows()] == ["key_1"]
    mirror.end(0)
    assert (account.inflight, account.ledger.reserved, account.tokens.past.open, len(mirror)) == (1, 10, 0, 0)
    assert core.rooms == 4, "whoever waits is looked at"


def test_what_another_holds_at_an_engine_that_comes_later_is_held_there_and_wherever_its_name_goes() -> None:
    """A runner's, which dials in when the other process is the gateway no more."""
    account = Account("key_1")
    core = _Core(account)
    mirror = Mirror(core)  # type: ignore[arg-type]
    first, second = (SimpleNamespace(name="r1", inflight=own, light=0) for own in (1, 0))
    mirror.take([HeldRow("engine", "r1", "", inflight=3, light=1)], 0)
    for engine in (first, first, second):
        core.table.pools = [SimpleNamespace(engine=engine)]
        mirror.follow()
    assert (first.inflight, first.light, second.inflight, second.light) == (1, 0, 3, 1)
    core.table.pools = []
    mirror.take([HeldRow("engine", "r1", "", inflight=2)], 0)
    assert (second.inflight, second.light) == (2, 0)
    mirror.end(0)
    assert (second.inflight, len(mirror)) == (0, 0)


def test_a_session_that_goes_on_is_settled_by_what_its_rows_have_more() -> None:
    """Requests that have ended are told of one by one; of a key's rows that is taken off."""
    forward: Any = Forward.__new__(Forward)
    forward._counted = {"a": 30}
    rows = [("a", "", "m", 1, 10, 10, 1, 0, 0, 0, 0, 0), ("a", "", "m", 1, 15, 5, 1, 0, 0, 0, 0, 0), ("b", "", "m", 1, 1, 2, 1, 0, 0, 0, 0, 0)]  # fmt: skip  # noqa: E501
    assert [(one.key, one.used, one.taken) for one in forward._uncounted(rows)] == [("a", 10, 0), ("b", 3, 0)]
    assert forward._counted == {}


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", msgspec.msgpack.encode({"type": "other"}), msgspec.msgpack.encode({"type": "taken"}), b"\x80"]
)
def test_what_is_no_word_is_refused(frame: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        words.read(frame)
