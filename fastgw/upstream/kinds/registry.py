"""The list of kinds. ``fastgw/config/names.py`` has their names, and mypy finds a name without a kind, or the reverse."""

from __future__ import annotations

from typing import Final, assert_never

from fastgw.config.names import ENGINE_KINDS, EngineKind
from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds import auto, llamacpp, lmstudio, ollama, openai, sglang, tgi, vllm
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.models import has_member, owners_in


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
        case "lmstudio":
            return lmstudio.KIND
        case _:
            assert_never(name)


KINDS: Final[tuple[Kind, ...]] = tuple(kind_of(name) for name in ENGINE_KINDS)
GAUGES: Final[tuple[Names, ...]] = tuple(kind.gauges for kind in KINDS if kind.gauges is not None)
_BY_OWNER: Final = {kind.owned_by: kind for kind in KINDS if kind.owned_by}
ASKED: Final = tuple(kind for kind in KINDS if kind.asked[0])
"""Those that a path of their own tells, in the order in which they are asked for."""

_ALSO: Final[dict[str, EngineKind]] = {
    "llama.cpp": "llamacpp", "llama_cpp": "llamacpp", "llama-cpp": "llamacpp", "llama-server": "llamacpp",
    "text-generation-inference": "tgi",
}  # fmt: skip


def kind_called(word: str) -> EngineKind:
    """What others mean by a word for an engine; ``auto`` where it says nothing here."""
    word = word.lower()
    for kind in ENGINE_KINDS:
        if kind == word:
            return kind
    return _ALSO.get(word, "auto")


def known_by(kind: Kind, models: bytes) -> Kind:
    """What an engine of ``kind`` is by its own list of models: one that nobody has named may be told by it, unless the list has
    models of several kinds (a gateway's may)."""
    if kind is not auto.KIND:
        return kind
    found = [_BY_OWNER[owner] for owner in owners_in(models) if owner in _BY_OWNER]
    return found[0] if len(found) == 1 else kind


def is_of(kind: Kind, answer: bytes) -> bool:
    """Whether what an engine has answered at the path of ``kind.asked`` tells it to be of that kind."""
    return has_member(answer, kind.asked[1])


def is_told(kind: Kind) -> bool:
    """Whether somebody has said what the engine is: the operator, or the engine itself."""
    return kind is not auto.KIND
