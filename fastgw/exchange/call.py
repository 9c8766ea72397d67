"""One request at one engine: the place that it has there, the breaker's leave, the stream, the times, the verdict.

Whoever asks an engine something has one of these: an exchange one at a time (``attempt``), several embedding requests one
together (``merged``), an answer without a reader its own (``unread``). What its stream tells, each takes in its own way.

Invariants: it counts among the engine's requests under way from :meth:`Call.open` until it ends, once, by :meth:`Call.leave` or
:meth:`Call.complete`, and then among those that were; where its engine is let finish it goes on as another, which does both in
its place. Its breaker hears one verdict of it.
"""

from __future__ import annotations

from random import random
from typing import Any, Final

from fastgw.accel.heads import ResponseHead
from fastgw.exchange.context import Context
from fastgw.exchange.relay import Relay
from fastgw.exchange.tally import ERROR
from fastgw.limits.breaker import ALL, CLOSED
from fastgw.limits.scope import Scope
from fastgw.net.clock import monotonic
from fastgw.net.upstream import Carrier, UpstreamStream
from fastgw.protocol.body import Source
from fastgw.upstream.pool import Pool
from fastgw.upstream.watch import Watch

DIALS: Final = frozenset({"connect", "connect_timeout"})
"""How a call fails where nobody could connect: what a probe of the engine can tell to be over."""


