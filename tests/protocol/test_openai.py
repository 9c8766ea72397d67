"""JSON bodies: group C of the cases, the facts, and the edits by bytes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.members import NAMES, folded
from fastgw.errors import GatewayError
from fastgw.protocol.openai import BodyFacts, scan_body, with_model, with_usage
from tests.support.frame import prompt_estimate
from tests.support.json_cases import EITHER, INVALID, VALID, Case, forms, wrapped
from tests.support.naughty import STRINGS, spellings

BUDGET = settings()  # as many as the profile has: tests/conftest.py


def refusal(body: bytes, **options: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        scan_body(body, **options)
    assert not caught.value.kind.close, "the framing is sound: the connection stays"
    assert caught.value.kind.status == 400
    return caught.value


def verdict(body: bytes) -> str:
    try:
        scan_body(body)
    except GatewayError as error:
        return error.kind.name
    return "ok"


def test_facts() -> None:
    body = (b'{"model":"meta/llama","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5,"n":2,'
            b'"stream_options":{"include_usage":true}}')  # fmt: skip
    assert _said(scan_body(body)) == ("meta/llama", True, True, 5, 2, prompt_estimate(body), True)
    assert _said(scan_body(b'{"model":"m"}')) == ("m", False, False, -1, 1, 1, False)


def _said(facts: BodyFacts) -> tuple[object, ...]:
    """What callers ask of a body, in one row."""
    return (
        facts.model, facts.stream, facts.include_usage, facts.token_limit, facts.choices, facts.prompt_tokens,
        facts.has_stream_options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        (b'"max_tokens":null', "token_limit", -1),
        (b'"max_tokens":-1', "token_limit", -1),
        (b'"max_tokens":0', "token_limit", 0),
        (b'"max_completion_tokens":9', "token_limit", 9),
        (b'"max_output_tokens":9', "token_limit", 9),
        (b'"max_completion_tokens":9,"max_tokens":7', "token_limit", 9),
        (b'"n":null', "choices", 1),
        (b'"n":0', "choices", 1),
        (b'"stream":null', "stream", False),
        (b'"stream":false', "stream", False),
        (b'"stream_options":null', "include_usage", False),
        (b'"stream_options":{}', "include_usage", False),
        (b'"stream_options":{"include_usage":null}', "include_usage", False),
        (b'"stream_options":{"include_usage":false,"x":1}', "include_usage", False),
        (b'"stream_options":{"include_usage":true}', "include_usage", True),
        (b'"prompt":["a","b\\\\\\"c","\\u005b"]', "prompts", 3),
        (b'"prompt":[[1,2],[3], [4]]', "prompts", 3),
        (b'"prompt":[1,2,3]', "prompts", 1),
        (b'"prompt":[]', "prompts", 1),
        (b'"input":["a","b"]', "prompts", 1),
        (b'"prompt":[' + b'"",' * 4999 + b'""]', "prompts", 5000),
        (b'"prompt":[' + b"[1]," * 4999 + b"[2]]", "prompts", 5000),
        (b'"n":2,"best_of":3', "answers", 3),
        (b'"best_of":5.0', "answers", 5),
        (b'"max_new_tokens":1e2', "token_limit", 100),
        (b'"n_predict":-1', "token_limit", -1),
    ],
)
def test_facts_of_fields(more: bytes, field: str, value: object) -> None:
    for body in (b'{"model":"m",' + more + b"}", b"{" + more + b' , "model" : "m" }\n'):
        assert getattr(scan_body(body), field) == value


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_C1_what_is_no_json_is_refused(case: Case) -> None:
    for form, body in forms(case).items():
        error = refusal(body)
        assert error.kind.name == "invalid_json", form


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.id)
def test_C2_what_is_json_is_never_called_invalid(case: Case) -> None:
    for body in wrapped(case.document).values():
        assert scan_body(body).model == "m"
    if case.document.strip(b" \t\r\n")[:1] == b"{":
        assert verdict(case.document) != "invalid_json"


@pytest.mark.parametrize("case", EITHER, ids=lambda case: case.id)
def test_C2_what_may_be_either_gets_an_answer(case: Case) -> None:
    for body in forms(case).values():
        assert verdict(body) in {"ok", "invalid_json", "invalid_parameter"}


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"+1", b"1e", b"0x1", b"'a'", b"undefined"])
def test_C3_no_numbers_of_javascript(value: bytes) -> None:
    for body in (b'{"model":"m","x":' + value + b"}", b'{"model":"m","messages":[' + value + b"]}",
        b'{"max_tokens":' + value + b',"model":"m"}'):
        assert refusal(body).kind.name == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'[{"":' * 50_000,
        b'{"a":' * 100_000,
        b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","x":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"model":"m","messages":' + b'[{"a":' * 40 + b"1" + b"}]" * 40 + b"}",
        b'{"model":"m","x":"\\"' + b'[","y":' + b"[" * 70 + b"]" * 70 + b"}",
    ],
)
def test_C4_depth(body: bytes) -> None:
    best = 1.0
    for _ in range(5):
        start = time.process_time()
        error = refusal(body)
        best = min(best, time.process_time() - start)
        assert error.kind.name == "invalid_json"
    assert best < 0.005


@pytest.mark.parametrize("brackets", [b"[]", b"[" * 60 + b"]" * 60, b"[" * 5 + b"]" * 5,
    b"[{}]" * 3 + b"[[[[[[[[[[[[]]]]]]]]]]]]", b"[[]"])
@pytest.mark.parametrize("base", [0, 30, 58])
def test_C4_no_shape_of_brackets_takes_long(brackets: bytes, base: int) -> None:
    body = b"[" * base + brackets * (1_000_000 // len(brackets)) + b"]" * base
    start = time.process_time()
    refusal(body)
    assert time.process_time() - start < 0.15


@pytest.mark.parametrize(
    "value",
    [b"[" * 63 + b"]" * 63, b'"' + b"[" * 500 + b'"', b'"\\"' + b"[{" * 500 + b'"', b'"\\\\"',
        b'["\\\\","[[",' + b"[]," * 300 + b"{}]", b"[" + b"[{}]," * 999 + b"1]"],
)  # fmt: skip
def test_C4_what_is_wide_or_only_text_is_not_deep(value: bytes) -> None:
    assert scan_body(b'{"model":"m","x":' + value + b"}").model == "m"
    assert scan_body(b'{"x":' + value + b',"model":"m"}').model == "m"


@BUDGET
@given(st.recursive(st.none() | st.text(max_size=4), lambda inner: st.lists(inner,
    max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=30),
       st.integers(2, 7))  # fmt: skip
def test_C4_depth_is_counted_exactly(value: object, limit: int) -> None:
    def depth(v: object) -> int:
        if isinstance(v, list):
            return 1 + max(map(depth, v), default=0)
        if isinstance(v, dict):
            return 1 + max(map(depth, v.values()), default=0)
        return 0

    whole = {"x": value, "model": "m"}
    body = json.dumps(whole).encode()
    if depth(whole) <= limit:
        scan_body(body, max_depth=limit)
    else:
        refusal(body, max_depth=limit)


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"])
def test_C5_text_must_be_utf8(text: bytes) -> None:
    for body in (b'{"model":"m","x":"' + text + b'"}', b'{"model":"m","' + text + b'":1}', b'{"model":"' + text + b'"}'):
        assert refusal(body).kind.name == "invalid_json"


@pytest.mark.parametrize("escape", [b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\\udc00\\ud800", b"\\ud800x"])
def test_C5_lone_surrogates(escape: bytes) -> None:
    assert refusal(b'{"model":"m","x":"' + escape + b'"}').kind.name == "invalid_json"


def test_C5_byte_order_mark() -> None:
    assert refusal(b'\xef\xbb\xbf{"model":"m"}').kind.name == "invalid_json"
    assert refusal('{"model":"m"}'.encode("utf-16")).kind.name == "invalid_json"


@pytest.mark.parametrize("body", [b"", b" ", b'{"model":"m"}{}', b'{"model":"m"},', b'{"model":"m"', b"\x00"])
def test_not_one_document(body: bytes) -> None:
    assert refusal(body).kind.name == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"m"', b"1", b"null", b"true", b'[{"model":"m"}]'])
def test_json_that_is_no_object(body: bytes) -> None:
    error = refusal(body)
    assert (error.kind.name, error.param) == ("invalid_parameter", None), "its syntax has no mistake"
    assert error.message == "The body must be a JSON object."


@pytest.mark.parametrize("value", [b"1", b"null", b"true", b"[]", b'["m"]', b"{}", b'""', b'"' + b"m" * 257 + b'"',
    b'"a\\r\\nb"', b'"a\\u0000"', b'"\\u007f"', b'"\\t"', b'"m\x7f"', b"1.5"])
def test_C7_model_must_be_a_name(value: bytes) -> None:
    for body in (b'{"model":' + value + b"}", b'{"x":1,"model":' + value + b',"stream":true}'):
        error = refusal(body)
        assert (error.kind.name, error.param) == ("invalid_parameter", "model")
        assert refusal(body).param == "model"


@pytest.mark.parametrize("name", STRINGS, ids=ascii)
def test_C7_naughty_names_are_taken_literally_or_refused(name: str) -> None:
    for value in spellings(name):
        body = b'{"model":' + value + b',"messages":[]}'
        if verdict(body) != "ok":
            assert refusal(body).param == "model"
            continue
        facts = scan_body(body)
        assert facts.model == name
        assert not any(ord(c) < 32 or ord(c) == 127 for c in facts.model)
        assert json.loads(with_model(body, facts, "other")) == {"model": "other", "messages": []}


@pytest.mark.parametrize("text", [b"16", b"16.0", b"1.6e1", b"160e-1"])
def test_a_whole_number_is_one_however_it_is_written(text: bytes) -> None:
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        assert scan_body(b'{"model":"m","%b":%b}' % (name.encode(), text)).token_limit == 16
    assert scan_body(b'{"model":"m","n":%b}' % text).choices == 16


def test_a_body_without_a_model() -> None:
    for body in (b"{}", b'{"messages":[{"model":"m"}]}', b'{"x":"\\"model\\":\\"m\\""}'):
        assert scan_body(body).model == ""


@pytest.mark.parametrize(
    ("more", "param", "wanted"),
    [
        (b'"stream":"true"', "stream", "true or false or null"),
        (b'"stream":1', "stream", "true or false or null"),
        (b'"stream_options":[]', "stream_options", "an object or null"),
        (b'"stream_options":{"include_usage":1}', "stream_options", "true or false or null"),
        (b'"max_tokens":"5"', "max_tokens", "a whole number or null"),
        (b'"max_tokens":[]', "max_tokens", "a whole number or null"),
        (b'"max_tokens":16.5', "max_tokens", "a whole number or null"),
        (b'"n":{}', "n", "a whole number or null"),
    ],
)
def test_wrong_types_are_told_by_name_and_in_the_words_of_json(more: bytes, param: str, wanted: str) -> None:
    error = refusal(b'{"model":"m",' + more + b"}")
    assert (error.kind.name, error.param) == ("invalid_parameter", param)
    assert error.message == f"{param} must be {wanted}."
    assert refusal(b'{"model":"m",' + more + b',"x":}').kind.name == "invalid_json", "what is no JSON is told first"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"model":"a","x":{"model":1},"model":"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a","model":"b"}', "model"),
        (b'{"\\u006Dodel":"a","\\u006dodel":"b"}', "model"),
        (b'{"model":"a","stream":false,"stream":true}', "stream"),
        (b'{"model":"a","stream":false, "s\\u0074ream" :true}', "stream"),
        (b'{"model":"a","stream_options":{},"stream_options":{"include_usage":true}}', "stream_options"),
        (b'{"model":"a","stream_options":{},"stream\\u005foptions":{}}', "stream_options"),
        (b'{ "model" : "a" , "x" : [ 1 , {"y":"}"} ] , "model" : "b" }', "model"),
        # any other member of the body as well: an engine reads more of them than we do
        (b'{"temperature":1,"model":"a","temperature":0}', "temperature"),
        (b'{"model":"1","x":1,"x":12,"model":"2"}', "x"),
        (b'{"model":"1","/":1,"\\/":2}', "/"),
        ('{"model":"1","\u00e9\u4f60\U0001f600":1,"\\u00e9\\u4f60\\ud83d\\ude00":2}'.encode(), "\u00e9\u4f60\U0001f600"),
        (b'{"model":"1","a\\"b":1,"a\\u0022b":2}', 'a"b'),
        (b'{"model":"m",' + b",".join(b'"k%d":%d' % (at, at) for at in range(200)) + b',"k0":1}', "k0"),
        # what is not fit to be repeated is not
        (b'{"model":"1","":1,"":2}', None),
        (b'{"model":"1","\\n":1,"\\u000a":2}', None),
        (b'{"model":"1","%b":1,"%b":2}' % (b"k" * 64, b"k" * 64), "k" * 64),
        (b'{"model":"1","%b":1,"%b":2}' % (b"k" * 65, b"k" * 65), None),
        # in what is rewritten
        (b'{"model":"m","stream_options":{"include_usage":null,"include_usage":false}}', "stream_options.include_usage"),
        (b'{"model":"m","stream_options":{"x":1,"y":{"x":2},"\\u0078":3}}', "stream_options.x"),
        (b'{"x":1,"stream_options":{"y":1,"y":1},"x":2}', "x"),
    ],
)
def test_no_member_may_be_repeated(body: bytes, param: str | None) -> None:
    error = refusal(body)
    assert (error.kind.name, error.kind.code, error.param) == ("duplicate_member", "duplicate_member", param)
    assert error.message is not None
    assert error.message.startswith(f"`{param}` " if param else "Each member ")
    assert "once" in error.message


@pytest.mark.parametrize(
    ("name", "param"),
    [
        ("Model", "model"), ("MODEL", "model"), ("mODEL", "model"), ("Stream", "stream"), ("\u017ftream", "stream"),
        ("MAX_TOKENS", "max_tokens"), ("max_to\u212aens", "max_tokens"), ("Max_Completion_Tokens", "max_completion_tokens"),
        ("max_completion_to\u212aen\u017f", "max_completion_tokens"), ("Max_Output_Tokens", "max_output_tokens"), ("N", "n"),
        ("Messages", "messages"), ("me\u017f\u017fages", "messages"), ("Prompt", "prompt"), ("inpuT", "input"),
        ("Stream_Options", "stream_options"), ("Include_Usage", "stream_options.include_usage"),
        ("include_u\u017fage", "stream_options.include_usage"),
    ],
)  # fmt: skip
def test_names_that_are_read_come_in_lower_case(name: str, param: str) -> None:
    """Engines in Go take them in any case, and of two the last one."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in name)
    for spelt in (name, json.dumps(name)[1:-1], escaped):
        for form in ('{"model":"m","%s":1}', '{"%s":1,"x":{}}'):
            inner = param.startswith("stream_options.")
            text = form % spelt
            error = refusal(('{"model":"m","stream_options":' + text + "}" if inner else text).encode())
            assert (error.kind.name, error.param) == ("invalid_parameter", param)
            assert error.message == f"`{param}` may be given once, and in lower case."


