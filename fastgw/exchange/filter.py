"""A policy's face towards the exchanges: which hooks there are, and when each is called."""

from __future__ import annotations


class Filter:
    """A policy: subclasses define the hooks they need, and a hook that is not there costs nothing.

    ``on_origin(exchange)`` first of all, once for each new head: what every answer to it carries, refusals included.
    ``on_arrival(exchange)`` for each request, before anything is judged. ``on_head(exchange)`` after that, where the verdict
    depends on the head, the peer and the configuration alone: it holds for all later requests with the same head on the
    connection, and is not asked for again. ``on_request`` after that, for each request; ``on_body`` when the body is whole;
    ``on_route`` before the first attempt; ``rewrite(exchange, engine, body)`` for each attempt, ``on_finish(exchange,
    outcome)`` exactly once. A hook refuses by raising GatewayError; what it takes it gives back in ``on_finish``, or by a
    guard: ``exchange.guards``.

    Three more are asked for a verdict, or told. ``on_full(exchange)``: every engine that is left for a request has no room;
    True = it waits now. ``on_allowance(exchange)``: a stream has used the tokens that it was given; True = it has more now.
    ``on_room()``: an engine may have room again.
    """

    __slots__ = ()

    name = ""
