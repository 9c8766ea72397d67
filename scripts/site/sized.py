"""The figures of ``docs/sizing.md``, taken over from those of ``docs/performance.md`` and reckoned per core; by ``make docs``.

Must never: have a figure of its own. A row that the other page does not have any more is a mistake, and is told by its name.
"""

from __future__ import annotations

import re
from typing import Final

from scripts.locked import ROOT

PAGE: Final = ROOT / "docs" / "sizing.md"
MEASURED: Final = ROOT / "docs" / "performance.md"
COLUMN: Final = "fastgw (limits)"
BEGIN, END = "<!-- sized: written by make docs, from performance.md -->", "<!-- sized: end -->"
SHARE: Final = 0.7
"""Of a core: what is left is for bursts, and for a loop that is never late."""

COSTS: Final = {
    "CPU per plain request, µs": "a short request, answered whole",
    "CPU per request, a connection each, µs": "the same, over a new connection each time",
    "CPU per request, body of 20 kB, µs": "a request with a prompt of 20 kB",
    "CPU per request, body of 200 kB, µs": "a request with a prompt of 200 kB",
    "CPU per streamed event, paced, µs": "an event of a stream, on an idle gateway",
    "CPU per streamed event, 512 paced streams, µs": "the same, with 512 streams",
    "CPU per streamed event, 10,000 streams, µs": "the same, with 10,000 streams of 2 events a second",
}
AMOUNTS: Final = {
    "RSS idle, MB": "MB at rest",
    "RSS after load, MB": "MB after load",
    "RSS per live stream, kB": "kB for each live stream",
}


def figures(text: str) -> dict[str, float]:
    """The medians of the column, by their row."""
    section = text.partition("<!-- figures: written")[2].partition("<!-- figures: end")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    at = rows[0].index(COLUMN)
    found = {row[0]: re.match(r"[\d,]+(?:\.\d+)?", row[at]) for row in rows[2:]}
    return {name: float(figure[0].replace(",", "")) for name, figure in found.items() if figure}


def block(text: str) -> str:
    """The two tables."""
    found = figures(text)
    if gone := [name for name in (*COSTS, *AMOUNTS) if name not in found]:
        raise SystemExit(f"sizing: docs/performance.md has no row {', '.join(gone)}")
    said = [f"| what | CPU, µs | {SHARE:.0%} of a core does, a second |".replace("%", " %"), "|---|---|---|"]
    for name, what in COSTS.items():
        many = int(SHARE * 1e6 / found[name])
        said.append(f"| {what} | {found[name]:g} | {round(many, 2 - len(str(many))):,} |")
    said += ["", "| memory | |", "|---|---|"]
    said += [f"| {what} | {found[name]:g} |" for name, what in AMOUNTS.items()]
    return "\n".join(said)


def sized(page: str, text: str) -> str:
    """The page with the figures of now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{block(text)}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    PAGE.write_text(sized(PAGE.read_text(encoding="utf-8"), MEASURED.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
