"""The plan over everything that it can be asked, and the sentences of its page as answers."""

from __future__ import annotations

from itertools import product

import pytest

from fastgw.exchange.plan import (
    MOST_PASSES,
    MOST_REFUSALS,
    NONE_YET,
    PASSES_S,
    REFUSALS,
    Failure,
    Rules,
    Step,
    Tries,
    after,
    later,
)

FLAGS = ("reused", "begun", "at_hand", "others", "replay", "replayed", "retry_fresh")
CONNECT = (Failure.CONNECT, Failure.CONNECT_TIMEOUT, Failure.FULL, Failure.TURNED_AWAY)
QUESTIONS = [
    (failure, dict(zip(FLAGS, flags, strict=True)), retries, kills)
    for failure, retries, kills, *flags in product(Failure, (0, 1, 2), (0, 1, 2), *[(False, True)] * len(FLAGS))
]


def asked(failure: Failure, facts: dict[str, bool], retries: int, kills: int) -> Step:
    rules = Rules(replay=facts["replay"], retry_fresh=facts["retry_fresh"], max_retries=2, quarantine_after=2)
    tries = Tries((), facts["replayed"], retries, kills)
    reused, begun, at_hand, others = (facts[name] for name in ("reused", "begun", "at_hand", "others"))
    return after(failure, rules, tries, 0.0, reused=reused, begun=begun, at_hand=at_hand, others=others)


def test_nothing_is_repeated_after_a_response_byte_or_without_its_body() -> None:
    for failure, facts, retries, kills in QUESTIONS:
        if facts["begun"] or not facts["at_hand"]:
            assert asked(failure, facts, retries, kills) is Step.FAIL


def test_what_was_never_sent_goes_to_the_next_engine_at_once() -> None:
    for failure, facts, retries, kills in QUESTIONS:
        if failure in CONNECT and not facts["begun"] and facts["at_hand"]:
            assert asked(failure, facts, retries, kills) is (Step.NEXT if facts["others"] else Step.FAIL)
        elif failure not in (*CONNECT, *REFUSALS.values()):
            assert asked(failure, facts, retries, kills) is not Step.NEXT


def test_what_an_engine_that_may_be_gone_at_any_moment_has_lost_goes_elsewhere_under_every_policy() -> None:
    for failure, facts, retries, kills in QUESTIONS:
        rules = Rules(replay=facts["replay"], retry_fresh=facts["retry_fresh"], max_retries=0, quarantine_after=2)
        step = after(
            failure, rules, Tries((), facts["replayed"], retries, kills), 0.0, reused=facts["reused"], begun=facts["begun"],
            at_hand=facts["at_hand"], others=facts["others"], fleeting=True,
        )  # fmt: skip
        if facts["begun"] or not facts["at_hand"]:
            assert step is Step.FAIL
        elif failure is Failure.LOST and facts["others"]:
            assert step is (Step.BAR if kills >= 2 else Step.NEXT)
        elif failure is Failure.SILENT:
            assert step is Step.FAIL


def test_what_an_engine_did_not_look_at_is_asked_again_and_not_for_ever() -> None:
    """RFC 9113 §8.7: whatever the settings of replays say."""
    rules = Rules(replay=False, retry_fresh=False, max_retries=0, quarantine_after=0)
    tries = NONE_YET
    for nth in range(MOST_REFUSALS):
        tries = tries.refusal()
        for others in (False, True):
            step = after(Failure.REFUSED, rules, tries, 0.0, reused=False, begun=False, at_hand=True, others=others)
            assert step is (Step.NEXT if nth and others else Step.AGAIN)
    tries = tries.refusal()
    for others in (False, True):
        step = after(Failure.REFUSED, rules, tries, 0.0, reused=False, begun=False, at_hand=True, others=others)
        assert step is (Step.NEXT if others else Step.FAIL)


@pytest.mark.parametrize("others", [False, True])
def test_what_is_wanted_in_http1_is_asked_so_of_the_same_engine_and_not_for_ever(others: bool) -> None:
    rules = Rules(replay=False, retry_fresh=False, max_retries=0, quarantine_after=0)
    tries = NONE_YET
    steps = []
    for _ in range(MOST_REFUSALS + 1):
        tries = tries.refusal()
        steps.append(
            after(Failure.WANTS_HTTP1, rules, tries, 0.0, reused=False, begun=False, at_hand=True, others=others)
        )  # fmt: skip
    assert steps == [Step.AGAIN] * MOST_REFUSALS + [Step.NEXT if others else Step.FAIL]


