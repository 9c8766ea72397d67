"""Where a message's body ends: by length, by chunks, or with the connection.

The three readers share one face, ``feed(data) -> payload``, ``done`` and ``rest`` (what came after the end), so that
whoever relays a body need not know which one it has.
"""

from __future__ import annotations

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.errors import GatewayError, Source
from fastgw.protocol.headers import FORBIDDEN_TRAILERS


class LengthBody:
    """A body of ``n`` bytes; done at once when ``n`` is 0."""

    __slots__ = ("done", "left", "rest")

    def __init__(self, n: int) -> None:
        self.left = n
        self.done = n == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        left = self.left
        size = len(data)
        if size < left:
            self.left = left - size
            return data
        self.left = 0
        if self.done:
            self.rest += data
            return b""
        self.done = True
        if size == left:
            return data
        self.rest = data[left:]
        return data[:left]


class ChunkedBody:
    """A chunked body. Trailers are dropped; one that could change framing, routing or identity is refused.

    ``kind`` names the error for a malformed body: a client's is ``bad_request``, an engine's ``bad_gateway``.
    """

    __slots__ = ("_judged", "_kind", "_scanner")

    def __init__(self, kind: str = "bad_request") -> None:
        self._scanner = ChunkScanner()
        self._judged = 0  # of the trailers that came
        self._kind = kind

    @property
    def done(self) -> bool:
        return self._scanner.done

    @property
    def rest(self) -> bytes:
        return self._scanner.rest

    @property
    def left(self) -> int:
        """Always -1: a chunked body does not say how much is to come."""
        return -1

    @property
    def whole(self) -> bool:
        """Whether the body stands between two chunks."""
        return self._scanner.whole

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``.

        :raises GatewayError: of the kind given, for malformed chunks and forbidden trailers.
        """
        scanner = self._scanner
        try:
            payload = scanner.feed(data)
        except FramingError as error:
            raise self._refusal(str(error)) from None
        if len(scanner.trailers) > self._judged:
            for name in scanner.trailers[self._judged :]:
                if name.replace(b"_", b"-") in FORBIDDEN_TRAILERS or name.startswith(b"x-forwarded-"):
                    raise self._refusal("forbidden trailer field")
            self._judged = len(scanner.trailers)
        return payload

    def _refusal(self, detail: str) -> GatewayError:
        if self._kind == "bad_request":
            return GatewayError("bad_request", "The chunked body is malformed.", detail=detail)
        return GatewayError(self._kind, source=Source.UPSTREAM, detail=detail)


class CloseBody:
    """A body that ends with the connection: everything is payload, and only :meth:`eof` finishes it."""

    __slots__ = ("done", "left", "rest")

    def __init__(self) -> None:
        self.done = False
        self.left = -1
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self) -> None:
        """The connection ended: so did the body."""
        self.done = True
