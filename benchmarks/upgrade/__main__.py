"""``python -m benchmarks.upgrade``: a gateway is replaced (SIGUSR2) while streams are open and new connections come all the
time.

What it prints is what its clients saw, and what their key was charged against what the engine says that it has made. Exit
status: 0 nobody was refused, nothing broke, and each token was counted once; 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

import uvloop

from benchmarks.upgrade.crowd import Http1, Http2, Seen, Where, newcomers, request

STREAMS_OF_ONE: Final = 50  # of HTTP/2, over one connection
AROUND_S: Final = 4.0  # before the upgrade, and behind it, in which new connections come as well
START_S: Final = 60.0
FAILED: Final = "upgrade: there was none, and all is as it was"
FASTGW: Final = (sys.executable, "-m", "fastgw")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrade", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="open streams: by HTTP/1, by TLS, by HTTP/2 over TLS alike")
    parser.add_argument("--rate", type=float, default=1000.0, help="new connections a second")
    parser.add_argument("--tls-share", type=float, default=0.05, help="of those, with a TLS handshake")
    parser.add_argument("--itl-ms", type=float, default=500.0, help="between two tokens of a stream")
    parser.add_argument("--tokens", type=int, default=60, help="of each stream")
    parser.add_argument("--keys", type=int, default=1, help="keys in the store; one of them is used")
    return parser.parse_args()


@contextmanager
def started(folder: Path, log: str, *argv: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / log).open("wb") as file:
        child = subprocess.Popen([*FASTGW, *argv], cwd=folder, env={**os.environ, **env}, stdout=file, stderr=file)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def lines(log: Path, message: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1] if line.startswith(b"{")]
    return [line for line in found if line["message"] == message]


async def until(what: str, condition: Callable[[], Any], within_s: float = START_S) -> None:
    end = monotonic() + within_s
    while not condition():
        if monotonic() > end:
            raise SystemExit(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.02)


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def made(port: int) -> tuple[int, int]:
    """Tokens of prompts, and of answers, as the engine counts them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if "{" in line and "_bucket" not in line}
    return int(found["vllm:prompt_tokens_total"]), int(found["vllm:generation_tokens_total"])


