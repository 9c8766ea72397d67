"""Access records and events on their way to a file descriptor."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config.names import LOG_LEVELS
from fastgw.exchange.record import AccessRecord
from fastgw.observe import logs
from fastgw.observe.logs import AccessJson, LogWriter, access_fields, as_json, as_text
from fastgw.stats import Stats

NASTY = 'a"b\\c\n\x1b[31m\u2028é'


def record(**other: Any) -> AccessRecord:
    usual = AccessRecord(
        at=time.monotonic(), request_id=b"00ff", key_id="0123456789ab", client="127.0.0.1", method=b"POST",
        path=b"/v1/chat/completions", endpoint="/v1/chat/completions", model="m", engine="e", status=200, bytes_in=12,
        bytes_out=345, prompt_tokens=7, completion_tokens=16, ttft_s=0.001234, duration_s=0.5, stream=True, outcome="ok",
    )  # fmt: skip
    return replace(usual, **other)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"prompt_tokens": -1, "completion_tokens": -1, "ttft_s": -1.0, "stream": False},
        {"key_id": "", "model": "", "engine": ""},
        {"completion_tokens": -1},
        {"queued_s": 0.0123456, "estimated": True},
        {"queued_s": 0.0, "error": "queue_timeout", "detail": "no room"},
        {"prompt_tokens": -1},
        {"cached_tokens": 0, "reasoning_tokens": 12},
        {"cached_tokens": 5, "estimated": True},
        {"ttft_s": -1.0},
        {"error": "bad_gateway", "detail": NASTY, "status": 502, "outcome": "error"},
        {"model": NASTY, "path": NASTY.encode(), "method": b"GE\xff", "client": NASTY},
        {"protocol": "h1"},
        {"protocol": "h2", "tls": "1.3"},
        {"trace_id": "0af7651916cd43dd8448eb211c80319c", "detail": "no room"},
        {"path": b"/" + b"x" * 5000, "detail": "y" * 5000},
    ],
)
def test_the_quick_line_says_what_the_fields_say(other: dict[str, Any]) -> None:
    quick = AccessJson()
    quick.set_clock()
    one = record(**other)
    for _ in range(2):  # learned, then remembered
        line = quick(one)
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        said, meant = json.loads(line), json.loads(as_json(access_fields(one)))
        assert said.pop("timestamp")[:22] == meant.pop("timestamp")[:22]
        assert said == meant


def test_what_callers_vary_does_not_grow_without_end() -> None:
    quick = AccessJson()
    for number in range(logs.MAX_ESCAPED + 10):
        quick(record(path=b"/%d" % number))
    assert len(quick._common) <= logs.MAX_ESCAPED


def test_text_for_people_is_one_line_without_control_characters() -> None:
    line = as_text(access_fields(record(path=NASTY.encode(), detail=NASTY))).decode()
    assert line.count("\n") == 1
    assert all(char.isprintable() for char in line[:-1])
    assert " POST " in line
    assert "500.0 ms" in line


def test_a_path_that_is_no_text_can_be_told() -> None:
    line = as_json({"level": "info", "message": "listening", "urls": "unix:/run/\udcff.sock", "pid": 7})
    assert json.loads(line) == {"level": "info", "message": "listening", "urls": "unix:/run/\\udcff.sock", "pid": 7}


async def test_lines_arrive_in_order_and_all_of_them() -> None:
    reader, writer = os.pipe()
    log = LogWriter(writer, level="info", json=True)
    log.info("before the start", number=1)
    log.start(asyncio.get_running_loop())
    log.debug("below the level")
    for number in range(100):
        log.append(record(bytes_in=number))
    await asyncio.sleep(logs.FLUSH_S * 2)
    log.warning("at the end")
    log.close()
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        lines = [json.loads(line) for line in file]
    assert lines[0]["message"] == "before the start"
    assert [line["bytes_in"] for line in lines[1:101]] == list(range(100))
    assert [line["message"] for line in lines[101:]] == ["at the end"]


async def test_each_level_silences_those_below_it() -> None:
    for place, level in enumerate(LOG_LEVELS):
        reader, writer = os.pipe()
        log = LogWriter(writer, level=level, json=True)
        for name in LOG_LEVELS[:-1]:
            getattr(log, name)("said")
        log.close()
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            assert [json.loads(line)["level"] for line in file] == list(LOG_LEVELS[place:-1])


async def test_a_reader_that_stops_costs_records_and_neither_time_nor_memory() -> None:
    reader, writer = os.pipe()
    stats = Stats()
    log = LogWriter(writer, json=True, stats=stats)
    log.start(asyncio.get_running_loop())
    detail = "z" * 400
    size = len(AccessJson()(record(detail=detail)))
    room = logs.MAX_PENDING_BYTES + (logs.MAX_BATCHES + 2) * (logs.FLUSH_BYTES + size)
    count = room // size + 2000
    begun = time.process_time()
    for number in range(count):
        log.append(record(detail=detail))
        if number % 1000 == 0:
            await asyncio.sleep(0)
    assert stats.access_dropped >= 1000
    assert len(log._pending) <= logs.MAX_PENDING_BYTES + size
    assert log._batches.qsize() <= logs.MAX_BATCHES
    assert (time.process_time() - begun) / count < 100e-6
    closing = time.monotonic()
    await asyncio.to_thread(log.close, 0.2)
    assert time.monotonic() - closing < 2.0
    os.close(reader)  # the stuck write ends with EPIPE, and so does the thread
    await asyncio.sleep(0.2)
    os.close(writer)


def test_when_a_full_disk_has_room_again_the_line_that_it_cut_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    file = bytearray()
    room = 0

    def write(_fd: int, data: memoryview) -> int:
        taken = min(len(data), room - len(file))
        if taken == 0:
            raise OSError(errno.ENOSPC, "no room")
        file.extend(data[:taken])
        return taken

    monkeypatch.setattr(os, "write", write)
    log = LogWriter(-1, json=True)
    batch, whole, ends = bytearray(b'{"a": 1}\n{"b": 2}\n'), True, []
    for more in (9, 25, 0, 0, 100):  # full at the end of a line; not full; within a line; still full; room again
        room += more
        whole = log._emit(batch, 2, whole)
        ends.append(whole)
    a, b, cut = b'{"a": 1}', b'{"b": 2}', b'{"a": 1'
    assert (ends, file.splitlines()) == ([True, True, False, False, True], [a, a, b, cut, a, b])
