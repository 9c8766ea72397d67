"""What a pick costs: each policy among 10, 100 and 1,000 engines, and ``prefix_aware`` by the length of the prompt.

    python -m benchmarks.micro.picks [--policies least_loaded,...]

A pick is what the gateway does with it: the strategy is asked, the engine has a request more, and one that went before has
ended, as calls tell it. What that telling costs without a pick is the first row, and is taken off the others. """

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from fastgw import twins
from fastgw.config import Config, EngineConfig
from fastgw.config.names import POLICIES
from fastgw.exchange.context import Strategy
from fastgw.policy.routing import strategy_of
from fastgw.protocol.openai import scan_body
from fastgw.stats import NullLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.watch import Journal

ROUNDS = 5


class _Head(NamedTuple):
    forward: bytes
    own: Any = None


class Asked:
    """A request of an SDK's, with a session."""

    substitute = ""
    key_id = "key"
    client_ip = "127.0.0.1"
    model = "m"

    def __init__(self, number: int, prompt: bytes = b"hello") -> None:
        self.head = _Head(
            b"Accept: application/json\r\nUser-Agent: AsyncOpenAI/Python 1.99.1\r\nX-Stainless-Lang: python\r\n"
            b"X-Stainless-Package-Version: 1.99.1\r\nX-Stainless-OS: Linux\r\nX-Session-Id: session-%d\r\n" % number
        )
        self.body = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":64}' % prompt
        self.facts = scan_body(self.body)


def place(number: int, journal: Journal) -> Pool:
    config = EngineConfig(url=f"http://127.0.0.1:{number + 1}", name=f"engine-{number}", features=["tools"])
    return Pool(_engine(config, journal), None, Stats(), NullLog(), 1.0)  # type: ignore[arg-type]


def _engine(config: EngineConfig, journal: Journal) -> Any:
    from fastgw.upstream.target import Engine

    engine = Engine(config)
    engine.healthy = True
    engine.watch = journal.watch()
    return engine


def traffic(pick: Callable[[Any], Pool], asked: list[Any], under_way: list[Pool], count: int) -> float:
    """Microseconds of one request, ``count`` of them."""
    began = time.perf_counter()
    size = len(under_way)
    at = 0
    for number in range(count):
        pool = pick(asked[number % len(asked)])
        engine = pool.engine
        engine.inflight += 1
        watch = engine.watch
        watch.opened(100)  # type: ignore[union-attr]
        over = under_way[at].engine
        over.inflight -= 1
        over.watch.ended(100, 0)  # type: ignore[union-attr]
        under_way[at] = pool
        at = at + 1 if at + 1 < size else 0
    return (time.perf_counter() - began) / count * 1e6


def measured(strategy: Strategy | None, engines: int, asked: list[Any], count: int) -> float:
    journal = Journal()
    pools = [place(number, journal) for number in range(engines)]
    group = Group(pools)
    dice = random.Random(1)
    under_way = [dice.choice(pools) for _ in range(3 * engines)]
    for pool in under_way:
        pool.engine.inflight += 1
        pool.engine.watch.opened(100)  # type: ignore[union-attr]
    if strategy is None:
        turns = [dice.choice(pools) for _ in range(997)]
        state = [0]

        def pick(_: Any) -> Pool:
            state[0] = (state[0] + 1) % 997
            return turns[state[0]]
    else:
        held = strategy

        def pick(exchange: Any) -> Pool:
            found = held.pick(group, (), exchange)
            assert found is not None
            return found

    traffic(pick, asked, under_way, count // 5)
    return median(traffic(pick, asked, under_way, count) for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro.picks", description=__doc__)
    parser.add_argument("--policies", default=",".join(name for name in POLICIES if name != "weighted"))
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    chance = random.Random(2).random
    asked = [Asked(number) for number in range(500)]
    print(f"twin: {'native' if twins.native() else 'Python'}; microseconds of a pick")
    base = {engines: measured(None, engines, asked, arguments.count) for engines in (10, 100, 1000)}
    print("telling alone:", ", ".join(f"{engines}: {cost:.2f}" for engines, cost in base.items()))
    for name in arguments.policies.split(","):
        costs = [measured(strategy_of(name, chance), engines, asked, arguments.count) - base[engines] for engines in base]
        print(f"{name:16} " + "  ".join(f"{cost:6.2f}" for cost in costs), flush=True)
    if "prefix_aware" in arguments.policies:
        dice = random.Random(3)
        for size in (4_000, 40_000, 400_000):
            prompts = [Asked(number, dice.randbytes(size // 2).hex().encode()) for number in range(40)]
            strategy = strategy_of("prefix_aware", chance, Config())
            count = max(400, arguments.count * 4000 // size // 4)
            cost = measured(strategy, 1000, prompts, count) - base[1000]
            print(f"prefix_aware, a prompt of {size} bytes, 1,000 engines: {cost:.2f}", flush=True)


if __name__ == "__main__":
    main()
