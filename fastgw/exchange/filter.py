"""A policy's face towards the exchanges: which hooks there are, and when each is called.

Owns: the hooks, each a method that does nothing, and the choice of those that a policy overrides: what nobody overrides is not
called, and costs nothing. Must never: call a hook itself, or let one stand in a class that nobody would call.
"""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastgw.accel.heads import ResponseHead
    from fastgw.config import Config
    from fastgw.errors import GatewayError
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.state import ExchangeState
    from fastgw.protocol.websocket import Counts
    from fastgw.upstream.target import Engine

WAITS: Final = True
"""What ``on_body`` and ``on_route`` return where the request waits; ``exchange.wake()`` has it go on, at the next filter."""

_OF_LIMITS: Final = ("on_request", "on_turn", "on_body", "on_route", "on_full", "on_allowance", "on_finish")

ALIKE: Final = 0.8
"""A name that shares so much with a hook's is taken for a slip of the pen."""


class Filter:
    """A policy. A subclass overrides the hooks that it needs; they are called in the order of ``policy.ORDER``.

    A hook is called by the loop and never blocks. Unless its text says otherwise it refuses by raising GatewayError, which
    ends the request: the hooks behind it are not called, but every ``on_finish`` is. What it takes is given back there, or by
    a guard (``exchange.guards``). Any other exception is a bug: it is logged, and the client gets a 500. A head is lent: it is
    neither changed nor kept.
    """

    __slots__ = ()

    name = ""
    stays = False  # when its settings are gone: requests under way may need it (:meth:`after` is told those without them)
    limits = False  # it asks, and charges, what keys may use, which other processes may count as well
    splices = False  # its `rewrite` minds `exchange.apart`: fastgw's own

    def after(self, before: Filter, config: Config) -> Filter:
        """The settings are others now: which of the two goes on, this one, made of ``config``, or ``before``, its like that was
        there until now. Requests under way meet it at their next hook; so what knows of any stays, and takes from ``config``
        what it needs. One that only has settings says ``return self``."""
        return before

    # --- the head has been read; in this order
    def on_origin(self, exchange: Exchange) -> None:
        """First of all, once for each new head (as :meth:`on_head`): what stands on every answer to it, refusals included
        (``exchange.extra_head``). Nothing is known yet but the head and the connection's peer."""

    def on_arrival(self, exchange: Exchange) -> None:
        """Each request, before anything is judged."""

    def on_head(self, exchange: Exchange) -> None:
        """Once for each new head: what depends on the head, the peer's address and the configuration alone. The verdict holds
        for later requests with the same head on this connection and, when it has gone, on others from that address; what
        changes it must also raise ``gateway.version``."""

    def on_request(self, exchange: Exchange) -> None:
        """Each request, when its head has been judged; of its body nothing has been read."""

    def preflight(self, exchange: Exchange) -> bytes:
        """Lines of the answer to an OPTIONS request. (The first filter that has any is the only one that is asked.)"""
        return b""

    # --- the request is whole; these two may have it wait
    def on_body(self, exchange: Exchange) -> bool | None:
        """The body is whole, and what is known of it is in ``exchange.facts``. Not called for uploads, which go on as
        they come. May have it wait: see ``on_route``."""

    def on_route(self, exchange: Exchange) -> bool | None:
        """Before the first attempt, once. Chooses engines (``exchange.group``), or restricts them.

        Returns ``WAITS`` where the request waits: then the filter wakes it once (``exchange.wake()``, or before that
        ``gateway.later(exchange, seconds)``), and the walk goes on at the next filter. Meanwhile the client may leave and the
        request's own time may end: ``on_finish`` says so, and who is woken then does nothing. A wait without a timer ends
        after ``MAX_WAIT_S`` (``exchange.exchange``), with a 503.
        """

    # --- each attempt
    def rewrite(self, exchange: ExchangeState, engine: Engine, body: bytes) -> bytes:
        """The body as ``engine`` gets it, of the body that the filter before has returned. Not called for uploads that are
        passed on as they come; called once for all requests that share a call, with the first of them, and once more
        for a copy to a mirror. Must not raise."""
        return body

    def on_attempt(self, exchange: Exchange, engine: Engine) -> None:
        """A connection to ``engine`` is there, and nothing of the request has been sent on it. Also before it is sent again, to
        the same engine or another. Raising ends the request; it is no fault of the engine's."""

    def on_full(self, exchange: Exchange) -> bool:
        """Every engine that is left for the request has no room. True = it waits now, and goes on with an attempt; the first
        filter that says so is the last that is asked."""
        return False

    def on_crowded(self, exchange: Exchange) -> bool:
        """No engine has room for the request, and it is about to wait, or to be refused. True = something that was under way at
        one of them has been given up for it. Must not raise."""
        return False

    def on_lost(self, exchange: Exchange, why: str) -> bool:
        """No engine of the request's model answers it (``plan.FAILURE``), or one has said that its prompt is too long
        (``plan.CONTEXT``); nothing of an answer has gone down. True = it goes to another model now, whose engines are
        ``exchange.group``, and whose name ``exchange.substitute``; the first filter that says so is the last that is asked."""
        return False

    # --- the answer
    def on_response(self, exchange: Exchange, head: ResponseHead) -> None:
        """An engine's answer that will be passed on: nothing of it has gone down. Lines may be added (``exchange.extra_head``;
        not to an upgrade, nor behind a heartbeat). Raising, or ``exchange.answer``, puts another answer in its place, and the
        engine is left."""

    def on_data(self, exchange: Exchange, data: bytes) -> None:
        """A piece of that answer's body, as its client gets it but without frames, before it goes down. It may be looked at; it
        is not changed, for its length may have been announced. (A stream loses its short way by it: frames are taken apart and
        written anew.)

        Raising ends the answer: with a proper error where nothing of it has gone down yet, which is so for all that came at
        once; else before this piece, as a broken stream ends. Not called for sessions (``on_said``) and for what is answered
        here.
        """

    def on_allowance(self, exchange: Exchange) -> bool:
        """A stream has used the tokens that it was given (``exchange.allowance``). True = it has more now; must not raise."""
        return False

    def on_turn(self, exchange: Exchange) -> None:
        """A session's client asks for one more answer, which is a request (``turns``; ``exchange.at`` is when). The first of
        them is the exchange itself. Raising ends the session."""

    def on_said(self, exchange: Exchange, said: Counts | None) -> bool:
        """A session's engine has said what an answer used; None = the session has ended without any. False = it may not go on;
        every filter is told all the same. Must not raise."""
        return True

    # --- an answer of the gateway's own
    def on_refused(self, exchange: Exchange, error: GatewayError) -> None:
        """``error`` is the answer, and nothing has gone down (or a heartbeat). Lines may be added (``exchange.extra_head``).
        It may have been refused anywhere: what had not been read or chosen yet is not there. Must not raise."""

    # --- the end
    def on_finish(self, exchange: Exchange, outcome: str) -> None:
        """Exactly once for each request, however it ended, and also where this filter has never seen it: whatever it holds is
        given back here. Must not raise: the others still give back what they hold."""

    # --- of no request
    def on_room(self) -> None:
        """An engine may have room again."""


