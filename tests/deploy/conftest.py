"""The frozen program, built once for all that try it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.frozen import ROOT, build


@pytest.fixture(scope="session")
def dist() -> Path:
    build()
    return ROOT / "dist"
