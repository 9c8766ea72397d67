"""What answers say they have used: both twins, in whole and in pieces, whatever comes; and both ways of reading it."""

from __future__ import annotations

import json
from typing import Any

from fastgw.accel.figures import MEMBERS, MOST_NAMES, PLACES
from tests.fuzz.sides import native, python, some_ways

USAGE = "fastgw.accel.usage"
SIDES = (python(USAGE), native(USAGE))

_COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}
_TIMINGS = {"cache_n": 3, "prompt_n": 4, "predicted_n": 5}
ANSWERS: tuple[Any, ...] = (
    {"choices": [{"message": {"content": 'a "usage":{} \\'}}], "usage": _COUNTS},
    {"usage": {**_COUNTS, "prompt_tokens": 16.0}, "data": [[0.25, -1, 3e4]] * 3},
    {"timings": _TIMINGS, "usage": {"completion_tokens": 3, "prompt_tokens": 7}, "x": {"usage": _COUNTS}},
    {"type": "response.completed", "response": {"output": [{"usage": {"input_tokens": 9}}], "usage": {"input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}}}},
    {"type": "message_start", "message": {"usage": {"input_tokens": 1, "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 4, "output_tokens": 1}}},
    {"meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 5}}}, {"usage": {"total_tokens": 12}},
    {"usage": {"type": "duration", "seconds": 27.5}}, {"error": {"message": "x"}, "usage": None}, {"error": None}, [], 3,
    {"error": "", "choices": [{"text": "a"}], "output": []}, {"error": "x", "error_type": "overloaded", "text": ""},
    {"usage": {"a": [[[[[["]"]]]]]], "b": {"prompt_tokens": 6}, "output_tokens": 5}},
)  # fmt: skip
_ODD = (
    b'{"\\u0075sage":{"prompt\\u005ftokens":7}}', b'{"usage":{"prompt_tokens":1,"prompt_tokens":-2}}', b'{"usage":{},}',
    b'{"a":"\\\\","usage":{"prompt_tokens" : 7 }}', b'{"usage":{"prompt_tokens":1}', b'{"a":1}"usage":{"input_tokens":1}}',
    b'{"a":' + b"[" * 600 + b"]" * 600 + b',"usage":{"prompt_tokens":1}}', b'{"usage":{"prompt_tokens":1},"a":' + b"[" * 509
    + b"]" * 509 + b"}", b'{"' + b"x" * 200 + b'":1,"usage":{"prompt_tokens":2}}', b'{"a":' + b"1" * 40 + b',"usage":{}}',
    b'{"usage":{' + b'"prompt_tokens":1,' * 62 + b'"prompt_tokens":2}}', b'{"usage":{' + b'"prompt_tokens": 1,' * 63
    + b'"prompt_tokens":2}}', b'{"usage":{' + b'"\\u0070":1,' * 64 + b'"prompt_tokens":2}}',
)  # fmt: skip


def seeds() -> list[bytes]:
    return [json.dumps(answer, separators=(",", ":")).encode() for answer in ANSWERS] + [*_ODD]


def words() -> list[bytes]:
    names = {b'"%b"' % one.name for one in MEMBERS}
    return [*sorted(names), b'"usage":{', b'"x":', b"{", b"}", b"[", b"]", b",", b":", b"7", b"16.0", b"-1", b"null", b'"',
        b"\\", b'\\"', b"\\u0070", b" ", b"1" * 13, b"1e3"]  # fmt: skip


def told(scanner: Any) -> tuple[Any, ...]:
    return (
        scanner.figures(), scanner.seconds, scanner.measured, scanner.error, scanner.failure(), scanner.answers, scanner.whole,
        [scanner.says(place) for place in range(PLACES)],
    )  # fmt: skip


def check(data: bytes) -> None:
    found = []
    for side in SIDES:
        for pieces in some_ways(data):
            scanner = side.UsageScanner()
            for piece in pieces:
                scanner.feed(piece)
            found.append(told(scanner))
    assert found.count(found[0]) == len(found), (data, found)
    for way in ("usage_in", "event_usage", "seconds_in"):
        one, two = (getattr(side, way)(data) for side in SIDES)
        assert one == two, (way, data, one, two)
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return
    one = SIDES[0].usage_in(data)
    # (A decoder of JSON goes deeper than we do, reads more, and takes other things for numbers.)
    bounded = data.count(b"[") + data.count(b"{") < 500 and data.count(b":") <= MOST_NAMES
    if isinstance(answer, dict) and bounded and b"N" not in data and b"I" not in data:
        assert one == found[0][0], (data, one, found[0][0])
        assert SIDES[0].event_usage(data)[:4] == one
    else:
        assert one == found[0][0] or isinstance(answer, dict), data
