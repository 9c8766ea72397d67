"""``python -m benchmarks.scale [idle|engines|keys|ips|streams ...]``: what grows, each in its sizes, then the table.

Exit status: 0 measured (whether or not the bars are met); 1 something failed or gave bad answers (the table of the rest still
comes); 2 it could not begin.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale import crowd, gateway, live, report, sizes
from benchmarks.wire import machine, process, tools
from benchmarks.wire.measure import Failed

RESULTS = Path(__file__).parents[1] / "results"
THINGS = (*sizes.SETUPS, "streams")


def _positive(text: str) -> int:
    value = int(text.replace("_", ""))
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _several(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.2 <= value <= 3600:
        raise argparse.ArgumentTypeError("between 0.2 and 3600")
    return value


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    about = "What fastgw costs when there is much of something."
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=about)
    parser.add_argument("things", nargs="*", metavar="THING", help=f"any of {', '.join(THINGS)} (default: all)")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--seconds", type=_seconds, default=2.0, help="of load, per size and round")
    parser.add_argument("--connections", type=_positive, default=64, help="under load")
    parser.add_argument("--idle", type=_several, default=(10, 1_000, 10_000), metavar="N,...", help="idle connections")
    parser.add_argument("--engines", type=_several, default=(1, 1_000), metavar="N,...")
    parser.add_argument("--keys", type=_positive, default=100_000)
    parser.add_argument("--ips", type=_positive, default=1_000_000, help="addresses to be seen")
    parser.add_argument("--ip-seconds", type=_seconds, default=180.0, help="at most, for the addresses")
    parser.add_argument("--streams", type=_positive, default=10_000)
    parser.add_argument("--stream-rounds", type=_positive, default=1)
    parser.add_argument("--stream-seconds", type=_seconds, default=20.0)
    parser.add_argument("--events-per-s", type=float, default=2.0, help="of one stream")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    args = parser.parse_args(argv)
    if unknown := set(args.things) - set(THINGS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(THINGS)}")
    if not 0.01 <= args.events_per_s <= 1000:
        parser.error("--events-per-s: between 0.01 and 1000")
    args.things = [thing for thing in THINGS if thing in args.things] or list(THINGS)
    return args


def _tried(name: str, work: Callable[[], Any], into: dict[str, Any], failed: dict[str, str]) -> None:
    try:
        into[name] = work()
    except (Failed, crowd.Silent) as error:
        failed[name] = str(error)
        process.say(f"{name} failed: {error}")


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        for name in ("mockengine", "loadgen"):
            tools.build(name)
        for name in ("crowd", "streams"):
            crowd.build(name)
        twin = gateway.twin()
    except (tools.NoCompiler, Failed) as error:
        print(f"benchmarks.scale: {error}", file=sys.stderr)
        return 2
    # Ended from outside, still stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = process.choose_cores()
    if not cores.pinned:
        process.say("fewer than two cores: nothing is pinned, fastgw and load share one, the figures say little")
    about = machine.facts()
    if about["load_average"] > 0.5:
        process.say(f"the machine is busy (load average {about['load_average']:.1f}): expect a wide spread")
    descriptors = process.descriptors()
    process.say(f"fastgw runs its {twin} twin; {descriptors:,} descriptors per process")
    os.sched_setaffinity(0, cores.load)

    things, streams, failed = _measured(args, cores, descriptors)
    found = report.bars(things, streams.get("streams"))
    result = {
        "schema": 1,
        "machine": about,
        "twin": twin,
        "settings": {
            **{name: value for name, value in vars(args).items() if name != "out"},
            "descriptors": descriptors,
            "pinned": cores.pinned,
        },
        "sizes": things,
        "streams": streams.get("streams"),
        "bars": found,
        "failed": failed,
    }
    out: Path = args.out or RESULTS / time.strftime(f"scale-%Y-%m-%d-{twin}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")

    _say(args, result, out)
    return 1 if failed else 0


def _measured(
    args: argparse.Namespace, cores: process.Cores, descriptors: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What was asked for, by name; the streams; and what failed, with the reason."""
    things: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, crowd.engine(cores.load) as (engine_port, _):
        plan = sizes.Plan(
            engine_port=engine_port,
            cores=cores,
            seconds=args.seconds,
            connections=args.connections,
            folder=Path(folder),
            descriptors=descriptors,
            idle=args.idle,
            engines=args.engines,
            keys=args.keys,
            ips=args.ips,
            ip_seconds=args.ip_seconds,
        )
        for name in args.things:
            if name in sizes.SETUPS:
                _tried(name, lambda name=name: sizes.measure(name, plan, args.rounds), things, failed)
    streams: dict[str, Any] = {}
    if "streams" in args.things:
        _tried(
            "streams",
            lambda: live.measure(
                args.streams,
                descriptors=descriptors,
                events_per_s=args.events_per_s,
                seconds=args.stream_seconds,
                rounds=args.stream_rounds,
                cores=cores,
            ),
            streams,
            failed,
        )
    return things, streams, failed


def _say(args: argparse.Namespace, result: dict[str, Any], out: Path) -> None:
    """The result as people read it."""
    about, descriptors = result["machine"], result["settings"]["descriptors"]
    commit = about["git_commit"][:12] or "none"
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}, commit {commit}")
    print(f"fastgw's {result['twin']} twin, {descriptors:,} descriptors per process")
    if things := result["sizes"]:
        print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds:g} s: median (least..greatest)")
        print("\n" + report.sizes_table(things))
        print("".join(f"\n{line}" for line in report.notes(things)))
    if streams := result["streams"]:
        print("\n" + report.live_table(streams))
    if result["bars"]:
        print("\n" + report.verdict(result["bars"]))
    for name, why in result["failed"].items():
        print(f"FAILED: {name}: {why}")
    print(f"\n{out}")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
