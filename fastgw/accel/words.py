"""What an error says, of whatever length it is and in whatever pieces it comes: its short words, for whoever judges by them.

Machine of the Python twin of ``usage``; the compiled one has it in its own file. Owns which bytes of a JSON value are kept: of
each text the first that are plain ASCII, of what nests in it nothing. Invariant: what is kept is JSON, or nothing.
"""

from __future__ import annotations

from fastgw.accel.figures import WORD_BYTES, WORDS_BYTES


class Words:
    """One per answer, for its members that tell of an error, one after the other. ``over``: no more of this one is wanted."""

    __slots__ = ("_depth", "_escaped", "_full", "_kept", "_length", "_text", "over")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._full = False  # there was more than is kept
        self._depth = 0
        self._text = False  # we are in one
        self._escaped = False  # behind a backslash
        self._length = 0  # of that text
        self.over = True

    def begin(self, name: bytes) -> None:
        """The value of the member ``name`` follows."""
        self._depth = 0
        self._text = self._escaped = False
        self.over = self._full
        for c in b'%b"%b":' % (b"," if self._kept else b"{", name):
            self._keep(c)

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
                self.over = True

    def _keep(self, c: int) -> None:
        if len(self._kept) == WORDS_BYTES:
            self._full = self.over = True
        else:
            self._kept.append(c)

    def said(self) -> bytes:
        """An object with these members as far as they are kept; empty where they were too long, or one has not ended."""
        return b"%b}" % bytes(self._kept) if self.over and not self._full and self._kept else b""
