"""What the audit found, as a person reads it, and the exit status that it comes to.

Invariant: what was not checked never counts as passed. It is said, and it has a status of its own, until somebody
acknowledges it with ``--offline``; and then it is still said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

PASSED: Final = 0
FAILED: Final = 1
NOT_CHECKED: Final = 3  # 2 is argparse's and make's


class Section:
    """One question: its table, and what became of it."""

    def __init__(self, name: str, question: str) -> None:
        self.name = name
        self.question = question
        self.lines: list[str] = []
        self.fine: list[str] = []
        self.failed: list[str] = []
        self.unchecked: list[str] = []

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        full = [heads, *rows]
        widths = [max(len(row[column]) for row in full) for column in range(len(heads))]
        self.lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in full]

    def __str__(self) -> str:
        said = [f"{self.name}: {self.question}", *(f"  {line}" for line in self.lines)]
        for word, texts in (("ok", self.fine), ("FAILED", self.failed), ("not checked", self.unchecked)):
            said += [f"  {word}: {text}" for text in texts]
        return "\n".join(said)


class Verdict(NamedTuple):
    status: int
    text: str


def verdict(sections: Iterable[Section], offline: bool) -> Verdict:
    """One line for each section that did not pass, and one for all of them."""
    failed: list[str] = []
    unchecked: list[str] = []
    for section in sections:
        failed += [f"{section.name}: {text}" for text in section.failed]
        unchecked += [f"{section.name}: not checked, {text}" for text in section.unchecked]
    counts = f"{len(failed)} failed, {len(unchecked)} not checked"
    if failed:
        return Verdict(FAILED, "\n".join([*failed, *unchecked, f"audit: FAILED ({counts})"]))
    if unchecked and not offline:
        return Verdict(NOT_CHECKED, "\n".join([*unchecked, f"audit: NOT PASSED ({counts}); --offline acknowledges that"]))
    if unchecked:
        return Verdict(PASSED, "\n".join([*unchecked, f"audit: nothing failed, and offline that is all it says ({counts})"]))
    return Verdict(PASSED, "audit: passed")
