"""Responses that engines keep: whoever goes on from one, reads it or ends it is answered by the engine that made it.

An answer to ``POST /v1/responses`` has an id, by which a later request names it (``previous_response_id``, or a path below
``/v1/responses/``). vLLM and others keep it in their own memory: any other engine answers 404.

Owns: what an id looks like in a request and in an answer, and which engine has it, for as long and of as many as sessions are
remembered (``session_ttl_s``, ``session_table``). Must never: let a key find what another's request has made; hold an answer
up; cost anything where nothing is asked of these paths. Where the engine is not there, or nothing is known, the request goes
where any would, and what that engine says is the truth.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastgw.accel.bodies import span_of
from fastgw.accel.members import UNCOUNTED
from fastgw.exchange.endpoints import BELOW_RESPONSES, JSON, MAX_ID_BYTES
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.upstream.seats import Seat, Seats
from fastgw.upstream.table import Group

PREVIOUS: Final = "previous_response_id"
_PREVIOUS: Final = 1 << UNCOUNTED.index(PREVIOUS)
MOST_READ_BYTES: Final = 4096
"""Of an answer, in which its id is looked for: it stands before all that is long."""
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\]{1,%d})"' % MAX_ID_BYTES).search


class Responses:
    """Those of a gateway."""

    __slots__ = ("_seats",)

    def __init__(self) -> None:
        self._seats: Seats | None = None

    def home(self, exchange: ExchangeState, group: Group) -> Group:
        """Of ``group`` the engine alone that has what ``exchange`` names; all of it where that one takes no requests, nothing
        is named, or nothing is known of it."""
        seats = self._seats
        told = _named(exchange) if seats is not None and len(group.pools) > 1 else b""
        if seats is None or not told:
            return group
        hashed = hash((told, exchange.key_id))
        seat = seats.part(hashed).seat(exchange.key_id, hashed)
        if seat is None or monotonic() >= seat.until:
            return group
        homes = group.notes.get("responses")
        if homes is None or homes.of is not exchange.gateway.config:
            homes = group.notes["responses"] = _Homes(group, exchange.gateway.config)
        alone: Group | None = homes.alone(seat.name)
        if alone is None:
            return group
        engine = alone.pools[0].engine
        return alone if engine.usable() or engine.full() else group

    def made(self, exchange: ExchangeState, told: bytes) -> None:
        """The engine that answers ``exchange`` now has a response of this id."""
        call = exchange.call
        assert call is not None
        config = exchange.gateway.config
        if self._seats is None:
            self._seats = Seats(config.session_table)
        key = exchange.key_id
        hashed = hash((told, key))
        part = self._seats.part(hashed)
        if part.seat(key, hashed) is not None:
            part.drop(key, hashed)
        seat = Seat(call.pool.engine.name, monotonic() + config.session_ttl_s)
        part.put(key, hashed, seat, self._seats.share(config.session_table))

    def reader(self, exchange: ExchangeState) -> Reader | None:
        """Who looks for an id in its answer, which is a good one; None = it is of none of these paths."""
        path = exchange.head.path
        return Reader(self, exchange) if path == BELOW_RESPONSES[:-1] or path.startswith(BELOW_RESPONSES) else None


class Reader:
    """Reads the first bytes of an answer."""

    __slots__ = ("_before", "_exchange", "_responses")

    def __init__(self, responses: Responses, exchange: ExchangeState) -> None:
        self._responses = responses
        self._exchange = exchange
        self._before = b""

    def feed(self, data: bytes) -> bool:
        """Look at the next piece; True = it need see no more."""
        text = self._before = (self._before + data)[:MOST_READ_BYTES]
        found = _ID(text)
        if found is not None:
            self._responses.made(self._exchange, found[1])
        return found is not None or len(text) == MOST_READ_BYTES


class _Homes:
    """Each engine of a group as one of its own: who waits for it waits for nobody else. ``of``: the settings that its lanes go
    by."""

    __slots__ = ("_alone", "_group", "of")

    def __init__(self, group: Group, of: Any) -> None:
        self.of = of
        self._group = group
        self._alone: dict[str, Group] = {}

    def alone(self, name: str) -> Group | None:
        found = self._alone.get(name)
        if found is None:
            pool = next((pool for pool in self._group.pools if pool.engine.name == name), None)
            if pool is not None:
                found = self._alone[name] = Group((pool,))
                found.part = f"{self._group.part} at {name}"
        return found


def _named(exchange: ExchangeState) -> bytes:
    """The id of the response that a request speaks of; empty = of none."""
    if exchange.endpoint.mode is not JSON:
        path = exchange.head.path
        return path[len(BELOW_RESPONSES) :].partition(b"/")[0] if path.startswith(BELOW_RESPONSES) else b""
    facts = exchange.facts
    if facts is None or not facts.uncounted & _PREVIOUS:
        return b""
    start, end = span_of(exchange.body, PREVIOUS, facts)
    value = exchange.body[start:end] if 2 < end - start <= MAX_ID_BYTES + 2 else b""
    return value[1:-1] if value[:1] == b'"' else b""
