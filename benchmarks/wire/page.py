"""What was measured, as two pages show it, written from a run's results: ``python -m benchmarks.wire.page FILE``.

Owns: what stands between the marks on ``benchmarks/README.md`` (all proxies, few figures) and ``docs/performance.md`` (all
figures, the proxies in C). Must never hold a figure that the results do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.wire import chart, report

PAGE = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- measured: written by python -m benchmarks.wire.page -->"
END = "<!-- measured: end -->"
PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"
FIGURES = "<!-- figures: written by python -m benchmarks.wire.page -->", "<!-- figures: end -->"
WHERE = "<!-- where: written by python -m benchmarks.wire.where -->", "<!-- where: end -->"

COLUMNS = (
    ("cpu_plain_us", "CPU per plain request, µs", 1),
    ("cpu_flood_us", "CPU per event, unpaced, µs", 1),
    ("cpu_event_us", "CPU per event, paced, µs", 1),
    ("one_p50_us", "one connection p50, µs", 0),
    ("one_p99_us", "one connection p99, µs", 0),
    ("ttft_p50_added_us", "first event p50 added, µs", 0),
    ("rps", "plain requests/s", 0),
    ("rss_idle_mb", "RSS idle, MB", 1),
    ("rss_soaked_mb", "RSS after 1,000,000 requests, MB", 1),
    ("start_ms", "exec to first served request, ms", 0),
)
H2 = "<!-- h2: written by python -m benchmarks.wire.page -->", "<!-- h2: end -->"
H2_COLUMNS = (
    ("cpu_plain_us", "CPU per plain request, µs", 1),
    ("cpu_plain_512_us", "512 clients, µs", 1),
    ("cpu_flood_us", "CPU per event, unpaced, µs", 1),
    ("cpu_event_us", "CPU per event, 64 paced streams, µs", 1),
    ("cpu_event_512_us", "512 paced streams, µs", 1),
    ("one_p50_us", "one connection p50, µs", 0),
    ("ttft_p50_us", "first event p50, µs", 0),
)
_SHOWN = ("direct", "floor", "fastgw", "fastgw (limits)", "nginx", "haproxy")


Columns = Sequence[tuple[str, str, int]]


def of_h2(results: Mapping[str, Any]) -> bool:
    """Whether a run was of engines over HTTP/2, and not of all proxies."""
    return "floor" not in results["proxies"] and any("h2" in name for name in results["proxies"])


def _table(results: Mapping[str, Any], shown: Columns = COLUMNS) -> list[str]:
    measured = {name: about["summary"] for name, about in results["proxies"].items()}
    columns = [c for c in shown if any(c[0] in s for s in measured.values())]
    lines = ["| | " + " | ".join(label for _, label, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, summary in measured.items():
        lines.append(f"| {name} | " + " | ".join(report.cell(summary.get(key), digits) for key, _, digits in columns) + " |")
    return lines


def _taken(results: Mapping[str, Any], where: str, name: str) -> str:
    """The command, the machine, and where all rounds lie: below ``where``, as the page has to say it."""
    about, settings = results["machine"], results["settings"]
    rows = " --rows all" if "streams" in settings.get("rows", ()) else ""
    rows = f" --only {settings['only']}" if settings.get("only") else rows
    command = f"`python -m benchmarks.wire --seconds {settings['seconds']:g} --rounds {settings['rounds']}{rows}`"
    dirty = ", with changes that were not committed" if about["git_dirty"] else ""
    return (
        f"{command}, {about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel'].partition('-')[0]}, "
        f"Python {about['python']}, commit {about['git_commit'][:12] or 'none'}{dirty}; {settings['connections']} connections; "
        f"median (least..greatest) of the rounds, all of them in [`results/{name}.json`]({where}results/{name}.json)."
    )


def section(results: Mapping[str, Any], name: str) -> str:
    """For ``benchmarks/README.md``; ``name``: the results' file in ``benchmarks/results``, without its ending."""
    h2 = of_h2(results)
    out = [
        _taken(results, "", name),
        "",
        f"![CPU time per request and per event, one row per proxy](results/{name}.svg)",
        "",
        *_table(results, H2_COLUMNS if h2 else COLUMNS),
        "",
    ]
    versions = [about["version"] for about in results["proxies"].values() if about["version"]]
    out += ["Versions: " + ", ".join(dict.fromkeys(versions)) + "."]
    out += [f"{proxy}: {entry['note']}." for proxy, entry in results["proxies"].items() if entry.get("note")]
    out += [f"Not measured: {proxy}, {why}." for proxy, why in results["skipped"].items()]
    out += [f"Failed: {proxy}." for proxy in results["failed"]]
    out += ["", "The bars:", ""]
    bars = [bar for bar in results["bars"] if not h2 or "h2" in bar["name"]]
    out += [f"- **{report.word(bar['met'])}**: {report.bar_line(bar)}" for bar in bars]
    return "\n".join(out)


def figures(results: Mapping[str, Any], name: str) -> str:
    """For ``docs/performance.md``: a row per figure, a column for each of those in C and fastgw, and its ratio to nginx."""
    measured = {n: about["summary"] for n, about in results["proxies"].items() if n in _SHOWN}
    beside = results["ratios"].get("fastgw/nginx", {})
    out = [_taken(results, "../benchmarks/", name), ""]
    out += ["| | " + " | ".join(measured) + " | fastgw/nginx |", "|---" * (len(measured) + 2) + "|"]
    for metric in report.METRICS:
        cells = [report.cell(summary.get(metric.key), metric.digits) for summary in measured.values()]
        if any(cell != "-" for cell in cells):
            share = f"{beside[metric.key]['median']:.2f}" if metric.key in beside else ""
            out.append(f"| {metric.label.strip()} | " + " | ".join(cells) + f" | {share} |")
    return "\n".join(out)


def put(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between the marks. Raises `ValueError` where the page has not both."""
    begin, end = marks
    before, begun, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{page} has not both marks: {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def publish(file: Path) -> None:
    """Put the chart beside the results and the sections onto the pages."""
    results = json.loads(file.read_text())
    if of_h2(results):
        put(PAGE, H2, section(results, file.stem))
    else:
        put(PAGE, (BEGIN, END), section(results, file.stem))
        put(PERFORMANCE, FIGURES, figures(results, file.stem))
    file.with_suffix(".svg").write_text(chart.draw(results))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.wire.page benchmarks/results/FILE.json")
    publish(Path(sys.argv[1]))
