"""Listening sockets that a service manager gives (sd_listen_fds(3)): taken in the place of binding, never closed for others."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.machine import given_sockets
from tests.cli.test_cli import environment
from tests.e2e.paced import Paced
from tests.e2e.test_cases_k_process import Served
from tests.support.client import RawClient, chat, request

pytestmark = pytest.mark.once  # what it is about is no twin's

LAUNCH = """
import os, sys
names, fds = sys.argv[1], [int(one) for one in sys.argv[2].split(",")]
moved = [os.dup(fd) for fd in fds]
moved = [os.dup2(fd, 100 + at) for at, fd in enumerate(moved)]
for at, fd in enumerate(moved):
    os.dup2(fd, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "fastgw", *sys.argv[3:]])
"""
"""What a service manager does, as far as it can be seen from within."""


@asynccontextmanager
async def activated(
    folder: Path, engine: str, socks: Sequence[tuple[str, socket.socket]], *flags: str, **env: str
) -> AsyncIterator[Served]:
    log = folder / "gateway.log"
    names, fds = ":".join(name for name, _ in socks), ",".join(str(sock.fileno()) for _, sock in socks)
    argv = ["serve", "--engine", engine, "--log-format", "json", "--port", "1", *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", LAUNCH, names, fds, *argv], cwd=folder, env=environment(**env), stdout=file, stderr=file,
            pass_fds=[sock.fileno() for _, sock in socks],
        )  # fmt: skip
    try:
        yield Served(process, log)
    finally:
        process.kill()
        process.wait()


async def answered(where: str, port: int | None = None) -> int:
    async with RawClient.connect(where, port) as client:
        await client.send(chat("sim"))
        return (await client.read_response()).status


def listening(path: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    sock.bind(path or ("127.0.0.1", 0))
    sock.listen(64)
    return sock


class TestGiven:
    """Two for clients, whatever they are called, and one for the control listener; ``port`` says something else."""

    @pytest.mark.deadline_s(40)
    async def test_they_are_taken_handed_on_and_left(self, tmp_path: Path) -> None:
        path = str(tmp_path / "clients")
        paced = Paced()
        with listening() as tcp, listening(path) as unix, listening() as control:
            port, told = tcp.getsockname()[1], control.getsockname()[1]
            socks = (("http", tcp), ("control", control), ("", unix))
            async with (
                paced.engine as engine,
                activated(
                    tmp_path, engine.url, socks, "--control-listen", "127.0.0.1:2", FASTGW_ADMIN_KEY="sk-admin-0123456789"
                ) as gw,
            ):
                for count in (1, 2):
                    await gw.until("it listens", lambda n=count: gw.process.poll() or len(gw.said("listening")) == n)
                    assert gw.process.poll() is None, gw.log.read_text()
                    line = gw.said("listening")[-1]
                    assert set(line["urls"].split()) == {f"http://127.0.0.1:{port}", f"unix:{path}"}
                    assert line["control"] == f"http://127.0.0.1:{told}"
                    assert (await answered("127.0.0.1", port), await answered(path)) == (200, 200)
                    async with RawClient.connect("127.0.0.1", told) as client:
                        await client.send(request("GET", "/healthz"))
                        assert (await client.read_response()).status == 200
                    os.kill(line["pid"], signal.SIGUSR2 if count == 1 else signal.SIGTERM)
                await gw.until("both have ended", lambda: len(gw.said("stopped")) == 2)
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_unix_connection(path)  # (its manager has it still, for the next one)
                writer.close()
            del reader

    async def test_one_that_does_not_listen_is_a_mistake(self, tmp_path: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            async with activated(tmp_path, "http://127.0.0.1:9", [("http", sock)]) as gw:
                await gw.gone()
                assert gw.process.returncode == 1
                assert "descriptor 3 (http), which the service manager gave, does not listen" in gw.log.read_text()


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (0, [])),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, (2, ["a", "b"])),
        ({"LISTEN_FDS": "2"}, (2, [])),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "1"}, (0, [])),
        ({"LISTEN_FDS": "2", "LISTEN_PID": ""}, (0, [])),
        ({"LISTEN_FDS": "x"}, (0, [])),
    ],
)
def test_whose_they_are(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: Any) -> None:
    """For this process alone; and no child is told of them."""
    for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"LISTEN_PID": str(os.getpid()), **variables}.items():
        monkeypatch.setenv(name, value)
    assert given_sockets() == found
    assert [name for name in os.environ if name.startswith("LISTEN_")] == []
