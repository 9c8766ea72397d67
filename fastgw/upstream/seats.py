"""Which engine has something of use to requests that come later: sessions, or responses that it has stored.

Owns: the table of both, and the rule of who makes room in it. Invariants: it has no more than it has room for; where it is
full, the key that has most gives up what it has not used for longest, so that no key takes the others' places; and no request
pays for all that is there: a dictionary that is full is laid out anew as a whole, which takes a large one tens of
milliseconds, so the table is in parts, each a small one, and chance says in which something is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from os import urandom
from typing import Final

from fastgw.digests import blake2b

AT_ONCE: Final = 64  # sessions that make room for one that comes
PART: Final = 1024
"""Sessions that a part has room for at least, where there is more than one: laid out anew in a fraction of a millisecond, and
large enough that chance fills all of them alike."""
SECRET_BYTES: Final = 16
_TOLD_BYTES: Final = 8
_HIGH: Final = 32


class Seat:
    """Where a session is, and until when it is one."""

    __slots__ = ("name", "until")

    def __init__(self, name: str, until: float) -> None:
        self.name = name
        self.until = until


class Part:
    """Some of a gateway's: ``count`` of them. ``seats`` by keys, and for each by a hash of what tells them (with a secret:
    nobody makes two meet); the one used last stands last, give or take half its time. (What is taken from in front is an
    OrderedDict: a dict would step over all that it has lost there each time.)"""

    __slots__ = ("_most", "_ranks", "count", "seats")

    def __init__(self) -> None:
        self.seats: dict[str, OrderedDict[int, Seat]] = {}
        self.count = 0
        self._ranks: dict[int, OrderedDict[str, None]] = {}  # keys by how many they have: one more or less is a step
        self._most = 0  # that one has

    def seat(self, key: str, told: int) -> Seat | None:
        seats = self.seats.get(key)
        found: Seat | None = seats.get(told) if seats is not None else None
        return found

    def put(self, key: str, told: int, seat: Seat, most: int) -> None:
        """A session that is not here; with it there are ``most`` at the most, or as many less as one call takes away."""
        for _ in range(AT_ONCE):
            if self.count < most:
                break
            greedy = next(iter(self._ranks[self._most]))
            self.drop(greedy, next(iter(self.seats[greedy])))
        seats = self.seats.get(key)
        if seats is None:
            seats = self.seats[key] = OrderedDict()
        seats[told] = seat
        self.count += 1
        self._rank(key, len(seats) - 1, len(seats))

    def drop(self, key: str, told: int) -> None:
        """One that is here is none any more."""
        seats = self.seats[key]
        del seats[told]
        self.count -= 1
        if not seats:
            del self.seats[key]
        self._rank(key, len(seats) + 1, len(seats))

    def used(self, key: str, told: int) -> None:
        """It was the last one."""
        self.seats[key].move_to_end(told)

    def _rank(self, key: str, before: int, now: int) -> None:
        if now:
            if now not in self._ranks:
                self._ranks[now] = OrderedDict()
            self._ranks[now][key] = None
        if before:
            del self._ranks[before][key]
            if not self._ranks[before]:
                del self._ranks[before]
        if now > self._most or self._most not in self._ranks:
            self._most = now


class Seats:
    """All of a gateway, for ``most`` of them. (Where settings change, it keeps its ``parts``.) ``secret``: what hashes are made
    with; another process that is to find the same has the same."""

    __slots__ = ("_mask", "parts", "secret")

    def __init__(self, most: int) -> None:
        count = 1
        while 2 * count * PART <= most:
            count *= 2
        self._mask = count - 1
        self.secret = urandom(SECRET_BYTES)
        self.parts = [Part() for _ in range(count)]

    @property
    def count(self) -> int:
        return sum([part.count for part in self.parts])

    def told(self, text: bytes) -> int:
        """By what ``text`` is known here."""
        return int.from_bytes(blake2b(text, digest_size=_TOLD_BYTES, key=self.secret).digest(), signed=True)

    def all(self) -> Iterator[tuple[str, int, Seat]]:
        """By its key and its hash each, of a key the one used last behind."""
        for part in self.parts:
            for key, seats in part.seats.items():
                for told, seat in seats.items():
                    yield key, told, seat

    def part(self, told: int) -> Part:
        """The one for what is told so. (Not by the bits that a dictionary begins with: those of a part would collide there.)"""
        found: Part = self.parts[told >> _HIGH & self._mask]
        return found

    def share(self, most: int) -> int:
        """How many each part has room for, where all have ``most``."""
        return max(1, most // len(self.parts))
