"""Streams of events: the compiled scanner and the Python one step by step, and each against itself in other splits."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.fuzz.sides import native, python, some_ways

SSE = "fastgw.accel.sse"
CHUNKS = "fastgw.accel.chunks"
NATIVE = native(SSE)
PYTHON = python(SSE, CHUNKS)
CHUNK_SCANNERS = {NATIVE: native(CHUNKS).ChunkScanner, PYTHON: python(CHUNKS).ChunkScanner}

STATE = ("events", "tokens", "done", "error", "failure", "finish_reason", "prompt_tokens", "completion_tokens",
    "first_token_seen", "mid_event", "cached_tokens", "reasoning_tokens", "said_at", "of_choices", "seconds",
    "long_at", "last")  # fmt: skip

_EVENT = re.compile(rb".*?\n\n|.+", re.DOTALL).findall


def _event(data: object, end: bytes = b"\n\n", lead: bytes = b"data: ") -> bytes:
    return lead + (data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()) + end


def _delta(text: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return _event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more})


_USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
EVENTS = (
    _delta("a"), _delta(""), _delta(None), _delta('q"\\\n'), _delta("b", usage=_USAGE), _delta("c", timings={"predicted_n": 4}),
    _event({"choices": [], "usage": _USAGE}), _event({"choices": [], "usage": _USAGE}, b"\r\n\r\n"),
    _event({"choices": [], "usage": _USAGE}, b"\r\r"), _event({"choices": [{"finish_reason": "stop"}]}), _event(b"[DONE]"),
    _event(b"[DONE]", b"\r\n\r\n"), _event({"error": {"message": "x"}}), b"event: error\ndata: x\n\n", b": ping\n\n",
    b'error: {"code":400}\n\n',
    b"\n", b"\r", b"\r\n", b"data\n\n", b"\xef\xbb\xbf", b"id: 1\rdata: {}\r\r", b'event: content_block_delta\ndata: {"type":'
    b'"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}\n\n',
    _event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}),
    _event({"type": "response.output_text.delta", "delta": "x"}), _event({"type": "response.output_text.done", "text": "xy"}),
    _event({"type": "response.content_part.done", "part": {"type": "output_text", "text": "xy"}}),
    _event({"response": {"output": [{"text": "xy"}], "usage": {"input_tokens": 7, "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 1}}},
        "type": "response.completed"}), _event({"timings": {"cache_n": 2, "prompt_n": 5, "predicted_n": 2}, "type": None}),
    _event({"delta": {"tool_calls": [{"type": "function", "function": {"arguments": "{"}}]}}),
    _event({"choices": [{"text": "x"}]}), b'data: {"choices":[', _delta("0123456789" * 4), _delta("0123456789\\n" * 4),
    _event({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "a"}}, {"delta": {"content": "0123456789" * 4}}]}),
    _event({"delta": {"reasoning": "abc", "reasoning_content": "abc"}}), _event({"type": "x.audio.delta", "delta": "A" * 40}),
    _event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 9}}}),
    _event({"type": "message_delta", "usage": {"input_tokens": 5, "output_tokens": 2}}),
    _event({"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 2}}),
    _event({"type": "message_stop"}), _event({"response": {"id": "r"}, "type": "response.incomplete"}),
    _event({"type": ["message_stop"], "text": "x" * 66_000}),
    _event({"choices": [], "usage": _USAGE, "system_fingerprint": "f", "timings": {"predicted_n": 4, "x": "}"}}),
    _event({"choices": None, "usage": _USAGE}, lead=b": c\ndata: "), _event({"choices": [], "usage": {}, "x": "x" * 66_000}),
    b": c\r: d\r\n", b":", _event({"choices": [{"finish_reason": "stop"}]}, b"\r\n\r\n", b"id: 1\ndata:"),
    _event(b'{"choices" : [ ] , "usage" : {"prompt_tokens" : 7}}'), b'data: {"\\u0063hoices":[],"usage":{}}\n\n',
)  # fmt: skip


def seeds() -> list[bytes]:
    return [b"\x00" + b"".join(EVENTS[i : i + 4]) for i in range(len(EVENTS))] + [b"\x01" + event * 3 for event in EVENTS]


def words() -> list[bytes]:
    return [*EVENTS, b'"content":"', b'"choices":[]', b'"usage":{"completion_tokens":1}', b'"error":', b"data: ", b"event: ",
        b'"error":"",', b'"error":{ },', b"error: ", b"\n\n"]  # fmt: skip


def check(data: bytes) -> None:
    """The first byte says whether the usage chunk is taken out; the rest is the stream."""
    strip = bool(data[:1]) and data[0] & 1 == 0
    stream = data[1:]
    told = None
    # Cut at events' ends, too: so it mostly comes, and there the short ways are.
    events = _EVENT(stream)
    for pieces in [*some_ways(stream), events]:
        steps = run(PYTHON, pieces, strip)
        got = run(NATIVE, pieces, strip)
        assert got == steps, (data, pieces, *(pair for pair in zip(got, steps, strict=False) if pair[0] != pair[1]))
        summary = b"".join(step[0] for step in steps), steps[-1][2]
        told = summary if told is None else told
        assert summary == told, (data, pieces)
    for twin in (PYTHON, NATIVE):
        passes_alike(twin, events, strip)


def state(scanner: Any) -> tuple[Any, ...]:
    return tuple(getattr(scanner, name) for name in STATE)


def run(twin: Any, pieces: list[bytes], strip: bool) -> list[tuple[Any, ...]]:
    """After each piece: what goes out, whether it is the very object, and the state."""
    scanner = twin.SseScanner(strip)
    found = []
    for piece in pieces:
        out = scanner.feed(piece)
        found.append((out, out is piece, state(scanner)))
    return [*found, (scanner.flush(), None, state(scanner))]


def passes_alike(twin: Any, framed: list[bytes], strip: bool) -> None:
    """Chunks that go on as they stand are counted as they would be had their payload been cut out."""
    short, long = twin.SseScanner(strip), twin.SseScanner(strip)
    one, two = CHUNK_SCANNERS[twin](), CHUNK_SCANNERS[twin]()
    for piece in framed:
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        sent = long.feed(two.feed(chunk))
        if twin.passes(one, short, chunk):
            assert sent == piece, (framed, piece, "it was to be held or taken out")
        else:
            assert short.feed(one.feed(chunk)) == sent, (framed, piece)
        assert state(short) == state(long), (framed, piece)
        assert (one.aligned, one.whole) == (two.aligned, two.whole), (framed, piece)
