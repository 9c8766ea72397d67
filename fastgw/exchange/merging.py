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
from typing import Final

from fastgw.errors import described
from fastgw.exchange.declined import is_his
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.merged import PAUSE_S, Key, Member, MergedCall, alone
from fastgw.exchange.phases import MERGES
from fastgw.limits.breaker import CLOSED
from fastgw.net.clock import monotonic
from fastgw.protocol.embeddings import Parts, parts

MOST_INPUTS: Final = 256
MOST_BYTES: Final = 1 << 20  # of inputs in one call
BESIDE_BYTES: Final = 1 << 16  # of all else in a request's body
MAX_PAUSES: Final = 1024


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
        self._batches: dict[Key, Batch] = {}
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
        if exchange.group is None or exchange.tries.pools or exchange.upload is not None:
            return False
        route = exchange.gateway.table.routes.get(exchange.model)
        if route is not None and route.restore_name:
            return False  # (what is cut out of a shared answer has the engine's name in it)
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
            batch = self._batches[key] = Batch(self, key)
            batch.timer = self._loop.call_later(self.wait_s, batch.send)
        exchange.move(MERGES)
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
        # (What is too large to be merged is not looked into.)
        if exchange.head.method != b"POST" or len(exchange.body) > self.most_bytes + BESIDE_BYTES:
            return None
        own = parts(exchange.body, self.most_inputs)
        if own is None or own.count >= self.most_inputs or own.size_bytes >= self.most_bytes:
            return None
        member = Member(exchange, own)
        guards.append(member.ended)
        return member

    def forget(self, batch: Batch) -> None:
        """``batch`` takes no more members."""
        if self._batches.get(batch.key) is batch:
            del self._batches[batch.key]

    def start(self, key: Key, members: list[Member]) -> None:
        """One call for all of ``members``, or each alone."""
        pool = None
        if len(members) > 1:
            first = members[0].exchange
            assert first.group is not None
            pool = self._core.strategy.pick(first.group, (), first)
        if pool is None or pool.engine.breaker.state != CLOSED or not is_his(pool.engine, members[0].exchange):
            # Each waits for room, or probes, or is refused, by the rules for one request.
            alone(members)
            return
        call = MergedCall(self, self._core, key, members, pool)
        self.calls.add(call)
        try:
            call.start()
        except Exception as error:
            self._core.log.error("internal error in a shared call", error=described(error))
            call.give_up()

    def pause(self, key: Key) -> None:
        """Requests of this kind are not answered together: send them apart for a while."""
        if len(self._pauses) >= MAX_PAUSES:
            self._pauses.clear()
        self._pauses[hash(key)] = monotonic() + PAUSE_S

    def _paused(self, key: Key) -> bool:
        if not self._pauses:
            return False
        until = self._pauses.get(hash(key), 0.0)
        if until and monotonic() >= until:
            del self._pauses[hash(key)]
            return False
        return until > 0.0


class Batch:
    """Requests that wait together."""

    __slots__ = ("_merger", "inputs", "key", "members", "size_bytes", "timer")

    def __init__(self, merger: Merger, key: Key) -> None:
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
