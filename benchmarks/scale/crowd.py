"""The C tools of this folder: built when their sources are newer, started, and read.

Owns: their command lines and their JSON. Must never: leave one running. What each does is said at the head of its source.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.wire import tools
from benchmarks.wire.process import on
from benchmarks.wire.tools import BIN, NoCompiler

SOURCES = Path(__file__).parent / "tools"
TOOLS = ("crowd", "streams", "aborts")
_PATIENCE_S = 60.0  # beyond what a tool was told to take

Said = dict[str, Any]


class Silent(Exception):
    """A tool ended, or fell silent, without the line that was awaited."""


def build(name: str) -> Path:
    """The tool's binary. Safe beside another run: it appears whole."""
    sources = (SOURCES / f"{name}.c", SOURCES / "loopback.h")
    target = BIN / name
    compiler = tools._compiler()
    if target.exists() and target.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return target
    BIN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BIN) as place:
        fresh = Path(place) / name
        argv = [*compiler, "-O2", "-o", str(fresh), str(sources[0])]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompiler(f"{compiler[0]} could not compile {sources[0].name}: {done.stderr.strip()[-400:]}")
        fresh.replace(target)
    return target


def _run(argv: Sequence[str], cores: frozenset[int], seconds: float) -> Said:
    with on(cores):
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=seconds + _PATIENCE_S, check=True)
    said: Said = json.loads(done.stdout)
    return said


class Tool:
    """A tool that is spoken with: one JSON object a line."""

    def __init__(self, argv: Sequence[str], cores: frozenset[int]) -> None:
        self._name = Path(argv[0]).name
        with on(cores):
            self._child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._child.pid

    def hear(self) -> Said:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise Silent(f"{self._name} ended with {self._child.wait()} and said nothing")
        said: Said = json.loads(line)
        return said

    def say(self, word: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(word + "\n")
        self._child.stdin.flush()

    def finish(self) -> Said:
        """End its input, and hear its last line."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return self.hear()

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def tool(cores: frozenset[int], *argv: str) -> Iterator[Tool]:
    running = Tool(argv, cores)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def engine(cores: frozenset[int], **options: int) -> Iterator[tuple[int, int]]:
    """A ``mockengine`` with these options (``events=``, ``interval_us=``, ...); gives its port and its process id."""
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with tool(cores, str(tools.build("mockengine")), *flags) as running:
        yield int(running.hear()["listening"]), running.pid


@contextmanager
def silent_engine(cores: frozenset[int]) -> Iterator[tuple[int, Tool]]:
    """An engine that never answers a POST; its ``finish()`` tells the requests it got and the connections still open."""
    with tool(cores, str(build("aborts")), "silent") as running:
        yield int(running.hear()["listening"]), running


@contextmanager
def held(port: int, count: int, cores: frozenset[int]) -> Iterator[tuple[Said, Tool]]:
    """``count`` connections that have served one request each and are kept open and silent."""
    with tool(cores, str(build("crowd")), "hold", "--port", str(port), "--count", str(count)) as running:
        yield running.hear(), running


def visits(port: int, count: int, seconds: float, cores: frozenset[int]) -> Said:
    """One request from each of ``count`` addresses, as far as ``seconds`` go."""
    return _run(
        [str(build("crowd")), "visit", "--port", str(port), "--count", str(count), "--seconds", str(seconds)], cores, seconds
    )


def turns(
    port: int,
    *,
    cores: frozenset[int],
    count: int = 1 << 50,
    seconds: float = 3600.0,
    connections: int = 64,
    keys: Path | None = None,
) -> Said:
    """Plain requests on keep-alive connections, until ``count`` are served or ``seconds`` over; with ``keys``, each in turn."""
    argv = [str(build("crowd")), "turns", "--port", str(port), "--count", str(count), "--seconds", str(seconds)]
    argv += ["--connections", str(connections)]
    return _run(argv + (["--keys", str(keys)] if keys else []), cores, seconds)


def leavers(port: int, count: int, *, cores: frozenset[int], connections: int = 64, seconds: float = 3600.0) -> Said:
    """``count`` streams whose clients leave, by RST and FIN, before the first byte and in the stream."""
    argv = [str(build("aborts")), "leave", "--port", str(port), "--count", str(count), "--connections", str(connections)]
    return _run(argv, cores, seconds)


@contextmanager
def streams(port: int, count: int, *, spread_s: float, seconds: float, cores: frozenset[int]) -> Iterator[Tool]:
    """``count`` live streams; ``streams.c`` tells what is heard from it, and when it begins to measure."""
    argv = [str(build("streams")), "--port", str(port), "--count", str(count)]
    with tool(cores, *argv, "--spread-s", str(spread_s), "--seconds", str(seconds)) as running:
        yield running
