"""What an engine says of itself, as each kind does: ``plays`` chooses whose word it is.

Owns: the list of models, and the paths that only one kind has. Must never: change how it generates; who counts on a kind's own
stream finds that under any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastgw.sim.config import SimConfig

PLAYS: Final = ("", "vllm", "sglang", "tgi", "llamacpp", "ollama", "lmstudio")
"""Whose; "" = the simulator's own."""
_OWNERS: Final = {
    "vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "ollama": "library", "lmstudio": "organization_owner",
}  # fmt: skip
LOADED_CONTEXT: Final = 4096
"""Of what LM Studio and Ollama have loaded: less than the model could have."""

Document = Callable[[], dict[str, Any]]


def listed(config: SimConfig, created: int) -> dict[str, Any]:
    """``/v1/models``. What is called ``base:name`` is an adapter of ``base`` to vLLM and SGLang."""
    kind = config.plays
    rows: list[dict[str, Any]] = []
    for name in config.models:
        row: dict[str, Any] = {
            "id": name, "object": "model", "created": created, "owned_by": _OWNERS.get(kind, "fastgw-sim"), "root": name,
            "parent": None, "max_model_len": config.max_model_len,
        }  # fmt: skip
        base, colon, _ = name.partition(":")
        if kind in ("vllm", "sglang") and colon:
            row |= {"root": f"/adapters/{name}", "parent": base, "max_model_len": None}
        elif kind == "tgi":
            row = {"id": name, "object": "model", "created": 0, "owned_by": name}
        elif kind == "llamacpp":
            row = {"id": name, "object": "model", "created": created, "owned_by": "llamacpp",
                   "meta": {"n_ctx_train": config.max_model_len, "n_params": 1}, "aliases": [name + "-short"]}  # fmt: skip
        elif kind in ("ollama", "lmstudio"):
            row = {key: row[key] for key in ("id", "object", "created", "owned_by")}
        rows.append(row)
    return {"object": "list", "data": rows}


def documents(config: SimConfig) -> dict[str, Document]:
    """What stands at the paths that only this kind has."""
    first = config.models[0]
    found: dict[str, dict[str, Document]] = {
        "llamacpp": {"/props": lambda: {
            "default_generation_settings": {"n_ctx": LOADED_CONTEXT}, "total_slots": config.slots, "model_path": first,
        }},
        "tgi": {"/info": lambda: {
            "model_id": first, "max_concurrent_requests": 128, "max_input_tokens": config.max_model_len - 1,
            "max_total_tokens": config.max_model_len, "version": "3.3.0", "router": "text-generation-router",
        }},
        "sglang": {"/get_server_info": lambda: {"model_path": first, "context_length": None, "version": "0.5.0"}},
        "vllm": {"/version": lambda: {"version": "0.11.0"}},
        "ollama": {
            "/api/version": lambda: {"version": "0.12.0"},
            "/api/ps": lambda: {"models": [{"name": first, "model": first, "size_vram": 1, "context_length": LOADED_CONTEXT}]},
        },
        "lmstudio": {"/api/v0/models": lambda: {"object": "list", "data": [
            {"id": name, "object": "model", "type": "llm", "arch": "llama", "max_context_length": config.max_model_len,
             **({"state": "loaded", "loaded_context_length": LOADED_CONTEXT} if name == first else {"state": "not-loaded"})}
            for name in config.models
        ]}},
    }  # fmt: skip
    return found.get(config.plays, {})


def shown(config: SimConfig) -> dict[str, Any]:
    """Ollama's ``/api/show``."""
    return {"details": {"family": "llama"}, "model_info": {"general.architecture": "llama",
                                                           "llama.context_length": config.max_model_len}}  # fmt: skip


def without(kind: str) -> tuple[str, ...]:
    """The paths that this kind does not have, of those that the simulator has."""
    gone = {
        "ollama": ("/health", "/healthz", "/metrics"),
        "lmstudio": ("/health", "/healthz", "/metrics"),
    }
    return (*gone.get(kind, ()), *(("/api/tags",) if kind not in ("", "ollama") else ()))
