"""What the limits of one request cost: each operation of a meter, the table of meters and a ledger, in both twins.

    python -m benchmarks.micro.limits [operations]

Prints nanoseconds per operation, the median of seven runs and their spread, the loop's own cost taken off. Called from
Python as here, a compiled operation is mostly its call; between compiled modules that goes too. ``a held address`` is
what a full table holds for each, its name included.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tracemalloc
from time import perf_counter
from typing import Any

from tests.support.twins import native_twin, python_twin

RUNS = 7
MINUTE_US = 60_000_000
DAY = 20_777

OPERATIONS = {
    "take": "take(now_us, 1)",
    "take, refused": "refuse(now_us, 1)",
    "wait_us": "wait_us(now_us, 1)",
    "left": "left(now_us)",
    "reset_us": "reset_us(now_us)",
    "get + take, known address": "get('192.0.2.1', now_us).take(now_us, 1)",
    "get + take, new address": "get(str(now_us), now_us).take(now_us, 1)",
    "reserve + settle": "reserve(DAY, 500); settle(DAY, 500, 100, 50, False)",
    "left of a day": "left_today(DAY)",
    "address_key, IPv6": "address_key('2001:db8:1:2:3:4:5:6')",
}


def timed(statement: str, names: dict[str, Any], count: int) -> list[float]:
    """Nanoseconds per operation of each run; the operation sees a time that moves by 1 µs."""
    space: dict[str, Any] = dict(names)
    arguments = ", ".join(names)
    exec(f"def loop(times, {arguments}):\n    for now_us in times:\n        {statement}", space)
    found = []
    for run in range(RUNS):
        times = range(10**12 + run * count, 10**12 + (run + 1) * count)
        started = perf_counter()
        space["loop"](times, **names)
        found.append((perf_counter() - started) * 1e9 / count)
    return found


def names_of(meter: Any, ledger: Any) -> dict[str, Any]:
    """What the statements call, over the classes of one twin."""
    open_meter = meter.Meter(10**9, MINUTE_US, 10**9)
    shut_meter = meter.Meter(1, MINUTE_US, 1)
    shut_meter.charge(10**12, 50)
    days = ledger.Ledger(1 << 60)
    return {
        "take": open_meter.take,
        "left": open_meter.left,
        "reset_us": open_meter.reset_us,
        "refuse": shut_meter.take,
        "wait_us": shut_meter.wait_us,
        "get": meter.Meters(1000, 1_000_000, 1000, 1_000_000).get,
        "reserve": days.reserve,
        "settle": days.settle,
        "left_today": days.left,
        "DAY": DAY,
        "address_key": meter.address_key,
    }


def bytes_held(meter: Any, names: int = 200_000) -> float:
    """Per address, in a table of which none is idle."""
    gc.collect()
    tracemalloc.start()
    table = meter.Meters(1, MINUTE_US, 10, names)
    for number in range(names):
        table.get(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64", 10**12 + number).charge(10**12 + number, 9)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / names


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    empty = statistics.median(timed("pass", {"DAY": DAY}, count))
    for name, load in (("pure Python", python_twin), ("native", native_twin)):
        try:
            meter, ledger = load("fastgw.limits.meter"), load("fastgw.limits.ledger")
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        print(f"{name}:")
        for what, statement in OPERATIONS.items():
            runs = [run - empty for run in timed(statement, names_of(meter, ledger), count)]
            print(f"  {what:28}{statistics.median(runs):8.0f} ns   ({min(runs):.0f} to {max(runs):.0f})")
        print(f"  {'a held address':28}{bytes_held(meter):8.0f} bytes")


if __name__ == "__main__":
    main()
