"""Which addresses are this gateway's own: an engine at one of them would have each request asked of the gateway again.

Owns: what its listeners are bound to, and what reaches them from here. Must never: look a name up, or send anything. (What a
name, a NAT or another gateway leads back is found by ``protocol/hops.py``, when a request has come round.)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Final

from fastgw.config.address import EngineAddress, everywhere, reaches

HERE: Final = "This is an address of this gateway itself: each request would come back to it. Name the engine's own."
_UNUSED_PORT: Final = 9


class Own:
    """See the head of this file."""

    __slots__ = ("_paths", "_ports")

    def __init__(self) -> None:
        self._ports: dict[int, set[str]] = {}  # and the addresses that are bound there
        self._paths: set[str] = set()

    def add(self, socks: Iterable[socket.socket]) -> None:
        """These listen."""
        for sock in socks:
            name = sock.getsockname()
            if sock.family == socket.AF_UNIX:
                self._paths.add(os.path.realpath(name))
            else:
                self.add_address(name[0], name[1])

    def add_address(self, host: str, port: int) -> None:
        self._ports.setdefault(port, set()).update(("127.0.0.1", "::1") if host == "localhost" else (host,))

    def leads_here(self, address: EngineAddress) -> bool:
        """Whether who dials that comes to one of them."""
        if address.unix_path:
            return os.path.realpath(address.unix_path) in self._paths
        bound = self._ports.get(address.port)
        if bound is None:
            return False
        host = _plain(address.host)
        return reaches(host, bound) or (everywhere(host) in bound and _is_of_this_machine(host))


def _plain(host: str) -> str:
    """An IPv6 address that stands for an IPv4 one as that."""
    if ":" not in host:
        return host
    from ipaddress import IPv6Address  # 3 ms that only an IPv6 literal pays

    inner = IPv6Address(host).ipv4_mapped
    return str(inner) if inner is not None else host


def _is_of_this_machine(host: str) -> bool:
    """Whether the way there begins at the very address. (Nothing is sent: a datagram's socket only chooses.)"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, _UNUSED_PORT))
            return bool(sock.getsockname()[0] == host)
    except OSError:
        return False
