"""``fastgw serve`` in a process of its own, for tests that measure what it holds.

Owns: the process, from its "listening" line to its exit code 0. Must never: leave it running, or read a setting from this
process's environment or folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastgw.config.machine import connections_in
from tests.support.client import RawClient

START_S = 10.0
SPARE_FDS = 500
OTHERS = 8  # connections that a test has beside its crowd
KEPT = {"PATH", "LANG", "LC_ALL", "TMPDIR", "FASTGW_NATIVE"}  # the last: the twin that this session runs


class Served:
    """A running gateway process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    async def settled_rss_bytes(self, samples: int = 5) -> int:
        """The least of a few readings: what stays when a burst is over."""
        least = self.rss_bytes
        for _ in range(samples):
            await asyncio.sleep(0.05)
            least = min(least, self.rss_bytes)
        return least

    async def client(self) -> RawClient:
        return await RawClient.connect("127.0.0.1", self.port)

    async def crowd(self, count: int) -> list[socket.socket]:
        """``count`` plain connections, made without a pause for each."""
        loop = asyncio.get_running_loop()
        crowd: list[socket.socket] = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            crowd.append(sock)
            await loop.sock_connect(sock, ("127.0.0.1", self.port))
        return crowd


def room_for(connections: int) -> int:
    """How many connections this process may hold, at most ``connections``; its limit of open files is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FDS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = min(connections, soft - SPARE_FDS)
    if hard != resource.RLIM_INFINITY:
        room = min(room, connections_in(hard) - OTHERS)
    assert room >= min(connections, 1000), f"a limit of {soft} open files is too low for this test"
    return room


def _start(folder: Path, flags: tuple[str, ...], env: dict[str, str], files: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name in KEPT}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), **env}
    command = [
        *(["sh", "-c", f'ulimit -n {files}; exec "$0" "$@"'] if files else []),
        sys.executable,
        "-m",
        "fastgw",
        "serve",
        "--port",
        "0",
        "--log-format",
        "json",
        "--drain-timeout-s",
        "0.2",
        *flags,
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def _log(folder: Path) -> str:
    return (folder / "log").read_text()


@asynccontextmanager
async def served(folder: Path, *flags: str, env: dict[str, str] | None = None, files: int = 0) -> AsyncIterator[Served]:
    """``fastgw serve --port 0`` with ``flags``, started in ``folder``; ended by SIGTERM, and judged by its exit code.
    ``files``: how many it may have open, where that is to be few."""
    process = _start(folder, flags, env or {}, files)
    try:
        yield Served(process, await _listening(process, folder))
        assert process.poll() is None, f"the gateway died: {_log(folder)[-2000:]}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        for _ in range(1000):
            if process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        else:
            process.kill()
            process.wait()
    text = _log(folder)
    assert process.returncode == 0, text[-2000:]
    assert '"level":"error"' not in text, text[-2000:]


async def _listening(process: subprocess.Popen[bytes], folder: Path) -> str:
    for _ in range(int(START_S / 0.01)):
        for line in _log(folder).splitlines():
            if '"listening"' in line and line.endswith("}"):
                return str(json.loads(line)["urls"]).split()[0]
        assert process.poll() is None, _log(folder)
        await asyncio.sleep(0.01)
    raise AssertionError(f"not listening within {START_S:g} s: {_log(folder)}")
