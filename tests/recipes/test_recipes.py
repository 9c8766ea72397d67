"""The recipes lead where they say: each is followed in a copy of the working tree, from its page alone, with its own test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastgw import twins
from fastgw.exchange.filter import HOOKS
from tests.recipes.follow import RECIPES, ROOT, apply, changed, copy, steps, typed, written

PAGES = sorted(path.name for path in RECIPES.glob("*.md"))
COMPILES = "compiled-module.md"


def own_tests(page: str) -> set[str]:
    """The tests that a reader writes."""
    return {path for path in written(page) if path.startswith("tests/")}


@pytest.mark.parametrize("page", [page for page in PAGES if page != COMPILES])
def test_a_recipe_leads_where_it_says(page: str, tmp_path: Path) -> None:
    copy(tmp_path)
    tests = own_tests(page)
    assert tests, "a recipe has a test of its own"
    for step in steps(page):
        if step.path in tests:
            (tmp_path / step.path).write_text(step.text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"\d (failed|error)"):
        typed(f".venv/bin/python -m pytest {' '.join(tests)}", tmp_path)  # alone it fails
    for path in tests:
        (tmp_path / path).unlink()
    commands = apply(page, tmp_path)
    run = " ".join(command for command in commands if "pytest" in command)
    assert [path for path in tests if not any(path.startswith(word) for word in run.split())] == []
    for command in commands:
        typed(command, tmp_path)
    typed(f".venv/bin/python -m ruff check {' '.join(written(page))}", tmp_path)


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
