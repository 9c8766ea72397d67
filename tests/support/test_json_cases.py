"""The corpus keeps its promises: sizes, ids, and each verdict in each form."""

from __future__ import annotations

import msgspec
import pytest

from tests.support import json_cases
from tests.support.json_cases import EITHER, INVALID, VALID, Case, forms, oracle


def test_the_corpus_is_as_large_as_promised_and_without_repeats() -> None:
    assert (len(INVALID) >= 188, len(VALID) >= 95, len(EITHER) >= 35) == (True, True, True)
    everything = [*INVALID, *VALID, *EITHER]
    assert len({case.id for case in everything}) == len(everything)
    assert len({case.document for case in everything}) == len(everything)
    assert all(case.id.isascii() and case.id.isprintable() for case in everything)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_invalid_in_every_form(case: Case) -> None:
    assert case.verdict == "n"
    assert {form for form, document in forms(case).items() if oracle(document)} == set()


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.id)
def test_valid_in_every_form(case: Case) -> None:
    assert case.verdict == "y"
    for document in forms(case).values():
        assert oracle(document)
        msgspec.json.decode(document, type=msgspec.Raw)


def test_either_is_where_parsers_may_disagree() -> None:
    assert {case.verdict for case in EITHER} == {"i"}
    # No document is here that some parser could not reasonably take, or for which nobody has a reason to refuse it.
    assert 0 < sum(oracle(case.document) for case in EITHER) < len(EITHER)


def test_a_request_around_a_valid_document_is_a_chat_request() -> None:
    for document in json_cases.wrapped(b"[1]").values():
        assert msgspec.json.decode(document)["model"] == "m"
