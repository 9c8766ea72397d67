"""Prompts and answers of each API, as a trace shows them where it does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.observe.messages import asked_in, said_in

PARTS = [{"type": "text", "text": "two "}, {"type": "image_url", "image_url": {"url": "data:secret"}}, "words"]
ASKED: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": PARTS}]},
     [("system", "a"), ("user", "two <image_url>words")]),
    ({"system": "s", "messages": [{"role": "user", "content": "a"}]}, [("system", "s"), ("user", "a")]),
    ({"instructions": "s", "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
     [("system", "s"), ("user", "a")]),
    ({"input": "a"}, [("user", "a")]),
    ({"prompt": ["a", "b"]}, [("user", "ab")]),
    ({"inputs": "a"}, [("user", "a")]),
    ({"messages": 7, "prompt": None}, []),
]  # fmt: skip
SAID: list[tuple[bytes, list[str]]] = [
    (b'{"choices":[{"index":0,"message":{"content":"a"}},{"index":1,"message":{"content":"b"}}]}', ["a", "b"]),
    (b'{"choices":[{"text":"a"}]}', ["a"]),
    (b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"b"}}]}\n\n'
     b"data: [DONE]\n\n", ["ab"]),
    (b'{"content":[{"type":"text","text":"a"}]}', ["a"]),
    (b'event: x\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}\n\n', ["a"]),
    (b'{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}', ["a"]),
    (b'data: {"type":"response.output_text.delta","delta":"a"}\n\ndata: {"type":"x","delta":"b"}\n\n', ["a"]),
    (b'{"message":{"role":"assistant","content":"a"}}\n{"message":{"content":"b"}}\n', ["ab"]),
    (b'{"response":"a"}\n{"response":"b"}\n', ["ab"]),
    (b'{"generated_text":"a"}', ["a"]),
    (b'{"choices":[{"message":{"content":"cut off', []),
    (b"\x1f\x8b\x00", []), (b"[[]]", []), (b"[" * 100_000, []),
]  # fmt: skip


def texts(written: str) -> list[tuple[str, str]]:
    return [(one["role"], "".join(part["content"] for part in one["parts"])) for one in json.loads(written or "[]")]


@pytest.mark.parametrize(("document", "found"), ASKED)
def test_what_was_asked(document: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert texts(asked_in(json.dumps(document).encode())) == found


@pytest.mark.parametrize(("body", "found"), SAID, ids=range(len(SAID)))
def test_what_was_said(body: bytes, found: list[str]) -> None:
    assert texts(said_in(body)) == [("assistant", text) for text in found]
