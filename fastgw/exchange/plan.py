"""What follows when an attempt fails, as pure functions (RFC 9110 §9.2.2: a proxy must not repeat a POST that may have been
acted on).

Repeated without asking: a connection that did not come about (nothing was sent), what an engine says that it has not looked at
(RFC 9113 §8.7: a stream that was refused, or is above what a GOAWAY names; more often where the engine took others meanwhile),
and a *reused* idle connection that died without one response byte (the engine closed it while the request was on its way; it
goes again once, on a fresh connection).
Repeated only by policy (``retry_fresh``; on under ``ordered``, whose users expect it), so often as ``max_retries`` says: a
fresh connection that died, or timed out, after the whole request was sent. Elsewhere without asking: what an engine that may
be gone at any moment (a runner's) has lost. Never: anything after a response byte.
"""

from __future__ import annotations

import enum
from typing import Final

from fastgw.errors import GatewayError, Source
from fastgw.limits.breaker import CLOSED
from fastgw.net.upstream import CROWDED_OUT, LEFT_OVER, UNPROCESSED, WANTS_HTTP1
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

MOST_REFUSALS: Final = 4
"""Of one request by engines that had no look at it; then it is as any failure. The first may be no more than a connection that
goes; whoever refuses again, and takes no others, may have lost who does the work: another engine is asked, or another model, or
the same after a pause, and if nothing comes of it the engine has failed."""
MOST_PASSES: Final = 256
PASSES_S: Final = 30.0
"""So often, and so long, a request is asked again that an engine did not look at while it took others: nginx takes
``keepalive_requests`` on a connection and leaves the others over, which says nothing against any of them, and each time some
come to their end. (Whoever passes one over so often passes it over for ever.)"""
MOST_SIBLINGS: Final = 3
"""Engines of the same model that are asked after one that failed, where another model would be asked then: the request is sent
again in any case, and who asked for this model gets it where an engine of it is well. Each of many that all fail costs its
users time, so not all of them are asked. So many, too, after one that turned a request away: its cause may be the request, and
then all of them would."""
MAX_ATTEMPTS: Final = 16  # engines tried for one request; beyond that a fleet is down, not an engine


FAILURE: Final = "failure"
CONTEXT: Final = "context"
"""Why a request goes to another model: as ``fallback_on`` of a route says it."""


class Failure(enum.Enum):
    """How an attempt ended without a response."""

    CONNECT = "connect"  # nothing was sent
    CONNECT_TIMEOUT = "connect_timeout"
    FULL = "full"  # nothing was sent: the engine is there, and no place on its connections came free in time
    LOST = "lost"  # the connection died after bytes of the request were sent
    REFUSED = "refused"  # the engine said, or it is certain, that it had no look at it
    LEFT_OVER = "left_over"  # the same, on a connection that ends, and took others
    CROWDED_OUT = "crowded_out"  # the same, on one that goes on, and answers others
    WANTS_HTTP1 = "wants_http1"  # the same, and it is to be asked in HTTP/1.1
    SILENT = "silent"  # no byte within the first-byte limit
    TURNED_AWAY = "turned_away"  # it refuses the gateway's own key, or lacks a model that it should have: it did no work


REFUSALS: Final = {
    UNPROCESSED: Failure.REFUSED, LEFT_OVER: Failure.LEFT_OVER, CROWDED_OUT: Failure.CROWDED_OUT,
    WANTS_HTTP1: Failure.WANTS_HTTP1,
}  # fmt: skip
"""What it is, by how a stream ends."""


def lost(how: str, what: str) -> str:
    """What has become of a connection, or a stream of one, that ended so (see ``Carrier.on_end``) before ``what`` came."""
    words = f"connection {'closed' if how == 'fin' else 'lost'} before {what}"
    return words if how == "fin" or how == "reset" else f"{words} ({how})"


class Step(enum.Enum):
    """What follows."""

    AGAIN = "again"  # at the same engine, on a new connection
    NEXT = "next"  # at another, now: nothing had been sent
    LATER = "later"  # at another, after a pause, if the budget has a retry left
    BAR = "bar"  # nowhere: each engine that got it failed
    FAIL = "fail"


