"""What a request and an event cost in instructions, without any clock: this checkout, and another revision beside it.

    python -m benchmarks.micro.counted [--against REVISION] [--rows plain,limits,beside,money,observe,trace,...] [--where N]

The compiled gateway's own classes of one process answer over socket pairs (as in ``governed``), under callgrind, which is told
when a load's requests begin and end: so what is counted is theirs, the kernel and the poller apart. The same checkout gives the
same figures to a per mille, on whatever machine and beside whatever runs there, so that a change of one per cent shows, and
``--where`` says in which extensions it is. The other revision lies where ``benchmarks.wire --against`` lays it out.

Owns: the loads, and what is divided by what. It asks of another revision only what ``governed`` has had all along.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.wire import checkout

REQUESTS, STREAMS = 400, 60
EVENTS = 32
MARK = "ffi_call"
"""What ctypes calls anything by: before it callgrind writes down what it has counted, and begins anew."""
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[],"usage":'
    b'{"prompt_tokens":7,"completion_tokens":32,"total_tokens":39}}\n\ndata: [DONE]\n\n'
)
SAMPLED = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nserver: engine\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streamed(events: int, together: int) -> list[bytes]:
    """A stream's reads: so many events of it, each a chunk, come ``together``; the first with the head, the end by itself."""
    reads = [chunk(EVENT) * min(together, events - at) for at in range(0, events, together)]
    return [HEAD + reads[0], *reads[1:], chunk(USAGE) + b"0\r\n\r\n"]


Dress = Callable[[Any], "Callable[[], None] | None"]
"""Gives a bench more than it has by itself; what it returns is called when the load is over."""


def name_model(bench: Any) -> None:
    """Its engine is known to have the model, as engines are."""
    from fastgw.upstream.table import UpstreamTable

    pools = bench.core.table.pools
    for pool in pools:
        pool.engine.configured_models = frozenset({"m"})
    bench.core.take_table(UpstreamTable(pools), [])


def pay(bench: Any) -> None:
    """A budget, and usage kept by model."""
    from fastgw.limits.account import Defaults
    from fastgw.limits.spending import Price

    accounts = bench.core.accounts
    prices = {"m": Price(600_000, 150_000, 2_400_000)}
    accounts.books.follow(prices, prices, True)
    accounts.books.kept = True
    for account in accounts.all():
        account.set(Defaults(budget=10**18), None, 0)


def beside(bench: Any) -> None:
    """All limits of its key's tenant, of its model, and of its key for that."""
    from benchmarks.micro.governed import MOST
    from fastgw.limits.account import Defaults
    from fastgw.limits.scope import Limits
    from fastgw.limits.scopes import ModelLimits

    accounts = bench.core.accounts
    limits = Limits(10**9, 0, MOST, 10**15, 10**6)
    accounts.scopes.follow({"lab": limits}, [ModelLimits(("m",), limits._replace(concurrency=0), limits)], 0)
    own = Defaults(
        requests_per_minute=10**9, tokens_per_minute=MOST, daily_tokens=10**15, concurrency=10**6, scoped=True
    )  # fmt: skip
    for account in accounts.all():
        account.set(own, None, 0, None, accounts.scopes.tenant("lab"))


def unseen(bench: Any) -> None:
    """Nobody is told of a request."""
    bench.core.tell(None)


def seen(bench: Any) -> Callable[[], None]:
    """Its metrics, with their exemplars, and its line in the access log, which goes nowhere."""
    from fastgw.observe.logs import LogWriter
    from fastgw.observe.tallies import Tallies, sampled

    bench.core.tally = Tallies(trace=sampled)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    log = LogWriter(nowhere)
    log.start(asyncio.get_running_loop())
    bench.core.tell(log)

    def over() -> None:
        log.close()
        os.close(nowhere)

    return over


def traced(bench: Any) -> Callable[[], None]:
    """The same, and a trace that is not sampled."""
    from fastgw.config import Config
    from fastgw.exchange.tracing import Tracing

    class Nobody:
        def follow(self, config: Config) -> None: ...

    bench.core.tracer = Tracing(Config(enable_otlp_tracing=True, trace_ratio=0.0), Nobody())  # type: ignore[arg-type]
    return seen(bench)


class Load:
    """What the engine answers by ``reads``; ``limits``: with all of them on; ``dress``: with more; ``line``: of the head."""

    def __init__(self, limits: bool, reads: list[bytes], dress: Dress | None = None, line: bytes = b"") -> None:
        self.limits = limits
        self.reads = reads
        self.dress = dress
        self.line = line
        self.requests = STREAMS if reads else REQUESTS

    async def run(self, mark: Callable[[], object]) -> None:
        from benchmarks.micro import governed

        bench = governed.Bench(asyncio.get_running_loop(), self.limits, True)
        name_model(bench)
        over = self.dress(bench) if self.dress is not None else None
        asked = governed.request(True).replace(b"Accept:", self.line + b"Accept:")
        if self.reads:
            asked = asked.replace(b'"stream":false', b'"stream": true')
        reads = self.reads or [governed.ANSWER]
        self.serve(bench, asked, reads, self.requests)
        mark()
        self.serve(bench, asked, reads, self.requests)
        mark()
        assert {record.status for record in bench.records} <= {200}
        assert (bench.core.stats.exchanges_total, bench.core.stats.exchanges_open) == (2 * self.requests, 0)
        if over is not None:
            over()
        bench.close()

    def serve(self, bench: Any, asked: bytes, reads: list[bytes], requests: int) -> None:
        last, room = reads[-1], bytearray(65536)
        for _ in range(requests):
            bench.far.send(asked)
            bench.client.on_readable()
            bench.up_far.recv_into(room)
            for data in reads:
                bench.up_far.send(data)
                bench.upstream.on_readable()
                if data is not last:
                    bench.far.recv_into(room)
            bench.far.recv_into(room)


