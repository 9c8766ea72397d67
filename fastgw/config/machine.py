"""What the machine gives this process: the memory that it, or its container, has, its open files, who supervises
it, a client's key, and what a command line names.

Owns: what says so, and how many connections go into so many files. Must never: raise; where nothing can be read, nothing is
known.
"""

from __future__ import annotations

import os
import re
import resource
from typing import Final

_CGROUP_ROOT: Final = "/sys/fs/cgroup"
_UNLIMITED: Final = 1 << 60  # version 1 writes a huge number where there is no limit
_RESERVE: Final = 64  # files of the gateway itself: listeners, probes, the store, connections kept warm
_LEAST: Final = 16
_PREDECESSOR: Final = "FASTGW_PREDECESSOR_FD"


def memory_bytes(proc: str = "/proc", cgroups: str = _CGROUP_ROOT) -> int:
    """Bytes of memory that this process may have: the least of the machine's and of each control group's it is in
    (kernel documentation, "Control Group v2", ``memory.max``; version 1's ``memory.limit_in_bytes``). 0 = not known."""
    limits = [_total(proc)]
    for line in _read(os.path.join(proc, "self", "cgroup")).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            limits += _of_group(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _of_group(os.path.join(cgroups, "memory"), path, "memory.limit_in_bytes")
    return min([limit for limit in limits if limit > 0], default=0)


def open_files() -> int:
    """How many files this process may have open; 0 = there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def connections_in(files: int) -> int:
    """How many clients find room in so many open files, when three of five need a connection to an engine as well."""
    return max(_LEAST, files * 5 // 8 - _RESERVE)


def files_for(connections: int) -> int:
    """How many open files so many clients need."""
    return -(-8 * (connections + _RESERVE) // 5)


def supervisor() -> tuple[str, float]:
    """Where a service manager wants to be told how this process is ("" = nowhere), and within how many seconds it wants to hear
    of it again and again (0 = it does not): systemd's ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``."""
    every = os.environ.get("WATCHDOG_USEC", "")
    # The variables reach children too, whom they do not concern; the one-file program is a child of the process that is meant.
    meant = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()), str(os.getppid()))
    return os.environ.get("NOTIFY_SOCKET", ""), int(every) / 1e6 if meant and re.fullmatch("[0-9]{1,18}", every) else 0.0


def ends_with_us(proc: str = "/proc") -> bool:
    """Whether the service ends with this process, whatever others it has started: as the first process of a container, as the
    one child that such a one waits for (``tini``, a shell), or as that of systemd's which is not told of another
    (``Type=simple``; sd_notify(3), systemd.exec(5))."""
    if os.environ.get("NOTIFY_SOCKET") and os.getpid() != 1:
        return False
    alone = os.getppid() == 1 and _read(os.path.join(proc, "1", "comm")).strip() not in ("systemd", "init")
    return alone or os.getpid() == 1 or os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def given_sockets() -> tuple[int, list[str]]:
    """How many listening sockets a service manager has given to this process, from descriptor 3 on, and their names: systemd's
    ``LISTEN_FDS`` and ``LISTEN_FDNAMES``. No child is told of them."""
    count, pid, names = (os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    # (The one-file program is a child of the process that is meant, and inherits what that has.)
    meant = pid in (str(os.getpid()), str(os.getppid()))
    return (int(count), names.split(":") if names else []) if meant and re.fullmatch("[0-9]{1,3}", count) else (0, [])


def predecessor() -> int:
    """The descriptor by which this process speaks with the one whose place it is to take; -1 = there is none."""
    fd = os.environ.pop(_PREDECESSOR, "")
    return int(fd) if re.fullmatch("[0-9]{1,9}", fd) else -1


def environment_of_successor(fd: int) -> dict[str, str]:
    """What a process is started with that is to take this one's place, and to speak by ``fd``."""
    found = dict(os.environ)
    found[_PREDECESSOR] = str(fd)
    if "WATCHDOG_PID" in found:
        found["WATCHDOG_PID"] = str(os.getpid())  # (:func:`supervisor` takes a child for the one that is meant)
    found["PYINSTALLER_RESET_ENVIRONMENT"] = "1"  # the one-file program unpacks itself anew
    return found


def client_key() -> str:
    """The key that clients of OpenAI's API show, where nothing else names one: ``OPENAI_API_KEY``."""
    return os.environ.get("OPENAI_API_KEY", "").strip()


def variable(name: str) -> str:
    """What the variable holds that a command line names; "" = it is not there."""
    return os.environ.get(name, "")


def _of_group(root: str, path: str, name: str) -> list[int]:
    """The limits of a group and of those around it. (In a container its own group is the root of what can be seen.)"""
    found = []
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts) + 1):
        text = _read(os.path.join(root, *parts[:depth], name)).strip()
        if text.isdigit() and int(text) < _UNLIMITED:
            found.append(int(text))
    return found


def _total(proc: str) -> int:
    for line in _read(os.path.join(proc, "meminfo")).splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            words = rest.split()
            return int(words[0]) * 1024 if words and words[0].isdigit() else 0
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
