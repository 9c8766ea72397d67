"""What the kernel says of this process, under the names that Prometheus's own libraries have for it.

Must never: take long. Descriptors are not counted one by one: the folder's size is their number (Linux 6.2), and where a
kernel does not say, neither does this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from fastgw.observe.exposition import COUNTER, GAUGE, Family, Value

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def families() -> Iterator[Family]:
    """A metric for each that is known."""
    size, resident = _memory()
    times = os.times()
    yield from _one("process_cpu_seconds_total", "Time on a processor.", COUNTER, round(times.user + times.system, 2))
    yield from _one("process_open_fds", "Open files, sockets among them.", GAUGE, _descriptors())
    yield from _one("process_max_fds", "The most that there may be.", GAUGE, _most_descriptors())
    yield from _one("process_resident_memory_bytes", "Memory that it has.", GAUGE, resident)
    yield from _one("process_virtual_memory_bytes", "Memory that it has addresses for.", GAUGE, size)
    yield from _one("process_start_time_seconds", "When it began, in Unix time.", GAUGE, _started())


def _one(name: str, text: str, kind: str, value: Value | None) -> Iterator[Family]:
    if value is not None:
        yield Family(name, text, kind, (("", value),))


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
