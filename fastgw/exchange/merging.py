"""Embedding requests that arrive within a few milliseconds of each other, sent to an engine as one, and answered one by one.

An engine embeds a batch in hardly more time than one text, but sees a batch only where somebody makes one. So a request
waits a moment for its like: the same account, the same engines to choose from, the same head and the same body but for the
inputs. Then one call goes out for all of them, under the first one's head, and its answer is cut again by bytes.

    WAITING   a batch collects members until its time is over, or it is full
    CALLING   a shared call is under way; the members hold no connection of their own
    apart     answered, gone, or sent alone

Invariants: a member is in one batch or one call at a time, and leaves it exactly once: answered from the shared answer, ended
by itself (its client left, its time is over), or sent alone as if it had never waited. Whatever goes wrong with a shared call
ends in the last of these, once; asking twice for a vector changes nothing at an engine. Accounts never share a call.
Must never: hold a request longer than its wait without an engine at work for it; tell one client of another's request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from random import random
from typing import TYPE_CHECKING, Final

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError, Source, described
from fastgw.exchange.relay import CHUNKED, CLOSE, framing_of
from fastgw.exchange.state import MERGING
from fastgw.limits.breaker import CLOSED
from fastgw.net.clock import monotonic
from fastgw.net.session import Session
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.embeddings import Parts, merged, parts, prompt_tokens, split
from fastgw.upstream.pool import Pool

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.gateway import GatewayCore

MOST_INPUTS: Final = 256
MOST_BYTES: Final = 1 << 20  # of inputs in one call
MAX_ANSWER_BYTES: Final = 64 << 20
JOIN_BYTES: Final = 65536  # a copy of a larger body costs more than a second system call
PAUSE_S: Final = 10.0  # what an engine would not answer together is sent apart for so long
MAX_PAUSES: Final = 1024

# Fields that are true of the whole answer's bytes only: such an answer is not cut.
_OF_THE_WHOLE: Final = re.compile(
    rb"(?im)^(?:content-(?:encoding|md5|digest|range)|digest|repr-digest|etag)[ \t]*:"
).search

_Key = tuple[object, ...]


class Member:
    """One request that waits, or shares a call; ``holder`` is where, None when it is apart. ``asked``: it has been in a call
    that went out, and is in no other."""

    __slots__ = ("asked", "exchange", "holder", "parts")

    def __init__(self, exchange: Exchange, own: Parts) -> None:
        self.exchange = exchange
        self.parts = own
        self.asked = False
        self.holder: _Batch | MergedCall | None = None

    def ended(self) -> None:
        """The exchange has ended by itself (the release that it runs at its end)."""
        holder = self.holder
        if holder is not None:
            self.holder = None
            holder.left(self)


class Merger:
    """The requests of one gateway that wait for their like.

    ``wait_s`` is how long the first of a batch waits at most; ``most_inputs`` and ``most_bytes`` (of inputs) send it earlier.
    """

    __slots__ = ("_batches", "_core", "_loop", "_pauses", "calls", "most_bytes", "most_inputs", "wait_s")

    def __init__(
        self,
        core: GatewayCore,
        loop: asyncio.AbstractEventLoop,
        *,
        wait_s: float,
        most_inputs: int = MOST_INPUTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._core = core
        self._loop = loop
        self._batches: dict[_Key, _Batch] = {}
        # Until when requests of a kind go alone; by the hash of their key, so that nothing of a request is kept.
        self._pauses: dict[int, float] = {}
        self.calls: set[MergedCall] = set()
        self.wait_s = wait_s
        self.most_inputs = most_inputs
        self.most_bytes = most_bytes

    def __len__(self) -> int:
        """How many requests wait, or share a call."""
        held = [len(batch.members) for batch in self._batches.values()]
        return sum(held) + sum(len(call.members) for call in self.calls)

    def take(self, exchange: Exchange) -> bool:
        """Hold ``exchange`` (a POST to /v1/embeddings, whole and routed, never tried) for its like; its phase is MERGING then,
        and what follows comes from the loop. False = it goes alone, now: always so when it comes from here."""
        if exchange.phase is MERGING or exchange.group is None or exchange.tried or exchange.upload is not None:
            return False
        member = self._member(exchange)
        if member is None:
            return False
        own = member.parts
        head = exchange.head
        key = (exchange.key_id, exchange.group, exchange.substitute, head.target, head.forward, own.kind, own.rest)
        if self._paused(key):
            return False
        batch = self._batches.get(key)
        if batch is not None and not batch.has_room(own):
            batch.send()
            batch = None
        if batch is None:
            batch = self._batches[key] = _Batch(self, key)
            batch.timer = self._loop.call_later(self.wait_s, batch.send)
        exchange.phase = MERGING
        batch.add(member)
        if batch.inputs >= self.most_inputs or batch.size_bytes >= self.most_bytes:
            batch.send()
        return True

    def _member(self, exchange: Exchange) -> Member | None:
        """What ``exchange`` brings to a shared call; None = nothing, or it has been in one."""
        guards = exchange.guards
        if guards is None:
            guards = exchange.guards = []
        for guard in guards:
            known = getattr(guard, "__self__", None)
            if isinstance(known, Member):
                # It waited here, then for room at an engine, and comes again with others that did.
                return None if known.asked else known
        own = parts(exchange.body) if exchange.head.method == b"POST" else None
        if own is None or own.count >= self.most_inputs or own.size_bytes >= self.most_bytes:
            return None
        member = Member(exchange, own)
        guards.append(member.ended)
        return member

    def forget(self, batch: _Batch) -> None:
        """``batch`` takes no more members."""
        if self._batches.get(batch.key) is batch:
            del self._batches[batch.key]

    def start(self, key: _Key, members: list[Member]) -> None:
        """One call for all of ``members``, or each alone."""
        if len(members) > 1:
            call = MergedCall(self, self._core, key, members)
            self.calls.add(call)
            try:
                call.start()
            except Exception as error:
                self._core.log.error("internal error in a shared call", error=described(error))
                call.give_up()
            return
        alone(members)

    def pause(self, key: _Key) -> None:
        """Requests of this kind are not answered together: send them apart for a while."""
        if len(self._pauses) >= MAX_PAUSES:
            self._pauses.clear()
        self._pauses[hash(key)] = monotonic() + PAUSE_S

    def _paused(self, key: _Key) -> bool:
        if not self._pauses:
            return False
        until = self._pauses.get(hash(key), 0.0)
        if until and monotonic() >= until:
            del self._pauses[hash(key)]
            return False
        return until > 0.0


class _Batch:
    """Requests that wait together."""

    __slots__ = ("_merger", "inputs", "key", "members", "size_bytes", "timer")

    def __init__(self, merger: Merger, key: _Key) -> None:
        self._merger = merger
        self.key = key
        self.members: list[Member] = []
        self.inputs = 0
        self.size_bytes = 0
        self.timer: asyncio.TimerHandle | None = None

    def has_room(self, own: Parts) -> bool:
        merger = self._merger
        return self.inputs + own.count <= merger.most_inputs and self.size_bytes + own.size_bytes <= merger.most_bytes

    def add(self, member: Member) -> None:
        member.holder = self
        self.members.append(member)
        self.inputs += member.parts.count
        self.size_bytes += member.parts.size_bytes

    def left(self, member: Member) -> None:
        if member not in self.members:
            return  # they are being sent
        self.members.remove(member)
        self.inputs -= member.parts.count
        self.size_bytes -= member.parts.size_bytes
        if not self.members:
            self._close()

    def send(self) -> None:
        """The wait is over."""
        self._close()
        members, self.members = self.members, []
        self._merger.start(self.key, members)

    def _close(self) -> None:
        self._merger.forget(self)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class MergedCall(Session):
    """One call to an engine for several requests; see the head of this file."""

    def __init__(self, merger: Merger, core: GatewayCore, key: _Key, members: list[Member]) -> None:
        super().__init__()
        self._merger = merger
        self._core = core
        self._key = key
        self.members = members
        for member in members:
            member.holder = self
        self._pool: Pool | None = None
        self._upstream: UpstreamConn | None = None
        self._reused = False
        self._sent_at = 0.0
        self._first_byte_at = 0.0
        self._head: ResponseHead | None = None
        self._chunks: ChunkScanner | None = None
        self._body = bytearray()
        self._asked: tuple[Member, ...] = ()  # whose inputs went out, in their order

    def __repr__(self) -> str:
        name = self._pool.engine.name if self._pool is not None else "nowhere"
        return f"<MergedCall to {name} of {len(self.members)}>"

    # --- towards the engine
    def start(self) -> None:
        """Find an engine and send, or begin to dial. Nothing raises but a bug."""
        core = self._core
        group = self.members[0].exchange.group
        assert group is not None
        pool = core.strategy.pick(group, ())
        if pool is None or pool.engine.breaker.state != CLOSED:
            # Each waits for room, or probes, or is refused, by the rules for one request.
            self.give_up()
            return
        self._pool = pool
        now = monotonic()
        conn = pool.take_idle(now)
        try:
            self._reused = conn is not None
            self._upstream = conn or pool.dial(self)
        except GatewayError:
            self.give_up()
            return
        pool.engine.inflight += 1
        if conn is not None:
            self._send(conn, now)

    def on_connected(self, conn: UpstreamConn) -> None:
        assert self._pool is not None
        engine = self._pool.engine
        if engine.failures and engine.healthy is not False:
            engine.failures = 0
        self._send(conn, monotonic())

    def _send(self, conn: UpstreamConn, now: float) -> None:
        core = self._core
        pool = self._pool
        assert pool is not None
        self._asked = tuple(self.members)
        for member in self._asked:
            member.asked = True
        first = self._asked[0].exchange
        body = merged([member.parts for member in self._asked])
        for rewrite in core.rewriters:
            body = rewrite(first, pool.engine, body)
        # What is to be cut must not come compressed; the flag says so to whatever writes the head.
        strip, first.strip_usage = first.strip_usage, True
        head = first.request_head(pool, len(body))
        first.strip_usage = strip
        self._sent_at = now
        core.stats.merged_calls += 1
        core.stats.merged_requests += len(self._asked)
        if len(body) <= JOIN_BYTES:
            conn.begin(self, head + body, now + core.first_byte_timeout_s)
        else:
            conn.begin(self, head, now + core.first_byte_timeout_s)
            conn.write(body)

    def on_connect_failed(self, detail: str, timed_out: bool) -> None:
        assert self._pool is not None
        self._core.dial_failed(self._pool, detail)
        self._fault()
        self.give_up()

    # --- the answer
    def on_response_head(self, head: ResponseHead, rest: bytes) -> None:
        conn = self._upstream
        assert conn is not None
        now = self._first_byte_at = monotonic()
        self._head = head
        if head.status == 429 or head.status == 503:
            # "Not now": that says nothing against asking together.
            self.give_up()
            return
        if head.status != 200 or head.sse or _OF_THE_WHOLE(head.forward) is not None:
            # (No verdict on the engine, whatever the status: each request brings back its own.)
            self._refused(f"answered {head.status}")
            return
        if head.content_length > MAX_ANSWER_BYTES:
            self._refused("answer too large")
            return
        if framing_of(head, b"POST") is CHUNKED:
            self._chunks = ChunkScanner()
        conn.wheel.arm(conn, now + self._core.between_bytes_timeout_s)
        self._take(rest)

    def on_response_data(self, data: bytes) -> None:
        conn = self._upstream
        if conn is not None:
            conn.deadline = monotonic() + self._core.between_bytes_timeout_s
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Bytes of the answer, frames and all."""
        head = self._head
        assert head is not None
        body = self._body
        chunks = self._chunks
        if chunks is not None:
            try:
                data = chunks.feed(data)
            except FramingError:
                self._broken()
                return
        body += data
        length = head.content_length
        if len(body) > MAX_ANSWER_BYTES:
            self._refused("answer too large")
        elif chunks is not None:
            if chunks.done:
                self._whole(head, not chunks.rest)
        elif 0 <= length <= len(body):
            surplus = len(body) > length
            del body[length:]
            self._whole(head, not surplus)

    def _whole(self, head: ResponseHead, reusable: bool) -> None:
        """The answer is here: cut it, give the connection back, and answer everybody who is still there."""
        asked = self._asked
        answer = bytes(self._body)
        pieces = split(answer, [one.parts.count for one in asked], [one.parts.size_bytes for one in asked])
        conn = self._upstream
        pool = self._pool
        assert conn is not None
        assert pool is not None
        now = monotonic()
        self._upstream = None
        pool.engine.inflight -= 1
        pool.engine.answered_total += 1
        if reusable and head.keep_alive and not conn.queued_bytes:
            pool.release(conn, now, head.idle_s, head.max_requests)
        else:
            conn.close()
        if pieces is None:
            self._refused("what came is not the embeddings that were asked for")
            return
        breaker = pool.engine.breaker
        if breaker.failures:
            breaker.succeeded(False)
        self._room()
        self._detach()
        self.members = []
        for member, piece in zip(asked, pieces, strict=True):
            if member.holder is self:
                member.holder = None
                self._answer(member.exchange, pool, head, piece, now)

    def _answer(self, exchange: Exchange, pool: Pool, head: ResponseHead, piece: bytes, now: float) -> None:
        """As the engine would have answered this request alone: its status, its fields, and the length of this part."""
        try:
            exchange.pool = pool
            exchange.reused = self._reused
            exchange.sent_at = self._sent_at
            exchange.first_byte_at = self._first_byte_at
            exchange.token_at = now
            exchange.response = head
            exchange.prompt_tokens = prompt_tokens(piece)
            lines = exchange.response_lines(head, now)
            data = b"%b%bcontent-length: %d\r\n%b%b" % (head.status_line, head.forward, len(piece), lines, piece)
            exchange.answer(head.status, data)
        except Exception as error:
            self._core.crashed(exchange.conn, error)

    # --- what goes wrong
    def on_response_error(self, error: GatewayError) -> None:
        """What came is no response head (or a bug showed); the connection is closed already."""
        if error.source is Source.UPSTREAM:
            self._fault()
        self.give_up()

    def on_response_eof(self, how: str) -> None:
        head = self._head
        if head is not None and how == "fin" and framing_of(head, b"POST") is CLOSE:
            self._whole(head, False)
            return
        self._broken()

    def on_upstream_timeout(self) -> None:
        self._broken()

    def on_upstream_drained(self) -> None: ...

    def _broken(self) -> None:
        """The connection ended, went silent, or what it brought cannot be framed."""
        conn = self._upstream
        pool = self._pool
        assert pool is not None
        if self._head is not None:
            pool.engine.truncations_total += 1
            self._core.stats.truncations_total += 1
        # (An idle connection that died before a byte says nothing of the engine.)
        if not (self._reused and conn is not None and not conn.response_begun):
            self._fault()
        self.give_up()

    def _refused(self, why: str) -> None:
        """The engine works, but does not answer these requests together."""
        pool = self._pool
        name = pool.engine.name if pool is not None else ""
        self._core.log.warning("embeddings are not merged for a while", engine=name, reason=why, seconds=PAUSE_S)
        self._merger.pause(self._key)
        self.give_up()

    def _fault(self) -> None:
        pool = self._pool
        assert pool is not None
        engine = pool.engine
        engine.failures_total += 1
        before = engine.breaker.opened_total
        engine.breaker.failed(monotonic(), random(), False)  # noqa: S311 - spreads probes, guards nothing
        if engine.breaker.opened_total != before:
            self._core.breaker_moved(pool)

    def give_up(self) -> None:
        """Everybody who is still there goes alone."""
        self._detach()
        self._leave_engine()
        members, self.members = self.members, []
        alone(members)

    def left(self, member: Member) -> None:
        """A member's client has left, or its time is over; the others' call goes on, and ends with the last of them."""
        if member not in self.members:
            return  # they are being answered, or sent alone
        self.members.remove(member)
        if self.members:
            return
        self._detach()
        pool = self._pool
        conn = self._upstream
        if pool is not None and conn is not None and self._sent_at and not pool.engine.cancel:
            # This engine cannot bear an abort: let it finish, unseen.
            self._upstream = None
            self._core.let_finish(pool, conn, None, b"POST")
        else:
            self._leave_engine()

    def _detach(self) -> None:
        self._merger.calls.discard(self)
        self._body = bytearray()

    def _leave_engine(self) -> None:
        conn = self._upstream
        if conn is None:
            return
        self._upstream = None
        assert self._pool is not None
        self._pool.engine.inflight -= 1
        conn.close()
        self._room()

    def _room(self) -> None:
        for hook in self._core.on_room:
            hook()


def alone(members: Sequence[Member]) -> None:
    """Each goes its normal way, as if it had never waited."""
    for member in members:
        # (One that ends while the others are sent has no holder any more.)
        if member.holder is not None:
            member.holder = None
            member.exchange.resume()
