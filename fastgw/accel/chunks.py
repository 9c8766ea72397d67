"""The chunked transfer coding, decoded as it arrives.

Strict where laxness smuggles: 1 to 16 hexadecimal digits and nothing around them, sizes up to 2^63-1, CRLF and nothing
else as a line end; extensions with a quote among them are the grammar's, others any text. Bounded where the grammar is not:
a size line takes at most 256 bytes, trailers at most 8 KiB and 64 fields.
Payload is handed on as slices of what came in; only an unfinished line is ever kept, and looked at once however it comes.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINE_BYTES: Final = 256
MAX_TRAILER_BYTES: Final = 8192
MAX_TRAILERS: Final = 64
MAX_SIZE: Final = 2**63 - 1


class FramingError(ValueError):
    """The bytes are not a chunked body. ``payload`` is what was, of the bytes that were fed last."""

    payload = b""


_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
_SIZE_PREFIX: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?").fullmatch
# A quote in one reader's string is the end of another's line: where there is one, the grammar is asked (RFC 9112 §7.1.1). No
# part of this goes back, so it is linear.
_EXTENSIONS: Final = re.compile(
    rb"""(?:[\t ]*+;[\t ]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]++(?:[\t ]*+=[\t ]*+"""
    rb"""(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++|"(?:[^"\\]|\\.)*+"))?+)*+"""
).fullmatch
_TRAILER_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*").fullmatch
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT: Final = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))

# Engines write the same few sizes again and again.
_sizes: dict[bytes, int] = {}
_MEMO_ENTRIES: Final = 4096


def _fits(extension: bytes) -> bool:
    """Whether this can stand behind the first semicolon of a size line."""
    return not extension.translate(None, _TEXT) and (b'"' not in extension or _EXTENSIONS(b";" + extension) is not None)


def _learn_size(line: bytes) -> int:
    digits, colon, extension = line.partition(b";")
    size = _sizes.get(digits, -1) if colon else -1
    if size < 0 or not _fits(extension):
        match = _SIZE_LINE(line)
        if match is None or not _fits(extension):
            raise FramingError("malformed chunk size")
        size = int(match[1], 16)
        if size > MAX_SIZE:
            raise FramingError("chunk size out of range")
        if len(_sizes) >= _MEMO_ENTRIES:
            _sizes.clear()
        _sizes[digits] = size
    return size


def _trailer_goes_on(line: bytes, tail: bytes) -> bool:
    """Whether ``tail`` can follow ``line``, which can be the beginning of a trailer, or of the CRLF that ends all of them."""
    if line.endswith(b"\r"):
        return False
    if tail.endswith(b"\r"):
        tail = tail[:-1]
        if not line and not tail:
            return True
        if b":" not in line and b":" not in tail:
            return False
    if b":" not in line:
        name, colon, value = tail.partition(b":")
        return not name.translate(None, _TOKEN) and (not colon or bool(line or name)) and not value.translate(None, _TEXT)
    return not tail.translate(None, _TEXT)