@pytest.mark.parametrize(
    "name",
    ["Include_Usage", "\u1e9eream", "\ufb06ream", "model\u0130", "\u0131nput", "\uff4dodel", "mod\u00e9l", "Models", "TOOLS",
        "MODEL "],
)  # fmt: skip
def test_other_names_may_be_in_any_case(name: str) -> None:
    for spelt in (name, json.dumps(name)[1:-1]):
        assert scan_body(f'{{"model":"m","{spelt}":1}}'.encode()).model == "m"


@pytest.mark.parametrize("more", [0, 1])
def test_members_have_a_limit(more: int) -> None:
    many = b",".join(b'"k%d":[{"a":1,"b":2}]' % at for at in range(19 + more))
    for body in (b'{"model":"m",%b}' % many, b'{"model":"m","stream_options":{"include_usage":true,%b}}' % many):
        if not more:
            assert scan_body(body, max_members=20).model == "m"
            continue
        error = refusal(body, max_members=20)
        assert error.kind.name == "invalid_parameter"
        assert error.message in ("The body has more than 20 members.", "stream_options has more than 20 members.")
        assert error.param == ("stream_options" if b"stream" in body else None)
        assert refusal(body[:-1] + b"]", max_members=20).kind.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","x":{"model":"b","stream":1,"stream_options":2}}',
        b'{"x":[{"model":"b"},{"model":"c"}],"model":"a"}',
        b'{"model":"a","messages":[{"content":"\\"model\\":\\"b\\" \\u006dodel"}]}',
        b'{"model":"a","x":"model","y":"stream","z":"stream_options"}',
        b'{"model":"a","x":1,"y":{"model":"b","x":12,"z":{"x":1,"x":2}}}',
        b'{"model":"a","x":"\\u006d\\u006fdel","stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"a","tools":[{"p":{"model":{"type":"string"},"stream":{"type":"boolean"}}}],"stream":true,"stream_options":{}}',
        b'{"model":"a","\\u006dodel ":"b"}',
    ],
)
def test_members_elsewhere_may_have_the_same_name(body: bytes) -> None:
    facts = scan_body(body)
    assert facts.model == "a"
    assert json.loads(with_model(body, facts, "n")) == {**json.loads(body), "model": "n"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["model", "stream"]),
        inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.none() | st.booleans(), "x": JSON,
    "include_usag": JSON})


