"""JSON bodies: both twins, and what they accept says the same to another reader of JSON, before and after an edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastgw.errors import GatewayError
from fastgw.policy.rewrite import bounded
from fastgw.protocol.openai import scan_body, with_model, with_usage
from fastgw.upstream.kinds.registry import kind_of
from tests.fuzz.sides import native, python
from tests.support.judged import Refused, agree, told

BODIES_MODULE = "fastgw.accel.bodies"
NATIVE = native(BODIES_MODULE)
PYTHON = python(BODIES_MODULE)
SPANS_MODULE = "fastgw.accel.spans"
NATIVE_SPANS = native(SPANS_MODULE)
PYTHON_SPANS = python(SPANS_MODULE)
PYTHON_OPENAI = python("fastgw.protocol.openai", BODIES_MODULE)

LARGE = b"A" * 1500

BODIES = (
    b'{"model":"m"}', b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}',
    b'{"model":"m","stream_options":null}',
    b'{"model":"m","messages":[{"role":"user","content":"hi \\"model\\": \\u00e9"}],"max_tokens":5,"n":2}',
    b' {\n"model" : "a\\/b" , "prompt":["x",1,[2]] }\t', b'{"model":"m","model":"n"}', b'{"mod\\u0065l":"n","model":"m"}',
    b'{"model":"m","stream":false,"stream":true}', b'{"model":1}', b'{"model":null}', b"[]", b"{}", b'{"model":"m",}',
    b'{"model":"m","x":NaN}', b'{"model":"m","x":1e999,"y":-0}', b'{"model":"m","x":"\xff"}', b'{"model":"\xc3\xa9"}',
    b'{"model":"m","x":"\\ud800"}', b'\xef\xbb\xbf{"model":"m"}',
    b'{"model":"m","stream_options":{"include_usage":true,"a":[]}}',
    b'{"id":"c","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}',
    b'{"usage":{"input_tokens":7,"output_tokens":-3}}', b'{"model":"m","usage":"usage","max_tokens":99999999999999999999}',
    b'{"x":{"model":"n","stream":true},"model":"m"}', b'{"model":"m","stream_options":{}}',
    b'{"model":"m","max_tokens":1,"n_predict":-1,"best_of":"7","options":{"num_predict":5e3,"x":[]},"parameters":null}',
    b'{"model":"m","messages":[{"content":[{"image_url":{"url":"data:image/png;base64,%b"}}]}]}' % LARGE,
    b'{"model":"m","messages":[{"content":[{"source":{"type":"base64","media_type":"image/x","data":"%b"}}]}]}' % LARGE,
    b'{"model":"m","input":[{"output":[{"image_url":"http://x"},{"input_audio":{"data":"AAAA"}}]}],"prompt":[[1],[2,"a"]]}',
)  # fmt: skip


def seeds() -> list[bytes]:
    return [*BODIES, b'{"model":"m","x":' + b"[" * 70 + b"]" * 70 + b"}"]


def words() -> list[bytes]:
    return [
        b'"model":', b'"stream":', b'"stream_options":', b'"usage":{', b'"prompt_tokens":', b'"completion_tokens":',
        b'"include_usage":', b"true", b"null", b'"mod\\u0065l"', b'\\"',
        b"\\u0073", b"[]", b"{}", b'"m"', b"1e9", b'"Model":', b'"x":1,"x":2,', b'"\xc5\xbftream":',
        b'"max_to\xe2\x84\xaaens":',
        b'"prompt":["', b'"n":', b'"":', b'"n_predict":-1,', b'"best_of":', b'"options":{"num_predict":9},',
        b'"max_tokens":16.0,',
        b'"messages":[{"content":[{"image_url":{"url":"', b'"source":{"type":"base64","media_type":"image/png","data":"',
        b"data:image/png;base64,%b" % LARGE, b'"input_audio":{"data":"', b'"input":[1,2,[3],', b'"im\\u0061ge_url":',
    ]  # fmt: skip


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    found["\0names"] = [name for name, _ in pairs]
    return found


def verdict(scan: Callable[..., Any], data: bytes, depth: int, members: int) -> str:
    """The facts, or the error in full."""
    try:
        return repr(scan(data, depth, members))
    except GatewayError as error:
        assert 400 <= error.kind.status < 500, data  # noqa: PT017 - it is every input's
        return repr((error.kind.name, error.message, error.param))


def judged_alike(data: bytes, depth: int, members: int) -> None:
    """The verdict and the facts are those of another reader of JSON, which keeps every pair."""
    verdict: Any
    try:
        verdict = told(scan_body(data, depth, members))
    except GatewayError as error:
        verdict = Refused(error.kind.name, error.param)
    assert agree(verdict, data, depth, members), (data, verdict)


def check(data: bytes) -> None:
    for depth, members in ((64, 256), (3, 4)):
        told = verdict(PYTHON_OPENAI.scan_body, data, depth, members)
        assert verdict(scan_body, data, depth, members) == told, data
        outline = PYTHON.outline(data, depth, members)
        assert NATIVE.outline(data, depth, members) == outline, data
        for twin in (PYTHON, NATIVE):
            quick = twin.read(data, depth, members)  # how much is plain enough may differ
            assert repr(quick) == told if isinstance(quick, twin.BodyFacts) else quick == outline, (data, twin)
        assert NATIVE.outline(data, depth, members, 1) == PYTHON.outline(data, depth, members, 1), data
        judged_alike(data, depth, members)
    said_alike(data)


_LOOKED_FOR = ("model", "messages", "prompt", "input", "stream_options", "stop", "text")


def said_alike(data: bytes) -> None:
    """What is accepted is what another reader of JSON reads, and no member that matters is there twice."""
    try:
        facts = scan_body(data)
    except GatewayError:
        return
    theirs = json.loads(data.decode(), object_pairs_hook=_pairs)
    names = theirs["\0names"]
    assert len(set(names)) == len(names), (data, "which of the two is it?")
    assert theirs.get("model", "") == facts.model, data
    assert bool(theirs.get("stream")) == bool(facts.stream), data
    options = theirs.get("stream_options") or {}
    assert (options.get("include_usage") is True) == facts.include_usage, data
    edited = json.loads(with_model(data, facts, 'other "one"'))
    assert edited == {**json.loads(data), **({"model": 'other "one"'} if "model" in theirs else {})}, data
    for label, kind in (("/v1/chat/completions", "auto"), ("/v1/responses", "vllm")):
        told = bounded(data, facts, 7, label, kind_of(kind))
        assert bounded(told, scan_body(told), 7, label, kind_of(kind)) == told, (data, "what was told is enough")
        assert set(json.loads(told)) - set(theirs) <= {"max_tokens", "max_output_tokens"}, data
    assert NATIVE.place_in(data) == PYTHON.place_in(data), data
    assert NATIVE.with_member(data, b'"zz":1') == PYTHON.with_member(data, b'"zz":1'), data
    assert NATIVE_SPANS.bounds_in(data, 999) == PYTHON_SPANS.bounds_in(data, 999), data
    spans = NATIVE_SPANS.spans_of(data, _LOOKED_FOR)
    assert spans == PYTHON_SPANS.spans_of(data, _LOOKED_FOR), data
    for name, span in spans.items():
        assert json.loads(data[slice(*span)]) == json.loads(data)[name], data
        assert NATIVE.inputs_at(data, *span) == PYTHON.inputs_at(data, *span), data
    if facts.stream:
        asked = json.loads(with_usage(data, facts))
        assert asked["stream_options"]["include_usage"] is True, data
        assert {**asked, "stream_options": 0} == {**json.loads(data), "stream_options": 0}, data