class ChunkScanner:
    """Feed it bytes of a chunked body, get the payload among them.

    After each :meth:`feed`: ``done`` (the body is complete, and ``rest`` holds what came after it), ``whole`` (the next
    byte begins a chunk or the trailer section), ``aligned`` (this feed began and ended between chunks and had plain
    frames only, so the same bytes, less ``rest``, are themselves a clean run of chunks), ``trailers`` (lower-case names
    of the trailer fields seen) and ``lines`` (they themselves, whole lines as they came).
    """

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "aligned", "done", "lines", "rest", "trailers", "whole")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._trailer_bytes = 0
        self.aligned = False
        self.done = False
        self.whole = True
        self.rest = b""
        self.trailers: list[bytes] = []
        self.lines = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``.

        :raises FramingError: at the first byte that cannot be part of a chunked body; the scanner is dead then.
        """
        if self.whole:
            # One whole chunk in one read: what an engine's flush of one event nearly always is.
            at = data.find(b"\r\n", 0, 20)
            if at > 0:
                size = _sizes.get(data[:at])
                if size and len(data) == at + size + 4 and data[-2:] == b"\r\n":
                    self.aligned = True
                    return data[at + 2 : -2]
        out: list[bytes] = []
        try:
            self._feed(data, out)
        except FramingError as error:
            error.payload = b"".join(out)
            raise
        return out[0] if len(out) == 1 else b"".join(out)

    def _feed(self, data: bytes, out: list[bytes]) -> None:
        if self.done:
            self.rest += data
            self.aligned = False
            return
        plain = self.whole
        state = self._state
        end = len(data)
        pos = 0
        known = _sizes.get
        while pos < end:
            if state == _SIZE:
                # A whole chunk of a size that was met before: where chunks are many they are of few sizes.
                at = data.find(b"\r\n", pos, pos + 18)
                if at > 0:
                    line = data[pos:at]
                    size = known(line, 0)
                    if not size and 59 in line:
                        digits, _, extension = line.partition(b";")
                        size = known(digits, 0) if _fits(extension) else 0
                        plain = False
                    stop = at + 2 + size
                    if size and data[stop : stop + 2] == b"\r\n" and not self._line:
                        out.append(data[at + 2 : stop])
                        pos = stop + 2
                        continue
                at = data.find(b"\n", pos, pos + MAX_LINE_BYTES + 2)
                if at < 0:
                    line = self._line + data[pos:] if self._line else data[pos:]
                    if len(line) > MAX_LINE_BYTES + 1 or _SIZE_PREFIX(line) is None:
                        raise FramingError("malformed chunk size")
                    self._line = line
                    break
                line = self._line + data[pos : at + 1] if self._line else data[pos : at + 1]
                pos = at + 1
                self._line = b""
                if line[-2:] != b"\r\n" or len(line) > MAX_LINE_BYTES + 2:
                    raise FramingError("malformed chunk size line")
                line = line[:-2]
                size = _sizes.get(line, -1)
                if size < 0:
                    size = _learn_size(line)
                    plain = plain and b";" not in line
                self._left = size
                state = _DATA if size else _TRAILER
            elif state == _DATA:
                if end - pos < self._left:
                    out.append(data[pos:] if pos else data)
                    self._left -= end - pos
                    break
                stop = pos + self._left
                out.append(data[pos:stop])
                pos = stop
                self._left = 2
                state = _DATA_END
            elif state == _DATA_END:
                if data[pos] != (13 if self._left == 2 else 10):
                    raise FramingError("chunk data without CRLF")
                pos += 1
                self._left -= 1
                if not self._left:
                    state = _SIZE
            else:
                pos = self._trailer(data, pos)
                plain = plain and not self.trailers
                if self.done:
                    state = _DONE
        self._state = state
        self.whole = state == _SIZE and not self._line
        self.aligned = plain and (self.whole or self.done)

    def _trailer(self, data: bytes, pos: int) -> int:
        """Take a line of the trailer section, as much of it as is in ``data`` from ``pos`` on; where to go on."""
        at = data.find(b"\n", pos, pos + MAX_TRAILER_BYTES + 2)
        if at < 0:
            line = data[pos:]
            size = len(self._line) + len(line)
            if size + self._trailer_bytes > MAX_TRAILER_BYTES + 1 or not _trailer_goes_on(self._line, line):
                raise FramingError("malformed trailer")
            self._line += line
            return len(data)
        line = self._line + data[pos : at + 1] if self._line else data[pos : at + 1]
        self._line = b""
        self._trailer_bytes += len(line)
        if line == b"\r\n":
            self.done = True
            self.rest = data[at + 1 :]
            return len(data)
        if line[-2:] != b"\r\n" or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise FramingError("malformed trailer line")
        if len(self.trailers) == MAX_TRAILERS:
            raise FramingError("too many trailer fields")
        match = _TRAILER_LINE(line[:-2])
        if match is None:
            raise FramingError("malformed trailer field")
        self.trailers.append(match[1].lower())
        self.lines += line
        return at + 1
