"""The recipes lead where they say: followed in a copy of the working tree, from their pages alone, with their own tests."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fastgw import twins
from fastgw.exchange.filter import HOOKS
from tests.recipes.follow import RECIPES, ROOT, apply, changed, copy, steps, typed, written

PAGES = sorted(path.name for path in RECIPES.glob("*.md"))
COMPILES = "compiled-module.md"
FOLLOWED = [page for page in PAGES if page != COMPILES]


def own_tests(page: str) -> set[str]:
    """The tests that a reader writes."""
    return {path for path in written(page) if path.startswith("tests/")}


@pytest.mark.parametrize("page", PAGES)
def test_a_recipe_fits_what_is_here_by_itself(page: str, tmp_path: Path) -> None:
    for path in {step.path for step in steps(page) if step.kind == "diff"}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tmp_path / path)
    for path in written(page):
        assert not (ROOT / path).exists()
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    assert any("pytest" in command for command in apply(page, tmp_path))


@pytest.mark.timeout(240)
def test_the_recipes_lead_where_they_say(tmp_path: Path) -> None:
    """All of them, one after another in one copy: what each has one type is typed once, behind the last one's changes."""
    copy(tmp_path)
    tests = {path: step.text for page in FOLLOWED for step in steps(page) if (path := step.path) in own_tests(page)}
    for path, text in tests.items():
        (tmp_path / path).write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"\d (failed|error)") as alone:
        typed(f".venv/bin/python -m pytest --continue-on-collection-errors {' '.join(tests)}", tmp_path)
    failed = set(re.findall(r"^(?:FAILED|ERROR) ([\w/.]+)", str(alone.value), re.MULTILINE))
    assert failed == set(tests), "alone each fails"
    for path in tests:
        (tmp_path / path).unlink()
    run: dict[str, None] = {}
    others: dict[str, None] = {}
    for page in FOLLOWED:
        commands = apply(page, tmp_path)
        words = [word for command in commands if "pytest" in command for word in command.split() if word.startswith("tests/")]
        tested = own_tests(page)
        assert tested, f"{page} has a test of its own"
        assert [path for path in tested if not any(path.startswith(word) for word in words)] == [], page
        run |= dict.fromkeys(words)
        others |= dict.fromkeys(command for command in commands if "pytest" not in command)
    for command in (*others, f".venv/bin/python -m pytest {' '.join(run)}"):
        typed(command, tmp_path)
    typed(f".venv/bin/python -m ruff check {' '.join(path for page in FOLLOWED for path in written(page))}", tmp_path)


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_a_module_is_compiled(tmp_path: Path) -> None:
    if not twins.extension_of(twins.MODULES[0]).exists():
        pytest.skip("nothing is compiled here")
    copy(tmp_path, compiled=True)
    for command in apply(COMPILES, tmp_path):
        typed(command, tmp_path)
    assert list((tmp_path / "fastgw/policy").glob("sessions.*.so"))


@pytest.mark.parametrize("diff", [" gone\n+new\n", " twice\n+new\n"])
def test_a_change_that_does_not_fit_is_no_change(diff: str) -> None:
    assert changed("once\ntwice\ntwice\n", " once\n+new\n") == "once\nnew\ntwice\ntwice\n"
    with pytest.raises(AssertionError):
        changed("once\ntwice\ntwice\n", diff)


def test_the_page_of_filters_has_every_hook() -> None:
    page = (RECIPES / "filter.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(HOOKS)


def test_contributing_leads_to_every_recipe() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"docs/recipes/{page}" not in text] == []
