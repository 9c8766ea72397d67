"""Responses that engines keep: whoever goes on from one, reads it or ends it is answered by the engine that made it.

An answer to ``POST /v1/responses`` has an id, by which a later request names it (``previous_response_id``, or a path below
``/v1/responses/``). vLLM and others keep it in their own memory: any other engine answers 404. Several may be one
``conversation``, which is where it was answered first.

Owns: what an id looks like in a request and in an answer, which engine has it and whose it is, for as long and of as many as
sessions are remembered (``session_ttl_s``, ``session_table``). Must never: let a key have what is known to be another's; hold
an answer up; cost anything where nothing is asked of these paths. Where the engine has gone by itself and may be back, it
is waited for (``upstream.absent``); where it has gone for good, or nothing is known, the request goes where any would, and what
that engine says is the truth.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.bodies import span_of
from fastgw.accel.members import UNCOUNTED, members, misnamed
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import BELOW_RESPONSES, MAX_ID_BYTES
from fastgw.exchange.plan import keeper_away
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.upstream.pool import Pool
from fastgw.upstream.seats import Part, Seat, Seats
from fastgw.upstream.target import Engine

PREVIOUS: Final = "previous_response_id"
CONVERSATION: Final = "conversation"
_PREVIOUS: Final = 1 << UNCOUNTED.index(PREVIOUS)
_CONVERSATION: Final = 1 << UNCOUNTED.index(CONVERSATION)
_A_CONVERSATION: Final = b"\0"  # before its id, which may be called as a response is
_ESCAPED_BYTES: Final = 6 * MAX_ID_BYTES + 2
_decode_string: Final = msgspec.json.Decoder(str).decode
_OF_ONE: Final = frozenset(("id",))
MOST_READ_BYTES: Final = 4096
"""Of an answer, in which its id is looked for: it stands before all that is long."""
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\]{1,%d})"' % MAX_ID_BYTES).search
# As engines call them, wherever they stand: what the client has said of its own (``metadata``) may have ids too.
_OWN_ID: Final = re.compile(rb'"id"\s*:\s*"(resp_[^"\\]{1,%d})"' % MAX_ID_BYTES).search
_SPARE: Final = 64


class Kept(Seat):
    """Where a response is: a name may become another engine's."""

    __slots__ = ("address",)

    def __init__(self, engine: Engine, until: float) -> None:
        super().__init__(engine.name, until)
        self.address = (engine.host, engine.port, engine.unix_path)

    def at(self, engine: Engine) -> bool:
        """Whether it is there."""
        return engine.name == self.name and (engine.host, engine.port, engine.unix_path) == self.address


