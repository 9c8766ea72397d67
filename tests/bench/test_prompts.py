"""Prompts: of the length that was asked for, by the seed, and no two with one beginning unless they are meant to."""

from __future__ import annotations

import time

import pytest

from fastgw.accel.tokens import estimate
from fastgw.bench.prompts import Prompts

pytestmark = pytest.mark.once


@pytest.mark.parametrize("tokens", [1, 7, 100, 100_000])
def test_so_many_tokens_by_the_estimate_of_the_house(tokens: int) -> None:
    prompts = Prompts(1)
    for number in range(5):
        text = prompts.text(tokens, number)
        assert estimate(len(text.encode())) == tokens
        assert text.isascii()


def test_the_same_for_a_seed_and_other_words_for_each_number() -> None:
    one, again, other = Prompts(1), Prompts(1), Prompts(2)
    texts = [one.text(200, number) for number in range(50)]
    assert texts == [again.text(200, number) for number in range(50)]
    assert texts != [other.text(200, number) for number in range(50)]
    # No cache of prefixes has 64 tokens of one from another.
    assert len({text[:256] for text in texts}) == 50


def test_what_is_shared_is_shared_and_nothing_behind_it() -> None:
    prompts = Prompts(1, shared_tokens=100)
    texts = [prompts.text(200, number) for number in range(20)]
    assert len({text[:400] for text in texts}) == 1
    assert len({text[400:] for text in texts}) == 20
    assert {len(text) for text in texts} == {800}
    assert prompts.text(50, 1) == texts[0][:200]


def test_a_long_prompt_keeps_the_load_waiting_for_no_time() -> None:
    prompts = Prompts(1)
    prompts.text(100_000, 0)
    began = time.process_time()
    for number in range(100):
        prompts.text(100_000, number)
    assert time.process_time() - began < 0.5
