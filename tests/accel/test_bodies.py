"""What a body says of itself, and an answer of its usage: both twins against the complete path, and against each other."""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw import twins
from fastgw.accel.brackets import MAX_DEPTH
from fastgw.accel.members import Fault
from fastgw.errors import GatewayError
from fastgw.protocol.openai import MAX_MEMBERS, scan_body, scan_completely
from tests.support.frame import prompt_bytes
from tests.support.json_cases import EITHER, INVALID, VALID, Case, forms
from tests.support.judged import OTHERS, Refused, agree, told
from tests.support.twins import native_twin, python_twin

DEPTH = 64
BUDGET = settings()  # as many as the profile has: tests/conftest.py
SIDES: list[Any] = [python_twin("fastgw.accel.bodies"), *([native_twin("fastgw.accel.bodies")] if twins.native() else [])]

CHAT = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Say \"hi\"\n\u4f60\u597d \U0001f600"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
REQUESTS: list[dict[str, Any]] = [
    {"model": "meta-llama/Llama-3.1-8B-Instruct", "messages": CHAT},
    {"messages": CHAT, "model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True}},
    {"model": "m", "messages": CHAT, "stream": False, "max_tokens": 128, "temperature": 0.7, "top_p": 1, "n": 2, "stop": None},
    {"model": "m", "messages": CHAT, "max_completion_tokens": 99, "stream_options": None, "seed": -7, "x": {"1": -1.5}},
    {"model": "m", "messages": CHAT, "tools": [TOOL], "tool_choice": "auto", "response_format": {"type": "json_object"}},
    {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,a/b+c=="}}]}]},
    {"model": "m", "prompt": "Once upon", "max_tokens": 16, "logprobs": 1, "echo": False, "stream_options": {}},
    {"model": "m", "prompt": ["a", "b"], "max_tokens": None, "stream": None, "n": None},
    {"model": "m", "input": ["one", "two"], "encoding_format": "float", "user": "u-1"},
    {"model": "m", "input": CHAT, "max_output_tokens": 5, "stream": True, "stream_options": {"x": [1], "include_usage": False}},
    {"model": "mod\u00e8le/\u6a21\u578b", "messages": [], "metadata": {"a": {"b": [[], {}, [{}]]}}},
    {"query": "q", "documents": ["d"] * 100},
    {},
]
ODD = [
    b'{"model":"a","model":"b"}', b'{"model":"a","mod\\u0065l":"b"}', b'{"stream":true,"stream":false,"model":"m"}',
    b'{"model":"m","stream_options":{},"stream_options":{"include_usage":true}}', b'{"model":"","x":1}', b'{"model":null}',
    b'{"model":5}', b'{"model":"m\x7f"}', b'{"model":"m","stream":1}', b'{"model":"m","stream":"true"}',
    b'{"model":"m","max_tokens":5.0}', b'{"model":"m","max_tokens":1e2}', b'{"model":"m","max_tokens":"5"}',
    b'{"model":"m","n":[]}', b'{"model":"m","stream_options":[]}', b'{"model":"m","stream_options":{"include_usage":1}}',
    b'{"model":"m"}{}', b'{"model":"m"}x', b'{"model":"m"', b'{"model":"m",}', b'{,"model":"m"}', b'{"model" "m"}', b"[]",
    b'"m"', b"", b" ", b"{", b'{"', b'{"\\', b'{"\\u', b'{"\\ud800', b'{"\\ud800\\', b'{"a":"\xf0\x9f\x98',
    b'{"a":"\\ud800\\u0041"}',
    b'\xef\xbb\xbf{"model":"m"}', b'{"model":"m","x":01}', b'{"model":"m","x":1.}', b'{"model":"m","x":-}',
    b'{"model":"m","x":tru', b'{"model":"m"}\x00', b'{"model":"m","x":"\x00"}', b'{"model":"m\\n"}',
    b'{"model":"' + b"m" * 257 + b'"}',
]  # fmt: skip

WRONG_IN_TEXT = [
    b"\x1f", b"\n", b"\x00", b"\\", b"\\x", b'"', b"\\u00", b"\\ud83d", b"\\ud83d\\n", b"\\ud83d\\u0041", b"\\ude00",
    b"\xc3", b"\xff", b"\x80", b"\xc0\x80", b"\xc3\xa9\xa9", b"\xe0\x80\xaf", b"\xe2\x82", b"\xed\xa0\x80",
    b"\xf0\x80\x80\xaf", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\\u4f6g",
    b"\\u:000", b"\\uG000", b"\\u00\\n0",
]  # fmt: skip

NOT_ASCII = [
    b"\xc3\xa9", b"\xe6\xa8\xa1", b"\xf0\x9f\x98\x80", b"\xf4\x8f\xbf\xbf", b"\\u4f60\\u0041", b"\\uD83d\\uDe00", b"\\ud7ff",
    b"\\ud6aa", b"\\\\u00", b"\\u00e9\\\\u",
]  # fmt: skip

IN_A_LIST = [
    b"0", b"00", b"01", b"10", b"1 2", b"1 ,2", b"1,  2", b"1,\n2", b",", b", ,1", b" ", b"-", b"-5", b"1.", b"1.5", b"1e",
    b"1E5", b"/", b":", b";", b"[1]", b"]", b'"x"', b"true", b"\x00", b"\xff", b"7" * 70, b"0" * 70,
]  # fmt: skip


def judged(body: bytes, max_depth: int, max_members: int) -> tuple[object, ...] | Refused:
    """What the complete path says."""
    try:
        return told(scan_completely(body, max_depth, max_members))
    except GatewayError as error:
        return Refused(error.kind.name, error.param)


def hold(body: bytes, max_depth: int = DEPTH, max_members: int = MAX_MEMBERS) -> int:
    """Assert that both twins and both paths say of a body what another reader of JSON says, and how many sides took the
    short way to it."""
    verdict = judged(body, max_depth, max_members)
    assert agree(verdict, body, max_depth, max_members), (body, verdict)
    outlines = [side.outline(body, max_depth, max_members) for side in SIDES]
    assert outlines[0] == outlines[-1], body
    took = 0
    for side in SIDES:
        facts = side.read(body, max_depth, max_members)
        if isinstance(facts, side.BodyFacts):
            took += 1
            assert told(facts) == verdict, (side, body)
            assert repr(facts) == repr(scan_completely(body, max_depth, max_members)), (side, body)
        else:
            assert facts == outlines[0], (side, body)
    return took


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_what_libraries_send_is_understood_at_once(request_: dict[str, Any]) -> None:
    for text in (
        json.dumps(request_, ensure_ascii=request_.get("model", "").isascii()),
        json.dumps(request_, ensure_ascii=False, separators=(",", ":")),
        " \r\n" + json.dumps(request_, indent=1, ensure_ascii=False).replace("\n", "\t\r\n") + "\n",
    ):
        assert hold(text.encode()) == len(SIDES)
    options = request_.get("stream_options") or {}
    limits = [request_[name] for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if request_.get(name)]
    text = json.dumps(request_, ensure_ascii=False)
    for side in SIDES:
        facts = side.read(text.encode(), DEPTH, MAX_MEMBERS)
        assert told(facts) == (
            request_.get("model", ""), request_.get("stream") is True, options.get("include_usage") is True,
            "stream_options" in request_, *(limits or [-1]), *[request_.get("n") or 1] * 2, facts.named,
            any(name in request_ and request_[name] is None for name in ("max_tokens", "max_completion_tokens")),
            len(request_["prompt"]) if isinstance(request_.get("prompt"), list) else 1,
        )  # fmt: skip
        size, wide = prompt_bytes(text.encode()), sum(len(c.encode()) for c in text if not c.isascii())
        several = [one for name in ("prompt", "input") for one in [request_.get(name)] if isinstance(one, list)]
        more = 2 * sum(len(one) - 1 for one in several if isinstance(one[0], str)) + 1000 * text.count('"image_url": {')
        documents = len(request_.get("documents", []))
        more += 5 * documents - 1 if documents else 0  # a pair's marks, and the query of a token
        assert facts.prompt_tokens == math.ceil((size - wide) / 4) + math.ceil(wide / 2) + more


@pytest.mark.parametrize("body", ODD, ids=ascii)
def test_what_is_odd_is_left_to_the_complete_path(body: bytes) -> None:
    assert hold(body) == 0


@pytest.mark.parametrize("case", [*INVALID, *VALID, *EITHER], ids=lambda case: case.id)
def test_no_document_is_taken_that_the_complete_path_refuses(case: Case) -> None:
    for form, body in forms(case).items():
        took = hold(body)
        if case.verdict == "n":
            assert not took, form
        elif case.verdict == "y" and form != "bare":
            assert not isinstance(judged(body, DEPTH, MAX_MEMBERS), Refused), form


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__file__.rpartition(".")[2])
def test_depth_is_counted_to_the_level(side: Any) -> None:
    for limit in (1, 2, 3, 63, 64, 65, 128, 511, 512):
        for opening, inner, closing in ((b"[", b"", b"]"), (b'{"a":', b"1", b"}"), (b'[{"a\\n":', b"0", b"}]")):
            levels = limit // len(closing)
            text = opening * levels + inner + closing * levels
            size = levels * len(closing)
            bare = b'{"x":' + text + b',"stream_options":{"y":' + text + b"}}"
            fits = isinstance(side.read(bare, size + 2, 16), side.BodyFacts)
            assert fits == (size + 2 <= MAX_DEPTH)
            assert side.read(bare, size + 1, 16).fault == Fault.DEEP
    assert isinstance(side.read(b"{}", 1, 16), side.BodyFacts)
    assert side.read(b"{}", 0, 16).fault == Fault.DEEP


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__file__.rpartition(".")[2])
def test_text_may_be_of_any_length_and_end_anywhere(side: Any) -> None:
    """The scan of text goes by blocks: each length, and each place of what ends it."""
    for size in range(70):
        for odd in (b"", b"\\n", b"\\u00e9", b"\xc3\xa9", b"\xe6\xa8\xa1", b"\xf0\x9f\x98\x80", b"\\ud83d\\ude00", b"\x7f"):
            text = b"a" * size + odd + b"b" * (69 - size)
            assert isinstance(side.read(b'{"x":"' + text + b'"}', DEPTH, 16), side.BodyFacts)
            wide = len(text) - len(text.translate(None, bytes(range(128, 256))))
            size = len(text) + len(b'{"prompt":""}') - wide
            assert side.read(b'{"prompt":"' + text + b'"}', DEPTH, 16).prompt_tokens == -(-size // 4) - (-wide // 2)
        for wrong in WRONG_IN_TEXT:
            text = b"a" * size + wrong + b"q" * (9 - size)
            assert side.read(b'{"x":"' + text + b'"}', DEPTH, 16).fault in (Fault.NO_TEXT, Fault.NO_JSON)
            assert side.read(b'{"x":"' + b"a" * size, DEPTH, 16).fault == Fault.NO_JSON


def test_what_follows_an_escape_is_read_as_what_does_not() -> None:
    """From the first escape on text goes by larger blocks: each length of what lies between, each kind of what ends it."""
    for size in range(140):
        text = b"\\n" + b"a" * size
        for odd in (b"\\t", b"\\/", b"\\u00e9", b"\xc3\xa9", b"\\\\", b'\\"', b"\\\\\\\"", *WRONG_IN_TEXT):
            for more in (b"", b"b" * 80):
                hold(b'{"model":"m","prompt":"' + text + odd + more + b'"}')
        hold(b'{"model":"m","prompt":"' + text)
        hold(b'{"model":"m","prompt":"' + text + b"\\" * 61 + b"b" * 70 + b'"}')
        hold(b'{"model":"m","prompt":"' + text + b"\\" * 62 + b'"}')


def test_long_text_that_is_not_ascii_is_read_as_short_text_is() -> None:
    """It goes by blocks from some length on: each place in one of what is text and of what is none, alone or not."""
    wide = "\u00e9\u4f60\U0001f600\u0440".encode()
    for size in range(70):
        for before in (b"a" * (64 + size), wide * 6 + b"a" * size, b"\\u4F60" * 11 + b"a" * size):
            for odd in (*NOT_ASCII, b"\\/\xc3\xa9", *WRONG_IN_TEXT):
                for more in (b"", b"b" * 80, wide * 7):
                    hold(b'{"model":"m","prompt":"' + before + odd + more + b'"}')
        hold(b'{"model":"m","prompt":"' + b"a" * 64 + (wide * 9)[: 64 + size] + b'"}')
        hold(b'{"model":"' + b"m" * (64 + size) + wide + b'"}')
        hold(b'{"model":"' + b"m" * (64 + size) + b'\\/m"}')
        hold(b'{"model":"m","prompt":"' + b"a" * (64 + size) + b'\\"' + b"[" * 9 + b"\xff" + b"[" * 70)


def test_any_mixture_of_text_is_read_as_the_complete_path_reads_it() -> None:
    chance = random.Random(7)
    good = [b"\\\\", b'\\"', b"\\n", b"\\u00e9", b"a", b"b" * 15, b"[" * 70, b"\xc3\xa9", b"\xe4\xbd\xa0", b"\xf0\x9f\x98\x80"]
    for number in range(3000):
        pieces = good + chance.sample(WRONG_IN_TEXT, 1)
        text = b"".join(chance.choices(pieces, [9] * len(good) + [0.2 * (number & 1)], k=chance.randrange(20, 80)))
        hold(b'{"model":"m","x":{"' + text + b'":"' + text + b'"}}')


def test_a_list_of_numbers_is_read_as_its_numbers_are() -> None:
    """From some on they go by blocks: each place in one of what a list may hold and of what it may not."""
    for size in range(70):
        for comma in (b",", b", "):
            before = comma.join([b"1"] * 9) + comma + (b"123456789" * 8)[:size] + comma * (size > 0)
            for odd in IN_A_LIST:
                for more in (b"", comma + comma.join([b"100"] * 30)):
                    hold(b'{"model":"m","prompt":[' + before + odd + more + b"]}")
            hold(b'{"model":"m","prompt":[' + before)
            hold(b'{"model":"m","prompt":[' + comma.join([b"204"] * 50) + comma + before[:-1] + b"]}")


def test_escapes_side_by_side_end_where_they_end() -> None:
    """Pairs of backslashes in every place of a block, and what may stand behind an odd and behind an even number of them."""
    chance = random.Random(5)
    pieces = (b"\\\\", b'\\"', b"\\n", b"\\u00e9", b"\\ud83d\\ude00", b"a", b"b" * 15, b"c" * 40, b"\xc3\xa9", b"\\", b'"')
    for _ in range(1000):
        text = b"".join(chance.choices(pieces, (8, 4, 4, 3, 1, 6, 1, 1, 2, 0.1, 0.02), k=chance.randrange(1, 80)))
        hold(b'{"model":"m","prompt":"' + text + b'"}')


@pytest.mark.quiet
def test_no_mixture_of_escapes_costs_much_more_than_one_kind() -> None:
    """As JSON within JSON has them: a stop every few bytes must not have the next 64 looked at each time."""

    def best_s(text: bytes) -> float:
        body = b'{"model":"m","prompt":"' + text * (1_000_000 // len(text)) + b'"}'
        times = []
        for _ in range(15):
            began = time.process_time()
            SIDES[-1].read(body, DEPTH, 16)
            times.append(time.process_time() - began)
        return min(times)

    alone = best_s(b"\\u00e9")
    for text in (b"\\\\\\u00e9", b'a\\\\\\"\\u00e9\\n', b"\\\\\\\\\\u00e9", b"\\\\\xc3\xa9"):
        assert best_s(text) < 5 * alone, text


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__file__.rpartition(".")[2])
def test_many_models_are_told_apart(side: Any) -> None:
    names = [f"{chance}-model-{number}" for chance in "abc" for number in range(300)]
    for name in names + names[::-1]:
        assert side.read(b'{"model":"%b"}' % name.encode(), DEPTH, 16).model == name


def test_numbers_that_no_machine_holds_are_capped() -> None:
    facts = scan_body(b'{"model":"m","n":%d,"max_tokens":%d}' % (10**30, 10**30))
    assert (facts.choices, facts.token_limit) == (2**62, 2**62)
    assert scan_body(b'{"model":"m","n":-3,"max_tokens":-%d}' % 10**30).token_limit == -1


def test_facts_show_nothing_of_the_prompt() -> None:
    for side in SIDES:
        assert repr(side.read(b'{"model":"m","prompt":"secret","n":2}', DEPTH, 16)) == (
            "BodyFacts(model='m', stream=False, include_usage=False, has_stream_options=False, token_limit=-1, choices=2, "
            "answers=2, named=0, overrides=False, prompt_tokens=5, prompts=1, uncounted=0)"
        )


# ---- any body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
COUNT = st.none() | st.integers(-3, 10**19) | JSON
MEMBER = st.one_of(
    st.tuples(st.just("model"), st.text(max_size=12) | JSON),
    st.tuples(st.just("stream"), st.none() | st.booleans() | JSON),
    st.tuples(st.just("stream_options"), st.none() | JSON | st.dictionaries(
        st.sampled_from(["include_usage", "x", ""]), st.booleans() | JSON, max_size=3)),
    st.tuples(st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens", "n"]), COUNT),
    st.tuples(st.sampled_from(["max_tokens", "n", "best_of", "Best_of", *OTHERS]), COUNT | st.floats(0, 1e20)),
    st.tuples(st.sampled_from(["messages", "prompt", "input", "tools", "model ", "Model", ""]), JSON),
    st.tuples(st.text(max_size=8), JSON),
)  # fmt: skip
GARBAGE = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xc3", b"\xc3\xa9",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\u0061", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\n", b"\\x", b"0", b"-",
    b"1e", b".5", b"E+1", b"true", b"nul", b"null", b'"model":"x",', b'"stream":true,',
    b'"stream_options":{"include_usage":true},',
    b'"n":1,', b'"mod\\u0065l":"y",', b'{"a":', b"[[[[", b"]]]]", b"// x", b"'",
]  # fmt: skip


def encoded(members: list[tuple[str, Any]], chance: random.Random) -> bytes:
    """An object with these members in this order, repeated ones too, spelt in one of many ways."""
    ascii_only = chance.random() < 0.5

    def space() -> str:
        return "" if chance.random() < 0.7 else "".join(chance.choices(" \t\r\n", k=chance.randrange(4)))

    def text(value: object) -> str:
        indent = chance.choice([None, None, None, 1])
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=chance.choice([None, (",", ":")]))

    def key(name: str) -> str:
        if name and chance.random() < 0.03:
            at = chance.randrange(len(name))
            return json.dumps(name[:at])[:-1] + f"\\u{ord(name[at]) & 0xFFFF:04x}" + json.dumps(name[at + 1 :])[1:]
        return text(name)

    inner = (space() + ",").join(f"{space()}{key(name)}{space()}:{space()}{text(value)}" for name, value in members)
    return (space() + "{" + inner + space() + "}" + space()).encode("utf-8", "surrogatepass")


