"""One proxy, one round: started afresh, timed, loaded, weighed, stopped. Or several at once, loaded in turns.

Owns: the order of the phases and what is divided by what. Must never report a figure from answers that were not checked:
``bad`` counts them all, and a phase without one good answer ends the round.
"""

from __future__ import annotations

import math
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.wire import process, tools
from benchmarks.wire.proxies import KEY, Command, Place, Proxy
from benchmarks.wire.rows import ROWS, Row

Figures = dict[str, float]

_BODY = b'{"model":"m","messages":[{"role":"user","content":"ready?"}]}'
_POLL_S = 0.001
_SETTLE_S = 1.5  # what a proxy still loads after its first answer is part of its idle memory, and of no load
_WARM_S = 0.3
_SOAK_DEADLINE_S = 300.0


class Failed(Exception):
    """The proxy did not start, or gave not one good answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    connections: int
    cores: process.Cores
    engine_port: int
    rows: tuple[Row, ...] = tuple(row for row in ROWS if row.usual)
    h2_engine_port: int = 0
    """Where the same engine speaks HTTP/2; 0 where no proxy asks for it."""
    soak_requests: int = 0
    """So many plain requests after all else, for the memory that they leave behind."""

    def engine_of(self, proxy: Proxy) -> int:
        """The port of the engine that it is to stand before."""
        return self.h2_engine_port if proxy.h2 else self.engine_port

    def clients(self) -> int:
        """The most that there are at once: what a careful operator sizes pools by."""
        return max([row.clients or self.connections for row in self.rows], default=self.connections)


def free_port() -> int:
    """A port that nothing listened on a moment ago: the peers' configurations cannot say 'any'."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _answers(port: int, fields: Sequence[str], deadline: float) -> bool:
    """Whether one plain request is served, whole, with 200. A refused connection says no at once."""
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\nConnection: close\r\n"
    )
    request += "".join(f"{field}\r\n" for field in fields) + "\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=max(0.001, deadline - time.monotonic())) as s:
            s.sendall(request.encode() + _BODY)
            answer = b""
            # The answer's own end, not the connection's: a proxy that closes late has served all the same.
            while not answer.endswith((b"}", b"0\r\n\r\n")) and (part := s.recv(65536)):
                answer += part
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200") and b'"finish_reason"' in answer and b'"usage"' in answer


def _start(proxy: Proxy, command: Command, place: Place, cores: frozenset[int]) -> tuple[subprocess.Popen[bytes], float]:
    """The running proxy, and the seconds from exec to its first served request."""
    log = place.folder / "output"
    begun = time.monotonic()
    child = process.spawn(command.argv, cores=cores, cwd=place.folder, env=command.env, log=None if command.quiet else log)
    deadline = begun + proxy.start_deadline_s
    try:
        while not _answers(place.port, proxy.fields(place.engine_port), deadline):
            code = child.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            why = f"exited with {code}" if code is not None else f"served nothing within {proxy.start_deadline_s:g} s"
            raise Failed(f"{proxy.name} {why}: {process.tail(log) or _what_it_says(command, place)}")
        return child, time.monotonic() - begun
    except BaseException:
        process.stop(child)
        raise


def _what_it_says(command: Command, place: Place) -> str:
    """Start a proxy that failed in silence once more, to hear why."""
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(command.argv, cwd=place.folder, env=command.env, stdout=pipe, stderr=both, timeout=2, check=False)
        said = done.stdout
    except subprocess.TimeoutExpired as ended:
        said = ended.stdout or b""
    except OSError as error:
        return str(error)
    return " | ".join(said.decode(errors="replace").strip().splitlines()[-5:]) or "it printed nothing"


def _check(result: dict[str, Any], phase: str, figures: Figures) -> None:
    wrong = int(result["bad"]) + int(result["stuck"])
    first = result["first_bad"] or "silence"
    figures["bad"] += wrong
    if wrong:
        process.say(f"    {phase}: {result['bad']} bad answers, {result['stuck']} stuck; the first: {first}")
    if not result["requests_total"] and not result["events_total"]:
        raise Failed(f"not one good answer ({phase}): {first}")


