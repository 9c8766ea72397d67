"""What a scrape of a large fleet does to those who are served meanwhile.

    python -m benchmarks.scale.scraped [--engines 1000] [--models 50] [--rounds 5] [--seconds 6] [--connections 64]

One gateway before so many engines, each of which has all the models; requests for each model have gone through it, so that all
its series are there. Paced streams pass, and ``/metrics`` is read each second, or is not, in turns within one run. Told are the
median of the rounds' percentiles with and without, of an event's way and of the time to the first one; and how long a scrape
takes, which is mostly its waiting for its turn, and what it costs the gateway's process, packing in its thread included.

Owns: the fleet that is set up, and whose figures are compared. Must never: put a figure beside answers that were not all good.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scale import gateway
from benchmarks.wire import process, tools
from benchmarks.wire.measure import Failed
from benchmarks.wire.proxies import KEY

EVERY_S = 1.0
PERCENTILES = ("p50", "p99")
FIGURES = {"event_us": "an event's way", "ttft_us": "time to the first event"}


def names_of(models: int) -> list[str]:
    """(The first is the one that the load names.)"""
    return ["m", *[f"model-{at}" for at in range(1, models)]]


def settings(port: int, engines: int, models: int) -> str:
    """The fleet, as a configuration file has it: one process, each engine below a path of its own."""
    names = json.dumps(names_of(models))
    fleet = [f'[[engines]]\nurl = "http://127.0.0.1:{port}/engine{at}"\nmodels = {names}\n' for at in range(engines)]
    return "metrics_public = true\nmetrics_cache_s = 0.0\n" + "".join(fleet)


def fill(port: int, models: int) -> None:
    """A plain request and a stream for each model."""
    for name in names_of(models):
        for stream in (False, True):
            conn = HTTPConnection("127.0.0.1", port, timeout=10)
            body = {"model": name, "messages": [{"role": "user", "content": "Hello #unpaced"}], "stream": stream}
            fields = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            conn.request("POST", "/v1/chat/completions", json.dumps(body), fields)
            answer = conn.getresponse()
            answer.read()
            conn.close()
            if answer.status != 200:
                raise Failed(f"a request for {name} was answered {answer.status}")


def scrape(port: int) -> tuple[float, int]:
    """Seconds for one, and its bytes as they came."""
    conn = HTTPConnection("127.0.0.1", port, timeout=10)
    begun = time.monotonic()
    conn.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    answer = conn.getresponse()
    size = len(answer.read())
    took = time.monotonic() - begun
    conn.close()
    if answer.status != 200:
        raise Failed(f"/metrics was answered {answer.status}")
    return took, size


@contextmanager
def scraped(port: int) -> Iterator[list[float]]:
    """A scrape each second meanwhile; gives how long they take."""
    took: list[float] = []
    over = threading.Event()

    def work() -> None:
        while not over.wait(EVERY_S):
            took.append(scrape(port)[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def load(serving: gateway.Serving, cores: frozenset[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Paced streams for a while; what was measured of them, and the CPU seconds that they took."""
    before = serving.cpu_s()
    said = tools.load(
        serving.port, cores=cores, seconds=arguments.seconds, connections=arguments.connections, stream=True
    )
    if said["bad"] or said.get("stuck", 0):
        raise Failed(f"{said['bad']} bad answers; the first: {said['first_bad'] or 'silence'}")
    return {**said, "cpu_s": serving.cpu_s() - before}


def measured(serving: gateway.Serving, cores: frozenset[int], arguments: argparse.Namespace) -> str:
    """All rounds, as people read them."""
    alone: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    took: list[float] = []
    load(serving, cores, arguments)
    for number in range(arguments.rounds):
        for on in (False, True) if number % 2 else (True, False):
            if on:
                with scraped(serving.port) as times:
                    beside.append(load(serving, cores, arguments))
                took += times
            else:
                alone.append(load(serving, cores, arguments))
        process.say(f"  round {number + 1} of {arguments.rounds}")
    lines = []
    for figure, what in FIGURES.items():
        for of in PERCENTILES:
            without, with_ = ([one[figure][of] for one in rounds] for rounds in (alone, beside))
            moved = [on - off for on, off in zip(with_, without, strict=True)]
            lines.append(
                f"{what}, {of}: {median(without):.0f} µs alone, {median(with_):.0f} beside a scrape each second: "
                f"{median(moved):+.0f} ({min(moved):+.0f} to {max(moved):+.0f})"
            )
    cost = [on["cpu_s"] - off["cpu_s"] for on, off in zip(beside, alone, strict=True)]
    each = len(took) / len(beside)
    lines.append(f"a scrape takes {median(took) * 1e3:.0f} ms ({min(took) * 1e3:.0f} to {max(took) * 1e3:.0f}), "
                 f"and costs the process {median(cost) / each * 1e3:.0f} ms of CPU")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.scale.scraped", description="What a scrape does to others.")
    for name, usual in (("engines", 1000), ("models", 50), ("rounds", 5), ("connections", 64)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seconds", type=float, default=6.0, help="of load, with and without, in each round")
    arguments = parser.parse_args()
    try:
        for name in ("mockengine", "loadgen"):
            tools.build(name)
        twin = gateway.twin()
    except (tools.NoCompiler, Failed) as error:
        print(f"benchmarks.scale.scraped: {error}", file=sys.stderr)
        return 2
    cores = process.choose_cores()
    os.sched_setaffinity(0, cores.load)
    with tempfile.TemporaryDirectory(prefix="scraped-") as folder, tools.engine(cores.load) as port:
        config = Path(folder) / "fleet.toml"
        config.write_text(settings(port, arguments.engines, arguments.models))
        with gateway.serving(port, cores.proxy, "--config", str(config), engines=0) as serving:
            fill(serving.port, arguments.models)
            size = scrape(serving.port)[1]
            print(f"{twin}, {arguments.engines:,} engines, {arguments.models} models: a page of {size / 1e6:.2f} MB, packed")
            print(measured(serving, cores.load, arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