class Tries:
    """What has been tried for one request. It never changes: each try makes a new one, and all begin with :data:`NONE_YET`.

    ``pools``: that were tried, and are not to be asked again. ``replayed``: its free replay has been used. ``retries``: by
    policy. ``kills``: fresh connections that died under it. ``refusals``: how often an engine had no look at it, and
    ``passes``, how often because it took others, since ``passed_at``. ``turned``: how often it was turned away.
    ``models``: that it has gone on from to others. ``bound``: of its answers, before this model's engines were asked for less,
    -1 = they were not.
    """

    __slots__ = ("bound", "kills", "models", "passed_at", "passes", "pools", "refusals", "replayed", "retries", "turned")

    def __init__(self, pools: tuple[Pool, ...], replayed: bool, retries: int, kills: int) -> None:
        self.pools = pools
        self.replayed = replayed
        self.retries = retries
        self.kills = kills
        self.refusals = 0
        self.passes = 0
        self.passed_at = 0.0
        self.turned = 0
        self.models: tuple[str, ...] = ()
        self.bound = -1

    def _like(self, pools: tuple[Pool, ...], replayed: bool, retries: int, kills: int) -> Tries:
        made = Tries(pools, replayed, retries, kills)
        made.refusals = self.refusals
        made.passes = self.passes
        made.passed_at = self.passed_at
        made.turned = self.turned
        made.models = self.models
        made.bound = self.bound
        return made

    def tried(self, pool: Pool) -> Tries:
        """``pool`` is not to be asked again."""
        return self._like((*self.pools, pool), self.replayed, self.retries, self.kills)

    def again(self) -> Tries:
        """The same request goes to the same engine again."""
        return self._like(self.pools, True, self.retries, self.kills)

    def retried(self) -> Tries:
        return self._like(self.pools, self.replayed, self.retries + 1, self.kills)

    def killed(self) -> Tries:
        return self._like(self.pools, self.replayed, self.retries, self.kills + 1)

    def refusal(self) -> Tries:
        made = self._like(self.pools, self.replayed, self.retries, self.kills)
        made.refusals += 1
        return made

    def turned_away(self) -> Tries:
        made = self._like(self.pools, self.replayed, self.retries, self.kills)
        made.turned += 1
        return made

    def passed(self, now: float) -> Tries:
        """An engine took others instead."""
        made = self._like(self.pools, self.replayed, self.retries, self.kills)
        made.passes += 1
        if not made.passed_at:
            made.passed_at = now
        return made

    def patient(self, now: float) -> bool:
        """Whether it may be passed over once more."""
        return self.passes <= MOST_PASSES and now - self.passed_at < PASSES_S

    def lowered(self, bound: int) -> Tries:
        """It asks for answers shorter than ``bound``."""
        made = self._like(self.pools, self.replayed, self.retries, self.kills)
        made.bound = bound
        return made

    def given_up(self, model: str) -> Tries:
        """It goes on to another model: engines that have failed ``model`` may well serve that."""
        made = Tries((), self.replayed, 0, self.kills)
        made.models = (*self.models, model)
        made.turned = self.turned  # (whatever is wrong with it, others' engines may say so too)
        return made

    def repeated(self) -> bool:
        """Whether it has been sent more than once: it takes no further chance with a connection that may have died as well."""
        return self.replayed or self.retries > 0 or len(self.models) > 0


NONE_YET: Final = Tries((), False, 0, 0)


class Rules:
    """What a configuration allows."""

    __slots__ = ("max_retries", "quarantine_after", "replay", "retry_fresh")

    def __init__(self, *, replay: bool, retry_fresh: bool, max_retries: int, quarantine_after: int) -> None:
        self.replay = replay
        self.retry_fresh = retry_fresh
        self.max_retries = max_retries
        self.quarantine_after = quarantine_after


def another(group: Group, tries: Tries) -> bool:
    """Whether an engine that has not been tried may be asked; one that is being spared may not."""
    if len(tries.pools) >= MAX_ATTEMPTS:
        return False
    for pool in group.pools:  # noqa: SIM110 - a function that is compiled has no room for a generator
        if pool not in tries.pools and pool.engine.permitted():
            return True
    return False


