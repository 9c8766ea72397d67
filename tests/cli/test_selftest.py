"""What an operator runs after an installation."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.test_cli import run
from tests.cli.test_demo import alive


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
