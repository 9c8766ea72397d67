"""``python -m benchmarks.hostile``: each attack in turn against fastgw, with what others notice, then the tables.

Exit status: 0 measured; 1 a bar is missed or the gateway did not live through it; 2 it could not begin.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hostile import load, report
from benchmarks.hostile.attacks import MIB, Attack, Hold, attacks, bodies, holds, paths, post
from benchmarks.wire import machine, process, tools
from benchmarks.wire.process import Cores, say
from benchmarks.wire.proxies import Fastgw, Haproxy, Nginx, Place, Proxy

RESULTS = Path(__file__).parents[1] / "results"
FLOOD_CONNECTIONS = 100


@dataclass
class Target:
    """A running proxy."""

    port: int
    pid: int


@contextmanager
def running(proxy: Proxy, engine_port: int, cores: Cores) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        port = free_port()
        command = proxy.command(Place(Path(folder), port, engine_port))
        log = Path(folder) / "log"
        child = process.spawn(command.argv, cores=cores.proxy, cwd=Path(folder), env=command.env, log=log)
        try:
            end = time.monotonic() + proxy.start_deadline_s
            while True:
                try:
                    load.connect(port).close()
                    break
                except OSError:
                    if time.monotonic() > end or child.poll() is not None:
                        raise SystemExit(f"{proxy.name} does not start: {process.tail(log)}") from None
                    time.sleep(0.02)
            time.sleep(0.5)
            yield Target(port, child.pid)
            if child.poll() is not None:
                raise SystemExit(f"{proxy.name} did not live through it: {process.tail(log)}")
        finally:
            process.stop(child)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def price(target: Target, attack: Attack, seconds: float) -> dict[str, Any]:
    """CPU of one attack, in microseconds for each piece and nanoseconds for each byte sent."""
    numbers = itertools.count()
    batches = [paths(attack.times) for _ in range(8)] if attack.name == "no such path" else [attack.piece]
    load.send_for(target.port, lambda: batches[0], attack.times, min(0.3, seconds))  # warm
    before = process.cpu_s(target.pid)
    sent = load.send_for(target.port, lambda: batches[next(numbers) % len(batches)], attack.times, seconds)
    spent = process.cpu_s(target.pid) - before
    return {
        "name": attack.name,
        "says": attack.says,
        "requests": sent.pieces * attack.times,
        "bytes": len(batches[0]) // attack.times,
        "us_per_request": spent * 1e6 / max(1, sent.pieces * attack.times),
        "ns_per_byte": spent * 1e9 / sent.bytes if sent.bytes else None,
    }


def memory(target: Target, hold: Hold) -> dict[str, Any]:
    """Memory of what is held open: bytes for each connection, and for each byte sent. (The process is a new one: what an
    earlier crowd has freed would be taken again, and cost nothing.)"""
    with load.held(target.port, hold.wire, 5):
        pass  # what grows once is not the attack's
    time.sleep(0.5)
    before = process.rss_bytes(target.pid)
    with load.held(target.port, hold.wire, hold.connections) as sent:
        grown = max(0, process.rss_bytes(target.pid) - before)
    return {
        "name": hold.name, "says": hold.says, "connections": hold.connections,
        "bytes_per_connection": grown / hold.connections, "per_byte": grown / sent if sent else None,
    }  # fmt: skip


def stalls(target: Target, size: int) -> list[dict[str, Any]]:
    """How long another client's /liveness takes, at worst, while one large body is read."""
    import threading

    found = []
    for name, body in bodies(size):
        took: list[float] = []
        prober = threading.Thread(target=lambda took=took: took.extend(load.probe(target.port, "/liveness", 1.2, 0.001)))
        prober.start()
        time.sleep(0.2)
        with load.connect(target.port) as sock:
            load.exchange(sock, post(body), 1)
        prober.join()
        found.append({"name": name, "worst_ms": max(took) * 1e3, "median_ms": statistics.median(took) * 1e3})
    return found