LOADS = {
    "plain": Load(False, []),
    "limits": Load(True, []),
    "beside": Load(True, [], beside),
    "money": Load(False, [], pay),
    "unseen": Load(False, [], unseen, SAMPLED),
    "seen": Load(False, [], seen, SAMPLED),
    "untraced": Load(False, [], seen),
    "traced": Load(False, [], traced),
    "paced": Load(False, streamed(EVENTS, 1)),
    "paced-twice": Load(False, streamed(2 * EVENTS, 1)),
    "reads": Load(False, streamed(EVENTS, 8)),
    "reads-twice": Load(False, streamed(2 * EVENTS, 8)),
}
Taken = Counter[str]
"""Instructions, by extension; what is in none, by library."""


def less(some: Taken, others: Taken, times: float = 1.0) -> Taken:
    return Counter({name: round((some[name] - others[name]) / times) for name in some | others})


# What is told of the loads: its unit, which loads it takes, and how.
ROWS: dict[str, tuple[str, tuple[str, ...], Callable[..., Taken]]] = {
    "plain": ("a plain request", ("plain",), lambda plain: plain),
    "limits": ("what all limits add to it", ("limits", "plain"), less),
    "beside": ("what all limits of its tenant and its model add to that", ("beside", "limits"), less),
    "money": ("what a budget, and usage by model, add to it", ("money", "plain"), less),
    "observe": ("what metrics, their exemplars and the access log add to it", ("seen", "unseen"), less),
    "trace": ("what a trace that is not sampled adds to that", ("traced", "untraced"), less),
    "stream": (f"a stream of {EVENTS} events", ("paced",), lambda paced: paced),
    "event": ("one event more, in a read of its own", ("paced-twice", "paced"), lambda two, one: less(two, one, EVENTS)),
    "read": ("one event more, of eight in a read", ("reads-twice", "reads"), lambda two, one: less(two, one, EVENTS)),
}


def counts(path: Path) -> Taken:
    """What callgrind has written, by the file that the code is in."""
    found: Taken = Counter()
    name, inclusive = "", False
    for line in path.read_text(errors="replace").splitlines():
        if line[:3] == "ob=":
            name = part_of(line[3:])
        elif line[:6] == "calls=":
            inclusive = True  # the next line is the called one's
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not inclusive:
                found[name] += int(line.split()[1])
            inclusive = False
    return found


def part_of(path: str) -> str:
    if "/fastgw/" in path:
        return path.rpartition("/fastgw/")[2].partition(".")[0]
    return Path(path).name.partition(".so")[0].partition(".cpython")[0]


def taken(root: Path, loads: Sequence[str]) -> dict[str, Taken]:
    """Of one request of each load, by the checkout in ``root``."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0", "FASTGW_NATIVE": "1"}
    with tempfile.TemporaryDirectory(prefix="counted-") as folder:
        out = Path(folder) / "out"
        argv = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        argv += ["--compress-strings=no", "--compress-pos=no", sys.executable, "-P", __file__, "--run", *loads]
        done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=1200, check=False)
        if done.returncode:
            raise SystemExit(f"the loads failed in {root}: {done.stderr.strip()[-1000:]}")
        # What came before the first load may have called something too; of each two the first has what came before the load.
        written = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))[-2 * len(loads) :]
        if len(written) < 2 * len(loads):
            raise SystemExit("callgrind has written nothing between the loads: does this Python's ctypes have another libffi?")
        of_load = zip(loads, written[1::2], strict=True)
        return {load: less(counts(path), Counter(), LOADS[load].requests) for load, path in of_load}


def run(loads: Sequence[str]) -> None:
    for load in loads:
        asyncio.run(LOADS[load].run(ctypes.CDLL(None).getpid))


def told(of: str, unit: str, old: Taken | None, new: Taken, where: int) -> None:
    total = new.total()
    if old is None:
        print(f"{of:8} {total:8,}  {unit}")
    else:
        before = old.total()
        print(f"{of:8} {before:8,} -> {total:8,}  {total - before:+7,}  {total / before - 1:+7.2%}  {unit}")
    moved = new if old is None else less(new, old)
    for name, count in sorted(moved.items(), key=lambda item: -abs(item[1]))[:where]:
        print(f"{'':8} {count:+8,}  {name}")


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro.counted", description="Instructions of a request.")
    parser.add_argument("--against", metavar="REVISION", help="what git knows: main, HEAD~1")
    usual = [row for row in ROWS if row != "beside"]  # (of which a revision that has no such limits can tell nothing)
    parser.add_argument("--rows", default=",".join(usual), help="default: %(default)s, of all and beside")
    parser.add_argument("--where", type=int, default=0, metavar="N", help="and N parts that it is in, or what has changed most")
    arguments = parser.parse_args()
    rows = arguments.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"unknown row {', '.join(sorted(unknown))}; known are {', '.join(ROWS)}")
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed (Debian, Ubuntu: apt install valgrind)")
    roots = [checkout.ROOT]
    try:
        checkout.build(checkout.ROOT, "this checkout")
        if arguments.against:
            roots.append(checkout.lay_out(checkout.commit_of(arguments.against)))
            checkout.build(roots[1], arguments.against)
    except checkout.NoCheckout as error:
        parser.error(str(error))
    loads = list(dict.fromkeys(load for row in rows for load in ROWS[row][1]))
    found = [taken(root, loads) for root in roots]
    for row in rows:
        unit, needs, of = ROWS[row]
        new, *old = [of(*(each[load] for load in needs)) for each in found]
        told(row, unit, old[0] if old else None, new, arguments.where)


if __name__ == "__main__":
    main()
