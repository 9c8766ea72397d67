"""Cross-origin access for browsers (WHATWG Fetch §3.2); off unless origins are configured.

What it says stands on every answer to a head that could be read, refusals of whatever kind included: a page that may not
read an error knows nothing. Credentials mode is never allowed: keys travel in ``Authorization``, which needs no cookies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastgw.accel.fields import OURS
from fastgw.config import Config
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter

MAX_AGE_S: Final = 600
LIMITS: Final = tuple(
    f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
"""The fields that tell what is left of a key's limits."""
BUDGETS: Final = tuple(f"x-budget-{what}" for what in ("limit", "period", "remaining", "warning"))


class Origins:
    """The origins that pages may come from: as configured, ``*`` = any."""

    __slots__ = ("_names", "any")

    def __init__(self, origins: Sequence[str]) -> None:
        self.any = "*" in origins
        self._names = frozenset([origin.encode() for origin in origins])

    def named(self, origin: bytes) -> bool:
        return self.any or origin in self._names


class Cors(Filter):
    """Answers preflights and adds ``access-control-allow-origin`` for the configured origins."""

    __slots__ = ("_lines", "_origins")
    name = "cors"

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        ours = [name.decode() for name in OURS - {b"x-accel-buffering"}]
        shown = ", ".join(sorted([*ours, "retry-after", *LIMITS, *BUDGETS]))
        self._lines = b"access-control-expose-headers: %b\r\n" % shown.encode()

    @classmethod
    def from_config(cls, config: Config) -> Cors | None:
        return cls(Origins(config.cors_origins)) if config.cors_origins else None

    def after(self, before: Filter, config: Config) -> Filter:
        return self

    def _allowed(self, exchange: Exchange) -> bytes:
        own = exchange.head.own
        origin = own.get(b"origin") if own is not None else None
        if origin is None or not self._origins.named(origin):
            return b""
        return b"access-control-allow-origin: %b\r\n" % (b"*" if self._origins.any else origin)

    def on_origin(self, exchange: Exchange) -> None:
        allowed = self._allowed(exchange)
        if allowed:
            exchange.extra_head += allowed + self._lines
        if not self._origins.any:
            # (Whoever asked: a cache that has kept what one without an origin was answered would refuse the next by it.)
            exchange.extra_head += b"vary: Origin\r\n"

    def preflight(self, exchange: Exchange) -> bytes:
        """The further lines that answer a preflight request."""
        if not self._allowed(exchange):
            return b""
        asked = (exchange.head.own or {}).get(b"access-control-request-headers", b"authorization, content-type")
        methods = b"access-control-allow-methods: %b\r\n" % exchange.endpoint.allow(exchange.gateway.accounts.required).encode()
        return methods + (
            b"access-control-allow-headers: %b\r\naccess-control-max-age: %d\r\n" % (asked, MAX_AGE_S)
        )
