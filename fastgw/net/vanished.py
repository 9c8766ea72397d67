"""How the kernel finds out that the other side's machine is there no more.

Who loses its power, its network or its place says nothing: no FIN, no RST. What waits for it would wait for as long as one that
is slow may think. Owns: what is said of that to a socket, once in its life. Must never: take one that is slow for gone; a
kernel answers for a program that thinks for an hour.
"""

from __future__ import annotations

import socket
from typing import Final

PROBED_S: Final = 20
PROBES_S: Final = 10
GONE_S: Final = 60
"""After ``PROBED_S`` of silence the other side is probed, each ``PROBES_S``; after this it is gone."""


def watched(sock: socket.socket, dials: bool) -> None:
    """It ends with an error when the other side's machine has vanished; where it listens, each that it accepts.

    Who ``dials`` finds out also while something of his is on its way, which is sent again and again and nothing probed. (So
    one ends as well that takes not a byte of what waits for it. How long a client may do so is a setting, ``write_timeout_s``.)
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBED_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBES_S)
    if dials:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * GONE_S)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (GONE_S - PROBED_S) // PROBES_S)
