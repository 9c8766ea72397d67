"""What the pages point at is there: targets of make, files, links, flags, and settings of the environment.

The README's own commands run in ``test_readme.py``. Those of the other pages compile, measure or install for minutes, so
that here make is only asked for their recipes, and each program for its flags.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.follow import RECIPES, written

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/*.md", "docs/decisions/*.md", "docs/recipes/*.md", "benchmarks/README.md", "benchmarks/*/README.md")
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for place in PLACES for page in sorted(ROOT.glob(place))}
GUIDES = {name: text for name, text in TEXTS.items() if name != "CHANGELOG.md"}

CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def code(text: str) -> str:
    """The blocks and the pieces between backticks, a line each."""
    return "".join(f"{block or inline}\n" for block, inline in CODE.findall(text))


TARGETS = sorted({target for text in GUIDES.values() for target in re.findall(r"\bmake ([a-z][a-z-]*)\s", code(text))})
FOLDERS = "benchmarks|config|deploy|docs|examples|fastgw|native|scripts|tests"
PATHS = re.compile(rf"(?<!/etc/)(?:{FOLDERS})/[\w./-]*\w\.(?:c|env|json|md|pxd|py|pyx|service|sh|svg|toml)\b")
LINKS = re.compile(r"\]\((?!https?:)([^)#\s]+)")
# By whoever runs it, or follows a recipe.
WRITTEN = {"config/.env"}.union(*(written(page.name) for page in RECIPES.glob("*.md")))


def test_the_pages_are_read() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/configuration.md", "benchmarks/README.md"} <= set(TEXTS)
    assert {"native", "fuzz", "soak", "bench-peers", "bench-scale", "packaging"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert target == "help" or f"make {target} " in (ROOT / "Makefile").read_text(), "make help says what it does"


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    assert [link for link in LINKS.findall(TEXTS[page]) if not (ROOT / page).parent.joinpath(link).exists()] == []


# These name files below tests/, or below fastgw/, and have tests of their own.
ELSEWHERE = {"docs/compatibility.md", "docs/behaviour.md", "docs/architecture.md", "docs/glossary.md", "docs/phases.md"}


@pytest.mark.parametrize("page", [name for name in GUIDES if name not in ELSEWHERE])
def test_files_that_are_named_exist(page: str) -> None:
    missing = {path for path in PATHS.findall(GUIDES[page]) if not (ROOT / path).exists()}
    assert {path for path in missing - WRITTEN if not (ROOT / page).parent.joinpath(path).exists()} == set()


@pytest.mark.parametrize("page", [name for name in GUIDES if name.startswith("docs/decisions/")])
def test_a_decision_is_numbered_once_and_decides(page: str) -> None:
    number = Path(page).name[:4]
    assert [name for name in GUIDES if Path(name).name.startswith(number)] == [page]
    assert "**Question.**" in GUIDES[page]
    assert "**Decision.**" in GUIDES[page]


@pytest.mark.parametrize(
    ("command", "page"),
    [
        (["native/build.py"], "docs/recipes/compiled-module.md"),
        (["-m", "benchmarks.wire"], "benchmarks/README.md"),
        (["-m", "benchmarks.scale"], "benchmarks/scale/README.md"),
    ],
)
def test_flags_that_are_named_are_taken(command: list[str], page: str) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    taken = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.stdout))
    name = "make native" if command == ["native/build.py"] else f"python -m {command[1]}"
    lines = re.findall(rf"{re.escape(name)}(.*(?:\n {{8,}}.*)*)", GUIDES[page])
    named = {flag for line in lines for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)}
    assert named
    assert named <= taken


def test_settings_of_the_build_and_the_long_runs_are_read_somewhere() -> None:
    pages = GUIDES["README.md"] + GUIDES["CONTRIBUTING.md"]
    named = set(re.findall(r"\b(?:FASTGW_(?:BUILD_)?NATIVE|FUZZ_[A-Z]+|SOAK_[A-Z]+)\b", pages))
    assert named == {"FASTGW_NATIVE", "FASTGW_BUILD_NATIVE", "FUZZ_SECONDS", "SOAK_SHARE"}
    readers = ("Makefile", "native/build.py", "fastgw/twins.py", "tests/soak/test_soak.py")
    read = "".join((ROOT / reader).read_text() for reader in readers)
    assert {name for name in named if name not in read} == set()
