"""Bytes into requests: a sans-I/O reader of one connection's HTTP/1.1.

HEAD -> BODY -> HEAD ...; the connection asks for a head, then for body pieces until the end, then for the next head.
Chunked bodies go through h11; a Content-Length is counted here. Must never: repair (see heads) or hold a body.
"""

from __future__ import annotations

from typing import Final

import h11

from fastgw.sim.heads import HEAD_LIMIT_BYTES, Head, HeadMemo, MalformedError, new_reader, read_head

Trailers = tuple[tuple[bytes, bytes], ...]
_NO_TRAILERS: Final[Trailers] = ()


class RequestReader:
    """Feed it bytes, then take what they hold. Every method that takes raises MalformedError for what no engine accepts."""

    __slots__ = ("_buffer", "_limit", "_memo", "_parser", "_read", "_to_come", "trailers")

    def __init__(self, memo: HeadMemo, max_body_bytes: int) -> None:
        self._memo = memo
        self._limit = max_body_bytes
        self._buffer = b""
        self._parser: h11.Connection | None = None
        self._to_come = 0
        self._read = 0
        self.trailers = _NO_TRAILERS

    def feed(self, data: bytes) -> int:
        """Returns how many bytes wait."""
        self._buffer = self._buffer + data if self._buffer else data
        return len(self._buffer)

    def rest(self) -> bytes:
        """Everything not yet taken, for whoever speaks another protocol from here on."""
        rest, self._buffer = self._buffer, b""
        return rest

    @property
    def waiting(self) -> bool:
        return bool(self._buffer)

    def take_head(self) -> Head | None:
        """The next request's head; None when it is not all there."""
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                raise MalformedError("the head is too long", 431)
            if b"\n\n" in self._buffer or b"\n\r\n" in self._buffer:
                raise MalformedError("bare LF")
            return None
        raw, self._buffer = self._buffer[:end], self._buffer[end:]
        head = self._memo.get(raw)
        parser = None
        if head is None:
            parser = new_reader()
            head = self._memo.keep(read_head(raw, parser))
        self._to_come = head.length
        self._read = 0
        self._parser = parser if head.chunked else None
        self.trailers = _NO_TRAILERS
        return head

    def check_length(self) -> None:
        """MalformedError when the announced body is longer than allowed."""
        if self._to_come > self._limit:
            raise MalformedError("the body is too long", 413)

    def take_body(self) -> tuple[bytes, bool]:
        """What has come of the body, and whether that was the end of it."""
        if self._parser is None:
            piece = self._buffer[: self._to_come]
            self._buffer = self._buffer[self._to_come :]
            self._to_come -= len(piece)
            return piece, not self._to_come
        try:
            return self._take_chunks(self._parser)
        except h11.RemoteProtocolError as error:
            raise MalformedError(str(error), error.error_status_hint) from error

    def _take_chunks(self, parser: h11.Connection) -> tuple[bytes, bool]:
        if self._buffer:
            parser.receive_data(self._buffer)
            self._buffer = b""
        pieces = []
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
                self._read += len(event.data)
                if self._read > self._limit:
                    raise MalformedError("the body is too long", 413)
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
                self._buffer = parser.trailing_data[0]
                self._parser = None
                return b"".join(pieces), True
            else:
                return b"".join(pieces), False
