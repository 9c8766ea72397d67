"""``python -m benchmarks.wire``: every proxy in turn in each round, on one engine, then the table.

Exit status: 0 measured; 1 a proxy failed or gave bad answers (the table still comes); 2 it could not begin.
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

from benchmarks.wire import machine, process, proxies, report, tools
from benchmarks.wire.measure import Failed, Figures, Plan, measure

RESULTS = Path(__file__).parents[1] / "results"


class UnknownProxy(Exception):
    """``--only`` names one that is not in the list."""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 600:
        raise argparse.ArgumentTypeError("between 0.5 and 600")
    return value


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.wire", description="What fastgw and its peers cost on the wire.")
    parser.add_argument("--seconds", type=_seconds, default=4.0, help="per phase: plain, stream (one connection takes half)")
    parser.add_argument("--rounds", type=_positive, default=3)
    parser.add_argument("--connections", type=_positive, default=64)
    parser.add_argument("--only", metavar="NAME,...", help="only these, and direct, from which all latencies are counted")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    return parser.parse_args(argv)


def _chosen(only: str | None) -> list[proxies.Proxy]:
    known = [p.name for p in proxies.ALL]
    wanted = {n.strip() for n in only.split(",") if n.strip()} | {report.BASELINE} if only else set(known)
    if unknown := wanted - set(known):
        raise UnknownProxy(f"unknown proxy {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    return [p for p in proxies.ALL if p.name in wanted]


def _run(chosen: list[proxies.Proxy], plan: Plan, rounds: int) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    taken: dict[str, list[Figures]] = {p.name: [] for p in chosen}
    failed: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for proxy in chosen:
            if proxy.name in failed:
                continue
            process.say(f"round {number}/{rounds}: {proxy.name}")
            try:
                taken[proxy.name].append(measure(proxy, plan))
            except Failed as error:
                failed[proxy.name] = str(error)
                process.say(f"  failed: {error}")
    return taken, failed


def _known(value: Any) -> Any:
    """JSON has no NaN: a figure that a round could not take is null there."""
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_known(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        chosen = _chosen(args.only)
        for name in ("mockengine", "loadgen"):
            tools.build(name)
    except (UnknownProxy, tools.NoCompiler) as error:
        print(f"benchmarks.wire: {error}", file=sys.stderr)
        return 2
    # Ended from outside, still stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    skipped = {p.name: why for p in chosen if (why := p.missing())}
    chosen = [p for p in chosen if p.name not in skipped]
    for name, why in skipped.items():
        process.say(f"skipping {name}: {why}")
    cores = process.choose_cores()
    if not cores.pinned:
        process.say("fewer than two cores: nothing is pinned, proxy and load share one, latencies and RPS say little")
    about = machine.facts()
    if about["load_average"] > 0.5:
        process.say(f"the machine is busy (load average {about['load_average']:.1f}): expect a wide spread")

    # Asked before the rounds, so that no start-up time has the first import of a fresh checkout in it.
    versions = {p.name: p.version() for p in chosen}
    os.sched_setaffinity(0, cores.load)
    with tools.engine(cores.load) as engine_port:
        plan = Plan(args.seconds, args.connections, cores, engine_port)
        taken, failed = _run(chosen, plan, args.rounds)

    rounds = report.with_added(taken)
    summaries = report.summary(rounds)
    shares, found = report.ratios(rounds), report.bars(rounds)
    bad = {name: int(sum(f["bad"] for f in figures)) for name, figures in rounds.items()}
    result = {
        "schema": 1,
        "machine": about,
        "settings": {
            "seconds": args.seconds,
            "rounds": args.rounds,
            "connections": args.connections,
            "events_per_stream": tools.EXPECTED_EVENTS,
            "interval_ms": tools.INTERVAL_MS,
            "pinned": cores.pinned,
            "load_cores": sorted(cores.load),
            "proxy_cores": sorted(cores.proxy),
        },
        "proxies": {n: {"version": versions[n], "summary": summaries[n], "rounds": rounds[n]} for n in versions},
        "skipped": skipped,
        "failed": failed,
        "ratios": {"fastgw/nginx": shares},
        "bars": found,
        "bad": bad,
    }
    out: Path = args.out or RESULTS / time.strftime("wire-%Y%m%d-%H%M%S.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_known(result), indent=1, allow_nan=False) + "\n")

    commit = about["git_commit"][:12] or "none"
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}, commit {commit}")
    print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds:g} s: median (least..greatest)")
    print("\n" + report.table(summaries) + "\n\n" + report.verdict(found, shares))
    for name, why in skipped.items():
        print(f"skipped: {name} ({why})")
    for name, why in failed.items():
        print(f"FAILED: {name}: {why}")
    for name, count in bad.items():
        if count:
            print(f"BAD ANSWERS: {name}: {count}; its figures do not count")
    print(f"\n{out}")
    return 1 if failed or any(bad.values()) else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
