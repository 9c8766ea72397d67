"""The tables of a run, and which bars it missed.

Owns: the wording, and the measured section of ``docs/security.md``: a test holds the two together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN: Final = "<!-- measured: written by python -m benchmarks.hostile --publish -->"
END: Final = "<!-- end of measured -->"

FLOOD_P50_MS: Final = 10.0
FLOOD_P99_MS: Final = 50.0
STALL_MS: Final = 50.0


def line(twin: str, row: dict[str, Any], plain: dict[str, Any]) -> str:
    per_byte = "" if row["ns_per_byte"] is None else f", {row['ns_per_byte']:.1f} ns a byte"
    return f"{twin}: {row['name']}: {row['us_per_request']:.1f} µs a request{per_byte}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def tables(result: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    parts = []
    twins = result["twins"]
    names = [twin for twin in twins if "attacks" in twins[twin]]
    if names:
        rows = ["| sent | what | bytes | " + " | ".join(f"µs a request, {twin} | ns a byte, {twin}" for twin in names) + " |"]
        rows.append("|---|---|---|" + "---|---|" * len(names))
        for at, first in enumerate(twins[names[0]]["attacks"]):
            cells = []
            for twin in names:
                row = twins[twin]["attacks"][at]
                cells += [_number(row["us_per_request"]), _number(row["ns_per_byte"])]
            rows.append(f"| {first['name']} | {first['says']} | {first['bytes']} | " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    names = [twin for twin in twins if "memory" in twins[twin]]
    if names:
        head = " | ".join(f"bytes a connection, {twin} | bytes a byte sent, {twin}" for twin in names)
        rows = [f"| held | what | {head} |", "|---|---|" + "---|---|" * len(names)]
        for at, first in enumerate(twins[names[0]]["memory"]):
            cells = []
            for twin in names:
                row = twins[twin]["memory"][at]
                cells += [_number(row["bytes_per_connection"]), _number(row["per_byte"])]
            rows.append(f"| {first['name']} | {first['says']} | " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    names = [twin for twin in twins if "stalls" in twins[twin]]
    if names:
        rows = [f"| while one body of {result['large_mib']} MiB is read | " + " | ".join(
            f"another client's worst, ms, {twin}" for twin in names) + " |", "|---|" + "---|" * len(names)]  # fmt: skip
        for at, first in enumerate(twins[names[0]]["stalls"]):
            rows.append(
                f"| {first['name']} | " + " | ".join(_number(twins[twin]["stalls"][at]["worst_ms"]) for twin in names) + " |"
            )
        parts.append("\n".join(rows))
    if result.get("floods"):
        rows = [
            "| while 100 connections flood | another client's p50, ms | p99, ms | worst, ms |",
            "|---|---|---|---|",
        ]
        rows += [f"| {name} | {_number(row['p50_ms'])} | {_number(row['p99_ms'])} | {_number(row['worst_ms'])} |"
                 for name, row in result["floods"].items()]  # fmt: skip
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def missed(result: dict[str, Any]) -> list[str]:
    """The promises that this run did not keep."""
    found = []
    for name, row in result.get("floods", {}).items():
        p50, p99 = row["p50_ms"], row["p99_ms"]
        if name.startswith("fastgw") and (p50 > FLOOD_P50_MS or p99 > FLOOD_P99_MS):
            found.append(f"{name}, flooded: p50 {p50:.1f} ms (bar {FLOOD_P50_MS:g}), p99 {p99:.1f} ms (bar {FLOOD_P99_MS:g})")
    found += [
        f"native, {row['name']}: another client waited {row['worst_ms']:.0f} ms (bar {STALL_MS:g})"
        for row in result["twins"].get("native", {}).get("stalls", [])
        if row["worst_ms"] > STALL_MS
    ]
    return found


def section(result: dict[str, Any], name: str) -> str:
    """The measured section of the page."""
    facts = result["machine"]
    where = f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}"
    return (
        f"{BEGIN}\n`python -m benchmarks.hostile --seconds {result['seconds']:g}`, {facts['date'][:10]}, {where}; all figures "
        f"in [`results/{name}`](../benchmarks/results/{name}).\n\n{tables(result)}\n{END}"
    )


def publish(result: dict[str, Any], name: str) -> None:
    text = PAGE.read_text()
    start, end = text.index(BEGIN), text.index(END) + len(END)
    PAGE.write_text(text[:start] + section(result, name) + text[end:])


def published() -> tuple[str, str]:
    """The measured section as it stands on the page, and as its results file has it."""
    text = PAGE.read_text()
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    name = found.partition("results/")[2].partition("`")[0]
    result = json.loads((PAGE.parents[1] / "benchmarks" / "results" / name).read_text())
    return found, section(result, name)
