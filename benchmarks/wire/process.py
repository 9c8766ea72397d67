"""Child processes: started on a core of their own, watched through /proc, and always ended.

Owns: spawning, the CPU time and memory of a process tree, stopping. Must never touch a process that it did not start:
a tree is found by walking down from our own child's id.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what; ``pinned`` is false where there are not two to choose from."""

    load: frozenset[int]
    proxy: frozenset[int]
    pinned: bool


def choose_cores() -> Cores:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return Cores(frozenset(allowed), frozenset(allowed), False)
    return Cores(frozenset(allowed[:1]), frozenset(allowed[1:2]), True)


def descriptors() -> int:
    """How many this process and its children may have open each: the hard limit, which it takes for all of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


@contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """Run on these cores meanwhile. A child inherits them, so no wrapper program stands in its start-up time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def spawn(
    argv: Sequence[str], *, cores: frozenset[int], cwd: Path, env: Mapping[str, str] | None = None, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; what it prints goes to ``log``, or nowhere."""
    with open(log or os.devnull, "ab") as out, on(cores):
        return subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then after a grace SIGKILL to the child's own session. Its pid is ours until it is waited for."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # the session outlives its leader where that left workers behind
    child.wait()


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # pid (name) state ppid: the name may hold blanks and parentheses, so read from the last one
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds that the tree's living threads have used, to the nanosecond of the scheduler's own account.

    Threads and children that have ended are not in it, so what comes and goes during a measurement is missed.
    """
    total_ns = 0
    for each in tree(pid):
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                with suppress(OSError):
                    total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def sleeps(pid: int) -> int:
    """How often the tree's living threads have waited for something: their switches of context that were their own wish."""
    total = 0
    for each in tree(pid):
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                with suppress(OSError):
                    status = (task / "status").read_text()
                    total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory, summed over the tree: a page that two of its processes share counts twice."""
    total = 0
    for each in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def tail(log: Path, lines: int = 5) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return " | ".join(text.strip().splitlines()[-lines:])


def say(line: str) -> None:
    """Progress; standard output is for the table."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
