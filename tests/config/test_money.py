"""Amounts and prices are read exactly, or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.money import BILLION, MOST_AMOUNT, MOST_PRICE, amount, price, written


@given(st.integers(0, MOST_AMOUNT))
def test_what_is_written_is_read_again(billionths: int) -> None:
    text = written(billionths)
    assert amount(text) == billionths
    assert Fraction(text) == Fraction(billionths, BILLION)
    assert not ("." in text and text.endswith("0")), "no digit more than it takes"


def test_the_largest_and_the_least_are_whole() -> None:
    assert amount("1000000000") == MOST_AMOUNT
    assert amount("0.000000001") == 1
    assert price("10000000") == MOST_PRICE
    assert (price("0.0375"), price("0.000001")) == (37_500, 1)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", ".5", "5.", "1,5", " 1", "1 ", "0x1", "nan", "\u0661", "1000000000.000000001"]
)
def test_whatever_else_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        amount(text)


@pytest.mark.parametrize("text", ["0.0000001", "10000000.000001", "1.0000000"])
def test_a_price_has_six_digits_behind_the_point(text: str) -> None:
    with pytest.raises(ValueError, match="price"):
        price(text)
