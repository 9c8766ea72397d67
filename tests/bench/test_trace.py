"""Traces: three forms of the same, and files that are refused with the line that is to blame."""

from __future__ import annotations

import io

import pytest

from fastgw.bench import trace
from fastgw.bench.trace import MAX_LINE_BYTES, Row, TraceError, read

pytestmark = pytest.mark.once

ROWS = [Row(0.0, 100, 20, "a"), Row(1.5, 2000, 1)]


@pytest.mark.parametrize("text", [
    '{"at_s":0,"prompt_tokens":100,"max_tokens":20,"session":"a"}\n\n{"at_s":1.5,"prompt_tokens":2000,"max_tokens":1}\n',
    '{"timestamp":0,"input_length":100,"output_length":20,"session_id":"a","hash_ids":[1,2]}\n'
    '{"timestamp":1500,"input_length":2000,"output_length":0,"hash_ids":[]}',
    "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "0,a,ChatGPT,100,20,120,Conversation log\n1.5,,GPT-4,2000,1,2001,API log\n",
])  # fmt: skip
def test_three_forms_say_the_same(text: str) -> None:
    assert read(io.BytesIO(text.encode())) == ROWS


@pytest.mark.parametrize(("text", "why"), [
    ("", "the trace is empty"),
    ("Timestamp,Request tokens,Response tokens\n", "the trace has no requests"),
    ('{"at_s":0,"prompt_tokens":1,"max_tokens":1}\n{"at_s":', "line 2: "),
    ('{"at_s":0,"prompt_tokens":1}', "line 1: it has none of max_tokens"),
    ('{"at_s":-1,"prompt_tokens":1,"max_tokens":1}', "line 1: at_s must be"),
    ('{"at_s":true,"prompt_tokens":1,"max_tokens":1}', "line 1: at_s must be"),
    ('{"at_s":1e999,"prompt_tokens":1,"max_tokens":1}', "line 1: "),
    ('{"at_s":0,"prompt_tokens":1.5,"max_tokens":1}', "line 1: prompt_tokens is no whole number"),
    ('{"at_s":0,"prompt_tokens":1000001,"max_tokens":1}', "line 1: prompt_tokens must be"),
    ('{"timestamp":2592000001,"input_length":1,"output_length":1}', "line 1: timestamp must be a number from 0 to 2.592e"),
    ("Timestamp,Request tokens,Response tokens\n0,1\n", "line 2: not 3 columns"),
    ("Timestamp,Request tokens,Response tokens\n0,nan,1\n", "line 2: Request tokens must be"),
    ("[" * 3000, "line 1: it has none of at_s"),
    ('{"at_s":' + "[" * 60000, "line 1: "),
    ('{"x":"' + "y" * MAX_LINE_BYTES + '"}', f"line 1: longer than {MAX_LINE_BYTES} bytes"),
    ("x" * (MAX_LINE_BYTES + 1), f"line 1: longer than {MAX_LINE_BYTES} bytes"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_line(text: str, why: str) -> None:
    with pytest.raises(TraceError, match="^" + why):
        read(io.BytesIO(text.encode()))


def test_a_trace_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_ROWS", 3)
    with pytest.raises(TraceError, match="line 4: a trace has 3 requests at most"):
        read(io.BytesIO(b'{"at_s":0,"prompt_tokens":1,"max_tokens":1}\n' * 4))
    with pytest.raises(TraceError, match="line 1: not UTF-8"):
        read(io.BytesIO(b"\xff\xfe{}"))