class Call(Carrier):
    """See the head of this file. ``probe``: it is the one that an open breaker lets through."""

    __slots__ = (
        "core", "ended", "faulty", "first_byte_at", "head", "left_at", "light", "makes", "pool", "probe", "reads", "relay",
        "remainder", "rest", "reused", "sent_at", "settled", "source", "stream", "trial", "watch",
    )  # fmt: skip

    def __init__(self, core: Context, pool: Pool, probe: bool) -> None:
        self.make(core, pool, probe)

    def make(self, core: Context, pool: Pool, probe: bool) -> None:
        """What ``__init__`` does, for whoever cannot wait for a call by its type's name (which packs a tuple)."""
        self.core = core
        self.pool = pool
        self.probe = probe
        self.trial = pool.engine.breaker.opened_total  # of which opening
        self.stream: UpstreamStream | None = None
        self.reused = False  # it goes over a connection that was idle
        self.settled = False  # the breaker has its verdict
        self.light = False  # it takes no place at the engine
        self.faulty = False  # the engine answered that it failed; the verdict falls when the answer ends
        self.sent_at = 0.0  # monotonic clock, 0.0 = not yet
        self.first_byte_at = 0.0
        self.left_at = 0.0  # it was given up
        self.source: Source | None = None  # what reads its answer's body, None = its head has not come
        self.rest = b""  # what has come of the body, and has not been fed to that yet
        self.ended = False  # the engine has closed: no more comes
        self.head: ResponseHead | None = None  # of the answer that is passed on
        self.relay: Relay | None = None  # what passes its body on, where it comes in pieces
        self.remainder: Any = None  # what its engine goes on to say to nobody, until that is counted (`remainder`)
        self.watch: Watch | None = None  # who is told of it, while it has its place
        self.reads = 0  # tokens that it counts for there until the first token comes, -1 = that has come
        self.makes = 0  # and from then on

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.pool.engine.name}>"

    def open(self, now: float, fresh: int) -> bool:
        """Take a place at the engine, and a stream: whether it can be sent now; else ``on_stream`` says when. ``fresh``: which
        connection will do (see ``upstream.pool``). Raises GatewayError where there is none, and then it has no place."""
        pool = self.pool
        stream = self.stream = pool.open(self, now, fresh)
        engine = pool.engine
        engine.inflight += 1
        if self.light:
            engine.light += 1
        if engine.watch is not None:
            self.watch = engine.watch
            self.weigh()
            self.reads = self.watch.opened(self.reads)
        connected = stream.connected
        if connected:
            self.core.stats.reused_total += 1
        self.reused = connected and not stream.shared
        return connected

    def reached(self) -> None:
        """Its engine was dialled, and is there."""
        engine = self.pool.engine
        if engine.failures and engine.healthy is not False:
            engine.failures = 0

    # --- the verdict
    def succeeded(self) -> None:
        """The engine answered."""
        if self.settled:
            return
        self.settled = True
        breaker = self.pool.engine.breaker
        if breaker.failures or breaker.state != CLOSED:
            open_before = breaker.state != CLOSED
            breaker.succeeded(self._tries())
            if open_before and breaker.state == CLOSED:
                self.core.breaker_moved(self.pool)
        self.probe = False

    def failed(self, how: str, model: str = "") -> None:
        """The engine failed, ``how`` being a word of ours: it counts once, here and in its statistics. ``model``: it
        lacks that, or keeps it from us; of others that says nothing."""
        self.core.tally.failed(how)
        self.faulty = False  # (whatever it was about to be counted for)
        engine = self.pool.engine
        engine.failures_total += 1
        # (What a connection takes along when it ends is one failure to whoever judges the engine.)
        counts = self.probe or self.stream is None or self.stream.blames()
        # An answer, and where it breaks off, may be this caller's own doing; that there was none is not.
        whose = (self.caller(), model) if self.source is not None else ALL
        if counts and self.watch is not None:
            self.watch.failed(whose)
        if self.settled:
            return
        self.settled = True
        if not counts:
            return
        before = engine.breaker.opened_total
        chance = random()  # noqa: S311 - spreads probes, guards nothing
        engine.breaker.failed(monotonic(), chance, self._tries(), whose, how in DIALS)
        self.probe = False
        if engine.breaker.opened_total != before:
            self.core.breaker_moved(self.pool)

    def _tries(self) -> bool:
        """Whether its verdict is the one that its engine's breaker waits for: that has not opened anew since."""
        return self.probe and self.trial == self.pool.engine.breaker.opened_total

    def released(self) -> None:
        """It said nothing about the engine."""
        if self.settled:
            return
        self.settled = True
        if self.probe:
            self.pool.engine.breaker.released(self._tries())
            self.probe = False
            self._room()

    def _conclude(self, well: bool) -> None:
        """The answer has ended, ``well`` or not: the verdict falls, where it has not."""
        if self.settled:
            if self.faulty:
                self.core.tally.failed(ERROR)
                self.pool.engine.failures_total += 1
        elif self.faulty:
            self.failed(ERROR)
        elif well:
            self.succeeded()
        else:
            self.released()

    # --- the end
    def leave(self) -> None:
        """Give up the place, if it has one still; this is what cancels the engine's work. An engine that is at it still, and
        cannot bear that, is let finish, unseen, and keeps the place until then: whoever ends this, and whatever for."""
        stream = self.stream
        if stream is None:
            return
        engine = self.pool.engine
        if not engine.cancel and not stream.closed and self.works():
            self.core.let_finish(self)
            return
        self.stream = None
        self.left_at = monotonic()
        engine.inflight -= 1
        if self.light:
            engine.light -= 1
        if self.sent_at:
            engine.answered_total += 1
        if self.watch is not None:
            self.unwatch()
        stream.cancel()
        self._room()

    def works(self) -> bool:
        """Whether the engine has the whole request, and has not ended its answer."""
        source = self.source
        return self.sent_at > 0.0 and not self.ended and (source is None or not source.done)

    def caller(self) -> str:
        """Whose request it is, as engines tell callers apart; "" = not one's alone."""
        return ""

    def places(self) -> tuple[Scope, ...]:
        """Among whose requests it counts, while nobody waits for it any more."""
        return ()

    def goes_on(self) -> Any:
        """What reads on then, as a ``remainder``; None = nobody is to be charged for what comes."""
        return None

    def complete(self, now: float, well: bool, reusable: bool, token_at: float) -> None:
        """The answer has ended, ``well`` or not: the verdict falls, and then the place is free. (Who waits for it is told by
        whoever ends this.) ``reusable``: it ended where and as it should, so that its stream may serve another request.
        ``token_at``: when its first token came, 0.0 = none did: what an engine without gauges is judged by."""
        faulty = self.faulty
        if self.settled or faulty or not well or not self.sent_at:
            self._conclude(well and self.sent_at > 0.0)
        else:
            self.succeeded()
        stream = self.stream
        if stream is None:
            return
        self.stream = None
        pool = self.pool
        engine = pool.engine
        if engine.gradient is not None and well and token_at and not faulty and not self.light:
            engine.gradient.sample(token_at - self.sent_at, engine.inflight - engine.light)
        if well and not faulty and self.sent_at:
            engine.served_at = now
        engine.inflight -= 1
        if self.light:
            engine.light -= 1
        if self.watch is not None:
            if well and token_at and not faulty and self._did():
                if self.reads >= 0:
                    self._took(token_at - self.sent_at, now)
                self.watch.answered()
            self.unwatch()
        if self.sent_at:
            engine.answered_total += 1
        head = self.head
        if reusable and head is not None and head.keep_alive and not stream.queued():
            pool.give_back(stream, now, head.idle_s, head.max_requests)
        else:
            stream.cancel()

    # --- what the engine's watch is told
    def weigh(self) -> None:
        """Say how many tokens it ``reads`` and ``makes``, as far as that can be known before."""

    def began(self, now: float) -> None:
        """The first token of its answer has come."""
        watch = self.watch
        if watch is not None and self.reads >= 0:
            watch.began(self.reads, self.makes)
            self.reads = -1
            if self._did():
                self._took(now - self.sent_at, now)

    def _took(self, seconds: float, now: float) -> None:
        """Its first token came after so long."""
        watch = self.watch
        assert watch is not None
        watch.took(seconds, now)
        if seconds > watch.late_s:
            watch.was_late((self.caller(), ""))

    def _did(self) -> bool:
        """Whether the engine does what it was asked for, and that is to generate. (A refusal is quick, and says nothing of how
        quick that is.)"""
        return self.head is not None and self.head.status < 400 and not self.light

    def unwatch(self) -> None:
        """It has no place any more: what it counted for is taken back."""
        watch = self.watch
        assert watch is not None
        self.watch = None
        if self.reads >= 0:
            watch.ended(self.reads, 0)
        else:
            watch.ended(0, self.makes)

    def part(self) -> None:
        """Whoever it was made for has ended: forget them."""

    def answered(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        """This is the answer that goes down."""
        raise NotImplementedError

    # --- what its caller's client does
    def cut(self, kind: str, detail: str, engine_fault: bool) -> None:
        """End an answer that is on its way down, with an error."""
        raise NotImplementedError

    def client_drained(self) -> None:
        """The client has taken what it was sent."""
        raise NotImplementedError

    def from_client(self, data: bytes) -> None:
        """Bytes of an upgraded protocol."""
        raise NotImplementedError

    def client_ended(self) -> None:
        """The client has said its last of an upgraded protocol."""
        raise NotImplementedError

    def _room(self) -> None:
        for hook in self.core.on_room:
            hook()