def passed_over(failure: Failure, times: int, waited_s: float, others: bool, moves: bool = False) -> Step:
    rules = Rules(replay=False, retry_fresh=False, max_retries=0, quarantine_after=0)
    tries = NONE_YET
    for _ in range(times):
        tries = tries.refusal() if failure is Failure.REFUSED else tries.passed(7.0)
    return after(
        failure, rules, tries, 7.0 + waited_s, reused=False, begun=False, at_hand=True, others=others, moves=moves,
    )  # fmt: skip


@pytest.mark.parametrize(("failure", "times", "waited_s", "others", "step"), [
    (Failure.LEFT_OVER, 1, 0.0, True, Step.AGAIN),
    (Failure.LEFT_OVER, MOST_PASSES, 0.0, True, Step.AGAIN),
    (Failure.LEFT_OVER, MOST_PASSES + 1, 0.0, True, Step.NEXT),
    (Failure.LEFT_OVER, MOST_PASSES + 1, 0.0, False, Step.FAIL),
    (Failure.LEFT_OVER, 2, PASSES_S, False, Step.FAIL),
    (Failure.CROWDED_OUT, 1, 0.0, True, Step.AGAIN),
    (Failure.CROWDED_OUT, 2, 0.0, True, Step.NEXT),
    (Failure.CROWDED_OUT, MOST_PASSES, 0.0, False, Step.AGAIN),
    (Failure.CROWDED_OUT, MOST_PASSES + 1, 0.0, False, Step.FAIL),
    (Failure.CROWDED_OUT, 2, PASSES_S, False, Step.FAIL),
])  # fmt: skip
def test_what_is_passed_over_is_asked_again_while_others_are_taken(
    failure: Failure, times: int, waited_s: float, others: bool, step: Step
) -> None:
    """An engine that is full is left to another; one whose connections have an end is not."""
    assert passed_over(failure, times, waited_s, others) is step


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.CROWDED_OUT])
def test_whoever_may_go_to_another_model_is_not_kept_waiting_by_who_does_not_take_him(failure: Failure) -> None:
    steps = [passed_over(failure, times, 0.0, False, True) for times in (1, 2)]
    assert steps == [Step.AGAIN, Step.FAIL]


def test_the_same_engine_is_asked_again_only_after_a_reused_connection_died_and_only_once() -> None:
    for failure, facts, retries, kills in QUESTIONS:
        if failure in REFUSALS.values():
            continue
        free = failure is Failure.LOST and facts["reused"] and facts["replay"] and not facts["replayed"]
        again = asked(failure, facts, retries, kills) is Step.AGAIN
        assert again == (free and facts["at_hand"] and not facts["begun"])


def test_what_may_have_been_acted_on_is_repeated_by_policy_alone_and_so_often_as_it_says() -> None:
    for failure, facts, retries, kills in QUESTIONS:
        step = asked(failure, facts, retries, kills)
        if step in (Step.LATER, Step.BAR):
            assert facts["retry_fresh"]
            assert facts["others"]
            assert retries < 2
            assert (step is Step.BAR) == (kills >= 2)
        if failure is Failure.SILENT and not facts["retry_fresh"]:
            assert step is Step.FAIL


def test_a_replay_that_finds_no_connection_may_go_to_another_engine_whatever_the_policy_of_fresh_ones() -> None:
    rules = Rules(replay=True, retry_fresh=False, max_retries=1, quarantine_after=0)
    assert later(rules, NONE_YET, True) is Step.LATER
    assert later(rules, NONE_YET, False) is Step.FAIL
    assert later(rules, NONE_YET.retried(), True) is Step.FAIL


def test_tries_never_change() -> None:
    for more in (NONE_YET.again(), NONE_YET.retried(), NONE_YET.killed(), NONE_YET.refusal(), NONE_YET.passed(7.0)):
        assert more is not NONE_YET
    assert (NONE_YET.pools, NONE_YET.replayed, NONE_YET.retries, NONE_YET.kills) == ((), False, 0, 0)
    kept = NONE_YET.refusal().passed(7.0).passed(8.0).again().retried().killed()
    assert (kept.replayed, kept.retries, kept.kills, kept.refusals, kept.passes, kept.passed_at) == (True, 1, 1, 1, 2, 7.0)
    assert not NONE_YET.repeated()
    assert NONE_YET.again().repeated()
    assert NONE_YET.retried().repeated()
    assert not NONE_YET.killed().repeated()
