"""A million requests and a hundred thousand streams whose clients leave: nothing may stay behind.

One gateway process lives through both, in each twin. Its memory is read at rest after every tenth of a load and must be flat
over the second half; at the end it holds what it held before, counts nothing as under way, and ends at once.
``make soak`` runs it, and prints what it reads; with ``SOAK_SHARE=0.01`` in the environment it is a hundredth of that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.scale import crowd
from benchmarks.wire.process import choose_cores
from benchmarks.wire.proxies import KEY
from tests.soak.watched import Held, Watched, can_run, watched

SHARE = float(os.environ.get("SOAK_SHARE", "1"))
REQUESTS = max(1000, int(1_000_000 * SHARE))
ABORTED = max(1000, int(100_000 * SHARE))
PARTS = 10
FLAT_BYTES = 2_000_000
CONNECTIONS = 64
MAX_IDLE = 64

CONFIG = """\
api_keys = ["{key}"]
rate_limit_per_second = 1000000
rate_limit_per_minute = 1000000000
tokens_per_minute = 100000000000
daily_token_quota = 1000000000000000
max_concurrent = 100000
state_dir = "{state}"
health_interval_s = 86400.0
engine_max_idle = {idle}
warm_connections = 1

[[engines]]
url = "http://127.0.0.1:{engine}"
models = ["m"]

[[engines]]
url = "http://127.0.0.1:{silent}"
models = ["silent"]
"""

pytestmark = pytest.mark.soak


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def in_parts(what: str, gateway: Watched, part: Callable[[], str]) -> None:
    """A tenth at a time; the second half must leave memory as it is."""
    rss = [gateway.rss_bytes]
    for number in range(1, PARTS + 1):
        said = part()
        assert gateway.alive(), gateway.lines[-5:]
        rss.append(gateway.rss_bytes)
        tell(f"  {what} {number * 100 // PARTS:>3} %: {said}, RSS {rss[-1] / 1e6:.2f} MB")
    first, grown = rss[PARTS // 2] - rss[0], rss[-1] - rss[PARTS // 2]
    tell(f"  {what}: RSS grew by {first / 1e6:+.2f} MB in the first half, {grown / 1e6:+.2f} MB in the second")
    assert grown < FLAT_BYTES, f"{what}: the second half left {grown:,} bytes more; readings: {rss}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("native", ["0", "1"], ids=["python", "native"])
def test_nothing_stays_behind(native: str, tmp_path: Path) -> None:
    if not can_run(native):
        pytest.skip("the native twin is not built here")
    cores = choose_cores()
    good = left = 0

    def plain(count: int) -> str:
        nonlocal good
        said = crowd.turns(gateway.port, cores=cores.load, count=count, connections=CONNECTIONS)
        assert (said["done"], said["bad"]) == (count, 0), said
        good += count
        return f"{count / said['seconds']:,.0f} requests/s"

    def aborted(count: int) -> str:
        nonlocal left
        said = crowd.leavers(gateway.port, count, connections=CONNECTIONS, cores=cores.load)
        assert (said["left"], said["bad"], said["unended"]) == (count, 0, 0), said
        left += count
        return f"{count / said['seconds']:,.0f} aborted streams/s"

    with (
        crowd.engine(cores.load, events=1 << 20, interval_us=3000) as (engine, _),
        crowd.silent_engine(cores.load) as (silent, sink),
        watched(
            tmp_path,
            CONFIG.format(state=tmp_path / "state", key=KEY, idle=MAX_IDLE, engine=engine, silent=silent),
            native,
            frozenset((engine, silent)),
            cores.proxy,
        ) as gateway,
    ):
        plain(1000)
        base = gateway.settled()
        tell(f"FASTGW_NATIVE={native}: at rest {base}")
        aborted(1000)  # so that what the first ones load is no growth
        in_parts("requests", gateway, lambda: plain(REQUESTS // PARTS))
        in_parts("aborts", gateway, lambda: aborted(ABORTED // PARTS))
        plain(1000)  # it still works

        end = gateway.settled()
        tell(f"  at rest again: {end}")
        # A connection that its client reset, and that nobody noticed, is among the others: it has no peer any more.
        assert end == Held(clients=0, engines=end.engines, others=base.others), f"before: {base}; now: {end}"
        # Each engine's pool keeps so many idle connections, and none of those that a client's leaving ended.
        assert end.engines <= 2 * (MAX_IDLE + 1)
        received = sink.finish()
        # Some left so soon that the engine was never asked; of those it was asked for, all were taken back.
        assert left // 100 < received["requests"] <= left // 2, received
        assert received["open"] <= MAX_IDLE + 1, received

        begun = time.monotonic()
        code = gateway.finish()
        assert code == 0, gateway.lines[-5:]
        assert time.monotonic() - begun < 5.0, "it waited for something at its end"
        assert [line["exchanges"] for line in gateway.said("draining")] == [0]
        assert not gateway.said("drain time over")
        assert not [line for line in gateway.lines if line.get("level") == "error"], gateway.lines[-5:]
    # One access record each, and nobody's leaving was taken for anything else.
    tell(f"  access records: {dict(gateway.outcomes)}")
    assert gateway.outcomes["ok"] == good
    assert sum(gateway.outcomes.values()) == good + left
