"""Which engine an exchange asks, and what follows when that fails: the plan, carried out.

Each question is one call (``attempt``). What may follow a failure is decided in ``plan``, as pure functions of what has been
tried; here it happens: the next call, a pause, a wait for room, or the refusal.
"""

from __future__ import annotations

from random import random

from fastgw.errors import GatewayError, Source
from fastgw.exchange.attempt import Attempt, attempt_for
from fastgw.exchange.call import Call
from fastgw.exchange.declined import caller_of, falls_back, given_away
from fastgw.exchange.engine_error import blames
from fastgw.exchange.phases import BACKS_OFF, DIALS
from fastgw.exchange.plan import (
    CONTEXT,
    FAILURE,
    MAX_ATTEMPTS,
    Failure,
    Step,
    after,
    another,
    keeper_away,
    later,
    may_retry,
    unavailable,
)  # fmt: skip
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tally import ERROR
from fastgw.limits.breaker import CLOSED, NO, PROBE
from fastgw.limits.budget import backoff_s
from fastgw.net.clock import monotonic
from fastgw.net.upstream import FRESH, HTTP1, UPGRADE
from fastgw.upstream.absent import ENGINE, RUNNER
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


def ask(exchange: ExchangeState) -> None:
    """Ask the next engine, over an idle connection or a new one."""
    gateway = exchange.gateway
    group = exchange.group
    assert group is not None
    light = exchange.endpoint.light
    failure: GatewayError | None = None
    while True:
        if gateway.doubted:
            hear(exchange, group, exchange.substitute or exchange.model)
        home = exchange.home
        if home is None:
            pool = gateway.strategy.pick(group, exchange.tries.pools, exchange)
        else:
            pool = home if takes(home, light) and home not in exchange.tries.pools else None
        if pool is not None and home is None and (pool.engine.rests_until or pool.engine.words):
            other = _spared(exchange, group, pool)
            if other is None and _elsewhere(exchange, FAILURE):
                # (It would say "not now": whoever is asked then is asked at once.)
                group = exchange.group
                assert group is not None
                continue
            pool = other or pool
        if pool is None and home is not None:
            if failure is None and home.engine.full() and _waits_for_room(exchange):
                return
            raise failure or _away(exchange, home)
        if pool is None:
            before = group
            group = _group(exchange)
            if group is not before:
                continue
            if light:
                pool = _busy(exchange, group)
        if pool is not None and pool.engine.tenant and given_away(exchange, pool):
            group = _goes_elsewhere(exchange)
            continue
        if pool is None:
            if _waits(exchange, group, failure):
                return
            group = exchange.group
            assert group is not None
            failure = None
            continue
        now = monotonic()
        admitted = 0
        breaker = pool.engine.breaker
        if breaker.state != CLOSED:
            admitted = breaker.admit(now)
            if admitted == NO and home is None:
                exchange.tries = exchange.tries.tried(pool)
                continue
        call = _call(exchange, pool, admitted == PROBE)
        try:
            connected = call.open(now, UPGRADE if exchange.session is not None else exchange.tries.repeated())
        except GatewayError as error:
            call.released()
            if not error.retryable:
                raise
            # Nothing was sent: the next engine may have room.
            failure = error
            exchange.tries = exchange.tries.tried(pool)
            continue
        if connected:
            call.send(now)
        else:
            exchange.move(DIALS)
        return


def _waits(exchange: ExchangeState, group: Group, failure: GatewayError | None) -> bool:
    """Nobody of ``group`` is left to be asked: whether the request waits for one of them, else it goes to another model. Raises
    GatewayError where it does neither; ``failure`` is the last that nobody who was asked had room for it."""
    gateway = exchange.gateway
    unmet = gateway.strategy.chosen(exchange).unmet(group, exchange)
    if failure is None and not unmet and _waits_for_room(exchange):
        return True
    if _elsewhere(exchange, FAILURE):
        return False
    if unmet:
        raise GatewayError("needs_unmet", unmet)
    raise failure or unavailable(group, monotonic(), exchange.detail, gateway.retry_after_s)


def takes(pool: Pool, light: bool = False) -> bool:
    """Whether an engine that no other can stand in for is asked now: also where it is ill, held back, or its breaker open. Who
    is told that it fails may come again; who is told by another that there is no such response has lost it. ``light``: for
    what takes no place there."""
    engine = pool.engine
    return not (engine.draining or engine.away or (not light and 0 < engine.slots <= engine.under_way()))


