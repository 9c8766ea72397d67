"""A request body on its way in, in one piece of memory: received straight into it, and handed on as the bytes that it is.

Owns: the bytes of one body until it is whole. What a client has announced costs nothing: memory is taken as bytes come, a
small multiple of them in addresses, and no more than them in pages that are touched. Must never show a byte that has not come.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import Final

_READ_BYTES: Final = 65536  # at once: what is read here is copied once more


class Landing:
    """A body of ``length`` bytes, of which ``got`` have come; ``length`` -1 = nobody knows (such a one is only :meth:`put`)."""

    __slots__ = ("_data", "got", "length")

    def __init__(self, length: int) -> None:
        self._data = BytesIO()  # (which hands out its own bytes, when it is asked for them last)
        self.length = length
        self.got = 0

    def put(self, data: bytes) -> None:
        """Bytes of it that were read elsewhere."""
        self._data.write(data)
        self.got += len(data)

    def recv(self, fd: int, most: int) -> int:
        """Read what is there, ``most`` bytes or what is missing at the most: how many they were, 0 at the end of the stream.

        :raises BlockingIOError: nothing is there.
        :raises OSError: the connection is broken.
        """
        data = os.read(fd, min(most, self.length - self.got, _READ_BYTES))
        self.put(data)
        return len(data)

    def whole(self) -> bytes:
        """What has come; nothing of it is held here any more."""
        data = self._data.getvalue()
        self._data = BytesIO()
        self.got = 0
        return data


def retain() -> bool:
    """Have what bodies leave behind used again by the next ones, in the whole process; whether the allocator takes it.

    The system clears each page that it gives, which is a third of what a body of 200 kB costs. (Where bodies are copied anyway
    it is left alone.)
    """
    return False


def most_room() -> int:
    """The most bytes that all bodies on their way in had room for at once, since this was asked last. (Here nobody counts.)"""
    return 0


def give_back() -> bool:
    """Give the system pages that bodies have left free in the heap, below what is in use, a fraction of a millisecond's worth;
    whether there may be more. Only where :func:`retain` was called, by whom the allocator is to be left alone otherwise.
    """
    return False
