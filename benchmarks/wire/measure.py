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
from typing import Any

from benchmarks.wire import process, tools
from benchmarks.wire.proxies import KEY, Command, Place, Proxy

Figures = dict[str, float]

_BODY = b'{"model":"m","messages":[{"role":"user","content":"ready?"}]}'
_POLL_S = 0.001
_SETTLE_S = 0.5  # what a proxy still loads after its first answer is part of its idle memory
_WARM_S = 0.3
_PACED = 1.25
"""The paced streams run so much longer than the other phases: a stream alone takes two thirds of a second."""
_SOAK_DEADLINE_S = 300.0


class Failed(Exception):
    """The proxy did not start, or gave not one good answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    connections: int
    cores: process.Cores
    engine_port: int
    soak_requests: int = 0
    """So many plain requests after all else, for the memory that they leave behind."""


def free_port() -> int:
    """A port that nothing listened on a moment ago: the peers' configurations cannot say 'any'."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _answers(port: int, deadline: float) -> bool:
    """Whether one plain request is served, whole, with 200. A refused connection says no at once."""
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\nConnection: close\r\n\r\n"
    )
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
        while not _answers(place.port, deadline):
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


def _percentiles(figures: Figures, name: str, histogram: dict[str, float]) -> None:
    # A run too short to see one whole answer after its warm-up has nothing to say here.
    for p in ("p50", "p99"):
        figures[f"{name}_{p}_us"] = histogram[p] if histogram["n"] else math.nan


class _Phases:
    """The runs of the load generator against one port, and where they are counted."""

    __slots__ = ("connections", "expect_events", "figures", "pid", "plan", "port", "seconds", "slow")

    def __init__(self, proxy: Proxy, port: int, pid: int | None, plan: Plan) -> None:
        self.port, self.pid, self.plan = port, pid, plan
        self.connections = min(plan.connections, proxy.most_connections or plan.connections)
        self.slow = proxy.least_phase_s > 0
        self.seconds = max(plan.seconds, proxy.least_phase_s)
        self.expect_events = tools.EXPECTED_EVENTS + proxy.extra_events
        self.figures: Figures = {"bad": 0}

    def run(self, phase: str, seconds: float, connections: int, **options: Any) -> tuple[dict[str, Any], float]:
        """The load generator's answer, and the CPU seconds that the proxy's process tree used meanwhile."""
        cores, expect = self.plan.cores.load, self.expect_events
        before = process.cpu_s(self.pid) if self.pid else 0.0
        result = tools.load(self.port, cores=cores, seconds=seconds, connections=connections, expect_events=expect, **options)
        used = process.cpu_s(self.pid) - before if self.pid else 0.0
        _check(result, phase, self.figures)
        return result, used

    def all(self) -> Figures:
        figures, seconds = self.figures, self.seconds
        # What the warm-up leaves unanswered delays the next phase: by seconds, where a request takes ten milliseconds or more.
        self.run("warm-up", max(_WARM_S, self.seconds / 2) if self.slow else _WARM_S, 1 if self.slow else self.connections)

        plain, used = self.run("plain", seconds, self.connections)
        self.cpu("cpu_plain_us", used, plain["requests_total"])
        if self.pid:
            figures["core_percent"] = used / seconds * 100
        figures["rps"] = plain["rps"]

        one, _ = self.run("one connection", seconds, 1)
        _percentiles(figures, "one", one["latency_us"])

        flood, used = self.run("unpaced streams", seconds, self.connections, stream=True, unpaced=True)
        self.cpu("cpu_flood_us", used, flood["events_total"])
        figures["flood_per_s"] = flood["events_per_s"]

        paced, used = self.run("paced streams", seconds * _PACED, self.connections, stream=True)
        self.cpu("cpu_event_us", used, paced["events_total"])
        figures["events_per_s"] = paced["events_per_s"]
        _percentiles(figures, "ttft", paced["ttft_us"])
        _percentiles(figures, "event", paced["event_us"])
        return figures

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


@contextmanager
def _running(proxy: Proxy, plan: Plan) -> Iterator[tuple[_Phases, float]]:
    """The proxy, started afresh, and the seconds until it served; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix=f"wire-{proxy.name.partition(' ')[0]}-") as folder:
        place = Place(Path(folder), free_port(), plan.engine_port, free_port())
        child, start_s = _start(proxy, proxy.command(place), place, plan.cores.proxy)
        try:
            yield _Phases(proxy, place.port, child.pid, plan), start_s
            if child.poll() is not None:
                raise Failed(f"{proxy.name} exited with {child.returncode} under load: {process.tail(place.folder / 'output')}")
        finally:
            process.stop(child)


def measure(proxy: Proxy, plan: Plan) -> Figures:
    """One round of one proxy. Raises `Failed` when it does not start, dies, or gives not one good answer."""
    if proxy.name == "direct":
        return _Phases(proxy, plan.engine_port, None, plan).all()
    with _running(proxy, plan) as (phases, start_s):
        assert phases.pid is not None
        time.sleep(_SETTLE_S)
        idle = process.rss_bytes(phases.pid)
        figures = phases.all()
        figures["rss_loaded_mb"] = process.rss_bytes(phases.pid) / 1e6
        if plan.soak_requests:
            phases.soak(phases.pid)
    return figures | {"start_ms": start_s * 1000, "rss_idle_mb": idle / 1e6}


_TURNS: tuple[tuple[str, str, str, float, dict[str, bool]], ...] = (
    ("plain", "cpu_plain_us", "requests_total", 1.0, {}),
    ("unpaced streams", "cpu_flood_us", "events_total", 1.0, {"stream": True, "unpaced": True}),
    ("paced streams", "cpu_event_us", "events_total", _PACED, {"stream": True}),
)


def in_turns(proxies: Sequence[Proxy], plan: Plan) -> dict[str, Figures]:
    """One round of several, for CPU time only: all are up, and each phase goes through them and back before the next begins.

    What is compared so lies a second apart, and in the middle at the same time: what others do on the machine meets all alike.
    One that only waits uses no CPU time. Raises `Failed` like `measure`.
    """
    with ExitStack() as stack:
        up = {p.name: stack.enter_context(_running(p, plan))[0] for p in proxies}
        time.sleep(_SETTLE_S)
        for name, phases in up.items():
            _named(name, phases, "warm-up", _WARM_S, {})
        for phase, key, counted, share, options in _TURNS:
            used, count = dict.fromkeys(up, 0.0), dict.fromkeys(up, 0)
            for name in (*up, *reversed(up)):
                result, cpu_s = _named(name, up[name], phase, plan.seconds * share, options)
                used[name] += cpu_s
                count[name] += result[counted]
            for name, phases in up.items():
                phases.cpu(key, used[name], count[name])
    return {name: phases.figures for name, phases in up.items()}


def _named(name: str, phases: _Phases, phase: str, seconds: float, options: dict[str, bool]) -> tuple[dict[str, Any], float]:
    try:
        return phases.run(phase, seconds, phases.connections, **options)
    except Failed as error:
        raise Failed(f"{name}: {error}") from None
