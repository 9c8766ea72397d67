"""How a configuration error is told: where it was written, which setting, and what to do about it.

Owns: :class:`ConfigError` (one line for one mistake) and :class:`ConfigErrors` (all of them at once).
Must never: carry the value of a secret, or of anything that may hold one (a URL with a password, a list of keys).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class ConfigError(msgspec.Struct, frozen=True):
    """One mistake. ``where`` is ``file:line``, a variable's name or a flag; ``name`` is the setting."""

    where: str
    name: str
    message: str

    def __str__(self) -> str:
        if self.name in {"", self.where, self.where[2:].replace("-", "_")}:
            return f"{self.where}: {self.message}"
        return f"{self.where}: {self.name}: {self.message}"


class ConfigErrors(ValueError):
    """Every mistake of a configuration, so that none is found only after the one before it was mended."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: tuple[ConfigError, ...] = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def told(found: ConfigErrors) -> str:
    """All that is wrong with one entry, in one line."""
    return "; ".join(f"{error.name}: {error.message}" for error in found.errors)
