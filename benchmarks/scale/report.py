"""From rounds to a table and a verdict.

Owns: the bars, the only figures that are written down here, and the medians. Everything else comes out of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.wire.report import spread

FLAT = 1.10
"""Flat means: the median of the ratios to the smallest size is no more than this. Two gateways of the same size differ by
about five per cent on a shared machine."""
STREAM_BYTES = 6_000
STREAMS = 10_000

Bar = dict[str, Any]


def _cell(rounds: Sequence[Mapping[str, float]], key: str, digits: int = 1) -> str:
    s = spread([r[key] for r in rounds if key in r])
    if s is None:
        return "-"
    return f"{s['median']:,.{digits}f} ({s['min']:,.{digits}f}..{s['max']:,.{digits}f})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [row[0].ljust(widths[0]) + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def sizes_table(things: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = [["", "CPU per plain request, µs", "to the first", "requests/s", "RSS each, bytes"]]
    for found in things.values():
        for row in found:
            each = row["notes"].get("rss_each_bytes")
            rounds = row["rounds"]
            cells = [_cell(rounds, "cpu_us"), _cell(rounds, "ratio", 3), _cell(rounds, "rps", 0)]
            rows.append([row["label"], *cells, "-" if each is None else f"{each:,.0f}"])
    return _aligned(rows)


def notes(things: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    out = []
    for row in things.get("ips", ()):
        n = row["notes"]
        if "rss_growth_mb" in n:
            out.append(
                f"{n['count']:,} addresses seen in {n['seconds']:.1f} s: RSS {n['rss_growth_mb']:+.2f} MB, "
                f"{n['cpu_per_visit_us']:.1f} µs of CPU per visit (a connection and its request)"
            )
    return out


_LIVE = (
    ("RSS per live stream, bytes", "rss_each_bytes", 0),
    ("  kept when all are closed", "kept_each_bytes", 0),
    ("CPU per event, µs", "cpu_event_us", 1),
    ("share of its core", "core_share", 2),
    ("share of the time in which others held its core", "waited_share", 2),
    ("event one-way p50, straight, µs", "direct_p50_us", 0),
    ("event one-way p50, through fastgw, µs", "through_p50_us", 0),
    ("  added", "added_p50_us", 0),
    ("event one-way p99, straight, µs", "direct_p99_us", 0),
    ("event one-way p99, through fastgw, µs", "through_p99_us", 0),
    ("  added", "added_p99_us", 0),
)


def live_table(live: Mapping[str, Any]) -> str:
    head = f"{live['streams']:,} streams, {live['events_per_s']:g} events/s each"
    return _aligned([[head, ""], *([label, _cell(live["rounds"], key, digits)] for label, key, digits in _LIVE)])


def bars(things: Mapping[str, Sequence[Mapping[str, Any]]], live: Mapping[str, Any] | None) -> list[Bar]:
    """``met`` is true, false, or None where a smaller size stood in for the one that the bar is about."""
    out: list[Bar] = []
    for found in things.values():
        for row in found[1:]:
            s = spread([r["ratio"] for r in row["rounds"]])
            assert s is not None
            label = f"{row['label']}: CPU per request to that of {found[0]['label']}"
            out.append({"label": label, "limit": FLAT, "value": s["median"], "spread": s, "met": s["median"] <= FLAT})
    if live:
        s = spread([r["rss_each_bytes"] for r in live["rounds"]])
        assert s is not None
        met = s["median"] <= STREAM_BYTES
        label = f"RSS per stream, bytes, with {live['streams']:,} streams"
        # Per stream, a crowd of a tenth already weighs what it weighs; a handful is pages of something else.
        known = live["streams"] >= STREAMS / 10
        out.append({"label": label, "limit": STREAM_BYTES, "value": s["median"], "spread": s, "met": met if known else None})
    return out


def verdict(found: Sequence[Bar]) -> str:
    words = {True: "met", False: "NOT MET", None: "not measured"}
    digits = [3 if bar["limit"] < 100 else 0 for bar in found]
    return "\n".join(
        f"{words[bar['met']]:>12}  {bar['label']} <= {bar['limit']:g}: "
        f"{bar['value']:,.{d}f} ({bar['spread']['min']:,.{d}f}..{bar['spread']['max']:,.{d}f})"
        for bar, d in zip(found, digits, strict=True)
    )
