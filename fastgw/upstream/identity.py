"""What makes an engine this one, which two cannot both be there, and who has named one.

Owns: these rules, for whoever brings an engine: the configuration, a source of discovery, a runner, the operator. Must never:
know who is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from fastgw.config import EngineConfig
from fastgw.config.check import engines_clash

if TYPE_CHECKING:
    from fastgw.upstream.pool import Pool

IDENTITY: Final = ("url", "kind", "protocol", "ca_file", "cert_file", "key_file", "server_name", "verify")
"""What of an engine's settings makes it this one: where one of them is another, it is another engine."""

Origin = Literal["config", "admin", "runner", "dns", "srv", "file"]
"""Who has named an engine: the configuration, the admin API, a runner that has dialled in, a name in DNS, a file."""


class FleetError(Exception):
    """An engine that cannot be added, or is not there; the text says why, and what to do."""


class UnknownEngine(FleetError):
    """There is no engine of that name."""


class EngineExists(FleetError):
    """It has the name of one that is there, or the same models at the same address."""


class LeadsHere(FleetError):
    """Its address is a listener of this gateway."""


class Listed(NamedTuple):
    """An engine as it is shown: how it was configured or added, by whom, and whether it leaves."""

    pool: Pool
    config: EngineConfig
    origin: Origin
    leaving: bool


def same(one: EngineConfig, other: EngineConfig) -> bool:
    """Whether they are one engine, whatever else is said of it."""
    return all(getattr(one, name) == getattr(other, name) for name in IDENTITY)


def in_its_way(one: EngineConfig, other: EngineConfig) -> str:
    """Why it cannot be there beside another that stays; empty = it can."""
    if one.name == other.name:
        return "There is an engine of this name: give this one another `name`, or remove that one first."
    if engines_clash(one, other):
        return f"The engine {other.name!r} has this address: remove it first, or give each of the two `models` of its own."
    return ""


def follows(one: EngineConfig, other: EngineConfig) -> bool:
    """Whether it takes the place of ``other`` on the same machine (or the same rank of it), however each is spoken with."""
    here, there = one.address, other.address
    if (here.host, here.port, here.unix_path, one.rank) != (there.host, there.port, there.unix_path, other.rank):
        return False
    return here.base.removesuffix("/v1") == there.base.removesuffix("/v1") and bool(in_its_way(one, other))
