"""One call to an engine for several embedding requests, and what becomes of each of them.

Who shares a call is ``merging``'s to say; here it is made, its answer is read whole and cut, and whatever goes wrong sends
each request alone, once, as if it had never waited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.usage import usage_in
from fastgw.errors import GatewayError
from fastgw.errors import Source as Blame
from fastgw.exchange.call import Call
from fastgw.exchange.declined import is_his
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.phases import MERGING
from fastgw.exchange.plan import Failure
from fastgw.exchange.record import timing_line
from fastgw.exchange.request import request_start, rewritten
from fastgw.exchange.showing import goes_on
from fastgw.exchange.tally import MALFORMED, TRUNCATED
from fastgw.limits.scope import Scope, places
from fastgw.net.clock import monotonic
from fastgw.net.upstream import NOT_TAKEN
from fastgw.protocol.body import Source
from fastgw.protocol.embeddings import Parts, merged, shares, split
from fastgw.upstream.pool import Pool

PAUSE_S: Final = 10.0  # what an engine would not answer together is sent apart for so long
MAX_ANSWER_BYTES: Final = 64 << 20

# Fields that are true of the whole answer's bytes only: such an answer is not cut.
_OF_THE_WHOLE: Final = re.compile(
    rb"(?im)^(?:content-(?:encoding|md5|digest|range)|digest|repr-digest|etag)[ \t]*:"
).search

Key = tuple[object, ...]


class Holder(Protocol):
    """Where a request is held: a batch that collects, or a call that is shared."""

    def left(self, member: Member) -> None:
        """``member`` has ended by itself."""


class Pausing(Protocol):
    """What decides who shares a call."""

    calls: set[MergedCall]

    def pause(self, key: Key) -> None:
        """Requests of this kind are not answered together: send them apart for a while."""


class Member:
    """One request that waits, or shares a call; ``holder`` is where, None when it is apart. ``asked``: it has been in a call
    that went out, and is in no other."""

    __slots__ = ("asked", "exchange", "holder", "parts")

    def __init__(self, exchange: Exchange, own: Parts) -> None:
        self.exchange = exchange
        self.parts = own
        self.asked = False
        self.holder: Holder | None = None

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
            if member.exchange.phase == MERGING:
                member.exchange.resume()


class MergedCall(Call):
    """One call to an engine for several requests; see the head of this file."""

    __slots__ = ("_asked", "_body", "_key", "_last", "_merger", "members")

    def __init__(self, merger: Pausing, core: GatewayCore, key: Key, members: list[Member], pool: Pool) -> None:
        super().__init__(core, pool, False)
        self._merger = merger
        self._key = key
        self.members = members
        for member in members:
            member.holder = self
        self._last: tuple[Scope, ...] = ()  # the places of who has left last
        self._body = bytearray()
        self._asked: tuple[Member, ...] = ()  # whose inputs went out, in their order

    def __repr__(self) -> str:
        return f"<MergedCall to {self.pool.engine.name} of {len(self.members)}>"

    def weigh(self) -> None:
        for member in self.members:
            facts = member.exchange.facts
            if facts is not None:
                self.reads += facts.prompt_tokens

    # --- towards the engine
    def start(self) -> None:
        """Send, or begin to dial. Nothing raises but a bug."""
        now = monotonic()
        try:
            connected = self.open(now, False)
        except GatewayError:
            self.give_up()
            return
        if connected:
            self._send(now)

    def on_stream(self) -> None:
        self.reached()
        if self.members and is_his(self.pool.engine, self.members[0].exchange):
            self._send(monotonic())
        else:
            self.give_up()

    def _send(self, now: float) -> None:
        core = self.core
        stream = self.stream
        assert stream is not None
        engine = self.pool.engine
        if core.on_attempt:
            for member in tuple(self.members):
                goes_on(member.exchange, core.on_attempt, engine)
            if not self.members:
                return  # none of them may
        self._asked = tuple(self.members)
        for member in self._asked:
            member.asked = True
        first = self._asked[0].exchange
        body = merged([member.parts for member in self._asked])
        for rewrite in core.rewriters:
            body = rewritten(rewrite(first, engine, body))
        self.sent_at = now
        for member in self._asked:
            member.exchange.sent_at = now  # an engine has its inputs: whoever leaves from here on has cost something
        core.stats.merged_calls += 1
        core.stats.merged_requests += len(self._asked)
        due = now + core.first_byte_timeout_s
        stream.send(request_start(first, engine), b"", first.request_id, len(body), b"", body, 0, due)

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        self.core.dial_failed(self.pool, detail)
        self.failed((Failure.CONNECT_TIMEOUT if timed_out else Failure.CONNECT).value)
        self.give_up()

    # --- the answer
    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        stream = self.stream
        assert stream is not None
        now = self.first_byte_at = monotonic()
        self.head = head
        self.source = source
        self.rest = rest
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
        self.rest = b""
        stream.due(now + self.core.between_bytes_timeout_s)
        self._take(source, rest)

    def on_data(self, data: bytes) -> None:
        stream = self.stream
        if stream is not None and self.source is not None:
            stream.due(monotonic() + self.core.between_bytes_timeout_s)
            self._take(self.source, data)

    def _take(self, source: Source, data: bytes) -> None:
        """Bytes of the answer, frames and all."""
        try:
            self._body += source.feed(data)
        except FramingError:
            self._broken()
            return
        if len(self._body) > MAX_ANSWER_BYTES:
            self._refused("answer too large")
        elif source.done:
            self._whole(source)

    def _whole(self, source: Source) -> None:
        """The answer is here: cut it, give the connection back, and answer everybody who is still there."""
        asked = self._asked
        answer = bytes(self._body)
        pieces = split(answer, [one.parts.count for one in asked], [one.parts.size_bytes for one in asked])
        now = monotonic()
        if pieces is None:
            self.settled = True  # (no verdict)
        self.complete(now, True, not source.spoiled, 0.0)
        if pieces is None:
            self._refused("what came is not the embeddings that were asked for")
            return
        self._room()
        self._detach()
        self.members = []
        self._asked = ()  # each knows the other: nobody but the collector would part them
        # (Those who have left meanwhile have paid for themselves: nobody pays their share.)
        sizes = [one.parts.size_bytes for one in asked]
        used = [shares(count, sizes) if count >= 0 else [-1] * len(asked) for count in usage_in(answer)]
        for turn, (member, piece) in enumerate(zip(asked, pieces, strict=True)):
            if member.holder is self:
                member.holder = None
                self._answer(member.exchange, piece, [figure[turn] for figure in used], now)

    def _answer(self, exchange: Exchange, piece: bytes, used: Sequence[int], now: float) -> None:
        """As the engine would have answered this request alone: its status, its fields, and the length of this part."""
        head = self.head
        assert head is not None
        try:
            exchange.call = self
            exchange.sent_at = self.sent_at
            exchange.prompt_tokens, exchange.completion_tokens, exchange.cached_tokens, exchange.reasoning_tokens = used
            if self.core.on_response and not goes_on(exchange, self.core.on_response, head):
                return
            if self.core.on_data and not goes_on(exchange, self.core.on_data, piece):
                return
            exchange.token_at = now
            extra = exchange.extra_head
            if self.core.server_timing:
                extra += timing_line(exchange, self.first_byte_at, now)
            exchange.status = head.status
            exchange.client.answer(head, exchange.request_id, extra, piece)
            exchange.end("ok", False)
        except Exception as error:
            self.core.crashed(exchange.client, error)

    # --- what goes wrong
    def on_error(self, error: GatewayError) -> None:
        """What came is no response head (or a bug showed); the stream is closed already."""
        if error.source is Blame.UPSTREAM:
            self.failed(MALFORMED)
        else:
            self.released()
        self.give_up()

    def on_end(self, how: str) -> None:
        self.ended = True
        source = self.source
        if source is not None and source.eof(how):
            self._whole(source)
            return
        if how in NOT_TAKEN:
            self.released()
            self.give_up()
            return
        self._broken()

    def on_silent(self) -> None:
        self._broken(Failure.SILENT)

    def on_drained(self) -> None: ...

    def _broken(self, how: Failure = Failure.LOST) -> None:
        """The connection ended, went silent, or what it brought cannot be framed."""
        if self.head is not None:
            self.pool.engine.truncations_total += 1
            self.core.stats.truncations_total += 1
            # (Its verdict is of each request's own: what broke it may be one's doing.)
            self.core.tally.failed(TRUNCATED)
            self.pool.engine.failures_total += 1
            self.released()
            self.give_up()
            return
        # (An idle connection that died before a byte says nothing of the engine.)
        stream = self.stream
        if not (self.reused and stream is not None and not stream.begun() and not stream.shared):
            self.failed(how.value)
        self.give_up()

    def _refused(self, why: str) -> None:
        """The engine works, but does not answer these requests together."""
        name = self.pool.engine.name
        self.core.log.warning("embeddings are not merged for a while", engine=name, reason=why, seconds=PAUSE_S)
        self._merger.pause(self._key)
        self.give_up()

    def give_up(self) -> None:
        """Everybody who is still there goes alone."""
        self._detach()
        self.leave()
        self._asked = ()
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
        left = member.exchange
        self._last = places(left.account, left.shares, left.counted)
        self.leave()

    def places(self) -> tuple[Scope, ...]:
        return self._last

    def _detach(self) -> None:
        self._merger.calls.discard(self)
        self._body = bytearray()
