"""Licences: what metadata says, old and new, against what is allowed."""

from __future__ import annotations

import pytest

from scripts.audit.licences import judge, permitted
from scripts.audit.project import Distribution

OSI = "License :: OSI Approved :: "
WHOLE_TEXT = "The MIT License (MIT)\n\nCopyright holders allow everything, without warranty of any kind\n" * 3


def distribution(expression: str = "", licence: str = "", *classifiers: str, name: str = "thing") -> Distribution:
    return Distribution(name, "1.0", (), expression, licence, classifiers)


@pytest.mark.parametrize(
    "one",
    [
        distribution("MIT"),
        distribution("mit"),
        distribution("Apache-2.0 AND MIT"),
        distribution("GPL-3.0-only OR MIT"),
        distribution("(GPL-3.0-only OR MIT) AND (ISC OR LGPL-3.0-only)"),
        distribution("", "MIT"),
        distribution("", "Apache 2.0"),
        distribution("", "UNKNOWN", OSI + "MIT License"),
        distribution("", "", OSI + "BSD License"),
        distribution("", "MIT License", OSI + "Apache Software License", OSI + "MIT License"),
        distribution("", WHOLE_TEXT, OSI + "MIT License"),
        distribution("", "", "License :: OSI Approved", OSI + "MIT License"),
        distribution("MIT", "", OSI + "GNU General Public License v3 (GPLv3)"),  # the expression is the last word
    ],
)
def test_allowed(one: Distribution) -> None:
    assert judge(one).problem == ""


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (distribution("GPL-3.0-only"), "is under GPL-3.0-only"),
        (distribution("AGPL-3.0-or-later"), "is under AGPL-3.0-or-later"),
        (distribution("MPL-2.0"), "is under MPL-2.0"),
        (distribution("MIT AND LGPL-3.0-only"), "is under MIT AND LGPL-3.0-only"),
        (distribution("Apache-2.0 WITH LLVM-exception"), "is under Apache-2.0 WITH LLVM-exception"),
        (distribution("LicenseRef-Proprietary"), "is under LicenseRef-Proprietary"),
        (distribution("MIT AND"), "is under MIT AND"),
        (distribution("MIT OR (ISC"), "is under MIT OR (ISC"),
        (distribution("MIT/ISC"), "is under MIT/ISC"),
        (distribution("", "GPLv3"), "is under GPLv3"),
        (distribution("", "Proprietary"), "is under Proprietary"),
        (distribution("", "some licence of our own"), "says 'some licence of our own'"),
        (distribution("", "MIT", OSI + "GNU General Public License v3 (GPLv3)"), "says 'GNU General Public License v3"),
        (distribution("", "GPLv3", OSI + "MIT License"), "is under GPLv3"),
        (distribution("", "", "License :: Other/Proprietary License"), "says 'Other/Proprietary License'"),
        (distribution("", WHOLE_TEXT), "says nothing about its licence"),
        (distribution("", "UNKNOWN"), "says nothing about its licence"),
        (distribution(), "says nothing about its licence"),
    ],
)
def test_not_allowed(one: Distribution, said: str) -> None:
    assert judge(one).problem.startswith(said)


def test_an_exception_is_one_distributions_and_one_licences() -> None:
    assert judge(distribution("MPL-2.0", name="certifi")).problem == ""
    assert "authorities" in judge(distribution("MPL-2.0", name="certifi")).note
    assert judge(distribution("MIT", name="certifi")).note == ""
    assert judge(distribution("GPL-3.0-only", name="certifi")).problem
    assert judge(distribution("MPL-2.0", name="thing")).problem


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("A", True),
        ("A OR X", True),
        ("X OR A", True),
        ("A AND X", False),
        ("X AND A OR A", True),
        ("A OR A AND X", True),
        ("X AND (A OR A)", False),
        ("((A))", True),
        ("A WITH B", False),
        ("A WITH GOOD", True),
        ("", False),
        ("OR", False),
        ("A B", False),
        (")A(", False),
        ("A, B", False),
    ],
)
def test_expressions(text: str, good: bool) -> None:
    assert permitted(text, {"A", "A WITH GOOD"}) is good