def mutated(body: bytes, chance: random.Random) -> bytes:
    """``body`` with a few bytes changed, taken out, put in, said twice, or cut off."""
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        at = chance.randrange(len(body) + 1)
        end = min(at + chance.choice([1, 1, 2, 5, 20]), len(body))
        how = chance.randrange(7)
        if how == 0:
            body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        elif how == 1:
            body = body[:at] + chance.choice(GARBAGE) + body[at:]
        elif how == 2:
            body = body[:at] + chance.choice(GARBAGE) + body[end:]
        elif how == 3:
            body = body[:at] + body[end:]
        elif how == 4:
            body = body[:end] + body[at:]
        elif how == 5 and at < len(body):
            body = body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]
        else:
            body = body[:at] if chance.random() < 0.3 else body
    return body


@BUDGET
@given(st.lists(MEMBER, max_size=7), st.randoms(use_true_random=False), st.integers(1, 9))
@example([("n_cmpl", 2)], random.Random(1), 9)
@example([("n", 3), ("n_cmpl", 2.0)], random.Random(1), 9)
@example([("options", [])], random.Random(1), 9)
def test_what_is_said_of_a_body_is_true(members: list[tuple[str, Any]], chance: random.Random, d: int) -> None:
    body = encoded(members, chance)
    hold(body)
    hold(body, d)
    hold(body, DEPTH, d)
    for _ in range(5):
        hold(mutated(body, chance))


def test_mutations_of_what_libraries_send() -> None:
    chance = random.Random(20)
    took = 0
    for number in range(6000):
        body = encoded(list(REQUESTS[number % len(REQUESTS)].items()), chance)
        took += hold(mutated(body, chance)) > 0
    assert took > 600, "too few of them were still good: the test says little"
