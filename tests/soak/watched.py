"""``fastgw serve`` as a child process whose memory, descriptors and log lines are watched while it is under load.

Owns: the process from its "listening" line to its exit, the counting of its access records, and what its descriptors are.
Must never: keep the records (a million of them are hundreds of megabytes), or read a setting from this process's environment.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.wire.process import on

ROOT = Path(__file__).parents[2]
START_S = 20.0
STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process's descriptors are: sockets to clients, to engines, and all else."""

    clients: int
    engines: int
    others: int


class Watched:
    """A running gateway."""

    def __init__(self, process: subprocess.Popen[bytes], engine_ports: frozenset[int]) -> None:
        self._process = process
        self._engine_ports = engine_ports
        self._listening = threading.Event()
        self.port = 0
        self.outcomes: Counter[str] = Counter()
        """Access records by outcome."""
        self.lines: list[dict[str, Any]] = []
        """The log's other lines."""
        self._reader = threading.Thread(target=self._read, name="soak-log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Keep up with the log, or the gateway drops records: so no JSON is parsed for the records."""
        assert self._process.stderr is not None
        mark, end = b'"outcome":"', b'"'
        for line in self._process.stderr:
            at = line.find(mark)
            if at >= 0 and b'"message":"request"' in line:
                at += len(mark)
                self.outcomes[line[at : line.index(end, at)].decode()] += 1
                continue
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"level": "error", "message": line.decode(errors="replace").rstrip()})
            if self.lines[-1].get("message") == "listening":
                self.port = int(str(self.lines[-1]["urls"]).split()[0].rpartition(":")[2])
                self._listening.set()
        self._listening.set()

    def await_start(self) -> None:
        assert self._listening.wait(START_S), f"not listening within {START_S:g} s"
        assert self.port, f"the gateway did not start: {self.lines[-5:]}"

    @property
    def rss_bytes(self) -> int:
        """Resident memory: the least of a few readings, so what stays when a load is over."""
        least = 1 << 62
        for _ in range(5):
            with open(f"/proc/{self._process.pid}/statm") as statm:
                least = min(least, int(statm.read().split()[1]) * resource.getpagesize())
            time.sleep(0.05)
        return least

    def held(self) -> Held:
        sockets: dict[str, tuple[int, int]] = {}
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = row.split()
            own, other = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
            sockets[fields[9]] = (own, other)
        clients = engines = others = 0
        folder = f"/proc/{self._process.pid}/fd"
        for name in os.listdir(folder):
            try:
                what = os.readlink(f"{folder}/{name}")
            except OSError:
                continue  # closed meanwhile
            inode = what[8:-1] if what.startswith("socket:[") else ""
            own, other = sockets.get(inode, (0, 0))
            if own == self.port and other:
                clients += 1
            elif other in self._engine_ports:
                engines += 1
            else:
                others += 1
        return Held(clients, engines, others)

    def settled(self, within_s: float = 10.0) -> Held:
        """Wait until no client's connection is left; what is held then (or at the end of the time)."""
        end = time.monotonic() + within_s
        while (held := self.held()).clients and time.monotonic() < end:
            time.sleep(0.05)
        return held

    def alive(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> int:
        """SIGTERM; the exit code, after the log's last line was read."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_S)
        self._reader.join(STOP_S)
        return code

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("message") == message]


@contextmanager
def watched(folder: Path, config: str, native: str, engine_ports: frozenset[int], cores: frozenset[int]) -> Iterator[Watched]:
    """``fastgw serve`` with this configuration file's text, on these cores; killed at the end if it still runs."""
    file = folder / "fastgw.toml"
    file.write_text(config)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = kept | {"PYTHONPATH": str(ROOT), "FASTGW_NATIVE": native}
    argv = [sys.executable, "-m", "fastgw", "serve", "--config", str(file), "--port", "0", "--log-format", "json"]
    with on(cores):
        process = subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    gateway = Watched(process, engine_ports)
    try:
        gateway.await_start()
        yield gateway
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        gateway._reader.join(STOP_S)
        assert process.stderr is not None
        process.stderr.close()


def can_run(native: str) -> bool:
    """Whether this checkout has the twin."""
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "FASTGW_NATIVE": native}
    argv = [sys.executable, "-m", "fastgw", "version"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode == 0 and (native == "0" or "native: yes" in done.stdout)
