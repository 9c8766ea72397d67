"""A gateway's data plane between clients and engines by hand: what a test of an exchange is written in.

    with conversation(engines=2, policy="ordered") as talk:
        client = talk.client()
        client.says(chat())                    # and all that follows at once has happened
        talk.engines[0].last.says(ok())
        client.sees(200)

All between the streams is real: filters, queue, strategy, breakers, budgets, accounts, housekeeping, local answers. What there
is not: sockets, probes, the store. Owns, like ``gateway.running``, what holds for every case, checked at its end: nothing live
is left, no internal error was logged, and each exchange left one access record.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from msgspec.structs import asdict

from fastgw import Config, EngineConfig
from fastgw.accounts import of as accounts_of
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.local import LocalEndpoints
from fastgw.exchange.merging import Merger
from fastgw.exchange.record import AccessLog, AccessRecord, record_of
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Account
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.observe.logs import AccessJson, access_fields, as_json
from fastgw.observe.tallies import Tallies, sampled
from fastgw.policy import build
from fastgw.policy.queue import Queue
from fastgw.policy.route import serving
from fastgw.policy.routing import strategy_for
from fastgw.protocol.headers import is_trusted
from fastgw.stats import Stats
from fastgw.upstream.fleet import deploy
from fastgw.upstream.health import Health
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine
from fastgw.upstream.watch import Journal
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient, HandConnection
from tests.support.byhand.engine import HandPool, Play
from tests.support.byhand.h2 import H2HandPool
from tests.support.byhand.loop import HandLoop
from tests.support.gateway import Events
from tests.support.requests import request

KEY = "sk-metered-0123456789"
OTHER_KEY = "sk-metered-other"


class Told(AccessLog):
    """Keeps each record, and beside it what a log that reads the exchange itself makes of it."""

    def __init__(self, records: list[AccessRecord]) -> None:
        self.records = records
        self.lines: list[bytes] = []
        self._quick = AccessJson()

    def ended(self, exchange: Any, outcome: str, now: float) -> None:
        self.lines.append(self._quick.of(exchange, outcome, now))
        self.append(record_of(exchange, outcome, now))

    def append(self, record: AccessRecord) -> None:
        self.records.append(record)

    def wrong(self) -> list[tuple[object, object]]:
        """Lines that say something else than their records."""
        said = [json.loads(line) | {"timestamp": ""} for line in self.lines]
        meant = [json.loads(as_json(access_fields(record))) | {"timestamp": ""} for record in self.records]
        return [pair for pair in zip(said, meant, strict=len(said) == len(meant)) if pair[0] != pair[1]]


class Conversation:
    """See the head of this file. ``engines`` are in their configured order."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = loop = HandLoop()
        self.stats = Stats()
        self.tallies = Tallies(config.metrics_by, sampled)
        self.events = Events()
        self.raw_records: list[AccessRecord] = []
        self.told = Told(self.raw_records)
        self.reactor = reactor = Reactor(loop)  # type: ignore[arg-type]
        self.journal = Journal(config.ewma_decay_s)
        self.engines: list[Any] = []  # (HandPool; H2HandPool where an engine's protocol says so)
        for one in config.engines:
            engine = Engine(one, config.cb_failure_threshold, config.cb_recovery_timeout_s)
            engine.healthy = True
            # All are watched, whatever the policy: whatever ends a call, what it counted for is taken back.
            engine.watch = self.journal.watch()
            kind: Any = H2HandPool if engine.h2 else HandPool
            pool = kind(engine, loop, reactor, self.stats, self.events)
            pool.connect_timeout_s = config.connect_timeout_s
            self.engines.append(pool)
        accounts = accounts_of(config)
        filters = build(config)
        self.queue = next(one for one in filters if isinstance(one, Queue))
        health = Health(lambda: tuple(self.engines), config, self.events, lambda: None, self._room, Shortage(self.events))
        self.core = core = GatewayCore(
            config,
            reactor=reactor,
            stats=self.stats,
            log=self.events,
            access=self.told,
            filters=filters,
            strategy=strategy_for(config, stats=self.stats),
            health=health,
            table=UpstreamTable(self.engines, None, config.routes, deploy),
            accounts=accounts,
            instance=b"handmade",
            tally=self.tallies,
        )
        core.serving = serving
        LocalEndpoints(core, _at_once)
        if config.embedding_merge_s:
            core.merger = Merger(
                core, loop, wait_s=config.embedding_merge_s, most_inputs=config.embedding_merge_inputs  # type: ignore[arg-type]
            )
        self.keeping = Housekeeping(core, loop, meters=None, store=None, flush_s=config.flush_interval_s)  # type: ignore[arg-type]
        self.keeping.start()

    def _room(self) -> None:
        self.core.room()

    # --- who talks
    def client(self, ip: str = "127.0.0.1") -> HandClient:
        """One more, with a connection of its own."""
        core = self.core
        client = HandClient(self.loop, self.reactor, core, ip, bool(core.trusted) and is_trusted(ip, core.trusted))
        core.connections.add(HandConnection(client))
        return client

    def ask(self, data: bytes, ip: str = "127.0.0.1") -> RawResponse:
        """One request, on a connection of its own, whose answer comes by itself (in ten seconds of the test's at most)."""
        client = self.client(ip).says(data)
        for _ in range(200):
            if client.sink is None:
                break
            self.passes(0.05)
        return client.seen

    def passes(self, seconds: float) -> None:
        self.loop.passes(seconds)

    def plays(self, *plays: Play) -> None:
        """Each engine answers by itself, so."""
        for engine, play in zip(self.engines, plays, strict=True):
            engine.play = play

    # --- what became of it
    @property
    def asked(self) -> list[int]:
        """How many requests each engine has got."""
        return [len(engine.asked) for engine in self.engines]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self.raw_records]

    @property
    def waiting(self) -> int:
        """How many wait in the queue."""
        return self.stats.queue_waiting_open

    def account(self, key: str = KEY) -> Account:
        account = self.core.accounts.find(sha256(key.encode()).digest())
        assert account is not None
        return account

    def usage(self, key: str = KEY) -> dict[str, Any]:
        """What ``/v1/usage`` tells the key."""
        answer = self.client().says(request("GET", "/v1/usage", key=key)).sees(200)
        found: dict[str, Any] = answer.json()
        return found

    def settled(self, key: str = KEY) -> dict[str, Any]:
        """Usage when nothing is under way: nothing may be reserved any more."""
        assert self.stats.exchanges_open == 0
        found = self.usage(key)
        assert found["quota_reserved"] == 0
        assert found["requests_under_way"] == 0
        return found

    # --- the end
    def close(self) -> None:
        for connection in list(self.core.connections):
            client = connection.client  # type: ignore[attr-defined]
            client.leaves()
        self.keeping.stop()
        self.core.close_all()
        self.loop.settle()
        for engine in self.engines:
            engine.close_idle()

    def judge(self, expect_internal_errors: bool) -> None:
        live = {name: count for name, count in self.stats.live().items() if count}
        assert not live, f"left alive: {live}"
        assert not self.waiting
        for engine in self.engines:
            assert (engine.engine.inflight, engine.connections) == (0, 0), engine.engine
            watch = engine.engine.watch
            assert (watch.reading, watch.making) == (0, 0), engine.engine
            ended, got = engine.engine.answered_total, len(engine.asked)
            # (A handshake that HTTP/2 cannot carry there ends at its stream.)
            assert ended == got or (engine.engine.h2 and ended > got), "each request that an engine has got has ended, once"
        if not expect_internal_errors:
            assert not self.events.errors(), self.events.errors()
        assert len(self.raw_records) == self.stats.exchanges_total, "each exchange leaves exactly one access record"
        assert not self.told.wrong(), "which the log has word for word"
        cells = self.tallies.cells()
        counted = sum(count for cell in cells for _, _, count in cell.by_status())
        assert counted == self.stats.exchanges_total, "and is one of the metrics"
        stats = self.stats
        told = [(one.prompt.total, one.completion.total, one.cached, one.reasoning, one.estimated) for one in cells]
        charged = [
            stats.tokens_prompted, stats.tokens_generated, stats.tokens_cached, stats.tokens_reasoning, stats.tokens_estimated,
        ]  # fmt: skip
        assert [sum(kind) for kind in zip(*told, strict=True)] == (charged if cells else []), "which say what is charged"
        kinds = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        recorded = [sum(max(getattr(one, kind), 0) for one in self.raw_records) for kind in kinds]
        # (What an engine that bears no abort goes on to make is charged when it has ended, behind its record.)
        let_finish = any(not engine.engine.cancel for engine in self.engines)
        assert let_finish or recorded == charged[:4], "and so do the records"
        failures = sum(pool.engine.failures_total for pool in self.engines)
        assert sum(self.tallies.failures.values()) == failures, "and how each engine failed"

    def free(self) -> None:
        """The clock goes on by itself, and nothing refers to anything any more."""
        self.core.connections.clear()
        self.reactor.close()
        self.loop.close()


