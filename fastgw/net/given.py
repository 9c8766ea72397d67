"""Listening sockets that this process was given, by a service manager or by the gateway before it.

The manager's protocol is systemd's (``sd_listen_fds(3)``): descriptors from 3 on, ``LISTEN_FDS`` of them, for the process
``LISTEN_PID`` alone, named by ``LISTEN_FDNAMES``. Owns: that only what listens is taken for such a one. Must never: close what
it does not know.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Final

from fastgw.net.listener import BindError

FIRST_FD: Final = 3
CONTROL: Final = "control"
"""The name of the control listener's; whatever else a socket is called, clients come there."""


class Given:
    """Sockets that listen already, for clients and for the control listener. What is None is to be bound as the configuration
    says. ``by``: who has given them, where that is no gateway; ``others`` are those that nobody wants any more."""

    __slots__ = ("by", "client", "control", "others")

    def __init__(self, by: str = "") -> None:
        self.by = by
        self.client: list[socket.socket] | None = None
        self.control: list[socket.socket] | None = None
        self.others: list[socket.socket] = []

    def drop(self) -> None:
        """Nobody comes any more to those that nobody wants."""
        for sock in self.others:
            name = sock.getsockname()
            sock.close()
            if isinstance(name, str) and name:
                with contextlib.suppress(OSError):
                    os.unlink(name)
        self.others.clear()

    def close(self) -> None:
        """Nobody goes on with them here."""
        for sock in (*(self.client or ()), *(self.control or ()), *self.others):
            sock.close()


def by_manager(count: int, names: Sequence[str]) -> Given:
    """What a service manager has given. Raises :class:`BindError` where one of them does not listen."""
    given = Given(by="the service manager")
    for at in range(count):
        name = names[at] if at < len(names) else ""
        sock = _listening(FIRST_FD + at, name)
        if name == CONTROL:
            given.control = [*(given.control or ()), sock]
        else:
            given.client = [*(given.client or ()), sock]
    return given


def _listening(fd: int, name: str) -> socket.socket:
    what = f"descriptor {fd}" + (f" ({name})" if name else "")
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(f"{what}, which the service manager gave, is no socket: {error.strerror}") from error
    streams = sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not streams or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BindError(f"{what}, which the service manager gave, does not listen: use ListenStream=, and Accept=no")
    sock.setblocking(False)
    return sock


def held(fds: Sequence[int]) -> list[socket.socket]:
    """Those of another program that was in this process, as it had them."""
    return [socket.socket(fileno=fd) for fd in fds]


def inherited(fds: Sequence[int]) -> Given:
    """What the control process has given to one of its workers: for clients."""
    given = Given(by="the control process")
    given.client = [_listening(fd, "") for fd in fds]
    given.control = []
    return given