def floods(target: Target, wire: bytes, path: str, seconds: float) -> dict[str, Any]:
    """What another client notices of connections that send ``wire`` again and again."""
    with load.flooded(target.port, wire, FLOOD_CONNECTIONS):
        took = sorted(load.probe(target.port, path, seconds))
    return {"p50_ms": took[len(took) // 2] * 1e3, "p99_ms": took[int(len(took) * 0.99)] * 1e3, "worst_ms": took[-1] * 1e3,
            "probes": len(took)}  # fmt: skip


def destination(args: argparse.Namespace) -> Path | None:
    """Where the figures go. A part of a run is a look: it is kept only where somebody says so."""
    if args.out or args.only:
        return args.out  # type: ignore[no-any-return]
    return RESULTS / f"hostile-{time.strftime('%Y%m%d-%H%M%S')}.json"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.hostile", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each attack")
    parser.add_argument("--large", type=int, default=10, metavar="MIB", help="size of large bodies")
    parser.add_argument("--only", choices=["attacks", "memory", "stalls", "floods"], action="append")
    parser.add_argument("--twin", choices=["native", "python"], action="append")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go; with --only they go nowhere else")
    parser.add_argument("--publish", action="store_true", help="also write the measured section of docs/security.md")
    args = parser.parse_args(argv)
    if args.publish and args.only:
        parser.error("--publish takes the whole run: leave --only out")
    return args


def main() -> int:
    args = arguments()
    wanted = args.only or ["attacks", "memory", "stalls", "floods"]
    twins = args.twin or ["native", "python"]
    cores = process.choose_cores()
    large = args.large * MIB - 100
    result: dict[str, Any] = {"machine": machine.facts(), "seconds": args.seconds, "large_mib": args.large, "twins": {}}
    with tools.engine(cores.load) as engine_port, process.on(cores.load):
        for twin in twins:
            proxy = Fastgw(name=f"fastgw ({twin})", native=twin == "native")
            if why := proxy.missing():
                print(f"{proxy.name}: {why}", file=sys.stderr)
                return 2
            figures: dict[str, Any] = {}
            if "attacks" in wanted:
                figures["attacks"] = []
                for attack in attacks(large):
                    with running(proxy, engine_port, cores) as target:
                        figures["attacks"].append(price(target, attack, args.seconds))
                    say(report.line(twin, figures["attacks"][-1], figures["attacks"][0]))
            if "memory" in wanted:
                figures["memory"] = []
                for hold in holds():
                    with running(proxy, engine_port, cores) as target:
                        figures["memory"].append(memory(target, hold))
            if "stalls" in wanted:
                with running(proxy, engine_port, cores) as target:
                    figures["stalls"] = stalls(target, large)
            result["twins"][twin] = figures
        if "floods" in wanted:
            result["floods"] = {}
            others: list[tuple[Proxy, str]] = [
                (Fastgw(name=f"fastgw ({twin})", native=twin == "native"), "/liveness") for twin in twins
            ]
            for proxy, path in [*others, (Nginx(), "/v1/models"), (Haproxy(), "/v1/models")]:
                if proxy.missing():
                    continue
                asks = b"GET %b HTTP/1.1\r\nHost:a\r\n\r\n"
                wires = {"refused": asks % b"/v1/models" * 1800, "no such path": asks % b"/nowhere" * 1800}
                if isinstance(proxy, Fastgw):
                    pieces = {attack.name: attack.piece for attack in attacks(MIB)}
                    wires |= {name: pieces[name] * (1 + 60_000 // len(pieces[name])) for name in ("gzip, dense", "parts")}
                for kind, flood in wires.items():
                    with running(proxy, engine_port, cores) as target:
                        row = result["floods"][f"{proxy.name}, {kind}"] = floods(target, flood, path, 4 * args.seconds)
                    say(f"{proxy.name}, flooded ({kind}): p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms")
    print(report.tables(result))
    out = destination(args)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"all figures: {out}")
        if args.publish:
            report.publish(result, out.name)
    missed = report.missed(result)
    for bar in missed:
        print(f"MISSED: {bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
