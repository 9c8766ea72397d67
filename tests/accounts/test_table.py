"""Every case of the table is billed as the engine did it: what the key has used, what the log says, what the client got."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.accounts.cases import ERROR_EVENT, REFUSED, WHOLE, Case, chosen, drawn
from tests.accounts.conversation import LIMITS, wrong_in, wrong_with

pytestmark = pytest.mark.together


@pytest.mark.parametrize("case", chosen(), ids=str)
async def test_a_case_costs_what_it_must(case: Case) -> None:
    wrong = await wrong_with(case)
    assert not wrong, "\n".join([str(case), *wrong])


@pytest.mark.parametrize("seed", range(8))
async def test_what_came_before_on_a_connection_makes_no_difference(seed: int) -> None:
    """Thirty cases over one connection, with limits or without: each costs what it costs by itself."""
    limited = bool(seed % 2)
    endings = (WHOLE, ERROR_EVENT, *REFUSED)
    cases = [case for case in islice(drawn(seed), 1000) if case.limited == limited and case.ending in endings]
    wrong = await wrong_in([case for case in cases if case.fields != "timings"][:30], **(LIMITS if limited else {}))
    assert not wrong, "\n".join(wrong)