def _at_once(name: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a local answer would wait for is there already."""
    try:
        coroutine.send(None)
    except StopIteration:
        return None
    raise AssertionError(f"{name} waits: that takes a real loop")


@contextmanager
def conversation(
    engines: int | list[EngineConfig] = 1, *plays: Play, expect_internal_errors: bool = False, **settings: Any
) -> Iterator[Conversation]:
    """So many engines, or those; ``plays`` is how each answers by itself. Settings are those of ``fastgw.Config``."""
    settings.setdefault("rate_limit_per_second", 0)
    settings.setdefault("allowed_hosts", ["*"])
    if isinstance(engines, int):
        engines = [EngineConfig(url=f"http://127.0.0.{at + 1}:9", warm_connections=0) for at in range(max(engines, len(plays)))]
    talk = Conversation(Config(engines=engines, port=0, **settings))
    talk.plays(*plays, *[None] * (len(talk.engines) - len(plays)))  # type: ignore[list-item]
    try:
        yield talk
        talk.close()
        talk.judge(expect_internal_errors)
    finally:
        talk.free()


def answering(data: bytes, *more: bytes) -> Play:
    """An engine that answers every request with this, each piece read by itself."""
    return lambda asked: asked.says(data, *more)


def kills(asked: Any) -> None:
    """The request crashes the process that serves it."""
    asked.closes("reset")


def silent(asked: Any) -> None:
    """No answer, ever."""

