"""What the README tells a newcomer to type is typed here: every block of commands and every snippet runs.

Only what differs from machine to machine is replaced: the virtual environment's folder, ports (0 = a free one), addresses
of engines that do not exist here, folders of state, and how long something that serves for ever may run.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgw.cli import _HELP
from fastgw.sim import SimConfig, Simulator
from tests.support.gateway import running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind in ("sh", "") for line in block.splitlines() if line.strip()]
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]
SERVING = [line for line in COMMANDS if "fastgw serve" in line or "fastgw sim" in line]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
ONCE = [line for line in COMMANDS if line not in SERVING and line not in MAKE]


def test_every_command_of_the_readme_is_run_here() -> None:
    said = {line.partition("#")[0].strip() for line in MAKE}
    assert said == {"make demo", "make test", "make install", "make native", "make bench"}
    assert len(SERVING) == 4
    assert len(ONCE) == 6
    assert len(SNIPPETS) == 2


def _typed(line: str, state: Path) -> tuple[dict[str, str], list[str]]:
    """A command line as environment and arguments, with this machine's virtual environment and a state folder of its own."""
    words = shlex.split(line.replace(".venv/bin/", f"{BIN}/").replace("~/.fastgw", str(state)), comments=True)
    settings = ("FASTGW_", "GATEWAY_", "VLLM_")
    environment = {key: value for key, value in os.environ.items() if key == "FASTGW_NATIVE" or not key.startswith(settings)}
    while "=" in words[0] and not words[0].startswith(("/", "-")):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return environment, words


@pytest.mark.parametrize("line", ONCE)
def test_a_command_that_ends_succeeds(line: str, tmp_path: Path) -> None:
    environment, words = _typed(line, tmp_path)
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if promised := re.search(r"# (native: \w+)$", line):
        assert done.stdout.splitlines()[-1] == promised[1]


@pytest.mark.parametrize("line", SERVING)
def test_a_command_that_serves_serves_until_it_is_told_to_end(line: str, tmp_path: Path) -> None:
    environment, words = _typed(line, tmp_path)
    if "--port" in words:
        words[words.index("--port") + 1] = "0"
    else:
        words += ["--port", "0"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd=ROOT, env=environment, **output) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            said = ""
            while "http://" not in said:
                more = process.stdout.readline()
                assert more, f"ended before it listened: {said}"
                said += more
            time.sleep(0.2)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()  # type: ignore[union-attr]
        assert process.wait(20) == 0


def test_make_demo_streams_one_answer_and_ends() -> None:
    words = ["make", "demo", "ARGS=--once", f"VENV={BIN.parent}"]
    # As from a fresh clone, where nothing has been compiled yet.
    environment = {name: value for name, value in os.environ.items() if name != "FASTGW_NATIVE"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "engine simulator" in done.stdout
    assert re.search(r"\d+ pieces in [\d.]+ s, the first after \d+ ms", done.stdout)


async def test_the_sdk_snippet_prints_an_answer() -> None:
    (snippet,) = (one for one in SNIPPETS if "openai" in one)
    async with Simulator(SimConfig()) as sim, running([sim.url]) as gw:  # (as `fastgw sim` is)
        code = snippet.replace("http://127.0.0.1:8080", gw.url)
        assert code != snippet
        assert await _run(code)


def test_every_model_that_is_named_is_the_simulators() -> None:
    assert set(re.findall(r"--model (\w+)", README + _HELP)) == set(SimConfig().models)


async def test_the_embedding_snippet_prints_its_address() -> None:
    (snippet,) = (one for one in SNIPPETS if "fastgw.Gateway" in one)
    assert (await _run(snippet)).startswith("http://127.0.0.1:")


async def _run(code: str) -> str:
    """What a program prints; it must end well and in time."""
    import asyncio

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 25)
    assert process.returncode == 0, err.decode()
    return out.decode().strip()
