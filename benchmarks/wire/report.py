"""From rounds to a table and a verdict.

Owns: the metrics' names and units, medians and spread, the ratios to nginx, the bars. The bars are the only figures that
are written down here; everything else comes out of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Figures = Mapping[str, float]
Rounds = Mapping[str, Sequence[Figures]]

BASELINE = "direct"
_ADDED = ("one_p50_us", "one_p99_us", "ttft_p50_us", "ttft_p99_us", "event_p50_us", "event_p99_us")


@dataclass(frozen=True, slots=True)
class Metric:
    key: str
    label: str
    digits: int = 1


def _with_added(*metrics: Metric) -> list[Metric]:
    out: list[Metric] = []
    for m in metrics:
        out.append(m)
        if m.key in _ADDED:
            out.append(Metric(added(m.key), "  added to direct, µs", m.digits))
    return out


def added(key: str) -> str:
    return key.removesuffix("_us") + "_added_us"


METRICS = _with_added(
    Metric("cpu_plain_us", "CPU per plain request, µs"),
    Metric("cpu_event_us", "CPU per streamed event, µs"),
    Metric("rps", "plain requests/s", 0),
    Metric("one_p50_us", "one connection, latency p50, µs"),
    Metric("one_p99_us", "one connection, latency p99, µs"),
    Metric("ttft_p50_us", "time to first event p50, µs"),
    Metric("ttft_p99_us", "time to first event p99, µs"),
    Metric("event_p50_us", "event one-way p50, µs"),
    Metric("event_p99_us", "event one-way p99, µs"),
    Metric("events_per_s", "events/s (paced by the engine)", 0),
    Metric("rss_idle_mb", "RSS idle, MB"),
    Metric("rss_loaded_mb", "RSS after load, MB"),
    Metric("start_ms", "exec to first served request, ms"),
    Metric("bad", "bad answers", 0),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise of fastgw's. ``per``: the figure is divided by that proxy's, round by round."""

    label: str
    key: str
    limit: float
    unit: str = ""
    per: str | None = None
    inclusive: bool = False


BARS = (
    Bar("CPU per plain request, fastgw/nginx", "cpu_plain_us", 1.6, per="nginx", inclusive=True),
    Bar("time to first event p50, added", "ttft_p50_added_us", 1000, " µs"),
    Bar("time to first event p99, added", "ttft_p99_added_us", 1000, " µs"),
    Bar("RSS idle", "rss_idle_mb", 50, " MB"),
    Bar("exec to first served request", "start_ms", 150, " ms"),
)
RATIOS = (
    *("cpu_plain_us", "cpu_event_us", "rps", "one_p50_us", "ttft_p50_us", "ttft_p99_us"),
    *("event_p50_us", "event_p99_us", "rss_idle_mb", "start_ms"),
)


def with_added(rounds: Rounds) -> dict[str, list[dict[str, float]]]:
    """The same rounds, each proxy's latencies also as what they add to direct's in the same round."""
    base = rounds.get(BASELINE, ())
    out: dict[str, list[dict[str, float]]] = {}
    for name, figures in rounds.items():
        out[name] = [dict(f) for f in figures]
        if name != BASELINE:
            for mine, direct in zip(out[name], base, strict=False):
                mine.update({added(k): mine[k] - direct[k] for k in _ADDED if k in mine and k in direct})
    return out


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, least and greatest; None when no round has the figure."""
    known = [v for v in values if not math.isnan(v)]
    return {"median": median(known), "min": min(known), "max": max(known)} if known else None


def summary(rounds: Rounds) -> dict[str, dict[str, dict[str, float]]]:
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, figures in rounds.items():
        cells = {m.key: spread([f[m.key] for f in figures if m.key in f]) for m in METRICS}
        out[name] = {k: v for k, v in cells.items() if v is not None}
    return out


def ratio(rounds: Rounds, key: str, name: str, per: str) -> dict[str, float] | None:
    """Round by round, as the two stood beside each other; None where one of them is missing."""
    pairs = zip(rounds.get(name, ()), rounds.get(per, ()), strict=False)
    return spread([a[key] / b[key] for a, b in pairs if key in a and b.get(key)])


def ratios(rounds: Rounds, name: str = "fastgw", per: str = "nginx") -> dict[str, dict[str, float]]:
    found = {key: ratio(rounds, key, name, per) for key in RATIOS}
    return {k: v for k, v in found.items() if v is not None}


def bars(rounds: Rounds, name: str = "fastgw") -> list[dict[str, Any]]:
    """Each bar with the measured median and whether it is met: true, false, or None when it was not measured."""
    out: list[dict[str, Any]] = []
    for bar in BARS:
        if bar.per:
            got = ratio(rounds, bar.key, name, bar.per)
        else:
            got = spread([f[bar.key] for f in rounds.get(name, ()) if bar.key in f])
        value = got["median"] if got else None
        met = None if value is None else value <= bar.limit if bar.inclusive else value < bar.limit
        out.append({**asdict(bar), "value": value, "spread": got, "met": met})
    return out


def _cell(s: Mapping[str, float] | None, digits: int) -> str:
    if s is None:
        return "-"
    middle = f"{s['median']:,.{digits}f}"
    return middle if s["min"] == s["max"] else f"{middle} ({s['min']:,.{digits}f}..{s['max']:,.{digits}f})"


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One row per figure, one column per proxy: median (least..greatest)."""
    names = list(summaries)
    rows = [["", *names]]
    rows += [[m.label, *(_cell(summaries[n].get(m.key), m.digits) for n in names)] for m in METRICS]
    rows = [r for r in rows if any(cell != "-" for cell in r[1:])]
    widths = [max(len(r[i]) for r in rows) for i in range(len(names) + 1)]
    lines = [r[0].ljust(widths[0]) + "".join(f"  {c:>{w}}" for c, w in zip(r[1:], widths[1:], strict=True)) for r in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def verdict(found: Sequence[Mapping[str, Any]], shares: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    if shares:
        parts = (f"{key.rpartition('_')[0] or key} {share['median']:.2f}" for key, share in shares.items())
        lines.append("fastgw/nginx: " + ", ".join(parts))
    for bar in found:
        word = {True: "met", False: "NOT MET", None: "not measured"}[bar["met"]]
        sign = "<=" if bar["inclusive"] else "<"
        got = "" if bar["value"] is None else f": {_cell(bar['spread'], 2)}{bar['unit']}"
        lines.append(f"{word:>12}  {bar['label']} {sign} {bar['limit']:g}{bar['unit']}{got}")
    return "\n".join(lines)
