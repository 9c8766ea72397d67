"""The engine and the load generator where requests are long, or have a connection each: real ones, on loopback."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
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
