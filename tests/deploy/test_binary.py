"""The frozen program, as a file and as a folder: every command, a machine without Python, signals, and the same bytes again.

Builds it, twice, for minutes: ``make binary-test``.
"""

from __future__ import annotations

import asyncio
import contextlib
import filecmp
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastgw
from fastgw.sim import SimConfig, Simulator
from scripts.audit import lockfile
from tests.deploy.frozen import NOBODY, ROOT, bare, build, children, environment, run, serving

pytestmark = [pytest.mark.once, pytest.mark.packaging, pytest.mark.timeout(1800)]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("chroot") is None, reason="needs root")
FORMS = ("fastgw", "fastgw-dir/fastgw")
# Medians, in turns. A folder that starts in more of the installed program's time is not what the page promises.
START_MOST = 1.3


@pytest.fixture(params=FORMS)
def program(dist: Path, request: pytest.FixtureRequest) -> Path:
    return dist / str(request.param)


def test_it_says_what_it_is(program: Path) -> None:
    done = run(program, "version")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[3]) == (f"fastgw {fastgw.__version__}", "native: yes")
    assert run(program, "version", FASTGW_NATIVE="0").stdout.splitlines()[3] == "native: no"


@pytest.mark.parametrize("native", ["1", "0"])
def test_it_tests_itself(program: Path, native: str) -> None:
    done = run(program, "self-test", FASTGW_NATIVE=native)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("self-test: all is well\n")


def test_every_command_is_in_it(program: Path, tmp_path: Path) -> None:
    from fastgw.cli import _COMMANDS

    for command in _COMMANDS:
        done = run(program, command, "--help")
        assert (done.returncode, done.stderr) == (0, ""), command
    assert run(program, "check", "--config", ROOT / "examples/fastgw.toml").returncode == 0
    made = run(program, "keys", "--state-dir", tmp_path / "state", "create", "--name", "ann")
    assert made.returncode == 0, made.stderr
    assert "ann" in run(program, "keys", "--state-dir", tmp_path / "state", "list").stdout
    done = run(program, "docs", "--write", tmp_path)
    assert done.returncode == 0, done.stderr
    for page in ("configuration.md", "errors.md", "phases.md"):
        assert (tmp_path / page).read_text() == (ROOT / "docs" / page).read_text()
    shown = run(program, "demo", "--once", "--port", "0")
    assert shown.returncode == 0, shown.stderr
    assert "pieces in" in shown.stdout


def machine(root: Path, dist: Path) -> None:
    """One that has nothing but what the program needs, and the program."""
    bare(root)
    shutil.copy(dist / "fastgw", root)
    shutil.copytree(dist / "fastgw-dir", root / "fastgw-dir", symlinks=True)


@AS_ROOT
@pytest.mark.parametrize("form", FORMS)
def test_it_needs_a_c_library_and_zlib(dist: Path, form: str, tmp_path: Path) -> None:
    """As nobody, on a machine that has nothing else: no shell, no Python, no /proc, no /etc."""
    machine(tmp_path / "root", dist)
    done = run("chroot", f"--userspec={NOBODY}:{NOBODY}", tmp_path / "root", f"/{form}", "self-test")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("self-test: all is well\n")
    assert list((tmp_path / "root/tmp").iterdir()) == []


