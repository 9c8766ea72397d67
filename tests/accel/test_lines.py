"""The lines that are written for every request, by both twins alike."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel import lines
from tests.support.twins import native_twin, python_twin

STAMP = b"2026-11-20T10:00:00"


def test_an_access_line_is_json_and_says_what_it_was_given() -> None:
    line = lines.access_line(STAMP, 7, b"00ff", b'"client":"::1"', 12, 345, 0.0123456, 0.001, 7, 16, 5, 11, b"0af7", b"")
    assert json.loads(line + b"}") == {
        "timestamp": "2026-11-20T10:00:00.007Z", "level": "info", "message": "request", "request_id": "00ff", "client": "::1",
        "bytes_in": 12, "bytes_out": 345, "duration_ms": 12.346, "ttft_ms": 1.0, "prompt_tokens": 7, "completion_tokens": 16,
        "cached_tokens": 5, "reasoning_tokens": 11, "trace_id": "0af7",
    }  # fmt: skip
    bare = json.loads(lines.access_line(STAMP, 0, b"x", b'"a":1', 0, 0, 0.0, -1.0, -1, -1, -1, -1, b"", b"}"))
    assert set(bare) == {"timestamp", "level", "message", "request_id", "a", "bytes_in", "bytes_out", "duration_ms"}


def test_ids_grow_beyond_eight_digits_without_repeating() -> None:
    assert lines.serial_id(b"abc", 0) == b"abc00000000"
    assert lines.serial_id(b"abc", 2**32 - 1) == b"abcffffffff"
    assert lines.serial_id(b"abc", 2**32) == b"abc100000000"


def test_a_chunk_says_its_size_and_nothing_is_no_chunk() -> None:
    assert lines.chunk(b"") == b""
    assert lines.chunk(b"x" * 10) == b"a\r\n" + b"x" * 10 + b"\r\n"
    assert lines.chunk(b"x" * 0xABC) == b"abc\r\n" + b"x" * 0xABC + b"\r\n"


def test_heads_and_answers() -> None:
    assert lines.request_start(b"POST / HTTP/1.1\r\n", b"Host: a\r\n", b"b: 1\r\n", b"x-request-id: ", b"1f", 10) == (
        b"POST / HTTP/1.1\r\nHost: a\r\nb: 1\r\nx-request-id: 1f\r\ncontent-length: 10\r\n\r\n"
    )
    assert lines.plain_answer(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", b"1f", b"", b"{}") == (
        b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\nx-request-id: 1f\r\n\r\n{}"
    )
    assert lines.plain_answer(b"HTTP/1.1 200 OK\r\n", b"", b"1f", b"c: d\r\n", b"").endswith(b"-id: 1f\r\nc: d\r\n\r\n")


def test_what_is_left_of_a_limit() -> None:
    assert lines.limit_lines(b"a: b\r\n", b"requests", 60, 59, 1_000_000) == (
        b"a: b\r\nx-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\nx-ratelimit-reset-requests: 1s\r\n"
    )
    assert lines.limit_lines(b"", b"tokens", 10**11, 0, 360_000_000).endswith(b"reset-tokens: 6m0s\r\n")
    assert lines.budget_lines(b"a: b\r\n", b"x-budget-limit: 9\r\n", 0, 8_000_050) == (
        b"a: b\r\nx-budget-limit: 9\r\nx-budget-remaining: 8.000050\r\n"
    )
    assert lines.budget_lines(b"", b"c: d\r\n", 100, 0) == b"x-budget-warning: 100\r\nc: d\r\nx-budget-remaining: 0.000000\r\n"


def test_a_number_has_as_many_digits_as_it_needs() -> None:
    """At each edge of a power of ten, and of two: how many digits there are is not counted."""
    edges = {near for base in (2, 10) for power in range(64) for near in (base**power - 1, base**power, base**power + 1)}
    for number in sorted(edges):
        if number < 2**63:
            told = lines.limit_lines(b"", b"tokens", number, -number, 0).split(b"\r\n")
            assert told[:2] == [b"x-ratelimit-limit-tokens: %d" % number, b"x-ratelimit-remaining-tokens: %d" % -number]


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (-5, b"0s"), (0, b"0s"), (1, b"1ms"), (1000, b"1ms"), (12_000, b"12ms"), (998_001, b"999ms"), (999_000, b"999ms"),
        (999_001, b"1s"), (1_000_000, b"1s"), (1_000_001, b"2s"), (59_000_001, b"1m0s"), (360_000_000, b"6m0s"),
        (3_599_000_001, b"1h0m0s"), (3_723_000_000, b"1h2m3s"), (86_400_000_000, b"24h0m0s"),
    ],
)  # fmt: skip
def test_a_wait_as_openai_writes_it(us: int, text: bytes) -> None:
    assert lines.duration(us) == text


@given(st.integers(1, 400 * 86_400_000_000))
def test_a_wait_read_back_is_never_too_short(us: int) -> None:
    unit_us = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000}
    text = lines.duration(us).decode()
    parts = re.findall(r"(\d+)(ms|h|m|s)", text)
    assert "".join(number + unit for number, unit in parts) == text
    read = sum(int(number) * unit_us[unit] for number, unit in parts)
    assert us <= read < us + (1000 if us <= 999_000 else 1_000_000)


@pytest.mark.both_twins
def test_both_twins_write_the_same() -> None:
    compiled, source = native_twin("fastgw.accel.lines"), python_twin("fastgw.accel.lines")
    chance = random.Random(4)
    for _ in range(5000):
        record = (
            STAMP, chance.randrange(1000), b"ab" * chance.randrange(1, 60), b'"x":1' * chance.randrange(1, 200),
            chance.randrange(10 ** chance.randrange(1, 18)), chance.randrange(10 ** chance.randrange(1, 18)),
            chance.random() * 10.0 ** chance.randrange(-7, 6), chance.choice([-1.0, 0.0, chance.random()]),
            chance.randrange(-1, 10 ** chance.randrange(1, 12)), chance.randrange(-1, 10),
            chance.randrange(-1, 10 ** chance.randrange(1, 18)), chance.randrange(-1, 10 ** chance.randrange(1, 18)),
            chance.choice([b"", b"0af7651916cd43dd8448eb211c80319c"]), chance.choice([b"", b"}\n"]),
        )  # fmt: skip
        assert compiled.access_line(*record) == source.access_line(*record)
        number = chance.randrange(2 ** chance.randrange(1, 62))
        grown = [bytearray(b"x" * (number % 3000)) for _ in range(2)]
        compiled.append(grown[0], record[3])
        source.append(grown[1], record[3])
        assert grown[0] == grown[1]
        assert compiled.serial_id(b"0011", number) == source.serial_id(b"0011", number)
        parts = [bytes([65 + part]) * chance.randrange(900) for part in range(4)]
        head = (*parts[:2], chance.choice([b"", b"b: 1\r\n"]), *parts[2:])
        assert compiled.request_start(*head, number) == source.request_start(*head, number)
        body = b"b" * chance.randrange(5000)
        assert compiled.chunk(body) == source.chunk(body)
        extra = b"e: 1\r\n" * chance.randrange(6)
        answer = (b"S\r\n", b"f" * 7, b"id", extra, body)
        assert compiled.plain_answer(*answer) == source.plain_answer(*answer)
        us = chance.randrange(-10, 10 ** chance.randrange(1, 15))
        assert compiled.duration(us) == source.duration(us)
        unit = chance.choice([b"requests", b"tokens"])
        assert compiled.limit_lines(extra, unit, number, us, us) == source.limit_lines(extra, unit, number, us, us)
        span = (parts[1], parts[2], chance.choice([True, False]), parts[3])
        assert compiled.trace_lines(*span) == source.trace_lines(*span)
        budget = (extra, parts[0], chance.choice([0, 80, 100]), number)
        assert compiled.budget_lines(*budget) == source.budget_lines(*budget)
