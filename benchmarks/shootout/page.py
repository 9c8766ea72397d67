"""``docs/shootout.md``, written from a run's results: ``python -m benchmarks.shootout.page FILE``.

Owns: the page, and the order of its rows, which is by figure and by nothing else. Must never hold a figure that neither the
results nor `setups` do, nor set one of ours beside one of somebody else's machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shootout.setups import BY_KEY, ELSEWHERE, NOT_HERE, Published, Setup
from benchmarks.wire import report

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "shootout.md"
DIRECT = "direct"
_HELD = 0.99
_UNDER_WAY = 2
"""Whoever answers less of what was due, but for so many, has fallen behind: its latencies grow while the load lasts."""
_LATE_PERCENT = 1.0
_BUSY = 0.5
"""A load average above this is others at work: on two cores the order then says as much of them."""

_COLUMNS = (
    ("rps", "requests/s", 0),
    ("p50_ms", "p50, ms", 3),
    ("p99_ms", "p99, ms", 3),
    ("first_p50_ms", "first event p50, ms", 3),
    ("cpu_us", "CPU per request, µs", 1),
)
_HOW = """\
Others say what their gateways bear, each in a set-up of its own. Here their set-ups are run over fastgw and over all of the
others that a package registry has, in one run on one machine: the same engine, the same load, one core for the gateway.

    make shootout                              # installs what is missing, measures, writes this page
    python -m benchmarks.shootout --rounds 1 --only fastgw,nginx --setups fixed-3000

**The set-up.** The gateway, with all its threads, is alone on the second core, one worker each; `mockengine` and `loadgen`,
both in C, share the first. Each round starts each gateway afresh, one after another, every second round in the opposite order.
A cell is the median of the rounds and, in brackets, the least and the greatest: what lies within them is no difference. fastgw
checks keys and writes an access record per request; *(limits)* has every limit on and a quota in a store. nginx, haproxy and
envoy check nothing and write nothing; LiteLLM checks its key and has no database, Portkey passes keys on. Engines keep their
connections.

**What counts.** Before each load one plain answer and one stream are compared with the engine's own, by what they say; then
each answer is looked at: status 200, whole, with the engine's text, a stream with all its events and `[DONE]`. *Errors* counts
the others. Whoever answers something else is named, and not measured. *CPU* is of the gateway's whole process tree, by the
scheduler's account. A fixed rate is an open load: requests are due evenly, and a latency counts **from when its request was
due**. Whoever answers less than 99 % of a rate has fallen behind: what it shows then is how long its queue became. Where the
load tool itself sent more than 1 % of the requests over a millisecond late, its row says so.

