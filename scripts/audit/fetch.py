"""Has pip download what the lock files name, for each target, into a folder: pip itself holds every file to its hash.

pip judges markers by the Python that it runs on, whatever target it is told; so it gets the pins of each target without.
Must never: run anything that it downloads. Only wheels are taken, since pip would run a source distribution's build to read
its metadata; their hashes are held against the registry's list in :mod:`scripts.audit.resolve`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from scripts.audit.lockfile import Pin, render
from scripts.audit.project import Target

TIMEOUT_S: Final = 600
AT_ONCE: Final = 2  # more only wait for one another: it is the network that takes the time
NEWEST_GLIBC: Final = 36  # 2.36, Debian 12's: what fastgw is tested on
OLDEST_GLIBC: Final = 17

MISMATCH: Final = "DO NOT MATCH THE HASHES"
UNREACHED: Final = ("Retrying (Retry(", "ConnectionError", "ReadTimeoutError", "Could not fetch URL", "HTTP error 5")


class Fetched(NamedTuple):
    """What became of one target: ``failed`` and ``unreached`` are sentences, "" when it did not come to that."""

    target: Target
    failed: str
    unreached: str


def command(target: Target, requirements: Path, folder: Path) -> list[str]:
    said = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet", "--retries", "2"]
    said += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    said += ["--implementation", "cp", "--python-version", target.python]
    for abi in ("cp" + target.python.replace(".", ""), "abi3", "none"):
        said += ["--abi", abi]
    for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1):
        said += ["--platform", f"manylinux_2_{minor}_{target.machine}"]
    return [*said, "--platform", f"manylinux2014_{target.machine}", "--requirement", str(requirements)]


def judged(status: int, stderr: str) -> tuple[str, str]:
    """pip's end as (failed, unreached). What is not known to be the network's fault has failed."""
    if status == 0:
        return "", ""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    if MISMATCH in stderr:
        at = next(number for number, line in enumerate(lines) if MISMATCH in line)
        names = [line.partition(" from ")[0] for line in lines[at + 1 :] if " from " in line and "==" in line]
        return f"what is downloaded has another hash than the lock: {', '.join(names) or lines[at]}", ""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:] or [f"status {status}"]
    if any(mark in stderr for mark in UNREACHED):
        return "", errors[-1]
    return errors[0], ""


def fetch(target: Target, pins: Iterable[Pin], folder: Path) -> Fetched:
    folder.mkdir(parents=True)
    held = [pin._replace(marker="") for pin in pins if any(map(pin.holds, target.environments()))]
    requirements = folder / "requirements.txt"
    requirements.write_text(render(held, ""))
    words = command(target, requirements, folder)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Fetched(target, "", f"no answer within {TIMEOUT_S} s")
    return Fetched(target, *judged(done.returncode, done.stderr))


def fetch_all(targets: Iterable[Target], pins: Iterable[Pin], folder: Path) -> list[Fetched]:
    """For each target into a folder of its own below ``folder``, named as the target is."""
    pins = list(pins)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda target: fetch(target, pins, folder / str(target)), targets))
