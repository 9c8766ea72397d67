"""Engines' own APIs: what their lines say, however they are cut, and how a body tells them how long an answer may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest

from fastgw.exchange.dialects import ENDLESS, MAX_LINE_BYTES, MOST_SEQUENCES, OLLAMA, OVERLAP_BYTES, TGI, Dialect, learn, told
from fastgw.protocol.openai import MOST_INSIDE, scan_body


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

LONG = MAX_LINE_BYTES + 5000
PREFILL = [{"id": 7, "text": "a\\\"b"}] * (LONG // 25)
TWO = {"generated_tokens": 3, "input_length": 4, "best_of_sequences": [{"generated_tokens": 2, "prefill": PREFILL}]}


def text(said: str, prompt: int, completion: int, index: int | None = None, **more: Any) -> dict[str, Any]:
    """One of SGLang's: all of the text there is by now."""
    meta = {"id": "a", "finish_reason": None, "prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
    return {"text": said, "meta_info": meta | more} | ({} if index is None else {"index": index})


LOGPROBS = {"output_token_logprobs": [[-0.5, 7, None]] * (LONG // 15)}

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
    "sglang, no counts": (events({"text": "x" * 40}, {"text": "x" * 80}, {"text": "x" * 120}), (-1, 30, True)),
    "sglang, two prompts": (events(text("a", 3, 1, 0), text("b", 4, 1, 1), text("ab", 3, 2, 0), text("abc", 3, 5, 0)),
                            (7, 6, False)),
    "sglang, of each 2": (events(*[text("a", 3 + at // 2, at, at) for at in range(4)]), (7, 6, False)),
    "sglang, a list": (json.dumps([text("a", 3, 1), text("b", 4, 5)]).encode(), (7, 6, False)),
    "sglang, a list of each 2": (json.dumps([text("a", 3, 1), text("b", 3, 5)]).encode(), (3, 6, False)),
    "sglang, long": (events(text("x", 3, 1), text("x" * LONG, 3, 9)), (3, 9, False)),
    "sglang, long, two": (events(text("x" * LONG, 3, 9, 0), text("y" * LONG, 4, 2, 1), text("y", 4, 3, 1)), (7, 12, False)),
    "sglang, long, numbers behind": (events(text("x", 3, 9, **LOGPROBS)), (3, 9, False)),
    "sglang, a long list": (json.dumps([text("x" * LONG, 3, 9), text("y", 4, 2, **LOGPROBS)]).encode(), (7, 11, False)),
    "sglang, a long list of each 2": (json.dumps([text("x" * LONG, 3, 9), text("y", 3, 2)]).encode(), (3, 11, False)),
    "sglang, a long text that looks like one": (
        events(text('"meta_info":{"prompt_tokens":9,"completion_tokens":99},' * 2000, 3, 9)), (3, 9, False)),
    "tgi, long": (events(token("a"), token("b", generated_text="x" * LONG, details=LAST["details"])), (7, 2, False)),
    "tgi, long, numbers behind": (json.dumps({"generated_text": "a", "details": TWO}).encode(), (4, 5, False)),
    "chat, long": (lines(said("a"), DONE | {"message": {"content": "x" * LONG}}), (5, 9, False)),
    "chat, long, a tool's arguments": (
        lines({"message": {"content": "x" * LONG, "tool_calls": [{"done": True, "eval_count": 7}]}, "done": False}),
        (-1, -1, False)),
    "load": (lines({"model": "m", "response": "", "done": True, "done_reason": "load"}), (0, 0, False)),
    "unload": (lines({"message": {"content": ""}, "done": True, "done_reason": "unload"}), (0, 0, False)),
    "nothing counted": (lines(DONE | {"prompt_eval_count": 0, "eval_count": 0}), (-1, 0, False)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_was_used_however_the_bytes_come(case: str, size: int) -> None:
    body, wanted = CASES[case]
    if size == 1 and len(body) > 10_000:
        size = 999
    dialect = Dialect(b"", 2 if case.endswith("of each 2") else 1)
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
    for text in (lines(said("error"), DONE), *(lines(said("a") | {"error": none}, {"error": none, **CONTEXT})
            for none in (None, False, 0, "", [], {})), json.dumps({"error": {}, **CONTEXT}).encode()):  # fmt: skip
        good = Dialect(b"")
        good.feed(text)
        assert not good.failed(), text[:99]


def test_no_more_is_kept_than_a_line_or_the_end_of_one() -> None:
    dialect = Dialect(b"")
    for _ in range(100):
        dialect.feed(b'{"context":[' + b"1," * (MAX_LINE_BYTES // 2))
        assert len(dialect._rest) <= MAX_LINE_BYTES
        assert dialect._long is None or len(dialect._long._before) <= OVERLAP_BYTES
    dialect.feed(b'1],"done":true,"eval_count":8}\n')
    assert dialect.figures() == (-1, 8, False)
    for at in range(MOST_SEQUENCES + 5):
        dialect.feed(events(text("a", 1, 2, at)))
    assert len(dialect._texts) == MOST_SEQUENCES + 1
    assert dialect.figures() == (MOST_SEQUENCES + 1, 2 * MOST_SEQUENCES + 2, True)


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
        (TGI, {"text": "x"}, {"sampling_params": {"max_new_tokens": 9}, "text": "x"}),
        (TGI, {"text": "x", "sampling_params": {"n": 2}}, {"text": "x", "sampling_params": {"max_new_tokens": 9, "n": 2}}),
        (TGI, {"text": "x", "sampling_params": None}, {"text": "x", "sampling_params": {"max_new_tokens": 9}}),
        (TGI, {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 3}, {}]},
         {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 3}, {"max_new_tokens": 9}]}),
        (TGI, {"text": ["x"], "sampling_params": []}, {"text": ["x"], "sampling_params": {"max_new_tokens": 9}}),
        (TGI, {"text": ["x"], "sampling_params": [{}, 7]}, {"text": ["x"], "sampling_params": {"max_new_tokens": 9}}),
        (TGI, {"text": ["x"], "sampling_params": [{}] * 5000}, {"text": ["x"], "sampling_params": {"max_new_tokens": 9}}),
        (TGI, {"inputs": "x", "input_ids": [1]},
         {"inputs": "x", "input_ids": [1], "parameters": {"max_new_tokens": 9}, "sampling_params": {"max_new_tokens": 9}}),
    ],
)  # fmt: skip
def test_a_body_says_how_long_an_answer_may_be(dialect: str, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    places = learn(scan_body(data), data, dialect, 1000, 4).places
    assert json.loads(told(data, places, 9)) == wanted


@pytest.mark.parametrize(
    ("dialect", "body", "wanted", "own"),
    [
        (OLLAMA, {"options": {"num_predict": 7}}, (7, 1, 1), (1, 7)),
        (OLLAMA, {"options": {"num_predict": -1}}, (-1, 1, 1), (1, ENDLESS)),
        (OLLAMA, {"options": {"num_predict": 9999}}, (-1, 1, 1), (1, 9999)),
        (OLLAMA, {"options": {"num_predict": [[]]}}, (-1, 1, 1), (1, ENDLESS)),
        (OLLAMA, {"options": [], "num_predict": 3}, (3, 1, 1), (1, ENDLESS)),
        (TGI, {"inputs": "x", "parameters": {"max_new_tokens": 7, "best_of": 3}}, (7, 3, 1), (1, 7)),
        (TGI, {"inputs": "x", "sampling_params": {"max_new_tokens": 7, "n": 3}}, (-1, 1, 1), (1, ENDLESS)),
        (TGI, {"inputs": "x", "text": "x", "parameters": {"best_of": 3}}, (-1, 3, 1), (1, ENDLESS)),
        (TGI, {"text": "x"}, (-1, 1, 1), (1, 128)),
        (TGI, {"text": "x", "n": 5, "n_cmpl": 6, "best_of": 7}, (-1, 7, 1), (1, 128)),
        (TGI, {"text": "x", "parameters": {"max_new_tokens": 7}}, (-1, 1, 1), (1, 128)),
        (TGI, {"text": "x", "sampling_params": {"max_new_tokens": None}}, (-1, 1, 1), (1, ENDLESS)),
        (TGI, {"text": "x", "sampling_params": {"max_new_tokens": 7, "n": 3}}, (7, 3, 1), (3, 7)),
        (TGI, {"text": ["x", "y"], "sampling_params": {"max_new_tokens": 7.0, "n": "3"}}, (7, 1, 2), (1, 7)),
        (TGI, {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 7, "n": 2}, {"max_new_tokens": 5}]},
         (7, 2, 2), (1, 7)),
        (TGI, {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 7}, {}]}, (-1, 1, 2), (1, 128)),
        (TGI, {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 700}, {}]}, (-1, 1, 2), (1, 700)),
        (TGI, {"text": "x", "sampling_params": [{"n": 2}] * MOST_INSIDE}, (-1, 2, 1), (2, 128)),
        (TGI, {"text": "x", "sampling_params": [{"n": 2}] * (MOST_INSIDE + 1)}, (-1, 1, 1), (1, 128)),
        (TGI, {"input_ids": [1, 2, 3]}, (-1, 1, 1), (1, 128)),
        (TGI, {"input_ids": [[1, 2, 3], [4], [5]]}, (-1, 1, 3), (1, 128)),
        (TGI, {"input_embeds": [[0.5, 1.0], [1.5, 2.0]]}, (-1, 1, 1), (1, 128)),
        (TGI, {"input_embeds": [[[0.5, 1.0], [1.5, 2.0]], [[1.0]]]}, (-1, 1, 2), (1, 128)),
        (TGI, {"text": "x", "sampling_params": {"n": 10**9}}, (-1, 1024, 1), (1024, 128)),
        (TGI, {"text": "x", "sampling_params": {"n": 10**50, "max_new_tokens": 10**50}}, (-1, 1, 1), (1, ENDLESS)),
    ],
)
def test_what_a_body_says_in_its_own_places(
    dialect: str, body: dict[str, Any], wanted: tuple[int, int, int], own: tuple[int, int]
) -> None:
    """How long its answers may be, how many there may be, of how many prompts; how many its engine makes of each, and how long
    they are where nothing is said."""
    data = json.dumps(body, indent=1).encode()
    facts = scan_body(data)
    found = learn(facts, data, dialect, 1000, 4)
    assert (facts.token_limit, facts.answers, facts.prompts) == wanted
    assert (found.each, found.most) == own


def test_numbers_of_tokens_count_as_many_as_they_are() -> None:
    data = json.dumps({"input_ids": [1] * 1000}, separators=(",", ":")).encode()
    facts = scan_body(data)
    learn(facts, data, TGI, 1000, 4)
    assert 1000 <= facts.prompt_tokens <= 1010


@pytest.mark.quiet
@pytest.mark.parametrize("name", ["text", "input_ids"])
def test_a_large_body_costs_no_more_here_than_what_it_says_costs_elsewhere(name: str) -> None:
    """(``input`` of the usual API is the same list, by another name.)"""
    value: list[Any] = ["word " * 20] * 40_000 if name == "text" else [[12345] * 100] * 6_000
    bodies = [json.dumps({one: value, "sampling_params": {"max_new_tokens": 5}}).encode() for one in (name, "input")]
    facts = scan_body(bodies[0])

    def took_s(call: Callable[[], object]) -> float:
        begun = thread_time()
        call()
        return thread_time() - begun

    ours = min(took_s(lambda: learn(facts, bodies[0], TGI, 1000, 4)) for _ in range(5))
    usual = min(took_s(lambda: scan_body(bodies[1])) for _ in range(5))
    assert ours < 1.2 * usual
