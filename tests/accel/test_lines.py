"""The lines that are written for every request, by both twins alike."""

from __future__ import annotations

import json
import random

import pytest

from fastgw.accel import lines
from tests.support.twins import native_twin, python_twin

STAMP = b"2026-11-20T10:00:00"


def test_an_access_line_is_json_and_says_what_it_was_given() -> None:
    line = lines.access_line(STAMP, 7, b"00ff", b'"client":"::1"', 12, 345, 0.0123456, 0.001, 7, 16)
    assert json.loads(line + b"}") == {
        "timestamp": "2026-11-20T10:00:00.007Z", "level": "info", "message": "request", "request_id": "00ff", "client": "::1",
        "bytes_in": 12, "bytes_out": 345, "duration_ms": 12.346, "ttft_ms": 1.0, "prompt_tokens": 7, "completion_tokens": 16,
    }  # fmt: skip
    bare = json.loads(lines.access_line(STAMP, 0, b"x", b'"a":1', 0, 0, 0.0, -1.0, -1, -1) + b"}")
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
    assert lines.request_start(b"POST / HTTP/1.1\r\n", b"Host: a\r\n", b"x-request-id: ", b"1f", 10) == (
        b"POST / HTTP/1.1\r\nHost: a\r\nx-request-id: 1f\r\ncontent-length: 10\r\n\r\n"
    )
    assert lines.plain_answer(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", b"1f", b"{}") == (
        b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\nx-request-id: 1f\r\n\r\n{}"
    )


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
        )  # fmt: skip
        assert compiled.access_line(*record) == source.access_line(*record)
        number = chance.randrange(2 ** chance.randrange(1, 62))
        assert compiled.serial_id(b"0011", number) == source.serial_id(b"0011", number)
        parts = [bytes([65 + part]) * chance.randrange(900) for part in range(4)]
        assert compiled.request_start(*parts, number) == source.request_start(*parts, number)
        body = b"b" * chance.randrange(5000)
        assert compiled.chunk(body) == source.chunk(body)
        assert compiled.plain_answer(b"S\r\n", b"f" * 7, b"id", body) == source.plain_answer(b"S\r\n", b"f" * 7, b"id", body)