HOOKS: Final = tuple(
    name for name, value in vars(Filter).items() if callable(value) and not name.startswith("_") and name != "after"
)
"""Their names, in the order in which they stand above."""


def hooks(filters: Iterable[Filter], name: str, region: Any = None) -> tuple[Any, ...]:
    """The bound hooks of that name, in the filters' order, of those that override it. Where limits are in a ``region`` that
    other processes have too, what a filter does with them it does alone there."""
    default = getattr(Filter, name)
    found = [(one, getattr(one, name)) for one in filters if getattr(type(one), name) is not default]
    shared = region is not None and name in _OF_LIMITS
    return tuple(_alone(hook, region) if shared and one.limits else hook for one, hook in found)


def _alone(hook: Callable[..., Any], region: Any) -> Callable[..., Any]:
    """``hook``, in a section with what its exchange's key has."""

    def run(exchange: Any, *rest: Any) -> Any:
        account = exchange.account
        if account is None or not account.limited():
            return hook(exchange, *rest)
        region.enter(account, exchange.shares)
        try:
            return hook(exchange, *rest)
        finally:
            region.leave()

    return run


def check(filters: Iterable[Filter]) -> None:
    """Refuse what looks like a hook and would never be called, or could not be.

    :raises TypeError: it says which filter, which name, and what may have been meant.
    """
    for one in filters:
        kind = type(one)
        if not isinstance(one, Filter):
            raise TypeError(f"filter {kind.__name__}: derive it from fastgw.exchange.filter.Filter")
        base = kind.__mro__.index(Filter)
        for at, owner in enumerate(kind.__mro__):
            if owner not in (Filter, object):
                for name, value in vars(owner).items():
                    if at > base and name in HOOKS:
                        raise TypeError(
                            f"filter {kind.__name__}: {owner.__name__}.{name} stands behind Filter's own: put it first"
                        )
                    _check(kind, name, value)
        for name, value in getattr(one, "__dict__", {}).items():
            if name in HOOKS:
                raise TypeError(f"filter {kind.__name__}: {name} must be a method of its class")
            _check(kind, name, value)


def _check(kind: type, name: str, value: object) -> None:
    if name in HOOKS:
        plain = getattr(value, "__func__", value)
        if iscoroutinefunction(plain) or isgeneratorfunction(plain) or isasyncgenfunction(plain) or not callable(value):
            raise TypeError(f"filter {kind.__name__}: {name} must be a plain method")
        return
    if name.startswith("_") or not (callable(value) or name.startswith("on_")):
        return
    close = _like(name)
    if close or name.startswith("on_"):
        meant = f"; {close[0]} is meant?" if close else f": there are {', '.join(HOOKS)}"
        raise TypeError(f"filter {kind.__name__}: {name} is no hook{meant}")


def _like(name: str) -> list[str]:
    """The hook that is spelt most like it, if one nearly is."""
    for hook in HOOKS:
        # No two are more alike than the letters that they have in common; that spares most starts the comparing.
        common = sum([min(name.count(letter), hook.count(letter)) for letter in set(name)])
        if 2 * common >= ALIKE * (len(name) + len(hook)):
            from difflib import get_close_matches

            return get_close_matches(name, HOOKS, 1, ALIKE)
    return []
