"""Memory that several processes have in common, one at a time: its words, its lock, and what a process knows of one record
there.

Owns: the mapping of an anonymous file, handed on by its descriptor, and the lock of all that is in it. The lock goes with
whoever holds it: the kernel releases it where a process ends, however it does. (Here it is a lock of records of that file; the
compiled twin has a robust mutex in the first words, so all processes of a gateway run the same twin.) Must never: know what the
words mean. """

from __future__ import annotations

import fcntl
from typing import Any, Final

LOCK_WORDS: Final = 16
"""At the beginning, of 8 bytes each: the lock's, in the compiled twin."""


class Pages:
    """The words of the file ``fd``, ``size`` of them, as signed numbers of 64 bits. ``fresh``: it is new, and so is its
    lock."""

    __slots__ = ("_fd", "_map", "_whole", "words")

    def __init__(self, fd: int, size: int, fresh: bool) -> None:
        import mmap  # (no part of a start)

        self._fd = fd
        self._map = mmap.mmap(fd, size * 8)
        self._whole = memoryview(self._map)
        self.words = self._whole.cast("q")

    def lock(self) -> None:
        """Until :meth:`unlock` no other process has it. It is not to be locked again by the one that has it."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, LOCK_WORDS * 8)

    def unlock(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, LOCK_WORDS * 8)

    def settle(self) -> None:
        """What was written before is there before what is written from now on."""

    def close(self) -> None:
        self.words.release()
        self._whole.release()
        self._map.close()


class Record:
    """One process's view of a record: whose it is, by a hash of its name (``high``, ``low``), where it is (``at``, by what
    stands at ``entry``), which version of it this process has ``seen``, and what of its sums it has told of so far.

    ``crowd``: it is one that all share for which there is no room. ``inside``: it is in the section that runs.
    """

    __slots__ = (
        "at", "crowd", "day", "entry", "high", "inflight", "inside", "kind", "low", "open_requests", "open_tokens", "region",
        "requests", "reserved", "seen", "tokens",
    )  # fmt: skip

    def __init__(self, region: Any, kind: str, high: int, low: int) -> None:
        self.region = region
        self.kind = kind
        self.high = high
        self.low = low
        self.at = 0
        self.entry = 0
        self.seen = 0
        self.crowd = False
        self.inside = False
        self.inflight = 0
        self.reserved = 0
        self.open_requests = 0
        self.open_tokens = 0
        # The very ones of which these were told: what is held of one that is no more comes back to nobody.
        self.requests: Any = None
        self.tokens: Any = None
        self.day: Any = None
