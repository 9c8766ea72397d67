"""How an engine is had to load a model, or to let one go: the requests for it, by its kind. No I/O.

    Ollama       pulls what it does not have, and keeps it in memory until told otherwise    docs/api.md, "Load a model"
    llama.cpp    in router mode, where it has many models                                    tools/server/README.md
    vLLM         LoRA adapters, with VLLM_ALLOW_RUNTIME_LORA_UPDATING                        docs, "LoRA Adapters"
    SGLang       LoRA adapters, with --enable-lora                                           docs, "LoRA Serving"

Must never: give an engine a path that came from a gateway: where an adapter's files are is said on the agent's command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from fastgw.upstream.kinds import llamacpp, ollama, sglang, vllm
from fastgw.upstream.kinds.kind import Kind


class Step(NamedTuple):
    """A POST to the engine. ``until``: its list of models must show the model so before it has been done ("" = at once)."""

    path: str
    document: dict[str, Any]
    until: str = ""


class CannotLoad(Exception):
    """Why this engine cannot; the gateway's operator reads it."""


ADAPTERS: Final[Mapping[Kind, str]] = {vllm.KIND: "/v1", sglang.KIND: ""}
"""Kinds that load adapters, and what stands before the path."""
LOADED: Final[Mapping[Kind, str]] = {ollama.KIND: "/api/ps"}
"""Where a kind tells what it has in memory; of others it is all that they list."""
ROUTES: Final[Mapping[Kind, str]] = {llamacpp.KIND: "/models"}
"""Where a kind that may have many tells how each is."""
VERSION: Final[Mapping[str, Kind]] = {"/api/version": ollama.KIND}
"""What only one kind answers, where the list of models does not tell."""


def load(kind: Kind, model: str, have: frozenset[str], adapters: Mapping[str, str], pull: bool) -> list[Step]:
    """What has it load ``model``; ``have`` are those that it has already, ``adapters`` the paths of adapters by name. Raises
    :class:`CannotLoad`."""
    if kind is ollama.KIND:
        steps = [] if model in have else [Step("/api/pull", {"model": model, "stream": False})]
        if steps and not pull:
            raise CannotLoad("It does not have this model, and may not pull it (--no-pull).")
        return [*steps, Step("/api/generate", {"model": model, "keep_alive": -1, "stream": False})]
    if kind is llamacpp.KIND:
        return [Step("/models/load", {"model": model}, "loaded")]
    if kind in ADAPTERS:
        path = adapters.get(model)
        if path is None:
            raise CannotLoad("There is no adapter of this name: name it with --adapter NAME=PATH.")
        return [Step(f"{ADAPTERS[kind]}/load_lora_adapter", {"lora_name": model, "lora_path": path})]
    raise CannotLoad("An engine of this kind loads no models while it runs.")


def unload(kind: Kind, model: str, adapters: Mapping[str, str]) -> list[Step]:
    """What has it let ``model`` go. Raises :class:`CannotLoad`."""
    if kind is ollama.KIND:
        return [Step("/api/generate", {"model": model, "keep_alive": 0, "stream": False})]
    if kind is llamacpp.KIND:
        return [Step("/models/unload", {"model": model}, "unloaded")]
    if kind in ADAPTERS:
        if model not in adapters:
            raise CannotLoad("There is no adapter of this name: name it with --adapter NAME=PATH.")
        return [Step(f"{ADAPTERS[kind]}/unload_lora_adapter", {"lora_name": model})]
    raise CannotLoad("An engine of this kind unloads no models while it runs.")


class _Status(msgspec.Struct):
    value: str = ""
    failed: bool = False


class _Item(msgspec.Struct):
    id: str
    status: _Status | None = None


class _List(msgspec.Struct):
    data: list[_Item] = []


def routed(body: bytes) -> dict[str, str] | None:
    """How each model of a router is, by name (``failed`` for one that could not be loaded); None = this is no router's list."""
    try:
        items = msgspec.json.decode(body, type=_List).data
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not items or any(item.status is None for item in items):
        return None
    return {item.id: "failed" if item.status and item.status.failed else item.status.value for item in items if item.status}
