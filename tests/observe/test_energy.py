"""Joules shared out by tokens: to the last millijoule, whatever machines, counters and requests do."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.observe import energy as module
from fastgw.observe.energy import FORGET_S, MOST_WATTS, SILENT_S, SLACK_S, Energy, split

ALL: dict[str, Collection[str] | None] = {"e": None}


class Story:
    """What happens to the machine ``m``, whose engine ``e`` has all of its GPUs, five seconds between two reports."""

    def __init__(self) -> None:
        self.energy = Energy()
        self.now = 1000.0

    def told(
        self, *, engines: Mapping[str, Collection[str] | None] = ALL, busy: Collection[str] = (), by: str = "m",
        after: float = 5.0, **totals: int,
    ) -> None:  # fmt: skip
        self.now += after
        self.energy.told(by, totals, engines, busy, self.now)

    def found(self) -> dict[str, int]:
        there = {"idle": self.energy.idle, "unshared": self.energy.unshared, "held": self.energy.held, **self.energy.models}
        return {name: drawn for name, drawn in there.items() if drawn}


@pytest.fixture
def story() -> Story:
    made = Story()
    made.told(g0=1000)
    return made


def test_what_is_drawn_while_nobody_asks_is_idle_and_what_was_drawn_before_is_nobodys(story: Story) -> None:
    assert story.found() == {}
    story.told(g0=4000)
    assert story.found() == {"idle": 3000}


def test_a_token_of_the_answer_weighs_five_of_the_prompt_by_model_and_by_caller(story: Story) -> None:
    story.energy.used("e", "a", "key-1", 100, 0)
    story.energy.used("e", "b", "", 0, 20)
    story.energy.used("e", "b", "key-2", 100, 20)
    story.energy.used("another", "c", "key-3", 1000, 1000)
    story.told(g0=1000 + 4001)
    assert story.found() == {"a": 1000, "b": 3001}
    assert story.energy.callers == {"key-1": 1000, "": 1000, "key-2": 2001}


def test_models_that_have_no_label_any_more_are_others_together_and_nothing_is_lost(story: Story) -> None:
    """Also what they have made since the last report."""
    story.energy.used("e", "gone", "", 0, 20)
    story.energy.used("e", "kept", "", 0, 20)
    story.told(g0=3000)
    for model in ("gone", "kept", "gone, too"):
        story.energy.used("e", model, "", 0, 20)
    story.energy.fold({"kept", "other"}, "other")
    assert story.found() == {"kept": 1000, "other": 1000}
    story.told(g0=6000)
    assert story.found() == {"kept": 2000, "other": 3000}


def test_what_requests_under_way_draw_is_held_for_the_tokens_they_come_to(story: Story) -> None:
    story.told(g0=2000, busy=["e"])
    story.told(g0=5000, busy=["e"])
    assert story.found() == {"held": 4000}
    story.energy.used("e", "a", "", 1, 1)
    story.told(g0=5500, busy=["e"])
    assert story.found() == {"a": 4500}
    story.told(g0=6000)  # (what was under way has ended meanwhile, without a token)
    assert story.found() == {"a": 4500, "unshared": 500}
    story.told(g0=6100)
    assert story.found() == {"a": 4500, "unshared": 500, "idle": 100}


def test_a_report_that_says_the_same_takes_no_tokens_with_it(story: Story) -> None:
    story.energy.used("e", "a", "", 1, 1)
    story.told(g0=1000)
    story.told(g0=1700)
    assert story.found() == {"a": 700}


def test_each_gpu_is_shared_by_the_engines_that_have_it() -> None:
    story = Story()
    has: dict[str, Collection[str] | None] = {"e": {"g0"}, "f": {"g0", "g1"}}
    story.told(engines=has, g0=0, g1=0, g2=0)
    story.energy.used("e", "a", "", 0, 3)
    story.energy.used("f", "b", "", 0, 1)
    story.told(engines=has, g0=4000, g1=500, g2=9999)
    assert story.found() == {"a": 3000, "b": 1000 + 500}, "the third is no engine's"
    assert story.energy.gpus == 2


@pytest.mark.parametrize(
    ("before", "after", "seconds", "drawn"),
    [
        pytest.param(9000, 700, 5.0, 700, id="a counter that begins anew has drawn what it says"),
        pytest.param(9000, 9000 + 300_000, 60.0, 300_000, id="a runner that was away has drawn all the same"),
        pytest.param(0, int(MOST_WATTS * 1000 * (5 + SLACK_S)) + 1, 5.0, 0, id="more than a GPU can draw is another counter"),
        pytest.param(10**15, 10**14, 5.0, 0, id="and so is one that has begun anew with as much"),
        pytest.param(0, 50_000, -3600.0, 0, id="a clock that went back gives nothing to go by"),
    ],
)
def test_counters_begin_anew_and_jump_and_what_is_counted_never_falls(
    before: int, after: int, seconds: float, drawn: int
) -> None:
    story = Story()
    story.told(g0=before)
    story.told(g0=after, after=seconds)
    assert story.energy.idle == drawn
    story.told(g0=after + 100, after=5.0)
    assert story.energy.idle == drawn + 100


def test_a_gpu_that_two_report_is_read_once_and_shared_by_the_engines_of_both() -> None:
    story = Story()
    story.told(g0=0)
    story.told(by="n", engines={"f": None}, g0=10, after=0.0)
    story.told(g0=100)  # (from now on it is known that f has it as well)
    assert story.found() == {"idle": 100}
    story.energy.used("e", "a", "", 0, 1)
    story.energy.used("f", "b", "", 0, 3)
    story.told(by="n", engines={"f": None}, g0=250, after=1.0)
    story.told(g0=500)
    assert story.found() == {"idle": 100, "a": 100, "b": 300}
    # The one that read it has gone: the other reads on where that ended.
    story.told(by="n", engines={"f": None}, g0=800, after=SILENT_S)
    assert story.found() == {"idle": 400, "a": 100, "b": 300}
    # ... and what was made while neither read has what was drawn meanwhile.
    story.told(g0=810, after=1.0)
    story.told(by="n", engines={"f": None}, g0=820, after=1.0)
    story.energy.used("e", "a", "", 0, 1)
    story.told(g0=850, after=SILENT_S / 2)
    story.told(g0=900, after=SILENT_S / 2)
    assert story.found() == {"idle": 420, "a": 180, "b": 300}


def test_what_is_not_heard_of_is_forgotten_and_what_it_held_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GPUS", 2)
    story = Story()
    story.told(g0=0, g1=0, g2=0, busy=["e"])
    story.told(g0=10, g1=10, g2=10, busy=["e"])
    assert (story.energy.gpus, story.energy.held) == (2, 20), "there is a bound"
    story.energy.forget(story.now + FORGET_S)
    assert (story.energy.gpus, story.found()) == (0, {"unshared": 20})
    story.energy.used("e", "a", "", 1, 1)
    story.told(g0=5000)
    story.told(g0=5001)
    assert story.found() == {"unshared": 20, "idle": 1}, "it begins anew"


@given(
    st.lists(
        st.tuples(
            st.sampled_from("mn"), st.integers(0, 200_000), st.integers(0, 50), st.integers(0, 50),
            st.sets(st.sampled_from("ef")), st.sampled_from([0.0, 5.0, SILENT_S]),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_all_that_was_reported_is_somewhere_once(story: list[tuple[str, int, int, int, set[str], float]]) -> None:
    """Two runners of one machine, with one GPU that both see and one each: a counter goes on whoever reads it."""
    energy = Energy()
    now, totals = 0.0, {"both": 7, "m": 5, "n": 3}
    for by in "mn":
        energy.told(by, {"both": totals["both"], by: totals[by]}, {"e" if by == "m" else "f": None}, (), now)
    last: dict[str, int] = {}
    for by, drawn, prompt, generated, busy, seconds in story:
        now += min(seconds, FORGET_S)
        energy.used("e" if by == "m" else "f", f"model-{by}", f"key-{by}", prompt, generated)
        for name in totals:
            totals[name] += drawn % 50_000
        energy.told(by, {"both": totals["both"], by: totals[by]}, {"e" if by == "m" else "f": None}, busy, now)
        there = {"idle": energy.idle, "unshared": energy.unshared, **energy.models}
        assert all(there[name] >= value for name, value in last.items()), "it never falls"
        last = there
        reported = sum(gpu.total for gpu in energy._gpus.values()) - 15
        assert sum(there.values()) + energy.held == reported
        assert sum(energy.callers.values()) == sum(energy.models.values())


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=20).filter(any))
def test_a_split_is_whole(amount: int, weights: list[int]) -> None:
    parts = dict(split(amount, {str(at): weight for at, weight in enumerate(weights)}))
    assert sum(parts.values()) == amount
    for at, weight in enumerate(weights):
        assert abs(parts[str(at)] - amount * weight / sum(weights)) <= 1 + amount / 2**50
