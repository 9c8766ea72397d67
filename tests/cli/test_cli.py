"""The command as people run it: a process, its output and its exit code."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastgw
from fastgw.config.table import TABLE
from fastgw.flags import MATTER

REPO = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """No settings from whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "FASTGW_NATIVE") if name in os.environ}
    return {**kept, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(cwd: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "fastgw", *argv]
    return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=60, check=False)


def test_version_says_what_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "version")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"fastgw {fastgw.__version__}", f"python {platform.python_version()}"]
    assert lines[2].startswith("uvloop ")
    assert lines[3] in {"native: yes", "native: no"}
    assert run(tmp_path, "--version").stdout == done.stdout


def test_help_has_examples_and_every_flag(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("serve", "demo", "sim", "bench", "check", "version"):
        assert f"  {command} " in done.stdout
    assert "docs" not in done.stdout
    for command in ("serve", "check"):
        for option in ("--help", "--help-all"):
            page = run(tmp_path, command, option)
            assert page.returncode == 0
            assert f"examples:\n  fastgw {command} --engine" in page.stdout
            shown = set(re.findall(r"^  (?:--\[no-\])?(?:--)?([a-z0-9-]+) ?", page.stdout, re.MULTILINE))
            wanted = {row.flag[2:] for row in TABLE if option == "--help-all" or row.name in MATTER}
            assert shown & {row.flag[2:] for row in TABLE} == wanted, shown ^ wanted
            assert "](" not in page.stdout, "a link of the page that is made of the same rows"
    assert len(MATTER) == 20


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: fastgw COMMAND")


@pytest.mark.parametrize(
    ("argv", "program", "message"),
    [
        (["srve"], "fastgw", "there is no command srve; did you mean serve?"),
        (["--prot=sk-secret"], "fastgw", "there is no option --prot"),
        (["serve", "--prot", "1"], "fastgw serve", "there is no option --prot; did you mean --port?"),
        (["serve", "--api-key=sk-secret"], "fastgw serve", "there is no option --api-key; did you mean --api-keys?"),
        (["serve", "sk-secret"], "fastgw serve", "argument 1 belongs to no option"),
        (["check", "--port"], "fastgw check", "--port needs a value"),
        (["check", "--port", "--host"], "fastgw check", "--port needs a value"),
        (["check", "--no-port"], "fastgw check", "there is no option --no-port; did you mean --port?"),
        (["demo", "--twice"], "fastgw demo", "there is no option --twice"),
        (["demo", "--port", "x"], "fastgw demo", "--port: the port must be a number from 1 to 65535"),
    ],
)  # fmt: skip
def test_K4_unknown_option(tmp_path: Path, argv: list[str], program: str, message: str) -> None:
    done = run(tmp_path, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{program}: error: {message} (see {program} --help)\n")


def test_check_lists_every_mistake(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/.env").write_text("VLLM_URL=ftp://a\n")
    (tmp_path / "bad.toml").write_text("port = 80\n\nprot = 81\n")
    for command in ("check", "serve"):
        done = run(tmp_path, command, "--config", "bad.toml", "--max-json-depth", "2", FASTGW_LOG_FORMAT="xml")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == [
            "fastgw: 4 mistakes in the configuration:",
            "  bad.toml:3: prot: there is no such setting; did you mean port?",
            "  config/.env:1: engines: url: the URL must be http://host:port, https://host:port or unix:/path",
            "  FASTGW_LOG_FORMAT: log_format: must be one of auto, json, text",
            "  --max-json-depth: must be a whole number from 4 to 512",
        ]


def test_check_summarises_without_secrets(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("check", "--engine", "http://a:1", "--engine=unix:/run/b.sock", "--no-replay", "--access-log=no", "--host", "::"),
        *("--policy-header", "x-policy"),
        GATEWAY_API_KEYS="sk-secret-1,sk-secret-2", VLLM_API_KEY="sk-secret-3",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "sk-secret" not in done.stdout
    for part in (
        "listens on  http://[::]:8080",
        "2 API keys",
        "http://a:1",
        "unix:/run/b.sock",
        "replay = false  (--replay)",
        "access_log = false",
        "vllm_api_key = <set>  (VLLM_API_KEY)",
        "warning: policy_header",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(("written", "says"), [
    ('[{"url": "http://127.0.0.1:9", "name": "a"}]', "engine a: no answer"),
    ('[{"url": "http://127.0.0.1:9", "wieght": 1}]', "entry 1: an engine has no setting 'wieght'"), (None, "cannot read it"),
    ('[{"url": "http://127.0.0.1:9", "kind": "vllm", "ranks": 2}]', "entry 1: ranks: is for the configuration alone"),
])  # fmt: skip
def test_check_reads_the_file_of_engines(written: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    if written is not None:
        path.write_text(written)
    done = run(tmp_path, "check", "--engines-file", str(path), "--allow-anonymous")
    good = "no answer" in says
    assert done.returncode == (0 if good else 1)
    assert says in (done.stdout if good else done.stderr)
    assert f"engines     none, and those of {path}" in done.stdout


def test_check_asks_the_engines_of_a_name_where_the_gateway_would(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(
        '[[engines]]\nurl = "http://localhost:9"\ndiscover = "dns"\nname = "found"\n'
        '[[engines]]\nurl = "http://no-such-name.invalid:9"\ndiscover = "dns"\nname = "lost"\n'
    )
    done = run(tmp_path, "check", "--config", "g.toml", "--health-timeout-s", "2")
    assert done.returncode == 0, done.stderr
    assert "engine found@127.0.0.1:9: no answer" in done.stdout
    assert "as lost: nobody is found here" in done.stdout


def test_check_takes_the_examples(tmp_path: Path) -> None:
    done = run(tmp_path, "check", "--config", str(REPO / "examples/fastgw.toml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "engines     3, policy round_robin" in done.stdout


def test_docs_writes_the_pages(tmp_path: Path) -> None:
    assert run(tmp_path, "docs", "--write", ".").returncode == 0
    for name in ("configuration.md", "errors.md", "phases.md"):
        assert (tmp_path / name).read_bytes() == (REPO / "docs" / name).read_bytes()


def test_serving_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    """The start-up time is a feature: reading a configuration must not load what only help and mistakes use."""
    code = (
        "import sys; from fastgw import cli; cli._load('serve', '', ['--engine', 'http://127.0.0.1:1', '--port', '0']);"
        "print(sorted({'argparse', 'tomllib', 'difflib', 'aiohttp', 'h2', 'prometheus_client', 'asyncio',"
        " 'fastgw.config.render'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_K4_bind_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--port", str(port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fastgw: error: ")
    assert f"127.0.0.1:{port}" in line


def ask(path: Path, request: bytes, deadline_s: float = 20.0) -> bytes:
    """One request over a Unix socket, as soon as somebody listens there."""
    end = time.monotonic() + deadline_s
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        try:
            with client:
                client.connect(str(path))
                client.sendall(request)
                return client.makefile("rb").read()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@pytest.mark.parametrize(("number", "shell"), [(signal.SIGTERM, ""), (signal.SIGINT, ""), (signal.SIGTERM, "<&- >&- 2>&-")])
def test_S1_08_serve_until_a_signal(tmp_path: Path, number: signal.Signals, shell: str) -> None:
    """Also where it was started with none of its three streams: no socket has their numbers then."""
    path = tmp_path / "gw.sock"
    argv = ["serve", "--port", "0", "--unix-socket", str(path), "--engine", "http://127.0.0.1:1"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-m", "fastgw", *argv],
            cwd=tmp_path,
            env=environment(),
            stdout=file,
            stderr=file,
        )
    try:
        answer = ask(path, b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"status":"ok"}')
        if shell:
            assert {os.readlink(f"/proc/{process.pid}/fd/{at}") for at in range(3)} == {os.devnull}
        process.send_signal(number)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
