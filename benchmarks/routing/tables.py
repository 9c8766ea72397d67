"""From the rounds of a run to its table, its bars, and the section of ``benchmarks/README.md``.

Owns: the names of the figures, medians and spread, what is promised. Must never hold a figure that the results do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

COLUMNS = (
    ("ttft_mean_s", "mean TTFT, s", "{:.2f}"),
    ("ttft_p50_s", "p50, s", "{:.2f}"),
    ("ttft_p99_s", "p99, s", "{:.1f}"),
    ("hit_rate", "prompt tokens from caches", "{:.0%}"),
    ("imbalance", "busiest engine / mean", "{:.2f}"),
    ("failed", "failed", "{:.0f}"),
    ("router_cpu_ms", "router's CPU per request, ms", "{:.2f}"),
)
KEPT_UP_MS = 10.0
"""Engines or client that are later than this, one time in a hundred, did not keep up: such a run is marked."""


def middle(about: Mapping[str, Any], key: str) -> float:
    return median(one[key] for one in about["rounds"])


def cell(about: Mapping[str, Any], key: str, form: str) -> str:
    """The median, and the least and the greatest where there were more rounds than one."""
    values = [one[key] for one in about["rounds"]]
    least, most = form.format(min(values)), form.format(max(values))
    return form.format(median(values)) + (f" ({least}..{most})" if least != most else "")


def line(one: Mapping[str, Any]) -> str:
    """A round, for whoever looks on."""
    told = ", ".join(f"{label} {form.format(one[key])}" for key, label, form in COLUMNS)
    why = "; " + ", ".join(f"{count} × {why}" for why, count in one["why"].items()) if one["why"] else ""
    late = f"; engines late by {one['engines_late_p99_ms']:.0f} ms, client by {one['client_late_p99_ms']:.0f}"
    return told + why + late


def behind(about: Mapping[str, Any]) -> bool:
    return max(middle(about, "engines_late_p99_ms"), middle(about, "client_late_p99_ms")) > KEPT_UP_MS


def rows(case: Mapping[str, Any]) -> list[str]:
    out = [
        "| | " + " | ".join(label for _, label, _ in COLUMNS) + " | mean TTFT without sockets, s |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, about in sorted(case["routers"].items(), key=lambda entry: middle(entry[1], "ttft_mean_s")):
        shown = f"**{name}**" if name == "fastgw prefix_aware" else name
        note = " ¹" if behind(about) else ""
        alone = f"{about['discrete']['ttft_mean_s']:.2f}" if "discrete" in about else ""
        out.append(f"| {shown}{note} | " + " | ".join(cell(about, key, form) for key, _, form in COLUMNS) + f" | {alone} |")
    return out


def about_case(name: str, case: Mapping[str, Any]) -> str:
    routers = case["routers"].values()
    requests = max((one["requests"] for about in routers for one in about["rounds"]), default=0)
    sent = max((one["sent_mb"] for about in routers for one in about["rounds"]), default=0.0)
    return (
        f"{name}: {case['says']}. {case['sessions']} sessions, {requests:,} requests, {sent:.0f} MB of prompts, "
        f"{case['engines']} engines, {case['speed']:g} times as fast as written, seed {case['seed']}."
    )


def table(found: Mapping[str, Any]) -> str:
    parts = []
    for name, case in found["cases"].items():
        parts += [about_case(name, case), "", *rows(case), ""]
        if any(behind(about) for about in case["routers"].values()):
            parts += [f"¹ engines or client were late by more than {KEPT_UP_MS:g} ms, one time in a hundred.", ""]
    return "\n".join(parts)


def bars(found: Mapping[str, Any]) -> str:
    """What is promised, met or not, of the figures that there are."""
    of = {
        (case, name): {key: middle(about, key) for key, _, _ in COLUMNS}
        for case, entry in found["cases"].items() for name, about in entry["routers"].items()
    }  # fmt: skip
    out = []

    def bar(says: str, value: float | None, most: float) -> None:
        if value is not None:
            out.append(f"- **{'met' if value <= most else 'NOT MET'}**: {says} <= {most:g}: {value:.2f}")

    def ratio(case: str, one: str, other: str, key: str) -> float | None:
        if (case, one) not in of or (case, other) not in of:
            return None
        return of[case, one][key] / of[case, other][key]

    ours, turns = "fastgw prefix_aware", "fastgw round_robin"
    bar("prefix_aware's mean TTFT to round_robin's, conversations", ratio("conversations", ours, turns, "ttft_mean_s"), 0.5)
    bar("power_of_two's p99 to round_robin's, skew", ratio("skew", "fastgw power_of_two", turns, "ttft_p99_s"), 1.0)
    bar("prefix_aware's mean TTFT to that of sglang-router's cache_aware",
        ratio("conversations", ours, "sglang-router cache_aware", "ttft_mean_s"), 1.0)  # fmt: skip
    for case in ("conversations", "skew"):
        if (case, ours) in of:
            bar(f"prefix_aware's busiest engine to the mean, {case}", of[case, ours]["imbalance"], 1.5)
    failed = [figures["failed"] for (_, name), figures in of.items() if name.startswith("fastgw")]
    if failed:
        bar("requests of fastgw's that failed", sum(failed), 0)
    return "\n".join(out)


def section(found: Mapping[str, Any], name: str) -> str:
    """What stands between the marks of the page. ``name``: of the results' file."""
    about = found["machine"]
    commit = about["git_commit"][:12] or "none"
    how = ", at real-time priority" if about.get("realtime") else ""
    versions = sorted({entry["version"] for case in found["cases"].values() for entry in case["routers"].values()} - {""})
    return "\n".join([
        f"`python -m benchmarks.routing --sockets`, {about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Python "
        f"{about['python']}, commit {commit}{how}; {', '.join(versions)}; times are those of the trace; all of it in "
        f"[`results/{name}.json`](results/{name}.json).",
        "",
        f"![Mean and 99th percentile of the time to the first token, by router](results/{name}.svg)",
        "",
        table(found),
        bars(found),
    ])  # fmt: skip