def certificate(folder: Path) -> tuple[str, str]:
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
         "-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def keys(folder: Path, count: int) -> str:
    """As many in the store; the last one's text."""
    flags = ("--json", "--tokens-per-minute", "100000000", "--daily-tokens", "1000000000", "--concurrency", "100000")
    made_ = subprocess.run(
        [*FASTGW, "keys", "create", *flags], cwd=folder, env={**os.environ, "FASTGW_STATE_DIR": str(folder / "state")},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    if count > 1:
        import sqlite3

        database = sqlite3.connect(folder / "state" / "fastgw.db")
        names = [row[1] for row in database.execute("PRAGMA table_info(keys)")]
        (row,) = database.execute("SELECT * FROM keys").fetchall()
        marks = ", ".join("?" * len(names))
        first = dict(zip(names, row, strict=True))
        others = (first | {"id": f"key_{at:016x}", "digest": os.urandom(32)} for at in range(count - 1))
        database.executemany(f"INSERT INTO keys VALUES ({marks})", ([one[name] for name in names] for one in others))
        database.commit()
        database.close()
    return str(json.loads(made_.stdout)["key"])


async def charged(where: Where, key: str) -> dict[str, int]:
    data = f"GET /v1/usage HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    one: Http1 = await where.connect(lambda: Http1(data))
    await one.ended
    found: dict[str, int] = json.loads(bytes(one.received).partition(b"\r\n\r\n")[2])
    return found


class Streams:
    """All that are open: a third by each way."""

    def __init__(self) -> None:
        self.ones: list[Http1] = []
        self.many: list[Http2] = []

    async def open(self, count: int, key: str, tokens: int, plain: Where, tls: Where, h2: Where) -> None:
        each = count // 3
        for where in (plain, tls):
            for at in range(0, each, 20):
                made_ = (where.connect(lambda: Http1(request(key, tokens, True))) for _ in range(min(20, each - at)))
                self.ones += await asyncio.gather(*made_)
        for at in range(len(self.ones), count, STREAMS_OF_ONE):
            size = min(STREAMS_OF_ONE, count - at)
            self.many.append(await h2.connect(lambda n=size: Http2(key, n, tokens)))
        await asyncio.wait([one.begun for one in (*self.ones, *self.many)], timeout=60)

    @property
    def count(self) -> int:
        return len(self.ones) + sum(len(one.bodies) for one in self.many)

    async def broken(self) -> list[str]:
        await asyncio.wait([one.ended for one in (*self.ones, *self.many)], timeout=600)
        return [
            *(why for one in self.ones if (why := one.problem(True))),
            *(why for one in self.many for why in one.broken()),
        ]


async def run(folder: Path, chosen: argparse.Namespace) -> int:
    key = keys(folder, chosen.keys)
    cert, secret = certificate(folder)
    engine = ("sim", "--port", "0", "--itl-ms", str(chosen.itl_ms), "--slots", "0", "--record", "0", "--ready-json")
    with started(folder, "engine.log", *engine):
        await until("the engine listens", lambda: b"listening" in (folder / "engine.log").read_bytes())
        told = json.loads((folder / "engine.log").read_text().splitlines()[0])
        port = int(told["listening"].rpartition(":")[2])
        settings = {
            "FASTGW_STATE_DIR": str(folder / "state"), "FASTGW_UNIX_SOCKET": str(folder / "plain"),
            "FASTGW_TLS_CERT_FILE": cert, "FASTGW_TLS_KEY_FILE": secret, "FASTGW_HTTP2": "true", "FASTGW_LOG_FORMAT": "json",
            "FASTGW_ACCESS_LOG": "false",
            "FASTGW_RATE_LIMIT_PER_SECOND": "0", "FASTGW_KEEPALIVE_TIMEOUT_S": "5", "FASTGW_CONTROL_LISTEN": "127.0.0.1:0",
            "FASTGW_MAX_CONNECTIONS": "8000",
        }  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with started(folder, "gateway.log", "serve", "--port", "0", "--engine", url, **settings) as child:
            try:
                return await measure(folder, chosen, key, port, cert, child.pid)
            finally:
                for line in lines(folder / "gateway.log", "listening"):
                    try:
                        os.kill(line["pid"], signal.SIGTERM)
                    except ProcessLookupError:
                        continue


async def measure(folder: Path, chosen: argparse.Namespace, key: str, engine: int, cert: str, pid: int) -> int:
    log = folder / "gateway.log"
    await until("the gateway listens", lambda: lines(log, "listening"))
    port = int(lines(log, "listening")[0]["urls"].split()[0].rpartition(":")[2])
    contexts = [ssl.create_default_context(cafile=cert) for _ in range(2)]
    contexts[1].set_alpn_protocols(["h2"])
    plain, tls, h2 = Where(unix=str(folder / "plain")), Where(port=port, tls=contexts[0]), Where(port=port, tls=contexts[1])
    streams, seen, over = Streams(), Seen(), asyncio.Event()
    await streams.open(chosen.streams, key, chosen.tokens, plain, tls, h2)
    places = [tls if at < 100 * chosen.tls_share else plain for at in range(100)]
    crowd = asyncio.ensure_future(newcomers(places, key, chosen.rate, seen, over))
    await asyncio.sleep(AROUND_S)
    before_s, seen.slowest_s, seen.longest_gap_s = seen.slowest_s, 0.0, 0.0
    begin = monotonic()
    os.kill(pid, signal.SIGUSR2)
    await until("it has taken over", lambda: len(lines(log, "listening")) == 2 or lines(log, FAILED))
    took_s = monotonic() - begin
    if len(lines(log, "listening")) < 2:
        print(log.read_text(), file=sys.stderr)
        return 1
    new = lines(log, "listening")[1]["pid"]
    memory = (rss_mib(pid), rss_mib(new))
    await asyncio.sleep(AROUND_S)
    over.set()
    await crowd
    broken = await streams.broken()
    await until("the old one has ended", lambda: lines(log, "the process before has ended"))
    found, truth = await charged(plain, key), made(engine)
    billed = (found["prompt_tokens"], found["completion_tokens"])
    print(f"{streams.count} streams open ({len(streams.ones)} HTTP/1, half of them with TLS; the others HTTP/2 over TLS);")
    print(f"{chosen.rate:g} new connections a second, {chosen.tls_share:.0%} of them with TLS; {chosen.keys} keys in the store")
    print(f"  streams broken            {len(broken)}")
    print(f"  new connections           {seen.asked}, failed {len(seen.failed)}")
    print(f"  the new process took over in {took_s:.2f} s; in that time and {AROUND_S:g} s behind it")
    print(f"    longest time without an answer  {seen.longest_gap_s * 1e3:.0f} ms")
    print(f"    slowest answer                  {seen.slowest_s * 1e3:.0f} ms ({before_s * 1e3:.0f} ms before it)")
    print(f"  tokens charged            {billed[0]} + {billed[1]}, made by the engine {truth[0]} + {truth[1]}")
    print(f"  requests charged          {found['requests']} of {streams.count + seen.well}")
    print(f"  memory, when it had taken over    old {memory[0]:.0f} MiB, new {memory[1]:.0f} MiB")
    for why in [*broken, *seen.failed][:10]:
        print(f"  ! {why}")
    return int(bool(broken or seen.failed) or billed != truth or found["requests"] != streams.count + seen.well)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="upgrade-") as folder:
        return uvloop.run(run(Path(folder), options()))


if __name__ == "__main__":
    sys.exit(main())
