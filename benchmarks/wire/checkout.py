"""Another revision of this repository, beside this checkout and built: what ``--against`` compares with.

Owns: ``build/against/<commit>``, a copy of that commit's files with the native extension beside them, compiled by this
interpreter and with this environment's Cython. A copy appears whole or not at all, and is used again. It is no git worktree:
nothing is registered that somebody would have to remove but ``make clean``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.wire import process
from benchmarks.wire.proxies import ROOT

PLACE = ROOT / "build" / "against"
_BUILD_S = 1800.0
_KEPT = 6  # tens of megabytes each, where they are compiled


class NoCheckout(Exception):
    """There is no such revision, or it cannot be built here; the text says what to do."""


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("git"):
        raise NoCheckout("--against takes the other revision out of git, which is not installed")
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def commit_of(revision: str) -> str:
    """The commit's full name. Raises `NoCheckout` where this repository has no such revision."""
    if not (ROOT / ".git").exists():
        raise NoCheckout("--against: this checkout is no git repository, so there is no other revision of it to build")
    found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found.returncode or not found.stdout.strip():
        known = "a branch, a tag, a commit, or HEAD~3; what another repository has, git fetch brings"
        raise NoCheckout(f"--against: no revision {revision!r} in this repository ({known})")
    return found.stdout.strip()


def lay_out(commit: str) -> Path:
    """The folder with that commit's files."""
    target = PLACE / commit
    if target.exists():
        os.utime(target)
        return target
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as place:
        packed, fresh = Path(place) / "files.tar", Path(place) / "files"
        fresh.mkdir()
        done = _git("archive", "--format=tar", f"--output={packed}", commit)
        if not done.returncode:
            done = subprocess.run(["tar", "-xf", packed, "-C", fresh], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCheckout(f"--against: cannot lay out {commit[:12]} in {PLACE}: {done.stderr.strip()[-400:]}")
        try:
            fresh.rename(target)
        except OSError:
            if not target.exists():  # another run was first otherwise
                raise
    os.utime(target)
    _forget(target)
    return target


def _forget(new: Path) -> None:
    """All but those that were used last."""
    others = [path for path in PLACE.iterdir() if path.is_dir() and len(path.name) == len(new.name) and path != new]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -(_KEPT - 1)]:
        shutil.rmtree(path, ignore_errors=True)


def build(root: Path, name: str) -> None:
    """Its native extension, beside its sources. What is up to date is left alone. Raises `NoCheckout`."""
    script = root / "native" / "build.py"
    if not script.exists():
        raise NoCheckout(f"{name} has no native/build.py; --only fastgw-python compares without the extension")
    process.say(f"building {name} (minutes where it is the first time)")
    environment = os.environ | {"FASTGW_BUILD_NATIVE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoCheckout(f"{name} was not built within {_BUILD_S:g} s; build it by hand: python {script}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-400:] or f"exit status {done.returncode}"
        raise NoCheckout(f"{name} cannot be built: {said}; --only fastgw-python compares without the extension")
