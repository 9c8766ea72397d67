"""What a request takes beside its key: of its tenant, of the model that it asks for, and of its key for that model.

Owns: which of those limits hold for a request, how much of them there is, what of them its answer tells, and the words of a
refusal. Must never: be asked for a key that has none, or tell of a limit that others have as well how much they use of it.

Invariant: limits of a model are of the one that requests go to. A request is judged by that for which it is admitted (an alias
is its model, and so is another name that its engine has for it; a name that stands for several the one that is chosen then, no
name the one that all engines have, if it is one); its tokens count for that which has answered, as money does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fastgw.accel.lines import limit_lines
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import JSON
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.figures import known_as
from fastgw.exchange.state import model_of
from fastgw.limits.account import Account
from fastgw.limits.admission import DAY, OVER_DAY, OVER_MINUTE, REQUESTS, TOKENS, Refusal
from fastgw.limits.meter import Meter
from fastgw.limits.purse import TENANT
from fastgw.limits.scope import MODEL, WHOSE, Scope, Share
from fastgw.limits.scopes import Model
from fastgw.net.clock import micros

FEW: Final = 16
"""Names of models that are looked at for those who name none."""

SHORTER = "ask for a shorter answer, or send a shorter prompt."


def shares_of(exchange: Exchange, account: Account) -> tuple[Share, ...]:
    """Nothing of them is taken yet."""
    gateway = exchange.gateway
    scopes = gateway.accounts.scopes
    model = _model(exchange, account) if scopes.models else ""
    found = scopes.of(account.id, account.joint, model, micros(exchange.at), gateway.today)
    region = gateway.accounts.region
    if region is not None:
        region.bring(found)
    return tuple([Share(scope) for scope in found])


def _model(exchange: Exchange, account: Account) -> str:
    """The one that it goes to; "" where it may not: nobody uses up a model that he is refused."""
    table = exchange.gateway.table
    asked = model_of(exchange)
    if account.models is not None and asked not in account.models:
        if table.deployed is None:
            return ""
        from fastgw.policy.deployments import may_use

        if not may_use(exchange, account):
            return ""
    if table.deployed is not None and asked in table.deployed.classes:
        from fastgw.policy.deployments import placed

        placed(table, exchange, asked)
    model = exchange.substitute or asked
    return known_as(exchange, model, exchange.gateway.accounts.scopes.models) if model else _unnamed(exchange, table.models)


def _unnamed(exchange: Exchange, names: Collection[str]) -> str:
    """The model of a request that names none, to engines that have these: the one that has limits by all of these names. (What
    is passed through, or speaks of a stored response, is no request for a model.)"""
    endpoint = exchange.endpoint
    if len(names) > FEW or not (endpoint.metered or endpoint.mode is JSON or exchange.session is not None):
        return ""
    models = exchange.gateway.accounts.scopes.models
    found: Model | None = None
    for name in names:
        model = models.get(name)
        if model is None or (found is not None and model is not found):
            return ""
        found = model
    return "" if found is None else found.terms.names[0]


def limits_tokens(shares: tuple[Share, ...]) -> bool:
    for share in shares:  # noqa: SIM110 - a function that is compiled has no room for a generator
        if share.scope.tokens is not None or share.scope.day is not None:
            return True
    return False


def day_left(shares: tuple[Share, ...], today: int, left: int) -> int:
    """The least of ``left`` and what they have left of the day; -1 = no limit."""
    for share in shares:
        day = share.scope.day
        if day is not None:
            left = day.left(today) if left < 0 else min(left, day.left(today))
    return left


def minute_left(shares: tuple[Share, ...], now_us: int, left: int) -> int:
    """The same of the minute."""
    for share in shares:
        tokens = share.scope.tokens
        if tokens is not None:
            left = tokens.left(now_us) if left < 0 else min(left, tokens.left(now_us))
    return left


def tell(exchange: Exchange, account: Account, now_us: int, tokens: bool) -> None:
    """Say in the answer's head what is left of the limit that has least left, of requests and of ``tokens``. (Of a model's,
    which all have together, nobody is told: it would say what others do.)"""
    requests, of_tokens = account.requests, account.tokens
    for share in exchange.shares:
        if share.scope.kind != MODEL:
            requests = _tighter(requests, share.scope.requests, now_us)
            of_tokens = _tighter(of_tokens, share.scope.tokens, now_us)
    if requests is not None:
        _tell(exchange, b"requests", requests, now_us)
    if of_tokens is not None and tokens:
        _tell(exchange, b"tokens", of_tokens, now_us)


def _tighter(one: Meter | None, other: Meter | None, now_us: int) -> Meter | None:
    if one is None or (other is not None and other.left(now_us) < one.left(now_us)):
        return other
    return one


def _tell(exchange: Exchange, unit: bytes, meter: Meter, now_us: int) -> None:
    lines = _without(exchange.extra_head, unit)
    exchange.extra_head = limit_lines(lines, unit, meter.rate, meter.left(now_us), meter.reset_us(now_us))


def _without(lines: bytes, unit: bytes) -> bytes:
    """The lines of an answer's head that say nothing of that limit: it was the key's own that they told."""
    begins = lines.find(b"x-ratelimit-limit-%b: " % unit)
    if begins < 0:
        return lines
    ends = lines.index(b"\r\n", lines.index(b"x-ratelimit-reset-%b: " % unit, begins)) + 2
    return lines[:begins] + lines[ends:]


def refused(exchange: Exchange, found: Refusal, scope: Scope, cost: int) -> GatewayError:
    """The refusal by a limit that is not the key's own."""
    stats = exchange.gateway.stats
    if scope.kind == TENANT:
        stats.limited_tenant += 1
    else:
        stats.limited_model += 1
    done, may, whose, _ = WHOSE[scope.kind]
    reason = found.reason
    shown = scope.kind != MODEL
    if reason is OVER_MINUTE or reason is OVER_DAY:
        span = "minute" if reason is OVER_MINUTE else "day"
        most = scope.tokens.burst if span == "minute" and scope.tokens is not None else scope.day.limit if scope.day else 0
        message = f"The request may need {cost} tokens, and in a {span} {may} {most if shown else 'less'}: {SHORTER}"
        return GatewayError("over_limit", message)
    if reason is REQUESTS or reason is TOKENS:
        meter = scope.requests if reason is REQUESTS else scope.tokens
        more = f": more than {meter.rate} per minute" if shown and meter is not None else ""
        return GatewayError("rate_limited", f"Too many {reason} {done}{more}.", retry_after_s=found.wait_s)
    if reason is DAY:
        message = f"Of {whose} tokens for today not as many are left; they come back at midnight UTC."
        return GatewayError("quota_exhausted", message, retry_after_s=found.wait_s)
    message = f"What is left of {whose} tokens for today is reserved by requests under way."
    return GatewayError("quota_reserved", message, retry_after_s=found.wait_s)


