"""Where each microsecond goes: ``python -m benchmarks.wire.where``, a request and an event taken apart by ``perf``.

    python -m benchmarks.wire.where [--rows plain,paced] [--only fastgw,nginx,floor] [--seconds 4] [--rounds 3] [--out FILE]
                                    [--publish]

Each proxy is started afresh, loaded with a row of `rows`, and sampled meanwhile by its CPU clock. A sample in the kernel counts
for the system call that it is in, one in user code for the file: the compiled twins are an extension for each module. Shares of
the samples times CPU time per request or event, both of the same run; the median of the rounds. How often the proxy slept is
there too: a sleep costs some microseconds, and how many there are depends on when the load comes as much as on the proxy.

Owns: what a sample is called. Must never guess: what is not told from a sample's own frames is "the rest".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.wire import machine, page, peers, process, report, rows, tools
from benchmarks.wire.measure import Failed, Phases, Plan, running, settle
from benchmarks.wire.proxies import Fastgw, Proxy
from benchmarks.wire.rows import Row

RESULTS = Path(__file__).parents[1] / "results"
_HZ = 1999  # a prime: not in step with anything that ticks
_BEGINS_S = 0.5
_LEAST_SHARE = 0.005  # of the whole: parts that are less in each proxy are summed up
_FRAME = re.compile(r"^\s+([0-9a-f]+) (.+?) \((.*)\)$")
_CALL = re.compile(r"^__(?:x64|arm64)_sys_(\w+)$")
# Some of these are functions that the system call ends in, with no frame of its own.
_SENDS = ("sendto", "sendmsg", "writev", "write", "do_writev", "vfs_writev", "ksys_write", "__sys_sendmsg", "__sys_sendto")
_RECEIVES = ("recvfrom", "recvmsg", "readv", "read", "do_readv", "vfs_readv", "ksys_read", "__sys_recvmsg", "__sys_recvfrom")
_SOFTIRQ = ("__do_softirq", "handle_softirqs", "do_softirq")
_SLEEP = ("schedule", "__schedule", "schedule_hrtimeout_range_clock")

USER, KERNEL = "user", "kernel"


class NoPerf(Exception):
    """There is no perf here, or it may not look."""


def told(frames: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """One sample, innermost frame first, as (symbol, file): on which side it was, and what it is called there."""
    inside = [symbol for symbol, place in frames if place.startswith("[kernel")]
    if not inside:
        return USER, _file(frames[0][1]) if frames else "the rest"
    call = next((found[1] for symbol in reversed(inside) if (found := _CALL.match(symbol))), "")
    if call in _SENDS or any(s in _SENDS for s in inside):
        return KERNEL, "send: the other side's receiving" if any(s in _SOFTIRQ for s in inside) else "send"
    if call in _RECEIVES or any(s in _RECEIVES for s in inside):
        return KERNEL, "recv"
    if call.startswith(("epoll_wait", "epoll_pwait")):
        return KERNEL, "epoll_wait: sleeping and waking" if any(s in _SLEEP for s in inside) else "epoll_wait: looking"
    if call:
        return KERNEL, call
    if any("syscall" in symbol.lower() for symbol in inside):
        return KERNEL, "the way into the kernel and out"
    if any("page_fault" in symbol for symbol in inside):
        return KERNEL, "page faults"
    return KERNEL, "interrupts and the rest"


def _file(place: str) -> str:
    """The source of an extension of ours; a library's own name."""
    path = Path(place)
    if "fastgw" in path.parts and path.suffix == ".so":
        inner = path.parts[len(path.parts) - 1 - path.parts[::-1].index("fastgw") + 1 :]
        return "/".join(inner).partition(".")[0] + ".py"
    name = path.name
    if "site-packages" in path.parts[:-1]:
        return path.parts[path.parts.index("site-packages") + 1]
    if name == "[vdso]":
        return "the clock"
    if re.match(r"(lib)?python3", name):
        return "the interpreter"
    if re.match(r"libc[.-]", name):
        return "libc"
    return "the rest" if not name or "unknown" in name else name.partition(".so")[0].partition(".cpython")[0]


def samples(script: str) -> Iterator[list[tuple[str, str]]]:
    """What ``perf script -F ip,sym,dso`` prints, sample by sample."""
    for block in script.split("\n\n"):
        found = [(m[2].partition("+")[0], m[3]) for line in block.splitlines() if (m := _FRAME.match(line))]
        if found:
            yield found


