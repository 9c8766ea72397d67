"""The watcher of event streams: nothing changed, nothing late, everything counted, in every split."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.sse import MAX_EVENT_BYTES, SseScanner, line_at
from tests.protocol.splits import cut, ways

BUDGET = settings()  # as many as the profile has: tests/conftest.py


def chunk(content: object = "hi", finish: str | None = None, **extra: Any) -> bytes:
    choice = {"index": 0, "delta": {} if content is ... else {"content": content}, "logprobs": None, "finish_reason": finish}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **extra}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def event(data: object, end: bytes = b"\n\n", lead: bytes = b"data: ", **dumps: Any) -> bytes:
    return lead + (data if isinstance(data, bytes) else json.dumps(data, **dumps).encode()) + end


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
EXTRA = event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
    "usage": USAGE}, separators=(",", ":"))
DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
STREAM = ROLE + b"".join(chunk(word) for word in ("Hello", " w\u00f6rld", "\\", '"quoted"', "\n\n",
    "data: [DONE]")) + chunk(..., "stop")


def state(scanner: SseScanner) -> tuple[object, ...]:
    return (scanner.events, scanner.tokens, scanner.done, scanner.error, scanner.finish_reason, scanner.prompt_tokens,
        scanner.completion_tokens,
            scanner.first_token_seen, scanner.mid_event)  # fmt: skip


def run(pieces: list[bytes], strip: bool = True) -> tuple[bytes, tuple[object, ...]]:
    scanner = SseScanner(strip)
    out = b""
    for piece in pieces:
        out += scanner.feed(piece)
        assert len(scanner._tail) <= MAX_EVENT_BYTES + len(piece)
    out += scanner.flush()
    return out, state(scanner)


def same_in_every_way(data: bytes, strip: bool = True, splits: int = 64) -> tuple[bytes, tuple[object, ...]]:
    expected = run([data], strip)
    for pieces in ways(data, splits):
        assert run(pieces, strip) == expected, pieces
    return expected


def test_a_stream_goes_by_untouched() -> None:
    for strip in (False, True):
        out, counts = same_in_every_way(STREAM + DONE, strip)
        assert out == STREAM + DONE
        assert counts == (9, 6, True, False, b"stop", -1, -1, True, False)


def test_the_same_object_comes_out_when_nothing_is_taken_or_held() -> None:
    for strip in (False, True):
        scanner = SseScanner(strip)
        for piece in (ROLE, chunk("a"), chunk("b"), chunk("c") + chunk("d"), b": ping\n\n", chunk("e") + b": ping\n\n", DONE):
            assert scanner.feed(piece) is piece
    scanner = SseScanner(False)
    stop = chunk(..., "stop")
    assert scanner.feed(stop) is stop
    for i in range(0, len(EXTRA), 5):
        piece = EXTRA[i : i + 5]
        assert scanner.feed(piece) is piece
    assert scanner.completion_tokens == 3


@pytest.mark.parametrize("extra", [EXTRA, event({"id": "c", "usage": USAGE})])
def test_the_usage_chunk_is_taken_out_whole(extra: bytes) -> None:
    data = STREAM + extra + DONE
    out, counts = same_in_every_way(data)
    assert out == STREAM + DONE
    assert counts == (10, 6, True, False, b"stop", 7, 3, True, False)
    kept, counts = same_in_every_way(data, strip=False)
    assert kept == data
    assert counts[5:7] == (7, 3)


ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r", b"\r\n\r")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("lead", [b"data: ", b"data:", b"data:  ", b"event: message\ndata: ", b"id: 1\rdata: ",
    b"retry: 5\r\ndata:"])
def test_F2_separators_and_fields(end: bytes, lead: bytes) -> None:
    usage = {"choices": [], "usage": USAGE}
    kept = event({"choices": [{"delta": {"content": "a"}}]}, end, lead)
    after = event({"choices": [{"delta": {"content": "b"}}]}, end, lead)
    data = kept + event(usage, end, lead) + after + event(b"[DONE]", end)
    out, counts = same_in_every_way(data, splits=24)
    assert out == kept + after + event(b"[DONE]", end)
    assert counts[:3] == (4, 2, True)
    assert counts[5:7] == (7, 3)


@pytest.mark.parametrize("end", ENDS)
def test_F2_the_line_feed_of_a_removed_event_goes_with_it(end: bytes) -> None:
    out, _ = same_in_every_way(event({"choices": [], "usage": USAGE}, end))
    assert out == b""


def test_F2_pretty_and_multi_line_data() -> None:
    usage = json.dumps({"id": "x", "choices": [], "usage": USAGE}, indent=2).encode()
    data = b"".join(b"data: " + line + b"\n" for line in usage.split(b"\n")) + b"\n"
    out, counts = same_in_every_way(chunk("a") + data + chunk("b"))
    assert out == chunk("a") + chunk("b")
    assert counts[0] == 3
    assert counts[5:7] == (7, 3)


@pytest.mark.parametrize("spaces", [b'{"choices" : [ ] , "usage" : {"prompt_tokens" : 7,"completion_tokens": 3}}',
    b'{"usage":{"prompt_tokens":7,"completion_tokens":3},"choices":[\t]}'])
def test_white_space_in_the_usage_chunk(spaces: bytes) -> None:
    out, counts = same_in_every_way(event(spaces))
    assert out == b""
    assert counts[5:7] == (7, 3)


@pytest.mark.parametrize("data", [
    {"choices": [{"delta": {"content": "a"}}], "usage": USAGE}, {"choices": [], "usage": None}, {"choices": []},
    {"type": "message_delta", "usage": {"output_tokens": 3}},
])  # fmt: skip
def test_other_events_with_usage_or_without_choices_stay(data: dict[str, Any]) -> None:
    out, _ = same_in_every_way(event(data) + DONE)
    assert out == event(data) + DONE


def test_text_that_looks_like_usage_is_text() -> None:
    data = chunk('"choices":[],"usage":{"prompt_tokens":9}') + chunk('{"choices":[]}\n\ndata: [DONE]\n\n')
    out, counts = same_in_every_way(data)
    assert out == data
    assert counts == (2, 21, False, False, None, -1, -1, True, False)


def test_F2_byte_order_mark_comments_nul_and_unknown_fields() -> None:
    head = b"\xef\xbb\xbf" + event({"choices": [{"delta": {"content": "a"}}]})
    head += b": ping\n\n:\n\n\n\nid: a\x00b\ndata: x\n\nfoo: bar\n\ndata\n\nevent: x\n\n"
    out, counts = same_in_every_way(head + EXTRA)
    assert out == head
    assert counts[0] == 4
    assert counts[1] == 1
    assert same_in_every_way(b"\xef\xbb\xbf" + EXTRA)[0] == b""


def test_F3_any_bytes_in_data_pass() -> None:
    data = b"data: \xff\xfe\x80 not json \x00\n\n"
    data += event(b'{"choices":[{"delta":{"content":"\xe2\x82') + event(b"{") + event(b"[]") + event(b"1")
    out, counts = same_in_every_way(data)
    assert out == data
    assert counts[0] == 5


def test_comments_are_not_events() -> None:
    assert same_in_every_way(b": keep-alive\n\n:\n\n: x\r\n\r\n")[1] == (0, 0, False, False, None, -1, -1, False, False)


@pytest.mark.parametrize("data", [
    b'data: {"error":{"message":"boom","type":"x","code":500}}\n\n', b'data: {"error": {"message": "boom"}}\r\n\r\n',
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', b"event: error\ndata: boom\n\n",
    b"event:error\n\n", b'error: {"code":400}\n\n', b'id: 1\rerror:"x"\r\r', b'data: {"error":[0]}\n\n',
    b'data: {"error":10}\n\n',
    b'data: {"error":"out of memory","error_type":"generation"}\n\n', b'data: {"error":true,"a":"\\u0061"}\n\n',
    b'data: {"type":"error","code":"server_error","message":"out of memory"}\n\n',
    b'data: {"type": "response.failed", "response": {"error": null, "output": []}}\n\n',
    b'data: {"t\\u0079pe":"response.failed"}\n\n', b'data: {"error":{ "":0 },"x":' + b"[" * 400 + b"]" * 400 + b"}\n\n",
])  # fmt: skip
def test_F7_errors_are_seen_and_pass(data: bytes) -> None:
    out, counts = same_in_every_way(chunk("a") + data)
    assert out == chunk("a") + data
    assert counts[3] is True


def test_no_error_where_none_is() -> None:
    data = event({"error": None, "choices": [{"delta": {"content": 'the "error": {"x":1} word'}}]}) + chunk("event: error")
    assert same_in_every_way(data + b"errors: 1\n\n error: 1\n\n")[1][3] is False


@pytest.mark.parametrize("more", [b"1", b'"\\u0061"', b"[" * 400 + b"]" * 400, b'"%b"' % (b"x" * MAX_EVENT_BYTES)])
@pytest.mark.parametrize("empty", [b"null", b'""', b"false", b"0", b"{}", b"[]", b"{ }", b"[ ]"])
def test_an_empty_error_is_none(empty: bytes, more: bytes) -> None:
    """And it keeps no usage in the stream that nobody has asked for."""
    data = event(b'{"error":%b,"text":"a"}' % empty) + event(b'{"error": %b, "a": %b}' % (empty, more))
    extra = event(b'{"error":%b,"choices":[],"usage":{"prompt_tokens":1}}' % empty)
    out, counts = same_in_every_way(data + extra, splits=4)
    assert (out, counts[3]) == (data, False)


@pytest.mark.parametrize(
    ("delta", "token"),
    [
        ({"content": "a"}, 1), ({"content": ""}, 0), ({"content": None}, 0), ({}, 0), ({"role": "assistant", "content": ""}, 0),
        ({"reasoning_content": "a"}, 1), ({"content": None, "reasoning_content": "a"}, 1), ({"content": "", "reasoning": "b"},
        1),
        ({"tool_calls": [{"function": {"arguments": "{"}}]}, 1), ({"tool_calls": [{"function": {"name": "f",
        "arguments": ""}}]}, 0),
        ({"content": '"'}, 1), ({"content": "\\"}, 1), ({"refusal": "no"}, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_F1_what_counts_as_a_token(delta: dict[str, Any], token: int, separators: tuple[str, str]) -> None:
    data = event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}, separators=separators)
    _, counts = same_in_every_way(data + data + data, splits=8)
    assert counts[:2] == (3, 3 * token)
    assert counts[7] is bool(token)


def test_two_choices_in_one_event_count_when_the_first_falls_silent_too() -> None:
    def both(one: str, two: str) -> bytes:
        choices = [{"index": i, "delta": {"content": text}} for i, text in enumerate((one, two))]
        return event({"choices": choices}, separators=(",", ":"))

    data = both("a", "b") + both("", "b") + both("c", "b") + both("", "")
    assert same_in_every_way(data, splits=16)[1][:2] == (4, 5)
    scanner = SseScanner(True)
    for piece in (both("a", "b"), both("", "b"), both("c", "b"), both("", "")):
        assert scanner.feed(piece) is piece
    assert (scanner.events, scanner.tokens) == (4, 5)


LONG = "word " * 20
TOKENS: list[tuple[dict[str, Any], int]] = [
    ({"choices": [{"text": "a" * 32}]}, 1),
    ({"choices": [{"text": "a" * 33}]}, 9),
    ({"choices": [{"text": LONG}]}, 25),
    ({"choices": [{"delta": {"content": LONG}}, {"delta": {"content": LONG}}, {"delta": {"content": "a"}}]}, 51),
    ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": json.dumps({"a": ["b"] * 9})}}]}}]}, 18),
    ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}, {"function": {"arguments": "}"}}]}}]}, 2),
    ({"choices": [{"delta": {"reasoning": LONG, "reasoning_content": LONG}}]}, 25),
    ({"choices": [{"delta": {"reasoning": "a", "reasoning_content": "b"}}]}, 2),
    ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": LONG}}, 25),
    ({"type": "response.output_text.delta", "delta": LONG}, 25),
    ({"type": "response.output_text.done", "text": LONG}, 0),
    ({"type": "response.output_audio.delta", "delta": "AAAA" * 50}, 1),
    ({"choices": [{"delta": {"content": "\\" * 20}}]}, 10),
]  # fmt: skip


@pytest.mark.parametrize("tokens", range(len(TOKENS)))
def test_an_event_may_bring_several_tokens(tokens: int) -> None:
    """As engines send them that tell of many at a time; however it is written, and wherever it is cut."""
    data, expected = TOKENS[tokens]
    for end in (b"}", b"} ", b',"\\u0061":1}', b',"usage":null}'):
        one = event(json.dumps(data, separators=(",", ":")).encode()[:-1] + end)
        found = same_in_every_way(one + chunk("a") + one, splits=8)[1]
        assert found[:2] == (3, 2 * expected + 1), (one, found)


def test_completions_events_count() -> None:
    data = b"".join(event({"choices": [{"index": 0, "text": t, "finish_reason": None}]}) for t in ("a", "", "b", "c"))
    assert same_in_every_way(data)[1][:2] == (4, 3)


def test_anthropic_shape() -> None:
    def named(name: str, **data: Any) -> bytes:
        return b"event: " + name.encode() + b"\n" + event({"type": name, **data})

    data = (
        named("message_start", message={"id": "m", "usage": {"input_tokens": 25, "output_tokens": 1}})
        + named("ping")
        + named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
        + named("content_block_delta", index=0, delta={"type": "text_delta", "text": "!"})
        + named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 15})
        + named("message_stop")
    )
    out, counts = same_in_every_way(data, splits=16)
    assert out == data
    assert counts == (6, 2, 2, False, b"end_turn", 25, 15, True, False)


def test_responses_shape() -> None:
    data = event({"type": "response.output_text.delta", "delta": "Hel"}) + event({"type": "response.output_text.delta",
        "delta": "lo"})
    data += event({"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 4, "output_tokens": 2}}})
    out, counts = same_in_every_way(data, splits=16)
    assert out == data
    assert counts == (3, 2, 2, False, None, 4, 2, True, False)


def test_continuous_usage_stats() -> None:
    data = b"".join(chunk("a", usage={"prompt_tokens": 5, "completion_tokens": i}) for i in range(1, 5))
    out, counts = same_in_every_way(data, splits=16)
    assert out == data
    assert counts[:2] == (4, 4)
    assert counts[5:7] == (5, 4)


MERGED: list[tuple[dict[str, int], dict[str, int], tuple[int, int, int]]] = [
    ({"input_tokens": 11, "cache_read_input_tokens": 1000}, {"input_tokens": 11, "output_tokens": 7}, (1011, 7, 1000)),
    ({"input_tokens": 11, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 50},
        {"input_tokens": 11, "output_tokens": 7}, (61, 7, 0)),
    ({"input_tokens": 11, "cache_read_input_tokens": 4}, {"input_tokens": 20, "output_tokens": 7}, (20, 7, 4)),
    ({"input_tokens": 11, "cache_read_input_tokens": 4}, {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 7},
        (7, 7, 2)),
    ({"input_tokens": 11, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 7}, (11, 7, -1)),
    ({"input_tokens": 11, "output_tokens": 9}, {"input_tokens": 5, "output_tokens": 7}, (5, 7, -1)),
    ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 11, "output_tokens": 7}, (11, 7, -1)),
]  # fmt: skip


@pytest.mark.parametrize(("early", "late", "told"), MERGED)
def test_a_later_word_on_the_prompt_that_says_less_of_it_leaves_it(
    early: dict[str, int], late: dict[str, int], told: tuple[int, int, int]
) -> None:
    data = event({"type": "message_start", "message": {"usage": early}}) + event({"type": "message_delta", "usage": late})
    for pieces in ways(data, 16):
        scanner = SseScanner(False)
        for piece in pieces:
            scanner.feed(piece)
        assert (scanner.prompt_tokens, scanner.completion_tokens, scanner.cached_tokens) == told


@pytest.mark.parametrize("usage", [{"prompt_tokens": "x"}, {"prompt_tokens": 2**63, "completion_tokens": 10**12},
    {"prompt_tokens": -5, "completion_tokens": None},
    {"prompt_tokens": 1.5}, {}])
def test_odd_usage_is_not_believed(usage: dict[str, Any]) -> None:
    assert same_in_every_way(event({"choices": [], "usage": usage}), splits=8)[1][5:7] == (-1, -1)


def test_an_event_is_held_until_it_is_whole_where_one_may_be_taken_out() -> None:
    whole = chunk("a long piece of text, cut somewhere in the middle")
    for i in range(1, len(whole)):
        scanner = SseScanner(True)
        assert scanner.feed(chunk("a") + whole[:i]) == chunk("a")
        assert scanner.mid_event
        assert scanner.feed(whole[i:]) == whole


def test_flush_gives_what_was_never_finished() -> None:
    scanner = SseScanner(True)
    assert scanner.feed(b'data: {"id":1') == b""
    assert scanner.flush() == b'data: {"id":1'
    assert (scanner.release(), scanner.mid_event) == (b"", True)  # (whoever writes behind it has to know)
    assert scanner.flush() == b""
    out, counts = same_in_every_way(chunk("a") + DONE[:-1])
    assert out == chunk("a") + DONE[:-1]
    assert counts[2] == 1
    assert same_in_every_way(chunk("a") + EXTRA[:-1])[0] == chunk("a")
    assert same_in_every_way(chunk("a") + EXTRA[:-2])[0] == chunk("a")


def test_mid_event_follows_the_bytes() -> None:
    for strip in (False, True):
        scanner = SseScanner(strip)
        scanner.feed(chunk("a")[:-1])
        assert scanner.mid_event
        scanner.feed(b"\n")
        assert not scanner.mid_event
        scanner.feed(chunk("a") + b"d")
        assert scanner.mid_event


@pytest.mark.parametrize("step", [1, 1000, 10**7])
@pytest.mark.parametrize("strip", [True, False])
def test_F1_an_event_without_end_is_neither_held_nor_kept(step: int, strip: bool) -> None:
    data = b"data: " + b"x" * (MAX_EVENT_BYTES * 2)
    scanner = SseScanner(strip)
    start = time.process_time()
    out = 0
    for i in range(0, len(data), step):
        out += len(scanner.feed(data[i : i + step]))
        assert len(scanner._tail) <= MAX_EVENT_BYTES
    assert out == len(data)
    assert scanner.mid_event
    assert scanner.feed(b"\n\n" + DONE) == b"\n\n" + DONE
    assert (scanner.events, scanner.done, scanner.mid_event) == (2, 1, False)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("size", [MAX_EVENT_BYTES - 2, MAX_EVENT_BYTES - 1, MAX_EVENT_BYTES, MAX_EVENT_BYTES + 1,
    MAX_EVENT_BYTES + 2])
def test_the_bound_is_the_same_in_every_split(size: int) -> None:
    padding = b" " * (size - len(EXTRA))
    data = EXTRA[:-3] + padding + EXTRA[-3:] + DONE
    expected = run([data])
    for step in (1, 999, size - 1, size, size + 1):
        assert run([data[i : i + step] for i in range(0, len(data), step)]) == expected
    assert expected[0] == DONE


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_bursts_and_strangers_count_like_single_events(count: int) -> None:
    plain = b"".join(chunk(f"w{i} ") for i in range(count))
    other = chunk("x", created=2) + chunk("", finish=None) + chunk(None) + b": ping\n\n" + plain
    data = plain + plain + chunk("long" * 20_000) + plain + other + EXTRA + plain + chunk(..., "stop") + DONE
    expected = run([data])
    assert expected[0] == data.replace(EXTRA, b"")
    assert expected[1][:2] == (5 * count + 7, 5 * count + 1)
    for step in (1, 100, 250, 251, 1000, 70_000):
        assert run([data[i : i + step] for i in range(0, len(data), step)]) == expected
    assert run([e + b"\n\n" for e in data.split(b"\n\n")[:-1]]) == expected


@pytest.mark.parametrize(
    ("known", "data"),
    [
        # Whole, it would be the usage chunk: but what looks like text or an error was not held back when it came first.
        (b"", b": a comment\n" + EXTRA),
        (b"", event({"choices": [], "usage": USAGE, "error": {"message": "x"}})),
        (b"", EXTRA[:-1] + b'not data "choices":[{\n\n'),
        # What surrounds the text is known, and yet the next read is two events, the second of them the usage chunk.
        (b'data: {"content":"x"a":1,"choices":[],"usage":{}}\n\n',
         b'data: {"content":"\n\ndata: {"a":1,"choices":[],"usage":{}}\n\n'),
        (chunk("x"), chunk("x").replace(b"x", b"\n\ndata: y")),
        (chunk("x"), chunk("x").replace(b"x", b"\r\rdata: y")),
        # A name with an escape in it, two members of one name, and a name where none belongs.
        (chunk("x"), b'data: {"us\\u0061ge":{"prompt_tokens":1},"choices":[]}\n\n'),
        (chunk("x"), b'data: {"usage":null,"response":{"usage":{"input_tokens":4}}}\n\n'),
        (b"", b'event: "content":"x"\ndata: {}\n\n'),
        # Text that breaks off at the end of the event, or of its line; nothing but a NUL.
        (b"", b'data: {"content":"\n\n' + EXTRA),
        (b"", b'\n\n\n\x00"' + EXTRA),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strip", [True, False])
def test_strange_events_read_the_same_in_every_split(known: bytes, data: bytes, strip: bool) -> None:
    whole = known + known + data + chunk("z")
    expected = same_in_every_way(whole, strip)
    assert run([piece for piece in (known, known, data, chunk("z")) if piece], strip) == expected


def test_a_usage_chunk_without_an_error_in_it_is_taken_out() -> None:
    data = event({"choices": [], "usage": USAGE, "error": None})
    assert same_in_every_way(chunk("a") + data + DONE)[0] == chunk("a") + DONE


PARTS = (ROLE, chunk("a"), chunk("b"), chunk(""), chunk(..., "stop"), EXTRA, EXTRA.replace(b"\n", b"\r\n"),
    EXTRA.replace(b"\n", b"\r"), DONE, b": ping\n\n",
         b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"event: error\n", b"data: {}\n", b"data:x\r", b'data: {"error":{}}\n\n',
         chunk("c", usage=USAGE))  # fmt: skip


@BUDGET
@given(st.lists(st.sampled_from(PARTS), max_size=8), st.lists(st.integers(0, 1500), max_size=12), st.booleans())
def test_any_stream_in_any_split(parts: list[bytes], at: list[int], strip: bool) -> None:
    data = b"".join(parts)
    if not data:
        return
    expected = run([data], strip)
    assert run([data[i : i + 1] for i in range(len(data))], strip) == expected
    assert run(cut(data, at), strip) == expected
    assert run([part for part in parts if part], strip) == expected
    if not strip:
        assert expected[0] == data


@BUDGET
@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_random_bytes_pass(data: bytes, at: list[int]) -> None:
    if data:
        assert run(cut(data, at))[0] == data


@given(st.text("a\r\n:", max_size=60), st.integers(-2, 70))
@settings(BUDGET)
def test_a_line_comes_with_all_line_ends_behind_it(text: str, at: int) -> None:
    data = text.encode()
    found = re.compile(rb"[^\r\n]*[\r\n]*").match(data, at)
    assert found is not None
    assert line_at(data, at) == found.group()


def test_lines_of_any_length_together_are_the_whole() -> None:
    data = b"".join(b"x" * size + (b"\n", b"\r\n\r\n", b"\r")[size % 3] for size in range(100))
    lines = []
    at = 0
    while at < len(data):
        lines.append(line_at(data, at))
        at += len(lines[-1])
    assert b"".join(lines) == data
    assert len(lines) == 100