def _busy(exchange: ExchangeState, group: Group) -> Pool | None:
    """Of the engines that have no place left the one with the fewest requests, for one that takes none."""
    best: Pool | None = None
    for pool in exchange.gateway.strategy.chosen(exchange).able(group, exchange):
        engine = pool.engine
        if pool in exchange.tries.pools or engine.away or not engine.full():
            continue
        if best is None or engine.inflight < best.engine.inflight:
            best = pool
    return best


def _goes_elsewhere(exchange: ExchangeState) -> Group:
    """Its engines are not all his any more: those that it goes to now, of its model or of another. Raises GatewayError where
    there are none. (It waits for none: nobody would be asked when there is room.)"""
    if exchange.home is not None:
        raise _away(exchange, exchange.home)
    before = exchange.group
    assert before is not None
    if _group(exchange) is before and not _elsewhere(exchange, FAILURE):
        raise unavailable(before, monotonic(), exchange.detail, exchange.gateway.retry_after_s)
    group = exchange.group
    assert group is not None
    return group


def _away(exchange: ExchangeState, home: Pool) -> GatewayError:
    """The one engine that has what the request speaks of is not to be asked, or cannot be."""
    return keeper_away(RUNNER if home.engine.fleeting else ENGINE, exchange.gateway.retry_after_s, exchange.detail)


def hear(exchange: ExchangeState, group: Group, model: str) -> None:
    """Its caller asks for one of ``group``, for ``model``: breakers there that are open to another alone, or for another,
    close, and who is ejected so is so no more. (Whoever chooses between groups has him heard by all of them first: who is let
    go by others' word is nobody's choice.)"""
    caller = caller_of(exchange)
    for pool in exchange.gateway.doubted:
        if (pool in group.pools or pool is exchange.home) and pool.engine.hears(caller, model):
            exchange.gateway.breaker_moved(pool)


def _spared(exchange: ExchangeState, group: Group, pool: Pool) -> Pool | None:
    """Who is asked where ``pool`` was picked: that one, or another, if it has told this caller to come again later; None where
    each that takes requests has, or is to be left alone by all."""
    if pool.engine.rests():
        return None  # (it was picked as a last resort)
    caller = caller_of(exchange)
    now = monotonic()
    passed = exchange.tries.pools
    other: Pool | None = pool
    while other is not None and other.engine.told(caller, now):
        passed = (*passed, other)
        other = exchange.gateway.strategy.pick(group, passed, exchange) if len(passed) < MAX_ATTEMPTS else None
        if other is not None and not other.engine.usable():
            return None
    return other


def _call(exchange: ExchangeState, pool: Pool, probe: bool) -> Attempt:
    if exchange.call is not None:
        exchange.call.part()
    call = attempt_for(exchange, pool, probe)
    exchange.call = call
    trace = exchange.trace
    if trace is not None and trace.sampled:
        trace.asks(call, exchange.substitute, exchange.detail)
    return call


def _group(exchange: ExchangeState) -> Group:
    """The engines that may be asked as things are: since it was routed some may have gone, and others come."""
    gateway = exchange.gateway
    serving = gateway.serving(gateway.table, exchange)
    if serving is not None:
        exchange.group = serving
    group = exchange.group
    assert group is not None
    if gateway.doubted:
        hear(exchange, group, exchange.substitute or exchange.model)
    return group


def _waits_for_room(exchange: ExchangeState) -> bool:
    """Whether the request waits now: the engines that are left for it are well, and full."""
    group = exchange.group
    assert group is not None
    if exchange.home is not None or exchange.gateway.strategy.chosen(exchange).full(group, exchange.tries.pools, exchange):
        for hook in exchange.gateway.on_full:
            if hook(exchange):
                return True
    return False


def _elsewhere(exchange: ExchangeState, why: str) -> bool:
    """Whether the request goes to another model, whose engines are its group now. (Not one of which each engine that got it has
    died.)"""
    gateway = exchange.gateway
    if exchange.home is not None:
        return False  # (no other has what it speaks of)
    barred = gateway.rules.quarantine_after
    if (barred and exchange.tries.kills >= barred) or not _at_hand(exchange):
        return False
    bound = exchange.tries.bound
    for hook in gateway.on_lost:
        if hook(exchange, why):
            if bound >= 0:
                exchange.bound = bound  # that model may have more room
            return True
    return False


