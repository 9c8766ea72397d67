"""A policy's face towards the exchanges: which hooks there are, and when each is called."""

from __future__ import annotations


class Filter:
    """A policy: subclasses define the hooks they need, and a hook that is not there costs nothing.

    ``on_head(exchange)`` after the head, where the verdict depends on the head, the peer and the configuration alone: it
    holds for all later requests with the same head on the connection, and is not asked for again. ``on_request`` after
    that, for each request; ``on_body`` when the body is whole; ``on_route`` before the first attempt;
    ``rewrite(exchange, engine, body)`` for each attempt, ``on_finish(exchange, outcome)`` exactly once. A hook refuses by
    raising GatewayError; what it takes it gives back by a guard: ``exchange.guards``.
    """

    __slots__ = ()

    name = ""