def shares(script: str) -> dict[tuple[str, str], float]:
    counted = Counter(told(frames) for frames in samples(script))
    return {name: n / counted.total() for name, n in counted.items()}


def _perf() -> str:
    found = shutil.which("perf")
    if not found:
        raise NoPerf("perf is not installed (Debian, Ubuntu: linux-perf or linux-tools)")
    return found


@contextmanager
def _sampled(pids: Sequence[int], cores: frozenset[int], into: Path) -> Iterator[None]:
    argv = [_perf(), "record", "-q", "-e", "cpu-clock", "-F", str(_HZ), "-g", "-o", str(into)]
    with process.on(cores):
        child = subprocess.Popen([*argv, "-p", ",".join(map(str, pids))], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(_BEGINS_S)
    if child.poll() is not None:
        assert child.stderr is not None
        raise NoPerf(f"perf record: {child.stderr.read().decode(errors='replace').strip()[-300:]}")
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


def _script(data: Path) -> str:
    argv = [_perf(), "script", "-i", str(data), "-F", "ip,sym,dso"]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    if "[kernel" not in done.stdout:
        raise NoPerf("perf shows no kernel: kernel.perf_event_paranoid is above 1, or there were no samples")
    return done.stdout


def take(proxy: Proxy, row: Row, plan: Plan) -> dict[str, Any]:
    """One proxy under one load: CPU µs for each request or event, and their parts. Raises `Failed`, `NoPerf`."""
    with running(proxy, plan) as (phases, _), tempfile.TemporaryDirectory(prefix="where-") as folder:
        assert phases.pid is not None
        settle(plan)
        phases.warm_up()
        data = Path(folder) / "perf.data"
        with _sampled(process.tree(phases.pid), plan.cores.load, data):
            slept = process.sleeps(phases.pid)
            result, used = phases.row(row)
            slept = process.sleeps(phases.pid) - slept
        count = max(1, result[row.counted])
        return _taken_apart(_script(data), used / count * 1e6, phases) | {"sleeps": slept / count}


def _taken_apart(script: str, each_us: float, phases: Phases) -> dict[str, Any]:
    found = shares(script)
    sides: dict[str, dict[str, float]] = {KERNEL: {}, USER: {}}
    for (side, name), share in found.items():
        sides[side][name] = share * each_us
    return {"us": each_us, "samples": sum(1 for _ in samples(script)), "bad": int(phases.figures["bad"]), **sides}


def middle(taken: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of each part over the rounds; what one round did not see is nothing there."""
    out: dict[str, Any] = {"us": median(t["us"] for t in taken), "samples": sum(t["samples"] for t in taken)}
    if all("sleeps" in t for t in taken):
        out["sleeps"] = median(t["sleeps"] for t in taken)
    for side in (KERNEL, USER):
        names = {name for t in taken for name in t[side]}
        out[side] = {name: median(t[side].get(name, 0.0) for t in taken) for name in names}
    return out


def _named(row: Row) -> str:
    return f"{row.name}, µs for each {'event' if row.events else 'request'}"


def _lines(side: str, parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The side's sum, then what it is made of, the dearest of the first proxy's first."""
    first, *_ = parts
    known = {name for each in parts.values() for name in each[side]}
    shown = [n for n in known if any(each[side].get(n, 0.0) >= _LEAST_SHARE * each["us"] for each in parts.values())]
    shown.sort(key=lambda name: (-parts[first][side].get(name, 0.0), name))
    title = {KERNEL: "in system calls and the kernel", USER: "in user code"}[side]
    out = [_line(f"**{title}**", (f"**{sum(each[side].values()):.1f}**" for each in parts.values()))]
    out += [_line(_shown(name), (_cell(each[side].get(name, 0.0)) for each in parts.values())) for name in shown]
    rest = [sum(us for name, us in each[side].items() if name not in shown) for each in parts.values()]
    if any(rest):
        out.append(_line("less than half a per cent each", map(_cell, rest)))
    return out


def _line(title: str, cells: Iterable[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _cell(us: float) -> str:
    return f"{us:.2f}" if us >= 0.005 else ""


def _shown(name: str) -> str:
    return f"`fastgw/{name}`" if name.endswith(".py") else name


def section(results: Mapping[str, Any], name: str) -> str:
    """The part of the page; ``name``: the results' file in ``benchmarks/results``, without its ending."""
    about, settings = results["machine"], results["settings"]
    dirty = ", with changes that were not committed" if about["git_dirty"] else ""
    command = f"`python -m benchmarks.wire.where --seconds {settings['seconds']:g} --rounds {settings['rounds']}`"
    out = [
        f"{command}, {about['date'][:10]}, {about['cpu']}, Linux {about['kernel'].partition('-')[0]}, "
        f"commit {about['git_commit'][:12] or 'none'}{dirty}; medians of the rounds, in "
        f"[`results/{name}.json`](../benchmarks/results/{name}.json). Sampling costs a few per cent, which are in the sums.",
    ]
    for title, parts in results["rows"].items():
        out += ["", f"| {title} | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
        out += ["| all | " + " | ".join(f"{each['us']:.1f}" for each in parts.values()) + " |"]
        if all("sleeps" in each for each in parts.values()):  # (not in results from before they were counted)
            out += [_line("how often it sleeps", (f"{each['sleeps']:.2f}" for each in parts.values()))]
        out += _lines(KERNEL, parts) + _lines(USER, parts)
    return "\n".join(out)


def publish(file: Path) -> None:
    page.put(page.PERFORMANCE, page.WHERE, section(json.loads(file.read_text()), file.stem))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.wire.where", description="Where each microsecond goes, by perf.")
    parser.add_argument("--rows", default="plain,paced", metavar="ROW,...", help="default: plain,paced")
    parser.add_argument("--only", default="fastgw,nginx,floor", metavar="NAME,...", help="default: fastgw,nginx,floor")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON (default: a dated file in benchmarks/results)")
    parser.add_argument("--publish", action="store_true", help="also write the section of docs/performance.md")
    return parser.parse_args(argv)


def _order(proxies: Sequence[Proxy]) -> list[Proxy]:
    """fastgw first: parts are in the order of what they cost the first."""
    return sorted(proxies, key=lambda p: not isinstance(p, Fastgw))


def _rounds(chosen: Sequence[Proxy], wanted: Sequence[Row], plan: Plan, count: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[dict[str, Any]]]] = {_named(row): {p.name: [] for p in chosen} for row in wanted}
    for number in range(1, count + 1):
        for row in wanted:
            for proxy in chosen if number % 2 else chosen[::-1]:
                process.say(f"round {number}/{count}: {row.name}: {proxy.name}")
                found = take(proxy, row, plan)
                if found["bad"]:
                    raise Failed(f"{proxy.name}: {found['bad']} bad answers ({row.name})")
                taken[_named(row)][proxy.name].append(found)
    return {title: {name: middle(each) for name, each in parts.items()} for title, parts in taken.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 measured, 1 a proxy failed, 2 it could not begin."""
    args = _arguments(argv)
    try:
        chosen = [p for p in _order(peers.named(args.only)) if p.name != report.BASELINE and not p.missing()]
        wanted = rows.choose(args.rows.split(",")).rows
        if not chosen or not wanted:
            raise NoPerf("nothing to look at: no such proxy here, or no row that is a load")
        for name in ("mockengine", "loadgen", "floor"):
            tools.build(name)
        _perf()
        cores, about = process.choose_cores(), machine.facts()
        process.descriptors()
        os.sched_setaffinity(0, cores.load)
        with tools.engine(cores.load) as port:
            found = _rounds(chosen, wanted, Plan(args.seconds, args.connections, cores, port, wanted), args.rounds)
    except Failed as error:
        print(f"benchmarks.wire.where: {error}", file=sys.stderr)
        return 1
    except (NoPerf, peers.UnknownProxy, rows.UnknownRow, tools.NoCompiler) as error:
        print(f"benchmarks.wire.where: {error}", file=sys.stderr)
        return 2
    results = {
        "machine": about,
        "settings": {"seconds": args.seconds, "rounds": args.rounds, "connections": args.connections},
        "rows": found,
    }
    out: Path = args.out or RESULTS / f"where-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    if args.publish:
        publish(out)
    print(section(results, out.stem))
    print(f"\n{out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
