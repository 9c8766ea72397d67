"""One call to an engine for several embedding requests, and what becomes of each of them.

Who shares a call is ``merging``'s to say; here it is made, its answer is read whole and cut, and whatever goes wrong sends
each request alone, once, as if it had never waited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import random
from typing import TYPE_CHECKING, Final

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.usage import usage_in
from fastgw.errors import GatewayError, Source
from fastgw.exchange.relay import CHUNKED, CLOSE, framing_of
from fastgw.limits.breaker import CLOSED
from fastgw.net.clock import monotonic
from fastgw.net.session import Session
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.embeddings import Parts, merged, shares, split
from fastgw.upstream.pool import Pool

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.gateway import GatewayCore
    from fastgw.exchange.merging import Batch, Merger

PAUSE_S: Final = 10.0  # what an engine would not answer together is sent apart for so long
MAX_ANSWER_BYTES: Final = 64 << 20
JOIN_BYTES: Final = 65536  # a copy of a larger body costs more than a second system call

# Fields that are true of the whole answer's bytes only: such an answer is not cut.
_OF_THE_WHOLE: Final = re.compile(
    rb"(?im)^(?:content-(?:encoding|md5|digest|range)|digest|repr-digest|etag)[ \t]*:"
).search

Key = tuple[object, ...]


class Member:
    """One request that waits, or shares a call; ``holder`` is where, None when it is apart. ``asked``: it has been in a call
    that went out, and is in no other."""

    __slots__ = ("asked", "exchange", "holder", "parts")

    def __init__(self, exchange: Exchange, own: Parts) -> None:
        self.exchange = exchange
        self.parts = own
        self.asked = False
        self.holder: Batch | MergedCall | None = None

    def ended(self) -> None:
        """The exchange has ended by itself (the release that it runs at its end)."""
        holder = self.holder
        if holder is not None:
            self.holder = None
            holder.left(self)


def alone(members: Sequence[Member]) -> None:
    """Each goes its normal way, as if it had never waited."""
    for member in members:
        # (One that ends while the others are sent has no holder any more.)
        if member.holder is not None:
            member.holder = None
            member.exchange.resume()


class MergedCall(Session):
    """One call to an engine for several requests; see the head of this file."""

    def __init__(self, merger: Merger, core: GatewayCore, key: Key, members: list[Member]) -> None:
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
        for member in self._asked:
            member.exchange.sent_at = now  # an engine has its inputs: whoever leaves from here on has cost something
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
        # (Those who have left meanwhile have paid for themselves: nobody pays their share.)
        sizes = [one.parts.size_bytes for one in asked]
        used = [shares(count, sizes) if count >= 0 else [-1] * len(asked) for count in usage_in(answer)]
        for turn, (member, piece) in enumerate(zip(asked, pieces, strict=True)):
            if member.holder is self:
                member.holder = None
                self._answer(member.exchange, pool, head, piece, [figure[turn] for figure in used], now)

    def _answer(
        self, exchange: Exchange, pool: Pool, head: ResponseHead, piece: bytes, used: Sequence[int], now: float
    ) -> None:
        """As the engine would have answered this request alone: its status, its fields, and the length of this part."""
        try:
            exchange.pool = pool
            exchange.reused = self._reused
            exchange.sent_at = self._sent_at
            exchange.first_byte_at = self._first_byte_at
            exchange.token_at = now
            exchange.response = head
            exchange.prompt_tokens, exchange.completion_tokens, exchange.cached_tokens, exchange.reasoning_tokens = used
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
