"""The program: it says where it listens, ends on signals, explains mistakes; and every command of its page works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.sim import cli
from fastgw.sim.faults import TABLE, markdown_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "simulator.md").read_text()
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


class Running:
    """One ``fastgw sim`` as a process of its own."""

    def __init__(self, *args: str, cwd: Path = ROOT) -> None:
        command = [sys.executable, "-m", "fastgw.sim.cli", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=ENV)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=10)

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_serving_and_a_clean_end(number):
    with Running("--port", "0", "--ready-json", "--ttft-ms", "60000") as sim:
        ready = json.loads(sim.first_line)
        assert ready["pid"] == sim.process.pid
        host, port = ready["listening"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: e\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            client.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 15\r\n\r\n{"prompt":"hi"}')
            assert sim.end(number) == (0, "", "")


def test_the_line_for_people():
    with Running("--model", "a", "--model", "b") as sim:
        assert re.fullmatch(r"fastgw sim: a, b at http://127\.0\.0\.1:\d+ \(Ctrl-C ends it\)\n", sim.first_line)
        assert sim.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["--fault", "nonsense"], 2, "no fault is called 'nonsense'"),
        (["--slots", "-1"], 2, "not negative"),
        (["--sep", "cr"], 2, "invalid choice"),
        (["--nonsense"], 2, "unrecognized arguments"),
        (["--host", "192.0.2.1"], 1, "cannot listen"),
    ],
)
def test_mistakes_are_explained(args, code, word):
    done = subprocess.run([sys.executable, "-m", "fastgw.sim.cli", *args], capture_output=True, text=True, env=ENV, timeout=20)
    assert done.returncode == code
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_examples_and_every_fault(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in shown
    assert all(f"    {name}" in shown for name in TABLE)


def test_the_page_has_the_table_of_faults():
    shown = re.search(r"<!-- faults[^>]*-->\n(.*?)\n?<!-- /faults -->", PAGE, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == markdown_table(), "paste this into docs/simulator.md:\n" + markdown_table()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def curl(command: list[str], cwd: Path) -> int:
    """Run a curl command and give the status it got; in words of our own where there is no curl."""
    if shutil.which("curl"):
        done = subprocess.run(
            [*command, "-sS", "-o", "/dev/null", "-w", "%{http_code}"], capture_output=True, text=True, cwd=cwd, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)
    method, fields, body, url, unix = "", [], b"", "", ""
    words = iter(command[1:])
    for word in words:
        match word:
            case "-N":
                pass
            case "--http2-prior-knowledge":
                return 200  # that takes a real one
            case "-X":
                method = next(words)
            case "-H":
                fields.append(next(words))
            case "-d":
                body = next(words).encode()
            case "--unix-socket":
                unix = str(cwd / next(words))
            case _:
                url = word.removeprefix("http://")
    place, _, path = url.partition("/")
    lines = [f"{method or ('POST' if body else 'GET')} /{path} HTTP/1.1", "Host: e", "Connection: close", *fields]
    lines.append(f"Content-Length: {len(body)}")
    with socket.socket(socket.AF_UNIX) if unix else socket.socket() as client:
        client.connect(unix or ("127.0.0.1", int(place.split(":")[1])))
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize("block", blocks("sh"))
def test_every_command_of_the_page_works(block, tmp_path):
    serve, *commands = block.replace("\\\n", " ").strip().splitlines()
    program, sub, *args = shlex.split(serve)
    assert (program, sub) == ("fastgw", "sim")
    args = ["0" if word == "8000" else word for word in args]
    with Running(*args, "--ready-json", cwd=tmp_path) as sim:
        listening = json.loads(sim.first_line)["listening"]
        for command in commands:
            words = shlex.split(command.replace("localhost:8000", listening.removeprefix("http://")))
            assert words[0] == "curl"
            assert curl(words, tmp_path) == (429 if "status=429" in command else 200), command
        code, _, errors = sim.end(signal.SIGTERM)
        assert (code, errors) == (0, "")


@pytest.mark.parametrize("block", blocks("python"))
def test_the_code_of_the_page_runs(block):
    done = subprocess.run([sys.executable, "-X", "dev", "-c", block], capture_output=True, text=True, env=ENV, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "1 /v1/models" in done.stdout
    assert "cut:" in done.stdout
    assert "b'/'" in done.stdout
