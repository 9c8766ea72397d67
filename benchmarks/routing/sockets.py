"""``python -m benchmarks.routing --sockets``: routers, with their policies, on the same traces before simulated engines, over
HTTP.

    python -m benchmarks.routing --sockets [--only 'fastgw prefix_aware,sglang-router cache_aware'] [--cases conversations,skew]
                                           [--rounds 1] [--seed 1] [--share 1.0] [--more FILE] [--out FILE] [--publish]

Exit status: 0 measured (whether or not the bars are met), 1 a router failed, 2 it could not begin.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks.routing import picture, simulation, tables
from benchmarks.routing.cases import CASES, Case
from benchmarks.routing.client import Played, play
from benchmarks.routing.engines import Farm
from benchmarks.routing.routers import Router, running
from benchmarks.routing.trace import Session, trace
from benchmarks.wire import machine, page, process
from benchmarks.wire.measure import Failed
from fastgw.config.names import POLICIES, Policy

RESULTS = Path(__file__).parents[1] / "results"
MARKS = "<!-- routing: written by python -m benchmarks.routing --sockets --publish -->", "<!-- routing: end -->"
LEFT_OUT = ("ordered", "weighted")  # all to one engine; round_robin by another name
ROUTERS = (
    *(Router("fastgw", policy) for policy in POLICIES if policy not in LEFT_OUT),
    Router("sglang-router", "cache_aware"), Router("vllm-router", "consistent_hash"),
    # What is asked for by --only alone.
    Router("sglang-router", "round_robin"), Router("sglang-router", "power_of_two"),
    Router("vllm-router", "round_robin"), Router("vllm-router", "power_of_two"), Router("vllm-router", "cache_aware"),
)  # fmt: skip
USUAL = ROUTERS[:-5]

Figures = dict[str, Any]


def measure(router: Router, case: Case, sessions: Sequence[Session]) -> Figures:
    """One router, one trace. Raises `Failed`."""
    with Farm(case.machines, case.speed) as farm, running(router, farm.ports) as (port, pid):
        farm.report()
        before = process.cpu_s(pid), process.cpu_s(farm.pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            played = runner.run(play(sessions, port, case.speed))
        after = process.cpu_s(pid), process.cpu_s(farm.pid)
        return figures(played, farm.report(), after[0] - before[0], after[1] - before[1])


def figures(played: Played, report: dict[str, Any], router_s: float, engines_s: float) -> Figures:
    """``router_s``, ``engines_s``: CPU time, of the wall's."""
    times = sorted(played.ttft_s) or [float("nan")]
    mean_held = sum(report["held"]) / len(report["held"]) or float("nan")
    read = sum(report["read_tokens"]) or float("nan")
    failed = sum(played.failed.values())
    return {
        "requests": len(played.ttft_s) + failed,
        "failed": failed,
        "why": played.failed,
        "ttft_mean_s": sum(times) / len(times),
        "ttft_p50_s": times[len(times) // 2],
        "ttft_p99_s": times[min(len(times) - 1, int(0.99 * len(times)))],
        "whole_mean_s": sum(played.whole_s) / len(times),
        "hit_rate": sum(report["cached_tokens"]) / read,
        "imbalance": max(report["held"]) / mean_held,
        "served": report["served"],
        "length_s": played.length_s,
        "sent_mb": played.sent_bytes / 1e6,
        "router_cpu_ms": router_s * 1e3 / max(1, len(times)),
        "engines_cpu_s": engines_s,
        "engines_late_p99_ms": report["late_p99_ms"],
        "client_late_p99_ms": played.late_p99_ms,
    }


def discrete(router: Router, case: Case, sessions: Sequence[Session], seed: int) -> Figures:
    """The same without sockets: what the strategy alone makes of the trace."""
    found = simulation.run(cast(Policy, router.policy), sessions, case.machines, seed)
    return {"ttft_mean_s": found.mean_s, "ttft_p99_s": found.at(0.99), "hit_rate": found.hit_rate, "imbalance": found.imbalance}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.routing --sockets", description="Routers on made-up traces, over HTTP."
    )
    parser.add_argument("--sockets", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", default=",".join(router.name for router in USUAL), help="routers, each with its policy")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the sessions, before so many of the engines")
    parser.add_argument("--more", type=Path, metavar="FILE", help="what was measured before, and is kept")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    parser.add_argument("--publish", action="store_true", help="also write the measured section of benchmarks/README.md")
    return parser.parse_args(argv)


def scaled(case: Case, share: float) -> Case:
    """The same, smaller: as many requests for each engine."""
    if share == 1.0:
        return case
    shape = case.shape
    count = max(2, round(len(case.machines) * share))
    smaller = replace(shape, chats=round(shape.chats * share), agents=round(shape.agents * share))
    return replace(case, shape=smaller, machines=case.machines[:count])


class AnotherTrace(Exception):
    """What was measured before was so on another trace, or before other engines."""


def run(routers: Sequence[Router], cases: Sequence[Case], options: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Measure into ``found["cases"]``; whether nothing failed."""
    good = True
    for case in cases:
        sessions = trace(case.shape, options.seed)
        gc.freeze()
        about = {"says": case.says, "speed": case.speed, "engines": len(case.machines), "seed": options.seed}
        about["sessions"] = len(sessions)
        kept = found["cases"].setdefault(case.name, about | {"routers": {}})
        if any(kept[key] != value for key, value in about.items()):
            raise AnotherTrace(case.name)
        for number in range(options.rounds):
            for router in routers if number % 2 == 0 else routers[::-1]:
                if absent := router.program.missing():
                    process.say(f"{router.name}: {absent}")
                    continue
                try:
                    one = measure(router, case, sessions)
                except Failed as error:
                    process.say(f"{router.name}: {error}")
                    good = False
                    continue
                process.say(f"{case.name}, {router.name}: {tables.line(one)}")
                entry = kept["routers"].setdefault(router.name, {"version": router.program.version(), "rounds": []})
                entry["rounds"].append(one)
                if router.kind == "fastgw":
                    entry["discrete"] = discrete(router, case, sessions, options.seed)
    return good


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    process.descriptors()
    by_name = {router.name: router for router in ROUTERS}
    cases = {case.name: case for case in CASES}
    wanted, played = options.only.split(","), options.cases.split(",")
    if unknown := [name for name in wanted if name not in by_name] + [name for name in played if name not in cases]:
        print(f"benchmarks.routing: there is no {', '.join(unknown)}; routers: {', '.join(by_name)}", file=sys.stderr)
        return 2
    found: dict[str, Any] = json.loads(options.more.read_text()) if options.more else {"schema": 1, "cases": {}}
    realtime = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    found["machine"] = machine.facts() | {"realtime": realtime}
    try:
        good = run([by_name[name] for name in wanted], [scaled(cases[name], options.share) for name in played], options, found)
    except AnotherTrace as error:
        print(f"benchmarks.routing: {options.more} has another trace of {error}: not to be compared", file=sys.stderr)
        return 2
    out: Path = options.out or options.more or RESULTS / f"routing-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".svg").write_text(picture.draw(found))
    if options.publish:
        page.put(page.PAGE, MARKS, tables.section(found, out.stem))
    print(tables.table(found) + "\n" + tables.bars(found) + f"\n\n{out}")
    return 0 if good else 1
