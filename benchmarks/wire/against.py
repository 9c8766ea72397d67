"""This checkout and another revision of it, in turns in one run: their figures, the ratio, and whether it is too much.

Owns: what stands beside what, and the arithmetic of it. A ratio is taken within one round, where the two ran one after the
other on the same machine in the same state; what is told is the median of the rounds' ratios, never the ratio of the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.wire import checkout, report
from benchmarks.wire.proxies import ROOT, Fastgw, Proxy
from benchmarks.wire.rows import Chosen

_STREAMS = ("cpu_stream_us", "stream_p99_us", "rss_stream_kb")
_START = ("start_turn_ms", "rss_idle_mb")
# McGill, Tukey and Larsen, "Variations of box plots" (1978): so far to either side of a median of n values, 1.57 IQR / sqrt(n),
# chance alone moves it in nineteen runs of twenty.
_NOTCH = 1.57
_UNITS = ("µs", "ms", "kB", "MB")
STANDARD = "fastgw,nginx"
"""What is measured without ``--only``: nginx stands for the machine, which is the same for both."""


def keys(wanted: Chosen) -> list[str]:
    """The figures that two revisions are compared by, of what is measured: what costs, in the order of the report."""
    found = {row.cpu for row in wanted.rows}
    found |= {*(_STREAMS if wanted.streams else ()), *(_START if wanted.start else ())}
    return [m.key for m in report.METRICS if m.key in found]


def told(wanted: Chosen) -> list[str]:
    """Those, and what is told beside them without a ratio: dials, latencies of streams."""
    beside = {row.dials for row in wanted.rows} | {"start_ratio"}
    for row in wanted.rows:
        if row.latency is not None:
            beside |= {f"ttft{row.latency}_p50_us", f"event{row.latency}_p99_us"}
    return [m.key for m in report.METRICS if m.key in beside.union(keys(wanted))]


def _metrics(named: Sequence[str]) -> list[report.Metric]:
    return [m for m in report.METRICS if m.key in named]


def line_up(chosen: Sequence[Proxy], revision: str) -> tuple[list[Proxy], dict[str, str], str]:
    """Each of this checkout's with the revision's same beside it; the pairs, new to old; and the commit.

    Builds what they need. Raises `checkout.NoCheckout`.
    """
    own = [p for p in chosen if isinstance(p, Fastgw)]
    if not own:
        raise checkout.NoCheckout("--against compares fastgw: name one of its kind in --only, for instance fastgw-limits")
    commit = checkout.commit_of(revision)
    root = checkout.lay_out(commit)
    if any(p.native for p in own):
        checkout.build(root, f"fastgw at {commit[:12]}")
        checkout.build(ROOT, "this checkout")
    return *beside(chosen, root, commit), commit


def beside(chosen: Sequence[Proxy], root: Path, commit: str) -> tuple[list[Proxy], dict[str, str]]:
    found: list[Proxy] = []
    pairs: dict[str, str] = {}
    for proxy in chosen:
        if proxy.name == report.BASELINE:
            continue  # latencies are not compared
        found.append(proxy)
        if isinstance(proxy, Fastgw):
            old = replace(proxy, name=f"{proxy.name} at {commit[:9]}", root=root)
            pairs[proxy.name] = old.name
            found.append(old)
    return found, pairs


def order(chosen: Sequence[Proxy], number: int) -> list[Proxy]:
    """New before old, old before new in every second round; others after them, so that neither is always nearer to one."""
    own = [p for p in chosen if isinstance(p, Fastgw)]
    return (own if number % 2 else own[::-1]) + [p for p in chosen if not isinstance(p, Fastgw)]


def quartiles(values: Sequence[float]) -> dict[str, float] | None:
    """The median, what a quarter of them is below, what a quarter is above, and how many there are."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return None
    low, high = (quantiles(known, n=4, method="inclusive")[::2]) if len(known) > 1 else known * 2
    return {"median": median(known), "q1": low, "q3": high, "n": len(known)}


def summary(rounds: report.Rounds, named: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, figures in rounds.items():
        cells = {key: quartiles([f[key] for f in figures if key in f]) for key in named}
        out[name] = {key: cell for key, cell in cells.items() if cell is not None}
    return out


def ratios(
    rounds: report.Rounds, pairs: Mapping[str, str], most: float | None, named: Sequence[str]
) -> list[dict[str, Any]]:
    """One entry per pair and figure, the revision's first, then the peers': ``most`` is a limit for the former alone.

    ``met`` is None where no limit was given; a figure that is missing does not meet one.
    """
    out: list[dict[str, Any]] = []
    peers = [name for name in rounds if name not in {*pairs, *pairs.values()}]
    for new, old in [*pairs.items(), *((new, peer) for new in pairs for peer in peers)]:
        limit = most if old in pairs.values() else None
        for metric in _metrics(named):
            taken = [(a.get(metric.key), b.get(metric.key)) for a, b in zip(rounds[new], rounds[old], strict=False)]
            got = quartiles([a / b for a, b in taken if a and b])
            if got is not None and got["n"] > 1:
                got["notch"] = _NOTCH * (got["q3"] - got["q1"]) / math.sqrt(got["n"])
            if got is None and old in peers:
                continue  # what only fastgw has
            met = None if limit is None else got is not None and got["median"] <= limit
            out.append(
                {"new": new, "old": old, "key": metric.key, "label": metric.label, "ratio": got, "most": limit, "met": met}
            )
    return out


def _cell(got: Mapping[str, float] | None, digits: int) -> str:
    """``median (first quartile..third)``."""
    if got is None:
        return "-"
    return f"{got['median']:,.{digits}f} ({got['q1']:,.{digits}f}..{got['q3']:,.{digits}f})"


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    names = list(summaries)
    rows = [["", *names]]
    known = _metrics([key for each in summaries.values() for key in each])
    rows += [[m.label.strip(), *(_cell(summaries[n].get(m.key), 2) for n in names)] for m in known]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    return report.block(rows, widths, range(1, len(names) + 1))


def verdict(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [["round by round", "ratio", "chance", "rounds", "limit"]]
    for entry in found:
        got = entry["ratio"]
        what, _, unit = entry["label"].strip().rpartition(", ")
        label = f"{what if unit in _UNITS else entry['label'].strip()}, {entry['new']}/{entry['old']}"
        limit = "-" if entry["most"] is None else f"<= {entry['most']:g}: {report.word(entry['met'])}"
        chance = f"± {got['notch']:.3f}" if got and "notch" in got else "-"
        rows.append([label, _cell(got, 3), chance, str(got["n"]) if got else "0", limit])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return report.block(rows, widths, range(1, len(widths)))
