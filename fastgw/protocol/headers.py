"""Which fields are whose: the name sets both parsing paths use, and whom a forwarded address comes from.

The sets are derived from the one table that the fast scanner reads, so that the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from fastgw.accel import fields

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network  # a millisecond of the start that only those behind proxies pay

    Network = IPv4Network | IPv6Network

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"http2-settings")
)  # fmt: skip
"""Fields that concern one connection (RFC 9110 §7.6.1), whether or not ``Connection`` nominates them."""

FRAMING: Final = fields.FRAMING
"""Fields that decide where a message ends or whom it is for."""

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization"))
"""A client's credentials: read here, never forwarded."""

OWNED: Final = frozenset(
    name for name, kind in fields.FIELDS.items() if kind == fields.OWN and name not in CREDENTIALS
)
"""Fields that the gateway writes itself; a client's are read, and replaced."""

FORBIDDEN_TRAILERS: Final = frozenset(
    name for name, kind in fields.FIELDS.items() if kind not in (fields.KEEP, fields.NOTED)
) | {b"set-cookie", b"content-encoding", b"content-range", b"www-authenticate", b"cache-control"}
"""Fields that must not come in a trailer section (RFC 9110 §6.5.1): framing, routing, authentication, and our own."""

_CONTROLS: Final = frozenset((b"age", b"expires", b"location", b"retry-after", b"vary", b"warning", b"trailer"))
"""Fields by which a response is handled before its body is read: they come too late behind it."""

WS_KEY: Final = b"openai-insecure-api-key."
"""How browsers, which cannot set headers, send a key on a WebSocket: as one of the subprotocols they offer. Letters in any
case: what an engine would take for a key must not reach it."""

MAX_HOPS: Final = 32
"""How many addresses of ``X-Forwarded-For`` are looked at, from the right."""


def forbidden_trailer(name: bytes) -> bool:
    """Whether a client's trailer of that name (lower case) could change framing, routing or identity."""
    return name.replace(b"_", b"-") in FORBIDDEN_TRAILERS or name.startswith(b"x-forwarded-")


def passes_behind(name: bytes) -> bool:
    """Whether an engine's trailer of that name (lower case) goes down to a client."""
    return fields.response_kind(name) == fields.KEEP and not forbidden_trailer(name) and name not in _CONTROLS


def websocket_key(offered: bytes) -> bytes | None:
    """The key among the subprotocols that a client offers; None when there is none, or more than one."""
    found = [protocol for protocol in _protocols(offered) if protocol.lower().startswith(WS_KEY)]
    return found[0][len(WS_KEY) :] or None if len(found) == 1 else None


def handshake_lines(own: dict[bytes, bytes], secret: Callable[[bytes], bool]) -> bytes:
    """The fields of a WebSocket handshake as an engine gets them (RFC 6455 §4.1): all that the client sent, but for
    subprotocols that carry a key, or are one (``secret`` says so of a text), and for extensions, which would have the frames
    come compressed: what they say of tokens is read."""
    nominated = {option.strip(b" \t").lower() for option in own.get(b"connection", b"").split(b",")}
    lines = []
    for name, value in own.items():
        if not name.startswith(b"sec-websocket-") or name in nominated or name == b"sec-websocket-extensions":
            continue
        if name == b"sec-websocket-protocol":
            value = b", ".join(
                [one for one in _protocols(value) if not one.lower().startswith(WS_KEY) and not secret(one)]
            )
            if not value:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def _protocols(offered: bytes) -> list[bytes]:
    return [protocol for one in offered.split(b",") if (protocol := one.strip(b" \t"))]


def _address(hop: str) -> str | None:
    """The address in one element of ``X-Forwarded-For``: brackets and a port are allowed around it."""
    hop = hop.strip(" \t")
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    from ipaddress import ip_address

    try:
        return str(ip_address(hop))
    except ValueError:
        return None


def networks_of(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """The networks that were found well-formed."""
    if not cidrs:
        return ()
    from ipaddress import ip_network

    return tuple([ip_network(cidr, strict=False) for cidr in cidrs])


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Whether ``address`` lies in one of the ``trusted`` networks; a textual non-address never does."""
    from ipaddress import ip_address

    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return any(ip in net or (mapped is not None and mapped in net) for net in trusted)


def client_ip(peer: str, xff: bytes | None, trusted: Sequence[Network]) -> str:
    """Whom a request comes from: the socket's peer, or the rightmost untrusted hop when the peer is a trusted proxy.

    Each hop vouches only for the one it names, so the walk stops at the first address that is not trusted, at one that
    is none, and after :data:`MAX_HOPS`.
    """
    if not xff or not trusted or not is_trusted(peer, trusted):
        return peer
    last = peer
    # Only the end of the list can matter; a hop is at most about 60 characters.
    hops = xff[-MAX_HOPS * 64 :].decode("latin-1").split(",")
    if len(xff) > MAX_HOPS * 64:
        hops = hops[1:]
    for hop in reversed(hops[-MAX_HOPS:]):
        address = _address(hop)
        if address is None:
            return last
        last = address
        if not is_trusted(address, trusted):
            return address
    return last


def forwarded_for(peer: str, xff: bytes | None, trusted: Sequence[Network]) -> bytes:
    """The ``X-Forwarded-For`` value to send on: the peer, after the list it is trusted to have written."""
    if not xff or not trusted or not is_trusted(peer, trusted):
        return peer.encode("ascii", "replace")
    hops = [address for hop in xff.decode("latin-1").split(",")[-(MAX_HOPS - 1) :] if (address := _address(hop))]
    return ", ".join([*hops, peer]).encode("ascii", "replace")
