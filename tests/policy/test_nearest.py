"""What a client may have meant by a name that nobody serves."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import RouteConfig
from fastgw.policy.nearest import MOST_CHARS, MOST_NAMES, distance, nearest
from fastgw.upstream.fleet import deploy
from fastgw.upstream.table import UpstreamTable
from tests.upstream.test_table import place

MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "qwen2.5-7b", "qwen2.5-72b", "gpt-4o", "Mistral-7B")


def close(asked: str, *, models: tuple[str, ...] = MODELS, allowed: frozenset[str] | None = None) -> list[str]:
    return nearest(UpstreamTable([place(1, models=models)]), asked, "", allowed)


@pytest.mark.parametrize(("asked", "first"), [
    ("GPT-4O", "gpt-4o"), ("gpt4o", "gpt-4o"), ("gtp-4o", "gpt-4o"), ("llama-3.1-8b-instruct", MODELS[0]),
    ("mistral-7b", "Mistral-7B"), ("other/qwen2.5-7b", "qwen2.5-7b"), ("llama-3.1-8b", MODELS[0]),
    ("qwen2.5-7b-chat", "qwen2.5-7b"),
])  # fmt: skip
def test_slips_other_cases_and_parts_are_found(asked: str, first: str) -> None:
    assert close(asked)[0] == first


@pytest.mark.parametrize("asked", ["", "x", "claude-sonnet", "g" * (MOST_CHARS + 1), "\u0000"])
def test_what_is_like_nothing_gets_nothing(asked: str) -> None:
    assert close(asked) == []


def test_none_that_the_key_may_not_use() -> None:
    assert close("gpt4o", allowed=frozenset({"qwen2.5-7b"})) == []
    assert close("qwen2.5-7", allowed=frozenset({"qwen2.5-7b"})) == ["qwen2.5-7b"]


def test_aliases_and_virtual_models_too() -> None:
    routes = RouteConfig(model="gpt-4o", aliases=["chatty"]), RouteConfig(model="class:fast", models=["gpt-4o"])
    table = UpstreamTable([place(1, models=MODELS)], None, routes, deploy)
    assert nearest(table, "chaty", "", None) == ["chatty"]
    assert nearest(table, "class:fsat", "", None) == ["class:fast"]


def test_many_long_names_take_no_long_time() -> None:
    models = tuple(f"organisation/model-{number:05d}-" + "x" * 60 for number in range(80 * MOST_NAMES))
    route = RouteConfig(model=models[0], aliases=["first"])
    for table in (UpstreamTable([place(1, models=models)]), UpstreamTable([place(1, models=models)], None, (route,), deploy)):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            nearest(table, "organisation/model-01x05-" + "x" * 60, "", None)
            times.append(time.perf_counter() - begun)
        assert min(times) < 0.02


def plain(one: str, other: str) -> int:
    """The textbook's, whole."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for at in range(len(one) + 1):
        rows[at][0] = at
    for at in range(len(other) + 1):
        rows[0][at] = at
    for row in range(1, len(one) + 1):
        for at in range(1, len(other) + 1):
            best = min(rows[row - 1][at] + 1, rows[row][at - 1] + 1, rows[row - 1][at - 1] + (one[row - 1] != other[at - 1]))
            if row > 1 and at > 1 and one[row - 1] == other[at - 2] and one[row - 2] == other[at - 1]:
                best = min(best, rows[row - 2][at - 2] + 1)
            rows[row][at] = best
    return rows[-1][-1]


@given(st.text("abc-", max_size=9), st.text("abc-", max_size=9), st.integers(0, 5))
def test_the_distance_is_the_textbook_s_as_far_as_it_counts(one: str, other: str, most: int) -> None:
    whole = plain(one, other)
    assert min(distance(one, other, most), most + 1) == min(whole, most + 1)