@BUDGET
@given(
    st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.text(st.characters(exclude_categories=["Cc", "Cs"]),
        min_size=1, max_size=9),
    st.fixed_dictionaries({}, optional={"stream_options": OPTIONS, "stream": st.booleans()}), st.booleans(),
        st.sampled_from([None, 1]), st.randoms(),
)  # fmt: skip
def test_edits_change_one_value_and_no_other_byte(rest: dict[str, Any], model: str, known: dict[str, Any], ascii_only: bool,
    indent: int | None, chance: Any) -> None:
    whole = {key: value for key, value in rest.items() if folded(key) not in NAMES} | {"model": model} | known
    keys = list(whole)
    chance.shuffle(keys)
    whole = {key: whole[key] for key in keys}
    body = json.dumps(whole, ensure_ascii=ascii_only, indent=indent).encode()
    facts = scan_body(body)
    assert facts.model == model

    asking = with_usage(body, facts)
    assert json.loads(asking) == {**whole, "stream_options": {**(whole.get("stream_options") or {}), "include_usage": True}}
    assert scan_body(asking).include_usage
    assert with_usage(asking, scan_body(asking)) is asking

    renamed = with_model(body, facts, "new/\u00e9\"name")
    assert json.loads(renamed) == {**whole, "model": 'new/\u00e9"name'}
    assert with_model(body, facts, model) is body
    old, new = json.dumps(model, ensure_ascii=ascii_only).encode(), '"new/\u00e9\\"name"'.encode()
    assert len(renamed) - len(body) == len(new) - len(old)
    at = next(i for i in range(len(renamed)) if renamed[i : i + len(new)] == new and renamed[:i] == body[:i])
    assert renamed[at + len(new) :] == body[at + len(old) :]


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (b'{"model":"m"}', b'{"stream_options":{"include_usage":true},"model":"m"}'),
        (b' {\n "model": "m"}', b' {"stream_options":{"include_usage":true},\n "model": "m"}'),
        (b'{"model":"m","stream_options":null}', b'{"model":"m","stream_options":{"include_usage":true}}'),
        (b'{"model":"m","stream_options": { } ,"x":1}', b'{"model":"m","stream_options": {"include_usage":true } ,"x":1}'),
        (b'{"stream_options":{"a":{"include_usage":false}},"model":"m"}',
        b'{"stream_options":{"include_usage":true,"a":{"include_usage":false}},"model":"m"}'),
        (b'{"stream_options":{"include_usage" : false},"model":"m"}',
        b'{"stream_options":{"include_usage" : true},"model":"m"}'),
        (b'{"stream_options":{"x":{"include_usage":0},"include_usage":null},"model":"m"}',
        b'{"stream_options":{"x":{"include_usage":0},"include_usage":true},"model":"m"}'),
        (b'{"x":[{}],"stream\\u005foptions":{"include\\u005fusage":false},"model":"m"}',
        b'{"x":[{}],"stream\\u005foptions":{"include\\u005fusage":true},"model":"m"}'),
    ],
)  # fmt: skip
def test_asking_for_usage(body: bytes, edited: bytes) -> None:
    assert with_usage(body, scan_body(body)) == edited


