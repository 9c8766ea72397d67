"""The picture of a run: for each trace the mean time to the first token and its 99th percentile, a row for each router.

Owns: how it looks; colours and letters are those of the other chart (``wire.chart``). Both axes go in powers of ten: between
the best and the worst lies a factor of fifty.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import floor, log10
from typing import Any

from benchmarks.routing.tables import middle
from benchmarks.wire.chart import STYLE

WIDTH, MARGIN, LABELS, TOP, ROW, BETWEEN = 960, 20, 210, 62, 22, 64
AXIS = WIDTH - LABELS - MARGIN - 220
TITLE = "Time to the first token by router, s of the trace (less is better)"


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _case(name: str, case: Mapping[str, Any], top: float) -> tuple[list[str], float]:
    """One trace, from ``top`` on; and where it ends."""
    order = sorted(case["routers"].items(), key=lambda entry: middle(entry[1], "ttft_mean_s"))
    values = [middle(about, key) for _, about in order for key in ("ttft_mean_s", "ttft_p99_s")]
    if not values:
        return [], top
    least, most = floor(log10(min(values))), log10(max(values) * 1.05)
    end = top + ROW * len(order)

    def x(value: float) -> float:
        return LABELS + AXIS * (log10(value) - least) / (most - least)

    out = [_text("text head", MARGIN, top - 14, f"{name}: {case['sessions']} sessions before {case['engines']} engines")]
    out += [_text("dim small", LABELS + AXIS + at, top - 14, words, "end") for at, words in
            ((115, "from caches"), (205, "busiest/mean"))]  # fmt: skip
    for power in range(least, floor(most) + 1):
        at = x(10.0**power)
        out.append(f'<line class="grid" x1="{at:.1f}" y1="{top - 6}" x2="{at:.1f}" y2="{end}" stroke-width="1"/>')
        out.append(_text("dim small", at, end + 14, f"{10.0**power:g}", "middle"))
    for number, (router, about) in enumerate(order):
        y = top + ROW * number + ROW / 2
        mean, p99 = middle(about, "ttft_mean_s"), middle(about, "ttft_p99_s")
        own = "own" if router == "fastgw prefix_aware" else "twin" if router.startswith("fastgw") else "bar"
        out.append(_text("text ours" if router.startswith("fastgw") else "text", LABELS - 8, y + 4, router, "end"))
        out.append(f'<line class="whisker" x1="{x(mean):.1f}" y1="{y:.1f}" x2="{x(p99):.1f}" y2="{y:.1f}" stroke-width="1"/>')
        out.append(f'<line class="whisker" x1="{x(p99):.1f}" y1="{y - 4:.1f}" x2="{x(p99):.1f}" y2="{y + 4:.1f}" '
                   'stroke-width="1.5"/>')  # fmt: skip
        out.append(f'<circle class="{own}" cx="{x(mean):.1f}" cy="{y:.1f}" r="5.5"/>')
        out.append(_text("text small", x(p99) + 6, y + 4, f"{mean:.2f} / {p99:.1f}"))
        out.append(_text("text small", LABELS + AXIS + 115, y + 4, f"{middle(about, 'hit_rate'):.0%}", "end"))
        out.append(_text("text small", LABELS + AXIS + 205, y + 4, f"{middle(about, 'imbalance'):.2f}", "end"))
    return out, end


def draw(found: Mapping[str, Any]) -> str:
    """The SVG of a run's results. The same results give the same bytes."""
    about = found["machine"]
    parts, end = [], float(TOP)
    for name, case in found["cases"].items():
        drawn, end = _case(name, case, end + (BETWEEN if parts else 30))
        parts += drawn
    height = end + 30
    size = f'width="{WIDTH}" height="{height:.0f}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
        f"<title>{TITLE}</title>",
        f"<style>\n{STYLE}</style>",
        f'<rect class="ground" {size}/>',
        _text("text title", MARGIN, 24, TITLE),
        _text("dim small", MARGIN, 42, f"dot: mean, line: to the 99th percentile; {about['cpu']}, {about['cores']} cores; "
              f"{about['date'][:10]}, commit {about['git_commit'][:12] or 'none'}"),
        *parts,
        "</svg>",
        "",
    ])  # fmt: skip
