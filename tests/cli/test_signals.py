"""What is done to a gateway's process from outside: signals, descriptors that are not there, a crash, a log that is moved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastgw.cli import main
from fastgw.sim import Simulator
from tests.cli.test_cli import environment
from tests.e2e.test_cases_k_process import Served, serve
from tests.support.client import RawClient, chat

pytestmark = [pytest.mark.once, pytest.mark.together]

OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


async def answers(served: Served) -> bool:
    async with RawClient.connect("127.0.0.1", served.port) as client:
        await client.send(chat("sim", max_tokens=2))
        return (await client.read_response()).status == 200


def at_the_start(*signals: int) -> str:
    """A command that gets them as soon as it has begun, before it has read its settings."""
    return (
        "import os, sys, faulthandler, fastgw.__main__ as m; enable = faulthandler.enable\n"
        f"def first(fd): [os.kill(os.getpid(), one) for one in {[int(one) for one in signals]}]; return enable(fd)\n"
        "faulthandler.enable = first; sys.argv[0] = 'fastgw'; m.main()"
    )


@pytest.mark.parametrize("command", ["serve", "runner", "gpu-exporter"])
def test_a_command_that_does_not_begin_leaves_sigterm_as_it_was(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that embeds it goes on, and so do those that it starts: they would not end by it."""
    with pytest.raises(SystemExit):
        main([command, "--nonsense"])
    assert capsys.readouterr().err
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


async def test_no_signal_but_those_of_the_end_ends_it(tmp_path: Path) -> None:
    """Nor during the start."""
    begins = at_the_start(*OTHERS)
    async with Simulator() as sim, serve(tmp_path, sim.url, how=("-c", begins)) as served:
        for number in OTHERS:
            if number != signal.SIGUSR2:  # (that is an upgrade by now: `e2e/test_upgrade.py`)
                served.process.send_signal(number)
        assert await answers(served)
        log = tmp_path / "gateway.log"
        log.rename(tmp_path / "gateway.log.1")
        served.process.send_signal(signal.SIGUSR1)
        await served.until("there is a new log", lambda: log.exists() and served.said("the log goes on in a new file"))
        held = [os.stat(f"/proc/{served.process.pid}/fd/{fd}") for fd in (1, 2)]
        assert all(os.path.samestat(one, log.stat()) for one in held), "the old file is held, and its room with it"


@pytest.mark.parametrize("command", [
    ("serve", "--port", "0"), ("gpu-exporter", "--port", "0"),
    ("runner", "--gateway", "ws://127.0.0.1:9", "--engine", "http://127.0.0.1:9"),
], ids=lambda command: command[0])  # fmt: skip
async def test_sigterm_during_the_start_is_a_drain_after_it(command: Sequence[str], tmp_path: Path) -> None:
    """The first process of a container does not get it before it has asked for it: it has to be kept."""
    with (tmp_path / "said").open("wb") as file:
        argv = [sys.executable, "-c", at_the_start(signal.SIGTERM), *command]
        env = environment(RUNNER_AUTH_TOKEN="a" * 32)
        process = subprocess.Popen(argv, cwd=tmp_path, env=env, stdin=file, stdout=file, stderr=file)  # noqa: ASYNC220
    try:
        served = Served(process, tmp_path / "said")
        await served.gone()
        assert (process.returncode, served.log.read_text().count('"message":"stopped"')) == (0, 1)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
async def test_descriptors_that_are_not_there_are_opened_on_nothing(closed: Sequence[int], tmp_path: Path) -> None:
    code = (
        f"import os, sys\nfor fd in {list(closed)}: os.close(fd)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'fastgw', *sys.argv[1:]])"
    )
    path = tmp_path / "gateway.sock"
    argv = [sys.executable, "-c", code, "serve", "--port", "0", "--unix-socket", str(path)]
    with (tmp_path / "said").open("wb") as file:
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdin=file, stdout=file, stderr=file)  # noqa: ASYNC220
    served = Served(process, tmp_path / "said")
    try:
        await served.until("it listens", lambda: path.exists() or process.poll() is not None)
        assert process.poll() is None
        for fd in closed:
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.devnull
        process.send_signal(signal.SIGTERM)
        await served.gone()
        assert process.returncode == 0
        warned = "no engine is named, so no request can be answered: start with --engine" in served.log.read_text()
        assert warned == (2 not in closed)
    finally:
        process.kill()
        process.wait()


async def test_a_crash_of_compiled_code_says_where_it_was(tmp_path: Path) -> None:
    async with Simulator() as sim, serve(tmp_path, sim.url) as served:
        served.process.send_signal(signal.SIGSEGV)
        await served.gone()
        said = served.log.read_text()
        assert "Fatal Python error: Segmentation fault" in said
        assert "fastgw/serve.py" in said
