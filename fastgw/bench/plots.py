"""The plots of a report, as SVG text: how long answers took, the gaps between their tokens, and when what happened.

Owns: how they look. Each has a title and a description for who does not see it; the page has the figures in tables beside them.
What is drawn is a measured value, or a count of them; nothing is smoothed. Colours are classes, which the page's style sets for
light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

from fastgw.bench.percentiles import Spread
from fastgw.bench.tally import Result

MOST_SERIES: Final = 6
"""More lines than this nobody tells apart: of more rows some are drawn, and the caption says which."""
WIDTH: Final = 860
_LEFT, _RIGHT, _TOP = 64, 20, 14


def chosen(results: Sequence[Result]) -> list[Result]:
    """The rows that are drawn: all, or some from the first to the last."""
    some = [one for one in results if one.plots.curve]
    if len(some) <= MOST_SERIES:
        return some
    return [some[at * (len(some) - 1) // (MOST_SERIES - 1)] for at in range(MOST_SERIES)]


def label(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.4g} s"
    return f"{seconds * 1000:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def powers(least: float, most: float) -> list[float]:
    """Marks of a logarithmic axis: 1, 2 and 5 times powers of ten, the powers alone where those would be many, and even steps
    where they would be few."""
    if most < 6 * least:
        return [mark for mark in ticks(most, max(4, round(5 * most / (most - least)))) if mark >= least * 0.999]
    low, high = floor(log10(least)), ceil(log10(most))
    factors = (1, 2, 5) if high - low <= 3 else (1,)
    return [mark for power in range(low, high + 1) for factor in factors
            if least * 0.999 <= (mark := factor * 10.0**power) <= most * 1.001]  # fmt: skip


def ticks(most: float, about: int = 4) -> list[float]:
    """Marks of an axis from 0 on: 1, 2 or 5 times a power of ten apart."""
    power = 10.0 ** floor(log10(most / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if most / (factor * power) <= about * 1.0001)
    return [at * step for at in range(floor(most / step * 1.0001) + 1)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "dim") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(name: str, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    return "\n".join([
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-desc">{escape(description)}</desc>',
        *parts, "</svg>",
    ])  # fmt: skip


class _Log:
    """A logarithmic axis of seconds, from the left edge to the right."""

    def __init__(self, values: Sequence[float]) -> None:
        self.least = max(min(values), 1e-6)
        self.most = max(max(values), self.least * 1.1)
        self._span = log10(self.most / self.least)

    def x(self, value: float) -> float:
        share = log10(max(value, self.least) / self.least) / self._span
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * share

    def drawn(self, top: float, bottom: float) -> list[str]:
        marks = [(mark, self.x(mark)) for mark in powers(self.least, self.most)]
        return [_line("grid", x, top, x, bottom) for _, x in marks] + [
            _text(x, bottom + 16, label(mark), "middle") for mark, x in marks
        ]


def curves(name: str, results: Sequence[Result], what: str) -> str:
    """The share of answers that took no longer, a line for each row."""
    rows = chosen(results)
    bottom = 300.0
    axis = _Log([seconds for row in rows for seconds, _ in row.plots.curve])

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * share

    parts = axis.drawn(_TOP, bottom)
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line("grid", _LEFT, y(share), WIDTH - _RIGHT, y(share)))
        parts.append(_text(_LEFT - 8, y(share) + 4, f"{share:.0%}", "end"))
    for number, row in enumerate(rows):
        before, steps = y(0), [f"M{axis.x(row.plots.curve[0][0]):.1f} {y(0):.1f}"]
        for seconds, share in row.plots.curve:
            steps.append(f"L{axis.x(seconds):.1f} {before:.1f}L{axis.x(seconds):.1f} {y(share):.1f}")
            before = y(share)
        parts.append(f'<path class="series s{number}" d="{"".join(steps)}"/>')
    said = "; ".join(f"{row.name}: half within {label(_of(row).p50)}, 99 % within {label(_of(row).p99)}" for row in rows)
    return _svg(name, bottom + 26, f"{what}: share of answers that took no longer", said, parts)


def _of(row: Result) -> Spread:
    return row.ttft_s if row.stream else row.latency_s


def histograms(name: str, results: Sequence[Result]) -> str:
    """Gaps between arrivals of tokens, a strip for each row, over one axis."""
    rows = [row for row in chosen(results) if row.plots.gaps]
    if not rows:
        return ""
    axis = _Log([edge for row in rows for low, high, count in row.plots.gaps if count for edge in (low, high)])
    height, between = 54.0, 22.0
    bottom = _TOP + len(rows) * (height + between)
    parts = axis.drawn(_TOP, bottom)
    for number, row in enumerate(rows):
        floor_ = _TOP + number * (height + between) + between + height
        most = max(count for _, _, count in row.plots.gaps)
        parts += [_line("axis", _LEFT, floor_, WIDTH - _RIGHT, floor_), _text(_LEFT - 8, floor_ - 4, row.name, "end", "text")]
        for low, high, count in row.plots.gaps:
            if count:
                left, tall = axis.x(low), max(1.0, height * count / most)
                wide = max(1.0, axis.x(high) - left - 1)
                parts.append(f'<rect class="bar s{number}" x="{left:.1f}" y="{floor_ - tall:.1f}" width="{wide:.1f}" '
                             f'height="{tall:.1f}"/>')  # fmt: skip
    said = "; ".join(f"{row.name}: {row.gap_s.n} gaps, half within {label(row.gap_s.p50)}, the longest {label(row.gap_s.most)}"
                     for row in rows)  # fmt: skip
    return _svg(name, bottom + 26, "Gaps between tokens: how many of which length, each row to its own scale", said, parts)


def timelines(name: str, results: Sequence[Result], what: str) -> str:
    """Each answer where it was due, as high as it took; a strip for each row, all to one scale."""
    rows = chosen(results)
    longest = max(max(row.duration_s for row in rows), 1e-3)
    most = max(max(seconds for row in rows for _, seconds in row.plots.points), 1e-6)
    height, between = 74.0, 16.0
    bottom = _TOP + len(rows) * (height + between)
    parts = []
    for mark in ticks(longest, 8):
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * mark / longest
        parts += [_line("grid", x, _TOP, x, bottom), _text(x, bottom + 16, label(mark) if mark else "0", "middle")]
    for number, row in enumerate(rows):
        floor_ = _TOP + number * (height + between) + between + height
        parts += [_line("axis", _LEFT, floor_, WIDTH - _RIGHT, floor_), _text(_LEFT - 8, floor_ - 2, "0", "end")]
        parts += [_line("grid", _LEFT, floor_ - height, WIDTH - _RIGHT, floor_ - height),
                  _text(_LEFT - 8, floor_ - height + 8, label(most), "end"),
                  _text(_LEFT - 8, floor_ - height / 2 + 4, row.name, "end", "text")]  # fmt: skip
        for due, seconds in row.plots.points:
            x = _LEFT + (WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, due) / longest)
            parts.append(f'<circle class="dot s{number}" cx="{x:.1f}" cy="{floor_ - height * seconds / most:.1f}" r="2.2"/>')
    said = "; ".join(f"{row.name}: {row.good} answers in {row.duration_s:.3g} s" for row in rows)
    return _svg(name, bottom + 26, f"{what} of each answer, by when it was due", said, parts)


def legend(results: Sequence[Result], of: str) -> str:
    """Which colour is which row."""
    box = '<svg viewBox="0 0 14 10" aria-hidden="true"><rect class="bar s{}" width="14" height="10" rx="2"/></svg>'
    keys = "".join(f"<li>{box.format(number)}{escape(row.name)}</li>" for number, row in enumerate(chosen(results)))
    return f'<ul class="legend"><li>{escape(of)}</li>{keys}</ul>'
