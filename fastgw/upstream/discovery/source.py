"""What a source of engines is to whoever follows it.

Invariant: a look either says all that is there, or fails and says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastgw.config import EngineConfig
from fastgw.upstream.identity import Origin


class LookFailed(Exception):
    """Nobody knows what is there; the text says why, for the log."""


class Found(NamedTuple):
    """``groups``: who is there; those behind the first are only wanted where nobody of the groups before is well. ``again_s``:
    when to look again. ``bad``: what was said besides and is nobody's address, for the log."""

    groups: Sequence[Sequence[EngineConfig]]
    again_s: float
    bad: Sequence[str] = ()


class Source(Protocol):
    """``key`` names it, in the log too; another source has another. ``misses``: so many looks in a row must have missed an
    engine before it leaves. ``stale_s``: for how long what was found holds while looks fail; 0 = as long as they do. ``like``:
    what all that it finds are like, None = it says so of each."""

    @property
    def key(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def misses(self) -> int: ...
    @property
    def stale_s(self) -> float: ...
    @property
    def like(self) -> EngineConfig | None: ...

    async def look(self) -> Found:
        """Raises LookFailed."""
        ...
