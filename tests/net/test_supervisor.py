"""What a service manager hears, over the socket that it would listen on."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.config.machine import supervisor
from fastgw.net.supervisor import Supervisor

NOBODY = 1 << 22
"""No process has this id: it is the most that the kernel gives, and one more."""

pytestmark = pytest.mark.once


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What ``NOTIFY_SOCKET`` would hold, and the end that the manager reads."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@fastgw-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.settimeout(5.0)
        yield address, sock


async def test_it_hears_of_each_turn(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    told = Supervisor(address)
    try:
        told.ready("listening on http://127.0.0.1:8080")
        assert sock.recv(4096) == b"READY=1\nSTATUS=listening on http://127.0.0.1:8080"
        told.ready("listening on unix:/run/\udcff.sock")  # a path that is no text
        assert sock.recv(4096) == b"READY=1\nSTATUS=listening on unix:/run/\\udcff.sock"
        told.stopping("draining 3 requests", 45.5)
        assert sock.recv(4096) == b"STOPPING=1\nSTATUS=draining 3 requests\nEXTEND_TIMEOUT_USEC=45500000"
        told.succeeded(4711)
        assert sock.recv(4096) == b"MAINPID=4711\nSTATUS=another process has taken over"
        told.ready("it is that one's to say")
    finally:
        told.close()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


async def test_it_hears_that_the_loop_turns_until_it_does_not(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    told = Supervisor(address, watchdog_s=0.2)
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    try:
        told.ready("listening")
        began = loop.time()
        heard = [await loop.sock_recv(sock, 4096) for _ in range(4)]
        took = loop.time() - began
    finally:
        told.close()
    assert heard == [b"READY=1\nSTATUS=listening", *[b"WATCHDOG=1"] * 3]
    assert took >= 0.19, "once in half of the time, not as often as it can"
    await asyncio.sleep(0.25)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here", "/" + 200 * "x"])
async def test_a_gateway_does_without_it(address: str) -> None:
    told = Supervisor(address, watchdog_s=0.2)
    told.ready("listening")
    told.stopping("draining", 1.0)
    told.close()
    told.close()


async def test_a_manager_that_does_not_read_holds_nobody(manager: tuple[str, socket.socket]) -> None:
    told = Supervisor(manager[0])
    for _ in range(5000):
        told.ready("listening")
    told.close()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ("", 0.0)),
        ({"NOTIFY_SOCKET": "@x"}, ("@x", 0.0)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, ("/run/x", 30.0)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, ("/run/x", 30.0)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, ("/run/x", 30.0)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(NOBODY)}, ("/run/x", 0.0)),
        ({"WATCHDOG_USEC": "-1"}, ("", 0.0)),
        ({"WATCHDOG_USEC": "soon"}, ("", 0.0)),
    ],
)
def test_what_the_environment_says(env: dict[str, str], expected: tuple[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert supervisor() == expected
