"""Server-sent events, cut out of a body however it comes: the data of each, in order.

Owns: where an event ends (a blank line; CRLF, LF or CR), and the bound of one that does not. Each byte is looked at once, so
that a peer that sends one at a time costs no more than its bytes.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EVENT_BYTES: Final = 1 << 20

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class TooLong(ValueError):
    """An event that has more than :data:`MAX_EVENT_BYTES`."""


class EventReader:
    """One per stream. ``unfinished``: bytes of an event are there whose end has not come."""

    __slots__ = ("_after_cr", "_begun", "_data", "_line", "_size")

    def __init__(self) -> None:
        self._line = bytearray()  # without its end; never holds a CR or LF
        self._data: list[bytes] = []  # of the event's lines so far
        self._size = 0  # bytes of the unfinished event's whole lines
        self._begun = False
        self._after_cr = False  # a LF that comes next belongs to the line end before it

    @property
    def unfinished(self) -> bool:
        return bool(self._line) or self._begun

    def feed(self, payload: bytes) -> list[bytes]:
        """The data of the events that ``payload`` ends; comments and events without data are none.

        :raises TooLong: when an event goes on beyond its bound.
        """
        if (
            payload.startswith(b"data: ")
            and payload.endswith(b"\n\n")
            and payload.find(b"\n") == len(payload) - 2
            and not (self.unfinished or self._after_cr or b"\r" in payload)
        ):
            if len(payload) > MAX_EVENT_BYTES:
                raise TooLong
            return [payload[6:-2]]  # one event, as nearly every read is
        if self._after_cr and payload:
            self._after_cr = False
            if payload[0] == 10:
                payload = payload[1:]
        found: list[bytes] = []
        lines = _LINE_END.split(payload)
        self._after_cr = self._after_cr or payload.endswith(b"\r")
        for line in lines[:-1]:
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            self._ends(line, found)
        self._line += lines[-1]
        if len(self._line) + self._size >= MAX_EVENT_BYTES:
            raise TooLong
        return found

    def _ends(self, line: bytes, found: list[bytes]) -> None:
        if not line:
            if self._data:
                found.append(b"\n".join(self._data))
                self._data.clear()
            self._size, self._begun = 0, False
            return
        self._begun = True
        self._size += len(line) + 1
        if self._size >= MAX_EVENT_BYTES:
            raise TooLong
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._data.append(b"")
