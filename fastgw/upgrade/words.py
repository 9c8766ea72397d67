"""What two processes say to each other of which one takes the other's place. docs/upgrade.md has the conversation.

Owns: the words, and how they are written (msgpack, an array for each row). Invariant: whoever reads a word that it does not
know takes the other side for another version, and the upgrade does not take place: nothing is guessed.
"""

from __future__ import annotations

from typing import Final

import msgspec

PROTOCOL: Final = 1
"""Of this conversation. Versions that speak another do not hand over to each other: both would have to be right about usage."""

ROWS: Final = 250
"""Of limits in one word, before the loop gets its turn."""


class MeterRow(msgspec.Struct, array_like=True, frozen=True):
    """A meter: as :class:`fastgw.limits.meter.Meter` has it. ``low``: the least debt since something was taken that may come
    back, -1 = nothing may. Times are of the machine's monotonic clock, which both have."""

    debt: int
    at_us: int
    since_us: int
    beyond: int
    lowered_us: int
    low: int


class PurseRow(msgspec.Struct, array_like=True, frozen=True):
    """What a budget has seen in its period, and the last line that was told of."""

    begins: int
    spent: int
    told: int


class ScopeRow(msgspec.Struct, array_like=True, frozen=True):
    """What one scope has used of its limits: a key (``days``: its ledger, as far as the store does not have it), a tenant, a
    model, or a ``name`` (key) of a ``model``. Purses only where no store knows what they have seen."""

    kind: str
    name: str
    model: str
    requests: MeterRow | None
    tokens: MeterRow | None
    days: list[tuple[int, int, int, int, int, int, int, int]]
    money: PurseRow | None
    day: PurseRow | None


class HeldRow(msgspec.Struct, array_like=True, frozen=True):
    """What is under way in a scope, or at an ``engine``: how many requests (``light``: of an engine's, those that take no
    place), and what they have reserved: tokens of the day, money, and, as ``open``, how often something of a minute's."""

    kind: str
    name: str
    model: str
    inflight: int = 0
    light: int = 0
    daily: int = 0
    money: int = 0
    open: int = 0


class SettledRow(msgspec.Struct, array_like=True, frozen=True):
    """A request has ended: of the minutes' tokens ``taken`` of its key's, and by kind of scope in ``shares``, ``since_us`` on,
    ``used`` were used. ``fresh``: it was admitted when its limits were another's already, who knows nothing of it."""

    key: str
    model: str
    since_us: int
    taken: int
    shares: dict[str, int]
    used: int
    fresh: bool


class BreakerRow(msgspec.Struct, array_like=True, frozen=True):
    """An engine's breaker that is not closed, and what the operator has said of it."""

    engine: str
    url: str
    open: bool
    failures: int
    until: float
    dials: bool
    whose: tuple[str, str]
    draining: bool


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The new one, when all that may fail has not."""

    version: str
    pid: int
    protocol: int = PROTOCOL


class Sockets(msgspec.Struct, tag="sockets", frozen=True):
    """Listening sockets, which came before this word: what each is for. ``by``: who had given them, if anybody; else they are
    bound as these settings say."""

    roles: list[str]
    by: str
    listen: dict[str, str]


class Scopes(msgspec.Struct, tag="scopes", frozen=True):
    rows: list[ScopeRow]


class Addresses(msgspec.Struct, tag="addresses", frozen=True):
    rows: list[tuple[str, MeterRow]]


class Engines(msgspec.Struct, tag="engines", frozen=True):
    rows: list[BreakerRow]
    added: list[dict[str, object]] = []


class SeatRow(msgspec.Struct, array_like=True, frozen=True):
    """Where a session is, or a response (``address``: its engine's). Times are of the machine's monotonic clock."""

    key: str
    told: int
    engine: str
    until: float
    address: tuple[str, int, str] | None = None


class Seats(msgspec.Struct, tag="seats", frozen=True):
    """Of ``kind`` sessions or responses, told by hashes that were made with this secret."""

    kind: str
    secret: bytes
    rows: list[SeatRow]


class Booked(msgspec.Struct, tag="booked", frozen=True):
    """Used before the hand-over, and not in the store yet: it is to be written, and counts already."""

    rows: list[tuple[str, str, str, int, int, int, int, int, int, int, int, int]]


class Held(msgspec.Struct, tag="held", frozen=True):
    """What is held now, of those where it is another than was said."""

    rows: list[HeldRow]


class Before(msgspec.Struct, array_like=True, frozen=True):
    """A process that was the gateway before the old one, and has something under way still: what it holds, and what was read
    and not sent of what is said with it. Its line comes as a socket."""

    held: list[HeldRow]
    read: bytes
    unsent: bytes


class Befores(msgspec.Struct, tag="befores", frozen=True):
    rows: list[Before]


class Over(msgspec.Struct, tag="over", frozen=True):
    """All has been said; ``required``: who has no key is refused."""

    required: bool


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """The new one could begin in this moment."""

    addresses: list[str]


class Go(msgspec.Struct, tag="go", frozen=True):
    """From now on the new one is the gateway."""


class Used(msgspec.Struct, tag="used", frozen=True):
    """What requests have used that ended at the old one: rows as of ``limits.spending``. The answer is :class:`Noted`."""

    batch: str
    rows: list[tuple[str, str, str, int, int, int, int, int, int, int, int, int]]


class Settled(msgspec.Struct, tag="settled", frozen=True):
    rows: list[SettledRow]


class Noted(msgspec.Struct, tag="noted", frozen=True):
    """The batch counts at the new one, who will write it down."""

    batch: str


class Hurry(msgspec.Struct, tag="hurry", frozen=True):
    """The new one ends: the old one has so long for what it has under way."""

    seconds: float


Word = (
    Ready | Sockets | Scopes | Addresses | Seats | Engines | Booked | Held | Befores | Over | Taken | Go | Used | Settled
    | Noted | Hurry
)  # fmt: skip

write = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Word)


def read(frame: bytes) -> Word:
    """Raises ``msgspec.MsgspecError`` for what is none of these words."""
    return _decoder.decode(frame)
