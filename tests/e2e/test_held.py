"""What is done in one go, by the collector of a whole process or where a drain begins: the loop stands still meanwhile, and
every stream with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from fastgw.exchange.gateway import CLOSES
from fastgw.serve import YOUNG
from tests.e2e.served import served
from tests.support.gateway import running

CLIENTS = 800  # some six objects each

PROGRAM = """
import gc, sys
looks = []
def told(phase, about):
    if phase == "start" and gc.get_freeze_count():  # it has started
        looks.append((about["generation"], len(gc.get_objects(about["generation"]))))
gc.callbacks.append(told)
from fastgw.cli import main
main(sys.argv[1:])
print(*[f"{generation}:{count}" for generation, count in looks])
"""


def test_many_clients_at_once_are_looked_through_in_small_lots(tmp_path: Path) -> None:
    path = tmp_path / "gateway"
    argv = ["serve", "--port", "0", "--unix-socket", str(path), "--engine", "http://127.0.0.1:1", "--log-level", "info"]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    clients: list[socket.socket] = []
    try:
        assert child.stderr is not None
        assert any('"listening"' in line for line in child.stderr)
        for _ in range(CLIENTS):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].settimeout(10)
            clients[-1].connect(str(path))
        clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert clients[-1].recv(15).startswith(b"HTTP/1.1")
        child.send_signal(signal.SIGTERM)
        printed, _ = child.communicate(timeout=20)
    finally:
        child.kill()
        for client in clients:
            client.close()
    looks = [tuple(map(int, look.split(":"))) for look in printed.split()]
    assert looks, "the collector is off: what has cycles would stay"
    assert max(generation for generation, _ in looks) == 0
    assert max(count for _, count in looks) < 2 * YOUNG


async def test_the_table_of_descriptors_is_as_large_as_it_may_become(tmp_path: Path) -> None:
    """Where threads share it, the kernel makes whoever has it grow wait for 10 ms and more: no client of a crowd is to."""

    def size() -> int:
        status = Path(f"/proc/{gw.process.pid}/status").read_text()
        return int(status.partition("FDSize:")[2].split()[0])

    async with served(tmp_path, "--max-connections", "1000") as gw:
        before = size()
        crowd = await gw.crowd(600)
        open_now, after = len(os.listdir(f"/proc/{gw.process.pid}/fd")), size()
        for sock in crowd:
            sock.close()
        assert open_now > 600
        assert after == before >= 2000


async def test_of_many_idle_connections_some_are_closed_in_each_turn_of_a_drain() -> None:
    async with running(["http://127.0.0.1:1"], drain_timeout_s=5.0) as gw:
        clients = [await gw.client() for _ in range(3 * CLOSES)]
        await gw.until("all are there", lambda: gw.stats.connections_open == len(clients))
        assert gw.gateway.core is not None
        gw.gateway.core.begin_drain()
        assert gw.stats.connections_open == 2 * CLOSES
        await gw.until("all have been closed", lambda: gw.stats.connections_open == 0)
        for client in clients:
            assert await client.read_until_closed() == (b"", "fin")
            client.close()
