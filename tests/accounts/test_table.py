"""Every case of the table is billed as the engine did it: what the key has used, what the log says, what the client got."""

from __future__ import annotations

import pytest

from tests.accounts.cases import Case, chosen
from tests.accounts.conversation import wrong_with

pytestmark = pytest.mark.together


@pytest.mark.parametrize("case", chosen(), ids=str)
async def test_a_case_costs_what_it_must(case: Case) -> None:
    wrong = await wrong_with(case)
    assert not wrong, "\n".join([str(case), *wrong])
