"""The service behind every client connection: opens exchanges, holds what they share, answers errors.

Owns: the judgement of heads, request ids, access records, the drain, and what is said when something fails. It is told
what it may use by ``app``, which is the one composition root; what all exchanges share is in ``context``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import time, time_ns
from typing import Any, Final

from fastgw import errors
from fastgw.accel.hashing import digest
from fastgw.accel.heads import HeadMemory, Kept, RequestHead
from fastgw.accel.ids import valid_request_id
from fastgw.accel.lines import serial_id
from fastgw.config import Config
from fastgw.errors import ErrorKind, GatewayError, Source
from fastgw.exchange import refusal
from fastgw.exchange.call import Call
from fastgw.exchange.context import DAY_S, Asking, Context, Judgement, Strategy, TakenUp
from fastgw.exchange.endpoints import JSON, LOCAL, OF_LIFE, TUNNEL, Endpoint, EndpointTable
from fastgw.exchange.exchange import Exchange, exchange_for
from fastgw.exchange.filter import Filter, hooks
from fastgw.exchange.intake import Intake
from fastgw.exchange.phases import DONE
from fastgw.exchange.record import AccessLog, AccessRecord, AccessSink, Records, ids_of
from fastgw.exchange.tally import UNCOUNTED, Tally
from fastgw.exchange.tracing import kept_in
from fastgw.exchange.unread import Unread
from fastgw.exchange.upload import Upload
from fastgw.limits.account import Accounts
from fastgw.net.client import NO_HEAD, ClientStream, Connection
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.protocol.coding import decoder
from fastgw.protocol.headers import client_ip, forwarded_for
from fastgw.protocol.media import is_form
from fastgw.protocol.multipart import ModelField
from fastgw.protocol.secrets import masked
from fastgw.stats import EventLog, Stats
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable

CLOSES: Final = 32  # idle connections in a turn of the loop, when a drain begins: each costs the kernel 15 µs
MOST_KEYS_OF_THE_PAST: Final = 64  # of engines that have left, which no log shows either

LocalHandler = Callable[[Exchange], None]


class GatewayCore(Context):
    """See the head of this file."""

    __slots__ = (
        "__weakref__", "_access", "_instance", "_large", "_other_keys", "_serial", "connections", "endpoints", "filters",
        "heads", "health", "leaving", "locals", "on_closed", "on_preface", "plain_ids", "preflight", "profile", "unread",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        *,
        reactor: Reactor,
        stats: Stats,
        log: EventLog,
        access: AccessSink | None,
        filters: tuple[Filter, ...],
        strategy: Strategy,
        health: Health,
        table: UpstreamTable,
        accounts: Accounts,
        instance: bytes,
        tally: Tally = UNCOUNTED,
    ) -> None:
        self.version = 0  # grows when what heads are judged by changes: keys, settings, the drain
        super().__init__(
            config, reactor=reactor, log=log, stats=stats, hooked=lambda name: hooks(filters, name, accounts.region),
            strategy=strategy, table=table, accounts=accounts, tally=tally, instance=instance,
        )  # fmt: skip
        self.health = health
        self.filters = filters
        self.leaving = False  # "not ready": a drain is near, or has begun (`draining` alone: another process takes over)
        self.profile = config.compat
        self.plain_ids = config.compat != "rakka"
        self.connections: set[Connection] = set()
        self.heads = HeadMemory()
        self.unread: set[Any] = set()  # calls without a reader
        self.locals: dict[str, LocalHandler] = {}
        self.on_preface: Callable[[Any, bytes], None] | None = None  # takes a client that speaks HTTP/2
        self.on_closed: Callable[[str], None] | None = None  # takes the peer's address
        self.tell(access)
        self._instance = instance
        self._serial = 0
        self._other_keys: tuple[bytes, ...] = ()  # the engines', and the operator's
        self.take_table(table, [engine.api_key for engine in config.engines])
        self._large: deque[TakenUp] = deque()  # whose bodies take long to read

    def follow(self, config: Config, hooked: Callable[[str], tuple[Any, ...]], strategy: Strategy) -> None:
        """As :meth:`Context.follow`; heads are judged anew."""
        super().follow(config, hooked, strategy)
        if self.tracer is not None:
            self.tracer.follow(config)
        self.endpoints = EndpointTable(
            config.passthrough_paths, bool(config.runner_auth_token), config.show_runners, config.metrics_public
        )
        preflights = hooked("preflight")
        self.preflight: Callable[[Exchange], bytes] | None = preflights[0] if preflights else None
        self.version += 1

    def tell(self, access: AccessSink | None) -> None:
        """From now on ``access`` is told how exchanges end; None = nobody."""
        self._access = access if access is None or isinstance(access, AccessLog) else Records(access)

    # --- requests
    def open(self, client: ClientStream, head: RequestHead) -> None:
        """Begin an exchange for a head that was understood."""
        stats = self.stats
        stats.exchanges_open += 1
        stats.exchanges_total += 1
        known: Judgement | None = client.known
        if (
            known is None
            or known.head is not head
            or known.version != self.version
            or head.content_length > known.limit
            or (known.ends_at and time() >= known.ends_at)
        ):
            self._judge(client, head)
            return
        # The same head as before, but for its length: it need not be judged again.
        if self.plain_ids and head.own is None:
            self._serial = serial = self._serial + 1
            request_id = serial_id(self._instance, serial)
        else:
            request_id = self.request_id(head)
        exchange = exchange_for(self, client, head, known.endpoint, request_id)
        exchange.key_id = known.key_id
        exchange.account = known.account
        exchange.meter = known.meter
        exchange.extra_head = known.extra_head
        exchange.client_ip = known.client_ip
        exchange.timeout_s = known.timeout_s
        if known.timeout_s or self.request_timeout_s:
            client.due(exchange.started_at + self.time_limit(known.timeout_s, self.request_timeout_s))
        try:
            for hook in self.on_arrival:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
            for hook in self.on_request:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
        except GatewayError as error:
            exchange.fail(error)

    def _judge(self, client: ClientStream, head: RequestHead) -> None:
        """Begin an exchange for a head that this connection has not brought before."""
        endpoint = self.endpoints.get(head.path)
        exchange = exchange_for(self, client, head, endpoint or _UNKNOWN, self.request_id(head))
        try:
            for hook in self.on_origin:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
            if client.trusted:
                own = head.own
                exchange.client_ip = client_ip(client.peer_ip, own.get(b"x-forwarded-for") if own else None, self.trusted)
            for hook in self.on_arrival:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
            if endpoint is None or head.method not in endpoint.methods or self.draining or head.expect:
                endpoint = self._admit_unusual(exchange, head, endpoint)
                if endpoint is None:
                    return
            for hook in self.on_head:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
            if head.own is not None:
                if b"via" in head.own:
                    self.hops.refuse_rounds(head.own[b"via"])
                exchange.timeout_s = self._asked_timeout(head.own.get(b"x-request-timeout-ms"))
                coding = head.own.get(b"content-encoding")
                if coding is not None:
                    exchange.intake = Intake(decoder(coding, self.config.max_decompression_ratio))
            plain = endpoint.mode is JSON and not head.expect and exchange.intake is None
            client.known = self._remembered(exchange) if plain else None
            for hook in self.on_request:
                hook(exchange)
                if exchange.phase == DONE:
                    return  # answered
            if exchange.timeout_s or self.request_timeout_s:
                client.due(exchange.started_at + self.time_limit(exchange.timeout_s, self.request_timeout_s))
            if endpoint.mode is not JSON:
                self._open_other(exchange, head, endpoint)
            if head.expect and exchange.phase != DONE:
                client.go_ahead()
        except GatewayError as error:
            exchange.fail(error)

    def recalled(self, stream: ClientStream, kept: Kept, head: RequestHead) -> Judgement | None:
        known: Judgement = kept.known
        # (Who comes from another address may have no right to that key; and the word of a proxy that is believed no longer, or
        # was not yet when that connection came, is not taken over.)
        return known.of(head) if known.peer_ip == stream.peer_ip and known.trusted == stream.trusted else None

    def _remembered(self, exchange: Exchange) -> Judgement:
        head, endpoint = exchange.head, exchange.endpoint
        known = Judgement(head, self.version, self.max_body_bytes, endpoint, exchange.key_id, exchange.account)
        known.peer_ip = exchange.client.peer_ip
        known.trusted = exchange.client.trusted
        known.kept = kept_in(head.forward)
        known.traceless = exchange.trace is not None and not exchange.trace.parent
        known.meter = exchange.meter
        known.timeout_s = exchange.timeout_s
        known.extra_head = exchange.extra_head
        known.client_ip = exchange.client_ip
        return known

    def _admit_unusual(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint | None) -> Endpoint | None:
        """What most requests do not have: a path by prefix, another method, an expectation.

        None = answered already.
        """
        if self.draining and self.leaving and (endpoint is None or endpoint.local not in OF_LIFE):
            raise GatewayError("draining", source=Source.GATEWAY, retry_after_s=1.0)
        if endpoint is None:
            endpoint = self.endpoints.find(head.path)
            if endpoint is not None:
                exchange.endpoint = endpoint
        if endpoint is None or head.method not in endpoint.methods:
            endpoint = self._other_method(exchange, head, endpoint)
        if endpoint is not None and head.expect == 2:
            raise GatewayError("expectation_failed")
        return endpoint

    def _asked_timeout(self, text: bytes | None) -> float:
        """Seconds that the client gives the whole exchange, 0 = it does not say."""
        if text is None:
            return 0.0
        if not text.isdigit() or len(text) > 12 or not int(text):
            raise GatewayError("invalid_parameter", "`x-request-timeout-ms` must be a whole number of milliseconds, 1 or more.")
        return min(int(text) / 1e3, DAY_S)

    def _open_other(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint) -> None:
        """Endpoints whose body is not one JSON document to be read whole."""
        mode = endpoint.mode
        if mode is LOCAL:
            self.locals[endpoint.local](exchange)
        elif mode is TUNNEL:
            self.locals["tunnel"](exchange)
        elif not endpoint.stored and not exchange.is_json():
            self._expect_upload(exchange, head, endpoint)

    def _expect_upload(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint) -> None:
        field = None
        if endpoint.model and head.content_type is None:
            raise GatewayError("unsupported_media_type", "Send multipart/form-data with a `model` field.")
        if head.content_type is not None and (endpoint.model or is_form(head.content_type)):
            field = ModelField(head.content_type, self.config.max_multipart_parts)
        # (How long a compressed one is, nobody knows before its end.)
        chunked = head.chunked or exchange.intake is not None
        exchange.upload = Upload(field, chunked, self.config.max_upload_bytes, endpoint.model)

    def _other_method(self, exchange: Exchange, head: RequestHead, endpoint: Endpoint | None) -> Endpoint | None:
        """HEAD and OPTIONS where they make sense; None = answered already."""
        if head.method == b"OPTIONS" and (endpoint is not None or head.path == b"*"):
            allow = endpoint.allow(self.accounts.required) if endpoint is not None else "GET, HEAD, OPTIONS, POST"
            lines = b"allow: %b\r\n" % allow.encode()
            if self.preflight is not None:
                lines += self.preflight(exchange)
            exchange.answer(204, b"", b"", lines)
            return None
        if endpoint is None:
            raise GatewayError("not_found")
        upgrades = head.own is not None and b"upgrade" in head.own
        other = endpoint.by(head.method, upgrades, self.accounts.required)
        exchange.endpoint = found = endpoint if other is None else other
        if head.method == b"CONNECT" and found.mode is TUNNEL:
            head.method = b"GET"  # (what asks for the same in HTTP/1: RFC 8441 §5)
        elif other is None and (head.method != b"HEAD" or b"GET" not in endpoint.methods):
            raise GatewayError("method_not_allowed", allow=endpoint.allow(self.accounts.required))
        return found

    def refuse(self, client: ClientStream, error: GatewayError) -> None:
        """Answer a request whose head could not be read; its framing is unknown, so the connection ends."""
        self.stats.exchanges_open += 1
        self.stats.exchanges_total += 1
        exchange = exchange_for(self, client, NO_HEAD, _UNKNOWN, self.request_id(NO_HEAD))
        exchange.fail(error)

    def other_protocol(self, connection: Connection, rest: bytes) -> bool:
        if self.on_preface is None:
            return False
        self.connections.discard(connection)
        self.on_preface(connection, rest)
        return True

    def crashed(self, client: ClientStream, error: BaseException) -> None:
        """A bug: log it, answer 500 where an answer is still possible, close, and live on."""
        exchange = client.sink
        self.log.error("internal error", error=errors.described(error), **ids_of(exchange))
        if isinstance(exchange, Exchange) and exchange.phase != DONE:
            try:
                exchange.abandon("internal", type(error).__name__)
            except Exception as again:
                self.log.error("internal error while failing", error=errors.described(again))
                exchange.on_gone("internal error")
        if client.sink is not None:
            client.close(reset=True)

    def closed(self, connection: Connection, peer_ip: str) -> None:
        self.connections.discard(connection)
        if self.on_closed is not None:
            self.on_closed(peer_ip)

    def refused_connection(self, ip: str, kind: ErrorKind) -> None:
        """A connection over a cap got ``kind`` before it was read: it leaves a record like any exchange."""
        if self._access is not None:
            self._access.append(AccessRecord(
                at=monotonic(), request_id=self.request_id(NO_HEAD), client=ip, endpoint=_UNKNOWN.label, status=kind.status,
                outcome="error", error=kind.code,
            ))  # fmt: skip

    def finished(self, exchange: Exchange, outcome: str, now: float) -> None:
        """An exchange has ended: counters, and its one access record."""
        one = exchange  # (the compiled twin types this name)
        stats = self.stats
        stats.exchanges_open -= 1
        stats.bytes_down += one.bytes_out
        if self.retries_at_all and one.sent_at:
            self.budget.request(now)
        self.tally.ended(exchange, outcome, now)
        access = self._access
        if access is not None:
            access.ended(exchange, outcome, now)
        if one.trace is not None and one.trace.sampled and self.tracer is not None:
            self.tracer.reporter.ended(exchange, outcome, now)

    # --- ids and lines
    def request_id(self, head: RequestHead) -> bytes:
        """The client's id where it is fit to be repeated, else a new one. (A key is not: ids are logged, and go to engines.)"""
        own = head.own
        if own is not None:
            given = own.get(b"x-request-id")
            if given is not None and valid_request_id(given) and self._told(head, given) == given:
                return given
        if not self.plain_ids:
            return b"req-%d" % time_ns()
        self._serial = serial = self._serial + 1
        return serial_id(self._instance, serial)

    def shown(self, exchange: Asking, text: bytes) -> bytes:
        """What of a stranger's text may be logged: no keys."""
        return self._told(exchange.head, text)

    def _told(self, head: RequestHead, text: bytes) -> bytes:
        credential = head.credential
        plain = self._other_keys if credential is None else (*self._other_keys, credential)
        return masked(text, lambda part: self.accounts.find(digest(part)) is not None, plain)

    def forwarded_lines(self, client: ClientStream, head: RequestHead) -> bytes:
        """x-forwarded-for and -proto for a trusted proxy's request: its own word, and its address."""
        own = head.own or {}
        ours = b"https" if client.spoken.tls else b"http"
        proto = own.get(b"x-forwarded-proto", ours)
        if proto not in (b"http", b"https"):
            proto = ours
        chain = forwarded_for(client.peer_ip, own.get(b"x-forwarded-for"), self.trusted)
        return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n" % (chain, proto)

    # --- answers
    def refuse_with(self, error: GatewayError, exchange: Asking, extra: bytes) -> int:
        """Answer with ``error`` as this gateway's profile renders it; ends the request. Returns the status."""
        self.stats.refused_total += 1
        return refusal.answer(self.profile, error, exchange, extra)

    def error_event(self, name: str, exchange: Asking) -> bytes:
        """The typed event that ends a broken stream."""
        return refusal.error_event(self.profile, name, exchange)

    def final_event(self, name: str, exchange: Asking, tokens: int) -> bytes:
        """What ends a stream whose tokens are spent: its shape's own last event, cut for length, with the reason."""
        return refusal.final_event(self.profile, name, exchange, tokens)

    def close_frame(self, name: str) -> bytes:
        """What ends a WebSocket session, for the error of that ``name``."""
        return refusal.close(self.profile, name)

    def take_up_later(self, exchange: TakenUp) -> None:
        """One large body a turn of the loop, in the order in which they came."""
        self._large.append(exchange)
        if len(self._large) == 1:
            self._next_large()

    def _next_large(self) -> None:
        self.reactor.loop.call_soon(self._take_up)
        self.reactor.poller.hurry()

    def _take_up(self) -> None:
        exchange = self._large.popleft()
        if self._large:
            self._next_large()
        exchange.take_up()

    def later(self, exchange: Asking, seconds: float) -> None:
        """Call ``exchange.wait_over`` in ``seconds``; ``exchange.timer`` takes it back."""
        if exchange.timer is not None:
            exchange.timer.cancel()  # what bounded its wait so far
        exchange.timer = self.reactor.loop.call_later(seconds, exchange.wait_over)
        self.reactor.poller.hurry()

    # --- engines
    def take_table(self, table: UpstreamTable, keys: Sequence[str]) -> None:
        """From now on requests go by ``table``. ``keys`` are those that its engines are sent: no log shows one."""
        self.table = table
        admins = [entry.split(":", 2)[2] for entry in self.config.admin_keys]
        others = (self.config.admin_key, *admins, self.config.vllm_api_key, *keys)
        now = tuple({key.encode() for key in others if key})
        # An engine that has left has most likely its key still.
        left = [key for key in self._other_keys if key not in now]
        self._other_keys = (*now, *left[:MOST_KEYS_OF_THE_PAST])

    def room(self) -> None:
        """An engine may have room, or is believed to have less: whoever waits is looked at."""
        self.doubted = tuple([pool for pool in self.table.pools if pool.engine.doubted()])
        for hook in self.on_room:
            hook()

    def breaker_moved(self, pool: Pool) -> None:
        """An engine's breaker has just opened, or closed again."""
        self.health.breaker_moved(pool.engine)
        self.room()

    def dial_failed(self, pool: Pool, detail: str) -> None:
        self.health.dial_failed(pool.engine, detail)
        pool.unlearn()

    def misconfigured(self, pool: Pool, model: str, why: str) -> None:
        self.health.misconfigured(pool.engine, model, why)

    def reads_again(self, then: Callable[[], None]) -> bool:
        return self.health.lists.again(then)

    def let_finish(self, call: Call) -> None:
        """An engine that cannot bear an abort goes on with ``call`` unseen, for as long as its answer keeps coming."""
        Unread(self, call, self.between_bytes_timeout_s, self.unread).begin()

    # --- the drain
    def begin_drain(self) -> None:
        """Take no new work; let live exchanges go on, close idle connections."""
        self.leaving = self.draining = True
        self.version += 1
        self.close_idle(list(self.connections))

    def close_idle(self, left: list[Connection]) -> None:
        """Those of ``left`` that are idle, some in each turn of the loop: streams go on meanwhile."""
        for connection in left[-CLOSES:]:
            connection.close_idle()
        del left[-CLOSES:]
        if left:
            self.reactor.loop.call_soon(self.close_idle, left)
            self.reactor.poller.hurry()

    def busy(self) -> int:
        return self.stats.exchanges_open

    def abort_all(self) -> None:
        """End what is left: streams get the typed event, then an abort."""
        for connection in list(self.connections):
            for stream in connection.streams():
                exchange = stream.sink
                if isinstance(exchange, Exchange):
                    exchange.abandon("draining", "drain time over")
        self._close_unread()

    def close_all(self) -> None:
        for connection in list(self.connections):
            exchanges = [stream.sink for stream in connection.streams()]
            connection.close()
            for exchange in exchanges:
                if isinstance(exchange, Exchange):
                    exchange.on_gone("gateway stopped")
        self._close_unread()

    def _close_unread(self) -> None:
        """Nobody is left to wait with an engine that cannot bear an abort. (What is sent for nobody goes on as another.)"""
        while self.unread:
            self.unread.pop().close()


_UNKNOWN: Final = Endpoint("unknown", frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"}), LOCAL)
