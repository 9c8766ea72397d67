"""The breaker: five failures open it, one probe at a time tries the engine, and only the probe's verdict counts then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.limits.breaker import CLOSED, HALF_OPEN, NO, OPEN, PROBE, YES, Breaker
from tests.limits.reference_breaker import History
from tests.support.twins import python_twin


def opened(threshold: int = 5, recovery_s: float = 30.0, now: float = 100.0, chance: float = 0.0) -> Breaker:
    breaker = Breaker(threshold, recovery_s)
    for _ in range(threshold):
        assert breaker.admit(now) == YES
        breaker.failed(now, chance, False)
    assert breaker.state == OPEN
    return breaker


def test_the_fifth_failure_in_a_row_opens_it_and_then_nothing_passes() -> None:
    breaker = Breaker(5, 30.0)
    for _ in range(4):
        breaker.failed(100.0, 0.0, False)
        assert breaker.admit(100.0) == YES
    breaker.failed(100.0, 0.0, False)
    assert (breaker.state, breaker.opened_total, breaker.until) == (OPEN, 1, 130.0)
    assert [breaker.admit(now) for now in (100.0, 115.0, 129.99)] == [NO] * 3
    assert (breaker.wait_s(100.0), breaker.wait_s(129.5)) == (30.0, 0.5)


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(3, 30.0)
    for _ in range(10):
        breaker.failed(1.0, 0.0, False)
        breaker.failed(1.0, 0.0, False)
        breaker.succeeded(False)
    assert (breaker.state, breaker.failures) == (CLOSED, 0)


def test_after_the_recovery_one_request_goes_as_the_probe_and_closes_it() -> None:
    breaker = opened()
    assert breaker.wait_s(130.0) == 0.0
    assert (breaker.may(130.0), breaker.may(130.0)) == (PROBE, PROBE)
    assert breaker.admit(130.0) == PROBE
    assert breaker.state == HALF_OPEN
    assert [breaker.admit(130.0 + wait) for wait in (0.0, 1.0, 3600.0)] == [NO] * 3
    assert breaker.wait_s(131.0) > 0.0
    breaker.succeeded(True)
    assert (breaker.state, breaker.failures, breaker.admit(131.0), breaker.wait_s(131.0)) == (CLOSED, 0, YES, 0.0)


def test_a_probe_that_fails_shuts_it_for_another_recovery() -> None:
    breaker = opened()
    assert breaker.admit(140.0) == PROBE
    breaker.failed(145.0, 0.0, True)
    assert (breaker.state, breaker.until, breaker.opened_total) == (OPEN, 175.0, 2)
    assert breaker.admit(174.9) == NO
    assert breaker.admit(175.0) == PROBE


def test_a_probe_whose_client_left_frees_the_place_at_once() -> None:
    breaker = opened()
    assert breaker.admit(130.0) == PROBE
    breaker.released(True)
    assert (breaker.state, breaker.wait_s(130.0)) == (HALF_OPEN, 0.0)
    assert breaker.admit(130.0) == PROBE
    assert breaker.admit(130.0) == NO


def test_late_verdicts_of_requests_from_before_move_nothing() -> None:
    breaker = opened()
    breaker.succeeded(False)
    breaker.failed(120.0, 0.9, False)
    breaker.released(False)
    assert (breaker.state, breaker.until, breaker.opened_total) == (OPEN, 130.0, 1)
    assert breaker.admit(131.0) == PROBE
    breaker.succeeded(False)
    breaker.failed(132.0, 0.9, False)
    breaker.released(False)
    assert (breaker.state, breaker.probing, breaker.admit(132.0)) == (HALF_OPEN, True, NO)


def test_gateways_that_saw_it_die_together_do_not_probe_together() -> None:
    ends = [opened(chance=chance).until for chance in (0.0, 0.5, 0.999)]
    assert ends == pytest.approx([130.0, 133.0, 135.994])


def test_a_threshold_of_nothing_never_opens() -> None:
    breaker = Breaker(0, 30.0)
    for _ in range(1000):
        breaker.failed(1.0, 0.0, False)
    assert (breaker.state, breaker.admit(1.0), breaker.opened_total) == (CLOSED, YES, 0)


@pytest.mark.parametrize("probing", [False, True])
def test_one_that_is_open_closes_when_none_is_to_open_any_more(probing: bool) -> None:
    breaker = opened(2, now=100.0)
    if probing:
        assert breaker.admit(140.0) == PROBE
    breaker.change(0, 30.0)
    assert (breaker.state, breaker.admit(101.0), breaker.admit(101.0)) == (CLOSED, YES, YES)
    breaker.failed(141.0, 0.0, probing)  # (the probe's verdict)
    assert breaker.state == CLOSED
    breaker.change(3, 30.0)
    breaker.failed(142.0, 0.0, False)
    assert breaker.state == CLOSED, "what was counted before has been forgotten"


def test_one_failure_is_enough_where_it_is_told_so_and_no_recovery_means_at_once() -> None:
    breaker = Breaker(1, 0.0)
    breaker.failed(5.0, 0.7, False)
    assert breaker.state == OPEN
    assert breaker.admit(5.0) == PROBE


@pytest.mark.parametrize(("threshold", "recovery_s"), [(-1, 1.0), (1, -0.1), (1, float("nan"))])
def test_settings_that_make_no_sense_are_refused(threshold: int, recovery_s: float) -> None:
    with pytest.raises(ValueError, match="not negative"):
        Breaker(threshold, recovery_s)


def test_it_says_what_it_is() -> None:
    breaker = opened(2)
    assert repr(breaker) == "<Breaker open failures=2>"
    breaker.admit(200.0)
    assert repr(breaker) == "<Breaker half-open probing failures=2>"


def test_a_step_that_there_is_not_is_a_mistake_of_this_program() -> None:
    made: Any = python_twin("fastgw.limits.breaker").Breaker(5, 30.0)
    for state in (CLOSED, HALF_OPEN):
        with pytest.raises(RuntimeError, match="does not go from closed"):
            made._set_state(state)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("ask", "ask", "ok", "bad", "bad", "none", "hear")),
        st.integers(0, 7),  # whose verdict falls
        st.integers(0, 12),  # seconds that pass before
        st.integers(0, 3),  # chance, in quarters
        st.tuples(st.sampled_from(("", "a", "a", "b")), st.sampled_from(("", "", "m", "n"))),
    ),
    max_size=60,
)


@given(threshold=st.integers(0, 4), recovery_s=st.sampled_from((0.0, 10.0, 20.0)), steps=STEPS)
def test_it_answers_as_its_own_history_does(
    threshold: int, recovery_s: float, steps: list[tuple[str, int, int, int, tuple[str, str]]]
) -> None:
    breaker, history = Breaker(threshold, recovery_s), History(threshold, recovery_s)
    now = 1000.0
    out: list[bool] = []  # requests under way: were they admitted as a probe?
    for what, whose, later, quarter, told in steps:
        now += later
        chance = quarter / 4
        if what == "ask":
            answer = breaker.admit(now)
            assert answer == history.may(now)
            history.told("asked", answer == PROBE, now, 0.0)
            if answer:
                out.append(answer == PROBE)
        elif what == "hear":
            heard = history.heard(*told)
            assert breaker.hears(*told) == heard
            if heard:
                history.told("heard", False, now, 0.0)
                out = [False] * len(out)  # (a probe that is out is none any more)
        elif out:
            probe = out.pop(whose % len(out))
            if what == "ok":
                breaker.succeeded(probe)
            elif what == "bad":
                breaker.failed(now, chance, probe, told)
            else:
                breaker.released(probe)
            history.told(what, probe, now, chance, told)
        assert sum(out) <= 1
        assert breaker.may(now) == history.may(now)
        assert breaker.opened_total == len(history.openings())
        assert (breaker.state == CLOSED, breaker.state == HALF_OPEN) == (history.closed(), history.half_open())
        if breaker.state == OPEN:
            assert breaker.until == pytest.approx(history.openings()[-1][1])
            assert breaker.may(now + breaker.wait_s(now) + 1e-6) == PROBE
