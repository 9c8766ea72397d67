"""What engines say of their models beside the names: how much context fits, of which model an adapter is, what is loaded.

Owns: :class:`ModelFacts`, and the reading of what each kind of engine says, in its list of models and at a path of its own.
Must never: raise for anything that an engine answers; what it does not say, or says in no usable way, is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from fastgw.protocol.openai import MAX_MODELS, MOST_ITEMS

MOST_CONTEXT: Final = 1 << 40
"""Tokens; who says that more fit has said nothing."""
MOST_ALIASES: Final = 16
MAX_NAME_CHARS: Final = 256


class ModelFacts(msgspec.Struct, frozen=True, gc=False):
    """Of one model of one engine. ``context_tokens``: prompt and answer together, 0 = not known. ``parent``: the model that a
    LoRA adapter belongs to, "" = it is none. ``loaded`` None: not said. ``aliases``: its other names. ``root``: of what it is
    made, and ``owner``: whose it is, in the engine's words."""

    name: str
    context_tokens: int = 0
    parent: str = ""
    loaded: bool | None = None
    aliases: tuple[str, ...] = ()
    root: str = ""
    owner: str = ""


Facts = dict[str, ModelFacts]
Reader = Callable[[bytes, Facts], Facts]
"""Reads what an engine has at a path of its own, beside what its list has said; it changes nothing of that."""


class _Item(msgspec.Struct):
    id: Any = None
    name: Any = None
    model: Any = None
    max_model_len: Any = None
    max_context_length: Any = None
    loaded_context_length: Any = None
    context_length: Any = None
    parent: Any = None
    root: Any = None
    aliases: Any = None
    state: Any = None
    status: Any = None
    owned_by: Any = None
    meta: Any = None


class _List(msgspec.Struct):
    data: list[_Item] = []
    models: list[_Item] = []


_decode: Final = msgspec.json.Decoder(_List).decode
_BAD: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _items(body: bytes) -> list[_Item]:
    """(What has more objects than a list may have models is read by nobody.)"""
    if body.count(b"{") > MOST_ITEMS:
        return []
    try:
        found = _decode(body)
    except _BAD:
        return []
    return (found.data or found.models)[:MAX_MODELS]


def _document(body: bytes) -> dict[str, Any]:
    if body.count(b"{") > MOST_ITEMS:
        return {}
    try:
        found = msgspec.json.decode(body)
    except _BAD:
        return {}
    return found if isinstance(found, dict) else {}


def _tokens(*said: Any) -> int:
    """The first that is a usable number."""
    for one in said:
        if type(one) is int and 0 < one <= MOST_CONTEXT:
            return one
    return 0


def _name(said: Any) -> str:
    return said if isinstance(said, str) and len(said) <= MAX_NAME_CHARS and said.isprintable() else ""


def _member(said: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(said, dict):
            return None
        said = said.get(name)
    return said


def _loaded(item: _Item) -> bool | None:
    """As LM Studio says it (``state``), or llama.cpp's router (``status.value``)."""
    said = item.state if isinstance(item.state, str) else _member(item.status, "value")
    return None if not isinstance(said, str) else said in ("loaded", "sleeping")


def in_list(body: bytes, names: Iterable[str], also: Callable[[str], str] = str) -> Facts:
    """What the engine's own list says of its models ``names``. ``also``: by which other name an engine of its kind knows
    a model in any case (``Kind.also``).

    vLLM and SGLang tell how much fits as ``max_model_len``, llama.cpp what a model was trained for (``meta.n_ctx_train``). vLLM
    lists a model once under each of its names, with one ``root``, and an adapter with its ``parent``.
    """
    wanted = dict.fromkeys(names)
    items: dict[str, _Item] = {}
    for item in _items(body):
        for said in (item.id, item.name, item.model):
            if isinstance(said, str) and said in wanted:
                items.setdefault(said, item)
                break
    roots: dict[str, list[str]] = {}
    for name, item in items.items():
        if _name(item.root) and not item.parent:
            roots.setdefault(item.root, []).append(name)
    found: Facts = {}
    for name in wanted:
        item = items.get(name) or _Item()
        said = item.aliases if isinstance(item.aliases, list) else roots.get(_name(item.root), []) if not item.parent else []
        others = [*[_name(one) for one in said], also(name)]
        found[name] = ModelFacts(
            name,
            _tokens(item.max_model_len, item.context_length, _member(item.meta, "n_ctx"), _member(item.meta, "n_ctx_train")),
            _name(item.parent),
            _loaded(item),
            tuple([one for one in dict.fromkeys(others) if one and one != name][:MOST_ALIASES]),
            _name(item.root),
            _name(item.owned_by),
        )
    return found


def owners_in(body: bytes) -> list[str]:
    """Whose models an engine's list says that it has (``owned_by``), each once."""
    return list(dict.fromkeys(item.owned_by for item in _items(body) if isinstance(item.owned_by, str)))


def has_member(body: bytes, name: str) -> bool:
    """Whether what an engine says is an object with that member, or one that lists (``data``) such objects."""
    said = _document(body)
    listed = said.get("data")
    return name in said or (isinstance(listed, list) and any(isinstance(one, dict) and name in one for one in listed))


def by_props(body: bytes, facts: Facts) -> Facts:
    """llama.cpp's ``/props``: what a slot of the server has, which is less than its model was trained for."""
    said = _document(body)
    fits = _tokens(_member(said, "default_generation_settings", "n_ctx"), said.get("n_ctx"))
    return {name: replace(one, context_tokens=fits) for name, one in facts.items()} if fits else facts


def by_info(body: bytes, facts: Facts) -> Facts:
    """TGI's ``/info``: it serves one model, and those before 1.4 have no list that would name it."""
    said = _document(body)
    name = _name(said.get("model_id"))
    if not facts and name:
        facts = {name: ModelFacts(name)}
    fits = _tokens(said.get("max_total_tokens"))
    return {name: replace(one, context_tokens=fits) for name, one in facts.items()} if fits else facts


def by_state(body: bytes, facts: Facts) -> Facts:
    """LM Studio's ``/api/v0/models``: all that it has on its disk, and what of that is loaded, with how much context."""
    found = dict(facts)
    for item in _items(body):
        one = found.get(item.id) if isinstance(item.id, str) else None
        if one is not None:
            loaded = _loaded(item)
            fits = _tokens(item.loaded_context_length if loaded else None, item.max_context_length)
            found[one.name] = replace(one, loaded=loaded, context_tokens=fits or one.context_tokens)
    return found


def by_running(body: bytes, facts: Facts) -> Facts:
    """Ollama's ``/api/ps``: what is loaded, with how much context."""
    running = {item.name: item for item in _items(body) if isinstance(item.name, str)}
    found: Facts = {}
    for name, one in facts.items():
        item = running.get(name)
        fits = _tokens(item.context_length) if item is not None else 0
        found[name] = replace(one, loaded=item is not None, context_tokens=fits or one.context_tokens)
    return found


def trained_for(body: bytes) -> int:
    """Ollama's ``/api/show`` of one model: the context that it was trained for (``model_info``, under its architecture)."""
    said = _member(_document(body), "model_info")
    if not isinstance(said, dict):
        return 0
    return _tokens(*[fits for name, fits in said.items() if name.endswith(".context_length")])
