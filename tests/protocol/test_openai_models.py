"""The list of models, as OpenAI has it, and as engines have it."""

from __future__ import annotations

import json

import pytest

from fastgw.protocol.openai import models_list, parse_models


def test_models_list_is_openais() -> None:
    assert json.loads(models_list([("a", "vllm", 5, 0), ("b", "x", 6, 4096)])) == {
        "object": "list",
        "data": [{"id": "a", "object": "model", "created": 5, "owned_by": "vllm"}, {"id": "b", "object": "model",
        "created": 6, "owned_by": "x", "max_model_len": 4096}],
    }
    assert json.loads(models_list([])) == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object":"list","data":[{"id":"a"},{"id":"b"},{"id":"a"}]}', ["a", "b"]),
        (b'{"models":[{"name":"llama3:latest","model":"llama3:latest"}]}', ["llama3:latest"]),
        (b'{"data":[],"models":[{"name":"x"}]}', ["x"]),
        (b'{"data":null,"models":[{"model":"y"}]}', ["y"]),
        (b'[{"id":"a"},{"id":"b"}]', ["a", "b"]),
        (b' [ "llama", "qwen", "llama" ] ', ["llama", "qwen"]),
        (b'[{"id":"a"},"b"]', []),
        (b'{"data":[{"id":5},{"id":""},{"id":"a\\nb"},{"id":"ok"},{"id":[1],"name":"so"}]}', ["ok", "so"]),
        (b'{"data":[{"id":null,"name":null,"model":"m"},{"name":"","model":"n"},{"x":{"id":"no"}}]}', ["m"]),
        (b'{"data":[1,{"id":"a"}]}', []),
        (b'[["a"]]', []),
        (b'{"data":[' + b"{}," * 999 + b'{"id":"a"}]}', []),
        (b'{"data":{"id":"a"}}', []),
        (b"", []),
        (b"not json", []),
        (b"[" * 5000, []),
        (b'"a"', []),
        (b"\xff", []),
    ],
)
def test_models_of_an_engine(body: bytes, names: list[str]) -> None:
    assert parse_models(body) == names


def test_models_of_an_engine_are_bounded() -> None:
    names = parse_models(json.dumps({"data": [{"id": f"m{i}"} for i in range(12_000)]}).encode())
    assert len(names) == 10_000
