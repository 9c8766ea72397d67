"""What an engine's own list of models says of each of them.

Owns: the record. Must never: guess; what an engine does not say is not known.
"""

from __future__ import annotations


class ModelFacts:
    """One model at one engine.

    ``context_tokens``: prompt and answer together may have so many, 0 = not known. ``parent``: of a LoRA adapter its base
    model, else "". ``loaded``: whether it is in memory now, None = not known. ``aliases``: other names that it answers to. """

    __slots__ = ("aliases", "context_tokens", "loaded", "name", "parent")

    def __init__(
        self, name: str, context_tokens: int = 0, parent: str = "", loaded: bool | None = None, aliases: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self.parent = parent
        self.loaded = loaded
        self.aliases = aliases
