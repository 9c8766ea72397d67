"""What a web page may not do with a gateway that asks for no key.

Whoever opens a page lets it send requests from their own machine. Where a key is needed the page has none. Where none is, a
page must not use the engines: not under a name of its own (DNS rebinding; ``Host`` is judged where the gateway listens on
loopback only, for elsewhere anybody may come in any case, or where the operator lists names), and not with what a browser
sends to another origin without asking first (WHATWG Fetch, "CORS-safelisted request-header": a POST whose type a form could
have, and WebSockets).
"""

from __future__ import annotations

import os
from typing import Final

from fastgw.config import Config
from fastgw.config.address import is_loopback
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import TUNNEL
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.policy.cors import Origins
from fastgw.protocol.hosts import HostRule

# What a form, or a page that asks nobody, can say of a body; nothing at all is the fourth.
FORM_TYPES: Final = (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data")


class Browsers(Filter):
    """See the head of this file. Judged once for each head; a first key, or the last, has all heads judged anew."""

    __slots__ = ("_hosts", "_origins")
    name = "browsers"

    def __init__(self, origins: Origins, hosts: HostRule | None) -> None:
        self._origins = origins
        self._hosts = hosts

    @classmethod
    def from_config(cls, config: Config) -> Browsers:
        own_name = os.uname().nodename
        hosts = HostRule(config.allowed_hosts, own_name) if is_loopback(config.host) or config.allowed_hosts else None
        return cls(Origins(config.cors_origins), hosts)

    def after(self, before: Filter, config: Config) -> Filter:
        return self

    def on_head(self, exchange: Exchange) -> None:
        if exchange.gateway.accounts.required:
            return
        head = exchange.head
        hosts = self._hosts
        # (No browser speaks to a Unix socket.)
        if hosts is not None and exchange.client.peer_ip != "unix" and not hosts.allows(head.host):
            raise GatewayError("host_not_allowed", detail=_told(exchange, head.host))
        own = head.own
        origin = own.get(b"origin") if own is not None else None
        if origin is None or self._origins.named(origin):
            return
        if exchange.endpoint.mode is TUNNEL or (head.method == b"POST" and _as_a_form(head.content_type)):
            raise GatewayError("origin_not_allowed", detail=_told(exchange, origin))


def _told(exchange: Exchange, name: bytes) -> str:
    """What the operator may have to list, for the log."""
    return exchange.gateway.shown(exchange, name).decode("latin-1")


def _as_a_form(content_type: bytes | None) -> bool:
    """Whether a page may send a body of this type anywhere, unasked."""
    return content_type is None or content_type.partition(b";")[0].strip(b" \t").lower() in FORM_TYPES
