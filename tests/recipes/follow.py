"""Follows a recipe as a reader would, with nothing but the page: writes its files, makes its changes, types its commands.

A file stands below the line that names it (`` `path`: `` or `` In `path`: ``). A change is a block of kind ``diff``: lines that
are there, that go, and that come; ``@@`` stands between two places. Each must fit exactly once, or the page is out of date.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs/recipes"
BLOCK = re.compile(r"(?:^(?:In )?`([\w./-]+)`[^\n]*:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WORKING = ("fastgw", "tests", "docs", "native", "benchmarks", "examples", "scripts", "config", "pyproject.toml", "CHANGELOG.md")


class Step(NamedTuple):
    """One block of a page; ``path`` where it is about a file."""

    path: str
    kind: str
    text: str


def steps(page: str) -> list[Step]:
    """The blocks of a page, in order."""
    return [Step(*found.groups(default="")) for found in BLOCK.finditer((RECIPES / page).read_text(encoding="utf-8"))]


def written(page: str) -> set[str]:
    """The files that a reader makes."""
    return {step.path for step in steps(page) if step.path and step.kind != "diff"}


def changed(text: str, diff: str) -> str:
    """``text`` with the changes of a block."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [(line[:1] or " ", line[1:]) for line in hunk.splitlines()]
        before = "".join(f"{line}\n" for mark, line in lines if mark != "+")
        after = "".join(f"{line}\n" for mark, line in lines if mark != "-")
        assert {mark for mark, _ in lines} <= {" ", "+", "-"}, hunk
        # (Whole lines: what begins in the middle of one is another place.)
        there = re.findall(f"^(?={re.escape(before)})", text, re.MULTILINE)
        assert len(there) == 1, f"this is not there once:\n{before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


def copy(to: Path, *, compiled: bool = False) -> None:
    """The working tree, without what was compiled or with it."""
    leave = shutil.ignore_patterns("__pycache__", *(() if compiled else ("*.so",)))
    for name in (*WORKING, *(("build/native", "setup.py", "Makefile") if compiled else ())):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=leave)
        else:
            shutil.copy2(source, to / name)


def apply(page: str, to: Path) -> list[str]:
    """Do what the page says in the copy; returns the commands that are to be typed then."""
    commands: list[str] = []
    for step in steps(page):
        if step.kind == "sh":
            commands += step.text.splitlines()
            continue
        assert step.path, f"no line says where this goes:\n{step.text}"
        file = to / step.path
        if step.kind == "diff":
            file.write_text(changed(file.read_text(encoding="utf-8"), step.text), encoding="utf-8")
        else:
            assert not file.exists(), f"{step.path} is there already"
            file.write_text(step.text, encoding="utf-8")
    return commands


def typed(command: str, to: Path) -> None:
    """Type a command of the page, in the copy."""
    words = command.split()
    environment = {**os.environ, "FASTGW_NATIVE": "0", "TESTED_PART": ""}
    while "=" in words[0]:
        name, _, environment[name] = words.pop(0).partition("=")
    if words == ["make", "docs"]:
        typed(".venv/bin/python -m scripts.site.walk", to)
        words = [sys.executable, "-m", "fastgw", "docs", "--write", "docs"]
    elif words == ["make", "native"]:
        words = [sys.executable, "native/build.py"]
    elif words[0] == ".venv/bin/python":
        words[0] = sys.executable
        if "pytest" in words:
            words += ["-p", "no:cacheprovider", "--hypothesis-profile=check"]  # (the suite tries more of what is there already)
    else:
        raise AssertionError(f"nobody knows how to type {command!r} here")
    done = subprocess.run(words, cwd=to, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
