"""Asking for usage changes nothing else: the extra chunk is gone, and what else it says stands where it would have stood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.accel.sse import MAX_EVENT_BYTES, SseScanner
from fastgw.accel.usage_chunk import MAX_USAGE_BYTES, spliced
from tests.protocol.splits import ways
from tests.support.recorded import DONE, RECORDED, USAGE, event, told

CHAT = "/v1/chat/completions"
ASKED = {"include_usage": True}
TEXT = event({"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
STOP = event({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
OTHER = STOP.replace(b'"index":0', b'"index":1')
EXTRA = event({"id": "c", "choices": [], "usage": USAGE, "system_fingerprint": "fp"})
GIVEN = STOP.replace(b"}\n", b',"system_fingerprint":"fp"}\n')


def passed(pieces: list[bytes], strip: bool = True) -> bytes:
    scanner = SseScanner(strip)
    return b"".join(map(scanner.feed, pieces)) + scanner.flush()


def in_every_way(data: bytes, splits: int = 24) -> bytes:
    expected = passed([data])
    for pieces in ways(data, splits):
        assert passed(pieces) == expected, pieces
    return expected


def grown(data: bytes, size: int) -> bytes:
    """The event with a member more at its end, so that it has ``size`` bytes."""
    return data[:-3] + b',"prompt":"%b"' % (b"x" * (size - len(data) - 12)) + data[-3:]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_that_was_asked_for_usage_is_as_the_one_that_was_not(name: str, path: str, end: bytes) -> None:
    asked, plain = (b"".join(RECORDED[name](path, options)).replace(b"\n\n", end) for options in (ASKED, None))
    assert asked == plain or len(told(asked)) == len(told(plain)) + 1
    assert told(in_every_way(asked)) == told(plain)
    assert passed([asked], strip=False) == asked
    assert in_every_way(plain) == plain


EXTRAS = {
    "as engines write it": EXTRA,
    "a comment before it": b": ping\n" + EXTRA,
    "a comment in it": EXTRA.replace(b"\n\n", b"\n: ping\n\n"),
    "a comment as an event": b": ping\n\n" + EXTRA,
    "no choices": EXTRA.replace(b'"choices":[],', b""),
    "null for choices": EXTRA.replace(b"[]", b"null"),
    "in lines": b"".join(b"data: %b\n" % line for line in json.dumps(told(EXTRA)[0], indent=1).encode().split(b"\n")) + b"\n",
    "a choice with nothing in it": EXTRA.replace(b"[]", b'[{"index":0,"delta":{}}]'),
    "a choice of nothings": EXTRA.replace(b"[]", b'[{"delta":{"role":"assistant","content":""},"finish_reason":null}]'),
    "named": b"id: 7\nevent: message\n" + EXTRA,
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extra_chunk_is_taken_out_however_it_is_written(name: str) -> None:
    out = in_every_way(TEXT + STOP + EXTRAS[name] + DONE)
    assert told(out) == told(TEXT + GIVEN + DONE)
    assert b"usage" not in out
    assert out.count(b": ping\n") == (name.startswith("a comment") and name != "a comment in it")


@pytest.mark.parametrize("size", [MAX_EVENT_BYTES, MAX_EVENT_BYTES + 1, 70_000, MAX_USAGE_BYTES])
def test_a_long_one_is_taken_out_too_and_counts(size: int) -> None:
    data = TEXT + STOP + grown(EXTRA, size) + DONE
    for step in (999, 65_536, len(data)):
        scanner = SseScanner(True)
        out = b"".join(scanner.feed(data[at : at + step]) for at in range(0, len(data), step))
        assert told(out) == told(TEXT + grown(GIVEN, len(GIVEN) + size - len(EXTRA)) + DONE)
        assert (scanner.prompt_tokens, scanner.completion_tokens, scanner.done, scanner.mid_event) == (11, 3, 1, False)


def test_a_longer_one_and_a_long_one_of_another_kind_pass_as_they_come() -> None:
    longer = grown(EXTRA, MAX_USAGE_BYTES + 1)
    scanner = SseScanner(True)
    assert scanner.feed(STOP + longer[:-100]) == b""
    assert len(scanner._tail) <= MAX_USAGE_BYTES
    assert scanner.feed(longer[-100:]) == STOP + longer, "nobody knows what it is"
    for begins in (TEXT[:-3], b'data: {"id":"c"', b"data: ", b'data: {"error":{"x":1},"choices":[]'):
        scanner = SseScanner(True)
        begun = begins + b',"x":"' + b"x" * MAX_EVENT_BYTES
        assert scanner.feed(STOP + begun) == STOP + begun
        assert len(scanner._tail) < 8
        assert in_every_way(STOP + begun + b'"}\n\n' + EXTRA + DONE, 4) == STOP + begun + b'"}\n\n' + DONE


def test_comments_arrive_in_time_whatever_is_held() -> None:
    for held in (b"", STOP):
        scanner = SseScanner(True)
        assert scanner.feed(TEXT + held) == TEXT
        for ping in (b": ping\n\n", b":", b" pi", b"ng\r", b"\n\r\n", b": one\n: two\n\n", b"\n"):
            assert scanner.feed(ping) is ping
        assert scanner.feed(b": with data\n" + EXTRA[:40]) == b": with data\n"
        assert scanner.feed(EXTRA[40:]) == (GIVEN if held else b"")


@pytest.mark.parametrize("behind", [DONE, TEXT, event({"error": {"message": "x"}}), b"id: 5\n\n", b"data: {\n\n"])
def test_a_last_chunk_waits_for_one_event_and_for_no_more(behind: bytes) -> None:
    scanner = SseScanner(True)
    assert (scanner.feed(STOP), scanner.mid_event, scanner.finish_reason) == (b"", True, b"stop")
    assert scanner.feed(behind) == STOP + behind
    assert in_every_way(TEXT + STOP + behind + EXTRA + DONE) == TEXT + STOP + behind + DONE


def test_of_several_answers_the_last_chunk_of_all_is_given_it() -> None:
    scanner = SseScanner(True)
    assert [scanner.feed(one) for one in (STOP, OTHER, EXTRA)] == [b"", STOP, GIVEN.replace(b'"index":0', b'"index":1')]
    assert in_every_way(STOP + TEXT + OTHER + DONE) == STOP + TEXT + OTHER + DONE
    assert in_every_way(STOP + EXTRA + OTHER + EXTRA + DONE) == GIVEN + OTHER + DONE, "there is one extra chunk in a stream"


@pytest.mark.parametrize(
    "kept",
    [
        {"error": {"message": "x"}, "choices": [], "usage": USAGE}, {"type": "message_delta", "usage": USAGE},
        {"choices": [], "usage": None}, {"choices": [{"index": 0}], "usage": USAGE},
        {"choices": [{"index": 0, "delta": {"content": " "}}], "usage": USAGE},
        {"choices": [{"index": 0, "delta": {}, "matched_stop": 1}], "usage": USAGE},
        {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {}}], "usage": USAGE},
        {"choices": [{"index": 0, "delta": {}}], "usage": None},
    ],
)  # fmt: skip
def test_what_is_another_event_stays(kept: dict[str, Any]) -> None:
    assert in_every_way(STOP + event(kept) + DONE) == STOP + event(kept) + DONE


@pytest.mark.parametrize(
    ("last", "extra", "given"),
    [
        (b'{"a":1}', b'{"a":2,"usage":{},"choices":[]}', b'{"a":1}'),
        (b'{"a":null, "c":"}" } ', b'{"b":[1, {"x":"}"}],"a":2}', b'{"a":null, "c":"}" ,"b":[1, {"x":"}"}]} '),
        (b'{"a":1}', b'{"b":"\xc3\xa9\\"\\n","d":1e2}', b'{"a":1,"b":"\xc3\xa9\\"\\n","d":1e2}'),
        (b'{"a":1}', b'{"b":', b'{"a":1}'),
        (b'{"a":1}', b"[]", b'{"a":1}'),
    ],
)  # fmt: skip
def test_the_last_chunk_is_given_what_it_does_not_say(last: bytes, extra: bytes, given: bytes) -> None:
    assert spliced(b"data: %b\r\n\r\n" % last, b"data: %b\n\n" % extra) == b"data: %b\r\n\r\n" % given


def test_what_is_held_goes_on_where_nothing_more_comes() -> None:
    rows: list[tuple[bytes, bytes]] = [
        (STOP, STOP), (STOP + b": pi", b"\n" + STOP), (STOP + EXTRA[:-4], STOP), (STOP + TEXT[:-4], STOP + TEXT[:-4]),
        (TEXT[:-4], TEXT[:-4]), (EXTRA[:20], b""), (TEXT, b""),
    ]  # fmt: skip
    for data, rest in rows:
        scanner = SseScanner(True)
        scanner.feed(data)
        assert scanner.release() == rest
        assert (scanner.release(), scanner.mid_event) == (b"", data not in (STOP, TEXT))
