"""The routers that are held against each other, each with one of its policies, before the same engines.

Owns: how each is started, and when it knows all its engines. Must never give one an advantage: what is said to all of them is
where the engines are and what the policy is called; the rest is as they come, but for logs of each request, which are off,
and for limits that would refuse what the others take.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

from benchmarks.wire import process
from benchmarks.wire.measure import Failed, free_port
from benchmarks.wire.peers import ENVIRONMENTS, SglangRouter, VllmRouter
from benchmarks.wire.proxies import Command, Fastgw, Place, Proxy, operators_environment

START_S = 60.0
SETTLE_S = 0.5


@dataclass(frozen=True)
class Router:
    """``kind``: whose program; ``policy``: by which of its names."""

    kind: str
    policy: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.policy}"

    @property
    def program(self) -> Proxy:
        return {"fastgw": Fastgw, "sglang-router": SglangRouter, "vllm-router": VllmRouter}[self.kind]()

    def command(self, place: Place, engines: Sequence[int]) -> Command:
        urls = [f"http://127.0.0.1:{port}" for port in engines]
        if self.kind == "fastgw":
            more = [word for url in urls[1:] for word in ("--engine", url)]
            return Fastgw(arguments=[*more, "--policy", self.policy]).command(place)
        argv = ["--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.spare_port)]
        argv += ["--worker-urls", *urls, "--policy", self.policy]
        folder = ENVIRONMENTS / self.kind / "bin"
        if self.kind == "sglang-router":
            argv = [str(folder / "python"), "-m", "sglang_router.launch_router", *argv, "--log-level", "warn"]
        else:
            argv = [str(folder / "vllm-router"), *argv, "--log-level", "warning"]
        return Command(argv, operators_environment(), quiet=True)


def known(router: Router, port: int) -> int:
    """How many engines the router at ``port`` knows, and takes for well. Raises OSError while it does not answer."""
    if router.kind == "fastgw":
        # It asks all of them as it starts, and is ready when one has answered: the others do within the settling time.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2):
            return 1 << 30
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/workers", timeout=2) as answer:
        return sum(bool(worker["is_healthy"]) for worker in json.load(answer)["workers"])


@contextmanager
def running(router: Router, engines: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Its port and its process, once it knows all engines. Raises `Failed` where that does not come about."""
    with TemporaryDirectory(prefix="routing-") as folder:
        place = Place(Path(folder), free_port(), engines[0], free_port(), 2048)
        made = router.command(place, engines)
        log = None if made.quiet else place.folder / "output"
        child = process.spawn(made.argv, cores=frozenset(process.choose_cores().load | process.choose_cores().proxy),
                              cwd=place.folder, env=made.env, log=log)  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    if known(router, place.port) >= len(engines):
                        break
                except (URLError, OSError, ValueError, KeyError):
                    pass
                if child.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"{router.name} does not come to know its engines: {' '.join(made.argv[:6])} ...")
                time.sleep(0.05)
            time.sleep(SETTLE_S)
            yield place.port, child.pid
            if child.poll() is not None:
                raise Failed(f"{router.name} has ended under load")
        finally:
            process.stop(child)
