"""Ten thousand live streams at a slow pace, or as many as fit: what an event costs, how late it is, what each weighs.

Owns: the load that is no row of the generator's: `benchmarks.scale` has it, and here each proxy gets the same. Latencies are
counted from *direct*, as everywhere.
"""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks.scale import crowd, live
from benchmarks.scale.gateway import Serving
from benchmarks.wire import process, report
from benchmarks.wire.measure import Failed, Figures, Plan, running
from benchmarks.wire.proxies import Proxy

COUNT = 10_000
EVENTS_PER_S = 2.0
_LEAST_S = 6.0  # twelve events of each
_SHARE = 10  # of --seconds


def measure(proxy: Proxy, plan: Plan, count: int) -> Figures:
    """One round of one proxy, started afresh. Raises `Failed` when a stream is refused, ends or falls silent."""
    seconds, spread_s = max(_LEAST_S, plan.seconds * _SHARE), max(1.0, count / 1000)
    pause_us = int(1e6 / EVENTS_PER_S)
    try:
        with crowd.engine(plan.cores.load, events=live.ENDLESS, interval_us=pause_us) as (engine_port, _):
            if proxy.name == report.BASELINE:
                return _figures(live.one_way(engine_port, count, seconds, spread_s, plan.cores.load, None), count)
            wide = replace(plan, engine_port=engine_port, connections=count + live.ROOM, rows=())
            with running(proxy, wide) as (phases, _):
                assert phases.child is not None
                gateway = Serving(phases.child, phases.port)
                live.one_way(phases.port, min(live.WARM_STREAMS, count), 1.0, 0.5, plan.cores.load, gateway)
                time.sleep(1.0)
                return _figures(live.one_way(phases.port, count, seconds, spread_s, plan.cores.load, gateway), count)
    except crowd.Silent as error:
        raise Failed(f"{proxy.name}: {error}") from None


def _figures(said: dict[str, object], count: int) -> Figures:
    late = said["event_us"]
    assert isinstance(late, dict)
    found: Figures = {"streams": float(count), "stream_p50_us": late["p50"], "stream_p99_us": late["p99"]}
    if "cpu_event_us" in said:
        known = {key: float(value) for key, value in said.items() if isinstance(value, (int, float))}
        found |= {
            "cpu_stream_us": known["cpu_event_us"],
            "stream_core_percent": known["core_share"] * 100,
            "rss_stream_kb": (known["rss_live_mb"] - known["rss_before_mb"]) * 1e3 / count,
        }
    return found


def fitting() -> int:
    """So many streams: each takes two descriptors of a proxy, and the hard limit of this process is that of all."""
    count = live.fitting(COUNT, process.descriptors())
    if count < COUNT:
        process.say(f"streams: {COUNT:,} do not fit in {process.descriptors():,} descriptors (ulimit -Hn): {count:,}")
    return count
