"""``python -m benchmarks.clients``: CPU per request and per event of ``fastgw bench`` beside a load generator in C.

The engine is in C and alone on the second core; the clients take turns on the first: ``fastgw bench`` over both twins,
``loadgen``, which checks answers too, and wrk, where it is installed, which looks at the status of plain ones alone. A client's
CPU time is its whole process's, less that of a run that sends one request: the start of an interpreter is no part of a
request's cost. What a microsecond is depends on the machine; the ratios are what is to be read.

Exit status: 0 measured, 1 an answer was bad, 2 it could not begin.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.wire import tools
from benchmarks.wire.process import choose_cores, on

ROWS = ("plain", "unpaced", "paced")
Measures = Callable[[str, float], "tuple[float, int, int]"]


class Bad(Exception):
    """A client says that answers were bad, or did not run."""


@dataclass
class Found:
    """Of one client and one row, a figure for each round: CPU microseconds by request and by event (0 = none), and rate."""

    request_us: list[float] = field(default_factory=list)
    event_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def _cpu_s(argv: Sequence[str], cores: frozenset[int], env: dict[str, str] | None = None) -> tuple[float, str]:
    """The CPU seconds of a process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with on(cores):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Bad(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def bench(port: int, cores: frozenset[int], connections: int, native: str) -> Measures:
    def measure(row: str, seconds: float) -> tuple[float, int, int]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.json"
            argv = [sys.executable, "-m", "fastgw", "bench", "--url", f"http://127.0.0.1:{port}", "--model", "m", "--quiet",
                    "--plain", "--json", str(path), "--warmup", "0", "--max-tokens", "64",
                    "--prompt", "Hello #unpaced" if row == "unpaced" else "Hello",
                    "--stream" if row != "plain" else "--no-stream"]  # fmt: skip
            load = ["--workers", str(connections if seconds else 1)]
            load += ["--duration", str(seconds)] if seconds else ["--requests", "1"]
            used, _ = _cpu_s([*argv, *load], cores, {**os.environ, "FASTGW_NATIVE": native})
            [found] = json.loads(path.read_text())["rows"]
        return used, found["good"], found["events"]

    return measure


def loadgen(port: int, cores: frozenset[int], connections: int) -> Measures:
    def measure(row: str, seconds: float) -> tuple[float, int, int]:
        argv = [str(tools.build("loadgen")), "--port", str(port)]
        argv += ["--connections", str(connections if seconds else 1), "--seconds", str(seconds or 5)]
        argv += [] if seconds else ["--requests", "1"]
        if row != "plain":
            argv += ["--stream", "--expect-events", str(tools.EXPECTED_EVENTS)]
        if row == "unpaced":
            argv += ["--prompt", "Hello #unpaced"]
        used, printed = _cpu_s(argv, cores)
        found = json.loads(printed)
        if found["bad"]:
            raise Bad(f"loadgen: {found['bad']} bad answers: {found['first_bad']}")
        return used, found["requests_total"], found["events_total"]

    return measure


def wrk(port: int, cores: frozenset[int], connections: int) -> Measures:
    body = '{"model":"m","messages":[{"role":"user","content":"Hello"}],"max_tokens":64,"stream":false}'
    script = f"wrk.method='POST' wrk.headers['Content-Type']='application/json' wrk.body={json.dumps(body)}"

    def measure(row: str, seconds: float) -> tuple[float, int, int]:
        if not seconds:
            return 0.0, 1, 0  # it starts in a millisecond
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", file.name]
            used, printed = _cpu_s([*argv, f"http://127.0.0.1:{port}/v1/chat/completions"], cores)
        answered = re.search(r"(\d+) requests in", printed)
        if answered is None or "Non-2xx" in printed:
            raise Bad(f"wrk: {printed[-300:]}")
        return used, int(answered[1]), 0

    return measure


def table(found: dict[str, dict[str, Found]]) -> str:
    """Medians over the rounds, and how many times the least C load's each client's CPU time is."""
    lines = [f"{'':10}{'client':24}{'us/request':>12}{'us/event':>10}{'req/s':>10}{'of loadgen':>12}"]
    for row, clients in found.items():
        for name, one in clients.items():
            ratio = median(a / b for a, b in zip(one.request_us, clients["loadgen"].request_us, strict=True))
            event = f"{median(one.event_us):.2f}" if any(one.event_us) else "-"
            lines.append(f"{row:10}{name:24}{median(one.request_us):12.1f}{event:>10}{median(one.rate):10.0f}{ratio:11.1f}x")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    options = parser.parse_args(arguments)
    rows = options.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}: {', '.join(ROWS)}")
    cores = choose_cores()
    found: dict[str, dict[str, Found]] = {}
    try:
        with tools.engine(cores.proxy) as port:
            place = (port, cores.load, options.connections)
            clients = {"loadgen": loadgen(*place), "fastgw bench": bench(*place, "1")}
            clients["fastgw bench (python)"] = bench(*place, "0")
            if shutil.which("wrk"):
                clients["wrk"] = wrk(*place)
            for _ in range(options.rounds):
                for row in rows:
                    for name, measure in clients.items():
                        if name == "wrk" and row != "plain":
                            continue
                        start = measure(row, 0.0)[0]
                        used, requests, events = measure(row, options.seconds)
                        one = found.setdefault(row, {}).setdefault(name, Found())
                        one.request_us.append(max(0.0, used - start) * 1e6 / requests)
                        one.event_us.append(max(0.0, used - start) * 1e6 / events if events else 0.0)
                        one.rate.append(requests / options.seconds)
    except tools.NoCompiler as error:
        print(error, file=sys.stderr)
        return 2
    except Bad as error:
        print(error, file=sys.stderr)
        return 1
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
