"""Discrete events: strategies, as they are, before engines that are made up.

An engine reads one prompt after the other, so many tokens in a second, but for what it has in its cache; makes tokens for so
many requests at once, each as fast as if it were alone; and keeps what it read, up to so many tokens, the conversation that was
not asked for longest going first, its end before its beginning. The rest is the gateway's own: ``Engine``, its watch,
``Group``, and the strategy, told by the clock of the simulation (``net.clock.hold``). What the cache has is the engine's
business: no strategy can see it."""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
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
        self.came = 0.0
        self.reads = self.makes = 0


class Modelled:
    """One engine, with the gateway's own picture of it."""

    def __init__(self, number: int, machine: Machine, journal: Journal) -> None:
        self.machine = machine
        self.engine = Engine(EngineConfig(url=f"http://127.0.0.1:{number + 1}", name=f"engine-{number}"))
        self.engine.healthy = True
        self.watch = self.engine.watch = journal.watch()
        self.pool = Pool(self.engine, None, Stats(), NullLog(), 1.0)  # type: ignore[arg-type]
        self.cache = Cache(machine.cache_tokens)
        self.waiting: deque[Asked] = deque()
        self.running = 0
        self.free_at = 0.0
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
    try:
        return _Run(policy, machines, seed, settings).play(sessions)
    finally:
        hold(-1.0)


class _Run:
    """One policy before some engines."""

    def __init__(self, policy: Policy, machines: Sequence[Machine], seed: int, settings: dict[str, Any]) -> None:
        journal = Journal()
        self._engines = [Modelled(number, machine, journal) for number, machine in enumerate(machines)]
        self._by_pool = {one.pool: one for one in self._engines}
        self._group = Group([one.pool for one in self._engines])
        dice = random.Random(seed)
        self._strategy = strategy_of(policy, dice.random, Config(**settings))
        self._with_bodies = policy in LOOKS_AT_BODIES
        self._result = Result(policy)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def play(self, sessions: Sequence[Session]) -> Result:
        for session in sessions:
            self._at(session.start_s, self._ask, session, 0)
        now = 0.0
        while self._events:
            now, _, what, about = heapq.heappop(self._events)
            hold(now)
            what(now, *about)
        for one in self._engines:
            one.moved(now)
        self._result.loads = [one.held_s / now for one in self._engines]
        self._result.length_s = now
        return self._result

    def _at(self, when: float, what: Callable[..., None], *about: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, about))

    def _ask(self, now: float, session: Session, number: int) -> None:
        """A turn is asked: its engine is chosen, and counts it as a call would."""
        asked = Asked(session, number, self._with_bodies)
        asked.came = now
        pool = self._strategy.pick(self._group, (), asked)
        assert pool is not None
        one = self._by_pool[pool]
        one.moved(now)
        one.engine.inflight += 1
        asked.reads = one.watch.opened(asked.tokens)
        asked.makes = min(session.turns[number].answer_tokens, 256)
        asked.body, asked.facts = b"", None
        if one.running < one.machine.slots:
            self._begin(one, asked, now)
        else:
            one.waiting.append(asked)

    def _begin(self, one: Modelled, asked: Asked, now: float) -> None:
        """A slot is free: its prompt is read when those before it are."""
        one.running += 1
        had = one.cache.read(asked.session, asked.tokens)
        self._result.asked_tokens += asked.tokens
        self._result.had_tokens += had
        one.free_at = max(one.free_at, now) + max(asked.tokens - had, 1) / one.machine.prefill_rate
        self._at(one.free_at, self._first, one, asked)

    def _first(self, now: float, one: Modelled, asked: Asked) -> None:
        """The first token."""
        one.watch.began(asked.reads, asked.makes)
        one.watch.took(now - asked.came, now)
        self._result.ttft_s.append(now - asked.came)
        tokens = asked.session.turns[asked.number].answer_tokens
        self._at(now + tokens / one.machine.decode_rate, self._end, one, asked)

    def _end(self, now: float, one: Modelled, asked: Asked) -> None:
        """The answer has ended; its session goes on after a while."""
        one.moved(now)
        one.engine.inflight -= 1
        one.running -= 1
        one.watch.ended(0, asked.makes)
        one.watch.answered()
        if one.waiting:
            self._begin(one, one.waiting.popleft(), now)
        following = asked.number + 1
        if following < len(asked.session.turns):
            self._at(now + asked.session.turns[following].think_s, self._ask, asked.session, following)
