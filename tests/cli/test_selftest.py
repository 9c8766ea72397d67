"""What an operator runs after an installation."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import environment, run
from tests.cli.test_demo import alive, read_until


def test_it_serves_streams_and_drains(tmp_path: Path) -> None:
    # Nothing of a real gateway's settings is read, and nothing is written.
    done = run(tmp_path, "self-test", VLLM_URL="http://127.0.0.1:1", GATEWAY_API_KEYS="sk-x", FASTGW_PORT="no-port")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "program", "engine", "gateway", "stream", "drain", "stream", "drain", "self-test:",
    ]  # fmt: skip
    assert done.stdout.endswith("self-test: all is well\n")
    for pid in re.findall(r"process (\d+)", done.stdout):
        assert not alive(int(pid))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_as_it_should_be_is_said(tmp_path: Path) -> None:
    """Here: nobody can have a socket."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\ndef bind(self, *address): raise OSError(28, 'No space left on device')\nsocket.socket.bind = bind\n"
    )
    from tests.cli.test_cli import REPO

    done = run(tmp_path, "self-test", PYTHONPATH=f"{tmp_path}:{REPO}")
    assert done.returncode == 1
    assert done.stderr.startswith("fastgw self-test: error: "), done.stderr
    assert "no space left on device" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_it_ends_all_of_it(tmp_path: Path, number: signal.Signals) -> None:
    """As Ctrl-C, `timeout 30 fastgw self-test` and a closed terminal do."""
    command = [sys.executable, "-m", "fastgw", "self-test"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            seen = b"".join(piece for _, piece in read_until(process, b"listens after"))
            process.send_signal(number)
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, stderr.decode()) == (1, f"fastgw self-test: error: it was ended by {number.name}\n")
    pids = re.findall(rb"process (\d+)", seen)
    assert len(pids) == 2
    assert not any(alive(int(pid)) for pid in pids)
