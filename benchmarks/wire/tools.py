"""The engines, the load generator and the floor, in C: compiled when their source is newer, started, and read.

Owns: ``benchmarks/bin``. Engines and load generator must stay faster than what they measure; what each does is said at the
head of its source.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.wire.process import on

SOURCES = Path(__file__).parent / "tools"
BIN = Path(__file__).parents[1] / "bin"

EVENTS = 32
"""Content events per stream; the engine adds a usage event and [DONE]."""
TEXT = "x" * 24
"""What every answer of the engines' says, and every content event."""
INTERVAL_MS = 20
"""Between the events of one stream: 50 tokens a second, a usual pace of a busy engine."""
STREAM_MS = EVENTS * INTERVAL_MS
EXPECTED_EVENTS = EVENTS + 1  # and `[DONE]`


class NoCompiler(Exception):
    """There is no C compiler, or it could not build a tool."""


def _compiler() -> list[str]:
    if chosen := shlex.split(os.environ.get("CC", "")):
        if shutil.which(chosen[0]):
            return chosen
        raise NoCompiler(f"CC names {chosen[0]!r}, which is not there")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise NoCompiler("the wire benchmark needs a C compiler: install cc, gcc or clang, or name one in CC")


def build(name: str) -> Path:
    """The path of the tool's binary, compiled if need be. Safe beside another run: the binary appears whole."""
    source, target = SOURCES / f"{name}.c", BIN / name
    compiler = _compiler()
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    BIN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BIN) as place:
        fresh = Path(place) / name
        done = subprocess.run([*compiler, "-O2", "-o", str(fresh), str(source)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompiler(f"{compiler[0]} could not compile {source.name}: {done.stderr.strip()[-400:]}")
        fresh.replace(target)
    return target


@contextmanager
def engine(cores: frozenset[int], h2: bool = False) -> Iterator[int]:
    """A running engine; gives its port. ``h2``: the one that speaks HTTP/2 with prior knowledge."""
    argv = [str(build("h2engine" if h2 else "mockengine")), "--events", str(EVENTS), "--interval-us", str(INTERVAL_MS * 1000)]
    with on(cores):
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield int(json.loads(child.stdout.readline())["listening"])
    finally:
        child.kill()
        child.communicate()


def dials(port: int) -> int:
    """How many connections the engine at that port has accepted, this question's own among them."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(b"GET /accepted HTTP/1.1\r\nHost: engine\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}") and (part := s.recv(4096)):
            answer += part
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["accepted"])


def load(
    port: int,
    *,
    cores: frozenset[int],
    seconds: float,
    connections: int,
    stream: bool = False,
    unpaced: bool = False,
    expect_events: int = EXPECTED_EVENTS,
    requests: int = 0,
    body_bytes: int | Sequence[int] = 0,
    close: bool = False,
    rate: float = 0.0,
    mixed: bool = False,
    expect: str = "",
    fields: Sequence[str] = (),
) -> dict[str, Any]:
    """One run of the load generator; its JSON, as ``loadgen.c`` explains it.

    ``unpaced``: the engine sends a stream's events as fast as they leave. ``requests``: enough, before the time is up.
    ``body_bytes``: so much text in the prompt; of several lengths the requests take turns. ``close``: a new connection for each
    request. ``rate``: so many requests are due a second, whether the server keeps up or not. ``mixed``: half of them are
    streams. ``expect``: text that each answer must hold. ``fields``: more fields of each request's head.
    """
    argv = [str(build("loadgen")), "--port", str(port), "--seconds", str(seconds), "--connections", str(connections)]
    if stream or mixed:
        argv += ["--mixed" if mixed else "--stream", "--expect-events", str(expect_events)]
        argv += ["--prompt", "Hello #unpaced"] if unpaced else ["--spread-ms", str(STREAM_MS)]
    if requests:
        argv += ["--requests", str(requests)]
    if body_bytes:
        argv += ["--body-bytes", str(body_bytes) if isinstance(body_bytes, int) else ",".join(map(str, body_bytes))]
    argv += ["--close"] if close else []
    argv += ["--rate", str(rate)] if rate else []
    argv += ["--expect", expect] if expect else []
    argv += [part for field in fields for part in ("--field", field)]
    with on(cores):
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=seconds + 30, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
