"""Keys: who may use the gateway, from where, until when, and for which models.

Only SHA-256 digests are kept and compared. The look-up is a dictionary keyed by the digest of what the client sent:
its time depends on that digest, which nobody can steer towards a stored one, and not on the stored keys.
"""

from __future__ import annotations

from time import time

from fastgw.accel.hashing import digest
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import TUNNEL
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.limits.account import Account
from fastgw.protocol.headers import websocket_key
from fastgw.protocol.openai import refuse_other_models


class Auth(Filter):
    """Refuses requests without a good key with 401, and those that their key does not cover with 403."""

    __slots__ = ()
    name = "auth"

    @classmethod
    def from_config(cls, config: Config) -> Auth:
        return cls()

    def on_head(self, exchange: Exchange) -> None:
        if not exchange.endpoint.auth:
            return
        accounts = exchange.gateway.accounts
        if not accounts.required:
            exchange.account = accounts.anonymous
            return
        credential = exchange.head.credential
        if credential is None and exchange.endpoint.mode is TUNNEL:
            credential = websocket_key((exchange.head.own or {}).get(b"sec-websocket-protocol", b""))
        if credential is not None:
            given = digest(credential)
            account = accounts.find(given)
        else:
            # A certificate is as good as a key: whoever shows it has proven to hold what belongs to it.
            given = exchange.client.spoken.certificate
            if not given:
                exchange.gateway.stats.auth_failures += 1
                raise GatewayError("unauthorized")
            account = accounts.find_certificate(given)
        if account is not None and given == account.previous_digest and time() >= account.previous_until:
            account = None  # from before a rotation: dropped soon after its time, and refused from that very moment
        if account is None:
            exchange.gateway.stats.auth_failures += 1
            raise GatewayError("unauthorized", f"The {'client certificate' if credential is None else 'API key'} is not valid.")
        exchange.key_id = account.id
        if account.stored:
            self._check(exchange, account)
        exchange.account = account

    @staticmethod
    def _check(exchange: Exchange, account: Account) -> None:
        """What a key from the store may have beside its digest. (When it expires, heads are judged anew.)"""
        refused = ""
        if account.disabled:
            refused = "The API key is disabled."
        elif account.expires_at and time() >= account.expires_at:
            refused = "The API key has expired."
        if refused:
            exchange.gateway.stats.auth_failures += 1
            raise GatewayError("unauthorized", refused)
        if not account.allows(exchange.client_ip):
            exchange.gateway.stats.auth_failures += 1
            raise GatewayError("forbidden", "This key may not be used from this address.")

    def on_route(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or account.models is None:
            return
        if exchange.model not in account.models:
            self._unlisted(exchange, account)
        if exchange.facts is not None:
            refuse_other_models(exchange.body, account.models)

    @staticmethod
    def _unlisted(exchange: Exchange, account: Account) -> None:
        """Raises GatewayError for a model that a key does not list, unless it may use that all the same."""
        if exchange.gateway.table.deployed is not None:
            from fastgw.policy.deployments import may_use

            if may_use(exchange, account):
                return
        responses = exchange.gateway.responses if exchange.endpoint.by_id and not exchange.model else None
        if responses is not None and responses.owned(exchange):
            return  # (of what it has made itself it may have all, where no model is named)
        message = "This key may not use this model; GET /v1/models lists those it may."
        raise GatewayError("forbidden", message, param="model")
