"""One key as the operator has set it: who it is, what it may use, and how much.

Owns: :class:`KeyRecord`, which the store keeps, the admin API shows and the data plane turns into an account, and what its
fields can be: ``msgspec.convert`` makes none that an account could not take. It holds digests only: the key itself is shown
once, when it is made, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from fastgw.config.money import MOST_AMOUNT
from fastgw.config.names import BudgetPeriod, OnExhausted, Priority
from fastgw.limits.purse import ToldRow
from fastgw.limits.spending import SpentRow

NUMBERS = {
    "requests_per_minute": 10**9,
    "burst": 10**9,
    "tokens_per_minute": 10**11,
    "daily_tokens": 10**15,
    "concurrency": 10**6,
}
"""The limits of a key and the largest value of each: None = the gateway's default, 0 = no limit."""

_Time = Annotated[float, Meta(ge=0.0, le=1e15)]
_Texts = tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...]
_Fingerprints = tuple[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")], ...]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key. None where a limit is the gateway's own default, 0 where there is no limit. Times are Unix seconds, 0 = never.

    ``previous_digest`` is valid until ``previous_until``: the grace of a rotation. ``revision`` grows with every change in
    the store. ``deleted``: only the trace that there was one.
    """

    id: str
    digest: bytes
    name: str = ""
    tenant: str = ""  # "" = the key is a tenant of its own
    created_at: _Time = 0.0
    expires_at: _Time = 0.0
    disabled: bool = False
    requests_per_minute: Annotated[int, Meta(ge=0, le=NUMBERS["requests_per_minute"])] | None = None
    burst: Annotated[int, Meta(ge=0, le=NUMBERS["burst"])] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=0, le=NUMBERS["tokens_per_minute"])] | None = None
    daily_tokens: Annotated[int, Meta(ge=0, le=NUMBERS["daily_tokens"])] | None = None
    concurrency: Annotated[int, Meta(ge=0, le=NUMBERS["concurrency"])] | None = None
    priority: Priority | None = None
    on_exhausted: OnExhausted | None = None
    budget: Annotated[int, Meta(ge=0, le=MOST_AMOUNT)] | None = None  # billionths of the currency
    budget_period: BudgetPeriod | None = None
    models: _Texts = ()  # empty = all
    networks: _Texts = ()  # CIDR; empty = from anywhere
    certificates: _Fingerprints = ()  # of clients, SHA-256 in hexadecimal digits: who shows one needs no text
    previous_digest: bytes = b""
    previous_until: _Time = 0.0
    revision: int = 0
    deleted: bool = False


class Batch(NamedTuple):
    """What was used since the batch before it, to be added to what the store has. ``id`` is no other's: a batch that is handed
    over again, because nobody knows what became of it, is added once. ``told``: which lines of budgets somebody was told of."""

    id: str
    rows: Sequence[SpentRow]
    told: Sequence[ToldRow] = ()


UsageRow = tuple[str, int, int, int, int, int, int, int]
"""(key id, day, prompt tokens, completion tokens, requests, of the tokens those that were estimated, of the prompt's those
that the engine had at hand, of the completion's those that nobody sees): totals of that day, which is counted in days since
1970-01-01 UTC."""