**The order** of rows is by figure: at a fixed rate by p50 among those that keep it without an error, then by what is answered;
else by requests a second. *no proxy* is the load on the engine, and in no order.
"""


def _values(about: Mapping[str, Any], setup: Setup, key: str) -> list[float]:
    return [one[setup.key][key] for one in about["rounds"] if key in one.get(setup.key, ())]


def _middle(about: Mapping[str, Any], setup: Setup, key: str) -> float:
    found = report.spread(_values(about, setup, key))
    return found["median"] if found else 0.0


def _errors(about: Mapping[str, Any], setup: Setup) -> int:
    return int(sum(_values(about, setup, "bad")))


def _held(about: Mapping[str, Any], setup: Setup) -> bool:
    return not setup.rate or _middle(about, setup, "answered") >= _HELD * _middle(about, setup, "due") - _UNDER_WAY


def ranked(results: Mapping[str, Any], setup: Setup) -> list[str]:
    """Those that were measured in this set-up, but for direct, the best first."""
    proxies = results["proxies"]

    def place(name: str) -> tuple[bool, bool, float]:
        about = proxies[name]
        held = _held(about, setup)
        by_latency = held and setup.rate > 0
        figure = _middle(about, setup, "p50_ms") if by_latency else -_middle(about, setup, "rps")
        return _errors(about, setup) > 0, not held, figure

    return sorted((name for name in proxies if name != DIRECT and _values(proxies[name], setup, "rps")), key=place)


def _remark(about: Mapping[str, Any], setup: Setup) -> str:
    said = []
    if not _held(about, setup):
        share, once_sent = _middle(about, setup, "rps") / setup.rate * 100, _middle(about, setup, "answer_p50_ms")
        said.append(f"behind: {share:.0f} % of the rate; an answer takes {once_sent:,.1f} ms (p50) once sent")
    if (late := _middle(about, setup, "late_percent")) > _LATE_PERCENT:
        said.append(f"the load tool was late for {late:.1f} %")
    return "; ".join(said)


def _rows(results: Mapping[str, Any], setup: Setup) -> Iterator[list[str]]:
    columns = [column for column in _COLUMNS if column[0] != "first_p50_ms" or setup.streams]
    yield ["", "", *(label for _, label, _ in columns), "errors", ""]
    order = ranked(results, setup)
    for name in [name for name in (DIRECT, *order) if name in results["proxies"]]:
        about = results["proxies"][name]
        cells = [report.cell(report.spread(_values(about, setup, key)), digits) for key, _, digits in columns]
        place = str(order.index(name) + 1) if name in order else ""
        shown = f"**{name}**" if name.startswith("fastgw") else "*no proxy*" if name == DIRECT else name
        yield [place, shown, *cells, f"{_errors(about, setup):,}", _remark(about, setup)]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _published(one: Published) -> list[str]:
    return [f"{one.who}, {one.date}, <{one.address}>: {one.setup}.", "", *_table(one.figures), ""]


def _trouble(results: Mapping[str, Any]) -> list[str]:
    lines = [f"- **{name} answers wrongly**, and its figures do not count: {what}" for name, what in results["wrong"].items()]
    lines += [f"- **{name} failed**: {what}" for name, what in results["failed"].items()]
    return lines + [f"- {name} was not measured: {why}" for name, why in results["skipped"].items()]


def _setups(results: Mapping[str, Any]) -> list[Setup]:
    return [BY_KEY[key] for key in results["settings"]["setups"]]


def _of_all(results: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "version", "memory after all set-ups, MB", "exec to first answer, ms"]]
    for name, about in results["proxies"].items():
        if name == DIRECT or not about["rounds"]:
            continue
        spreads = (report.spread([one["of_all"][key] for one in about["rounds"]]) for key in ("rss_mb", "start_ms"))
        rows.append([name, about["version"] or "-", *(report.cell(spread, 0) for spread in spreads)])
    return rows


def measured(results: Mapping[str, Any]) -> str:
    """What was measured here alone: what a run prints."""
    out: list[str] = []
    for setup in _setups(results):
        out += [f"## {setup.title}", "", *_table(list(_rows(results, setup))), ""]
    return "\n".join([*out, *_table(_of_all(results)), "", *_trouble(results)])


def written(results: Mapping[str, Any], name: str) -> str:
    """The whole page. ``name``: the results' file in ``benchmarks/results``, without its ending."""
    about, settings = results["machine"], results["settings"]
    only = f" --only {settings['only']}" if settings["only"] else ""
    command = f"python -m benchmarks.shootout --seconds {settings['seconds']:g} --rounds {settings['rounds']}{only}"
    dirty = ", with changes that were not committed" if about["git_dirty"] else ""
    out = ["# Shoot-out", "", _HOW]
    if about["load_average"] > _BUSY:
        others = f"**Others were at work on this machine as this began (load average {about['load_average']:.1f})**"
        out += [f"{others}: latencies and the order of those that lie close say little, CPU per request somewhat more.", ""]
    out += [
        f"Measured {about['date'][:10]} by `{command}`: {about['cpu']}, {about['cores']} cores, Linux "
        f"{about['kernel'].partition('-')[0]}, Python {about['python']}, commit {about['git_commit'][:12] or 'none'}{dirty}; "
        f"all rounds are in [`{name}.json`](../benchmarks/results/{name}.json). Figures under *Published* are their authors', "
        "from their machines: they say what was claimed, and are not to be compared with ours.",
        "",
    ]
    for setup in _setups(results):
        out += [f"## {setup.title}", "", f"Here: {setup.here}.", "", *_table(list(_rows(results, setup))), ""]
        if setup.published:
            out += ["Published:", ""]
        for one in setup.published:
            out += _published(one)
    out += ["## Versions and memory", "", *_table(_of_all(results)), ""]
    if trouble := _trouble(results):
        out += [*trouble, ""]
    out += ["## Published, and not repeated", ""]
    for one in ELSEWHERE:
        out += _published(one)
    out += ["## Could not be installed", "", *_table([["", "why"], *NOT_HERE]), ""]
    return "\n".join(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.shootout.page benchmarks/results/FILE.json")
    PAGE.write_text(written(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[1]).stem))
