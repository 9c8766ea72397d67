"""What the fair queue costs per operation, by how many wait and in how many flows, in both twins.

    python -m benchmarks.micro.queue [runs]

Each row is one queue filled with costs of 1 to 5000 tokens at a quantum of 256, over two priority classes. Then each
operation is timed alone, at most a thousand at a time, and the queue brought back to its size in between, untimed. Shown are
nanoseconds per operation: the median of the runs, and half the distance between their quartiles.
"""

from __future__ import annotations

import gc
import importlib.util
import random
import statistics
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from fastgw import twins

WAITING = (100, 1_000, 10_000, 100_000)
FLOWS = (1, 1_000, 50_000)
BATCH = 1000
OPERATIONS = ("put", "pop", "remove", "adaptive pop")


def load(path: Path, twin: str) -> Any:
    """One twin's module, from its own file, under a name of its own."""
    name = f"{twin}.fairqueue"
    make = SourceFileLoader if path.suffix == ".py" else ExtensionFileLoader
    spec = importlib.util.spec_from_file_location(name, path, loader=make(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Case:
    """One queue of a size, and the requests that come to it."""

    def __init__(self, module: Any, waiting: int, flows: int, adaptive: bool) -> None:
        self.chance = random.Random(waiting * 31 + flows)
        self.flows = [f"tenant{number}" for number in range(min(flows, waiting))]
        self.queue = module.FairQueue(quantum=256, adaptive=adaptive, target_s=0.1, interval_s=1.0)
        # Adaptive ones are filled long ago: they are overloaded.
        self.now = 0.0
        self.batch = min(BATCH, waiting // 2)
        self.waiters = self.put(waiting)
        self.now = 10.0

    def requests(self, count: int) -> list[tuple[None, int, str, int, float]]:
        chance, flows, now = self.chance, self.flows, self.now
        return [(None, 1 + number % 2, chance.choice(flows), chance.randint(1, 5000), now) for number in range(count)]

    def put(self, count: int) -> list[Any]:
        return [self.queue.put(*request) for request in self.requests(count)]

    def time_put(self) -> float:
        requests, put = self.requests(self.batch), self.queue.put
        begun = perf_counter_ns()
        made = [put(*request) for request in requests]
        took = perf_counter_ns() - begun
        for waiter in made:
            self.queue.remove(waiter)
        return took / self.batch

    def time_pop(self) -> float:
        self.put(self.batch)
        pop, now = self.queue.pop, self.now
        begun = perf_counter_ns()
        for _ in range(self.batch):
            pop(now)
        return (perf_counter_ns() - begun) / self.batch

    def time_remove(self) -> float:
        """Of waiters from anywhere in the queue."""
        waiters = [waiter for waiter in self.waiters if waiter.waiting] + self.put(self.batch)
        self.chance.shuffle(waiters)
        gone, self.waiters = waiters[:self.batch], waiters[self.batch:]
        remove = self.queue.remove
        begun = perf_counter_ns()
        for waiter in gone:
            remove(waiter)
        return (perf_counter_ns() - begun) / self.batch


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:9.0f} ±{(high - low) / 2:5.0f}"


def row(module: Any, waiting: int, flows: int, runs: int) -> str:
    plain, late = Case(module, waiting, flows, False), Case(module, waiting, flows, True)
    timed: tuple[Callable[[], float], ...] = (plain.time_put, plain.time_pop, plain.time_remove, late.time_pop)
    gc.collect()
    gc.disable()
    try:
        return " ".join(spread([operation() for _ in range(runs)]) for operation in timed)
    finally:
        gc.enable()


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    paths = {"native": twins.extension_of("limits.fairqueue"), "python": twins.source_of("limits.fairqueue")}
    print(f"{'twin':7} {'waiting':>8} {'flows':>6} " + " ".join(f"{name + ' ns':>16}" for name in OPERATIONS))
    for twin, path in paths.items():
        if not path.exists():
            print(f"{twin}: not built")
            continue
        module = load(path, twin)
        for waiting in WAITING:
            for flows in FLOWS:
                if flows <= waiting:
                    print(f"{twin:7} {waiting:8,} {flows:6,} {row(module, waiting, flows, runs)}", flush=True)


if __name__ == "__main__":
    main()
