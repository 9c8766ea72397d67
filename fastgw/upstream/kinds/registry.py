"""The list of kinds. ``fastgw/config/names.py`` has their names, and mypy finds a name without a kind, or the reverse."""

from __future__ import annotations

from typing import Final, assert_never

from fastgw.config.names import ENGINE_KINDS, EngineKind
from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds import auto, llamacpp, ollama, openai, sglang, tgi, vllm
from fastgw.upstream.kinds.kind import Kind


def kind_of(name: EngineKind) -> Kind:
    """The kind of that name."""
    match name:
        case "auto":
            return auto.KIND
        case "openai":
            return openai.KIND
        case "vllm":
            return vllm.KIND
        case "sglang":
            return sglang.KIND
        case "tgi":
            return tgi.KIND
        case "llamacpp":
            return llamacpp.KIND
        case "ollama":
            return ollama.KIND
        case _:
            assert_never(name)


KINDS: Final[tuple[Kind, ...]] = tuple(kind_of(name) for name in ENGINE_KINDS)
GAUGES: Final[tuple[Names, ...]] = tuple(kind.gauges for kind in KINDS if kind.gauges is not None)
_MARKED: Final = tuple(kind for kind in KINDS if kind.owner_mark)


def known_by(kind: Kind, models: bytes) -> Kind:
    """What an engine of ``kind`` is by its own list of models: one that nobody has named may be told by it."""
    if kind is not auto.KIND:
        return kind
    return next((one for one in _MARKED if one.owner_mark in models), kind)
