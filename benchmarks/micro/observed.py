"""What it costs to be seen: one plain request with metrics, their exemplars and the access log, and without, in turns.

    python -m benchmarks.micro.observed [blocks] [requests]

As ``benchmarks.micro.governed``: what is printed is the median of the differences between neighbours, and its quartiles. Off,
nobody is told how a request ends. On, it is counted with all its histograms, its line is written by the log's thread into
nothing, and each may be in a trace that its client keeps: that is its exemplar. The last row is what a trace that is not
sampled adds to the second. (``counted`` says it in instructions, rows ``observe`` and ``trace``.)
"""

from __future__ import annotations

import asyncio
import statistics
import sys

from benchmarks.micro import counted
from benchmarks.micro.governed import BLOCKS, REQUESTS, Bench, in_turns, quartiles
from fastgw import twins
from fastgw.observe.tallies import Tallies

ROWS = {
    "metrics": "metrics",
    "log": "metrics and the log",
    "exemplars": "metrics with exemplars, and the log",
    "trace": "a trace beside them",
}


async def compared(blocks: int, requests: int, row: str) -> tuple[list[float], list[float]]:
    """Microseconds per request without, and what it adds, for each pair of neighbours."""
    loop = asyncio.get_running_loop()
    off, on = Bench(loop, False, True), Bench(loop, False, True)
    over = []
    for bench in (off, on):
        counted.name_model(bench)
        counted.unseen(bench)
    if row == "metrics":
        on.core.tally = Tallies()
    elif row == "trace":
        over = [counted.seen(off), counted.traced(on)]
    else:
        over = [counted.seen(on)]
    if row == "exemplars":
        for bench in (off, on):
            bench.request = bench.request.replace(b"Accept:", counted.SAMPLED + b"Accept:")
    try:
        return in_turns(off, on, blocks, requests)
    finally:
        for close in over:
            close()


def main() -> None:
    arguments = sys.argv[1:]
    blocks, requests = [int(one) for one in arguments] + [BLOCKS, REQUESTS][len(arguments) :]
    twin = "native" if twins.native() else "pure Python"
    for row, what in ROWS.items():
        base, added = asyncio.run(compared(blocks, requests, row))
        low, middle, high = quartiles(added)
        whole = statistics.median(base)
        print(f"{twin}, {what}: {whole:.2f} µs without, with its system calls; {middle:+.2f} µs ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