def test_asking_for_usage_in_a_body_without_members() -> None:
    assert with_usage(b"{ }", scan_body(b"{ }")) == b'{"stream_options":{"include_usage":true} }'


@pytest.mark.quiet
def test_a_large_body_takes_little_time() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "word [{ \u00e9 \" " * 50, "model": 1}] * 2000, "model": "m",
        "stream_options": {}}).encode()
    start = time.process_time()
    facts = scan_body(body)
    edited = with_model(with_usage(body, facts), facts, "n")
    assert time.process_time() - start < 0.25
    assert json.loads(edited)["model"] == "n"


@pytest.mark.parametrize(
    "value",
    [
        b'"' + b"\\u0041" * 300_000 + b'"',
        b'"' + b"\\\"" * 500_000 + b'"',
        b'{"' + b"k" * 2_000_000 + b'":"model"}',
        b"[" + b'"model",' * 200_000 + b"1]",
        b'{"' + b'":1,"\\u0061'.join(b"%d" % i for i in range(100_000)) + b'":1}',
    ],
)
def test_no_shape_of_text_takes_long(value: bytes) -> None:
    body = b'{"' + b"long" * 250_000 + b'":1,"model":"m","x":' + value + b',"stream_options":{"stream":1}}'
    start = time.process_time()
    facts = scan_body(body)
    with_usage(body, facts)
    assert time.process_time() - start < 0.4


def test_what_comes_first_is_told_though_it_is_malformed_further_on() -> None:
    with pytest.raises(GatewayError) as error:
        scan_body(b'{"model":"m","b":1}}', 64, 1)
    assert "more than 1 members" in str(error.value.message)
