"""From rounds to a table and a verdict.

Owns: the metrics' names and units, medians and spread, the ratios between proxies, the bars. The bars are the only figures
that are written down here; everything else comes out of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.wire.rows import ROWS

Figures = Mapping[str, float]
Rounds = Mapping[str, Sequence[Figures]]

BASELINE = "direct"
_ADDED = (
    *("one_p50_us", "one_p99_us", "ttft_p50_us", "ttft_p99_us", "event_p50_us", "event_p99_us"),
    *("ttft_512_p50_us", "event_512_p99_us", "stream_p50_us", "stream_p99_us"),
)


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
    Metric("cpu_flood_us", "CPU per streamed event, unpaced, µs"),
    Metric("cpu_event_us", "CPU per streamed event, paced, µs"),
    Metric("cpu_plain_512_us", "CPU per plain request, 512 clients, µs"),
    Metric("cpu_plain_1000_us", "CPU per plain request, 1,000 clients, µs"),
    Metric("cpu_event_512_us", "CPU per streamed event, 512 paced streams, µs"),
    Metric("cpu_body_2k_us", "CPU per request, body of 2 kB, µs"),
    Metric("cpu_body_20k_us", "CPU per request, body of 20 kB, µs"),
    Metric("cpu_body_200k_us", "CPU per request, body of 200 kB, µs"),
    Metric("cpu_body_800k_us", "CPU per request, body of 800 kB, µs"),
    Metric("cpu_close_us", "CPU per request, a connection each, µs"),
    Metric("cpu_stream_us", "CPU per streamed event, 10,000 streams, µs"),
    Metric("dials_percent", "connections made to the engine, % of requests", 2),
    Metric("dials_512_percent", "connections made to the engine, 512 clients, % of requests", 2),
    Metric("dials_1000_percent", "connections made to the engine, 1,000 clients, % of requests", 2),
    Metric("rps", "plain requests/s", 0),
    Metric("core_percent", "  its core in use meanwhile, %", 0),
    Metric("rps_512", "plain requests/s, 512 clients", 0),
    Metric("rps_1000", "plain requests/s, 1,000 clients", 0),
    Metric("flood_per_s", "events/s, unpaced", 0),
    Metric("rps_body_2k", "requests/s, body of 2 kB", 0),
    Metric("rps_body_20k", "requests/s, body of 20 kB", 0),
    Metric("rps_body_200k", "requests/s, body of 200 kB", 0),
    Metric("rps_body_800k", "requests/s, body of 800 kB", 0),
    Metric("rps_close", "requests/s, a connection each", 0),
    Metric("one_p50_us", "one connection, latency p50, µs"),
    Metric("one_p99_us", "one connection, latency p99, µs"),
    Metric("ttft_p50_us", "time to first event p50, µs"),
    Metric("ttft_p99_us", "time to first event p99, µs"),
    Metric("event_p50_us", "event one-way p50, µs"),
    Metric("event_p99_us", "event one-way p99, µs"),
    Metric("events_per_s", "events/s, paced", 0),
    Metric("ttft_512_p50_us", "time to first event p50, 512 paced streams, µs"),
    Metric("event_512_p99_us", "event one-way p99, 512 paced streams, µs"),
    Metric("events_512_per_s", "events/s, 512 paced streams", 0),
    Metric("streams", "streams of 2 events/s", 0),
    Metric("stream_core_percent", "  their share of its core, %", 0),
    Metric("stream_p50_us", "  event one-way p50, 10,000 streams, µs", 0),
    Metric("stream_p99_us", "  event one-way p99, 10,000 streams, µs", 0),
    Metric("rss_stream_kb", "  RSS per live stream, kB", 2),
    Metric("rss_idle_mb", "RSS idle, MB"),
    Metric("rss_loaded_mb", "RSS after load, MB"),
    Metric("rss_soaked_mb", "RSS after 1,000,000 more requests, MB"),
    Metric("start_ms", "exec to first served request, ms"),
    Metric("start_turn_ms", "exec to first served request, in turns with a bare interpreter, ms"),
    Metric("start_bare_ms", "  that interpreter with its two imports, ms"),
    Metric("start_ratio", "  the first by the second, turn by turn", 2),
    Metric("bad", "bad answers", 0),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: ``name``'s figure, or where ``per`` is given its ratio to that proxy's, round by round.

    ``least``: the ratio is turned over, and the limit is the least that it may be. ``minus``: not a ratio, the difference.
    """

    label: str
    key: str
    limit: float
    unit: str = ""
    name: str = "fastgw"
    per: str | None = None
    least: bool = False
    minus: str | None = None


def _to_nginx(label: str, key: str) -> Bar:
    return Bar(f"{label}, fastgw/nginx", key, 1.0, per="nginx")


def _h2(label: str, key: str, limit: float, per: str) -> Bar:
    """An engine over HTTP/2."""
    name = "fastgw (limits, h2)"
    return Bar(f"{label}, {name}/{per}", key, limit, name=name, per=per)