def _percentiles(name: str, histogram: dict[str, float]) -> Figures:
    # A run too short to see one whole answer after its warm-up has nothing to say here.
    return {f"{name}_{p}_us": histogram[p] if histogram["n"] else math.nan for p in ("p50", "p99")}


def _latencies(row: Row, result: dict[str, Any]) -> Figures:
    if row.latency is None:
        return {}
    first, each = (_percentiles(f"{name}{row.latency}", result[f"{name}_us"]) for name in ("ttft", "event"))
    return first | each


class Phases:
    """The runs of the load generator against one port, and where they are counted."""

    __slots__ = (
        *("child", "connections", "dialled", "engine_port", "expect_events", "fields", "figures", "pid", "plan", "port"),
        *("rows", "seconds", "slow"),
    )

    def __init__(self, proxy: Proxy, port: int, child: subprocess.Popen[bytes] | None, plan: Plan) -> None:
        self.port, self.child, self.plan = port, child, plan
        self.engine_port = plan.engine_of(proxy)
        self.fields = proxy.fields(self.engine_port)
        self.pid = child.pid if child else None
        self.connections = min(plan.connections, proxy.most_connections or plan.connections)
        self.slow = proxy.least_phase_s > 0
        self.seconds = max(plan.seconds, proxy.least_phase_s)
        self.rows = [row for row in plan.rows if proxy.takes(row)]
        self.expect_events = tools.EXPECTED_EVENTS + proxy.extra_events
        self.figures: Figures = {"bad": 0}
        self.dialled: dict[str, tuple[int, int]] = {}  # connections to the engine, and requests meanwhile, by the figure's key

    def run(self, phase: str, seconds: float, connections: int, **options: Any) -> tuple[dict[str, Any], float]:
        """The load generator's answer, and the CPU seconds that the proxy's process tree used meanwhile."""
        options |= {"cores": self.plan.cores.load, "expect_events": self.expect_events, "fields": self.fields}
        before = process.cpu_s(self.pid) if self.pid else 0.0
        result = tools.load(self.port, seconds=seconds, connections=connections, **options)
        used = process.cpu_s(self.pid) - before if self.pid else 0.0
        _check(result, phase, self.figures)
        return result, used

    def all(self) -> Figures:
        figures = self.figures
        self.warm_up()
        for row in self.rows:
            result, used = self.row(row)
            self.cpu(row.cpu, used, result[row.counted])
            figures[row.rate] = result["events_per_s" if row.events else "rps"]
            if row.key == "plain":
                self._plain_alone(used)
            figures |= _latencies(row, result)
        return figures

    def warm_up(self) -> None:
        # What the warm-up leaves unanswered delays the next phase: by seconds, where a request takes ten milliseconds or more.
        self.run("warm-up", max(_WARM_S, self.seconds / 2) if self.slow else _WARM_S, 1 if self.slow else self.connections)

    def row(self, row: Row) -> tuple[dict[str, Any], float]:
        """The load's result, and the CPU seconds of the proxy; what it dialled, here and before, goes to the figures."""
        clients = row.clients or self.connections
        if row.crowd:
            self.run(row.name + ", warm-up", _WARM_S, clients, **row.load)
        before = tools.dials(self.engine_port) if row.dials else 0
        result, used = self.run(row.name, self.seconds * row.share, clients, **row.load)
        if row.dials and self.pid:
            made, requests = self.dialled.get(row.dials, (0, 0))
            made += tools.dials(self.engine_port) - before - 1
            requests += result["requests_total"]
            self.dialled[row.dials] = made, requests
            self.figures[row.dials] = made / max(1, requests) * 100
        return result, used

    def _plain_alone(self, used: float) -> None:
        if self.pid:
            self.figures["core_percent"] = used / self.seconds * 100
        one, _ = self.run("one connection", self.seconds, 1)
        self.figures |= _percentiles("one", one["latency_us"])

    def soak(self, pid: int) -> None:
        wanted = self.plan.soak_requests
        process.say(f"    {wanted:,} requests, for the memory that they leave behind")
        result, _ = self.run("soak", _SOAK_DEADLINE_S, self.connections, requests=wanted)
        if result["requests_total"] >= wanted:
            self.figures["rss_soaked_mb"] = process.rss_bytes(pid) / 1e6
        else:
            process.say(f"    only {result['requests_total']:,} within {_SOAK_DEADLINE_S:g} s: its memory is not given")

    def cpu(self, key: str, used_s: float, count: int) -> None:
        if self.pid:
            self.figures[key] = used_s / count * 1e6 if count else math.nan


