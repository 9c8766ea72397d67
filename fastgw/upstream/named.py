"""Which engines a configuration names itself, and whether it leaves others to sources.

Owns: what stands in its way beside those that others have added. Must never: know who is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastgw.config import Config, EngineConfig
from fastgw.upstream.identity import in_its_way


def written_in(config: Config) -> list[EngineConfig]:
    """The engines that the configuration names itself: others stand for those that are found by their name."""
    return [one for one in config.engines if not one.discover]


def has_sources(config: Config) -> bool:
    """Whether others than the configuration name engines."""
    return bool(config.engines_file) or any(one.discover for one in config.engines)


def clashes(written: Sequence[EngineConfig], stay: Sequence[EngineConfig]) -> list[str]:
    """Why engines that are ``written`` in the configuration cannot be there beside those that others have added, and that
    ``stay``; empty = they can."""
    added: dict[str, list[EngineConfig]] = {}
    for one in stay:
        added.setdefault(one.url, []).append(one)
    return [
        f"the engine {other.name!r}, which was added while the gateway ran, has the address of {one.name!r}: remove it "
        f"(DELETE /admin/engines/{other.name}), or give each of the two `models` of its own"
        for one in written
        for other in added.get(one.url, ())
        if in_its_way(one, other)
    ]
