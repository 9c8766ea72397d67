"""The naughty strings are what their head says: distinct, and each of them one valid JSON string."""

from __future__ import annotations

import json

import pytest

from tests.support.naughty import GROUPS, STRINGS, spellings


def test_there_are_many_and_none_comes_twice() -> None:
    assert len(STRINGS) >= 150
    assert len(set(STRINGS)) == len(STRINGS)
    assert all(GROUPS.values())


@pytest.mark.parametrize("name", STRINGS, ids=range(len(STRINGS)))
def test_every_spelling_says_the_same(name: str) -> None:
    for spelling in spellings(name):
        assert json.loads(spelling) == name
        assert b"\n" not in spelling
