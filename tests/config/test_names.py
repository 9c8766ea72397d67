"""The words that settings and code agree on: each list is its type, and a setting takes those and no other."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from fastgw import Config, ConfigErrors
from fastgw.config import names
from fastgw.config.table import BY_NAME
from fastgw.twins import Mode

CHOICES = {name: row.choices for name, row in BY_NAME.items() if row.kind == "choice"}


def test_each_choice_of_a_setting_is_one_of_these_types() -> None:
    types = {get_args(one) for one in (*vars(names).values(), Mode) if get_args(one)}
    assert [name for name, words in CHOICES.items() if words not in types] == []
    assert len(CHOICES) > 5


@pytest.mark.parametrize("name", CHOICES)
def test_a_setting_takes_its_words_and_no_other(name: str) -> None:
    for word in CHOICES[name]:
        assert getattr(Config(**{name: word}), name) == word
    wrong: Any = {name: "no such word"}
    with pytest.raises(ConfigErrors) as found:
        Config(**wrong)
    assert [one.name for one in found.value.errors] == [name]


def test_words_in_a_sentence() -> None:
    assert names.any_of(("a", "b", "c")) == "a, b or c"
    assert names.any_of(names.ON_CAPACITY) == "queue, reject or fallback"
