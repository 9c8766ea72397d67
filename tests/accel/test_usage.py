"""What an answer says it has used: every API's shape, wherever in it that stands, in any pieces, in both twins."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from fastgw import twins
from fastgw.accel.figures import ANSWERS as ANSWERED_BY
from fastgw.accel.figures import MEMBERS, NAME_BYTES, NUMBER_BYTES
from tests.support.twins import native_twin, python_twin

SIDES: list[Any] = [python_twin("fastgw.accel.usage"), *([native_twin("fastgw.accel.usage")] if twins.native() else [])]

ANSWERS = {
    "vllm": b'{"id":"c","choices":[{"message":{"content":"hi"},"logprobs":null}],"usage":{"prompt_tokens":7,"total_tokens":23,'
    b'"completion_tokens":16,"prompt_tokens_details":null},"prompt_logprobs":null,"kv_transfer_params":null}',
    "openai": b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":16,"total_tokens":23,"prompt_tokens_details":'
    b'{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":9}},"service_tier":"default"}',
    "sglang": b'{"id":"c","choices":[],"usage":{"prompt_tokens":7,"total_tokens":23,"completion_tokens":16,'
    b'"prompt_tokens_details":null,"reasoning_tokens":0},"metadata":{"weight_version":"default"}}',
    "llama.cpp": b'{"choices":[],"created":1,"usage":{"completion_tokens":16,"prompt_tokens":7,"total_tokens":23},"id":"c",'
    b'"timings":{"prompt_n":1,"predicted_n":16,"predicted_ms":1.5}}',
    "tgi": b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":16,"total_tokens":23}}\n',
    "messages": b'{"content":[{"type":"text","text":"\\"usage\\":{\\"input_tokens\\":1}"}],"usage":{"input_tokens":7,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":3,"input_tokens":99},"output_tokens":16,"service_tier":"standard"}}',
    "responses": b'{"output":[],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":1},"output_tokens":16,'
    b'"output_tokens_details":{"reasoning_tokens":0},"total_tokens":23},"user":null,"metadata":{}}',
    "spaced": b'{\n "usage" : {\r\n\t"prompt_tokens" : 7 ,\n "completion_tokens" : 16\n }\n}\n',
    "two": b'{"choices":[{"usage":{"prompt_tokens":1,"completion_tokens":1}}],"usage":{"prompt_tokens":7,'
    b'"completion_tokens":16}}',
    "named": b'{"usage":{"prompt_tokens":7,"completion_tokens":16},"tags":["usage","usage"],"usages":{"prompt_tokens":1}}',
    "escaped": b'{"usage":{"prompt_tokens":7,"completion_tokens":16},"a\\"usage":{"prompt_tokens":1,"completion_tokens":2}}',
    "noted": b'{"x":"... ]}","usage":{"note":"}","prompt_tokens":7,"completion_tokens":16}}',
}  # fmt: skip


@pytest.mark.parametrize("engine", ANSWERS)
def test_usage_of_a_plain_answer(engine: str) -> None:
    long = b'{"text":"' + b"word " * 2000 + b'",' + ANSWERS[engine].lstrip()[1:]
    for side in SIDES:
        assert side.usage_in(ANSWERS[engine])[:2] == (7, 16)
        assert side.usage_in(long)[:2] == side.scanned(long).figures()[:2] == (7, 16)


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (b"", (-1, -1)),
        (b'"usage"', (-1, -1)),
        (b'{"usage":null}', (-1, -1)),
        (b'{"usage":{}}', (-1, -1)),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}', (0, 0)),
        (b'{"usage":{"prompt_tokens":7}}', (7, -1)),
        (b'{"usage":{"prompt_tokens":7,"input_tokens":8,"output_tokens":9}}', (7, 9)),
        (b'{"usage":{"prompt_tokens":null,"input_tokens":8,"completion_tokens":1.5,"output_tokens":9}}', (8, 9)),
        (b'{"usage":{"prompt_tokens":-7,"completion_tokens":"16"}}', (-1, -1)),
        (b'{"usage":{"prompt_tokens":999999999999,"completion_tokens":1000000000000}}', (999999999999, -1)),
        (b'{"usage":{"prompt_tokens":1,"prompt_tokens":2,"x":"prompt_tokens"}}', (2, -1)),
        (b'{"usage":{"prompt_tokens":7,"prompt_tokens":-1,"input_tokens":1,"output_tokens":2}}', (1, 2)),
        (b'{"usage":{"a":"\\"prompt_tokens\\":5","b":["prompt_tokens",{"prompt_tokens":6}]}}', (-1, -1)),
        (b'{"usage":{"prompt_tokens":3,"x":"unended', (-1, -1)),
        (b'{"usage":{"prompt_tokens":3', (-1, -1)),
        (b'{"usage":{"prompt_tokens":3},"x":[' + b'"usage",' * 800 + b"1]}", (3, -1)),
        (b'{"usage":{"prompt_tokens":3},"x":"' + b"x" * 100_000 + b'"}', (3, -1)),
        (b'{"usage":{"prompt_tokens":16.0,"completion_tokens":3.00}}', (16, 3)),
        (b'{"usage":{"prompt_tokens":1e3,"completion_tokens":1.}}', (-1, -1)),
        (b'{"usage":{"prompt_tokens":3},"usage":null}', (-1, -1)),
        (b'{"x":{"usage":{"prompt_tokens":3}}}', (-1, -1)),
        (b'{"x":[{"usage":{"prompt_tokens":3}}],"y":1}', (-1, -1)),
        (b'[{"usage":{"prompt_tokens":3}}]', (-1, -1)),
        (b'{"usage":{"prompt_tokens":3}}]', (3, -1)),
        (b'{"x":"\\\\","usage":{"prompt_tokens":3}}', (3, -1)),
        (b'{"\\u0075sage":{"prompt\\u005Ftokens":3}}', (3, -1)),
        (b'{"' + b"n" * (NAME_BYTES + 9) + b'":1,"usage":{"prompt_tokens":3}}', (3, -1)),
        (b'{"x":' + b"1" * (NUMBER_BYTES + 9) + b',"usage":{"prompt_tokens":3}}', (3, -1)),
        (b'{"x":' + b"[" * 511 + b"]" * 511 + b',"usage":{"prompt_tokens":3}}', (3, -1)),
        (b'{"usage":{"prompt_tokens":3},"x":' + b"[" * 512 + b"]" * 512 + b"}", (3, -1)),
        (b'{"x":' + b"[" * 512 + b"]" * 512 + b',"usage":{"prompt_tokens":3},"y":[' + b"[" * 512 + b"]" * 513 + b"}", (-1, -1)),
    ],
)
def test_usage_where_not_all_is_said(answer: bytes, counts: tuple[int, int]) -> None:
    for side in SIDES:
        assert side.usage_in(answer)[:2] == counts



# By API: what an engine says, and (prompt, completion, cached, reasoning).
MEANT: dict[str, tuple[Any, tuple[int, int, int, int]]] = {
    "chat": ({"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {
        "cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3}}}, (9, 4, 8, 3)),
    "SGLang": ({"usage": {"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 3}}, (9, 4, -1, 3)),
    "responses": ({"usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 8}, "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 13}}, (9, 4, 8, 3)),
    "messages": ({"usage": {"input_tokens": 1, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 20,
        "output_tokens": 4}}, (29, 4, 8, -1)),
    "messages, no cache": ({"usage": {"input_tokens": 1, "cache_read_input_tokens": None,
        "cache_creation_input_tokens": None, "output_tokens": 4}}, (1, 4, -1, -1)),
    "reasoning beside the completion": ({"usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 118,
        "completion_tokens_details": {"reasoning_tokens": 100}}}, (11, 107, -1, 100)),
    "reasoning beside the output": ({"usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 118,
        "output_tokens_details": {"reasoning_tokens": 100}}}, (11, 107, -1, 100)),
    "reasoning, and a total of something else": ({"usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 19,
        "completion_tokens_details": {"reasoning_tokens": 5}}}, (11, 7, -1, 5)),
    "messages, a cache that is new": ({"usage": {"input_tokens": 1, "cache_creation_input_tokens": 20, "output_tokens": 4}},
        (21, 4, 0, -1)),
    "a chat with both names": ({"usage": {"prompt_tokens": 9, "cache_read_input_tokens": 8, "completion_tokens": 4}},
        (9, 4, 8, -1)),
    "embeddings": ({"usage": {"prompt_tokens": 9, "total_tokens": 9}}, (9, 0, -1, -1)),
    "embeddings, before their data": ({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "data": [{"embedding":
        [0.015625] * 2000}]}, (9, 0, -1, -1)),
    "score": ({"usage": {"total_tokens": 9}}, (9, 0, -1, -1)),
    "rerank": ({"results": [{"document": {"usage": {"total_tokens": 1}}}], "usage": {"total_tokens": 9}}, (9, 0, -1, -1)),
    "Cohere": ({"meta": {"tokens": {"input_tokens": 9}, "billed_units": {"search_units": 1}}}, (9, -1, -1, -1)),
    "Cohere's embeddings": ({"meta": {"billed_units": {"input_tokens": 9}}}, (9, -1, -1, -1)),
    "images": ({"data": [{"b64_json": "A" * 9000}], "usage": {"input_tokens": 9, "input_tokens_details": {"image_tokens": 2},
        "output_tokens": 4, "total_tokens": 13}}, (9, 4, -1, -1)),
    "transcription": ({"text": "x", "usage": {"type": "tokens", "input_tokens": 9, "output_tokens": 4, "total_tokens": 13}},
        (9, 4, -1, -1)),
    "no completion": ({"usage": {"prompt_tokens": 9, "total_tokens": 13}}, (9, 4, -1, -1)),
    "no prompt": ({"usage": {"completion_tokens": 4, "total_tokens": 13}}, (9, 4, -1, -1)),
    "llama.cpp": ({"timings": {"cache_n": 8, "prompt_n": 1, "predicted_n": 4, "predicted_ms": 1.5}}, (9, 4, 8, -1)),
    "llama.cpp, both": ({"usage": {"prompt_tokens": 9, "completion_tokens": 4}, "timings": {"cache_n": 8, "prompt_n": 1,
        "predicted_n": 4}}, (9, 4, 8, -1)),
    "llama.cpp, the other way": ({"timings": {"cache_n": 8, "prompt_n": 1, "predicted_n": 4}, "usage": {"prompt_tokens": 9,
        "completion_tokens": 4}}, (9, 4, 8, -1)),
    "an event of responses": ({"type": "response.completed", "response": {"output": [{"usage": {"input_tokens": 1}}],
        "usage": {"input_tokens": 9, "output_tokens": 4}}}, (9, 4, -1, -1)),
    "an event of messages": ({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 9,
        "output_tokens": 1}}}, (9, 1, -1, -1)),
    "deeper than an event has it": ({"x": {"response": {"usage": {"input_tokens": 9}}}, "response": {"response": {"usage":
        {"input_tokens": 9}}}}, (-1, -1, -1, -1)),
    "among choices": ({"choices": [{"message": {"usage": {"prompt_tokens": 9}}}]}, (-1, -1, -1, -1)),
    "in a text": ({"text": '"usage":{"prompt_tokens":9}'}, (-1, -1, -1, -1)),
}  # fmt: skip


@pytest.mark.parametrize("api", MEANT)
@pytest.mark.parametrize("indent", [None, 1])
def test_what_usage_means(api: str, indent: int | None) -> None:
    said, meant = MEANT[api]
    answer = json.dumps(said, indent=indent, separators=None if indent else (",", ":")).encode()
    for side in SIDES:
        assert side.usage_in(answer) == meant
        assert side.event_usage(answer)[:4] == meant
        for step in (1, 7, 64, 1000):
            scanner = side.UsageScanner()
            for at in range(0, len(answer), step):
                scanner.feed(answer[at : at + step])
            assert (scanner.figures(), scanner.whole) == (meant, True)


def test_seconds_of_audio() -> None:
    answer = b'{"text":"\\"seconds\\"","usage":{"type":"duration","seconds":%b}}'
    for side in SIDES:
        for said, seconds in ((b"27", 27), (b"27.0", 27), (b"26.2", 27), (b"-1", -1), (b'"1"', -1)):
            assert side.seconds_in(answer % said) == side.scanned(answer % said).seconds == seconds
            assert side.usage_in(answer % said) == (-1, -1, -1, -1)


EMPTY = (b"null", b"false", b"0", b'""', b"{}", b"[]", b"{ }", b"[\n]")
SOME = (b'{"code":1}', b'"x"', b"1", b"true", b"[0]", b'" "', b'{ "":0}', b"10", b"-1")
ANSWERED = sorted(ANSWERED_BY)


def test_an_error_is_seen_and_what_there_is_of_an_answer() -> None:
    """Where either is not empty, in whatever pieces it comes; and with which words, and of which type, the error is."""
    for side in SIDES:
        for said, error, answers in (
            *((b'{"error":%b,"x":""}' % one, False, False) for one in EMPTY),
            *((b'{"error":%b}' % one, True, False) for one in SOME),
            *((b'{"%b":%b,"error":"x"}' % (name.encode(), one), True, False) for name in ANSWERED for one in EMPTY),
            *((b'{"error":"x","%b":["a"]}' % name.encode(), True, True) for name in ANSWERED),
            (b'{"x":{"error":1,"text":"a"}}', False, False), (b'{"message":"no","error":"x"}', True, False),
            (b'{"error":"","error":"x"}', True, False), (b'{"response":{"error":[1],"output":[1]}}', True, False),
        ):  # fmt: skip
            for step in (1, 3, len(said)):
                scanner = side.UsageScanner()
                for at in range(0, len(said), step):
                    scanner.feed(said[at : at + step])
                assert (scanner.error, scanner.answers, scanner.whole) == (error, answers, True), said
        typed = b'{"error_type":"generation","usage":null,"error":"no"}'
        assert side.scanned(typed).failure() == b'{"error_type":"generation","error":"no"}'
        assert side.scanned(typed.replace(b'"no"', b'""')).failure() == b""


def test_an_answer_that_names_no_error_is_told_without_a_scanner() -> None:
    """Wherever the name stands: the compiled one looks at sixteen bytes at a time."""
    for side in SIDES:
        for at in range(48):
            for behind in range(24):
                assert side.names_error(b'"erro"' * 8 + b"x" * at + b'"error"' + b'"errand"'[:behind])
                assert not side.names_error(b"x" * at + b'"erroR"' + b'"errand"'[:behind] + b'"error')


def test_what_is_kept_does_not_grow() -> None:
    scanner = SIDES[0].UsageScanner()
    for piece in (b'{"', *[b"n" * 1000] * 50, b'":', *[b"1" * 1000] * 50, b',"x":"', *[b"\\" * 999] * 50):
        scanner.feed(piece)
        assert len(scanner._rest) < 2 * NAME_BYTES


@pytest.mark.both_twins
def test_both_twins_read_alike_whatever_comes() -> None:
    from tests.fuzz import usage

    chance = random.Random(21)
    seeds = [seed for seed in usage.seeds() if len(seed) < 500]
    words = usage.words()
    assert len(words) > len({one.name for one in MEMBERS})
    for _ in range(1500):
        text = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(5)):
            at = chance.randint(0, len(text))
            text[at : at + chance.randrange(4)] = chance.choice([b"", *words])
        usage.check(bytes(text))
        usage.check(b"{" + b"".join(chance.choices(words, k=chance.randrange(1, 25))))