def call_failed(exchange: ExchangeState, failure: Failure, begun: bool, detail: str, error: GatewayError | None) -> None:
    """The call has ended without an answer: what follows is the plan's. ``error``: what its client is told if nothing does."""
    call = exchange.call
    assert call is not None
    pool = call.pool
    now = monotonic()
    in_http1 = failure is Failure.WANTS_HTTP1
    passed = failure is Failure.LEFT_OVER or failure is Failure.CROWDED_OUT
    not_taken = in_http1 or passed or failure is Failure.REFUSED
    exchange.detail = f"{pool.engine.name}: {detail}"
    if passed:
        exchange.tries = exchange.tries.passed(now)
    elif not_taken:
        exchange.tries = exchange.tries.refusal()
    elif failure is Failure.TURNED_AWAY:
        exchange.tries = exchange.tries.turned_away()
    elif failure is Failure.LOST and not call.reused:
        exchange.tries = exchange.tries.killed()
    tries = exchange.tries.tried(pool)
    alone = exchange.home is not None  # (no other has what it speaks of)
    others = not alone and another(_group(exchange), tries)
    rules = exchange.gateway.rules
    moves = not alone and falls_back(exchange, FAILURE)
    step = after(
        failure, rules, exchange.tries, now, reused=call.reused, begun=begun, at_hand=_at_hand(exchange), others=others,
        fleeting=pool.engine.fleeting, moves=moves,
    )  # fmt: skip
    # (Whoever keeps others is asked for so long as it may take this one; after that it has failed, like who takes none.)
    in_vain = not exchange.tries.patient(now) if passed else exchange.tries.refusals > 1
    refuses = in_vain and step is not Step.AGAIN
    stale = failure is Failure.LOST and call.reused and not exchange.tries.replayed
    if (not_taken and not refuses) or failure is Failure.FULL or stale:
        call.released()
    else:
        # Before the engine is left: whoever waits for its place must find the verdict.
        call.failed(failure.value, (exchange.substitute or exchange.model) if failure is Failure.TURNED_AWAY else "")
    call.leave()
    try:
        if step is Step.AGAIN and not_taken and failure is not Failure.LEFT_OVER and not in_http1:
            times = exchange.tries.passes if passed else exchange.tries.refusals
            if times > 1:
                exchange.gateway.stats.replays_total += 1
                _back_off(exchange, times)
                return
        if step is Step.AGAIN:
            if _again(exchange, pool, HTTP1 if in_http1 else FRESH, failure is Failure.LOST):
                return
            step = later(rules, exchange.tries, others, moves)
        if step is not Step.FAIL and _goes_on(exchange, step, pool):
            return
        if not begun and _elsewhere(exchange, FAILURE):
            _at_once(exchange)
            return
    except GatewayError as other:
        exchange.fail(other)
        return
    if error is None and alone and (failure is Failure.CONNECT or failure is Failure.CONNECT_TIMEOUT):
        error = _away(exchange, pool)
    if error is None:
        timed_out = failure is Failure.SILENT or failure is Failure.CONNECT_TIMEOUT
        error = GatewayError("upstream_timeout" if timed_out else "bad_gateway", source=Source.UPSTREAM)
    error.detail = exchange.detail
    if error.retry_after_s is None and error.source is Source.UPSTREAM:
        error.retry_after_s = exchange.gateway.retry_after_s  # (as who comes a moment later is told)
    exchange.fail(error)


def _again(exchange: ExchangeState, pool: Pool, fresh: int, counted: bool) -> bool:
    """The same engine is asked once more; False where it has no room for that, or is not his. ``fresh``: over which connection
    (see ``upstream.pool``). ``counted``: that was the one free replay. Raises GatewayError."""
    if given_away(exchange, pool):
        return False
    if counted:
        exchange.tries = exchange.tries.again()
    exchange.gateway.stats.replays_total += 1
    # It may have been its breaker's probe: it still is, or two would be out.
    now = monotonic()
    call = _call(exchange, pool, pool.engine.breaker.admit(now) == PROBE)
    try:
        connected = call.open(now, UPGRADE if exchange.session is not None else fresh)
    except GatewayError as error:
        call.released()
        if not error.retryable:
            raise
        return False
    exchange.move(DIALS)
    if connected:
        call.send(now)
    return True


