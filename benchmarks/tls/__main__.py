"""What TLS costs a proxy: this checkout beside nginx, the same certificates, in one run.

    python -m benchmarks.tls [--seconds 1.5] [--rounds 3] [--only fastgw,nginx] [--plain]

CPU of the proxy per plain request, per event of a stream, per handshake (new, resumed, with a key of EC and one of RSA), and
the memory of an idle connection. The clients are ``h2load`` over HTTP/1.1 and ``openssl s_time``; they and the engine share one
core, the proxy has the other. ``--plain`` adds both without TLS. It needs h2load, openssl and nginx.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.wire import tools
from benchmarks.wire.process import Cores, choose_cores, cpu_s, on, rss_bytes, spawn, stop
from benchmarks.wire.proxies import KEY, Nginx, Place, operators_environment

IDLE = 500
CONNECTIONS = 64
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Tell me about rivers. #unpaced"}]}
EVENTS_EACH = tools.EVENTS + 2


@dataclass(frozen=True)
class Keys:
    """Certificates for 127.0.0.1 by kind of key."""

    folder: Path

    def make(self) -> None:
        kinds = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"), "rsa": ("rsa:2048",)}
        for kind, options in kinds.items():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", *options, "-nodes", "-keyout", self.folder / f"{kind}.key", "-out",
                 self.folder / f"{kind}.pem", "-days", "2", "-subj", "/CN=localhost",
                 "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                check=True, capture_output=True,
            )  # fmt: skip


def command(name: str, folder: Path, port: int, engine: int, kind: str, keys: Keys) -> list[str]:
    cert, key = keys.folder / f"{kind}.pem", keys.folder / f"{kind}.key"
    if name == "nginx":
        made = Nginx().command(Place(folder, port, engine))
        config = folder / "nginx.conf"
        if kind:
            text = config.read_text().replace(
                f"listen 127.0.0.1:{port} backlog=4096;",
                f"listen 127.0.0.1:{port} ssl backlog=4096;\n    ssl_certificate {cert}; ssl_certificate_key {key};\n"
                "    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:a:10m; ssl_session_tickets on;",
            )
            config.write_text(text)
        return made.argv
    tls = ["--tls-cert-file", str(cert), "--tls-key-file", str(key)] if kind else []
    limits = ["--rate-limit-per-second", "0", "--no-access-log", "--max-connections-per-ip", "0", "--warm-connections", "1"]
    engine_at = f"http://127.0.0.1:{engine}"
    return [sys.executable, "-m", "fastgw", "serve", "--engine", engine_at, "--port", str(port), *tls, *limits]


@contextmanager
def proxy(name: str, kind: str, engine: int, cores: Cores, keys: Keys) -> Iterator[tuple[int, int]]:
    """Its port, and its process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        argv = command(name, folder, port, engine, kind, keys)
        own = {"PYTHONPATH": str(Path(__file__).parents[1]), "FASTGW_NATIVE": "1", "GATEWAY_API_KEYS": KEY}
        env = {**operators_environment(), **own}
        child = spawn(argv, cores=cores.proxy, cwd=folder, env=env, log=folder / "log")
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.02)
            time.sleep(0.3)
            yield port, child.pid
        finally:
            stop(child)


def loaded(port: int, pid: int, cores: Cores, kind: str, folder: Path, stream: bool, count: int) -> float:
    """CPU microseconds of the proxy per request."""
    body = folder / f"body-{stream}.json"
    body.write_text(json.dumps({**CHAT, "stream": True} if stream else CHAT))
    argv = [
        "h2load", "--h1", "-c", str(CONNECTIONS), "-d", str(body), "-H", "content-type: application/json", "-H",
        f"authorization: Bearer {KEY}", f"{'https' if kind else 'http'}://127.0.0.1:{port}/v1/chat/completions",
    ]  # fmt: skip
    with on(cores.load):
        warm = subprocess.run([*argv, "-n", "1000"], check=True, capture_output=True, text=True)
        assert " 1000 succeeded" in warm.stdout, warm.stdout
        before = cpu_s(pid)
        done = subprocess.run([*argv, "-n", str(count)], check=True, capture_output=True, text=True)
    used = cpu_s(pid) - before
    assert f" {count} succeeded" in done.stdout, done.stdout
    return used / count * 1e6


