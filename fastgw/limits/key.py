"""One key as the operator has set it: who it is, what it may use, and how much.

Owns: :class:`KeyRecord`, which the store keeps, the admin API shows and the data plane turns into an account. It holds
digests only: the key itself is shown once, when it is made, and kept nowhere.
"""

from __future__ import annotations

import msgspec

PRIORITIES = ("high", "normal", "low")
"""The classes of the queue, the first served first."""

ON_EXHAUSTED = ("refuse", "cut")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key. None where a limit is the gateway's own default, 0 where there is no limit. Times are Unix seconds, 0 = never.

    ``previous_digest`` is valid until ``previous_until``: the grace of a rotation. ``revision`` grows with every change in
    the store. ``deleted``: only the trace that there was one.
    """

    id: str
    digest: bytes
    name: str = ""
    tenant: str = ""  # "" = the key is a tenant of its own
    created_at: float = 0.0
    expires_at: float = 0.0
    disabled: bool = False
    requests_per_minute: int | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    daily_tokens: int | None = None
    concurrency: int | None = None
    priority: str | None = None
    on_exhausted: str | None = None
    models: tuple[str, ...] = ()  # empty = all
    networks: tuple[str, ...] = ()  # CIDR; empty = from anywhere
    previous_digest: bytes = b""
    previous_until: float = 0.0
    revision: int = 0
    deleted: bool = False


UsageRow = tuple[str, int, int, int, int, int]
"""(key id, day, prompt tokens, completion tokens, requests, of the tokens those that were estimated): totals of that day,
which is counted in days since 1970-01-01 UTC."""
