"""The engine and the load generator where requests are long, or have a connection each: real ones, on loopback."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler; test_wire asserts that the benchmark says so")
CORES = frozenset(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


@pytest.fixture
def engine() -> Iterator[int]:
    with module("tools").engine(CORES) as port:
        yield port


def answer(s: socket.socket, end: bytes) -> bytes:
    out = b""
    while not out.endswith(end) and (part := s.recv(1 << 16)):
        out += part
    return out


@pytest.mark.parametrize("size", [0, 5_000, 300_000])
def test_the_engine_answers_long_bodies_however_they_arrive(engine: int, size: int) -> None:
    """The middle of a long one is never looked at: what is asked for stands at its end, and the next request behind it."""
    body = b'{"messages":[{"content":"' + b"y" * size + b'"}],"stream":%s}'
    plain, stream = body % b"false", body % b"true"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    asked = head % len(plain) + plain + head % len(stream) + stream
    for piece in (len(asked), 1 << 14, 7_001):
        with socket.create_connection(("127.0.0.1", engine), timeout=10) as s:
            for at in range(0, len(asked), piece):
                s.sendall(asked[at : at + piece])
            got = answer(s, b"0\r\n\r\n")
        assert got.count(b"HTTP/1.1 200") == 2
        assert got.count(b'"chat.completion"') == 1
        assert got.count(b"data: ") == module("tools").EXPECTED_EVENTS


def test_a_long_prompt_is_whole_and_is_json() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        argv = [str(module("tools").build("loadgen")), "--port", str(port), "--connections", "1", "--seconds", "0.2"]
        child = subprocess.Popen([*argv, "--body-bytes", "20000"], stdout=subprocess.PIPE)
        s, _ = listener.accept()
        with s:
            got = b""
            while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < 20_000 + 100:
                got += s.recv(1 << 16)
        child.communicate(timeout=10)
    body = json.loads(got.partition(b"\r\n\r\n")[2])
    prompt = body["messages"][0]["content"]
    assert 18_000 < len(prompt) < 20_020
    assert '"quoted"' in prompt
    assert prompt.count("\n") > 150


@pytest.mark.parametrize(("close", "each"), [(False, False), (True, True)])
def test_the_engine_counts_the_connections_that_are_made_to_it(engine: int, close: bool, each: bool) -> None:
    tools = module("tools")
    before = tools.dials(engine)
    result = tools.load(engine, cores=CORES, seconds=5, connections=4, requests=200, close=close)
    made = tools.dials(engine) - before - 1
    assert result["bad"] == 0, result["first_bad"]
    assert (made >= result["requests_total"] >= 200) is each
    assert (made == 4) is not each


def test_who_leaves_waits_for_the_answer_that_is_under_way() -> None:
    tools = module("tools")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = [str(tools.build("loadgen")), "--port", str(listener.getsockname()[1]), "--connections", "1", "--seconds", "0.3"]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        s, _ = listener.accept()
        with s:
            s.settimeout(10)
            assert s.recv(1 << 16).startswith(b"POST ")
            time.sleep(0.4)  # its time is up
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            assert s.recv(1 << 16) == b"", "no further request, and no reset"
        said, _ = child.communicate(timeout=10)
    result = json.loads(said)
    assert (result["requests_total"], result["bad"], result["stuck"]) == (1, 0, 0)


def test_what_is_due_counts_from_when_it_was_due_and_the_wait_is_not_the_load_tools_fault() -> None:
    """A server that takes 20 ms for each of two connections answers 100 a second; 200 are due."""
    tools = module("tools")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=slowly, args=(listener, 0.02)) for _ in range(2)]
        for thread in threads:
            thread.start()
        result = tools.load(listener.getsockname()[1], cores=CORES, seconds=1, connections=2, rate=200)
        for thread in threads:
            thread.join(10)
    assert result["bad"] == 0, result["first_bad"]
    assert result["rps"] < 120
    assert result["answer_us"]["p50"] < 40_000
    assert result["latency_us"]["p50"] > 100_000, "half a second's queue, and not what each answer took"
    assert result["waited"] > 0.9 * result["sent"]


def slowly(listener: socket.socket, seconds: float) -> None:
    """One connection's requests, each answered after so long."""
    s, _ = listener.accept()
    with s:
        while s.recv(1 << 16):
            time.sleep(seconds)
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_requests_are_due_evenly_and_no_more_than_that(engine: int) -> None:
    result = module("tools").load(engine, cores=CORES, seconds=1, connections=4, rate=300)
    assert result["bad"] == 0, result["first_bad"]
    assert 290 <= result["requests_total"] <= 301
    assert result["latency_us"]["n"] == pytest.approx(270, abs=20)


@pytest.mark.parametrize("text", ["x" * 24, "y"])
def test_an_answer_without_the_text_that_is_expected_is_bad(engine: int, text: str) -> None:
    """Plain answers and streams, in turn, of two lengths."""
    load = {"mixed": True, "unpaced": True, "body_bytes": [2000, 300_000], "expect": text}
    result = module("tools").load(engine, cores=CORES, seconds=0.3, connections=2, fields=["x-more: 1"], **load)
    assert (result["requests_total"] == 0) is (text == "y")
    assert (result["bad"] > 0) is (text == "y"), result["first_bad"]
    assert result["events_total"] > 0
    assert text == "x" * 24 or "without the text" in result["first_bad"]
