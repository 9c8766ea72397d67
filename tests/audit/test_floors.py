"""Floors: what ``pyproject.toml`` lets in is never older than a security fix, nor is what is locked or installed."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from scripts.audit import rules
from scripts.audit.floors import below, floors, too_low
from scripts.audit.project import asked, lower_bound
from tests.audit.made_up import known, project

FIX = (rules.Floor("parser", "1.5", "smuggling", ("CVE-1-2",)),)


def test_pyproject_asks_for_every_security_fix() -> None:
    assert too_low(asked()) == []


def test_the_fixes_that_are_known_are_asked_for() -> None:
    held = {floor.name: floor.version for floor in rules.FLOORS}
    assert held.keys() == {"aiohttp", "h2", "h11", "httptools"}
    assert all(floor.because and floor.references for floor in rules.FLOORS)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("x>=1.5", "1.5"),
        ("x>=1.5,<2", "1.5"),
        ("x==1.5", "1.5"),
        ("x==1.5.*", "1.5"),
        ("x~=1.5", "1.5"),
        ("x>=1,>=2", "2"),
        ("x", None),
        ("x<2", None),
        ("x!=1.4", None),
    ],
)
def test_lower_bound(text: str, bound: str | None) -> None:
    found = lower_bound(Requirement(text))
    assert (str(found) if found else None) == bound


@pytest.mark.parametrize("text", ["parser>=1.5", "parser>=1.5.0", "parser>=1.10", "Parser==1.6", "parser>=1.5,!=1.7"])
def test_a_floor_that_is_high_enough(text: str) -> None:
    assert too_low(project([text]), FIX) == []
    assert too_low(project([], otel=[text]), FIX) == []


@pytest.mark.parametrize("text", ["parser>=1.4", "parser>=1.5rc1", "parser", "parser<2", "parser!=1.4"])
def test_a_floor_that_is_too_low_is_told_with_its_reason(text: str) -> None:
    (said,) = too_low(project([text]), FIX)
    assert text in said
    assert "smuggling (CVE-1-2)" in said


def test_a_fix_that_nothing_asks_for_is_told() -> None:
    (said,) = too_low(project(["other>=1"], dev=["parser>=1.5"]), FIX)
    assert "parser is not asked for" in said


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.5", []),
        ("2.0", []),
        ("1.4.9", ["parser 1.4.9 is locked; below 1.5: smuggling (CVE-1-2)"]),
        ("1.5.dev1", ["parser 1.5.dev1 is locked; below 1.5: smuggling (CVE-1-2)"]),
    ],
)
def test_a_version_below_a_fix(version: str, said: list[str]) -> None:
    assert below({"parser": version}, "locked", project(["parser"]), FIX) == said


def test_a_version_that_pyproject_does_not_let_in() -> None:
    wanted = project(["a>=2"], otel=["b>=3"], dev=["c<1"])
    said = below({"a": "1", "b": "2.9", "c": "1", "d": "0"}, "installed", wanted, ())
    assert [line.split(" is ")[0] for line in said] == ["a 1", "b 2.9", "c 1"]


def test_what_is_installed_lacks_something() -> None:
    section = floors(project(["a>=2"]), {}, known(("a", "2", "b>=1"), ("b", "0.9")), ())
    assert "installed: b 0.9 is not what a asks for (>=1)" in section.failed
    assert section.fine == []
