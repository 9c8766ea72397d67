"""Engines by a name in DNS: one for each address that it has (``discover = "dns"``), or for each server of an SRV record
(``discover = "srv"``).

Owns: the questions, and what becomes of an answer. Addresses are asked of the system, which has files, search lists and caches
of its own and says nothing of how long they hold; or of one server (``discovery_dns``), and then they hold for their TTL. SRV
records are asked of a server in any case, and it takes dnspython to ask. Must never: hold the loop (questions are asked in a
thread), or take an answer of nothing for a word that nobody is there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from fastgw.config import ConfigErrors, EngineConfig
from fastgw.config.address import EngineAddress, parse_host_port
from fastgw.upstream.discovery.source import Found, LookFailed
from fastgw.upstream.identity import Origin

MISSES: Final = 2
"""Looks: some servers answer with a part of the addresses each time."""
LEAST_S: Final = 1.0
"""Between two questions for one name, however short its TTL is."""
MOST_ADDRESSES: Final = 256
"""Engines of one name; further addresses are passed over, in their order."""
MOST_TARGETS: Final = 64
"""Names that one SRV record may lead to."""
MOST_WEIGHT: Final = 1000
NOBODY: Final = "the name does not exist, or has no address"


class Server(NamedTuple):
    """One of an SRV record (RFC 2782)."""

    priority: int
    weight: int
    target: str
    port: int


class Asking:
    """Asks one server, or those of the system. All raise LookFailed."""

    __slots__ = ("server", "timeout_s")

    def __init__(self, server: str, timeout_s: float) -> None:
        """``server``: ``host:port`` of an address, "" = the system's."""
        self.server = server
        self.timeout_s = timeout_s

    async def addresses(self, name: str) -> tuple[list[str], float | None]:
        """The addresses of ``name``, sorted, and how long they hold, None = nobody has said so."""
        if not self.server:
            return await self._of_system(name), None
        return await asyncio.to_thread(self._of_server, name)

    async def servers(self, name: str) -> tuple[list[Server], float]:
        """The servers of an SRV record, and how long they hold."""
        return await asyncio.to_thread(self._srv, name)

    async def _of_system(self, name: str) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await loop.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            none = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
            raise LookFailed(f"{name}: {NOBODY if none else error.strerror}") from error
        except TimeoutError as error:
            raise LookFailed(f"{name}: no answer within {self.timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise LookFailed(f"{name}: {error}") from error
        return sorted({str(entry[4][0]) for entry in found})

    def _resolver(self) -> Any:
        import dns.resolver  # (it takes 60 ms, here in a thread)

        resolver = dns.resolver.Resolver(configure=not self.server)
        if self.server:
            host, resolver.port = parse_host_port(self.server)
            resolver.nameservers = [host]
        resolver.lifetime = resolver.timeout = self.timeout_s
        return resolver

    def _ask(self, name: str, kind: str) -> Any:
        import dns.exception
        import dns.resolver

        try:
            return self._resolver().resolve(name, kind, search=True)
        except dns.resolver.NoAnswer:
            return None
        except dns.resolver.NXDOMAIN as error:
            raise LookFailed(f"{kind} of {name}: the name does not exist (NXDOMAIN)") from error
        except dns.exception.Timeout as error:
            raise LookFailed(f"{kind} of {name}: no answer within {self.timeout_s:g} s") from error
        except (dns.exception.DNSException, OSError) as error:
            raise LookFailed(f"{kind} of {name}: {error}") from error

    def _of_server(self, name: str) -> tuple[list[str], float | None]:
        found: list[str] = []
        holds: list[float] = []
        for kind in ("A", "AAAA"):
            answer = self._ask(name, kind)
            if answer is not None:
                found += [str(one.address) for one in answer]
                holds.append(float(answer.rrset.ttl))
        if not found:
            raise LookFailed(f"{name} has no address")
        return sorted(found), min(holds)

    def _srv(self, name: str) -> tuple[list[Server], float]:
        answer = self._ask(name, "SRV")
        if answer is None:
            raise LookFailed(f"{name} has no SRV record")
        found = [
            Server(one.priority, one.weight, str(one.target).rstrip("."), one.port) for one in answer if str(one.target) != "."
        ]
        return sorted(found)[:MOST_TARGETS], float(answer.rrset.ttl)


def at(engine: EngineConfig, address: str, port: int, weight: int) -> EngineConfig:
    """``engine`` at one address. A certificate has to have the name that was looked up, not the address; and by a name that has
    addresses it is asked for, as it would be without a look (RFC 9112 §3.2: by what stands in its URL)."""
    meant = engine.address
    there = EngineAddress(host=address, port=port, base=meant.base, secure=meant.secure)
    name = "" if engine.name == meant.label else f"{engine.name}@{there.authority}"
    return replace(
        engine, url=there.url, name=name, discover="", weight=weight,
        server_name=engine.server_name or (meant.host if meant.secure else ""),
        authority=meant.authority if engine.discover == "dns" else "",
    )  # fmt: skip


def _taken(engine: EngineConfig, address: str, port: int, weight: int, bad: list[str]) -> EngineConfig | None:
    """As :func:`at`; None for what nobody can be asked at, which is put to ``bad``."""
    try:
        return at(engine, address, port, weight)
    except ConfigErrors as error:
        bad.append(f"{address} port {port}: {error.errors[0].message}")
        return None


def _is_spare(address: str) -> bool:
    """Whether it stands behind those of IPv4. A name that has both has, as a rule, both of each engine: they would be two, with
    twice its limits. (IPv4 first: an engine that listens on one family alone listens there.)"""
    return ":" in address


class ByAddress:
    """One engine for each address of a name; those of IPv6 only where none of IPv4 is well."""

    __slots__ = ("_asking", "_every_s", "key", "like", "stale_s")

    origin: Origin = "dns"
    misses = MISSES

    def __init__(self, engine: EngineConfig, asking: Asking, every_s: float, stale_s: float = 0.0) -> None:
        self.key = f"dns {engine.url} as {engine.name}"
        self.like = engine
        self._asking = asking
        self._every_s = every_s
        self.stale_s = stale_s

    async def look(self) -> Found:
        """Raises LookFailed."""
        engine = self.like
        found, holds_s = await self._asking.addresses(engine.address.host)
        again_s = self._every_s if holds_s is None else min(max(holds_s, LEAST_S), self._every_s)
        bad: list[str] = []
        groups: dict[bool, list[EngineConfig]] = {}
        for address in found[:MOST_ADDRESSES]:
            made = _taken(engine, address, engine.address.port, engine.weight, bad)
            if made is not None:
                groups.setdefault(_is_spare(address), []).append(made)
        return Found([group for _, group in sorted(groups.items())], again_s, bad)


class ByService:
    """One engine for each address of each server of an SRV record; the port in the URL says nothing. Servers of a higher number
    of priority are asked only where none of a lower one is well; weights are shares, as ``policy`` takes them."""

    __slots__ = ("_asking", "_every_s", "key", "like", "stale_s")

    origin: Origin = "srv"
    misses = MISSES

    def __init__(self, engine: EngineConfig, asking: Asking, every_s: float, stale_s: float = 0.0) -> None:
        self.key = f"srv {engine.url} as {engine.name}"
        self.like = engine
        self._asking = asking
        self._every_s = every_s
        self.stale_s = stale_s

    async def look(self) -> Found:
        """Raises LookFailed: also where the addresses of a target are not known, which may come back."""
        servers, holds_s = await self._asking.servers(self.like.address.host)
        groups: dict[tuple[int, bool], list[EngineConfig]] = {}
        heaviest = max((one.weight for one in servers), default=0)
        count = 0
        bad: list[str] = []
        for one in servers:
            addresses, held_s = await self._asking.addresses(one.target)
            holds_s = min(holds_s, held_s if held_s is not None else holds_s)
            for address in addresses:
                count += 1
                if count <= MOST_ADDRESSES:
                    made = _taken(self.like, address, one.port, _share(one.weight, heaviest), bad)
                    if made is not None:
                        groups.setdefault((one.priority, _is_spare(address)), []).append(made)
        return Found(_without_twins(groups), min(max(holds_s, LEAST_S), self._every_s), bad)


def _share(weight: int, heaviest: int) -> int:
    """Of 0 to 65,535; a weight of 0 is "a very small chance" (RFC 2782)."""
    if heaviest <= MOST_WEIGHT:
        return max(1, weight)
    return max(1, weight * MOST_WEIGHT // heaviest)


def _without_twins(groups: dict[tuple[int, bool], list[EngineConfig]]) -> Sequence[Sequence[EngineConfig]]:
    """In the order of priorities, each address once: several names may lead to it."""
    seen: set[str] = set()
    found = []
    for _, engines in sorted(groups.items()):
        group = []
        for one in engines:
            if one.url not in seen:
                seen.add(one.url)
                group.append(one)
        found.append(group)
    return found
