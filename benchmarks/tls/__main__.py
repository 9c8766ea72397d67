"""``python -m benchmarks.tls``: both fronts in turns in each round, before one engine, then the table.

    python -m benchmarks.tls [--seconds 1] [--rounds 3] [--only fastgw,nginx] [--rows requests,cpu_new_ec_us] [--more FILE]
                             [--out FILE] [--publish]

It needs h2load, openssl, nginx and a C compiler. Exit status: 0 measured, 1 a front failed or gave a bad answer, 2 it could not
begin.
"""

from __future__ import annotations

import argparse
import json
import shutil
import ssl
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.tls import report
from benchmarks.tls.fronts import NAMES, certificates, running
from benchmarks.tls.loads import Run
from benchmarks.wire import chart, machine, page, process, tools
from benchmarks.wire.measure import Failed, Figures
from benchmarks.wire.proxies import Fastgw, Nginx
from benchmarks.wire.report import bars, ratio, summary, table, verdict

RESULTS = Path(__file__).parents[1] / "results"
MARKS = "<!-- tls: written by python -m benchmarks.tls --publish -->", "<!-- tls: end -->"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.tls", description="What TLS and HTTP/2 to clients cost.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a load, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--rows", default=",".join(report.GROUPS), help=f"any of {', '.join(report.GROUPS)}, or single ones")
    parser.add_argument("--more", type=Path, metavar="FILE", help="rounds that were measured before, of the same rows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    parser.add_argument("--publish", action="store_true", help="also write the measured section of benchmarks/README.md")
    return parser.parse_args(argv)


def one_round(names: list[str], rows: list[report.Row], engine: int, run: Run) -> dict[str, Figures]:
    """All of ``names`` are up, and each row goes through them before the next begins: what is compared lies a second apart, and
    one that only waits uses no CPU time. Raises `Failed`."""
    found: dict[str, Figures] = {name: {} for name in names}
    for start in dict.fromkeys(row.start for row in rows):
        with ExitStack() as stack:
            up = [stack.enter_context(running(name, start[0], engine, run.cores, run.folder)) for name in names]
            for row in rows:
                if row.start == start:
                    for front in up:
                        found[front.name][row.key] = row.take(front, run)
                    told = ", ".join(f"{name} {figures[row.key]:.1f}" for name, figures in found.items())
                    process.say(f"  {row.label}: {told}")
    return found


def measured(options: argparse.Namespace, rows: list[report.Row], before: int) -> tuple[dict[str, list[Figures]], bool]:
    """The rounds by name, and whether nothing failed."""
    names = options.only.split(",")
    cores = process.choose_cores()
    process.descriptors()
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    with TemporaryDirectory(prefix="tls-keys-") as place, tools.engine(cores.load) as engine:
        folder = Path(place)
        folder.chmod(0o755)
        certificates(folder)
        run = Run(cores, folder, options.seconds)
        for number in range(before, before + options.rounds):
            process.say(f"round {number + 1}")
            try:
                figures = one_round(names if number % 2 == 0 else names[::-1], rows, engine, run)
            except Failed as error:
                process.say(f"  failed: {error}")
                return taken, False
            for name, one in figures.items():
                taken[name].append(one)
    return taken, True


def results(taken: dict[str, list[Figures]], about: dict[str, Any], seconds: float, pinned: bool) -> dict[str, Any]:
    """As they go to the file; page, chart and table are made from it."""
    versions = {"fastgw": Fastgw().version(), "nginx": Nginx().version()}
    told = summary(taken, report.METRICS)
    ratios = {row.key: ratio(taken, row.key, "fastgw", "nginx") for row in report.ROWS}
    return {
        "schema": 1,
        "machine": about,
        "settings": {
            "seconds": seconds,
            "rounds": max(len(rounds) for rounds in taken.values()),
            "connections": report.FEW,
            "pinned": pinned,
        },
        "proxies": {n: {"version": versions[n], "summary": told[n], "rounds": rounds} for n, rounds in taken.items()},
        "ratios": {key: found for key, found in ratios.items() if found},
        "bars": bars(taken, report.BARS),
    }


def publish(file: Path) -> None:
    found = json.loads(file.read_text())
    page.put(page.PAGE, MARKS, report.section(found, file.stem))
    file.with_suffix(".svg").write_text(chart.draw(found, report.PANELS))


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    try:
        rows = report.chosen(options.rows.split(","))
        for name in ("mockengine",):
            tools.build(name)
    except (ValueError, tools.NoCompiler) as error:
        print(f"benchmarks.tls: {error}", file=sys.stderr)
        return 2
    absent = [program for program in ("h2load", "openssl") if shutil.which(program) is None]
    absent += [Nginx().missing() or ""] if "nginx" in options.only else []
    if any(absent) or {*options.only.split(",")} - {*NAMES}:
        print(f"benchmarks.tls: {', '.join(filter(None, absent)) or 'there is no such front'} (not installed)", file=sys.stderr)
        return 2
    earlier = json.loads(options.more.read_text()) if options.more else None
    about = machine.facts() | {"openssl": " ".join(ssl.OPENSSL_VERSION.split()[:2])}
    before = earlier["settings"]["rounds"] if earlier else 0
    taken, good = measured(options, rows, before)
    if earlier:
        taken = {name: earlier["proxies"].get(name, {"rounds": []})["rounds"] + rounds for name, rounds in taken.items()}
    found = results(taken, about, options.seconds, process.choose_cores().pinned)
    out: Path = options.out or options.more or RESULTS / f"tls-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".svg").write_text(chart.draw(found, report.PANELS))
    if options.publish:
        publish(out)
    print(table({name: one["summary"] for name, one in found["proxies"].items()}, report.METRICS))
    print("\n" + verdict(found["bars"], {}) + f"\n\n{out}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
