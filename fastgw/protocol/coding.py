"""Content codings of request bodies (RFC 9110 §8.4): what a client compressed is unpacked here, and goes on as it was.

An engine that gets a coding passed on reads another body than the gateway has judged, so a coding that is not unpacked here is
refused. Owns: which codings there are, and the bounds of unpacking. Invariant: one step gives out no more than the room it
was told (of zstd a mebibyte more), and all of them never more than the ratio allows of what has come in, so neither memory
nor time grows with a bomb.

gzip (RFC 1952), deflate (RFC 1950; a bare RFC 1951 stream, which some call by that name, is refused), and zstd (RFC 8878) where
the package ``zstandard`` is installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from fastgw.errors import GatewayError

MAX_MEMBERS: Final = 16  # of one body: each costs a decoder
FREE_BYTES: Final = 1 << 16  # unpacked before the ratio counts: a small body of one repeated word is no bomb
SLICE_BYTES: Final = 32  # of zstd input at once: its decoder takes no limit, and makes up to 128 KiB of four bytes
STREAM_BYTES: Final = 44 << 10  # that zlib takes for a stream
ZSTD_BYTES: Final = 160 << 10  # the same of zstd, without a window
WINDOW_BYTES: Final = 1 << 23  # of zstd: what RFC 8878 §3.1.1.1.2 asks of a decoder


def _broken(message: str) -> GatewayError:
    return GatewayError("invalid_encoding", message)


class Decoder:
    """One body, unpacked as it comes, a piece at a time. ``ratio`` 0 = bounded by its limit alone."""

    __slots__ = (
        "_ended", "_left", "_make", "_members", "_more", "_ratio", "_stream", "_taken", "counted_bytes", "given", "whole",
    )  # fmt: skip

    def __init__(self, make: Callable[[], Any], ratio: int) -> None:
        self._make = make
        self._stream = make()
        self._ratio = ratio
        self._left: Any = b""  # of what was taken
        self._more = False  # the stream may have more to give than it gave
        self.whole = False
        """Whether all of it was taken."""
        self.counted_bytes = 0
        """What of ``memory_bytes`` is counted as held."""
        self._taken = 0
        self._members = 1
        self._ended = False
        self.given = 0
        """How many bytes have come out so far."""

    @property
    def pending(self) -> bool:
        """Whether there is more to unpack of what was taken."""
        return self._more or bool(self._left)

    @property
    def memory_bytes(self) -> int:
        """What the decoder itself holds, beside its input and its output."""
        return STREAM_BYTES

    def take(self, data: bytes, last: bool) -> None:
        """More of what came; all of it when ``last``."""
        self._taken += len(data)
        self._left = memoryview(bytes(self._left) + data if self._left else data)  # slices of it cost nothing
        self.whole = last

    def step(self, room: int, limit: int) -> bytes:
        """What comes out next, about ``room`` bytes at most; ``limit`` is what the whole body may come to.

        :raises GatewayError: ``invalid_encoding``; ``body_too_large`` beyond the limit or the ratio.
        """
        most = limit
        if self._ratio:
            most = min(limit, max(FREE_BYTES, self._ratio * self._taken))
        out: list[bytes] = []
        try:
            while room > 0 and self.pending:
                if self._ended:
                    self._next_member()
                asked = min(room, most - self.given + 1)
                piece, self._left = self._piece(self._left, asked)
                self._more = len(piece) >= asked and not self._ended
                self.given += len(piece)
                if self.given > most:
                    raise self._too_large(limit)
                room -= len(piece)
                out.append(piece)
        except GatewayError:
            raise
        except Exception as error:  # (zlib's and zstandard's own have no common base)
            raise _broken(self._why(error)) from error
        if self.whole and not self._ended and not self.pending:
            further = ", or something else stands behind its end" if self._members > 1 else ""
            raise _broken(f"The compressed body ends in the middle{further}.")
        return out[0] if len(out) == 1 else b"".join(out)

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise _broken(f"The compressed body has more than {MAX_MEMBERS} parts.")
        self._stream = self._make()
        self._ended = False

    def _piece(self, data: memoryview, room: int) -> tuple[bytes, Any]:
        """Some of what ``data`` unpacks to, at most ``room`` bytes, and what is left of ``data``."""
        stream = self._stream
        piece: bytes = stream.decompress(data, room)
        if stream.eof:
            self._ended = True
            return piece, stream.unused_data
        return piece, stream.unconsumed_tail

    def _why(self, error: Exception) -> str:
        return "The body is not what its Content-Encoding says."

    def _too_large(self, limit: int) -> GatewayError:
        if self.given > limit:
            return GatewayError("body_too_large", detail="crossed while unpacking")
        return GatewayError("body_too_large", f"The body unpacks to more than {self._ratio} times its size.")


class _Deflate(Decoder):
    """One stream and nothing behind it."""

    __slots__ = ()

    def _next_member(self) -> None:
        raise _broken("The compressed body goes on behind its end.")


class _Zstd(Decoder):
    __slots__ = ()

    @property
    def memory_bytes(self) -> int:
        # (Of its window as much as has come out is in use.)
        return ZSTD_BYTES + min(self.given, WINDOW_BYTES)

    def _piece(self, data: memoryview, room: int) -> tuple[bytes, Any]:
        stream = self._stream
        part = data[:SLICE_BYTES]
        piece: bytes = stream.decompress(part)
        if stream.eof:
            self._ended = True
            return piece, data[len(part) - len(stream.unused_data) :]
        return piece, data[len(part) :]

    def _why(self, error: Exception) -> str:
        if "memory" in str(error):
            return f"The zstd frame has a window of more than {WINDOW_BYTES >> 20} MiB: use a lower level, without --long."
        return super()._why(error)


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _deflate() -> Any:
    return zlib.decompressobj(wbits=15)


@cache
def _zstd() -> Callable[[], Any] | None:
    try:
        import zstandard
    except ImportError:
        return None
    return lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()


def codings() -> str:
    """The codings that are unpacked, as ``Accept-Encoding`` lists them."""
    return "gzip, deflate, zstd" if _zstd() is not None else "gzip, deflate"


def decoder(coding: bytes, ratio: int) -> Decoder | None:
    """The decoder for a ``Content-Encoding``; None = the body comes as it is (``identity``).

    :raises GatewayError: ``unsupported_encoding`` for any other, and for several.
    """
    name = coding.strip(b" \t").lower()
    if name == b"identity":
        return None
    if name in (b"gzip", b"x-gzip"):
        return Decoder(_gzip, ratio)
    if name == b"deflate":
        return _Deflate(_deflate, ratio)
    if name == b"zstd":
        make = _zstd()
        if make is not None:
            return _Zstd(make, ratio)
    raise GatewayError("unsupported_encoding", f"Send the body without a Content-Encoding, or in one of: {codings()}.")
