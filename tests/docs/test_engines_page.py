"""The page about engines has an example of each setting by which they are chosen; links lead to headings that are there.

Its commands run in ``test_limits_page.py``, its files are loaded by ``test_blocks.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.config.choosing import Choosing
from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS
from fastgw.config.row import rows_of
from fastgw.config.table import DEFAULTS, TABLE
from fastgw.twins import native

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "engines.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([\w./-]*)#([^)]+)\)")


def test_each_setting_of_the_choice_has_an_example() -> None:
    shown = set(re.findall(r"^(\w+) = ", "".join(BLOCKS), re.MULTILINE))
    wanted = {row.name for row in rows_of(Choosing)}
    wanted |= {"policy", "weight", "machine", "features", "needs", "discover", "engines_file"}
    assert {name for name in wanted if name not in shown} == set()


def test_a_value_is_the_default_where_nothing_else_is_said() -> None:
    said = dict(re.findall(r"^(\w+) = ([\d_]+|\"64MiB\") ", BLOCKS[0], re.MULTILINE))
    said = {name: text for name, text in said.items() if DEFAULTS.get(name)}  # (0 is off, which the page says of them all)
    assert len(said) == 8
    for name, text in said.items():
        assert (64 << 20 if "MiB" in text else int(text)) == DEFAULTS[name], name


MEASURED = re.compile(r"^\| `(\w+)` \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \| (\d+)% \| ([\d.]+) \|", re.MULTILINE)
SAID = re.compile(
    r"^\| `(\w+)` \| ([\d.]+) s \| ([\d.]+) s \| (\d+) % \| ([\d.]+) \| ([\d.]+) s \| ([\d.]+) s \|$", re.MULTILINE
)


def test_the_figures_of_the_trace_are_those_of_now() -> None:
    """They are reckoned, not timed: each run has the same."""
    if not native():
        pytest.skip("the compiled twin reckons the same in three seconds")
    words = [sys.executable, "-m", "benchmarks.routing"]
    done = subprocess.run(words, cwd=DOCS.parent, capture_output=True, text=True, timeout=100, check=True)
    found = [(name, figures) for name, *figures in MEASURED.findall(done.stdout)]
    chats, unlike = dict(found[: len(found) // 2]), dict(found[len(found) // 2 :])
    rows = SAID.findall(PAGE)
    assert len(rows) == 9
    for name, *said in rows:
        mean, last, hits, uneven = chats[name]
        assert said[2:4] == [hits, uneven], name
        for text, figure in zip((*said[:2], *said[4:]), (mean, last, *unlike[name][:2]), strict=True):
            assert float(text) == pytest.approx(float(figure), abs=0.51 * 10 ** -len(text.partition(".")[2])), name


def headings(page: Path) -> set[str]:
    """As GitHub makes anchors of them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        assert anchor in headings(page.parent / name if name else page), f"{name}#{anchor}"


def test_other_routers_words_stand_beside_settings_that_there_are() -> None:
    section = (DOCS / "compatibility.md").read_text().partition("## Coming from")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 15
    known = {row.name for row in (*TABLE, *ENGINE_FIELDS, *ROUTE_FIELDS)}
    for *_, here, pages in rows[1:]:
        assert {name for name in re.findall(r"`([a-z]+(?:_[a-z]+)*)(?: = [^`]*)?`", here) if name not in known} == set()
        assert LINK.search(pages) or ".md)" in pages
