"""Where a runner's engine is asked: its own address, or one that it names and the operator allows.

Owns: which addresses a runner may have requests sent to. A runner has the token, and no more right than that: it must not have
the gateway ask what only the gateway can reach. Invariants: what comes out is an address, never a name (a name could mean
another address tomorrow); one of a cloud's metadata service never comes out, whatever is allowed; loopback and link-local
addresses only where they are listed; an IPv6 address that stands for an IPv4 one is judged as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from fastgw.config.address import TUNNELS, EngineAddress, parse_engine_url
from fastgw.digests import digest
from fastgw.protocol.runner_words import Register
from fastgw.protocol.runners import Refused

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA: Final = frozenset(map(ip_address, (
    "169.254.169.254", "fd00:ec2::254",  # most clouds; EC2 by IPv6
    "169.254.170.2", "169.254.170.23", "fd00:ec2::23",  # tasks and pods on AWS
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle
    "168.63.129.16",  # Azure's fabric
    "fd20:ce::254",  # Google by IPv6
)))  # fmt: skip
_LAST_FOUR: Final = tuple(map(ip_network, (
    "64:ff9b::/96",  # RFC 6052
    "::ffff:0:0:0/96",  # RFC 2765, of SIIT
    "::/96",  # RFC 4291 §2.5.5.1, given up; but for :: and ::1
)))  # fmt: skip
"""Prefixes in front of an IPv4 address."""
_LOCAL: Final = ip_network("64:ff9b:1::/48")
"""For translators of a network's own (RFC 8215), which put the IPv4 address where their prefix ends (RFC 6052 §2.2)."""
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""What stands before an IPv4 address at the end of one (RFC 5214), whatever its prefix."""


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """``RUNNER_ALLOWED_NETWORKS``, which has been checked."""
    return tuple(ip_network(text, strict=False) for text in texts)


def meant(text: str) -> Ip:
    """The address; the IPv4 one where it stands for that. Raises ``ValueError``."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and int(address) > 0xFFFF and any(address in network for network in _LAST_FOUR):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def _within(address: Ip) -> list[IPv4Address]:
    """IPv4 addresses that who translates or carries IPv6 might make of this one."""
    if isinstance(address, IPv4Address):
        return []
    packed = address.packed
    found = list(address.teredo or ())  # RFC 4380: of a server, and of a client
    if packed[8:12] in _ISATAP:
        found.append(IPv4Address(packed[12:]))
    if address in _LOCAL:
        halves = packed[:8] + packed[9:]  # (the octet between them is zero)
        found += [IPv4Address(halves[at : at + 4]) for at in (6, 7, 8)] + [IPv4Address(packed[12:])]
    return found


def allowed(address: Ip, peer: Ip | None, listed: Sequence[Network]) -> bool:
    """Whether requests may go to ``address`` for a runner that comes from ``peer``. Without a list: to its own alone."""
    if address in METADATA or address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        return False
    for inner in _within(address):
        if inner in METADATA or ((inner.is_loopback or inner.is_link_local) and not _listed(inner, listed)):
            return False
    if listed:
        return _listed(address, listed)
    return address == peer and not (address.is_loopback or address.is_link_local)


def _listed(address: Ip, listed: Sequence[Network]) -> bool:
    return any(address in network for network in listed)


def tunnel_of(id: str) -> str:
    """The URL that stands for the engine behind the tunnel of the runner ``id``."""
    return f"http://{digest(id.encode()).hex()[:40]}{TUNNELS}:80"


def where(message: Register, peer: str, listed: Sequence[Network]) -> str:
    """The URL of the engine behind a runner. Raises :class:`Refused`."""
    try:
        own: Ip | None = meant(peer.partition("%")[0])
    except ValueError:
        own = None  # a Unix socket
    if not message.url:
        if own is None:
            raise Refused("Whoever comes without an address names its `url`.")
        if not allowed(own, own, listed):
            raise Refused(f"Requests may not go to {own}: RUNNER_ALLOWED_NETWORKS does not have it.")
        return EngineAddress(host=str(own), port=message.http_port).url
    try:
        named = parse_engine_url(message.url)
        address = meant(named.host)
    except ValueError:
        raise Refused("`url` must be http://address:port or https://address:port, with an address and no name.") from None
    if not allowed(address, own, listed):
        raise Refused(f"Requests may not go to {address}: RUNNER_ALLOWED_NETWORKS does not have it.")
    return EngineAddress(str(address), named.port, named.base, secure=named.secure).url
