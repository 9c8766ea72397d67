"""Over any schedule of honest engines: produced <= reserved <= limit at every moment, and charged = produced at the end."""

from __future__ import annotations

import pytest

from tests.accounts.schedules import played

pytestmark = pytest.mark.together

SEEDS = 24


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nobody_gets_more_than_was_reserved_and_everybody_is_charged_what_was_produced(seed: int) -> None:
    wrong = await played(seed)
    assert not wrong, "\n".join(wrong)
