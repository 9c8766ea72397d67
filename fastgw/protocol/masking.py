"""Whether all frames of a WebSocket's client are masked, as they must be (RFC 6455 §5.1).

What is not masked may be what a page made a browser say, or a proxy in between took for something else; a server closes then.
"""

from __future__ import annotations


class MaskWatch:
    """Counts its way from head to head, and holds back one byte at the most: both bytes of a head are judged together."""

    __slots__ = ("_held", "_left", "_length", "_need")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0  # bytes until the next head: of a mask and a payload
        self._length = b""  # of a long one's length, what has come
        self._need = 0  # and how much of that there is

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """(what may be read of what has come, whether it goes on): False = behind that stands a frame without a mask."""
        if self._held:
            data = self._held + data
            self._held = b""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            elif self._need:
                piece = data[at : at + self._need - len(self._length)]
                self._length += piece
                at += len(piece)
                if len(self._length) == self._need:
                    self._left = int.from_bytes(self._length) + 4
                    self._length, self._need = b"", 0
            elif size - at < 2:
                self._held = data[at:]
                return data[:at], True
            else:
                second = data[at + 1]
                if second < 128:
                    return data[:at], False
                at += 2
                if second < 254:
                    self._left = second - 128 + 4
                else:
                    self._need = 2 if second == 254 else 8
        return data, True
