"""The replay rule over everything that it can be asked, and the sentences of its page as answers."""

from __future__ import annotations

from itertools import product

from fastgw.exchange.retry import Failure, Verdict, judge

NAMES = ("reused", "response_begun", "body_at_hand", "replayed", "retried", "retry_fresh")
CONNECT = (Failure.CONNECT, Failure.CONNECT_TIMEOUT)
QUESTIONS = [
    (failure, dict(zip(NAMES, flags, strict=True)))
    for failure, *flags in product(Failure, *[(False, True)] * len(NAMES))
]


def test_nothing_is_repeated_after_a_response_byte_or_without_its_body() -> None:
    for failure, facts in QUESTIONS:
        if facts["response_begun"] or not facts["body_at_hand"]:
            assert judge(failure, **facts) is Verdict.FAIL


def test_what_was_never_sent_goes_to_the_next_engine() -> None:
    for failure, facts in QUESTIONS:
        if failure in CONNECT and not facts["response_begun"] and facts["body_at_hand"]:
            assert judge(failure, **facts) is Verdict.NEXT_ENGINE


def test_the_same_engine_is_asked_again_only_after_a_reused_connection_died_and_only_once() -> None:
    for failure, facts in QUESTIONS:
        again = judge(failure, **facts) is Verdict.SAME_FRESH
        free = failure is Failure.LOST and facts["reused"] and not facts["replayed"]
        assert again == (free and facts["body_at_hand"] and not facts["response_begun"])


def test_what_may_have_been_acted_on_is_repeated_by_policy_alone_and_once() -> None:
    for failure, facts in QUESTIONS:
        if failure not in CONNECT and judge(failure, **facts) is Verdict.NEXT_ENGINE:
            assert facts["retry_fresh"]
            assert not facts["retried"]
        if failure is Failure.SILENT and not facts["retry_fresh"]:
            assert judge(failure, **facts) is Verdict.FAIL
