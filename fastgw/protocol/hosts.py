"""Which ``Host`` a browser may have been led here by: the guard against DNS rebinding.

A page of a stranger's site can point its own name at an address that only this machine, or this network, reaches; the
browser then takes the gateway for that site, and asks no permission. What the page cannot choose is the name that the
browser sends. So a name is good only where no stranger can own it: an address, ``localhost``, this machine's own name, the
suffixes that the public DNS never serves (RFC 6761 ``.localhost``, RFC 6762 ``.local``, ICANN's ``.internal``), and what
the operator has listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SUFFIXES: Final = (".localhost", ".local", ".internal")


class HostRule:
    """The names under which a gateway may be asked; ``own_name`` is the machine's, ``allowed`` what the operator adds."""

    __slots__ = ("_any", "_below", "_names")

    def __init__(self, allowed: Iterable[str], own_name: str) -> None:
        entries = [entry.lower() for entry in allowed]
        self._any = "*" in entries
        self._below = tuple([entry[1:] for entry in entries if entry.startswith("*.")])
        self._names = {"localhost", *entries, *([own_name.lower()] if own_name else [])}

    def allows(self, host: bytes) -> bool:
        """Whether ``host``, the value of a ``Host`` field that was found well-formed, is one of them. Empty is: a browser
        never sends that."""
        name = _name(host.decode("latin-1").lower())
        if self._any or not name or name in self._names or name.endswith(SUFFIXES):
            return True
        if self._below and name.endswith(self._below):
            return True
        from ipaddress import ip_address  # (only an address by itself, and a stranger's name, get here)

        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Without port, brackets, and the dot of the root."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
