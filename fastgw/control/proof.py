"""Who may use the admin API: the admin keys, what each may do, and how often somebody may guess.

Owns the digests of the keys (their texts are dropped) and the failed proofs by address. Must never: log a key, say how near a
guess was, or let a flood of guesses lock the operator out.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from fastgw.config import Config
from fastgw.control.routes import Role
from fastgw.limits.meter import address_key

FAILURES: Final = 10  # from one address within FAILURES_S; then it waits
FAILURES_S: Final = 60.0
MAX_ADDRESSES: Final = 1024

THE_KEY: Final = "admin"
"""What ``ADMIN_KEY`` is called in logs."""


class AdminKey(NamedTuple):
    """A key of the admin API: what logs call it, whether it may change things, its SHA-256."""

    name: str
    role: Role
    digest: bytes


def admin_key(name: str, role: str, text: str) -> AdminKey:
    """``role``: read or write."""
    return AdminKey(name, Role.READ if role == "read" else Role.WRITE, sha256(text.encode()).digest())


def keys_of(config: Config) -> list[AdminKey]:
    """The keys that open the admin API, as these settings say."""
    found = [admin_key(THE_KEY, "write", config.admin_key)] if config.admin_key else []
    return found + [admin_key(*entry.split(":", 2)) for entry in config.admin_keys]


class Throttle:
    """Failed proofs by address (IPv6 by /64): a guesser is slowed, and those forgotten who have not failed for longest.

    At most ``MAX_ADDRESSES`` addresses with ``FAILURES`` times each: 1.2 MB at most, measured.
    """

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, address: str, now: float) -> float:
        """How long ``address`` must wait; 0.0 = it may try."""
        times = self._failures.get(address_key(address))
        if times is None or len(times) < FAILURES:
            return 0.0
        return max(0.0, times[0] + FAILURES_S - now)

    def failed(self, address: str, now: float) -> bool:
        """``address`` has failed; True when it must wait from now on."""
        key = address_key(address)
        times = self._failures.pop(key, None)
        if times is None:
            times = deque(maxlen=FAILURES)
            if len(self._failures) >= MAX_ADDRESSES:
                del self._failures[next(iter(self._failures))]
        times.append(now)
        self._failures[key] = times  # the last to have failed stands last
        return self.wait_s(address, now) > 0.0


class Operators:
    """All admin keys. None: the admin API is closed."""

    __slots__ = ("_held",)

    def __init__(self, keys: Sequence[AdminKey]) -> None:
        self._held = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._held)

    def who(self, given: Sequence[str]) -> AdminKey | None:
        """Whose key stands in the ``Authorization`` lines of a request; None = nobody's. Each is compared, in constant time."""
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        digest = sha256(key.strip(" ").encode("utf-8", "surrogateescape")).digest()
        found = [one for one in self._held if hmac.compare_digest(digest, one.digest)]
        return found[0] if found and scheme.lower() == "bearer" else None

    def admit(self, held: AdminKey, role: Role) -> bool:
        """Whether ``held``, which once opened something, still opens what takes ``role``, by whatever name."""
        return any(hmac.compare_digest(held.digest, one.digest) and one.role >= role for one in self._held)

    def owns(self, text: bytes) -> bool:
        """Whether ``text`` is one of the keys: no log may show it."""
        digest = sha256(text).digest()
        return any(hmac.compare_digest(digest, one.digest) for one in self._held)
