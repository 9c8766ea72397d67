"""Ports where nobody listens.

Chosen below those that the kernel gives to whoever asks for any: two test sessions run side by side, and a port that one
has just let go would soon be the other's.
"""

from __future__ import annotations

import os
import socket

_FIRST, _LAST = 12_000, 30_000
_next = _FIRST + os.getpid() * 97 % (_LAST - _FIRST)


def closed_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that refuses connections; another one each time."""
    global _next
    while True:
        _next = _next + 1 if _next < _LAST else _FIRST
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            try:
                sock.bind((host, _next))
            except OSError:
                continue
        return _next
