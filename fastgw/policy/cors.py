"""Cross-origin access for browsers (WHATWG Fetch §3.2); off unless origins are configured.

Credentials mode is never allowed: keys travel in ``Authorization``, which needs no cookies.
"""

from __future__ import annotations

from fastgw.config import Config
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter

MAX_AGE_S = 600


class Cors(Filter):
    """Answers preflights and adds ``access-control-allow-origin`` for the configured origins (``*`` = any)."""

    name = "cors"

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    @classmethod
    def from_config(cls, config: Config) -> Cors | None:
        return cls(tuple(config.cors_origins)) if config.cors_origins else None

    def _allowed(self, exchange: Exchange) -> bytes:
        own = exchange.head.own
        origin = own.get(b"origin") if own is not None else None
        if origin is None or not (self._any or origin in self._origins):
            return b""
        if self._any:
            return b"access-control-allow-origin: *\r\n"
        return b"access-control-allow-origin: %b\r\nvary: Origin\r\n" % origin

    def on_head(self, exchange: Exchange) -> None:
        allowed = self._allowed(exchange)
        if allowed:
            exchange.extra_head += allowed + b"access-control-expose-headers: x-request-id, retry-after, server-timing\r\n"

    def preflight(self, exchange: Exchange) -> bytes:
        """The lines that answer a preflight request."""
        allowed = self._allowed(exchange)
        if not allowed:
            return b""
        asked = (exchange.head.own or {}).get(b"access-control-request-headers", b"authorization, content-type")
        lines = b"access-control-allow-methods: GET, POST, OPTIONS\r\n"
        return allowed + lines + b"access-control-allow-headers: %b\r\naccess-control-max-age: %d\r\n" % (asked, MAX_AGE_S)
