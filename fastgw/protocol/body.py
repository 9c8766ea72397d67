"""Where a body ends: by length, by chunks, with the connection, or with its stream. Told here, and nowhere else.

A source is fed what was read, and gives the payload. Who relays can ask it in which frames the bytes came, and whether the read
was a clean run of them: then it can go on as it is.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.landing import Landing
from fastgw.accel.sse import SseScanner, passes

PLAIN: Final = 0
"""No frames: payload is all there is."""

CHUNKS: Final = 1
"""HTTP/1.1's chunks."""


class Source:
    """Reads one body. ``done``: it is complete, and ``rest`` is what came behind it. ``spoiled``: what came makes its
    connection useless for another (bytes behind the end, no end but the connection's, frames that cannot be read). ``frames``
    and ``aligned``: the bytes that were fed last are themselves a clean run of such frames. ``length``: of the whole, ``left``:
    of what is still to come; -1 = not told. ``landing``: where the payload is to be, where who feeds it puts it somewhere."""

    __slots__ = ("aligned", "done", "frames", "landing", "left", "length", "rest", "spoiled")

    # (Subclasses do not come here: by way of super() this would cost as much as reading a small body.)
    def __init__(self, frames: int, length: int) -> None:
        self.frames = frames
        self.length = self.left = length
        self.aligned = True
        self.done = False
        self.spoiled = False
        self.rest = b""
        self.landing: Landing | None = None

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``.

        :raises FramingError: with the ``payload`` that came before what cannot be read.
        """
        raise NotImplementedError

    def passes(self, sse: SseScanner | None, data: bytes) -> int:
        """The payload's size, where ``data`` may go on as it is: whole frames, and whole events of which all is known; else 0,
        and nothing was read."""
        return 0

    def trailers(self) -> bytes:
        """The fields behind it, once it is done: whole lines as they came, bounded and well-formed, but not judged."""
        return b""

    def eof(self, how: str) -> bool:
        """The connection has ended (``"fin"`` or ``"reset"``): whether that completes the body."""
        self.spoiled = True
        return self.done


class NoSource(Source):
    """There is no body: the request's method or the status forbids it (RFC 9112 §6.3)."""

    __slots__ = ()

    def __init__(self) -> None:
        self.frames = PLAIN
        self.length = self.left = -1
        self.aligned = True
        self.done = True
        self.spoiled = False
        self.rest = b""
        self.landing = None

    def feed(self, data: bytes) -> bytes:
        if data:
            self.rest += data
            self.spoiled = True
            self.aligned = False
        return b""


class LengthSource(Source):
    """So many bytes. It can be used again, for another body."""

    __slots__ = ()

    def __init__(self, length: int) -> None:
        self.frames = PLAIN
        self.begin(length)

    def begin(self, length: int) -> None:
        """A body of ``length`` bytes comes."""
        self.length = self.left = length
        self.aligned = True
        self.done = not length
        self.spoiled = False
        self.rest = b""
        self.landing = None

    def feed(self, data: bytes) -> bytes:
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data
        self.done = True
        if left == 0:
            self.left = 0
            return data
        # Bytes after the end: of an answer, nobody asked for them, and nobody will see them.
        self.spoiled = True
        self.aligned = False
        payload = data[: self.left]
        self.rest += data[self.left :]
        self.left = 0
        return payload

    def took(self, size: int) -> None:
        """``size`` bytes of it have been read elsewhere: no more than are left."""
        self.left -= size
        self.done = self.left == 0


class ChunkedSource(Source):
    """Chunks, until the empty one and the trailers behind it."""

    __slots__ = ("_scanner",)

    def __init__(self) -> None:
        self.frames = CHUNKS
        self.length = self.left = -1
        self.aligned = True
        self.done = False
        self.spoiled = False
        self.rest = b""
        self.landing = None
        self._scanner = ChunkScanner()

    def feed(self, data: bytes) -> bytes:
        scanner = self._scanner
        self.spoiled = True  # unless it can be read
        payload = scanner.feed(data)
        self.spoiled = False
        self.aligned = scanner.aligned
        if scanner.done:
            self.done = True
            self.rest = scanner.rest
            if self.rest:
                self.spoiled = True
                self.aligned = False
        return payload

    def passes(self, sse: SseScanner | None, data: bytes) -> int:
        return passes(self._scanner, sse, data)

    def trailers(self) -> bytes:
        return self._scanner.lines


class CloseSource(Source):
    """All that comes until the connection ends."""

    __slots__ = ()

    def __init__(self) -> None:
        self.frames = PLAIN
        self.length = self.left = -1
        self.aligned = True
        self.done = False
        self.spoiled = True
        self.rest = b""
        self.landing = None

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self, how: str) -> bool:
        if how == "fin":
            self.done = True
        return self.done


class DataSource(Source):
    """HTTP/2's DATA, of which only payloads come here: until ``ended``, which whoever feeds it sets before the last of them, or
    as many as were announced. Other than so many are an error (RFC 9113 §8.1.1). ``fields``: its trailers, set likewise;
    ``waits``: there are some behind the last of those that were announced, so that only ``ended`` ends it."""

    __slots__ = ("ended", "fields", "waits")

    def __init__(self, length: int, ended: bool, waits: bool) -> None:
        self.frames = PLAIN
        self.length = self.left = length
        self.aligned = True
        self.done = ended
        self.waits = waits
        self.spoiled = False
        self.rest = b""
        self.landing = None
        self.ended = ended
        self.fields = b""

    def trailers(self) -> bytes:
        return self.fields

    def feed(self, data: bytes) -> bytes:
        if self.length >= 0:
            self.left -= len(data)
            if self.left < 0 or (self.ended and self.left):
                self.spoiled = True
                error = FramingError("the stream ends before its length" if self.left > 0 else "more DATA than the length")
                error.payload = data if self.left > 0 else data[: self.left]
                raise error
            self.done = not self.left and (self.ended or not self.waits)
        else:
            self.done = self.ended
        return data


def source_of(head: ResponseHead, method: bytes, spare: LengthSource | None = None) -> Source:
    """What reads the body of an HTTP/1 answer to ``method`` (RFC 9112 §6.3); ``spare`` may be used for it."""
    if method == b"HEAD" or head.status == 204 or head.status == 304:
        return NoSource()
    if head.chunked:
        return ChunkedSource()
    if head.content_length >= 0:
        if spare is None:
            return LengthSource(head.content_length)
        spare.begin(head.content_length)
        return spare
    return CloseSource()
