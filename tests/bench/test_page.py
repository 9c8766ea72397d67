"""The page: whole by itself, said aloud as well as drawn, and drawn to scale."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fastgw.bench import plots, report
from fastgw.bench.answer import Answer, Wrong
from fastgw.bench.page import html
from fastgw.bench.plan import Stage
from fastgw.bench.tally import Client, Result, Tally
from fastgw.protocol.http1.client import ResponseReader
from tests.bench.measured import planned, told

pytestmark = pytest.mark.once

PLAN = planned(prompt="a secret prompt", key="sk-secret")


def made(stage: Stage, count: int = 30) -> Result:
    tally = Tally(PLAN, stage, 0.0)
    tally.begun = count
    for number in range(count):
        answer = Answer(ResponseReader(), stream=stage.stream)
        answer.first_at, answer.last_at, answer.texts = number + 0.1 + number / 100, number + 0.9, 3
        answer.gaps = [0.02, 0.03] if stage.stream else []
        tally.answered(answer, float(number), number + 1.0, 0)
    return tally.result(1, Client())


ROWS = [made(Stage(stream, workers=workers)) for stream in (False, True) for workers in range(1, 9)]


class Page(HTMLParser):
    """Its tags, and what is loaded from elsewhere."""

    VOID = ("meta", "rect", "circle", "line", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = html(ROWS, PLAN, report.about(PLAN))
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert "script" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme:dark" in text
    assert "secret" not in text


def test_each_plot_is_said_in_words_and_has_its_figures_in_a_table() -> None:
    text = html(ROWS, PLAN, report.about(PLAN))
    drawings = [one for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "aria-hidden" not in one]
    assert len(drawings) == 5
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        named = [root.find(f"*[@id='{name}']") for name in root.attrib["aria-labelledby"].split()]
        assert [one is not None and bool(one.text) for one in named] == [True, True]
    assert text.count("<caption>") == 4 + 3
    # More rows than one can tell apart: six are drawn, and it is said which.
    assert "Drawn are 1, 2, 3, 5, 6, 8" in text
    assert len(re.findall(r'class="series', text)) == 2 * plots.MOST_SERIES


def test_what_a_server_says_is_no_markup() -> None:
    tally = Tally(PLAN, Stage(True, workers=1), 0.0)
    tally.failure(Wrong("status 500", "<script>alert(1)</script>"), 1.0)
    text = html([tally.result(0, Client())], PLAN, report.about(PLAN))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_curve_is_to_scale() -> None:
    row = made(Stage(True, workers=1), 4)
    drawn = plots.curves("x", [row], "TTFT")
    steps = [tuple(map(float, step)) for step in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]
    across, down = zip(*steps, strict=True)
    assert list(across) == sorted(across)
    assert list(down) == sorted(down, reverse=True)
    assert across[0] == 64.0
    assert across[-1] == plots.WIDTH - 20
    # A quarter of the answers is a quarter of the height.
    heights = sorted(set(down))
    assert [round(b - a, 1) for a, b in itertools.pairwise(heights)] == pytest.approx([71.5] * 4)


@pytest.mark.parametrize(("least", "most"), [(0.02, 0.0201), (0.01, 0.5), (1e-5, 300.0), (0.17, 0.19), (1e-6, 1.1e-6)])
def test_axes_have_marks_within_them(least: float, most: float) -> None:
    marks = plots.powers(least, most)
    assert 2 <= len(marks) <= 16
    assert all(least * 0.99 <= mark <= most * 1.01 for mark in marks)


@pytest.mark.parametrize("most", [1e-3, 0.7, 1.0, 59.0, 86400.0])
def test_even_marks_begin_at_0(most: float) -> None:
    marks = plots.ticks(most)
    assert marks[0] == 0
    assert 2 <= len(marks) <= 6
    assert marks[-1] <= most * 1.001


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.02, "20 ms"), (0.0005, "500 µs")])
def test_seconds_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert plots.label(seconds) == text


def test_a_run_without_answers_has_a_page_too() -> None:
    assert "<svg" not in html([told(Stage(True, workers=1))], PLAN, report.about(PLAN))
