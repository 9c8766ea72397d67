"""Reads a multipart/form-data body while it streams by: which ``model`` it names, where, and that no reader finds another.

    BEGINNING  the first boundary, which opens the body
    DELIMITED  two bytes after a boundary: a line end (a part follows), or ``--`` (the form ends)
    HEAD       the header lines of a part, which ``form_heads`` judges
    CONTENT    what it holds, up to the next boundary
    END        nothing, or one line end

Owns: the frame of the body (RFC 7578, RFC 2046 §5.1) in its strictest form. No preamble, no epilogue, no padding; a boundary
stands at the beginning of its own line and nowhere else, so that readers of bare LF or CR, of prefixes and of ``split`` cut
the body alike. Must never: change the body, keep more than a part's head, a field and a piece of a boundary, or look at a
byte more often than a fixed number of times. Invariant: after the same bytes the verdict is the same, however they were cut.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.errors import GatewayError
from fastgw.protocol.form_heads import MAX_PART_HEAD_BYTES, PartHead, boundary_of, invalid, part_head
from fastgw.protocol.openai import check_model

MAX_FIELD_BYTES: Final = 1024  # a model is at most 256 characters, of at most 4 bytes

_PIECE_BYTES: Final = 65536
# What FastAPI and Go's strconv take for true.
_TRUE: Final = frozenset((b"true", b"1", b"t", b"yes", b"y", b"on"))

_BEGINNING, _DELIMITED, _HEAD, _CONTENT, _END = range(5)


class ModelField:
    """Feed it the whole body, each piece before it goes on to anyone, then call ``finish``.

    ``model`` and ``model_span`` (where its value begins and ends in the body) are set as soon as its part has ended,
    ``stream`` likewise, ``done`` after the closing boundary. ``edits`` says what makes it another model's. What has raised
    is of no further use.
    """

    __slots__ = (
        "_ascii", "_at", "_dashes", "_field", "_length", "_length_span", "_max_parts", "_parts", "_rest", "_search", "_seen",
        "_size", "_start", "_state", "_value", "done", "model", "model_span", "stream",
    )  # fmt: skip

    def __init__(self, content_type: bytes, max_parts: int) -> None:
        self._dashes = b"--" + boundary_of(content_type)
        # A compiled pattern costs 20 to 40 µs, and then 0.3 to 1 ns for each byte, whatever the bytes are. `bytes.find` takes
        # from 0.04 to 2 and more, as the sender chooses.
        self._search = re.compile(re.escape(self._dashes)).search
        self._max_parts = max_parts
        self._state = _BEGINNING
        self._rest = b""
        self._at = 0  # where the rest begins in the body
        self._parts = 0
        self._seen: tuple[str, ...] = ()
        self._length_span: tuple[int, int] | None = None  # of the model's Content-Length
        # the part that is being read
        self._field = ""
        self._length = -1
        self._ascii = False
        self._start = 0
        self._size = 0
        self._value = bytearray()
        self.model: str | None = None
        self.model_span: tuple[int, int] | None = None
        self.stream = False
        self.done = False

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._rest) + len(self._value)

    def feed(self, data: bytes, most_parts: int = 1 << 30) -> bytes:
        """Take the next bytes of the body. What comes back is left for another call: ``most_parts`` have begun in this one.

        :raises GatewayError: ``invalid_multipart``, or ``invalid_parameter`` for a ``model`` that is no usable name.
        """
        enough = self._parts + most_parts
        for begin in range(0, len(data), _PIECE_BYTES):
            window = self._rest + data[begin : begin + _PIECE_BYTES]
            at, reached = -1, 0
            while reached > at and self._parts < enough:
                at = reached
                reached = self._step(window, at)
            if reached > at:
                # (Whatever of it came before: it is read with what comes after.)
                self._rest = b""
                self._at += reached
                return window[reached:] + data[begin + _PIECE_BYTES :]
            # A copy: a slice from 0 on would be the caller's own object.
            self._rest = bytes(memoryview(window)[at:])
            self._at += at
        return b""

    def finish(self, needed: bool = True) -> None:
        """The body has ended.

        :raises GatewayError: ``invalid_multipart`` when it lacks its end; ``missing_model`` when one is ``needed`` and none
            came.
        """
        if not self.done or self._rest == b"\r":
            raise invalid("The form ends before its closing boundary: send it whole.")
        if needed and self.model is None:
            raise GatewayError("missing_model", "Add a form field named `model`, best before the file.", param="model")

    def edits(self, model: str) -> list[tuple[int, int, bytes]]:
        """What makes the body name ``model`` instead: (start, end, bytes in the place of those), in the body's order.

        Empty until ``model`` is known, and where it names that one already. A part may tell its length (okhttp's and Guzzle's
        do), so there may be two.
        """
        if self.model_span is None or self.model == model:
            return []
        new = model.encode()
        found = [(*self.model_span, new)]
        if self._length_span is not None:
            found.insert(0, (*self._length_span, b"%d" % len(new)))
        return found

    def _step(self, window: bytes, at: int) -> int:
        """Read on from ``at``; how far it got: ``at`` itself when it takes more bytes."""
        if self._state == _CONTENT:
            return self._content(window, at)
        if self._state == _HEAD:
            return self._head(window, at)
        if self._state == _DELIMITED:
            return self._delimited(window, at)
        if self._state == _BEGINNING:
            return self._beginning(window, at)
        if not b"\r\n".startswith(window[at : at + 3]):
            raise invalid("The form goes on after its closing boundary: end it there.")
        return at

    def _beginning(self, window: bytes, at: int) -> int:
        have = window[at : at + len(self._dashes)]
        if not self._dashes.startswith(have):
            raise invalid("The form must begin with the boundary that its Content-Type names: send nothing before it.")
        if len(have) < len(self._dashes):
            return at
        self._state = _DELIMITED
        return at + len(have)

    def _delimited(self, window: bytes, at: int) -> int:
        have = window[at : at + 2]
        if not b"\r\n".startswith(have) and not b"--".startswith(have):
            raise invalid("A boundary is followed by something else: send CR LF after it, and `--` after the last.")
        if len(have) < 2:
            return at
        if self._parts:
            self._part_ended()
        if have == b"--":
            if not self._parts:
                raise invalid("The form has no parts.")
            self._state = _END
            self.done = True
            return at + 2
        self._parts += 1
        if self._parts > self._max_parts:
            raise invalid(f"The form has more than {self._max_parts} parts: send fewer.")
        self._state = _HEAD
        return at + 2

    def _head(self, window: bytes, at: int) -> int:
        # An empty head has no line end of its own before the empty line.
        if window.startswith(b"\r", at):
            raise invalid('A part has no Content-Disposition: send `form-data; name="..."`.')
        end = window.find(b"\r\n\r\n", at, at + MAX_PART_HEAD_BYTES + 4)
        if end < 0:
            if len(window) - at >= MAX_PART_HEAD_BYTES + 4:
                raise invalid(f"The header lines of a part are longer than {MAX_PART_HEAD_BYTES} bytes: send less.")
            return at
        block = window[at:end]
        if self._dashes in block:
            raise invalid("The boundary stands in the head of a part: choose a longer one, at random.")
        head = part_head(block)
        if head.field:
            self._expect(head, self._at + at)
        self._field = head.field
        self._length = head.length
        self._ascii = head.ascii
        self._start = self._at + end + 4
        self._size = 0
        self._state = _CONTENT
        return end + 4

    def _expect(self, head: PartHead, at: int) -> None:
        """A field that is read here comes; its head began at ``at``."""
        if head.field in self._seen:
            raise invalid(f"The field {head.field} is repeated: send it once.", head.field)
        self._seen += (head.field,)
        if head.field == "model" and head.length >= 0:
            self._length_span = at + head.length_span[0], at + head.length_span[1]

    def _content(self, window: bytes, at: int) -> int:
        match = self._search(window, at)
        # What may be the beginning of a delimiter stays.
        end = len(window) - len(self._dashes) - 1 if match is None else match.start() - 2
        if end > at:
            self._take(window, at, end)
        if match is None:
            return max(at, end)
        if end < at or not window.startswith(b"\r\n", end):
            raise invalid("The boundary stands inside a part: choose a longer one, at random.")
        self._state = _DELIMITED
        return match.end()

    def _take(self, window: bytes, at: int, end: int) -> None:
        self._size += end - at
        if not self._field:
            return
        if self._size > MAX_FIELD_BYTES:
            raise invalid(f"The field {self._field} is longer than {MAX_FIELD_BYTES} bytes.", self._field)
        self._value += window[at:end]

    def _part_ended(self) -> None:
        if self._length not in (-1, self._size):
            raise invalid("A part is not as long as its Content-Length says: leave that out.")
        if not self._field:
            return
        value = bytes(self._value)
        self._value.clear()
        if self._ascii and not value.isascii():
            raise invalid(f"Send the field {self._field} in UTF-8, without a Content-Type.", self._field)
        if self._field == "stream":
            self.stream = value.lower() in _TRUE
            return
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = ""
        self.model = check_model(text)
        self.model_span = self._start, self._start + self._size
