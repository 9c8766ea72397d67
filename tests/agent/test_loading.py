"""What an engine of each kind is asked for to load a model, and what it is not."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.agent.loading import CannotLoad, Step, load, routed, unload
from fastgw.config.names import EngineKind
from fastgw.upstream.kinds.registry import KINDS, kind_of

ADAPTERS = {"sql": "/models/sql"}


@pytest.mark.parametrize(("kind", "model", "have", "steps"), [
    ("ollama", "l", ["l"], [("/api/generate", {"model": "l", "keep_alive": -1, "stream": False})]),
    ("ollama", "l", [], [("/api/pull", {"model": "l", "stream": False}),
                         ("/api/generate", {"model": "l", "keep_alive": -1, "stream": False})]),
    ("llamacpp", "l", [], [("/models/load", {"model": "l"}, "loaded")]),
    ("vllm", "sql", [], [("/v1/load_lora_adapter", {"lora_name": "sql", "lora_path": "/models/sql"})]),
    ("sglang", "sql", [], [("/load_lora_adapter", {"lora_name": "sql", "lora_path": "/models/sql"})]),
])  # fmt: skip
def test_loads(kind: EngineKind, model: str, have: list[str], steps: list[Any]) -> None:
    assert load(kind_of(kind), model, frozenset(have), ADAPTERS, True) == [Step(*one) for one in steps]


@pytest.mark.parametrize(("kind", "model", "steps"), [
    ("ollama", "l", [("/api/generate", {"model": "l", "keep_alive": 0, "stream": False})]),
    ("llamacpp", "l", [("/models/unload", {"model": "l"}, "unloaded")]),
    ("vllm", "sql", [("/v1/unload_lora_adapter", {"lora_name": "sql"})]),
    ("sglang", "sql", [("/unload_lora_adapter", {"lora_name": "sql"})]),
])  # fmt: skip
def test_unloads(kind: EngineKind, model: str, steps: list[Any]) -> None:
    assert unload(kind_of(kind), model, ADAPTERS) == [Step(*one) for one in steps]


def test_no_kind_is_given_a_path_or_a_model_that_nobody_named() -> None:
    for kind in KINDS:
        for model in ("/etc/passwd", "other=/etc/passwd", "sqlx"):
            for pull in (True, False):
                try:
                    steps = load(kind, model, frozenset(), ADAPTERS, pull)
                except CannotLoad:
                    continue
                assert all("lora_path" not in step.document for step in steps), kind
    with pytest.raises(CannotLoad, match="no-pull"):
        load(kind_of("ollama"), "l", frozenset(), {}, False)
    for kind_name in ("tgi", "openai", "auto"):
        with pytest.raises(CannotLoad):
            load(kind_of(kind_name), "l", frozenset(), ADAPTERS, True)  # type: ignore[arg-type]
        with pytest.raises(CannotLoad):
            unload(kind_of(kind_name), "sql", ADAPTERS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("body", "found"), [
    (b'{"data":[{"id":"a","status":{"value":"loaded"}},{"id":"b","status":{"value":"unloaded","failed":true}}]}',
     {"a": "loaded", "b": "failed"}),
    (b'{"data":[{"id":"a"}]}', None), (b'{"data":[]}', None), (b"", None), (b"[]", None), (b'{"data":3}', None),
    (b"[" * 100_000, None), (b'{"data":[{"id":3}]}', None),
])  # fmt: skip
def test_a_routers_list(body: bytes, found: Any) -> None:
    assert routed(body) == found