def spent(exchange: Exchange) -> bool:
    """Whether the day of one of them is spent, so that a session ends."""
    for share in exchange.shares:
        day = share.scope.day
        if day is not None and day.over(exchange.gateway.today):
            return True
    return False


def settle_shares(exchange: Exchange, account: Account, now_us: int, used: int) -> None:
    """It has used so many tokens: they count for those whose it is now, and what was taken comes back."""
    gateway = exchange.gateway
    scopes = gateway.accounts.scopes
    model = exchange.substitute or model_of(exchange)
    if not model and scopes.models and account.models is None:
        engine = exchange.call.pool.engine if exchange.call is not None else None
        known = (engine.configured_models or engine.discovered_models) if engine is not None else ()
        model = _unnamed(exchange, known or gateway.table.models)
    elif model and scopes.models:
        model = known_as(exchange, model, scopes.models)
    today = gateway.today
    since_us = micros(exchange.routed_at)
    found = scopes.of(account.id, account.joint, model, now_us, today)
    if gateway.accounts.region is not None:
        gateway.accounts.region.bring(found)
    left = list(found)
    for share in exchange.shares:
        if share.scope in left:
            left.remove(share.scope)
            share.settle(today, now_us, since_us, used)
        else:
            share.release(now_us, since_us)
    for scope in left:
        scope.charge(today, now_us, used)
