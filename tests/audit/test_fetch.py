"""What pip is told, and how its end is read. (``test_for_real.py`` runs it.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.audit.fetch import command, judged
from scripts.audit.project import Target
from tests.audit.made_up import HASH

TARGET = Target("3.12", "aarch64")

MISMATCH = f"""\
WARNING: Location 'file:///opt/simple/a/' is ignored: it is neither a file nor a directory.
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, ...
    a==1.0 from https://127.0.0.1/a-1.0-py3-none-any.whl (from -r requirements.txt (line 1)):
        Expected sha256 {HASH}
             Got        {HASH[::-1]}
"""
REFUSED = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(...)': /simple/a/
ERROR: Could not find a version that satisfies the requirement a==1.0 (from versions: none)
ERROR: No matching distribution found for a==1.0
"""
NO_VERSION = """\
ERROR: Could not find a version that satisfies the requirement a==1.0 (from versions: 0.9)
ERROR: No matching distribution found for a==1.0
"""


@pytest.mark.parametrize(
    ("status", "stderr", "failed", "unreached"),
    [
        (0, "", "", ""),
        (1, MISMATCH, "what is downloaded has another hash than the lock: a==1.0", ""),
        (1, MISMATCH + REFUSED, "what is downloaded has another hash than the lock: a==1.0", ""),
        (1, REFUSED, "", "No matching distribution found for a==1.0"),
        (1, NO_VERSION, "Could not find a version that satisfies the requirement a==1.0 (from versions: 0.9)", ""),
        (1, "/bin/python: No module named pip", "/bin/python: No module named pip", ""),
        (2, "", "status 2", ""),
    ],
)
def test_how_pip_ended(status: int, stderr: str, failed: str, unreached: str) -> None:
    assert judged(status, stderr) == (failed, unreached)


def test_what_pip_is_told(tmp_path: Path) -> None:
    words = command(TARGET, tmp_path / "pins.txt", tmp_path)
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(words)
    assert {"cp312", "manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(words)
    assert "x86_64" not in " ".join(words)
