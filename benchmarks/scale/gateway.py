"""``fastgw serve`` as a child process on a core of its own, and what is measured of it.

Owns: the gateway's flags, its life, CPU time per request, memory. Must never: put a figure beside answers that were not
all good; that is ``Failed``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.wire import measure, process, tools
from benchmarks.wire.measure import Failed
from benchmarks.wire.proxies import Command, Fastgw, Place

# Nothing but the load may happen during a measurement: no probe, no idle connection that times out.
_QUIET = ("--health-interval-s", "86400", "--keepalive-timeout-s", "86400")
_SETTLE_S = 0.3
_SETTLE_SHARE = 0.02  # of a core
_SETTLE_LIMIT_S = 60.0


@dataclass
class _Engines(Fastgw):
    """fastgw with ``engines`` engines, which are one process: each has a path of its own below the same address."""

    engines: int = 1

    def command(self, place: Place) -> Command:
        one = f"http://127.0.0.1:{place.engine_port}"
        command = super().command(place)
        at = command.argv.index("--engine")
        several = [text for n in range(self.engines) for text in ("--engine", f"{one}/engine{n}")]
        # The twin is the caller's choice here: one run measures one.
        env = {**(command.env or {}), "FASTGW_NATIVE": os.environ.get("FASTGW_NATIVE", "auto")}
        return Command([*command.argv[:at], *several, *command.argv[at + 2 :]], env, command.quiet)


@dataclass(frozen=True, slots=True)
class Serving:
    """A running gateway."""

    child: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.child.pid

    def rss_bytes(self) -> int:
        return process.rss_bytes(self.pid)

    def cpu_s(self) -> float:
        return process.cpu_s(self.pid)

    def waited_s(self) -> float:
        """Seconds that its main thread was ready to run while something else had its core: latencies hold these too."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def settle(self) -> None:
        """Wait until it does next to nothing: what it does of its own accord is no request's cost."""
        end = time.monotonic() + _SETTLE_LIMIT_S
        before = self.cpu_s()
        while time.monotonic() < end:
            time.sleep(_SETTLE_S)
            now = self.cpu_s()
            if now - before < _SETTLE_S * _SETTLE_SHARE:
                return
            before = now
        process.say("  the gateway does not come to rest: figures hold some of its own work")

    def cost(self, load: Callable[[], dict[str, Any]]) -> dict[str, float]:
        """CPU µs per request of a load, which gives its number of requests as ``requests_total`` or ``done``."""
        before, begun = self.cpu_s(), time.monotonic()
        said = load()
        used, took = self.cpu_s() - before, time.monotonic() - begun
        requests = int(said.get("requests_total", said.get("done", 0)))
        wrong = int(said["bad"]) + int(said.get("stuck", 0))
        if wrong or not requests:
            raise Failed(f"{wrong} bad answers beside {requests} good ones; the first: {said['first_bad'] or 'silence'}")
        return {"cpu_us": used / requests * 1e6, "requests": requests, "rps": requests / took}

    def plain(self, cores: frozenset[int], seconds: float, connections: int) -> dict[str, Any]:
        return tools.load(self.port, cores=cores, seconds=seconds, connections=connections)


@contextmanager
def serving(engine_port: int, cores: frozenset[int], *arguments: str, engines: int = 1) -> Iterator[Serving]:
    """A gateway that has served its first request; ended when the block ends."""
    proxy = _Engines(engines=engines, arguments=[*_QUIET, *arguments])
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        place = Place(Path(folder), measure.free_port(), engine_port)
        child, _ = measure._start(proxy, proxy.command(place), place, cores)
        try:
            gateway = Serving(child, place.port)
            gateway.settle()
            yield gateway
        finally:
            process.stop(child)


def twin() -> str:
    """Which twin the children run: ``native`` or ``python``, as FASTGW_NATIVE and what is built decide."""
    command = _Engines().command(Place(Path(), 1, 1))
    argv = [sys.executable, "-m", "fastgw", "version"]
    done = subprocess.run(argv, env=command.env, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise Failed(f"fastgw does not start: {done.stderr.strip()[-300:]}")
    return "native" if "native: yes" in done.stdout else "python"
