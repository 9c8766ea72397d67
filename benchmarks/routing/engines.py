"""Many simulated engines in one process, a port each, told over its standard input and answering on its standard output.

    python -m benchmarks.routing.engines '[{"prefill_tokens_per_s": 100000, ...}, ...]'

It says which ports it has, and after each ``report`` what the engines have done since the one before, which it then forgets,
their caches too. Owns: the load that an engine has over time: requests that run or wait in it, looked at every ten
milliseconds. How late those looks are says whether the process itself kept up: where it did not, it is the machine that was
measured, and no router.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from benchmarks.routing.client import late_ms, watch
from benchmarks.routing.simulation import Machine
from benchmarks.wire import process
from benchmarks.wire.proxies import ROOT, operators_environment
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.prefix_cache import PrefixCache

STREAM_INTERVAL = 8
"""Tokens that leave an engine together. With one at a time, time that goes so much quicker would be spent on writing events."""


def settings(machine: Machine, speed: float) -> dict[str, Any]:
    """Of an engine that is ``speed`` times as fast as ``machine``."""
    return {
        "models": ["m"],
        "any_model": True,
        "prefill_tokens_per_s": machine.prefill_rate * speed,
        "prefix_cache_tokens": machine.cache_tokens,
        "itl_ms": 1000.0 / machine.decode_rate / speed,
        "stream_interval": STREAM_INTERVAL,
        "slots": machine.slots,
        "max_waiting": 0,
        "kv_tokens": machine.cache_tokens,
        "keep_alive_s": 0.0,
        "record": 0,
    }


class Engines:
    """All of them, and what they had to do over time."""

    def __init__(self, configs: Sequence[SimConfig]) -> None:
        self.simulators = [Simulator(config) for config in configs]
        self.late: list[float] = []
        self.forget()

    def forget(self) -> None:
        self._held = [0] * len(self.simulators)
        self.late.clear()
        self._before = [(0, 0, 0) for _ in self.simulators]
        for at, one in enumerate(self.simulators):
            state = one.state
            self._before[at] = state.served, state.read_tokens, state.cached_tokens
            if one.engine.prefill is not None:
                one.engine.prefill.cache = PrefixCache(one.config.prefix_cache_tokens)

    def look(self) -> None:
        for at, one in enumerate(self.simulators):
            self._held[at] += one.state.running + one.state.waiting

    def report(self) -> dict[str, Any]:
        states = [(one.state, before) for one, before in zip(self.simulators, self._before, strict=True)]
        return {
            "held": self._held,
            "served": [state.served - before[0] for state, before in states],
            "read_tokens": [state.read_tokens - before[1] for state, before in states],
            "cached_tokens": [state.cached_tokens - before[2] for state, before in states],
            "late_p99_ms": late_ms(self.late),
        }


async def serve(configs: Sequence[SimConfig]) -> None:
    engines = Engines(configs)
    for one in engines.simulators:
        await one.start()
    print(json.dumps([one.port for one in engines.simulators]), flush=True)
    watching = asyncio.create_task(watch(engines.late, engines.look), name="what they hold")
    loop = asyncio.get_running_loop()
    while (await loop.run_in_executor(None, sys.stdin.readline)).strip() == "report":
        print(json.dumps(engines.report()), flush=True)
        engines.forget()
    watching.cancel()
    for one in engines.simulators:
        await one.stop()


class Farm:
    """The process, from whoever measures; it ends with the ``with``."""

    def __init__(self, machines: Sequence[Machine], speed: float) -> None:
        self._settings = [settings(machine, speed) for machine in machines]
        self.ports: list[int] = []

    def __enter__(self) -> Farm:
        argv = [sys.executable, "-P", "-m", "benchmarks.routing.engines", json.dumps(self._settings)]
        environment = operators_environment() | {"PYTHONPATH": str(ROOT)}
        self._child = subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=-1, stdout=-1, start_new_session=True)
        self.ports = self._line()
        return self

    def __exit__(self, *_: object) -> None:
        process.stop(self._child)
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def report(self) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(b"report\n")
        self._child.stdin.flush()
        found: dict[str, Any] = self._line()
        return found

    def _line(self) -> Any:
        assert self._child.stdout is not None
        return json.loads(self._child.stdout.readline())


if __name__ == "__main__":
    made = [SimConfig(**one) for one in json.loads(sys.argv[1])]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(made))
