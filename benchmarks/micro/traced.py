"""What traces cost: one plain request through the gateway's own classes, and what a thread does for it afterwards.

    python -m benchmarks.micro.traced [blocks] [requests]
    valgrind --tool=callgrind python -m benchmarks.micro.traced --count off 3000

As ``benchmarks.micro.governed``: gateways in one process take turns in short blocks, and what is printed is the median of the
differences between neighbours. Without a tracer, with one that samples nothing, with one that samples all (in the loop), and
what writing the spans of one request takes (in the thread; sending comes on top, once for each batch). ``--count`` runs one of
off, none and all alone, for callgrind.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
from time import process_time

from opentelemetry.sdk.resources import Resource

from benchmarks.micro.governed import Bench, quartiles
from fastgw import twins
from fastgw.config import Config
from fastgw.exchange.tracing import Tracing
from fastgw.observe.spans import Finished, Maker
from fastgw.observe.trace import BATCH, Tracer
from fastgw.stats import NullLog, Stats

BLOCKS = 400
REQUESTS = 50
RATIOS = {"none": 0.0, "all": 1.0}


def bench(which: str) -> Bench:
    made = Bench(asyncio.get_running_loop(), False, True)
    if which in RATIOS:
        config = Config(enable_otlp_tracing=True, trace_ratio=RATIOS[which], trace_queue_size=65536)
        tracer = Tracer(config, Stats(), NullLog(), lambda request: True, Maker(Resource({})), lambda: None)
        made.core.tracer = Tracing(config, tracer)
    return made


async def compared(blocks: int, requests: int, which: str) -> tuple[list[float], list[Finished]]:
    """Microseconds that it adds to a request, for each pair of neighbours; and what is left for the thread."""
    off, on = bench("off"), bench(which)
    assert on.core.tracer is not None
    tracer = on.core.tracer.reporter
    assert isinstance(tracer, Tracer)
    added = []
    last: list[Finished] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(blocks + 20):
            pair = (off, on) if number % 2 else (on, off)
            took = {one: one.block(requests) for one in pair}
            last = list(tracer._waiting)[:BATCH]
            tracer._waiting.clear()
            if number >= 20:
                added.append((took[on] - took[off]) / requests * 1e6)
    finally:
        gc.enable()
        off.close()
        on.close()
    return added, last


def written(batch: list[Finished]) -> float:
    """Microseconds for the spans of one request."""
    maker = Maker(Resource({}))
    rounds = []
    for _ in range(50):
        begun = process_time()
        maker.request(batch)
        rounds.append((process_time() - begun) / len(batch) * 1e6)
    return statistics.median(rounds)


async def alone(which: str, requests: int) -> None:
    one = bench(which)
    one.block(requests)
    one.close()


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--count"]:
        asyncio.run(alone(arguments[1], int(arguments[2])))
        return
    blocks, requests = [int(one) for one in arguments] + [BLOCKS, REQUESTS][len(arguments) :]
    twin = "native" if twins.native() else "pure Python"
    for which, what in (("none", "not sampled"), ("all", "sampled")):
        added, left = asyncio.run(compared(blocks, requests, which))
        low, middle, high = quartiles(added)
        print(f"{twin}, {what}: {middle:+.2f} µs in the loop ({low:+.2f} to {high:+.2f})")
        if left:
            print(f"in the thread: {written(left):.1f} µs to write its spans")


if __name__ == "__main__":
    main()
