"""What counts as an answer: conversations with a server that is right, and with each kind that is not, cut at every byte."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterable

import msgspec
import pytest

from fastgw.accel.sse import SseScanner
from fastgw.bench import answer as module
from fastgw.bench.answer import MAX_FIELDS, MAX_HEAD_BYTES, MOST_DETAIL, Answer, Wrong
from fastgw.protocol.http1.client import ResponseReader

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def delta(text: str | None = None, reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": reason}
    return b"data: " + msgspec.json.encode({"id": "x", "choices": [choice], **more}) + b"\n\n"


def usage(completion: object, prompt: object = 5) -> bytes:
    told = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + msgspec.json.encode({"choices": [], "usage": told}) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*events: bytes, head: bytes = SSE) -> bytes:
    return head + b"".join(map(chunk, events)) + chunk(b"")


def plain(body: object, status: bytes = b"200 OK") -> bytes:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data)


def message(content: object, reason: str | None = "stop", **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}], **more}


def told(pieces: Iterable[bytes], streamed: bool = True, ends: str = "", **options: int) -> Answer:
    """What comes of these reads, a second apart; ``ends``: how the connection does then."""
    answer = Answer(ResponseReader(MAX_HEAD_BYTES, MAX_FIELDS), stream=streamed, keep_text=True, **options)
    for at, piece in enumerate(pieces, 1):
        if answer.feed(piece, float(at)):
            return answer
    if ends:
        answer.ended(ends)
    return answer


WELL = stream(delta(), delta("Hel"), b": ping\n\n", delta("lo"), delta("!", "stop"), usage(3), DONE)


def test_a_stream_is_the_same_however_it_is_cut() -> None:
    for cut in range(1, len(WELL)):
        answer = told([WELL[:cut], WELL[cut:]])
        assert (answer.complete, answer.keep_alive, answer.done, answer.finished) == (True, True, True, "stop"), cut
        assert (answer.text, answer.texts, answer.events) == ("Hello!", 3, 5)
        assert (answer.prompt_tokens, answer.completion_tokens) == (5, 3)
        assert answer.texts == 1 + len(answer.gaps) + answer.coalesced


def test_each_byte_by_itself() -> None:
    answer = told(bytes([byte]) for byte in WELL)
    assert (answer.text, answer.complete, answer.coalesced, len(answer.gaps)) == ("Hello!", True, 0, 2)


def test_times_are_those_of_the_reads_that_brought_text() -> None:
    """The head, a role and a comment are no tokens; what comes in one read came at once."""
    both = chunk(delta("b")) + chunk(delta("c"))
    reads = [SSE, chunk(delta()), chunk(b": ping\n\n"), chunk(delta("a")), both, chunk(delta("d"))]
    answer = told([*reads, chunk(delta(None, "stop")), chunk(DONE) + chunk(b"")])
    assert (answer.head_at, answer.first_at, answer.last_at) == (1.0, 4.0, 6.0)
    assert (answer.gaps, answer.coalesced) == ([1.0, 1.0], 1)


# What an event brings, as engines write it, and whether it is text: vLLM names a tool in one event and has its arguments in the
# next ones, llama.cpp and SGLang have no arguments yet, or their first, beside the name.
SHAPES: list[tuple[dict[str, object], bool]] = [
    ({"role": "assistant", "content": ""}, False), ({"role": "assistant", "content": None}, False), ({"content": "a"}, True),
    ({"tool_calls": [{"id": "c", "type": "function", "index": 0, "function": {"name": "f"}}]}, False),
    ({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}, False),
    ({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]}, True),
    ({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\": 1"}}]}, True),
    ({"content": "", "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}, True),
    ({"content": None, "tool_calls": [{"index": 0, "function": {"name": "f"}}, {"function": {"arguments": "x"}}]}, True),
    ({"function_call": {"name": "f", "arguments": ""}}, False), ({"function_call": {"arguments": "{"}}, True),
    ({"reasoning_content": "a"}, True), ({"reasoning": "a", "content": None}, True), ({"reasoning": ""}, False),
    ({"refusal": "no"}, True), ({"content": [{"type": "text", "text": "a"}]}, True),
    ({"content": [{"type": "text", "text": ""}]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("piece", "text"), SHAPES)
def test_the_first_token_is_the_same_here_and_in_the_gateway(piece: dict[str, object], text: bool) -> None:
    event = b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": piece, "finish_reason": None}]}) + b"\n\n"
    answer, scanner = told([SSE, chunk(event)]), SseScanner(False)
    scanner.feed(event)
    assert (answer.first_at, answer.texts, scanner.first_token_seen) == (2.0 if text else 0.0, int(text), text)


@pytest.mark.parametrize("events", [
    (delta("a", "stop"),),                                                       # no [DONE], as some engines
    (delta("a"), DONE),                                                          # no finish_reason
    (b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n', DONE),    # completions
    (b'data: {"choices":[{"delta":{"reasoning_content":"a"},"finish_reason":"stop"}]}\n\n', DONE),
    (b'data: {"choices":[{"delta":{"tool_calls":[{}]},"finish_reason":"tool_calls"}]}\n\n', DONE),
    (b'data: {"choices":[{"delta":{"tool_calls":[1,{"function":2}]},"finish_reason":"tool_calls"}]}\n\n', DONE),
    (b'data: {"choices":[{"delta":{"content":[{"type":"text"}]},"finish_reason":"stop"}]}\n\n', DONE),
    (delta("a", "stop"), usage(None, None), b'data: {"choices":null}\n\n', DONE),
    (delta("a", "stop"), usage(10**30, -5), DONE),                               # of no use, and nothing wrong
    (delta(None, "stop"), usage(7), DONE),                                       # tokens without text: by usage alone
])  # fmt: skip
def test_what_engines_say_in_other_words_is_an_answer(events: tuple[bytes, ...]) -> None:
    assert told([stream(*events)]).complete
    closed = told([CLOSED, *events], ends="fin")
    assert (closed.complete, closed.keep_alive) == (True, False)


BAD_STREAMS: dict[str, tuple[bytes, str, str]] = {
    "cut in the head": (SSE[:40], "truncated", "in the head"),
    "nothing": (b"", "no answer", "before a byte came"),
    "cut in an event": (SSE + chunk(delta("a")[:-4]), "truncated", "after 0 events"),
    "cut in a chunk": (SSE + chunk(delta("a"))[:-6], "truncated", "the connection ended (fin)"),
    "cut before the last chunk": (SSE + chunk(delta("a", "stop")) + chunk(DONE), "truncated", "after 1 events"),
    "a whole message, half an event": (stream(delta("a"), b'data: {"cho'), "truncated", "in the middle of an event"),
    "a whole message without an end": (stream(delta("a")), "truncated", "without a finish_reason"),
    "closed without an end": (CLOSED + delta("a"), "truncated", "without a finish_reason"),
    "bad chunk": (SSE + b"zz\r\n", "not HTTP", "chunk"),
    "bare line ends": (b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", "not HTTP", "LF"),
    "not HTTP": (b"+PONG\r\n", "not HTTP", "does not speak HTTP/1"),
    "two lengths": (SSE[:-2] + b"content-length: 5\r\n\r\n", "not HTTP", "together"),
    "behind the end": (WELL + b"x", "not HTTP", "bytes behind"),
    "101": (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "not HTTP", "nobody asked for"),
    "endless interim": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, "not HTTP", "interim answers without end"),
    "plain in place of a stream": (plain(message("a")), "no stream", "text/event-stream"),
    "an error event": (stream(delta("a"), b'data: {"error":{"message":"out of memory"}}\n\n'), "error event", "out of memory"),
    "no JSON": (stream(b"data: {choices\n\n"), "malformed", "{choices"),
    "another type": (stream(b'data: {"choices":[{"delta":{"content":5}}]}\n\n'), "malformed", "content"),
    "deep": (stream(b'data: {"error":' + b"[" * 60_000 + b"\n\n"), "malformed", ""),
    "behind [DONE]": (stream(delta("a", "stop"), DONE, delta("b")), "malformed", "behind [DONE]"),
    "empty": (stream(delta(None, "stop"), usage(0), DONE), "empty", "no text (finish_reason stop)"),
    "empty, untold": (stream(delta(None, "stop"), DONE), "empty", ""),
    "longer than asked for": (stream(delta("a", "stop"), usage(9), DONE), "too long", "9 tokens where 8"),
    "a refusal": (plain({"error": {"message": "slow down"}}, b"429 Too Many Requests"), "status 429", "slow down"),
    "a refusal without JSON": (plain(b"<h1>Bad</h1>", b"502 Bad Gateway"), "status 502", "<h1>Bad</h1>"),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", "status 204", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_what_is_no_stream_is_known_by_its_kind_however_it_is_cut(name: str) -> None:
    data, kind, detail = BAD_STREAMS[name]
    cuts = range(1, len(data)) if 1 < len(data) < 2000 else [len(data) // 2]
    for cut in [*cuts, 0]:
        pieces = [piece for piece in (data[:cut], data[cut:]) if piece]
        if name == "behind the end" and cut == len(WELL):
            continue  # the answer is over then: what follows is the connection's affair
        with pytest.raises(Wrong) as caught:
            told(pieces, ends="fin", max_tokens=8)
        assert caught.value.kind == kind, cut
        assert detail in caught.value.detail


@pytest.mark.parametrize(("data", "kind", "detail"), [
    (plain(message("a"))[:-3], "truncated", "bytes of the body"),
    (plain(b'{"choices":'), "malformed", ""),
    (plain(message("")), "empty", ""),
    (plain({"choices": []}), "malformed", "finish_reason"),
    (plain(message("a", None)), "malformed", "finish_reason"),
    (plain({"error": "no model"}), "error", "no model"),
    (plain(message("a", usage={"prompt_tokens": 1, "completion_tokens": 99})), "too long", "99"),
])  # fmt: skip
def test_what_is_no_plain_answer(data: bytes, kind: str, detail: str) -> None:
    with pytest.raises(Wrong) as caught:
        told([data], streamed=False, ends="fin", max_tokens=8)
    assert (caught.value.kind, detail in caught.value.detail) == (kind, True)


def test_a_plain_answer() -> None:
    answer = told([plain(message("Hello", usage={"prompt_tokens": 4, "completion_tokens": 2}))], streamed=False)
    assert (answer.complete, answer.text, answer.prompt_tokens, answer.completion_tokens) == (True, "Hello", 4, 2)
    assert told([plain({"choices": [{"text": "a", "finish_reason": "stop"}]})], streamed=False).text == "a"


@pytest.mark.parametrize("refused", [True, False])
def test_a_whole_message_leaves_its_connection_usable_whatever_it_says(refused: bool) -> None:
    answer = Answer(ResponseReader(), stream=True)
    with pytest.raises(Wrong):
        answer.feed(plain(b"{}", b"429 Too Many Requests") if refused else SSE + b"zz\r\n", 1.0)
    assert (answer.complete, answer.keep_alive) == ((True, True) if refused else (False, True))


@pytest.mark.parametrize(("head", "piece", "why"), [
    (b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 100 + b"\r\n", "the response head is too large"),
    (b"HTTP/1.1 200 OK\r\n", b"y" * 4096, "the response head is too large"),
    (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r", b"\n", "too many response fields"),
    (SSE, chunk(b"data: " + b"y" * 60_000 + b"\n"), "an event has no end"),
    (SSE, chunk(b"y" * 60_000), "an event has no end"),
    (SSE, b"1;" + b"y" * 200, "chunk"),
    (SSE + chunk(DONE) + b"0\r\n", b"x-trailer: " + b"y" * 100 + b"\r\n", "trailer"),
    (SSE, chunk(delta("y" * 10_000)), "more than 4 MiB"),
    (SSE, chunk(b": ping\n\n" * 1000), "more than 4 MiB"),
    (SSE, chunk(delta("y") * 100), "more than 10,000 events"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"y" * 65_536, "more than 4 MiB"),
])  # fmt: skip
def test_nothing_without_an_end_is_kept(monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes, why: str) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 4 << 20)
    monkeypatch.setattr(module, "MAX_EVENTS", 10_000)
    answer = Answer(ResponseReader(MAX_HEAD_BYTES, MAX_FIELDS), stream=head.startswith(SSE))
    answer.feed(head, 1.0)
    with pytest.raises(Wrong) as caught:
        any(answer.feed(piece, 2.0) for _ in range((6 << 20) // len(piece)))
    assert why in caught.value.detail


def test_of_a_refusal_no_more_is_kept_than_its_words_take() -> None:
    tracemalloc.start()
    try:
        answer = Answer(ResponseReader(), stream=True)
        answer.feed(b"HTTP/1.1 503 Oops\r\ncontent-length: 8000006\r\n\r\nbusy: ", 1.0)
        with pytest.raises(Wrong, match="busy"):
            any(answer.feed(bytes([120]) * 80_000, 2.0) for _ in range(100))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_error_of_any_depth_is_one() -> None:
    for depth in (*range(10, sys.getrecursionlimit(), 100), *range(sys.getrecursionlimit() - 100, sys.getrecursionlimit())):
        body = b'{"error":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        with pytest.raises(Wrong):
            told([plain(body)], streamed=False)


def test_a_servers_words_cannot_reach_the_terminal() -> None:
    with pytest.raises(Wrong) as caught:
        told([plain({"error": {"message": "\x1b[2J\u202egone\r\n" + "x" * 5000}}, b"500 Oops")])
    assert caught.value.detail.startswith("?[2J?gone xxx")
    assert len(caught.value.detail) == MOST_DETAIL
