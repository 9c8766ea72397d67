"""The demo: what a new user sees in the first minute."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import environment, run


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def engine_pid(output: str) -> int:
    found = re.search(r"engine simulator .* process (\d+)", output)
    assert found is not None
    return int(found[1])


def test_one_answer_and_out(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--once", "--port", "0", "--prompt", "Who are you?")
    assert done.returncode == 0, done.stderr
    assert "you    Who are you?" in done.stdout
    count = re.search(r"(\d+) pieces in ([\d.]+) s, the first after (\d+) ms", done.stdout)
    assert count is not None
    assert int(count[1]) > 5
    assert float(count[2]) * 1000 > int(count[3]) + 100, "the answer came at once instead of piece by piece"
    assert not alive(engine_pid(done.stdout))


def test_it_ignores_the_settings_of_a_real_gateway(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--once", "--port", "0", VLLM_URL="http://127.0.0.1:1", GATEWAY_API_KEYS="sk-x")
    assert done.returncode == 0, done.stderr


def test_a_taken_port_that_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(tmp_path, "demo", "--once", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("fastgw demo: error: ")
    assert len(done.stderr.splitlines()) == 1


def read_until(process: subprocess.Popen[bytes], mark: bytes, deadline_s: float = 30.0) -> list[tuple[float, bytes]]:
    """What the process printed and when, up to ``mark``."""
    assert process.stdout is not None
    pieces: list[tuple[float, bytes]] = []
    end = time.monotonic() + deadline_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while mark not in b"".join(piece for _, piece in pieces):
            assert selector.select(end - time.monotonic()), f"not seen: {mark!r}"
            piece = os.read(process.stdout.fileno(), 65536)
            assert piece, f"ended before {mark!r}"
            pieces.append((time.monotonic(), piece))
    return pieces


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "fastgw", "demo", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            pieces = read_until(process, b"Serving until Ctrl-C.")
            output = b"".join(piece for _, piece in pieces).decode()
            assert len(pieces) > 5, "the answer was not printed as it came"
            url = re.search(r"curl -N http://127\.0\.0\.1:(\d+)/v1/chat/completions", output)
            assert url is not None
            assert f'base_url="http://127.0.0.1:{url[1]}/v1"' in output
            with socket.create_connection(("127.0.0.1", int(url[1])), timeout=5) as client:
                client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b"demo-model" in client.makefile("rb").read()
            process.send_signal(number)
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert not alive(engine_pid(output))
        finally:
            process.kill()


def test_a_signal_in_the_middle_of_the_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastgw", "demo", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output = b"".join(piece for _, piece in read_until(process, b"model  ")).decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert not alive(engine_pid(output))
        finally:
            process.kill()


def test_whoever_reads_the_output_may_leave(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastgw", "demo", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output = b"".join(piece for _, piece in read_until(process, b"model  ")).decode()
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.wait(10) == 0
            assert process.stderr.read() == b""
            assert not alive(engine_pid(output))
        finally:
            process.kill()
