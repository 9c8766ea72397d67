"""Discrete events: strategies, as they are, before engines that are made up.

An engine reads one prompt after the other, so many tokens in a second, but for what it has in its cache; makes tokens for so many
requests at once, each as fast as if it were alone; and keeps what it read, up to so many tokens, the conversation that was not asked
for longest going first, its end before its beginning. The rest is the gateway's own: ``Engine``, its watch, ``Group``, and the strategy,
told by the clock of the simulation (``net.clock.hold``). What the cache has is the engine's business: no strategy can see it.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.routing.trace import Session
from fastgw.config import Config, EngineConfig
from fastgw.config.names import Policy
from fastgw.net.clock import hold
from fastgw.policy.routing import strategy_of
from fastgw.protocol.openai import scan_body
from fastgw.stats import NullLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine
from fastgw.upstream.watch import Journal

LOOKS_AT_BODIES = frozenset(("prefix_aware", "session", "consistent_hash"))


@dataclass(frozen=True)
class Machine:
    """What one engine can do."""

    prefill_rate: float = 10_000.0
    """Tokens of prompts in a second."""
    decode_rate: float = 50.0
    """Tokens of one answer in a second."""
    slots: int = 64
    cache_tokens: int = 600_000


class Cache:
    """What an engine has read and keeps. Conversations that begin alike share that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._has: OrderedDict[str, int] = OrderedDict()
        self._sum = 0

    def read(self, session: Session, tokens: int) -> int:
        """A prompt is read: how many of its tokens were there."""
        system = min(len(session.system) // 4, tokens)
        had = min(self._has.get(session.system_id, 0), system)
        if had == system:
            had += min(self._has.get(session.name, 0), tokens - system)
        self._keep(session.name, tokens - system)
        self._keep(session.system_id, system)
        while self._sum > self._most:
            name, size = next(iter(self._has.items()))
            over = self._sum - self._most
            if size > over:
                self._has[name] -= over
                self._sum -= over
            else:
                del self._has[name]
                self._sum -= size
        return had

    def _keep(self, name: str, tokens: int) -> None:
        self._sum += tokens - self._has.pop(name, 0)
        self._has[name] = tokens


class _Head(NamedTuple):
    forward: bytes
    own: Any = None


class Asked:
    """One request, as a strategy sees it."""

    substitute = ""
    key_id = "key"
    client_ip = "127.0.0.1"
    model = "m"

    def __init__(self, session: Session, number: int, with_body: bool) -> None:
        self.session = session
        self.number = number
        self.tokens = session.prompt_tokens(number)
        self.head = _Head(b"x-session-id: %b\r\n" % session.name.encode())
        self.body = session.body(number) if with_body else b""
        self.facts = scan_body(self.body) if with_body else None
        self.came = self.reads = self.makes = 0.0


class Modelled:
    """One engine, with the gateway's own picture of it."""

    def __init__(self, number: int, machine: Machine, journal: Journal) -> None:
        self.machine = machine
        self.engine = Engine(EngineConfig(url=f"http://127.0.0.1:{number + 1}", name=f"engine-{number}"))
        self.engine.healthy = True
        self.engine.watch = journal.watch()
        self.pool = Pool(self.engine, None, Stats(), NullLog(), 1.0)  # type: ignore[arg-type]
        self.cache = Cache(machine.cache_tokens)
        self.waiting: deque[Asked] = deque()
        self.running = 0
        self.free_at = 0.0
        self.requests = 0
        self.busy_s = 0.0
        self.held_s = 0.0  # requests under way, over time
        self.moved_at = 0.0

    def moved(self, now: float) -> None:
        self.held_s += self.engine.inflight * (now - self.moved_at)
        self.moved_at = now


@dataclass
class Result:
    """What came of a run. Times are to the first token."""

    policy: str
    ttft_s: list[float] = field(default_factory=list)
    asked_tokens: int = 0
    had_tokens: int = 0
    loads: list[float] = field(default_factory=list)
    length_s: float = 0.0

    @property
    def mean_s(self) -> float:
        return sum(self.ttft_s) / len(self.ttft_s)

    def at(self, share: float) -> float:
        return sorted(self.ttft_s)[min(len(self.ttft_s) - 1, int(share * len(self.ttft_s)))]

    @property
    def imbalance(self) -> float:
        """The most that an engine had under way on average, times the mean of all."""
        return max(self.loads) / (sum(self.loads) / len(self.loads))

    @property
    def hit_rate(self) -> float:
        return self.had_tokens / self.asked_tokens


def run(policy: Policy, sessions: Sequence[Session], machines: Sequence[Machine], seed: int = 1, **settings: Any) -> Result:
    """Replay the trace, with its pauses, until the last answer has ended."""
    journal = Journal()
    engines = [Modelled(number, machine, journal) for number, machine in enumerate(machines)]
    group = Group([one.pool for one in engines])
    by_pool = {one.pool: one for one in engines}
    dice = random.Random(seed)  # noqa: S311 - a made-up load
    strategy = strategy_of(policy, dice.random, Config(**settings))
    result = Result(policy)
    events: list[tuple[float, int, str, Any]] = []
    count = 0

    def at(when: float, what: str, about: Any) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, what, about))

    def begin(one: Modelled, asked: Asked, now: float) -> None:
        """A slot is free: its prompt is read when those before it are."""
        one.running += 1
        had = one.cache.read(asked.session, asked.tokens)
        result.asked_tokens += asked.tokens
        result.had_tokens += had
        takes = max(asked.tokens - had, 1) / one.machine.prefill_rate
        one.busy_s += takes
        one.free_at = max(one.free_at, now) + takes
        at(one.free_at, "first", (one, asked))

    for session in sessions:
        at(session.start_s, "ask", (session, 0))
    now = 0.0
    try:
        while events:
            now, _, what, about = heapq.heappop(events)
            hold(now)
            if what == "ask":
                session, number = about
                asked = Asked(session, number, policy in LOOKS_AT_BODIES)
                asked.came = now
                pool = strategy.pick(group, (), asked)  # type: ignore[arg-type]
                assert pool is not None
                one = by_pool[pool]
                one.moved(now)
                one.requests += 1
                one.engine.inflight += 1
                assert one.engine.watch is not None
                asked.reads = one.engine.watch.opened(asked.tokens)
                asked.makes = min(session.turns[number].answer_tokens, 256)
                asked.body, asked.facts = b"", None
                if one.running < one.machine.slots:
                    begin(one, asked, now)
                else:
                    one.waiting.append(asked)
            elif what == "first":
                one, asked = about
                assert one.engine.watch is not None
                one.engine.watch.began(int(asked.reads), int(asked.makes))
                one.engine.watch.took(now - asked.came, now)
                result.ttft_s.append(now - asked.came)
                tokens = asked.session.turns[asked.number].answer_tokens
                at(now + tokens / one.machine.decode_rate, "end", (one, asked))
            else:
                one, asked = about
                one.moved(now)
                one.engine.inflight -= 1
                one.running -= 1
                assert one.engine.watch is not None
                one.engine.watch.ended(0, int(asked.makes))
                one.engine.watch.answered()
                if one.waiting:
                    begin(one, one.waiting.popleft(), now)
                following = asked.number + 1
                if following < len(asked.session.turns):
                    at(now + asked.session.turns[following].think_s, "ask", (asked.session, following))
    finally:
        hold(-1.0)
    for one in engines:
        one.moved(now)
    result.loads = [one.held_s / now for one in engines]
    result.length_s = now
    return result