def shaken(port: int, pid: int, cores: Cores, seconds: float, reuse: bool) -> tuple[float, float]:
    """CPU microseconds of the proxy per handshake, and how many there were in a second."""
    # (It takes up no session of TLS 1.3: their tickets come when it has left.)
    how = ("-reuse", "-tls1_2") if reuse else ("-new",)
    argv = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", *how, "-time", str(max(1, round(seconds)))]
    with on(cores.load):
        before, begun = cpu_s(pid), time.monotonic()
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    used, took = cpu_s(pid) - before, time.monotonic() - begun
    counts = re.findall(r"(\d+) connections in \d+ real seconds", done.stdout)
    assert counts, done.stdout + done.stderr
    count = int(counts[-1])
    return used / count * 1e6, count / took


def idle(port: int, pid: int) -> float:
    """KiB of the proxy's for a connection that has had one request and its answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    data = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    ).encode()

    def opened() -> ssl.SSLSocket:
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        sock.sendall(head + data)
        got = b""
        while b"\r\n\r\n" not in got or not got.endswith(b"}"):
            got += sock.recv(65536)
        return sock

    first = [opened() for _ in range(50)]
    before = rss_bytes(pid)
    more = [opened() for _ in range(IDLE)]
    used = rss_bytes(pid) - before
    for sock in (*first, *more):
        sock.close()
    return used / IDLE / 1024


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="fastgw,nginx")
    parser.add_argument("--rows", default="requests,events,handshakes,idle")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    for program in ("h2load", "openssl"):
        if shutil.which(program) is None:
            print(f"{program} is not installed", file=sys.stderr)
            return 2
    cores = choose_cores()
    names = options.only.split(",")
    rows = options.rows.split(",")
    found: dict[tuple[str, str], list[float]] = {}

    def note(name: str, row: str, value: float) -> None:
        found.setdefault((row, name), []).append(value)

    with tempfile.TemporaryDirectory() as place, tools.engine(cores.load) as engine:
        folder = Path(place)
        folder.chmod(0o755)
        keys = Keys(folder)
        keys.make()
        count = max(2000, int(options.seconds * 12_000))
        for turn in range(options.rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                for kind in ("ec", "") if options.plain else ("ec",):
                    with proxy(name, kind, engine, cores, keys) as (port, pid):
                        what = "TLS" if kind else "plain"
                        if "requests" in rows:
                            used = loaded(port, pid, cores, kind, folder, False, count)
                            note(name, f"{what}: µs per request", used)
                        if "events" in rows:
                            used = loaded(port, pid, cores, kind, folder, True, count // 16)
                            note(name, f"{what}: µs per unpaced event", used / EVENTS_EACH)
                        if kind and "handshakes" in rows:
                            for reuse in (False, True):
                                used, _ = shaken(port, pid, cores, options.seconds, reuse)
                                note(name, f"EC {'resumed' if reuse else 'new'}: µs per handshake", used)
                        if kind and "idle" in rows:
                            note(name, "KiB per idle connection", idle(port, pid))
                if "handshakes" in rows:
                    with proxy(name, "rsa", engine, cores, keys) as (port, pid):
                        note(name, "RSA new: µs per handshake", shaken(port, pid, cores, options.seconds, False)[0])
    print(f"{'':34}" + "".join(f"{name:>24}" for name in names) + f"{'ratio':>10}")
    for row in dict.fromkeys(row for row, _ in found):
        values = [found.get((row, name), [0.0]) for name in names]
        cells = "".join(f"{median(each):14.1f} ({min(each):.0f}-{max(each):.0f})".rjust(24) for each in values)
        ratio = median(values[0]) / median(values[1]) if len(values) > 1 else 0.0
        print(f"{row:34}{cells}{ratio:10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
