"""CPU per plain request while one thing grows: idle connections, engines, keys, addresses seen.

Owns: what each size sets up. All sizes of a thing stand ready at once, each before a gateway of its own; the rounds load one
after the other, so slow drifts of the machine meet all of them. Sizes that are not under load cost nothing but memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scale import crowd
from benchmarks.scale.gateway import Serving, serving
from benchmarks.wire import process
from benchmarks.wire.measure import Failed
from benchmarks.wire.proxies import KEY

Figures = dict[str, float]
_ROOM = 512  # descriptors beside those that are counted: engine, log, poller, the load itself


@dataclass(frozen=True, slots=True)
class Plan:
    engine_port: int
    cores: process.Cores
    seconds: float
    connections: int
    folder: Path
    descriptors: int
    idle: tuple[int, ...]
    engines: tuple[int, ...]
    keys: int
    ips: int
    ip_seconds: float


@dataclass(frozen=True, slots=True)
class Size:
    """One size, ready to be loaded. ``notes`` are figures of its setting up."""

    label: str
    gateway: Serving
    load: Callable[[], dict[str, Any]]
    notes: Figures = field(default_factory=dict)


Setup = Callable[[Plan, ExitStack], list[Size]]


def _plain(plan: Plan, gateway: Serving) -> Callable[[], dict[str, Any]]:
    return lambda: gateway.plain(plan.cores.load, plan.seconds, plan.connections)


def _warm(plan: Plan, gateway: Serving) -> int:
    """Load it for a moment; its memory afterwards. Before that, memory grows for other reasons than size."""
    gateway.plain(plan.cores.load, min(1.0, plan.seconds), plan.connections)
    gateway.settle()
    return gateway.rss_bytes()


def _good(said: dict[str, Any], what: str) -> None:
    if said["bad"]:
        raise Failed(f"{what}: {said['bad']} of {said['bad'] + said['done']} failed; the first: {said['first_bad']}")


def idle(plan: Plan, stack: ExitStack) -> list[Size]:
    sizes = []
    for asked in plan.idle:
        count = min(asked, plan.descriptors - _ROOM)
        if count < asked:
            process.say(f"  {asked} idle connections do not fit in {plan.descriptors} descriptors: {count}")
        most = str(count + _ROOM)
        gateway = stack.enter_context(serving(plan.engine_port, plan.cores.proxy, "--max-connections", most))
        before = _warm(plan, gateway)
        said, _ = stack.enter_context(crowd.held(gateway.port, count, plan.cores.load))
        _good(said, f"{count} idle connections")
        gateway.settle()
        notes: Figures = {"count": count, "descriptors": gateway.descriptors()}
        if count >= 1000:  # below that, pages and not connections are counted
            notes["rss_each_bytes"] = (gateway.rss_bytes() - before) / count
        sizes.append(Size(f"{count:,} idle connections", gateway, _plain(plan, gateway), notes))
    return sizes


def engines(plan: Plan, stack: ExitStack) -> list[Size]:
    sizes = []
    base = 0
    for count in plan.engines:
        gateway = stack.enter_context(serving(plan.engine_port, plan.cores.proxy, engines=count))
        loaded = _warm(plan, gateway)
        base = base or loaded
        notes: Figures = {"count": count, "descriptors": gateway.descriptors()}
        if count >= 100:
            notes["rss_each_bytes"] = (loaded - base) / count
        sizes.append(Size(f"{count:,} engine{'s' * (count > 1)}", gateway, _plain(plan, gateway), notes))
    return sizes


def keys(plan: Plan, stack: ExitStack) -> list[Size]:
    """One key; many, of which one is used; many, each used in its turn, which no memory of past requests can help."""
    rng = random.Random(8128)
    all_keys = [KEY, *(f"sk-{rng.getrandbits(160):040x}" for _ in range(plan.keys - 1))]
    file = plan.folder / "keys"
    file.write_text("".join(f"{key}\n" for key in all_keys))

    def turns(gateway: Serving, used: Path | None) -> Callable[[], dict[str, Any]]:
        return lambda: crowd.turns(
            gateway.port, cores=plan.cores.load, seconds=plan.seconds, connections=plan.connections, keys=used
        )

    one = stack.enter_context(serving(plan.engine_port, plan.cores.proxy))
    many = stack.enter_context(serving(plan.engine_port, plan.cores.proxy, "--api-keys-file", str(file)))
    base, loaded = _warm(plan, one), _warm(plan, many)
    return [
        Size("1 key", one, turns(one, None), {"count": 1}),
        Size(f"{plan.keys:,} keys, 1 in use", many, turns(many, None), {"count": plan.keys}),
        Size(
            f"{plan.keys:,} keys, all in use",
            many,
            turns(many, file),
            {"count": plan.keys, "rss_each_bytes": (loaded - base) / plan.keys},
        ),
    ]


def ips(plan: Plan, stack: ExitStack) -> list[Size]:
    none = stack.enter_context(serving(plan.engine_port, plan.cores.proxy))
    many = stack.enter_context(serving(plan.engine_port, plan.cores.proxy))
    _warm(plan, none)
    before = _warm(plan, many)
    process.say(f"  {plan.ips:,} addresses, at most {plan.ip_seconds:g} s")
    used = many.cpu_s()
    said = crowd.visits(many.port, plan.ips, plan.ip_seconds, plan.cores.load)
    _good(said, "visits")
    count = int(said["done"])
    used = many.cpu_s() - used
    many.settle()
    process.say(f"  {count:,} addresses in {said['seconds']:.1f} s")
    if count < plan.ips:
        process.say(f"  {plan.ips:,} were asked for: --ip-seconds gives more time, {plan.ip_seconds:g} s were not enough")
    notes: Figures = {
        "count": count,
        "asked": plan.ips,
        "seconds": said["seconds"],
        "rss_growth_mb": (many.rss_bytes() - before) / 1e6,
        "cpu_per_visit_us": used / count * 1e6,
    }
    return [
        Size("1 address seen", none, _plain(plan, none), {"count": 1}),
        Size(f"{count:,} addresses seen", many, _plain(plan, many), notes),
    ]


SETUPS: dict[str, Setup] = {"idle": idle, "engines": engines, "keys": keys, "ips": ips}


@contextmanager
def _ready(name: str, plan: Plan) -> Iterator[list[Size]]:
    with ExitStack() as stack:
        yield SETUPS[name](plan, stack)


def measure(name: str, plan: Plan, rounds: int) -> list[dict[str, Any]]:
    """Each size with its rounds; ``ratio`` is to the first size in the same round. Raises ``Failed``."""
    process.say(f"{name}: setting up")
    with _ready(name, plan) as sizes:
        taken: list[dict[str, Any]] = [{"label": size.label, "notes": size.notes, "rounds": []} for size in sizes]
        for number in range(1, rounds + 1):
            process.say(f"{name}: round {number}/{rounds}")
            for size, row in zip(sizes, taken, strict=True):
                row["rounds"].append(size.gateway.cost(size.load))
            base = taken[0]["rounds"][-1]["cpu_us"]
            for row in taken:
                row["rounds"][-1]["ratio"] = row["rounds"][-1]["cpu_us"] / base
        return taken
