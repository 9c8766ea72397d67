"""The two system calls of the hot path, as callables bound once per connection.

Duck-typed on purpose: this layer knows no socket module. The native twin returns callables that go to the descriptor
directly and keep the same results and exceptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Receiver(Protocol):
    """What :func:`receiver` needs of a socket."""

    @property
    def recv(self) -> Callable[[int], bytes]: ...


class Sender(Protocol):
    """What :func:`sender` needs of a socket."""

    @property
    def send(self) -> Callable[[bytes | bytearray | memoryview], int]: ...


def receiver(sock: Receiver) -> Callable[[int], bytes]:
    """``recv(max_bytes) -> bytes``; raises ``BlockingIOError`` when nothing is there."""
    return sock.recv


def sender(sock: Sender) -> Callable[[bytes | bytearray | memoryview], int]:
    """``send(data) -> bytes taken``; raises ``BlockingIOError`` when the buffer is full."""
    return sock.send
