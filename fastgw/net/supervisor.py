"""What a service manager is told: that the gateway takes requests, that it drains, that its loop still turns.

The protocol is systemd's ``sd_notify`` (systemd.io, "sd_notify"): datagrams of ``NAME=value`` lines to a Unix socket whose
address the manager gives. Owns: the socket. Must never: stop or hold a gateway because its manager does not listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from time import monotonic_ns
from typing import Final

BEATS: Final = 2  # within the time after which the manager gives up on us: one may come late
LEAST_S: Final = 0.1  # between two of them, whatever the manager asks for


class Supervisor:
    """Tells whoever listens at ``address`` (a path, or ``@`` and an abstract name; anything else: nobody does).

    ``watchdog_s``: within how many seconds it wants to hear of us, again and again; 0 = it does not. Nothing raises.
    """

    __slots__ = ("_address", "_beat", "_every_s", "_sock")

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        # An abstract name begins with a zero byte, which no variable can hold.
        name = os.fsencode(address)
        self._address = b"\0" + name[1:] if address.startswith("@") else name
        self._every_s = max(watchdog_s / BEATS, LEAST_S) if watchdog_s > 0 else 0.0
        self._beat: asyncio.TimerHandle | None = None
        self._sock: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def ready(self, status: str) -> None:
        """Requests are taken from now on. ``status`` is one line for people. Runs in the loop that the watchdog watches."""
        self._tell("READY=1", f"STATUS={status}")
        if self._sock is not None and self._every_s:
            self._turn(asyncio.get_running_loop())

    def reloading(self) -> None:
        """Settings are being read again; :meth:`reloaded` follows in any case."""
        # (CLOCK_MONOTONIC is what `monotonic` reads: with it systemd 253 knows which of its own words this answers.)
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}", "STATUS=reading the configuration again")

    def reloaded(self, status: str) -> None:
        """As before, well or not: ``status`` says which."""
        self._tell("READY=1", f"STATUS={status}")

    def succeeded(self, pid: int) -> None:
        """That process is the service from now on. Nothing more is said from here."""
        self._tell(f"MAINPID={pid}", "STATUS=another process has taken over")
        self.close()

    def stopping(self, status: str, most_s: float) -> None:
        """A drain has begun, and will take ``most_s`` at most: the manager's own patience is made to last that long."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={round(most_s * 1e6)}")

    def close(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tell("WATCHDOG=1")
        self._beat = loop.call_later(self._every_s, self._turn, loop)

    def _tell(self, *lines: str) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it has gone, or its queue is full
                self._sock.sendto("\n".join(lines).encode(errors="backslashreplace"), socket.MSG_NOSIGNAL, self._address)
