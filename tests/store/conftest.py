"""These tests commit some thousand times, and none cuts the power: where there is a file system in memory, they use it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < 256 << 20:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="fastgw-test-", dir=MEMORY) as folder:
        yield Path(folder)
