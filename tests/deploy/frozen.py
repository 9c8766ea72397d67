"""What the tests of the frozen program share: the build, a machine with next to nothing on it, a gateway to watch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What glibc is in files, and zlib: all that the program asks of a machine.
LIBRARIES = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2",
    "libnss_files.so.2", "libnss_dns.so.2", "libz.so.1",
)  # fmt: skip
NOBODY = 65532


def build(*words: str, **env: str) -> None:
    command, env = [sys.executable, "-m", "scripts.binary", *words], {**os.environ, **env}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def bare(root: Path) -> None:
    """A root file system with a C library, zlib and an empty /tmp; no shell, no Python, no /proc, no /etc."""
    (root / "lib64").mkdir(parents=True)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
    for name in LIBRARIES:
        target = root / "lib/x86_64-linux-gnu" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("/lib/x86_64-linux-gnu", name), target)
    (root / "tmp").mkdir(mode=0o777)
    (root / "tmp").chmod(0o1777)


def run(*command: str | Path, timeout_s: float = 100, **env: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, env=environment(**env), capture_output=True, text=True, timeout=timeout_s, check=False)


def environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **more}


@contextlib.contextmanager
def serving(*command: str | Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway, in a process group of its own, and its address."""
    words = [str(word) for word in command]
    words += ["serve", "--log-format", "json", "--port", "0"]
    with subprocess.Popen(words, env=environment(**env), stderr=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            assert process.stderr is not None
            while '"listening"' not in (line := process.stderr.readline()):
                assert line, "it ended before it listened"
            yield process, json.loads(line)["urls"]
        finally:
            process.kill()
            process.communicate()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
