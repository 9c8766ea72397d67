"""What the whole of it comes to: what was not checked never passes unsaid."""

from __future__ import annotations

import pytest

from scripts.audit import __main__ as command
from scripts.audit.report import FAILED, NOT_CHECKED, PASSED, Section, verdict


def section(name: str, failed: list[str] | None = None, unchecked: list[str] | None = None) -> Section:
    made = Section(name, "is it?")
    made.failed, made.unchecked = failed or [], unchecked or []
    return made


GOOD = section("floors")
BAD = section("licences", failed=["x is under GPL-3.0-only"])
SILENT = section("vulnerabilities", unchecked=["no source could be reached: osv (refused)"])


@pytest.mark.parametrize(
    ("sections", "offline", "status", "said"),
    [
        ([GOOD], False, PASSED, ["audit: passed"]),
        ([GOOD], True, PASSED, ["audit: passed"]),
        ([GOOD, BAD], False, FAILED, ["licences: x is under GPL-3.0-only", "audit: FAILED (1 failed, 0 not checked)"]),
        ([BAD], True, FAILED, ["licences: x is under GPL-3.0-only", "audit: FAILED (1 failed, 0 not checked)"]),
        (
            [GOOD, SILENT],
            False,
            NOT_CHECKED,
            [
                "vulnerabilities: not checked, no source could be reached: osv (refused)",
                "audit: NOT PASSED (0 failed, 1 not checked); --offline acknowledges that",
            ],
        ),
        (
            [SILENT],
            True,
            PASSED,
            [
                "vulnerabilities: not checked, no source could be reached: osv (refused)",
                "audit: nothing failed, and offline that is all it says (0 failed, 1 not checked)",
            ],
        ),
        (
            [SILENT, BAD],
            False,
            FAILED,
            [
                "licences: x is under GPL-3.0-only",
                "vulnerabilities: not checked, no source could be reached: osv (refused)",
                "audit: FAILED (1 failed, 1 not checked)",
            ],
        ),
    ],
)
def test_verdict(sections: list[Section], offline: bool, status: int, said: list[str]) -> None:
    found = verdict(sections, offline)
    assert (found.status, found.text.splitlines()) == (status, said)


def test_statuses_differ_and_none_is_argparses() -> None:
    assert (PASSED, FAILED, NOT_CHECKED) == (0, 1, 3)


def test_a_section_reads_well() -> None:
    made = section("licences", ["a is bad"], ["b"])
    made.table(("name", "licence"), [("longer", "MIT"), ("x", "")])
    made.fine.append("2 of them")
    assert str(made).splitlines() == [
        "licences: is it?",
        "  name    licence",
        "  longer  MIT",
        "  x",
        "  ok: 2 of them",
        "  FAILED: a is bad",
        "  not checked: b",
    ]


def test_this_checkout_passes_offline_and_what_was_not_checked_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing: floors, form and completeness of the locks (or: run `make lock`), licences, the tree."""
    status = command.main(["--offline"])
    said = capsys.readouterr().out
    assert status == PASSED, said
    for name in ("locks", "vulnerabilities"):
        assert f"\n{name}: not checked, " in said
    assert "none of " in said


def test_without_a_source_nothing_passes() -> None:
    """pip-audit where it is installed, and where it is not: there is no one at this address."""
    found = command.Audit(offline=False, osv_url="http://127.0.0.1:9/query").vulnerabilities()
    (why,) = found.unchecked
    assert why.startswith("no source could be reached: http://127.0.0.1:9/query (")
    assert (found.failed, found.fine) == ([], [])
    assert verdict([found], offline=False).status == NOT_CHECKED


def test_what_a_source_knows_fails_and_what_it_skips_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.audit.vulnerabilities import Answer, Checked, Found

    answers = {
        "shipped": Answer((Found("h2", "4.0", ("CVE-1",), ("4.1",)),), {"h11": "not found"}),
        "worked with": Answer((), {}),
    }
    monkeypatch.setattr(command, "check", lambda *_: Checked("osv", answers, ()))
    found = command.Audit(offline=False, osv_url="").vulnerabilities()
    assert found.failed == ["shipped: h2 4.0: CVE-1 (fixed in 4.1)"]
    assert found.unchecked == ["shipped: h11 (not found)"]
    assert verdict([found], offline=False).status == FAILED
