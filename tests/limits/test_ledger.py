"""A day's ledger against plain dicts: reservations, days that step both ways, and what the store is told."""

from __future__ import annotations

import datetime
from itertools import permutations
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.limits.ledger import DAY_S, MAX_TOKENS, Ledger, Row, day_of, seconds_to_midnight
from tests.limits.reference import Counts, ReferenceLedger

TODAY = 20_777
# Midnight both ways, a year ahead and back, and a clock not set yet.
days = st.sampled_from([0, TODAY - 1, TODAY, TODAY, TODAY, TODAY + 1, TODAY + 365])
parts = st.integers(-1, 30)
tokens = st.one_of(st.integers(0, 12), st.integers(0, 2000))
limits = st.one_of(st.just(0), st.integers(1, 60), st.integers(1, 20_000))
operation = st.tuples(
    st.sampled_from(["reserve"] * 4 + ["settle"] * 4 + ["extend", "release", "left", "roll", "restore", "write", "flush"]),
    days, tokens, tokens, tokens, st.booleans(), parts, parts,
)  # fmt: skip


class Store:
    """What a writer keeps: the row of each day as it was last written."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[int, ...]] = {}

    def write(self, rows: list[Row]) -> None:
        for day, *totals, _ in rows:
            self.held[day] = tuple(totals)


@given(limits, st.lists(operation, max_size=80))
@example(
    10, [("reserve", TODAY, 10, 0, 0, False, -1, -1), ("settle", TODAY, 0, 10, 0, False, -1, -1),
         ("roll", TODAY + 365, 0, 0, 0, False, -1, -1), ("reserve", TODAY, 1, 0, 0, False, -1, -1)],
)  # fmt: skip
def test_every_answer_is_that_of_the_plain_ledger(
    limit: int, schedule: list[tuple[str, int, int, int, int, bool, int, int]]
) -> None:
    ledger, exact, store = Ledger(limit), ReferenceLedger(limit), Store()
    in_flight: list[int] = []
    taken: list[Row] = []
    marks: list[tuple[Counts, int]] = []
    for kind, day, cost, prompt, completion, estimated, cached, reasoning in schedule:
        if kind == "reserve":
            before = exact.reserved
            assert ledger.reserve(day, cost) is exact.reserve(day, cost)
            if exact.reserved != before or cost == 0:
                in_flight.append(exact.reserved - before)
        elif kind == "extend" and in_flight:
            got = ledger.extend(day, cost)
            assert got == exact.extend(day, cost)
            in_flight[-1] += got
        elif kind == "settle" and in_flight:
            reserved = in_flight.pop(cost % len(in_flight))
            ledger.settle(day, reserved, prompt, completion, estimated, cached, reasoning)
            exact.settle(day, reserved, prompt, completion, estimated, cached, reasoning)
        elif kind == "release" and in_flight:
            reserved = in_flight.pop(cost % len(in_flight))
            ledger.release(reserved)
            exact.reserved -= reserved
        elif kind == "left":
            assert ledger.left(day) == exact.left(day)
        elif kind == "roll":
            ledger.roll(day)
            exact.roll(day)
        elif kind == "restore":
            totals = (prompt, completion, cost, prompt, max(0, cached), max(0, reasoning))
            ledger.restore(day, *totals)
            exact.restore(day, *totals)
            store.held[day] = totals
            taken, marks = [], []  # whoever restores has no write under way
        elif kind == "write":
            taken = ledger.rows()
            marks = [(exact.known[row[0]], exact.known[row[0]].changes) for row in taken]
        elif kind == "flush":
            # What was taken some operations ago is only now in the store: what has changed since stays dirty.
            store.write(taken)
            for row in taken:
                ledger.clean(row[0], row[-1])
            for counts, changes in marks:
                if counts.changes == changes:
                    counts.written = changes
            if not ledger.dirty:
                for known, counts in exact.known.items():
                    if counts.touched:
                        assert store.held[known] == counts.totals
        counts = exact.today
        assert (ledger.day, ledger.reserved) == (exact.day, exact.reserved)
        assert (ledger.prompt, ledger.completion) == (counts.prompt, counts.completion)
        assert (ledger.requests, ledger.estimated) == (counts.requests, counts.estimated)
        assert (ledger.cached, ledger.reasoning) == (counts.cached, counts.reasoning)
        assert ledger.reserved == sum(in_flight)
        rows = ledger.rows()
        assert ledger.dirty is bool(rows)
        assert {row[0] for row in rows} <= {day for day, counts in exact.known.items() if counts.touched}
    store.write(ledger.rows())
    for known, counts in exact.known.items():
        if counts.touched:
            assert store.held[known] == counts.totals


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 200_000), st.sampled_from([0.0, 0.02, 0.5]))
def test_what_is_charged_is_what_was_used(seed: int, limit: int, steps: float) -> None:
    """Thousands of operations, hundreds of requests at a time; where the clock steps, over two days and both ways."""
    random = Random(seed)
    ledger = Ledger(limit)
    store: dict[int, Row] = {}
    flying: list[int] = []  # what each request under way has reserved
    used = dict.fromkeys((TODAY, TODAY + 1), 0)
    requests = dict.fromkeys(used, 0)
    day = TODAY
    # Reservations go along to a day that has been used already: then these alone may pass its limit.
    bound = limit
    for _ in range(2000):
        if random.random() < steps:
            day = 2 * TODAY + 1 - day
            bound = max(limit, used[day] + sum(flying))
        way = random.random()
        if way < 0.6:
            cost = random.randrange(0, 500)
            fits = used[day] + sum(flying) + cost <= limit
            assert ledger.reserve(day, cost) is fits
            if fits:
                flying.append(cost)
        elif flying:
            reserved = flying.pop(random.randrange(len(flying)))
            if way < 0.65:
                ledger.release(reserved)
            else:
                usage = random.randrange(0, reserved + 1)
                prompt = random.randrange(0, usage + 1)
                ledger.settle(day, reserved, prompt, usage - prompt, bool(usage & 1))
                used[day] += usage
                requests[day] += 1
        assert used[day] + sum(flying) <= bound
        if random.random() < 0.05:
            for row in ledger.rows():
                store[row[0]] = row
                ledger.clean(row[0], row[-1])
            assert not ledger.dirty
    for reserved in flying:
        ledger.release(reserved)
    assert ledger.reserved == 0
    for row in ledger.rows():
        store[row[0]] = row
    assert {day: row[1] + row[2] for day, row in store.items()} == {day: used[day] for day in used if requests[day]}
    assert {day: row[3] for day, row in store.items()} == {day: count for day, count in requests.items() if count}
    if not steps:
        assert used[TODAY] <= limit


def test_exactly_the_limit_and_one_more() -> None:
    ledger = Ledger(1000)
    assert not ledger.reserve(TODAY, 1001)
    assert ledger.reserve(TODAY, 999)
    assert ledger.left(TODAY) == 1
    assert not ledger.reserve(TODAY, 2)
    assert ledger.reserve(TODAY, 1)
    assert ledger.left(TODAY) == 0
    assert not ledger.reserve(TODAY, 1)
    assert ledger.reserve(TODAY, 0)


def test_a_thousand_at_once_get_exactly_the_limit() -> None:
    ledger = Ledger(10_007)
    admitted = sum(ledger.reserve(TODAY, 100) for _ in range(1000))
    assert admitted == 100
    for _ in range(admitted):
        ledger.settle(TODAY, 100, 60, 40, False)
    assert ledger.left(TODAY) == 7
    assert (ledger.prompt, ledger.completion, ledger.requests, ledger.reserved) == (6000, 4000, 100, 0)


def test_use_beyond_the_reservation_is_counted_and_never_shows_as_a_negative_rest() -> None:
    ledger = Ledger(100)
    assert ledger.reserve(TODAY, 100)
    ledger.settle(TODAY, 100, 80, 70, False)
    assert ledger.left(TODAY) == 0
    assert not ledger.reserve(TODAY, 0)
    assert ledger.extend(TODAY, 5) == 0
    assert ledger.prompt + ledger.completion == 150


def test_a_live_stream_gets_what_is_left() -> None:
    ledger = Ledger(100)
    assert ledger.reserve(TODAY, 90)
    assert ledger.extend(TODAY, 7) == 7
    assert ledger.extend(TODAY, 7) == 3
    assert ledger.extend(TODAY, 7) == 0
    ledger.settle(TODAY, 100, 10, 90, False)
    assert ledger.left(TODAY) == 0


def test_a_new_day_starts_anew_with_what_is_in_flight() -> None:
    ledger = Ledger(100)
    assert ledger.reserve(TODAY, 40)
    ledger.settle(TODAY, 40, 20, 20, False)
    assert ledger.reserve(TODAY, 30)
    assert ledger.left(TODAY + 1) == 70
    ledger.settle(TODAY + 1, 30, 5, 5, True)
    assert ledger.left(TODAY + 1) == 90
    assert ledger.estimated == 10
    assert ledger.left(TODAY) == 60
    assert ledger.estimated == 0


def test_a_clock_a_year_ahead_and_back_finds_the_day_as_it_was() -> None:
    ledger = Ledger(100)
    assert ledger.reserve(TODAY, 100)
    ledger.settle(TODAY, 100, 60, 40, False)
    # Days on which nothing is counted push nothing out, however many.
    for wrong in (TODAY + 365, 0, TODAY + 7, TODAY - 365):
        assert ledger.left(wrong) == 100
    assert ledger.left(TODAY) == 0
    assert ledger.requests == 1
    assert ledger.rows() == [(TODAY, 60, 40, 1, 0, 0, 0, ledger.rows()[0][-1])]


@pytest.mark.parametrize("wrong", list(permutations((TODAY - 7_000, TODAY + 1, TODAY + 365), 2)))
@pytest.mark.parametrize("written", [False, True])
def test_a_clock_that_passes_two_other_days_and_returns_finds_its_counts(wrong: tuple[int, int], written: bool) -> None:
    ledger = Ledger(100)
    assert ledger.reserve(TODAY, 100)
    ledger.settle(TODAY, 100, 60, 35, True, 50, 30)
    totals = (60, 35, 1, 95, 50, 30)
    for turn in range(3):  # there and back, again and again
        for day in wrong:
            ledger.settle(day, 0, 1, 1, False)
        if written:
            for row in ledger.rows():
                ledger.clean(row[0], row[-1])
            assert ledger.dirty is False
        assert ledger.left(TODAY) == 5
        assert (ledger.prompt, ledger.completion, ledger.requests, ledger.estimated, ledger.cached, ledger.reasoning) == totals
        assert not ledger.reserve(TODAY, 6)
        if not written:
            assert {row[0]: row[1:-1] for row in ledger.rows()} == {
                TODAY: totals, **dict.fromkeys(wrong, (turn + 1, turn + 1, turn + 1, 0, 0, 0)),
            }  # fmt: skip


def test_three_days_are_remembered_and_no_more() -> None:
    ledger = Ledger(100)
    for day in range(TODAY, TODAY + 4):
        assert ledger.reserve(day, 10)
        ledger.settle(day, 10, 10, 0, False)
    assert [row[0] for row in ledger.rows()] == [TODAY + 3, TODAY + 2, TODAY + 1]
    assert ledger.left(TODAY + 1) == 90
    assert ledger.left(TODAY) == 100


def test_a_day_that_the_store_has_is_forgotten_before_one_that_it_has_not() -> None:
    ledger = Ledger(100)
    ledger.settle(TODAY, 0, 1, 0, False)
    ledger.settle(TODAY + 1, 0, 2, 0, False)
    (_, row) = sorted(ledger.rows())
    ledger.clean(row[0], row[-1])
    for day in (TODAY + 2, TODAY + 3):
        ledger.settle(day, 0, 3, 0, False)
    assert {row[0] for row in ledger.rows()} == {TODAY, TODAY + 2, TODAY + 3}


@pytest.mark.parametrize("away", [False, True], ids=["at once", "on another day meanwhile"])
def test_what_the_store_has_of_a_day_is_added_to_what_was_used_meanwhile_and_once(away: bool) -> None:
    ledger = Ledger(1000)
    assert ledger.reserve(TODAY, 300)
    ledger.settle(TODAY, 300, 100, 5, True, 50, 3)
    if away:
        ledger.roll(TODAY + 1)
    ledger.begin(TODAY, 600, 200, 7, 10, 20, 30)
    assert ledger.left(TODAY) == 95
    totals = (TODAY, 700, 205, 8, 115, 70, 33)
    assert (ledger.prompt, ledger.completion, ledger.requests, ledger.estimated, ledger.cached, ledger.reasoning) == totals[1:]
    ledger.begin(TODAY, 600, 200, 7, 10, 20, 30)
    assert [row[:-1] for row in ledger.rows()] == [totals], "once"
    ledger.settle(TODAY + 1, 0, 9, 0, False)
    ledger.rows()
    for day in (TODAY, TODAY + 1):  # what was handed to the store is told by it
        ledger.begin(day, 700, 205, 8, 115, 70, 33)
    assert sorted(row[:-1] for row in ledger.rows()) == [totals, (TODAY + 1, 9, 0, 1, 0, 0, 0)]


def test_a_day_of_which_only_the_store_had_something_is_kept_and_is_not_written() -> None:
    ledger = Ledger(1000)
    ledger.roll(TODAY)
    ledger.begin(TODAY, 600, 200, 7, 0)
    assert (ledger.dirty, ledger.rows()) == (False, [])
    assert ledger.left(TODAY + 1) == 1000
    assert ledger.left(TODAY) == 200


def test_unlimited_counts_and_never_refuses() -> None:
    ledger = Ledger(0)
    assert ledger.left(TODAY) == -1
    assert ledger.reserve(TODAY, MAX_TOKENS)
    assert ledger.extend(TODAY, MAX_TOKENS) == MAX_TOKENS
    ledger.settle(TODAY, 2 * MAX_TOKENS, 3, 4, False)
    assert (ledger.prompt, ledger.completion, ledger.reserved) == (3, 4, 0)


@pytest.mark.parametrize("limit", [0, 1000])
def test_figures_out_of_range_neither_pay_nor_overflow(limit: int) -> None:
    ledger = Ledger(limit)
    assert ledger.reserve(TODAY, 10)
    ledger.settle(TODAY, 10, -5, -(1 << 62), False)
    assert (ledger.prompt, ledger.completion, ledger.requests) == (0, 0, 1)
    ledger.settle(TODAY, 10, 1 << 62, 1 << 62, True)
    assert (ledger.prompt, ledger.completion, ledger.estimated) == (MAX_TOKENS, MAX_TOKENS, 2 * MAX_TOKENS)
    ledger.settle(TODAY, 0, 10, 4, False, 1 << 62, 1 << 62)
    ledger.settle(TODAY, 0, 10, 4, False, -(1 << 62), -1)
    assert (ledger.cached, ledger.reasoning) == (10, 4), "a part is no greater than its whole"
    assert not ledger.reserve(TODAY, MAX_TOKENS + 1)
    ledger.release(1 << 62)
    assert ledger.reserved == 0
    for method in (ledger.reserve, ledger.extend):
        with pytest.raises(ValueError, match="negative"):
            method(TODAY, -1)


def test_a_restart_goes_on_where_the_store_left_off() -> None:
    ledger = Ledger(100)
    ledger.restore(TODAY - 1, 40, 50, 7, 3, 30, 20)
    ledger.restore(TODAY, 10, 20, 2, 0)
    assert ledger.dirty is False
    assert ledger.rows() == []
    assert ledger.left(TODAY) == 70
    assert ledger.left(TODAY - 1) == 10
    assert (ledger.prompt, ledger.completion, ledger.requests, ledger.estimated) == (40, 50, 7, 3)
    assert (ledger.cached, ledger.reasoning) == (30, 20)


def test_a_row_that_changed_while_it_was_written_is_written_again() -> None:
    ledger = Ledger(0)
    ledger.settle(TODAY, 0, 1, 2, False)
    (row,) = ledger.rows()
    assert row[:5] == (TODAY, 1, 2, 1, 0)
    ledger.settle(TODAY, 0, 1, 2, False)
    ledger.clean(row[0], row[-1])
    assert ledger.dirty is True
    (row,) = ledger.rows()
    assert row[:5] == (TODAY, 2, 4, 2, 0)
    ledger.clean(row[0], row[-1])
    assert ledger.dirty is False
    assert ledger.rows() == []


def test_the_last_second_of_a_day_is_written_after_midnight() -> None:
    ledger = Ledger(0)
    ledger.settle(TODAY, 0, 1, 2, False)
    ledger.roll(TODAY + 1)
    assert ledger.dirty is True
    (row,) = ledger.rows()
    assert row[:5] == (TODAY, 1, 2, 1, 0)
    ledger.clean(row[0], row[-1])
    assert ledger.dirty is False
    # Back over midnight: it is dirty again only by what is counted then.
    ledger.roll(TODAY)
    assert ledger.dirty is False
    ledger.settle(TODAY, 0, 0, 1, False)
    assert [row[:5] for row in ledger.rows()] == [(TODAY, 1, 3, 2, 0)]


def test_a_row_of_a_forgotten_day_cleans_nothing_of_the_new_one() -> None:
    ledger = Ledger(0)
    ledger.settle(TODAY, 0, 1, 0, False)
    (old,) = ledger.rows()
    for day in (TODAY + 1, TODAY + 2, TODAY + 3, TODAY):
        ledger.settle(day, 0, 1, 0, False)
    ledger.clean(old[0], old[-1])
    assert [row[0] for row in ledger.rows()] == [TODAY, TODAY + 3, TODAY + 2]


@given(st.floats(0, 4e9))
@example(0.0)
@example(86_399.999_999_999)
@example(86_400.0)
def test_midnight_is_that_of_the_calendar(unix_s: float) -> None:
    moment = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    wait = seconds_to_midnight(unix_s)
    assert 0 < wait <= DAY_S
    assert abs((day_of(unix_s) + 1) * DAY_S - unix_s - wait) < 1e-6
    if moment.timestamp() == unix_s:
        assert moment.toordinal() - datetime.date(1970, 1, 1).toordinal() == day_of(unix_s)


def test_before_the_epoch_days_count_down() -> None:
    assert day_of(-1.0) == -1
    assert seconds_to_midnight(-1.0) == 1.0
    assert seconds_to_midnight(-1e-20) == DAY_S