def _goes_on(exchange: ExchangeState, step: Step, pool: Pool) -> bool:
    """Take ``step`` to another engine than ``pool``; False where the budget has no retry for it. Raises GatewayError."""
    exchange.tries = exchange.tries.tried(pool)
    if step is Step.BAR:
        exchange.gateway.stats.quarantined += 1
        raise GatewayError("quarantined", source=Source.UPSTREAM, detail=exchange.detail)
    if step is Step.NEXT:
        # Nothing was sent: this is no second try, and costs no engine anything.
        exchange.gateway.stats.failovers_total += 1
        exchange.move(DIALS)  # (it was sent: another engine's connection may be there already, and then it is sent at once)
        ask(exchange)
        return True
    return _retries(exchange)


def _at_hand(exchange: ExchangeState) -> bool:
    """Whether the whole request can be sent again."""
    return exchange.upload is None or exchange.upload.whole or not exchange.upload.begun


def _retries(exchange: ExchangeState) -> bool:
    """Send the request once more, at the cost of the budget of all; False where that is spent. (Where it goes on to another
    model: that it does at once then.)"""
    gateway = exchange.gateway
    if not gateway.budget.withdraw(monotonic()):
        gateway.stats.retries_refused += 1
        return False
    exchange.tries = exchange.tries.retried()
    gateway.stats.retries_total += 1
    gateway.stats.failovers_total += 1
    _back_off(exchange, exchange.tries.retries)
    return True


def _back_off(exchange: ExchangeState, time: int) -> None:
    """An engine is asked after a short wait, longer each ``time``, so that many retries do not come as one wave."""
    exchange.move(BACKS_OFF)
    wait_s = backoff_s(time, random())  # noqa: S311 - spreads retries, guards nothing
    exchange.gateway.later(exchange, wait_s)


def _at_once(exchange: ExchangeState) -> None:
    """An engine is asked in the next turn of the loop."""
    exchange.move(BACKS_OFF)
    exchange.gateway.later(exchange, 0.0)


def asks_another(exchange: ExchangeState, status: int) -> bool:
    """Whether another engine is asked instead of passing this answer on, or another model's."""
    if exchange.trace is not None:
        exchange.trace.refused(status)
    if exchange.home is not None:
        return False  # (no other has what it speaks of)
    moves = status >= 429 and falls_back(exchange, FAILURE)
    retried = status in exchange.gateway.retry_statuses
    if (retried or moves) and _asks_one_more(exchange, status, moves):
        return True
    call = exchange.call
    assert call is not None
    if not _elsewhere(exchange, CONTEXT if status < 429 else FAILURE):
        return False
    _judge(call, status)
    call.leave()
    exchange.detail = f"{call.pool.engine.name}: answered {status}"
    _at_once(exchange)
    return True


def _asks_one_more(exchange: ExchangeState, status: int, moves: bool) -> bool:
    """Whether another engine for the same model is asked, by the retry policy, or (``moves``) before another model is."""
    gateway = exchange.gateway
    call = exchange.call
    assert call is not None
    engine = call.pool.engine
    tries = exchange.tries.tried(call.pool)
    if not _at_hand(exchange) or not may_retry(gateway.rules, exchange.tries, moves):
        return False
    if not another(_group(exchange), tries) or not _retries(exchange):
        return False
    exchange.tries = exchange.tries.tried(call.pool)
    _judge(call, status)
    call.leave()
    exchange.detail = f"{engine.name}: answered {status}"
    return True


def _judge(call: Call, status: int) -> None:
    """Its engine's answer counts as ``status``, and is not passed on."""
    if blames(status, False):
        call.failed(ERROR)
    else:
        call.released()


def asks_for_less(exchange: ExchangeState) -> bool:
    """Whether the engine is asked again, for a shorter answer: its refusal may be of a length that the client did not name.

    (vLLM, and TGI by 422, refuse a maximum for which the prompt leaves no room, and would have cut an answer without one.)
    """
    facts = exchange.facts
    gateway = exchange.gateway
    call = exchange.call
    assert call is not None
    if facts is None or facts.token_limit >= 0 or exchange.bound <= gateway.default_cost or not _at_hand(exchange):
        return False
    exchange.tries = exchange.tries.lowered(exchange.bound)
    exchange.bound = gateway.default_cost
    call.released()
    call.leave()
    _at_once(exchange)
    return True