def settle(plan: Plan) -> None:
    """Let what was started come to rest; less of it where hardly anything is measured."""
    time.sleep(min(_SETTLE_S, 2 * plan.seconds))


@contextmanager
def running(proxy: Proxy, plan: Plan) -> Iterator[tuple[Phases, float]]:
    """The proxy, started afresh, and the seconds until it served; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix=f"wire-{proxy.name.partition(' ')[0]}-") as folder:
        place = Place(Path(folder), free_port(), plan.engine_of(proxy), free_port(), plan.clients())
        child, start_s = _start(proxy, proxy.command(place), place, plan.cores.proxy)
        try:
            yield Phases(proxy, place.port, child, plan), start_s
            if child.poll() is not None:
                raise Failed(f"{proxy.name} exited with {child.returncode} under load: {process.tail(place.folder / 'output')}")
        finally:
            process.stop(child)


def measure(proxy: Proxy, plan: Plan) -> Figures:
    """One round of one proxy. Raises `Failed` when it does not start, dies, or gives not one good answer."""
    if proxy.name == "direct":
        return Phases(proxy, plan.engine_port, None, plan).all()
    with running(proxy, plan) as (phases, start_s):
        assert phases.pid is not None
        settle(plan)
        idle = process.rss_bytes(phases.pid)
        figures = phases.all()
        figures["rss_loaded_mb"] = process.rss_bytes(phases.pid) / 1e6
        if plan.soak_requests:
            phases.soak(phases.pid)
    return figures | {"start_ms": start_s * 1000, "rss_idle_mb": idle / 1e6}


def in_turns(proxies: Sequence[Proxy], plan: Plan) -> dict[str, Figures]:
    """One round of several: all are up, and each phase goes through them and back before the next begins.

    What is compared so lies a second apart, and in the middle at the same time: what others do on the machine meets all alike.
    One that only waits uses no CPU time. A latency is the mean of the two phases'. Raises `Failed` like `measure`.
    """
    with ExitStack() as stack:
        up = {p.name: stack.enter_context(running(p, plan))[0] for p in proxies}
        settle(plan)
        for phases in up.values():
            if phases.pid:
                phases.figures["rss_idle_mb"] = process.rss_bytes(phases.pid) / 1e6
        for name, phases in up.items():
            with _named(name):
                phases.warm_up()
        for row in plan.rows:
            _row_in_turns(row, {name: phases for name, phases in up.items() if row in phases.rows})
    return {name: phases.figures for name, phases in up.items()}


def _row_in_turns(row: Row, up: dict[str, Phases]) -> None:
    used, count = dict.fromkeys(up, 0.0), dict.fromkeys(up, 0)
    late: dict[str, list[Figures]] = {name: [] for name in up}
    for name in (*up, *reversed(up)):
        with _named(name):
            result, cpu_s = up[name].row(row)
        used[name] += cpu_s
        count[name] += result[row.counted]
        late[name].append(_latencies(row, result))
    for name, phases in up.items():
        phases.cpu(row.cpu, used[name], count[name])
        phases.figures |= {key: mean(figures[key] for figures in late[name]) for key in late[name][0]}


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except Failed as error:
        raise Failed(f"{name}: {error}") from None
