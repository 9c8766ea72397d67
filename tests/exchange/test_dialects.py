"""Engines' own APIs: what their lines say, however they are cut, and how a body tells them how long an answer may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.exchange.dialects import END_BYTES, MAX_LINE_BYTES, OLLAMA, TGI, Dialect, told


def lines(*words: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(word).encode() + b"\n" for word in words)


def events(*words: dict[str, Any]) -> bytes:
    return b"".join(b"data:" + json.dumps(word).encode() + b"\n\n" for word in words)


def said(text: str) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": text}, "done": False}


def token(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 1, "token": {"id": 1, "text": text, "special": False}, "generated_text": None, "details": None, **more}


DONE = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "prompt_eval_count": 5, "eval_count": 9}
LAST = {"generated_text": "ab", "details": {"finish_reason": "length", "generated_tokens": 2, "input_length": 7}}
CONTEXT = {"model": "m", "response": "", "done": True, "context": list(range(30_000)), "prompt_eval_count": 4, "eval_count": 6}

CASES: dict[str, tuple[bytes, tuple[int, int, bool]]] = {
    "chat": (lines(said("a"), said("b"), DONE), (5, 9, False)),
    "chat cut": (lines(said("a"), said("b")), (-1, 2, True)),
    "chat cut in a line": (lines(said("a"), said("b"))[:-20], (-1, 1, True)),
    "chat, thinking": (lines({"message": {"content": "", "thinking": "hm"}, "done": False}), (-1, 1, True)),
    "chat, a long piece": (lines(said("x" * 100)), (-1, 25, True)),
    "chat, nothing": (b"", (-1, -1, False)),
    "chat, a cached prompt": (lines(said("a"), {"done": True, "eval_count": 3}), (-1, 3, False)),
    "chat, no stream": (json.dumps(DONE | {"message": {"content": "all of it"}}).encode(), (5, 9, False)),
    "generate": (lines({"response": "a", "done": False},
                       {"response": "", "done": True, "prompt_eval_count": 5, "eval_count": 1}), (5, 1, False)),
    "generate, a long end": (lines({"response": "a", "done": False}, CONTEXT), (4, 6, False)),
    "a text that looks like an end": (lines(said('"eval_count":77,"done":true')), (-1, 1, True)),
    "counts that are none": (lines(DONE | {"eval_count": -3, "prompt_eval_count": "5"}), (-1, -1, False)),
    "all but the end": (json.dumps(DONE).encode()[:-1] + b",", (5, 9, False)),
    "all but the end of a number": (json.dumps(DONE).encode()[:-1], (5, -1, False)),
    "tgi, all but the end": (b'{"generated_text":"a","details":{"generated_tokens":3,"input_length":4},', (4, 3, False)),
    "no JSON": (b"nonsense\n{broken\n[1]\n7\n", (-1, -1, False)),
    "tgi": (events(token("a"), token("b", **LAST)), (7, 2, False)),
    "tgi, spaces": (events(token("a"), token("b", **LAST)).replace(b"data:", b"data: "), (7, 2, False)),
    "tgi, CRLF": (events(token("a"), token("b", **LAST)).replace(b"\n", b"\r\n"), (7, 2, False)),
    "tgi cut": (events(token("a"), token("b"), token("c"))[:-30], (-1, 2, True)),
    "tgi plain": (json.dumps([{"generated_text": "ab"}]).encode(), (-1, -1, False)),
    "tgi details": (json.dumps({"generated_text": "a",
                                "details": {"generated_tokens": 3, "prefill": [{"id": 1}] * 4}}).encode(), (4, 3, False)),
    "tgi best of": (json.dumps({"generated_text": "a", "details": {
        "generated_tokens": 3, "best_of_sequences": [{"generated_tokens": 2}, {"generated_tokens": 4}, 7], "input_length": 1,
    }}).encode(), (1, 9, False)),
    "sglang": (events({"text": "a", "meta_info": {"prompt_tokens": 3, "completion_tokens": 1}},
                      {"text": "ab", "meta_info": {"prompt_tokens": 3, "completion_tokens": 2}}) + b"data: [DONE]\n\n",
               (3, 2, False)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_was_used_however_the_bytes_come(case: str, size: int) -> None:
    body, wanted = CASES[case]
    if size == 1 and len(body) > 10_000:
        size = 999
    dialect = Dialect(b"")
    for at in range(0, len(body), size):
        dialect.feed(body[at : at + size])
    assert dialect.figures() == wanted
    assert dialect.figures() == wanted, "and it is the same when it is asked again"


def test_the_head_of_a_plain_answer_counts_too() -> None:
    dialect = Dialect(b"Content-Type: application/json\r\nX-Prompt-Tokens: 12\r\nx-generated-tokens: 34\r\n")
    dialect.feed(b'{"generated_text":"a"}')
    assert dialect.figures() == (12, 34, False)


def test_an_error_is_one_in_each_of_them() -> None:
    for text in (lines(said("a"), {"error": "out of memory"}), events({"error": "x", "error_type": "generation"})):
        dialect = Dialect(b"")
        dialect.feed(text)
        assert dialect.failed()
    good = Dialect(b"")
    good.feed(lines(said("error"), DONE))
    assert not good.failed()


def test_no_more_is_kept_than_a_line_or_the_end_of_one() -> None:
    dialect = Dialect(b"")
    for _ in range(100):
        dialect.feed(b'{"context":[' + b"1," * (MAX_LINE_BYTES // 2))
        assert len(dialect._rest) <= max(MAX_LINE_BYTES, END_BYTES)
    dialect.feed(b'1],"eval_count":8}\n')
    assert dialect.figures() == (-1, 8, False)


@pytest.mark.parametrize(
    ("dialect", "body", "wanted"),
    [
        (OLLAMA, {"model": "m"}, {"options": {"num_predict": 9}, "model": "m"}),
        (OLLAMA, {"model": "m", "options": {}}, {"model": "m", "options": {"num_predict": 9}}),
        (OLLAMA, {"model": "m", "options": None}, {"model": "m", "options": {"num_predict": 9}}),
        (OLLAMA, {"model": "m", "options": {"seed": 1}}, {"model": "m", "options": {"num_predict": 9, "seed": 1}}),
        (OLLAMA, {"options": {"num_predict": 3}}, {"options": {"num_predict": 3}}),
        (OLLAMA, {"options": {"num_predict": -1}}, {"options": {"num_predict": 9}}),
        (OLLAMA, {"options": {"num_predict": None}}, {"options": {"num_predict": 9}}),
        (TGI, {"inputs": "x"}, {"parameters": {"max_new_tokens": 9}, "inputs": "x"}),
        (TGI, {"inputs": "x", "parameters": {"max_new_tokens": 4, "top_k": 2}},
         {"inputs": "x", "parameters": {"max_new_tokens": 4, "top_k": 2}}),
    ],
)  # fmt: skip
def test_a_body_says_how_long_an_answer_may_be(dialect: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert json.loads(told(json.dumps(body).encode(), dialect, 9)) == wanted
