"""Another name for the model that an answer says it comes from, put in while the answer passes.

Reads JSON, or lines of it (events, NDJSON), byte by byte and whatever the pieces: only where a member ``model`` stands is
known, of the document itself or of its ``response`` or ``message`` (OpenAI's Responses and Anthropic's Messages put it there).
Nothing is held back, and nothing but that one string changes. Must never: touch a text that an answer holds, or fail: what is
no JSON passes as it is.
"""

from __future__ import annotations

from typing import Final

_START: Final = 0  # of a document: its brace is to come
_SKIP: Final = 1  # until the end of the line, or for good
_INSIDE: Final = 2

_NOTHING: Final = 0
_MODEL: Final = 1
_INNER: Final = 2

_LETTERS: Final = 8  # letters of a member's name that are kept: the longest that counts is `response`


class Renamer:
    """``new``: the name, as it stands in JSON, with its quotes. ``lines``: each line is a document, behind ``data:`` where that
    stands before it; else the whole is one."""

    __slots__ = (
        "_depth", "_drops", "_escaped", "_inner", "_key", "_lines", "_named", "_new", "_prefix", "_state", "_string", "_word",
    )  # fmt: skip

    def __init__(self, new: bytes, lines: bool) -> None:
        self._new = new
        self._lines = lines
        self._begin()

    def _begin(self) -> None:
        """At the start of a document."""
        self._state = _START
        self._prefix = 0  # of `data:`, so many letters have come
        self._depth = 0
        self._inner = False  # the object at depth two is one in which a model stands
        self._string = False
        self._escaped = False
        self._drops = False  # this string is the name that is replaced
        self._key = False  # what comes next is a member's name
        self._named = _NOTHING  # what the last member's name was
        self._word = b""

    def feed(self, data: bytes) -> bytes:
        """``data`` as it goes on."""
        out: list[bytes] = []
        kept = 0  # from here on it is still to go out
        at = 0
        size = len(data)
        while at < size:
            if self._state == _SKIP:
                if not self._lines:
                    break
                at = data.find(b"\n", at)
                if at < 0:
                    break
            byte = data[at]
            at += 1
            if self._lines and byte == 10:
                self._begin()
            elif self._string:
                if self._drops:
                    kept = at
                self._in_string(byte)
            elif self._state == _START:
                self._before(byte)
            elif byte == 34:
                self._string = True
                self._word = b""
                self._drops = not self._key and self._named == _MODEL
                if self._drops:
                    out.append(data[kept : at - 1])
                    out.append(self._new)
                    kept = at
            else:
                self._between(byte)
        if not out and not kept:
            return data
        out.append(data[kept:])
        return b"".join(out)

    def _before(self, byte: int) -> None:
        """Outside of a document: ``data:`` and blanks may stand there."""
        if byte == 123:
            self._state = _INSIDE
            self._depth = 1
            self._key = True
        elif byte == 32 or byte == 9 or byte == 13 or (byte == 10 and not self._lines):
            return
        elif self._lines and self._prefix < 5 and byte == b"data:"[self._prefix]:
            self._prefix += 1
        else:
            self._state = _SKIP

    def _in_string(self, byte: int) -> None:
        if self._escaped:
            self._escaped = False
            self._word = b"\\"  # (no name that counts is written so)
        elif byte == 92:
            self._escaped = True
        elif byte == 34:
            self._string = False
            if self._drops:
                self._drops = False
                self._state = _SKIP  # there is one in a document
            elif self._key and (self._depth == 1 or (self._depth == 2 and self._inner)):
                word = self._word
                if word == b"model":
                    self._named = _MODEL
                elif self._depth == 1 and (word == b"response" or word == b"message"):
                    self._named = _INNER
                else:
                    self._named = _NOTHING
        elif self._key and len(self._word) <= _LETTERS:
            self._word += bytes((byte,))

    def _between(self, byte: int) -> None:
        """Between strings."""
        if byte == 58:
            self._key = False
        elif byte == 44:
            self._key = True
            if self._depth <= 2:
                self._named = _NOTHING
        elif byte == 123:
            self._depth += 1
            if self._depth == 2:
                self._inner = self._named == _INNER
            self._named = _NOTHING
            self._key = True
        elif byte == 91:
            self._depth += 1
            if self._depth == 2:
                self._inner = False
            self._named = _NOTHING
            self._key = False
        elif byte == 125 or byte == 93:
            self._depth -= 1
            self._named = _NOTHING
            if self._depth <= 0:
                self._state = _SKIP
