"""What the machine gives this process: the memory that it, or its container, has, its open files, who supervises
it, a client's key, and what a command line names.

Owns: what says so, and how many connections go into so many files. Must never: raise; where nothing can be read, nothing is
known.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Sequence
from typing import Final, NamedTuple

_CGROUP_ROOT: Final = "/sys/fs/cgroup"
_UNLIMITED: Final = 1 << 60  # version 1 writes a huge number where there is no limit
_RESERVE: Final = 64  # files of the gateway itself: listeners, probes, the store, connections kept warm
_LEAST: Final = 16
_PREDECESSOR: Final = "FASTGW_PREDECESSOR_FD"
_AGAIN: Final = "FASTGW_AGAIN_FD"
_TRIAL: Final = "FASTGW_TRIAL"
_WORKER: Final = "FASTGW_WORKER_FDS"
_OF_MANAGER: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


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


class Origin(NamedTuple):
    """Where this process comes from: how many listening sockets a service manager has ``given``, and their ``names``; the
    descriptor by which the process ``before`` speaks whose place it is to take, -1 = there is none; the descriptors that its
    control process has given to a ``worker``; that of what the program has left that was in this process before (``again``, -1
    = none was). ``trial``: it is only to say whether it could begin, and go on with what speaks so."""

    given: int = 0
    names: Sequence[str] = ()
    before: int = -1
    worker: Sequence[int] = ()
    again: int = -1
    trial: str = ""


NOBODY: Final = Origin()
"""Whoever it was that started it."""


def origin() -> Origin:
    """What the environment says of it, which says it to nobody else from then on."""
    given, before, worker = given_sockets(), _descriptor(_PREDECESSOR), worker_fds()
    return Origin(*given, before, worker, _descriptor(_AGAIN), os.environ.pop(_TRIAL, ""))


def _descriptor(name: str) -> int:
    """That a variable names, which nobody else is told of; -1 = none."""
    fd = os.environ.pop(name, "")
    return int(fd) if re.fullmatch("[0-9]{1,9}", fd) else -1


def worker_fds() -> list[int]:
    """The descriptors that this process was given as a worker: its line to the control process, and what follows; none = it is
    no worker."""
    fds = os.environ.pop(_WORKER, "")
    return [int(fd) for fd in fds.split(",")] if re.fullmatch("[0-9]{1,9}(,[0-9]{1,9}){0,999}", fds) else []


def environment_of_worker(fds: Sequence[int]) -> dict[str, str]:
    """What a worker is started with that is to have these. (The service manager is the control process's to talk to.)"""
    found = {name: text for name, text in os.environ.items() if name not in _OF_MANAGER}
    found[_WORKER] = ",".join(map(str, fds))
    return found


def environment_of_trial(speaks: str) -> dict[str, str]:
    """What a program is started with that is to say whether it could go on with what speaks so."""
    return {**{name: text for name, text in os.environ.items() if name not in _OF_MANAGER}, _TRIAL: speaks}


def environment_again(fd: int) -> dict[str, str]:
    """What a program is started with, in this process, that is to go on with what is left in the file ``fd``."""
    return {**os.environ, _AGAIN: str(fd), "PYINSTALLER_RESET_ENVIRONMENT": "1"}


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
