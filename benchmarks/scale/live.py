"""Thousands of paced streams at once: what each takes of the gateway's memory, and what it adds to each event's way.

Owns: the two ways, straight to the engine and through the gateway, with the same streams, one after the other in each round.
"""

from __future__ import annotations

from typing import Any

from benchmarks.scale import crowd
from benchmarks.scale.gateway import Serving, serving
from benchmarks.wire import process
from benchmarks.wire.measure import Failed

ENDLESS = 1 << 30
"""Events of a stream: none may end by itself."""
ROOM = 100
"""Descriptors of the gateway that are no stream's."""
WARM_STREAMS = 200
"""What the first streams load and learn is no stream's memory."""


def fitting(asked: int, descriptors: int) -> int:
    """Each stream takes two of the gateway's descriptors."""
    return min(asked, (descriptors - ROOM) // 2)


def one_way(
    port: int, count: int, seconds: float, spread_s: float, cores: frozenset[int], gateway: Serving | None
) -> dict[str, Any]:
    """Open, measure, weigh, close. With a ``gateway``, its CPU time and memory too."""
    before = gateway.rss_bytes() if gateway else 0
    with crowd.streams(port, count, spread_s=spread_s, seconds=seconds, cores=cores) as client:
        opened = client.hear()
        if opened["bad"] or opened["open"] != count:
            raise Failed(f"{opened['open']} of {count} streams opened; the first failure: {opened['first_bad'] or 'silence'}")
        used, waited = (gateway.cpu_s(), gateway.waited_s()) if gateway else (0.0, 0.0)
        client.say("measure")
        figures = client.hear()
        if gateway:
            used = gateway.cpu_s() - used
            figures["cpu_event_us"] = used / max(1, figures["events"]) * 1e6
            figures["core_share"] = used / figures["seconds"]
            figures["waited_share"] = (gateway.waited_s() - waited) / figures["seconds"]
            figures["rss_before_mb"], figures["rss_live_mb"] = before / 1e6, gateway.rss_bytes() / 1e6
            figures["descriptors"] = gateway.descriptors()
    if figures["bad"] or figures["silent"]:
        raise Failed(f"{figures['bad']} streams failed, {figures['silent']} fell silent; the first: {figures['first_bad']}")
    return figures | {"open_seconds": opened["seconds"]}


def measure(
    asked: int, *, descriptors: int, events_per_s: float, seconds: float, rounds: int, cores: process.Cores
) -> dict[str, Any]:
    """Raises ``Failed`` when a stream is refused, ends, or brings an event that cannot be read."""
    count = fitting(asked, descriptors)
    if count < asked:
        process.say(f"streams: {asked:,} do not fit in {descriptors:,} descriptors: {count:,}")
    spread_s = max(1.0, count / 1000)
    most = str(count + ROOM)
    taken: list[dict[str, Any]] = []
    with crowd.engine(cores.load, events=ENDLESS, interval_us=int(1e6 / events_per_s)) as (engine_port, _):
        for number in range(1, rounds + 1):
            process.say(f"streams: round {number}/{rounds}: {count:,} straight to the engine")
            direct = one_way(engine_port, count, seconds, spread_s, cores.load, None)
            process.say(f"streams: round {number}/{rounds}: {count:,} through fastgw")
            flags = ("--max-connections", most, "--engine-max-connections", most)
            with serving(engine_port, cores.proxy, *flags) as gateway:
                one_way(gateway.port, min(WARM_STREAMS, count), 1.0, 0.5, cores.load, gateway)
                gateway.settle()
                through = _through(gateway, count, seconds, spread_s, cores.load)
            taken.append({"direct": direct, "through": through} | _figures(direct, through, count))
    return {"asked": asked, "streams": count, "descriptors": descriptors, "events_per_s": events_per_s, "rounds": taken}


def _through(gateway: Serving, count: int, seconds: float, spread_s: float, cores: frozenset[int]) -> dict[str, Any]:
    through = one_way(gateway.port, count, seconds, spread_s, cores, gateway)
    gateway.settle()
    return through | {"rss_after_mb": gateway.rss_bytes() / 1e6}


def _figures(direct: dict[str, Any], through: dict[str, Any], count: int) -> dict[str, float]:
    return {
        "rss_each_bytes": (through["rss_live_mb"] - through["rss_before_mb"]) * 1e6 / count,
        "kept_each_bytes": (through["rss_after_mb"] - through["rss_before_mb"]) * 1e6 / count,
        "cpu_event_us": through["cpu_event_us"],
        "core_share": through["core_share"],
        "waited_share": through["waited_share"],
        **{f"direct_{p}_us": direct["event_us"][p] for p in ("p50", "p99")},
        **{f"through_{p}_us": through["event_us"][p] for p in ("p50", "p99")},
        **{f"added_{p}_us": through["event_us"][p] - direct["event_us"][p] for p in ("p50", "p99")},
    }