BARS = (
    _to_nginx("CPU per plain request", "cpu_plain_us"),
    Bar("CPU per plain request, fastgw/floor", "cpu_plain_us", 1.4, per="floor"),
    Bar("CPU per plain request, sglang-router/fastgw", "cpu_plain_us", 4.0, per="sglang-router", least=True),
    Bar("CPU per plain request, fastgw (limits)/nginx", "cpu_plain_us", 1.0, name="fastgw (limits)", per="nginx"),
    Bar("CPU per plain request, fastgw (limits)/nginx, the aim", "cpu_plain_us", 0.85, name="fastgw (limits)", per="nginx"),
    Bar("CPU per plain request, fastgw (limits)/floor, the aim", "cpu_plain_us", 1.3, name="fastgw (limits)", per="floor"),
    Bar("CPU per plain request, every limit on less all off", "cpu_plain_us", 3.0, " µs", "fastgw (limits)", minus="fastgw"),
    _to_nginx("CPU per plain request, 512 clients", "cpu_plain_512_us"),
    _to_nginx("CPU per plain request, 1,000 clients", "cpu_plain_1000_us"),
    Bar("connections made to the engine, share of requests", "dials_percent", 1.0, " %"),
    Bar("connections made to the engine, 512 clients", "dials_512_percent", 1.0, " %"),
    Bar("connections made to the engine, 1,000 clients", "dials_1000_percent", 1.0, " %"),
    _to_nginx("CPU per request, a connection each", "cpu_close_us"),
    _to_nginx("CPU per request, body of 2 kB", "cpu_body_2k_us"),
    _to_nginx("CPU per request, body of 20 kB", "cpu_body_20k_us"),
    _to_nginx("CPU per request, body of 200 kB", "cpu_body_200k_us"),
    _to_nginx("CPU per request, body of 800 kB", "cpu_body_800k_us"),
    _to_nginx("CPU per streamed event, unpaced", "cpu_flood_us"),
    _to_nginx("CPU per streamed event, paced", "cpu_event_us"),
    _to_nginx("CPU per streamed event, 512 paced streams", "cpu_event_512_us"),
    _to_nginx("one connection, latency p50", "one_p50_us"),
    _to_nginx("one connection, latency p99", "one_p99_us"),
    Bar("time to first event p50, added", "ttft_p50_added_us", 1000, " µs"),
    Bar("time to first event p99, added", "ttft_p99_added_us", 1000, " µs"),
    Bar("time to first event p50, fastgw less nginx", "ttft_p50_us", 20, " µs", minus="nginx"),
    _to_nginx("10,000 streams, event one-way p99", "stream_p99_us"),
    Bar("10,000 streams, RSS of each", "rss_stream_kb", 6, " kB"),
    Bar("exec to first served request", "start_ms", 100, " ms"),
    Bar("exec to first served request, to a bare interpreter's run", "start_ratio", 1.5),
    Bar("RSS idle", "rss_idle_mb", 32, " MB"),
    Bar("RSS after 1,000,000 requests", "rss_soaked_mb", 50, " MB"),
    _h2("CPU per plain request, every limit on", "cpu_plain_us", 0.8, "fastgw (limits)"),
    _h2("CPU per plain request, every limit on", "cpu_plain_us", 0.85, "nginx"),
    _h2("CPU per plain request, every limit on", "cpu_plain_us", 1.1, "haproxy (h2)"),
    _h2("CPU per streamed event, unpaced, every limit on", "cpu_flood_us", 0.95, "fastgw (limits)"),
    _h2("CPU per streamed event, paced, every limit on", "cpu_event_us", 0.95, "fastgw (limits)"),
    _h2("CPU per streamed event, 512 paced streams, every limit on", "cpu_event_512_us", 0.95, "fastgw (limits)"),
    Bar("CPU per plain request, fastgw (python)/nginx", "cpu_plain_us", 1.6, name="fastgw (python)", per="nginx"),
)
RATIOS = (
    *(row.cpu for row in ROWS),
    *("cpu_stream_us", "stream_p99_us", "rss_stream_kb"),
    *("rps", "one_p50_us", "one_p99_us", "ttft_p50_us", "ttft_p99_us", "event_p50_us", "event_p99_us"),
    *("rss_idle_mb", "start_ms"),
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


def summary(rounds: Rounds, metrics: Sequence[Metric] = METRICS) -> dict[str, dict[str, dict[str, float]]]:
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, figures in rounds.items():
        cells = {m.key: spread([f[m.key] for f in figures if m.key in f]) for m in metrics}
        out[name] = {k: v for k, v in cells.items() if v is not None}
    return out


def ratio(rounds: Rounds, key: str, name: str, per: str) -> dict[str, float] | None:
    """Round by round, as the two stood beside each other, and of the two medians; None where one of them is missing."""
    sides = zip(rounds.get(name, ()), rounds.get(per, ()), strict=False)
    pairs = [(a[key], b[key]) for a, b in sides if key in a and b.get(key)]
    known = [(a, b) for a, b in pairs if not math.isnan(a) and not math.isnan(b)]
    found = spread([a / b for a, b in known])
    return found and found | {"of_medians": median(a for a, _ in known) / median(b for _, b in known)}


def ratios(rounds: Rounds, name: str = "fastgw", per: str = "nginx") -> dict[str, dict[str, float]]:
    found = {key: ratio(rounds, key, name, per) for key in RATIOS}
    return {k: v for k, v in found.items() if v is not None}


def all_ratios(rounds: Rounds) -> dict[str, dict[str, dict[str, float]]]:
    """Each of fastgw's two against everything else that was measured: ``{"fastgw/nginx": {figure: ratio}}``."""
    own = [n for n in rounds if n.startswith("fastgw")]
    found = {f"{name}/{per}": ratios(rounds, name, per) for name in own for per in rounds if per not in (*own, BASELINE)}
    return {pair: shares for pair, shares in found.items() if shares}


_RATES = {row.rate: f"{'events' if row.events else 'requests'}/s, {row.name}" for row in ROWS if row.latency is None} | {
    "rps": "plain requests/s",
    "flood_per_s": "unpaced events/s",
}
"""The loads that go as fast as they can: what each is called beside a number of times."""


def headroom(rounds: Rounds) -> dict[str, float]:
    """How many times the fastest proxy's rate engine and load generator reach by themselves, on one core together."""
    out: dict[str, float] = {}
    for key in _RATES:
        found = {n: spread([f[key] for f in figures if key in f]) for n, figures in rounds.items()}
        rates = {n: s["median"] for n, s in found.items() if s}
        others = [rate for n, rate in rates.items() if n != BASELINE]
        if others and max(others) > 0 and BASELINE in rates:
            out[key] = rates[BASELINE] / max(others)
    return out


def bars(rounds: Rounds, promised: Sequence[Bar] = BARS) -> list[dict[str, Any]]:
    """Each bar with the measured median and whether it is met: true, false, or None when it was not measured."""
    out: list[dict[str, Any]] = []
    for bar in promised:
        if bar.per:
            ends = (bar.per, bar.name) if bar.least else (bar.name, bar.per)
            got = ratio(rounds, bar.key, *ends)
        elif bar.minus:
            sides = zip(rounds.get(bar.name, ()), rounds.get(bar.minus, ()), strict=False)
            got = spread([a[bar.key] - b[bar.key] for a, b in sides if bar.key in a and bar.key in b])
        else:
            got = spread([f[bar.key] for f in rounds.get(bar.name, ()) if bar.key in f])
        value = got["median"] if got else None
        met = None if value is None else value >= bar.limit if bar.least else value <= bar.limit
        out.append({**asdict(bar), "value": value, "spread": got, "met": met})
    return out


def cell(s: Mapping[str, float] | None, digits: int) -> str:
    """``median (least..greatest)``."""
    if s is None:
        return "-"
    middle = f"{s['median']:,.{digits}f}"
    return middle if s["min"] == s["max"] else f"{middle} ({s['min']:,.{digits}f}..{s['max']:,.{digits}f})"


_WIDEST = 150


def block(rows: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]) -> str:
    """Aligned lines: the first column and those of ``columns``, the first row underlined."""
    lines = [r[0].ljust(widths[0]) + "".join(f"  {r[c]:>{widths[c]}}" for c in columns) for r in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float]]], metrics: Sequence[Metric] = METRICS) -> str:
    """One row per figure, one column per proxy, as many columns beside each other as a terminal shows."""
    names = list(summaries)
    rows = [["", *names]]
    rows += [[m.label, *(cell(summaries[n].get(m.key), m.digits) for n in names)] for m in metrics]
    rows = [r for r in rows if any(c != "-" for c in r[1:])]
    widths = [max(len(r[i]) for r in rows) for i in range(len(names) + 1)]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(names) + 1):
        if blocks[-1] and widths[0] + sum(widths[c] + 2 for c in [*blocks[-1], column]) > _WIDEST:
            blocks.append([])
        blocks[-1].append(column)
    return "\n\n".join(block(rows, widths, columns) for columns in blocks)


def bar_line(bar: Mapping[str, Any]) -> str:
    """One bar and what was measured, without the word whether it is met."""
    sign = ">=" if bar.get("least") else "<="
    got = "" if bar["value"] is None else f": {cell(bar['spread'], 2 if bar['per'] or bar.get('minus') else 1)}{bar['unit']}"
    if bar["value"] is not None and "of_medians" in bar["spread"]:
        got += f", of the medians {bar['spread']['of_medians']:.2f}"
    return f"{bar['label']} {sign} {bar['limit']:g}{bar['unit']}{got}"


def word(met: bool | None) -> str:
    return {True: "met", False: "NOT MET", None: "not measured"}[met]


def verdict(found: Sequence[Mapping[str, Any]], shares: Mapping[str, float]) -> str:
    """Each bar, met or not, after how far the measuring tools themselves are from being what is measured."""
    lines = []
    if shares:
        lines.append("engine and load generator by themselves, on one core:")
        lines += [f"{share:>12.2f} of the fastest proxy's {_RATES[key]}" for key, share in shares.items()]
    lines += [f"{word(bar['met']):>12}  {bar_line(bar)}" for bar in found]
    return "\n".join(lines)
