"""Disks that fail: full, read-only, sick. Traffic goes on, the log says so once, and the sums are right afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size=512k none "$1" && exec "$2" -m tests.store.faulty "$0" "$1"'


@cache
def can_mount() -> bool:
    """A user namespace in which we may mount (not in every container)."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, check=False)
    return tried.returncode == 0


def play(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ("full_while_running", "SQLITE_FULL"),
        ("full_at_start", "No space left|SQLITE_FULL|SQLITE_IOERR|SQLITE_CANTOPEN"),
        ("full_at_start_with_state", "No space left|SQLITE_FULL|SQLITE_IOERR|SQLITE_CANTOPEN"),
        ("read_only_at_start", "Read-only file system|SQLITE_CANTOPEN|SQLITE_READONLY"),
        ("read_only_after_a_kill", "Read-only file system|SQLITE_CANTOPEN|SQLITE_READONLY"),
        ("read_only_for_commands", "SQLITE_CANTOPEN|SQLITE_READONLY"),
        ("read_only_and_new", "Read-only file system"),
    ],
)
def test_a_small_disk(scene: str, says: str, tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no user namespace to mount a small disk in")
    out = play(["unshare", "-rm", "sh", "-c", MOUNT, scene, str(tmp_path), sys.executable])
    assert any(word in out for word in says.split("|")), out


@pytest.mark.parametrize("scene", ["write_errors", "write_errors_at_the_end"])
def test_writes_that_fail_half_way(scene: str, tmp_path: Path) -> None:
    out = play([sys.executable, "-m", "tests.store.faulty", scene, str(tmp_path)])
    assert "SQLITE_IOERR" in out or "SQLITE_FULL" in out, out
