"""``python -m benchmarks.shootout``: each published set-up over each proxy in each round, then one page.

Exit status: 0 measured, 1 a proxy failed or answered wrongly (the page still comes), 2 it could not begin.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.shootout import answers, page
from benchmarks.shootout.setups import BY_KEY, SETUPS, Setup
from benchmarks.wire import machine, measure, peers, process, tools
from benchmarks.wire.measure import Failed, Figures, Phases, Plan
from benchmarks.wire.proxies import Proxy

LINE_UP = "fastgw,fastgw (limits),nginx,haproxy,envoy,sglang-router,vllm-router,smg,portkey,litellm"
"""And direct, which is no proxy: what engine and load generator take by themselves."""
_MOST_CLIENTS = 64

Rounds = dict[str, list[dict[str, Figures]]]


class Wrong(Failed):
    """It answers something else than its engine."""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.shootout", description="What others have published, over all.")
    parser.add_argument("--seconds", type=float, default=2.5, help="per set-up, times its share (default 2.5)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="NAME,...", default=LINE_UP, help="these, and direct (default: %(default)s)")
    parser.add_argument("--setups", metavar="NAME,...", default=",".join(BY_KEY), help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    parser.add_argument("--publish", action="store_true", help="also write docs/shootout.md")
    args = parser.parse_args(argv)
    if not 0.2 <= args.seconds <= 60 or not 1 <= args.rounds <= 100:
        parser.error("--seconds: between 0.2 and 60; --rounds: between 1 and 100")
    if unknown := [name for name in args.setups.split(",") if name not in BY_KEY]:
        parser.error(f"--setups: there is no {', '.join(unknown)}: {', '.join(BY_KEY)}")
    if args.publish and args.out and args.out.resolve().parent != page.RESULTS:
        parser.error("--publish: the page names a file of benchmarks/results, so --out has to be there")
    return args


def _figures(setup: Setup, result: dict[str, Any], used_s: float) -> Figures:
    """Of one set-up, one round. A rate's share of late ones is of those that were sent."""
    counted = result["latency_us"]["n"] > 0
    first = setup.streams and result["ttft_us"]["n"] > 0
    return {
        "rps": result["rps"],
        "due": setup.rate * result["seconds"],
        "answered": float(result["requests"]),
        "p50_ms": result["latency_us"]["p50"] / 1000 if counted else math.nan,
        "p99_ms": result["latency_us"]["p99"] / 1000 if counted else math.nan,
        "answer_p50_ms": result["answer_us"]["p50"] / 1000 if counted else math.nan,
        "first_p50_ms": result["ttft_us"]["p50"] / 1000 if first else math.nan,
        "cpu_us": used_s / result["requests_total"] * 1e6 if used_s and result["requests_total"] else math.nan,
        "bad": float(result["bad"] + result["stuck"]),
        "late_percent": result["late"] / result["sent"] * 100 if result["sent"] else 0.0,
    }


def _all(proxy: Proxy, phases: Phases, setups: list[Setup]) -> dict[str, Figures]:
    phases.warm_up()
    found = {}
    for setup in setups:
        # This also waits for whoever has a queue from the load before.
        if what := answers.wrong(phases.port, phases.engine_port, phases.fields):
            raise Wrong(what)
        seconds = max(phases.plan.seconds * setup.share, proxy.least_phase_s)
        found[setup.key] = _figures(setup, *phases.run(setup.key, seconds, setup.connections, **setup.options()))
    return found


def one_round(proxy: Proxy, plan: Plan, setups: list[Setup]) -> dict[str, Figures]:
    """A proxy, started afresh, through all set-ups; its memory afterwards is ``of_all``'s. Raises `Failed`, and `Wrong`."""
    if proxy.name == page.DIRECT:
        return _all(proxy, Phases(proxy, plan.engine_port, None, plan), setups)
    with measure.running(proxy, plan) as (phases, start_s):
        measure.settle(plan)
        found = _all(proxy, phases, setups)
        assert phases.pid is not None
        return found | {"of_all": {"rss_mb": process.rss_bytes(phases.pid) / 1e6, "start_ms": start_s * 1000}}


def run(line_up: list[Proxy], plan: Plan, setups: list[Setup], rounds: int) -> tuple[Rounds, dict[str, str], dict[str, str]]:
    """What was measured, who failed, and who answered wrongly and was not measured any further; each with the reason."""
    taken: Rounds = {proxy.name: [] for proxy in line_up}
    failed: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for proxy in line_up if number % 2 else line_up[::-1]:
            if proxy.name in failed or proxy.name in wrong:
                continue
            process.say(f"round {number}/{rounds}: {proxy.name}")
            try:
                taken[proxy.name].append(one_round(proxy, plan, setups))
            except Wrong as error:
                process.say(f"  answers wrongly: {error}")
                wrong[proxy.name] = str(error)
            except Failed as error:
                process.say(f"  failed: {error}")
                failed[proxy.name] = str(error)
    return taken, failed, wrong


def _known(value: Any) -> Any:
    """JSON has no NaN: a figure that a round could not take is not there."""
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items() if not (isinstance(one, float) and math.isnan(one))}
    return [_known(one) for one in value] if isinstance(value, list) else value


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        wanted = [*peers.named("direct"), *peers.named(args.only)]
        for name in ("mockengine", "loadgen"):
            tools.build(name)
    except (peers.UnknownProxy, tools.NoCompiler) as error:
        print(f"benchmarks.shootout: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended from outside, still stop what was started
    line_up = list({proxy.name: proxy for proxy in wanted}.values())
    skipped = {proxy.name: why for proxy in line_up if (why := proxy.missing())}
    for name, why in skipped.items():
        process.say(f"skipping {name}: {why}")
    line_up = [proxy for proxy in line_up if proxy.name not in skipped]
    about, cores = machine.facts(), process.choose_cores()
    versions = {proxy.name: proxy.version() for proxy in line_up}
    process.descriptors()
    os.sched_setaffinity(0, cores.load)
    setups = [setup for setup in SETUPS if setup.key in args.setups.split(",")]
    with tools.engine(cores.load) as port:
        taken, failed, wrong = run(line_up, Plan(args.seconds, _MOST_CLIENTS, cores, port, rows=()), setups, args.rounds)
    results: dict[str, Any] = _known(
        {
            "schema": 1,
            "machine": about,
            "settings": {
                "seconds": args.seconds,
                "rounds": args.rounds,
                "only": "" if args.only == LINE_UP else args.only,
                "setups": [setup.key for setup in setups],
                "pinned": cores.pinned,
            },
            "proxies": {name: {"version": versions[name], "rounds": rounds} for name, rounds in taken.items()},
            "skipped": skipped,
            "failed": failed,
            "wrong": wrong,
        }
    )
    out: Path = args.out or page.RESULTS / f"shootout-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    if args.publish:
        page.PAGE.write_text(page.written(results, out.stem))
    print(page.measured(results))
    print(f"\n{out}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
