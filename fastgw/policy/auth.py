"""Bearer keys: who may use the gateway.

Only SHA-256 digests are kept and compared. The look-up is a dictionary keyed by the digest of what the client sent:
its time depends on that digest, which nobody can steer towards a stored one, and not on the stored keys.
"""

from __future__ import annotations

from fastgw.accel.hashing import digest
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import TUNNEL
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.protocol.headers import websocket_key

KEY_ID_CHARS = 12  # of the digest in hex: names a key in logs without being usable as one


class Auth(Filter):
    """Refuses requests without a known key with 401."""

    name = "auth"

    def __init__(self, digests: tuple[bytes, ...]) -> None:
        self._ids = {one: one.hex()[:KEY_ID_CHARS] for one in digests}

    @classmethod
    def from_config(cls, config: Config) -> Auth | None:
        return cls(tuple(config.api_key_digests)) if config.api_key_digests else None

    def on_head(self, exchange: Exchange) -> None:
        if not exchange.endpoint.auth:
            return
        credential = exchange.head.credential
        if credential is None and exchange.endpoint.mode is TUNNEL:
            credential = websocket_key((exchange.head.own or {}).get(b"sec-websocket-protocol", b""))
        if credential is None:
            raise GatewayError("unauthorized")
        key_id = self._ids.get(digest(credential))
        if key_id is None:
            raise GatewayError("unauthorized", "The API key is not valid.")
        exchange.key_id = key_id
