"""The measured section of ``benchmarks/README.md``, written from a run's results: ``python -m benchmarks.wire.page FILE``.

Owns: what stands between the two marks on that page. Must never hold a figure that the results do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.wire import chart, report

PAGE = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- measured: written by python -m benchmarks.wire.page -->"
END = "<!-- measured: end -->"

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


def _table(results: Mapping[str, Any]) -> list[str]:
    measured = {name: about["summary"] for name, about in results["proxies"].items()}
    columns = [c for c in COLUMNS if any(c[0] in s for s in measured.values())]
    lines = ["| | " + " | ".join(label for _, label, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, summary in measured.items():
        lines.append(f"| {name} | " + " | ".join(report.cell(summary.get(key), digits) for key, _, digits in columns) + " |")
    return lines


def section(results: Mapping[str, Any], name: str) -> str:
    """``name``: the results' file in ``benchmarks/results``, without its ending."""
    about, settings = results["machine"], results["settings"]
    taken = f"`python -m benchmarks.wire --seconds {settings['seconds']:g} --rounds {settings['rounds']}`"
    dirty = ", with changes that were not committed" if about["git_dirty"] else ""
    out = [
        f"{taken}, {about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel'].partition('-')[0]}, "
        f"Python {about['python']}, commit {about['git_commit'][:12] or 'none'}{dirty}; {settings['connections']} connections; "
        f"median (least..greatest) of the rounds, all of them in [`results/{name}.json`](results/{name}.json).",
        "",
        f"![CPU time per request and per event, one row per proxy](results/{name}.svg)",
        "",
        *_table(results),
        "",
    ]
    versions = [about["version"] for about in results["proxies"].values() if about["version"]]
    out += ["Versions: " + ", ".join(dict.fromkeys(versions)) + "."]
    out += [f"{proxy}: {entry['note']}." for proxy, entry in results["proxies"].items() if entry.get("note")]
    out += [f"Not measured: {proxy}, {why}." for proxy, why in results["skipped"].items()]
    out += [f"Failed: {proxy}." for proxy in results["failed"]]
    out += ["", "The bars:", ""]
    out += [f"- **{report.word(bar['met'])}**: {report.bar_line(bar)}" for bar in results["bars"]]
    return "\n".join(out)


def publish(file: Path) -> None:
    """Put the chart beside the results and the section onto the page."""
    results = json.loads(file.read_text())
    text = PAGE.read_text()
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"{PAGE} has not both marks: {BEGIN} and {END}")
    file.with_suffix(".svg").write_text(chart.draw(results))
    PAGE.write_text(f"{before}{BEGIN}\n{section(results, file.stem)}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.wire.page benchmarks/results/FILE.json")
    publish(Path(sys.argv[1]))