@AS_ROOT
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ro", "Could not create temporary directory!"),
        ("noexec", "failed to map segment from shared object"),
        ("size=3m", "Failed to extract"),
    ],
)
def test_a_file_that_cannot_be_unpacked_says_so_and_a_folder_does_not_care(
    options: str, said: str, dist: Path, tmp_path: Path
) -> None:
    """Each message is one that ``docs/deploy.md`` explains."""
    root = tmp_path / "root"
    machine(root, dist)
    shell = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {options} none "$0/tmp" && exec chroot "$0" "$@"', root)
    refused = run(*shell, "/fastgw", "version")
    assert refused.returncode != 0
    assert said in refused.stderr
    assert said in (ROOT / "docs/deploy.md").read_text()
    assert run(*shell, "/fastgw-dir/fastgw", "version").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_all_of_it_drains(program: Path, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal, and `kill` of a group, send it: to both processes of the single file."""
    async with Simulator(SimConfig(ttft_ms=10, itl_ms=20)) as engine:
        await asyncio.to_thread(_streams_through, program, engine.url, number)


def _streams_through(program: Path, engine: str, number: signal.Signals) -> None:
    with serving(program, FASTGW_ENGINES=engine) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        client = http.client.HTTPConnection(host, int(port), timeout=30)
        time.sleep(0.5)  # the engine's first probe
        question = {"model": "sim", "stream": True, "max_tokens": 40, "messages": [{"role": "user", "content": "x"}]}
        client.request("POST", "/v1/chat/completions", json.dumps(question), {"Content-Type": "application/json"})
        with contextlib.closing(client), client.getresponse() as answer:
            assert answer.status == 200
            answer.readline()
            os.killpg(process.pid, number)
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(30) == 0


async def test_another_version_takes_its_place_as_the_page_says(dist: Path, tmp_path: Path) -> None:
    """By the commands of docs/deploy.md and docs/upgrade.md, below another root, in the middle of a stream."""
    async with Simulator(SimConfig(ttft_ms=10, itl_ms=20)) as engine:
        await asyncio.to_thread(_replaced, dist, tmp_path, engine.url)


def _replaced(dist: Path, opt: Path, engine: str) -> None:
    def does(page: str, pid: int) -> None:
        (block,) = re.findall(r"^```sh\n(cp -r dist/.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
        told = re.sub(r"^(install|systemctl) .*", "", block, flags=re.MULTILINE).replace("/opt/", f"{opt}/")
        told = told.replace('"$(systemctl show --property=MainPID --value fastgw)"', str(pid))
        subprocess.run(["sh", "-euc", told], cwd=dist.parent, check=True)

    does("deploy.md", 0)
    with serving(opt / "fastgw/fastgw", FASTGW_ENGINES=engine) as (process, url):
        time.sleep(2)  # the engine's first probe, and what is read behind the start
        client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        question = {"model": "sim", "stream": True, "max_tokens": 150, "messages": [{"role": "user", "content": "x"}]}
        client.request("POST", "/v1/chat/completions", json.dumps(question), {"Content-Type": "application/json"})
        try:
            with contextlib.closing(client), client.getresponse() as answer:
                answer.readline()
                does("upgrade.md", process.pid)
                assert answer.read().endswith(b"data: [DONE]\n\n")
            assert process.wait(30) == 0
            (now,) = (path for path in Path("/proc").glob("[0-9]*/exe") if str(opt) in os.path.realpath(path))
            assert os.path.realpath(now) == str(opt / "fastgw-0.2.0/fastgw"), "by the link, and not by where it led"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("beside", [False, True], ids=["elsewhere", "where it unpacks"])
def test_who_kills_the_outer_ends_the_inner(beside: bool, dist: Path, tmp_path: Path) -> None:
    """Wherever the file lies: copied to /tmp and run there, it unpacks itself beside itself."""
    program = tmp_path / "fastgw" if beside else dist / "fastgw"
    if beside:
        shutil.copy(dist / "fastgw", program)
    with serving(program, TMPDIR=str(tmp_path), FASTGW_ENGINES="http://127.0.0.1:1") as (process, url):
        (inner,) = children(process.pid)
        assert len(list(tmp_path.glob("_MEI*"))) == 1
        process.kill()
        process.wait()
        host, port = url.removeprefix("http://").split(":")
        deadline = time.monotonic() + 20
        while Path(f"/proc/{inner}/exe").exists() or list(tmp_path.glob("_MEI*")):
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_what_is_inside_is_locked_and_its_licences_are_told(dist: Path) -> None:
    told = json.loads((dist / "fastgw.cdx.json").read_text())
    locks = lockfile.read()
    locked = {pin.name: pin.version for pin in (*locks.shipped, *locks.making)}
    inside = {one["name"]: one["version"] for one in told["components"] if one.get("purl", "").startswith("pkg:pypi/")}
    assert {"uvloop", "httptools", "aiohttp", "msgspec", "prometheus-client", "pyinstaller"} <= set(inside)
    assert {name: locked.get(name) for name in inside} == inside
    libraries = {one["name"] for one in told["components"]}
    files = {path.name for path in (dist / "fastgw-dir/lib").iterdir() if ".so" in path.name}
    assert {name for name in files if not name.startswith("libpython")} <= libraries
    texts = (dist / "THIRD-PARTY.txt").read_text()
    for one in told["components"]:
        assert re.search(rf"^{re.escape(one['name'])}\b", texts, re.MULTILINE | re.IGNORECASE), one["name"]
    for name in ("fastgw.cdx.json", "THIRD-PARTY.txt", "LICENSE"):
        assert filecmp.cmp(dist / name, dist / "fastgw-dir" / name, shallow=False)


def test_the_same_bytes_again(dist: Path, tmp_path: Path) -> None:
    """Elsewhere, in another zone, with another umask, by somebody with other settings."""
    before = os.umask(0o077)
    try:
        build("--folder", str(tmp_path / "work"), "--dist", str(tmp_path / "dist"), TZ="Asia/Tokyo", LANG="tr_TR.UTF-8",
              PYTHONHASHSEED="77", SOURCE_DATE_EPOCH="1700000000", FASTGW_PORT="1")  # fmt: skip
    finally:
        os.umask(before)
    assert digests(tmp_path / "dist") == digests(dist)
    for path in (path for path in dist.rglob("*") if path.is_file()):
        for place in (str(ROOT), str(tmp_path)):
            assert place.encode() not in path.read_bytes(), path


def digests(folder: Path) -> dict[str, str]:
    """Of every file: its bytes, and whether it can be run."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mode & 0o100:o}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.quiet
def test_a_folder_starts_as_soon_as_what_is_installed(dist: Path) -> None:
    """From exec to the first answer, in turns."""
    commands = {
        "installed": [sys.executable, "-m", "fastgw"],
        "folder": [str(dist / "fastgw-dir/fastgw")],
        "file": [str(dist / "fastgw")],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(15):
        for name, command in commands.items():
            took[name].append(_start_s(command))
    medians = {name: statistics.median(times) for name, times in took.items()}
    print("".join(f"\n{name:<10}{1000 * median:4.0f} ms" for name, median in medians.items()))
    assert medians["folder"] <= START_MOST * medians["installed"], medians


def _start_s(command: list[str]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    words = [*command, "serve", "--port", str(port), "--engine", "http://127.0.0.1:1"]
    began = time.perf_counter()
    with subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as process:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert client.recv(100).startswith(b"HTTP/1.1 200 ")
                    break
            except ConnectionRefusedError:
                time.sleep(0.0005)
        took = time.perf_counter() - began
        process.terminate()
    return took
