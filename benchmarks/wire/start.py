"""How long fastgw takes to serve, beside the interpreter that it needs: both started again and again, in turns.

Owns: what is divided by what. A start is hardly ever alone on a machine, so each is held against one of the bare interpreter
with the two libraries that no gateway in Python does without, a moment before on the same core.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.wire import process
from benchmarks.wire.measure import Figures, Plan, running
from benchmarks.wire.proxies import Proxy, operators_environment

TURNS = 5
_BARE = [sys.executable, "-P", "-c", "import uvloop, httptools"]


def _bare_s(cores: frozenset[int]) -> float:
    """From just before exec until it has ended."""
    with process.on(cores):
        begun = time.monotonic()
        subprocess.run(_BARE, env=operators_environment(), check=True, timeout=60)
        return time.monotonic() - begun


def in_turns(proxies: Sequence[Proxy], plan: Plan, turns: int = TURNS) -> dict[str, Figures]:
    """The medians of the turns, by name. Raises `measure.Failed` where one does not start."""
    bare: list[float] = []
    taken: dict[str, list[float]] = {p.name: [] for p in proxies}
    for turn in range(turns):
        bare.append(_bare_s(plan.cores.proxy))
        for proxy in proxies if turn % 2 else proxies[::-1]:
            with running(proxy, plan) as (_, start_s):
                taken[proxy.name].append(start_s)
    return {
        name: {
            "start_turn_ms": median(found) * 1000,
            "start_bare_ms": median(bare) * 1000,
            "start_ratio": median(mine / alone for mine, alone in zip(found, bare, strict=True)),
        }
        for name, found in taken.items()
    }
