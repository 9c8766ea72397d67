"""What all exchanges of one gateway share, as the exchanges themselves know it.

Owns: the constants that requests need (made once from the configuration), the hooks of the filters in their order, the
current table of engines, and the counters. ``gateway.GatewayCore`` is the one subclass; it is here, below the exchanges,
so that each of their files can say what it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastgw.accel.bodies import BodyFacts
from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.config import Config
from fastgw.config.machine import memory_bytes
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import Endpoint
from fastgw.exchange.plan import Rules
from fastgw.exchange.tally import Tally
from fastgw.exchange.tracing import Tracing
from fastgw.limits.account import Account, Accounts
from fastgw.limits.budget import RetryBudget
from fastgw.limits.ledger import day_of
from fastgw.limits.meter import Meter
from fastgw.net.client import ClientStream, Service, Spoken
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.protocol.headers import networks_of
from fastgw.protocol.hops import Hops
from fastgw.protocol.start import RequestStart
from fastgw.protocol.websocket import Counts
from fastgw.stats import EventLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group, UpstreamTable
from fastgw.upstream.target import Engine

if TYPE_CHECKING:
    from fastgw.protocol.headers import Network
    from fastgw.upstream.standing import Standing

DAY_S: Final = 86400.0
UNBOUNDED: Final = 2**62
# (Exchanges are above this file: hooks take one, which `exchange.filter` says in their types.)
Hook = Callable[[Any], None]
WalkHook = Callable[[Any], "bool | None"]  # True = the request waits
AttemptHook = Callable[[Any, Engine], None]
ResponseHook = Callable[[Any, ResponseHead], None]
DataHook = Callable[[Any, bytes], None]
FullHook = Callable[[Any], bool]
FinishHook = Callable[[Any, str], None]
LostHook = Callable[[Any, str], bool]
RefusedHook = Callable[[Any, GatewayError], None]
# A WebSocket's engine has said what an answer used (None: the session has ended without any); False = it may not go on.
SaidHook = Callable[[Any, "Counts | None"], bool]
Rewrite = Callable[[Any, Engine, bytes], bytes]


class TakenUp(Protocol):
    """What waits for a turn of the loop."""

    def take_up(self) -> None: ...


class Asking(Protocol):
    """What of an exchange those need that it asks for something."""

    account: Account | None
    client_ip: str
    client: ClientStream
    endpoint: Endpoint
    facts: BodyFacts | None
    gateway: Context
    head: RequestHead
    request_id: bytes
    routed_at: float
    sent_at: float
    session: Any
    shared_bytes: int
    started_at: float
    timer: Any

    @property
    def model(self) -> str: ...
    def wait_over(self) -> None: ...


class Strategy:
    """Chooses an engine for each attempt. ``name``: what settings call it, where they do."""

    __slots__ = ("name",)

    name: str

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: Any) -> Pool | None:
        """The engine of ``group`` for the next attempt of ``exchange``; None when nobody is left of whom one could be asked.

        Never one that was ``tried``, that is full, spared or drained; one that is not well only where no other can be. Must not
        wait, and takes nothing: the engine may be picked and not be used.
        """
        raise NotImplementedError

    def chosen(self, exchange: Any) -> Strategy:
        """The strategy that chooses for ``exchange``: this one, or one that this one asks."""
        return self

    def able(self, group: Group, exchange: Any) -> tuple[Pool, ...]:
        """The engines of ``group`` that could be chosen for ``exchange`` if all had room. Who may go to the same ones waits in
        one line, and is let go when one of them has room. Changes nothing."""
        return group.pools

    def full(self, group: Group, tried: tuple[Pool, ...], exchange: Any) -> bool:
        """Whether an engine that it could choose for ``exchange`` is full, so that it is worth waiting where :meth:`pick` finds
        nobody."""
        for pool in self.able(group, exchange):  # noqa: SIM110 - a function that is compiled has no room for a generator
            if pool not in tried and pool.engine.full():
                return True
        return False

    def unmet(self, group: Group, exchange: Any) -> str:
        """What ``exchange`` needs that no engine of ``group`` has, whoever is well, in a sentence for its client; "" = nothing.
        It is asked where :meth:`pick` has found nobody, as waiting would not help, and of each part of a model, before a
        request goes to it. Changes nothing."""
        return ""

    def explain(self, group: Group, tried: tuple[Pool, ...], exchange: Any) -> list[Standing]:
        """How each engine of ``group`` stands for the next attempt of ``exchange``, the best first, and why. Changes nothing;
        where chance or turns decide, the next pick may be another. Of ``exchange`` it reads what :meth:`pick` does: ``model``,
        ``substitute``, ``key_id``, ``client_ip``, ``head``, ``body`` and ``facts``, so that anything with these will do."""
        from fastgw.upstream.standing import ranked  # (for an operator who asks: no part of a start)

        start = group.cursor if group.cursor < len(group.pools) else 0
        return ranked(group.pools, tried, self.scores(group, exchange), start=start)

    def scores(self, group: Group, exchange: Any) -> list[tuple[float, str]]:
        """For each engine of ``group`` a figure, of which the least is the best, and what it is. Changes nothing."""
        return [(0.0, "")] * len(group.pools)


class Judgement:
    """What one connection's last head came to. A client that keeps its connection sends the same head with each request;
    the reader then hands out the same object, and everything that depends on it alone is taken from here."""

    __slots__ = (
        "account", "base", "client_ip", "endpoint", "ends_at", "extra_head", "head", "kept", "key_id", "limit", "meter",
        "peer_ip", "start", "timeout_s", "told", "told_engine", "told_model", "told_outcome", "told_spoken", "told_status",
        "told_streamed", "traceless", "trusted", "version",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, version: int, limit: int, endpoint: Endpoint, key_id: str, account: Account | None
    ) -> None:
        self.head = head
        self.version = version
        self.limit = limit
        self.endpoint = endpoint
        self.key_id = key_id
        self.account = account
        # Unix seconds: the next moment at which its key, or a rotated text of it, ends. 0.0 = none: no clock need be asked.
        self.ends_at = account.ends_after(time()) if account is not None and account.stored else 0.0
        self.meter: Meter | None = None
        self.timeout_s = 0.0
        self.extra_head = b""
        self.client_ip = ""
        # What it comes to for engines with ``base`` before their paths.
        self.base: bytes | None = None
        self.start: RequestStart | None = None
        # What the log made of the last record, and of what.
        self.told = b""
        self.told_engine = ""
        self.told_model = ""
        self.told_outcome = ""
        self.told_status = -1
        self.told_spoken: Spoken | None = None
        self.told_streamed = False
        # Of whom it was made: the connection's peer, and whether its own word about others was taken.
        self.peer_ip = ""
        self.trusted = False
        self.kept = ""  # the trace that its head says it is in, and that is kept
        self.traceless = False  # its head names no trace: it has been looked at

    def of(self, head: RequestHead) -> Judgement:
        """The same of ``head``, which is a copy of its own on another connection of the same peer."""
        made = Judgement.__new__(Judgement)
        made.head = head
        made.version = self.version
        made.limit = self.limit
        made.endpoint = self.endpoint
        made.key_id = self.key_id
        made.account = self.account
        made.ends_at = self.ends_at
        made.meter = self.meter
        made.timeout_s = self.timeout_s
        made.extra_head = self.extra_head
        made.client_ip = self.client_ip
        made.base = self.base
        made.start = self.start
        made.told = self.told
        made.told_engine = self.told_engine
        made.told_model = self.told_model
        made.told_outcome = self.told_outcome
        made.told_status = self.told_status
        made.told_spoken = self.told_spoken
        made.told_streamed = self.told_streamed
        made.peer_ip = self.peer_ip
        made.trusted = self.trusted
        made.kept = self.kept
        made.traceless = self.traceless
        return made


class Context(Service):
    """See the head of this file. ``hooked``: the hooks of a name, in the order in which they run."""

    __slots__ = (
        "accounts",
        "allow_kv_transfer",
        "between_bytes_timeout_s",
        "budget",
        "bytes_per_token",
        "config",
        "default_cost",
        "default_max",
        "doubted",
        "first_byte_timeout_s",
        "hops",
        "log",
        "max_body_bytes",
        "max_json_depth",
        "max_json_members",
        "max_request_timeout_s",
        "memory_budget",
        "merger",
        "most_held",
        "on_allowance",
        "on_arrival",
        "on_attempt",
        "on_body",
        "on_crowded",
        "on_data",
        "on_finish",
        "on_full",
        "on_head",
        "on_lost",
        "on_origin",
        "on_refused",
        "on_request",
        "on_response",
        "on_room",
        "on_route",
        "on_said",
        "on_turn",
        "reactor",
        "request_timeout_s",
        "responses",
        "retries_at_all",
        "retry_after_s",
        "retry_statuses",
        "rewriters",
        "rules",
        "server_timing",
        "serving",
        "shares",
        "shows",
        "splices",
        "stats",
        "strategy",
        "table",
        "tally",
        "today",
        "tracer",
        "trusted",
        "walk",
    )

    def __init__(
        self,
        config: Config,
        *,
        reactor: Reactor,
        log: EventLog,
        stats: Stats,
        hooked: Callable[[str], tuple[Any, ...]],
        strategy: Strategy,
        table: UpstreamTable,
        accounts: Accounts,
        tally: Tally,
        instance: bytes,
    ) -> None:
        super().__init__()
        self.hops = Hops(instance)
        self.reactor = reactor
        self.log = log
        self.stats = stats
        self.tally = tally
        self.table = table
        self.accounts = accounts
        # Which engines would be asked for a request by a table, as the filter that routes says.
        self.serving: Callable[[UpstreamTable, Any], Group | None] = _as_it_was
        self.merger: Any = None  # holds embedding requests together, where that is wanted
        self.tracer: Tracing | None = None  # traces requests, where that is wanted (``observe.trace``)
        self.today = day_of(time())  # the UTC day that usage counts for; the housekeeping turns it
        self.shares: dict[object, int] = {}  # of the memory for bodies, by who holds more than a little
        self.most_held = 0  # bytes of bodies at once, since :meth:`most_bodies` was asked last
        self.doubted: tuple[Pool, ...] = ()  # from which one caller's word alone keeps requests
        self.budget = RetryBudget(config.retry_budget_percent / 100)
        self.responses: Any = None  # which engines have which; made with the first request that may be of one
        self.follow(config, hooked, strategy)

    def follow(self, config: Config, hooked: Callable[[str], tuple[Any, ...]], strategy: Strategy) -> None:
        """From now on go by ``config``, with these filters and this strategy. (What has been counted goes on.)"""
        self.config = config
        self.strategy = strategy
        self.max_body_bytes = config.max_body_bytes
        self.max_json_depth = config.max_json_depth
        self.memory_budget = _memory_budget(config)
        self.max_json_members = config.max_json_members
        self.allow_kv_transfer = config.allow_kv_transfer
        self.first_byte_timeout_s = config.first_byte_timeout_s or NEVER  # 0 = no limit
        self.between_bytes_timeout_s = config.between_bytes_timeout_s or NEVER
        self.request_timeout_s: float = config.request_timeout_s
        retry_fresh = config.policy == "ordered" if config.retry_fresh is None else config.retry_fresh
        self.rules = Rules(
            replay=config.replay,
            retry_fresh=retry_fresh,
            max_retries=config.max_retries,
            quarantine_after=config.quarantine_after,
        )
        self.retry_after_s = max(1.0, config.health_interval_s)
        self.default_cost = config.default_cost_tokens
        self.default_max = config.default_max_tokens
        self.bytes_per_token = config.prompt_bytes_per_token
        self.retry_statuses = frozenset(int(status) for status in config.retry_statuses)
        self.retries_at_all = bool(config.max_retries and (retry_fresh or self.retry_statuses))
        self.budget.change(config.retry_budget_percent / 100)
        self.max_request_timeout_s: float = config.max_request_timeout_s
        self.server_timing = config.server_timing
        self.trusted: tuple[Network, ...] = networks_of(config.trusted_proxies)
        self.on_arrival: tuple[Hook, ...] = hooked("on_arrival")
        self.on_head: tuple[Hook, ...] = hooked("on_head")
        self.on_origin: tuple[Hook, ...] = hooked("on_origin")
        self.on_request: tuple[Hook, ...] = hooked("on_request")
        self.on_body: tuple[WalkHook, ...] = hooked("on_body")
        self.on_route: tuple[WalkHook, ...] = hooked("on_route")
        self.on_attempt: tuple[AttemptHook, ...] = hooked("on_attempt")
        self.on_refused: tuple[RefusedHook, ...] = hooked("on_refused")
        self.on_response: tuple[ResponseHook, ...] = hooked("on_response")
        self.on_data: tuple[DataHook, ...] = hooked("on_data")
        # Whether somebody may want to see, or change, what goes down.
        self.shows = bool(self.on_data) or any(route.restore_name for route in config.routes)
        self.on_crowded: tuple[Callable[[Any], bool], ...] = hooked("on_crowded")
        self.on_full: tuple[FullHook, ...] = hooked("on_full")
        self.on_lost: tuple[LostHook, ...] = hooked("on_lost")
        self.on_room: tuple[Callable[[], None], ...] = hooked("on_room")
        self.on_said: tuple[SaidHook, ...] = hooked("on_said")
        self.on_turn: tuple[Hook, ...] = hooked("on_turn")
        self.on_allowance: tuple[FullHook, ...] = hooked("on_allowance")
        self.on_finish: tuple[FinishHook, ...] = hooked("on_finish")
        self.walk: tuple[WalkHook, ...] = (*self.on_body, *self.on_route)
        self.rewriters: tuple[Rewrite, ...] = hooked("rewrite")
        last = getattr(self.rewriters[-1], "__self__", None) if self.rewriters else None
        self.splices = bool(getattr(last, "splices", False))  # (whoever comes behind it would have to see a body whole)

    def time_limit(self, asked: float, limit: float) -> float:
        """Seconds for a whole exchange, 0 = no limit: what the client ``asked`` for, where that may be, or ``limit``."""
        if not asked:
            return limit
        return min(asked, self.max_request_timeout_s or limit or DAY_S)

    # --- what exchanges ask for; the gateway does it
    def finished(self, exchange: Any, outcome: str, now: float) -> None:
        """An exchange has ended: counters, and its one access record."""
        raise NotImplementedError

    def forwarded_lines(self, client: ClientStream, head: RequestHead) -> bytes:
        """x-forwarded-for and -proto for a trusted proxy's request: its own word, and its address."""
        raise NotImplementedError

    def refuse_with(self, error: GatewayError, exchange: Asking, extra: bytes) -> int:
        """Answer with ``error`` as this gateway's profile renders it; ends the request. Returns the status."""
        raise NotImplementedError

    def shown(self, exchange: Asking, text: bytes) -> bytes:
        """What of a stranger's text may be logged: no keys."""
        raise NotImplementedError

    def most_bodies(self) -> int:
        """The most bytes of bodies that were held at once, since this was asked last."""
        said = self.most_held
        self.most_held = self.stats.body_bytes_open
        return said

    def share_of(self, exchange: Asking) -> int:
        """How much of the memory for bodies is held for the exchange's key, or for its address where none is asked for."""
        return self.shares.get(self._holder(exchange), 0)

    def share(self, exchange: Asking, more: int) -> None:
        """So much ``more`` is held for that, or less."""
        exchange.shared_bytes += more
        holder = self._holder(exchange)
        held = self.shares.get(holder, 0) + more
        if held:
            self.shares[holder] = held
        else:
            self.shares.pop(holder, None)

    def _holder(self, exchange: Asking) -> object:
        account = exchange.account
        return exchange.client_ip if account is None or account is self.accounts.anonymous else account

    def take_up_later(self, exchange: TakenUp) -> None:
        """Call ``exchange.take_up`` when everybody else has had a turn: reading a large body takes milliseconds."""
        raise NotImplementedError

    def later(self, exchange: Asking, seconds: float) -> None:
        """Call ``exchange.wait_over`` in ``seconds``; ``exchange.timer`` takes it back."""
        raise NotImplementedError

    def crashed(self, client: ClientStream, error: BaseException) -> None:
        raise NotImplementedError

    def error_event(self, name: str, exchange: Asking) -> bytes:
        """The typed event that ends a broken stream."""
        raise NotImplementedError

    def final_event(self, name: str, exchange: Asking, tokens: int) -> bytes:
        """What ends a stream whose tokens are spent: its shape's own last event, cut for length, with the reason."""
        raise NotImplementedError

    def close_frame(self, name: str) -> bytes:
        """What ends a WebSocket session, for the error of that ``name``."""
        raise NotImplementedError

    def dial_failed(self, pool: Pool, detail: str) -> None:
        raise NotImplementedError

    def misconfigured(self, pool: Pool, model: str, why: str) -> None:
        """An engine is not set up for what it was asked."""
        raise NotImplementedError

    def breaker_moved(self, pool: Pool) -> None:
        """An engine's breaker has just opened, or closed again."""
        raise NotImplementedError

    def reads_again(self, then: Callable[[], None]) -> bool:
        """Whether engines' lists of models are read again, and ``then`` is called."""
        raise NotImplementedError

    def let_finish(self, call: Any) -> None:
        """An engine that cannot bear an abort goes on with ``call`` unseen, for as long as its answer keeps coming."""
        raise NotImplementedError


def _as_it_was(table: UpstreamTable, exchange: Any) -> Group | None:
    group: Group | None = exchange.group
    return group


def _memory_budget(config: Config) -> int:
    """Bytes of bodies that may be held in all, of several processes in each. A single body always finds room where nobody else
    has one."""
    budget = config.memory_budget_bytes
    if budget is None:
        known = memory_bytes()
        budget = max(known // (4 * config.workers), 2 * config.max_body_bytes) if known else 0
    return budget or UNBOUNDED
