"""``python -m benchmarks.tunnels``: one engine, asked by one gateway over HTTP, by another through a runner's tunnel, and by
a third through a relay that does nothing but copy bytes, and is in the place of the runner: no runner can cost less.

    python -m benchmarks.tunnels [--seconds 2] [--rounds 3] [--connections 64] [--out FILE]

In turns, phase by phase: plain requests of many clients and of one, streams of 50 events a second, streams as fast as they
go. Told for each: the CPU of gateway, of gateway and runner, and of those and the engine, for one answer or one event; and the
latency, medians of the rounds and the least of their medians, for a machine that others use too shows only there what a tunnel
adds. Load generator, engine and relay are those of ``benchmarks.wire``. Exit status 1 where an answer was bad.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.wire import tools
from benchmarks.wire.process import choose_cores, cpu_s, spawn, stop
from tests.support.ports import closed_port

OPEN = ("--rate-limit-per-second", "0")
TOKEN = "benchmark-0123456789"
HERE = Path(__file__).parents[2]
PHASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one": {"connections": 1},
    "paced": {"stream": True},
    "unpaced": {"stream": True, "unpaced": True},
}


def _models(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2) as answer:
        found: bytes = answer.read()
        return found


def _wait(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            if b'"m"' in _models(port):
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"nothing serves the model at {port}")
        time.sleep(0.1)


@contextmanager
def _started(cores: frozenset[int], *words: str) -> Iterator[int]:
    child = spawn(
        [sys.executable, "-m", "fastgw", *words], cores=cores, cwd=HERE, env={**os.environ, "RUNNER_AUTH_TOKEN": TOKEN},
        log=Path(os.environ.get("BENCH_LOG", os.devnull)),
    )  # fmt: skip
    try:
        yield child.pid
    finally:
        stop(child)


class Side:
    """One gateway, and who else has a part in its requests."""

    def __init__(self, name: str, port: int, *pids: int) -> None:
        self.name = name
        self.port = port
        self.pids = pids  # the gateway first


def _run(side: Side, engine_pid: int, phase: str, seconds: float, connections: int, load: frozenset[int]) -> dict[str, float]:
    pids = [*side.pids, engine_pid]
    before = [cpu_s(pid) for pid in pids]
    answer = tools.load(side.port, cores=load, seconds=seconds, **{"connections": connections, **PHASES[phase]})
    used = [cpu_s(pid) - begun for pid, begun in zip(pids, before, strict=True)]
    if answer["bad"]:
        raise SystemExit(f"{side.name}, {phase}: {answer['bad']} bad answers, the first: {answer.get('first_bad')}")
    streams = "stream" in PHASES[phase]
    units = answer["events_total" if streams else "requests_total"]
    return {
        "gateway_us": used[0] / units * 1e6,
        "both_us": sum(used[:-1]) / units * 1e6,
        "all_us": sum(used) / units * 1e6,
        "per_s": answer["events" if streams else "requests"] / answer["seconds"],
        "p50_us": answer["event_us" if phase == "paced" else "latency_us"]["p50"],
        "p99_us": answer["event_us" if phase == "paced" else "latency_us"]["p99"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tunnels")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--out")
    options = parser.parse_args()
    cores = choose_cores()
    with ExitStack() as stack:
        engine_port = stack.enter_context(tools.engine(cores.load))
        engine_pid = _engine_pid(engine_port)
        url = f"http://127.0.0.1:{engine_port}"
        direct, tunnel, relayed, relay = (closed_port() for _ in range(4))

        def started(*words: str) -> int:
            return stack.enter_context(_started(cores.proxy, *words))

        sides = [Side("http", direct, started("serve", "--port", str(direct), "--engine", url, *OPEN))]
        gateway = started("serve", "--port", str(tunnel), *OPEN)
        runner = started("runner", "--gateway", f"ws://127.0.0.1:{tunnel}", "--engine", url, "--tunnel", "--look", "60")
        sides.append(Side("tunnel", tunnel, gateway, runner))
        copies = spawn([str(tools.build("floor")), str(relay), str(engine_port)], cores=cores.proxy, cwd=HERE)
        stack.callback(stop, copies)
        gateway = started("serve", "--port", str(relayed), "--engine", f"http://127.0.0.1:{relay}", *OPEN)
        sides.append(Side("relay", relayed, gateway, copies.pid))
        for side in sides:
            _wait(side.port)
        found: dict[str, dict[str, list[dict[str, float]]]] = {
            phase: {side.name: [] for side in sides} for phase in PHASES
        }
        for number in range(options.rounds):
            for phase in PHASES:
                for side in sides if number % 2 == 0 else sides[::-1]:
                    found[phase][side.name].append(
                        _run(side, engine_pid, phase, options.seconds, options.connections, cores.load)
                    )
    titles = ("gateway", "+ runner", "+ engine", "a second", "p50 us", "p99 us", "least p50")
    print(" " * 18 + " ".join(f"{title:>9}" for title in titles))
    for phase, by_side in found.items():
        rows = {name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in by_side.items()}
        for name, runs in by_side.items():
            rows[name]["least_p50_us"] = min(one["p50_us"] for one in runs)  # of a machine that others use too
        for name, row in rows.items():
            print(f"{phase:8} {name:8} " + " ".join(f"{value:9.1f}" for value in row.values()))
        for name in ("tunnel", "relay"):
            ratio = [value / rows["http"][key] for key, value in rows[name].items()]
            print(f"{phase:8} {name[:5]:>5} ×  " + " ".join(f"{value:9.2f}" for value in ratio))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _engine_pid(port: int) -> int:
    """Of our own child that listens there."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if words and words[0].endswith(b"mockengine") and parent == os.getpid():
                return int(entry.name)
    raise SystemExit(f"the engine at {port} is gone")


if __name__ == "__main__":
    sys.exit(main())