class Responses:
    """Those of a gateway. ``_owners``: of each part whose responses are there, and of some that are there no more."""

    __slots__ = ("_owners", "_seats")

    def __init__(self) -> None:
        self._seats: Seats | None = None
        self._owners: dict[Part, dict[int, str]] = {}

    @property
    def seats(self) -> Seats | None:
        """Where they are; None = none was made yet."""
        return self._seats

    def take_over(self, secret: bytes, most: int) -> None:
        """Go on with those of another process (:meth:`put`), which made its hashes with this secret."""
        if self._seats is None:
            self._seats = Seats(most)
        self._seats.secret = secret

    def put(self, key: str, hashed: int, kept: Kept, most: int) -> None:
        """It is there, whatever was known before."""
        assert self._seats is not None
        part = self._seats.part(hashed)
        owners = self._owners.setdefault(part, {})
        owner = owners.get(hashed)
        if owner is not None and part.seat(owner, hashed) is not None:
            part.drop(owner, hashed)
        part.put(key, hashed, kept, self._seats.share(most))
        owners[hashed] = key

    def owned(self, exchange: ExchangeState) -> bool:
        """Whether ``exchange`` names a response that its key is known to have made."""
        return any(self._kept(exchange, told) is not None for told in _named(exchange))

    def refuse_others(self, exchange: ExchangeState) -> None:
        """Raises GatewayError where ``exchange`` names what is known to be another key's."""
        for told in _named(exchange):
            self._kept(exchange, told)

    def home(self, exchange: ExchangeState, pools: tuple[Pool, ...]) -> Pool | None:
        """Of ``pools`` the one whose engine has what ``exchange`` names; None where nothing is named, or known of it.

        :raises GatewayError: it is another key's, or no id; or its engine has gone, and may be back.
        """
        gateway = exchange.gateway
        home: Pool | None = None
        away = ""
        for told in _named(exchange):
            kept = self._kept(exchange, told)
            if kept is not None and home is None:
                home = next((pool for pool in pools if kept.at(pool.engine)), None)
                away = away or gateway.table.absent.engine(kept.name, monotonic())
        if home is None and away:
            raise keeper_away(away, gateway.retry_after_s)
        return home

    def _kept(self, exchange: ExchangeState, told: bytes) -> Kept | None:
        if self._seats is None:
            return None
        hashed = self._seats.told(told)
        part = self._seats.part(hashed)
        owner = self._owners.get(part, {}).get(hashed)
        found = part.seat(owner, hashed) if owner is not None else None
        if not isinstance(found, Kept) or monotonic() >= found.until:
            return None
        if owner != exchange.key_id:
            raise GatewayError("response_not_found")
        return found

    def made(self, exchange: ExchangeState, told: bytes) -> None:
        """The engine that answers ``exchange`` now has a response of this id."""
        call = exchange.call
        assert call is not None
        config = exchange.gateway.config
        if self._seats is None:
            self._seats = Seats(config.session_table)
        key, hashed, now = exchange.key_id, self._seats.told(told), monotonic()
        part = self._seats.part(hashed)
        owners = self._owners.setdefault(part, {})
        owner = owners.get(hashed)
        before = part.seat(owner, hashed) if owner is not None else None
        if before is not None and owner is not None:
            if owner != key and now < before.until:
                return  # (some engines let who asks choose the id: it is whose it was first)
            part.drop(owner, hashed)
        part.put(key, hashed, Kept(call.pool.engine, now + config.session_ttl_s), self._seats.share(config.session_table))
        owners[hashed] = key
        if len(owners) > 2 * part.count + _SPARE:
            self._owners[part] = {one: whose for one, whose in owners.items() if part.seat(whose, one) is not None}

    def reader(self, exchange: ExchangeState) -> Reader | None:
        """Who looks for an id in its answer, which is a good one; None = it makes none. A conversation that it names is where
        it is answered."""
        if exchange.head.path != BELOW_RESPONSES[:-1]:
            return None
        self.converses(exchange)
        return Reader(self, exchange)

    def converses(self, exchange: ExchangeState) -> None:
        """The engine that answers ``exchange`` now has the conversation that it is one of, where it is one of any."""
        told = _conversation_of(exchange)
        if told:
            self.made(exchange, told)


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
        found = _OWN_ID(text) or _ID(text)
        if found is not None:
            self._responses.made(self._exchange, found[1])
        return found is not None or len(text) == MOST_READ_BYTES


def _named(exchange: ExchangeState) -> list[bytes]:
    """The ids of the responses that a request speaks of: by its path, by its body.

    :raises GatewayError: what stands there is no id.
    """
    told = []
    path = exchange.head.path
    if exchange.endpoint.by_id:
        told.append(path[len(BELOW_RESPONSES) :].partition(b"/")[0])
    facts = exchange.facts
    if facts is not None and facts.uncounted & _PREVIOUS:
        start, end = span_of(exchange.body, PREVIOUS, facts)
        if end - start > 2 or exchange.body[start:end] != b'""':
            told.append(_id_in(exchange.body[start : min(end, start + _ESCAPED_BYTES)], PREVIOUS, "response"))
    conversation = _conversation_of(exchange)
    return [*told, conversation] if conversation else told


def _conversation_of(exchange: ExchangeState) -> bytes:
    """The conversation that a request is one of, b"" = of none: it says its id, or an object that does."""
    facts = exchange.facts
    if facts is None or not facts.uncounted & _CONVERSATION:
        return b""
    start, end = span_of(exchange.body, CONVERSATION, facts)
    value = exchange.body[start : min(end, start + MOST_READ_BYTES)]
    if value[:1] == b"{":
        try:
            names, values = members(value, MOST_READ_BYTES)
            value = bytes(values[names.index("id")]) if misnamed(names, _OF_ONE) is None else b""
        except (msgspec.DecodeError, RecursionError, ValueError):
            value = b""
    return _A_CONVERSATION + _id_in(value[:_ESCAPED_BYTES], CONVERSATION, "conversation")


def _id_in(value: bytes, param: str, of: str) -> bytes:
    """The id that a member's value says, for whoever reads JSON: escaped or not, it is one and the same."""
    try:
        told = _decode_string(value)
    except (msgspec.DecodeError, ValueError):
        told = ""
    if not 0 < len(told) <= MAX_ID_BYTES or not told.isascii() or not told.isprintable() or " " in told:
        message = f"`{param}` must be the id of a {of}: up to {MAX_ID_BYTES} visible characters, without blanks."
        raise GatewayError("invalid_parameter", message, param=param)
    return told.encode()
