"""What the tests of filters share."""

from __future__ import annotations

import pytest

from tests.policy.witness import Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    made.between(monkeypatch)
    return made
