"""What the kernel says of this process, under the names that Prometheus's own libraries have for it.

Must never: take long. Descriptors are not counted one by one: the folder's size is their number (Linux 6.2), and where a
kernel does not say, neither does this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final

from fastgw.observe.exposition import COUNTER, GAUGE, Family

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


_HELP: Final = {
    "process_cpu_seconds_total": "Time on a processor.",
    "process_open_fds": "Open files, sockets among them.",
    "process_max_fds": "The most that there may be.",
    "process_resident_memory_bytes": "Memory that it has.",
    "process_virtual_memory_bytes": "Memory that it has addresses for.",
    "process_start_time_seconds": "When it began, in Unix time.",
}


def figures() -> dict[str, float]:
    """What is known, by the names of the metrics."""
    size, resident = _memory()
    times = os.times()
    known = (round(times.user + times.system, 2), _descriptors(), _most_descriptors(), resident, size, _started())
    return {name: value for name, value in zip(_HELP, known, strict=True) if value is not None}


def families(others: Mapping[str, float] | None = None) -> Iterator[Family]:
    """A metric for each that is known; what ``others`` (processes of the same gateway) have is added, but for the start."""
    for name, value in figures().items():
        if others is not None and name != "process_start_time_seconds":
            value += others.get(name, 0)
        yield Family(name, _HELP[name], COUNTER if name.endswith("_total") else GAUGE, (("", round(value, 2)),))


def _memory() -> tuple[int | None, int | None]:
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = file.read().split()
        return int(pages[0]) * _PAGE_BYTES, int(pages[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None, None


def _descriptors() -> int | None:
    try:
        return os.stat("/proc/self/fd").st_size or None
    except OSError:
        return None


def _most_descriptors() -> int | None:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if most != resource.RLIM_INFINITY else None


def _started() -> float | None:
    try:
        with open("/proc/self/stat", "rb") as file:
            after = file.read().rpartition(b")")[2].split()
        with open("/proc/stat", "rb") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        return booted + int(after[19]) / _TICKS
    except (OSError, ValueError, IndexError, StopIteration):
        return None
