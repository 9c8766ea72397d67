"""The chart: CPU time per request and per event, one row per proxy, drawn as SVG text from a run's results.

Owns: how it looks. The same results give the same bytes, so that a test can hold a committed chart to its file. Must never
draw what is not to scale without a mark: a bar that would flatten all others is cut, with a break in it and its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Summaries = Mapping[str, Mapping[str, Mapping[str, float]]]

_PANELS = (
    ("cpu_plain_us", "per plain request"),
    ("cpu_flood_us", "per streamed event, unpaced"),
    ("cpu_event_us", "per streamed event, paced"),
)
_CUT = 8.0
"""A bar more than so many times as long as the shortest is cut: sglang-router's is five times the floor's, and fits."""

_WIDTH, _LABELS, _GAP, _MARGIN = 960, 128, 22, 20
_VALUE = 44  # room for the figure behind the longest bar
_TOP, _ROW, _BAR, _BOTTOM = 74, 26, 14, 34

STYLE = """\
.ground{fill:#ffffff}.text{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d1d9e0}.bar{fill:#a3adb8}.own{fill:#0969da}
.twin{fill:#80b3ea}.whisker{stroke:#1f2328}.break{stroke:#ffffff}
text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}.title{font-size:15px;font-weight:600}
.head{font-weight:600}.small{font-size:11px}.ours{font-weight:600}
@media (prefers-color-scheme:dark){.ground{fill:#0d1117}.text{fill:#e6edf3}.dim{fill:#9198a1}.grid{stroke:#3d444d}
.bar{fill:#656c76}.own{fill:#4493f8}.twin{fill:#2a5a99}.whisker{stroke:#e6edf3}.break{stroke:#0d1117}}
"""


def _measured(results: Mapping[str, Any]) -> Summaries:
    return {name: about["summary"] for name, about in results["proxies"].items()}


def _order(summaries: Summaries, panels: Sequence[tuple[str, str]]) -> list[str]:
    """The proxies that have a bar anywhere, the cheapest per plain request first."""
    drawn = [n for n, figures in summaries.items() if any(key in figures for key, _ in panels)]
    return sorted(drawn, key=lambda n: summaries[n].get("cpu_plain_us", {}).get("median", float("inf")))


def _end_of_axis(figures: Sequence[Mapping[str, float]]) -> float:
    """The greatest value that is drawn to scale, its whisker included."""
    least = min(f["median"] for f in figures)
    return max(f["max"] for f in figures if f["median"] <= _CUT * least)


def _step(end: float) -> float:
    """Between grid lines: 1, 2 or 5 times a power of ten, so that there are three to seven of them."""
    step = 0.01
    while True:
        for factor in (1, 2, 5):
            if end / (step * factor) <= 6:
                return step * factor
        step *= 10


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, width: float = 1) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="{width:g}"/>'


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{at}>{escape(words)}</text>'


def _kind(name: str) -> str:
    return "own" if name == "fastgw" else "twin" if name.startswith("fastgw") else "bar"


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _bar(name: str, figure: Mapping[str, float], left: float, top: float, width: float, end: float) -> list[str]:
    """The bar to the median, its whisker from the least to the greatest round, and the median in figures."""
    scale = width / end
    middle, cut = top + _BAR / 2, figure["median"] > end
    length = width if cut else figure["median"] * scale
    out = [f'<rect class="{_kind(name)}" x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" height="{_BAR}"/>']
    reach = length
    if cut:
        out += [_line("break", left + length - x, top + _BAR + 2, left + length - x + 6, top - 2, 2.5) for x in (22, 16)]
    elif figure["max"] > figure["min"]:
        low, high = left + figure["min"] * scale, left + figure["max"] * scale
        out += [_line("whisker", low, middle, high, middle)]
        out += [_line("whisker", x, middle - 3, x, middle + 3) for x in (low, high)]
        reach = max(reach, figure["max"] * scale)
    out.append(_text("text small", left + reach + 5, middle + 4, _figure(figure["median"])))
    return out


def _panel(
    title: str, figures: Mapping[str, Mapping[str, float]], order: Sequence[str], left: float, width: float
) -> list[str]:
    bottom = _TOP + _ROW * len(order)
    end = _end_of_axis(list(figures.values()))
    out = [_text("text head", left, _TOP - 12, title)]
    step, count = _step(end), 0
    while count * step <= end:
        x = left + count * step * width / end
        out += [_line("grid", x, _TOP - 4, x, bottom), _text("dim small", x, bottom + 14, f"{count * step:g}", "middle")]
        count += 1
    for row, name in enumerate(order):
        if name in figures:
            out += _bar(name, figures[name], left, _TOP + row * _ROW + (_ROW - _BAR) / 2, width, end)
    return out


def draw(results: Mapping[str, Any], wanted: Sequence[tuple[str, str]] = _PANELS) -> str:
    """The SVG. ``results``: what the run wrote as JSON, NaN already null. ``wanted``: a panel for each figure that it has, and
    what stands above it."""
    summaries = _measured(results)
    panels = [(key, title) for key, title in wanted if any(key in figures for figures in summaries.values())]
    order = _order(summaries, panels)
    height = _TOP + _ROW * len(order) + _BOTTOM
    about, settings = results["machine"], results["settings"]
    size = f'width="{_WIDTH}" height="{height}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>CPU time of the proxy per request and per streamed event</title>",
        f"<style>\n{STYLE}</style>",
        f'<rect class="ground" {size}/>',
        _text("text title", _MARGIN, 24, "CPU time of the proxy, µs (less is better)"),
        _text(
            "dim small",
            *(_MARGIN, 42),
            f"{about['cpu']}{', one core for the proxy' if settings['pinned'] else ''}, {settings['connections']} connections; "
            f"median of {settings['rounds']} rounds, whiskers from the least to the greatest; "
            f"{about['date'][:10]}, commit {about['git_commit'][:12] or 'none'}",
        ),
    ]
    labels = max(_LABELS, _MARGIN + 7 * max(map(len, order), default=0))
    for row, name in enumerate(order):
        kind = "text ours" if name.startswith("fastgw") else "text"
        out.append(_text(kind, labels - 8, _TOP + row * _ROW + _ROW / 2 + 4, name, "end"))
    if panels:
        each = (_WIDTH - labels - _MARGIN - _GAP * (len(panels) - 1)) / len(panels)
        for number, (key, title) in enumerate(panels):
            figures = {n: s[key] for n, s in summaries.items() if key in s}
            out += _panel(title, figures, order, labels + number * (each + _GAP), each - _VALUE)
    return "\n".join([*out, "</svg>", ""])