def after(
    failure: Failure,
    rules: Rules,
    tries: Tries,
    now: float,
    *,
    reused: bool,
    begun: bool,
    at_hand: bool,
    others: bool,
    fleeting: bool = False,
    moves: bool = False,
) -> Step:
    """What follows a failed attempt.

    ``reused``: it went over an idle connection. ``begun``: a byte of an answer had come. ``at_hand``: the whole request can be
    sent again. ``others``: there is another engine to ask. ``fleeting``: the engine may be gone at any moment. ``moves``:
    another model is asked where no engine of this one is. ``tries`` knows of this attempt.
    """
    if begun or not at_hand:
        return Step.FAIL
    if failure is Failure.CONNECT or failure is Failure.CONNECT_TIMEOUT:
        return Step.NEXT if others else Step.FAIL
    if failure is Failure.FULL:
        return Step.NEXT if others else Step.FAIL
    if failure is Failure.TURNED_AWAY:
        return Step.NEXT if others and tries.turned <= MOST_SIBLINGS else Step.FAIL
    if failure is Failure.WANTS_HTTP1 and tries.refusals <= MOST_REFUSALS:
        return Step.AGAIN
    if failure is Failure.REFUSED or failure is Failure.WANTS_HTTP1:
        if tries.refusals == 1 or (tries.refusals <= MOST_REFUSALS and not others and not moves):
            return Step.AGAIN
        return Step.NEXT if others else Step.FAIL
    if failure is Failure.LEFT_OVER or failure is Failure.CROWDED_OUT:
        # (An engine that is full: another may not be, nor another model's. One whose connection goes: the next one has as much
        # room again.)
        stays = tries.passes == 1 or not (others or moves) or failure is Failure.LEFT_OVER
        if stays and tries.patient(now):
            return Step.AGAIN
        return Step.NEXT if others else Step.FAIL
    if failure is Failure.LOST and fleeting and others:
        # (Nobody does the work any more: it goes elsewhere, and costs the budget nothing. One that has broken two stays.)
        return Step.BAR if rules.quarantine_after and tries.kills >= rules.quarantine_after else Step.NEXT
    if failure is Failure.LOST and reused and rules.replay and not tries.replayed:
        return Step.AGAIN
    return later(rules, tries, others, moves) if rules.retry_fresh or moves else Step.FAIL


def may_retry(rules: Rules, tries: Tries, moves: bool) -> bool:
    """Whether a request may be sent once more to an engine of its model. ``moves``: another model is asked otherwise."""
    return tries.retries < (max(rules.max_retries, MOST_SIBLINGS) if moves else rules.max_retries)


def later(rules: Rules, tries: Tries, others: bool, moves: bool = False) -> Step:
    """Whether a request that may go to another engine does, and how."""
    if not others or not may_retry(rules, tries, moves):
        return Step.FAIL
    if rules.quarantine_after and tries.kills >= rules.quarantine_after:
        return Step.BAR
    return Step.LATER


def unavailable(group: Group, now: float, detail: str, retry_after_s: float) -> GatewayError:
    """Nobody is left to be asked: why (``detail`` of the last attempt), and when it may be otherwise, ``retry_after_s`` where
    no engine says."""
    engines = [pool.engine for pool in group.pools]
    # Until the first of them may be asked again.
    wait_s = min([engine.breaker.wait_s(now) for engine in engines])
    if not detail and CLOSED not in [engine.breaker.state for engine in engines]:
        return GatewayError("circuit_open", source=Source.UPSTREAM, retry_after_s=max(1.0, wait_s))
    if wait_s <= 0.0:
        wait_s = retry_after_s
    return GatewayError("engines_unavailable", source=Source.UPSTREAM, retry_after_s=wait_s, detail=detail)


def keeper_away(kind: str, retry_after_s: float, detail: str = "") -> GatewayError:
    """The engine that has a stored response, or its runner (``kind``), takes no requests now, and may again."""
    message = "The engine that keeps this response takes no requests right now, and no other has it."
    return GatewayError(kind, message, source=Source.UPSTREAM, retry_after_s=retry_after_s, detail=detail)
