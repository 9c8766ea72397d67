"""The two that are compared, each with a front: TLS with HTTP/1.1 and HTTP/2 by ALPN, or HTTP/2 with prior knowledge.

Owns: certificates, the two configurations, start and end. Must never give one of them an advantage: what nginx's usual
configuration has for TLS (a cache and tickets) is on.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.wire.measure import Failed, free_port
from benchmarks.wire.process import Cores, spawn, stop
from benchmarks.wire.proxies import Command, Fastgw, Nginx, Place

KINDS = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"), "rsa": ("rsa:2048",)}
PLAIN = ""
"""The kind of certificate of a front without TLS."""
NAMES = ("fastgw", "nginx")
CLIENTS = 2048  # more than any row has at once
_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Front:
    """One that runs: its port and its process."""

    name: str
    kind: str
    port: int
    pid: int


def certificates(folder: Path) -> None:
    """For 127.0.0.1, by kind of key."""
    for kind, options in KINDS.items():
        argv = ["openssl", "req", "-x509", "-newkey", *options, "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        argv += ["-keyout", str(folder / f"{kind}.key"), "-out", str(folder / f"{kind}.pem")]
        subprocess.run(argv, check=True, capture_output=True)


def command(name: str, place: Place, kind: str, keys: Path) -> Command:
    """Writes what the front needs into the place's folder. Raises KeyError for a name that is none of :data:`NAMES`."""
    return {"fastgw": _fastgw, "nginx": _nginx}[name](place, kind, keys)


def _fastgw(place: Place, kind: str, keys: Path) -> Command:
    tls = ["--tls-cert-file", str(keys / f"{kind}.pem"), "--tls-key-file", str(keys / f"{kind}.key")] if kind else []
    return Fastgw(arguments=["--http2", *tls]).command(place)


def _nginx(place: Place, kind: str, keys: Path) -> Command:
    made = Nginx().command(place)
    config = place.folder / "nginx.conf"
    plain = f"listen 127.0.0.1:{place.port} backlog=4096;"
    text = config.read_text()
    assert plain in text
    tls = (
        f"listen 127.0.0.1:{place.port} ssl http2 backlog=4096;\n"
        f"    ssl_certificate {keys}/{kind}.pem; ssl_certificate_key {keys}/{kind}.key;\n"
        "    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:a:10m; ssl_session_tickets on;"
    )
    config.write_text(text.replace(plain, tls if kind else plain.replace(" backlog", " http2 backlog")))
    return made


@contextmanager
def running(name: str, kind: str, engine: int, cores: Cores, keys: Path) -> Iterator[Front]:
    """Started afresh. Raises `Failed` where it does not listen."""
    with TemporaryDirectory(prefix=f"tls-{name}-") as folder:
        most = min(CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        place = Place(Path(folder), free_port(), engine, free_port(), most)
        made = command(name, place, kind, keys)
        child = spawn(made.argv, cores=cores.proxy, cwd=place.folder, env=made.env)
        try:
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", place.port)).close()
                    break
                except OSError:
                    if child.poll() is not None or time.monotonic() > deadline:
                        raise Failed(f"{name} does not listen: {' '.join(made.argv)}") from None
                    time.sleep(0.02)
            time.sleep(0.5)
            yield Front(name, kind, place.port, child.pid)
        finally:
            stop(child)
