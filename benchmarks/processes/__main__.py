"""``python -m benchmarks.processes``: one gateway in one process, and in several, before one engine and under the same load.

In turns, several rounds, medians and spread: plain answers and events a second, CPU for each, of all of the gateway's processes
together, with no limits and with all of them (which workers share). Each worker has a core, and one more for engine and load.
On a machine of fewer cores each has one that its part of engine and load runs on as well: one worker and all that loads it on
one core, two on two; so what is twice as much is scaling, and what is less is what they cost each other.

Exit status: 0 measured, 1 an answer was bad, 2 it could not begin.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.wire import process, tools
from benchmarks.wire.measure import Failed, _start, free_port
from benchmarks.wire.proxies import Fastgw, Place

ROWS: Final[dict[str, dict[str, Any]]] = {"plain": {}, "events": {"stream": True, "unpaced": True}}


def cores_for(workers: int, most: int) -> tuple[frozenset[int], frozenset[int]]:
    """Those of the gateway, and those of engine and load: one of each for each worker, or where there are not so many, one for
    each worker and its part of engine and load."""
    there = sorted(os.sched_getaffinity(0))
    own = frozenset(there[:workers])
    return own, frozenset(there[workers : 2 * workers]) if len(there) >= 2 * most else own


def measure(workers: int, most: int, limits: bool, seconds: float, clients: int) -> dict[str, float]:
    """One round of one of them: per row a rate, and microseconds of CPU for each."""
    gateway, others = cores_for(workers, most)
    found: dict[str, float] = {}
    with ExitStack() as stack:
        port = stack.enter_context(tools.engine(others))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        one = Fastgw(name=f"fastgw-{workers}", limits=limits, arguments=["--workers", str(workers)])
        place = Place(folder, free_port(), port, clients=clients)
        child, _ = _start(one, one.command(place), place, gateway)
        stack.callback(process.stop, child)
        for row, options in ROWS.items():
            tools.load(place.port, seconds=0.5, connections=clients, cores=others, **options)
            before = process.cpu_s(child.pid)
            result = tools.load(place.port, seconds=seconds, connections=clients, cores=others, **options)
            used = process.cpu_s(child.pid) - before
            if result["bad"] or result["stuck"]:
                raise Failed(f"{row}: {result['bad']} bad answers, {result['stuck']} stuck: {result['first_bad']}")
            count = result["events_total"] if options else result["requests_total"]
            found[f"{row}, a second"] = result["events_per_s" if options else "rps"]
            found[f"{row}, µs of the gateway"] = used / count * 1e6
    return found


def spread(values: Sequence[float]) -> str:
    middle = median(values)
    digits = 0 if middle >= 100 else 2
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", default="1,2", help="how many, with commas between (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row (%(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="connections (%(default)s)")
    parser.add_argument("--out", help="a file for the figures of each round")
    options = parser.parse_args(list(arguments))
    counts = [int(one) for one in options.workers.split(",")]
    process.descriptors()
    rounds: dict[str, list[dict[str, float]]] = {}
    try:
        for number in range(options.rounds):
            for limits in (False, True):
                for workers in counts:
                    name = f"{workers} worker{'s' if workers > 1 else ''}, {'all limits' if limits else 'no limits'}"
                    process.say(f"round {number + 1}: {name}")
                    rounds.setdefault(name, []).append(measure(workers, max(counts), limits, options.seconds, options.clients))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    report(rounds)
    if options.out:
        Path(options.out).write_text(json.dumps(rounds, indent=1), encoding="utf-8")
    return 0


def report(rounds: dict[str, list[dict[str, float]]]) -> None:
    """The table, and beside one worker the ratio of the rates."""
    cores = len(os.sched_getaffinity(0))
    names = list(rounds)
    print(f"cores: {cores}")
    for figure in rounds[names[0]][0]:
        print(f"\n{figure}")
        for name, found in rounds.items():
            line = f"  {name:<24} {spread([one[figure] for one in found])}"
            first = rounds[next(other for other in names if other.split(", ")[1] == name.split(", ")[1])]
            if found is not first:
                line += f"   x {spread([one[figure] / base[figure] for one, base in zip(found, first, strict=True)])}"
            print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
