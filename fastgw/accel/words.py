"""What an error says, of whatever length it is and in whatever pieces it comes: its short words, for whoever judges by them.

Machine of the Python twin of ``usage``; the compiled one has it in its own file. Owns which bytes of a JSON value are kept: of
each text the first that are plain ASCII, of what nests in it nothing. Invariant: what is kept is JSON, or nothing.
"""

from __future__ import annotations

from fastgw.accel.figures import WORD_BYTES, WORDS_BYTES


class Words:
    """One per error. ``over``: no more of it is wanted."""

    __slots__ = ("_depth", "_escaped", "_kept", "_length", "_text", "_whole", "over")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._depth = 0
        self._text = False  # we are in one
        self._escaped = False  # behind a backslash
        self._length = 0  # of that text
        self._whole = False
        self.over = False

    def feed(self, data: bytes) -> None:
        """The next bytes of it, and whatever follows it."""
        for c in data:
            if self.over:
                return
            keeps = self._depth <= 1
            if self._text:
                keeps = keeps and 32 <= c < 127
                if self._escaped:
                    self._escaped = keeps = False
                elif c == 92:
                    self._escaped = True
                    keeps = False
                elif c == 34:
                    self._text = False
                else:
                    self._length += 1
                    keeps = keeps and self._length <= WORD_BYTES
            elif c == 34:
                self._text = True
                self._length = 0
            elif c == 123 or c == 91:
                self._depth += 1
                if keeps and self._depth == 2:
                    self._keep(48)  # a number in its place
                keeps = self._depth == 1
            elif c == 125 or c == 93:
                self._depth -= 1
                keeps = self._depth == 0
            if keeps:
                self._keep(c)
            if self._depth <= 0 and not self._text:
                self._whole = not self.over
                self.over = True

    def _keep(self, c: int) -> None:
        if len(self._kept) == WORDS_BYTES:
            self.over = True
        else:
            self._kept.append(c)

    def said(self) -> bytes:
        """An object with the error as far as it is kept; empty where it was too long, or has not ended."""
        return b'{"error":%b}' % bytes(self._kept) if self._whole else b""
