"""``python -m benchmarks.wire``: every proxy in turn in each round, on one engine, then the table.

Exit status: 0 measured; 1 a proxy failed or gave bad answers (the table still comes), or a ratio is above ``--most``; 2 it
could not begin.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.scale import crowd
from benchmarks.wire import against, chart, checkout, machine, page, peers, process, report, rows, start, streams, tools
from benchmarks.wire.measure import Failed, Figures, Plan, in_turns, measure
from benchmarks.wire.proxies import Fastgw, Proxy

RESULTS = Path(__file__).parents[1] / "results"
_MILLION = 1_000_000
_ROUNDS, _ROUNDS_AGAINST = 3, 10
_ROWS_AGAINST = ("plain", "unpaced", "paced")
_EXAMPLE = """\
What a change costs, beside what was there before it, and nginx (three minutes, and the first time those of a build):

  python -m benchmarks.wire --against main
  python -m benchmarks.wire --against HEAD~1 --only fastgw,fastgw-limits --rounds 20 --most 1.02
  python -m benchmarks.wire --against main --rows bodies,crowd-512,start --rounds 5
  make bench ARGS="--against v0.1.0 --seconds 1.5"
"""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.2 <= value <= 600:
        raise argparse.ArgumentTypeError("between 0.2 and 600")
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("a ratio above 0, for instance 1.02")
    return value


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.wire",
        description="What fastgw and its peers cost on the wire.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=_seconds, default=0.7, help="per phase")
    parser.add_argument("--rounds", type=_positive, help=f"default {_ROUNDS}; with --against {_ROUNDS_AGAINST}")
    parser.add_argument("--connections", type=_positive, default=64)
    parser.add_argument("--only", metavar="NAME,...", help="only these, and direct, from which all latencies are counted")
    parser.add_argument(
        "--rows",
        metavar="ROW,...",
        help=f"what is measured: all, or any of {', '.join(rows.GROUPS)} (default: all but streams, which take minutes; with "
        f"--against {','.join(_ROWS_AGAINST)})",
    )
    parser.add_argument(
        "--million",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="at the end 1,000,000 requests through fastgw, for its memory after them",
    )
    parser.add_argument(
        "--more", type=Path, metavar="FILE", help="add the rounds to those of an earlier run of this commit"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    parser.add_argument("--publish", action="store_true", help="also write the measured sections of the two pages")
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="only what fastgw and nginx cost (or --only), and fastgw of that revision beside them, built in build/against",
    )
    parser.add_argument("--most", type=_ratio, metavar="RATIO", help="with --against: exit status 1 where new/old is above it")
    args = parser.parse_args(argv)
    if args.most is not None and not args.against:
        parser.error("--most is for the ratio that --against REVISION measures")
    if args.more and args.against:
        parser.error("--more adds to a run of the proxies, not to one of --against")
    if args.publish and args.against:
        parser.error("--publish: the page has the proxies' figures, not those of --against")
    args.rounds = args.rounds or (_ROUNDS_AGAINST if args.against else _ROUNDS)
    if args.publish and args.out and args.out.resolve().parent != RESULTS:
        parser.error("--publish: the page shows files of benchmarks/results, so --out has to be there")
    return args


def _rows(args: argparse.Namespace) -> rows.Chosen:
    return rows.choose(args.rows.split(",") if args.rows else _ROWS_AGAINST if args.against else rows.USUAL)


def _chosen(only: str | None) -> list[Proxy]:
    if not only:
        return [p for p in peers.ALL if not p.asked_for]
    named = peers.named(only)
    return [p for p in peers.ALL if p in named or p.name == report.BASELINE]


def _round(chosen: list[Proxy], number: int) -> list[Proxy]:
    """Every second round goes backward: what the machine does slowly meets the first and the last alike."""
    return chosen if number % 2 else chosen[::-1]


def _in_short(figures: Figures) -> str:
    shown = (("cpu_plain_us", "a request"), ("cpu_flood_us", "an unpaced event"), ("cpu_event_us", "a paced event"))
    return ", ".join(f"{figures[key]:.1f} µs {what}" for key, what in shown if key in figures)


def _one(proxy: Proxy, plan: Plan, wanted: rows.Chosen, count: int) -> Figures:
    """All that is to be known of one proxy in one round."""
    figures = measure(proxy, plan)
    if short := _in_short(figures):
        process.say(f"  {short}")
    if wanted.start and isinstance(proxy, Fastgw):
        figures |= start.in_turns([proxy], plan)[proxy.name]
    if wanted.streams and proxy.takes_streams:
        process.say(f"  {count:,} streams")
        figures |= streams.measure(proxy, plan, count)
    return figures


def _earlier(file: Path | None) -> dict[str, list[Figures]]:
    """The rounds that a file has, by proxy. Raises ValueError for those of another commit, OSError where there is no file."""
    if file is None:
        return {}
    found = json.loads(file.read_text())
    if found["machine"]["git_commit"] != machine.facts()["git_commit"]:
        raise ValueError(f"--more: {file} was measured at another commit")
    return {
        name: [{key: math.nan if value is None else value for key, value in figures.items()} for figures in one["rounds"]]
        for name, one in found["proxies"].items()
    }


def _run(
    chosen: list[Proxy], plan: Plan, wanted: rows.Chosen, number_of_rounds: int, million: bool
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    taken: dict[str, list[Figures]] = {p.name: [] for p in chosen}
    failed: dict[str, str] = {}
    count = streams.fitting() if wanted.streams else 0
    for number in range(1, number_of_rounds + 1):
        for proxy in _round(chosen, number):
            if proxy.name in failed:
                continue
            process.say(f"round {number}/{number_of_rounds}: {proxy.name}")
            soak = _MILLION if million and number == number_of_rounds and proxy.name == "fastgw" else 0
            try:
                figures = _one(proxy, replace(plan, soak_requests=soak), wanted, count)
            except Failed as error:
                failed[proxy.name] = str(error)
                process.say(f"  failed: {error}")
                continue
            taken[proxy.name].append(figures)
    return taken, failed


def _run_in_turns(
    chosen: list[Proxy], plan: Plan, wanted: rows.Chosen, number_of_rounds: int
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """The first failure ends it: a round without one of them compares nothing."""
    taken: dict[str, list[Figures]] = {p.name: [] for p in chosen}
    count = streams.fitting() if wanted.streams else 0
    for number in range(1, number_of_rounds + 1):
        process.say(f"round {number}/{number_of_rounds}")
        order = against.order(chosen, number)
        try:
            found = in_turns(order, plan)
            if wanted.start:
                for name, figures in start.in_turns([p for p in order if isinstance(p, Fastgw)], plan).items():
                    found[name] |= figures
            for proxy in order if wanted.streams else ():
                process.say(f"  {count:,} streams: {proxy.name}")
                found[proxy.name] |= streams.measure(proxy, plan, count)
        except Failed as error:
            process.say(f"  failed: {error}")
            return taken, {f"round {number}": str(error)}
        for name, figures in found.items():
            process.say(f"  {name}: {_in_short(figures)}")
            taken[name].append(figures)
    return taken, {}


def _known(value: Any) -> Any:
    """JSON has no NaN: a figure that a round could not take is null there."""
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_known(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _settings(args: argparse.Namespace, cores: process.Cores) -> dict[str, Any]:
    return {
        "seconds": args.seconds,
        "rounds": args.rounds,
        "connections": args.connections,
        "rows": _rows(args).names(),
        "events_per_stream": tools.EXPECTED_EVENTS,
        "interval_ms": tools.INTERVAL_MS,
        "pinned": cores.pinned,
        "load_cores": sorted(cores.load),
        "proxy_cores": sorted(cores.proxy),
    }


def _bad(taken: report.Rounds) -> dict[str, int]:
    return {name: int(sum(f["bad"] for f in figures)) for name, figures in taken.items()}


def _results(
    args: argparse.Namespace, chosen: list[Proxy], cores: process.Cores, taken: dict[str, list[Figures]], **said: Any
) -> dict[str, Any]:
    """Everything that was measured, as it goes to the file; page, chart and table are made from it."""
    found_rounds = report.with_added(taken)
    summaries = report.summary(found_rounds)
    versions = said.pop("versions")
    proxies = {
        p.name: {"version": versions[p.name], "note": p.note, "summary": summaries[p.name], "rounds": found_rounds[p.name]}
        for p in chosen
    }
    found: dict[str, Any] = _known(
        {
            "schema": 2,
            **said,
            "settings": _settings(args, cores) | {"rounds": max(map(len, taken.values()), default=0), "only": args.only or ""},
            "proxies": proxies,
            "headroom": report.headroom(found_rounds),
            "ratios": report.all_ratios(found_rounds),
            "bars": report.bars(found_rounds),
            "bad": _bad(found_rounds),
        }
    )
    return found


def _compared(
    args: argparse.Namespace, cores: process.Cores, pairs: dict[str, str], taken: dict[str, list[Figures]], **said: Any
) -> dict[str, Any]:
    """What a run with ``--against`` found."""
    wanted, versions = _rows(args), said.pop("versions")
    summaries = against.summary(taken, against.told(wanted))
    found: dict[str, Any] = _known(
        {
            "schema": 1,
            **said,
            "settings": _settings(args, cores),
            "proxies": {n: {"version": versions[n], "summary": summaries[n], "rounds": taken[n]} for n in taken},
            "ratios": against.ratios(taken, pairs, args.most, against.keys(wanted)),
            "bad": _bad(taken),
        }
    )
    return found


def _print_shape(results: dict[str, Any], spread: str) -> None:
    about, settings = results["machine"], results["settings"]
    commit = (about["git_commit"][:12] or "none") + (" and changes" if about["git_dirty"] else "")
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}, commit {commit}")
    shape = f"{settings['connections']} connections, {settings['rounds']} rounds of {settings['seconds']:g} s a phase"
    print(f"{shape}: median ({spread})")


def _print_trouble(results: dict[str, Any]) -> None:
    for name, why in results["skipped"].items():
        print(f"skipped: {name} ({why})")
    for name, why in results["failed"].items():
        print(f"FAILED: {name}: {why}")
    for name, count in results["bad"].items():
        if count:
            print(f"BAD ANSWERS: {name}: {count}; its figures do not count")


def _print(results: dict[str, Any]) -> None:
    proxies = results["proxies"]
    _print_shape(results, "least..greatest")
    print("\n" + report.table({name: entry["summary"] for name, entry in proxies.items()}))
    print("\n" + report.verdict(results["bars"], results["headroom"]))
    for name, entry in proxies.items():
        if entry["note"]:
            print(f"{name}: {entry['note']}")
    _print_trouble(results)


def _print_compared(results: dict[str, Any]) -> None:
    _print_shape(results, "first quartile..third")
    print("\n" + against.table({name: entry["summary"] for name, entry in results["proxies"].items()}))
    print("\n" + against.verdict(results["ratios"]))
    _print_trouble(results)


def _write(results: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def _end(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Files, page and table."""
    now = time.strftime("%Y%m%d-%H%M%S")
    if args.against:
        out: Path = args.out or checkout.PLACE / f"{now}.json"
        _write(results, out)
        _print_compared(results)
        print(f"\n{out}")
        return
    out = args.out or args.more or RESULTS / f"{'h2' if page.of_h2(results) else 'wire'}-{now}.json"
    _write(results, out)
    out.with_suffix(".svg").write_text(chart.draw(results))
    if args.publish:
        page.publish(out)
    _print(results)
    print(f"\n{out}\n{out.with_suffix('.svg')}")


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    pairs: dict[str, str] = {}
    commit = ""
    try:
        earlier = _earlier(args.more)
        chosen, wanted = _chosen(args.only or (against.STANDARD if args.against else None)), _rows(args)
        for name in ("mockengine", "h2engine", "loadgen", "floor"):
            tools.build(name)
        if wanted.streams:
            crowd.build("streams")
        if args.against:
            chosen, pairs, commit = against.line_up(chosen, args.against)
    except (peers.UnknownProxy, rows.UnknownRow, tools.NoCompiler, checkout.NoCheckout, OSError, ValueError) as error:
        print(f"benchmarks.wire: {error}", file=sys.stderr)
        return 2
    # Ended from outside, still stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    skipped = {p.name: why for p in chosen if (why := p.missing())}
    chosen = [p for p in chosen if p.name not in skipped]
    for name, why in skipped.items():
        process.say(f"skipping {name}: {why}")
    if any(name in skipped for pair in pairs.items() for name in pair):
        return 2
    cores = process.choose_cores()
    if not cores.pinned:
        process.say("fewer than two cores: nothing is pinned, proxy and load share one, latencies and RPS say little")
    about = machine.facts()
    if about["load_average"] > 0.5:
        process.say(f"the machine is busy (load average {about['load_average']:.1f}): expect a wide spread")

    # Asked before the rounds, so that no start-up time has the first import of a fresh checkout in it.
    versions = {p.name: p.version() for p in chosen}
    process.descriptors()
    os.sched_setaffinity(0, cores.load)
    with ExitStack() as stack:
        engine_port = stack.enter_context(tools.engine(cores.load))
        h2_port = stack.enter_context(tools.engine(cores.load, h2=True)) if any(p.h2 for p in chosen) else 0
        plan = Plan(args.seconds, args.connections, cores, engine_port, wanted.rows, h2_port)
        if pairs:
            taken, failed = _run_in_turns(chosen, plan, wanted, args.rounds)
        else:
            taken, failed = _run(chosen, plan, wanted, args.rounds, args.million)
            taken = {name: earlier.get(name, []) + rounds for name, rounds in taken.items()}

    said = {"machine": about, "skipped": skipped, "failed": failed, "versions": versions}
    if pairs:
        results = _compared(args, cores, pairs, taken, against=commit, **said)
    else:
        results = _results(args, chosen, cores, taken, **said)
    _end(args, results)
    too_much = pairs and any(entry["met"] is False for entry in results["ratios"])
    return 1 if failed or too_much or any(results["bad"].values()) else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
