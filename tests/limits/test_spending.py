"""What tokens cost is exact to the last billionth, and what was counted is handed out once, however much there is."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from fastgw.limits import spending
from fastgw.limits.spending import MOST_COST, MOST_OPEN, UNKNOWN, Books, Price

TOKENS = st.integers(0, 10**12)
PRICES = st.integers(0, 10**13)


def part(tokens: int, price: int) -> int:
    return min(ceil(Fraction(tokens * price, 1000)), MOST_COST)


@given(TOKENS, TOKENS, TOKENS, PRICES, PRICES, PRICES)
def test_each_part_is_rounded_up_and_ends_at_the_most(
    fresh: int, cached: int, completion: int, input_: int, at_hand: int, output: int
) -> None:
    cost = Price(input_, at_hand, output).cost(min(fresh + cached, 10**12), completion, min(cached, 10**12))
    prompt = min(fresh + cached, 10**12)
    exact = part(prompt - cached, input_) + part(cached, at_hand) + part(completion, output)
    assert cost == min(exact, MOST_COST)


@given(st.integers(-5, 4 * 10**18), st.integers(1, 10**13))
def test_so_many_tokens_can_be_paid_and_not_one_more(money: int, output: int) -> None:
    price = Price(0, 0, output)
    tokens = price.tokens(money)
    assert ceil(Fraction(tokens * output, 1000)) <= max(money, 0)
    assert money <= 0 or tokens == MOST_COST or Fraction((tokens + 1) * output, 1000) > money


def test_what_was_counted_is_handed_out_once() -> None:
    books = Books()
    books.follow({"m": Price(1000, 1000, 2000)}, {}, True)
    use = books.use("key", "lab", "m", 7)
    use.count(books.cost("m", 10, 5, 0), 10, 5, 0, 0, True)
    assert books.cost("n", 3, 4, 0) == UNKNOWN
    assert books.cost("n", 0, 0, 0) == 0, "nothing costs nothing, whatever its price"
    books.use("key", "lab", "n", 7).count(UNKNOWN, 3, 4, 0, 0, False)
    assert books.take(1) == [("key", "lab", "m", 7, 10, 5, 1, 15, 0, 0, 20, 0)]
    assert use.day < 0, "what comes later is counted anew"
    books.use("key", "lab", "m", 7).count(1, 1, 0, 0, 0, False)
    assert books.take(9) == [("key", "lab", "n", 7, 3, 4, 1, 0, 0, 0, 0, 7), ("key", "lab", "m", 7, 1, 0, 1, 0, 0, 0, 1, 0)]
    assert books.take(9) == []


def test_a_store_that_fails_for_long_costs_the_names_of_models_and_no_token() -> None:
    assert spending.MOST_OPEN == MOST_OPEN
    books = Books()
    for number in range(MOST_OPEN + 50):
        books.use("key", "", f"m{number}", 7).count(1, 1, 0, 0, 0, False)
    assert len(books) <= MOST_OPEN + 1
    rows = books.take(10**6)
    assert sum(row[6] for row in rows) == MOST_OPEN + 50
    assert next(row for row in rows if row[2] == "")[6] == 50


def test_what_was_counted_elsewhere_is_added_to_what_is_here_and_ends_at_the_most() -> None:
    here, there = Books(), Books()
    for books in (here, there):
        books.kept = True
        books.use("k", "t", "m", 1).count(MOST_COST - 1, 7, 5, 3, 2, True)
    [row] = there.take(10)
    here.use("k", "t", "m", 1).add(row)
    for _ in range(20):  # (twenty such are more than 64 bits have)
        here.use("k", "t", "m", 1).add((*row[:4], 0, 0, 0, 0, 0, 0, MOST_COST, 4))
    assert here.take(10) == [("k", "t", "m", 1, 14, 10, 2, 24, 6, 4, MOST_COST, 80)]
