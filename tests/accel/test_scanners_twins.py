"""The compiled scanners against the Python ones: step by step over the same reads, and the short way against the full one.

Streams are made of whole events and chunks of every shape, some of them broken by a few bytes, and cut at their ends (as
they mostly come), at random, once anywhere and byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.splits import cut
from tests.support.twins import native_twin, python_twin

pytestmark = pytest.mark.both_twins

BUDGET = settings()  # as many as the profile has: tests/conftest.py

CHUNKS = "fastgw.accel.chunks"
SSE = "fastgw.accel.sse"
COUNTED = ("events", "tokens", "done", "error", "failure", "finish_reason", "prompt_tokens", "completion_tokens",
    "first_token_seen", "mid_event", "of_choices", "last")  # fmt: skip

ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r", b"\r\n\r")
LEADS = (b"data: ", b"data:", b"event: m\ndata: ", b"id: 5\rdata: ", b": c\ndata: ")
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def told(text: object = "hi", finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is ... else {"content": text}
    return {"id": "c1", "created": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


OBJECTS: tuple[dict[str, Any], ...] = (
    told("a"), told("b"), told(""), told('tex\\t\n"q"'), told("\u00e9"), told(None), told(..., "stop"), told("c", usage=USAGE),
    told("c", usage=None), {"choices": [], "usage": USAGE}, {"choices": [], "usage": USAGE, "system_fingerprint": "f"},
    {"choices": [], "usage": USAGE, "error": None}, {"choices": [{"delta": {}}], "usage": USAGE, "x": 1},
    {"choices": [], "usage": USAGE, "error": {}}, {"error": {"m": 1}}, {"error": None, "choices": []},
    {"type": "response.output_text.delta", "delta": "Hel"}, {"type": "x.delta", "delta": ""},
    {"response": {"usage": {"input_tokens": 4, "output_tokens": 2}}}, {"usage": None, "response": {"usage": USAGE}},
    {"timings": {"prompt_n": 3, "predicted_n": 4}, "choices": [{"finish_reason": "length"}]}, {"text": "y"},
    {"usage": {"prompt_tokens": 2**63}}, {"usage": {"prompt_tokens": -1, "output_tokens": 2**63 - 1}},
    {"delta": {"partial_json": "{"}}, {"delta": {"thinking": "."}, "stop_reason": "end_turn"}, {"reasoning_content": "x"},
    {"type": "message_start", "message": {"stop_reason": None, "usage": {"input_tokens": 25, "output_tokens": 1}}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 15}}, told(..., "a" * 65),
)  # fmt: skip
ODD = (
    b"data: [DONE]\n\n", b'data: [DONE] "\n\n',
    b": ping\n\n", b":\n\n", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"event: error\n", b"event: m\n",
    b'event: "content":"x"\n', b"data: {}\n", b"data:x\r", b"id: 1\n", b"data\n", b'data: {"content":"x"\n\n',
    b'data: {"content":"\n\n', b'data: {"us\\u0061ge":{"prompt_tokens":1},"choices":[]}\n\n', b"\x00\n\n",
    b'data: {"content":"x"a":1,"choices":[],"usage":{}}\n\n',
    b'data: {"content":"\n\ndata: {"a":1,"choices":[],"usage":{}}\n\n',
    b'data: {"content":"y\\"}\n\n', b'data: {"content":"y\\","choices":[],"usage":{}}\n\n', b'data: {"choices" : [ ',
)  # fmt: skip


def events() -> st.SearchStrategy[list[bytes]]:
    def written(end: bytes, lead: bytes) -> st.SearchStrategy[list[bytes]]:
        usual = st.sampled_from([lead + json.dumps(data, separators=(",", ":")).encode() + end for data in OBJECTS])
        other = st.builds(
            lambda data, a, b: a + json.dumps(data).encode() + b,
            st.sampled_from(OBJECTS), st.sampled_from(LEADS), st.sampled_from(ENDS)
        )  # fmt: skip
        return st.lists(st.one_of(usual, usual, usual, other, st.sampled_from(ODD)), min_size=1, max_size=8)

    return st.tuples(st.one_of(st.just(b"\n\n"), st.sampled_from(ENDS)), st.sampled_from(LEADS)).flatmap(
        lambda how: written(*how)
    )


EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 2), st.sampled_from([b"", b"\r", b"\n", b'"', b"\\", b"{", b"}", b":", b" ",
        b"\x00", b"\xff", b"\n\n", b'"content":"', b"0", b"a", b";"])),
    max_size=3,
)  # fmt: skip


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, new in edits:
        at %= len(data) + 1
        data = data[:at] + new + data[at + gone :]
    return data


def splits(parts: list[bytes], data: bytes, at: list[int]) -> Iterator[list[bytes]]:
    ends: list[int] = []
    for part in parts:
        ends.append((ends[-1] if ends else 0) + len(part))
    yield cut(data, [])
    yield cut(data, ends)
    yield cut(data, ends[::2])
    yield cut(data, at)
    yield [data[i : i + 1] for i in range(len(data))]


def counted(scanner: Any) -> list[object]:
    return [*(getattr(scanner, name) for name in COUNTED), bytes(scanner._tail)]


def watched(pieces: list[bytes], strip: bool) -> tuple[bytes, list[object]]:
    """Both scanners over these reads, the same after each."""
    native, python = native_twin(SSE).SseScanner(strip), python_twin(SSE).SseScanner(strip)
    out = b""
    for piece in pieces:
        ours, theirs = native.feed(piece), python.feed(piece)
        assert ours == theirs, (pieces, piece)
        if len(piece) > 1:  # (shorter ones are the interpreter's own)
            assert (ours is piece) == (theirs is piece), (pieces, piece)
        assert counted(native) == counted(python), (pieces, piece)
        out += ours
    ours, theirs = native.flush(), python.flush()
    assert ours == theirs, pieces
    assert counted(native) == counted(python), pieces
    return out + ours, counted(native)


@BUDGET
@given(events(), EDITS, st.lists(st.integers(0, 2000), max_size=6), st.booleans())
def test_events_read_alike_and_the_same_in_every_split(
    parts: list[bytes], edits: list[tuple[int, int, bytes]], at: list[int], strip: bool
) -> None:
    data = edited(b"".join(parts), edits)
    if not data:
        return
    expected = watched([data], strip)
    for pieces in splits(parts, data, at):
        assert watched(pieces, strip) == expected, pieces


def test_every_place_to_cut_a_stream_once() -> None:
    parts = [b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n" for data in OBJECTS[:10]]
    data = b"".join([*parts, *ODD, *parts])
    for strip in (False, True):
        expected = watched([data], strip)
        for i in range(1, len(data)):
            assert watched([data[:i], data[i:]], strip) == expected, i


NAMES = ("choices", "usage", "timings", "error", "type", "delta", "response", "message", "content", "text", "finish_reason",
    "stop_reason", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "prompt_n", "predicted_n", "x", "id",
    'c"x', "\u00e9", "")  # fmt: skip
SCALARS = st.sampled_from([None, True, False, 0, 7, -1, 10**17, 10**18, 2**63, 1.0, 1.5, 1e300, "", "a", "stop", "x.delta",
    ".delta", "\\", '"', '"content":"', "\u00e9", "z" * 64, "z" * 65, "\U0001f600"])  # fmt: skip
MEMBERS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=10,
)
WRITTEN = st.sampled_from([(",", ":"), (",", ":"), (", ", ": "), (" ,", " : "), (",", "  :"), (",", "\t:\t")])


@BUDGET
@given(
    st.lists(st.tuples(st.sampled_from([{}, *OBJECTS]), st.dictionaries(st.sampled_from(NAMES), MEMBERS, max_size=4),
        st.booleans()), min_size=1, max_size=4),
    WRITTEN, st.sampled_from(LEADS), st.sampled_from(ENDS), EDITS, st.booleans(),
)  # fmt: skip
def test_whatever_an_event_says_reads_alike(
    said: list[tuple[dict[str, Any], dict[str, Any], bool]], written: tuple[str, str], lead: bytes, end: bytes,
    edits: list[tuple[int, int, bytes]], strip: bool,
) -> None:  # fmt: skip
    """Members that matter, with values that they should and should not have; twice, nested, and with a few bytes changed."""
    parts = []
    for usual, more, twice in said:
        data = json.dumps({**usual, **more}, separators=written, ensure_ascii=twice).encode()
        if twice and more:
            data = data[:-1] + b"," + json.dumps(more, separators=written).encode()[1:]
        parts.append(lead + data + end)
    data = b"".join(parts)
    expected = watched([data], strip)
    assert watched(parts, strip) == expected
    watched([part for part in (edited(part, edits) for part in parts) if part], strip)


LINES = (b"5\r\n", b"5\r\nhello\r\n", b"0\r\n", b"0\r\n\r\n", b"\r\n", b"c\r\ndata: {}\r\n\r\n\r\n", b"1\r\na\r\n", b"5",
    b";a=b", b"\n", b"\r", b"hello", b"A: b\r\n", b"X-B:\t\r\n", b"ff", b"FF\r\n", b" ", b"7fffffffffffffff\r\n",
    b"8000000000000000\r\n", b"0" * 16, b"a" * 257, b"\xe9", b":", b"x" * 8190)  # fmt: skip


def after(twin: Any, scanner: Any, piece: bytes) -> tuple[object, ...]:
    try:
        payload = scanner.feed(piece)
    except twin.FramingError as error:
        return "bad", str(error), error.payload
    return payload, scanner.done, scanner.rest, scanner.whole, scanner.aligned, list(scanner.trailers), scanner.lines


@BUDGET
@given(st.lists(st.one_of(st.sampled_from(LINES[:7]), st.sampled_from(LINES)), min_size=1, max_size=9), EDITS,
    st.lists(st.integers(0, 300), max_size=6))  # fmt: skip
def test_chunks_read_alike(parts: list[bytes], edits: list[tuple[int, int, bytes]], at: list[int]) -> None:
    native, python = native_twin(CHUNKS), python_twin(CHUNKS)
    assert native.FramingError.__name__ == python.FramingError.__name__
    assert issubclass(native.FramingError, ValueError)
    data = edited(b"".join(parts), edits)
    for pieces in splits(parts, data, at):
        ours, theirs = native.ChunkScanner(), python.ChunkScanner()
        for piece in pieces:
            got, wanted = after(native, ours, piece), after(python, theirs, piece)
            assert got == wanted, (pieces, piece)
            if got[0] == "bad":
                break


def framed(payloads: list[bytes], how: int) -> bytes:
    form = (b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"%04x\r\n%b\r\n", b"%x;a\r\n%b\r\n")[how]
    return b"".join(form % (len(payload), payload) for payload in payloads if payload)


READS = st.lists(
    st.tuples(
        st.lists(st.lists(st.one_of(st.sampled_from([b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
            for data in OBJECTS[:6]] + [b": ping\n\n"]), st.sampled_from(ODD)), min_size=1, max_size=3).map(b"".join),
            min_size=1, max_size=2),
        st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
        st.sampled_from([b"", b"", b"", b"", b"", b"0\r\n\r\n", b"5\r\n", b"\r\n"]),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@pytest.mark.parametrize("load", [native_twin, python_twin])
@BUDGET
@given(READS, EDITS, st.booleans(), st.booleans())
def test_the_short_way_counts_what_the_full_way_counts(
    load: Any, reads: list[tuple[list[bytes], int, bytes]], edits: list[tuple[int, int, bytes]], strip: bool, watch: bool
) -> None:
    chunks, sse = load(CHUNKS), load(SSE)
    wire = [framed(payloads, how) + tail for payloads, how, tail in reads]
    if edits:
        wire[-1] = edited(wire[-1], edits)
    short, full = chunks.ChunkScanner(), chunks.ChunkScanner()
    short_sse: Any = sse.SseScanner(strip) if watch else None
    full_sse: Any = sse.SseScanner(strip) if watch else None
    # The second time around, the surroundings of the texts are known.
    for read in (*wire[:-1], *wire):
        before = counted(short_sse) if watch else None
        passed = sse.passes(short, short_sse, read)
        wanted = after(chunks, full, read)
        if wanted[0] == "bad":
            assert not passed, read
            break
        payload = wanted[0]
        out = full_sse.feed(payload) if watch else payload
        if passed:
            assert out == payload, read
            assert full.aligned
            assert full.whole
        else:
            if watch:
                assert counted(short_sse) == before, "said no, and yet took note"
            assert after(chunks, short, read) == wanted
            if watch:
                assert short_sse.feed(payload) == out
        assert (short.aligned, short.whole, short.done, short.rest) == (full.aligned, full.whole, full.done, full.rest), read
        if watch:
            assert counted(short_sse) == counted(full_sse), read


@pytest.mark.parametrize("size", [65536 - 2, 65536 - 1, 65536, 65536 + 1, 65536 + 2])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\n\r"])
def test_the_bound_of_an_event_is_the_same_in_both(size: int, end: bytes) -> None:
    plain = b'data: {"choices":[{"delta":{"content":"a"}}]}' + end
    for inside in (b'{"choices":[{"delta":{"content":"%b"}}]}', b'{"choices":[],"usage":{"prompt_tokens":7},"x":"%b"}'):
        long = b"data: " + inside % (b"x" * (size - len(inside) + 2 - 6 - len(end))) + end
        data = plain + plain + long + plain
        edges = [0, len(plain), 2 * len(plain), 2 * len(plain) + size, len(data)]
        expected = watched([data], True)
        for pieces in (
            [data[a:b] for a, b in pairwise(edges)],
            [data[a:b] for a, b in pairwise([0, edges[3] - 1, edges[3], len(data)])],
            [data[i : i + 999] for i in range(0, len(data), 999)],
        ):
            assert watched(pieces, True) == expected
