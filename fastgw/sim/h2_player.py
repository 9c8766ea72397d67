"""Plays a fault on an HTTP/2 stream: the same script as on HTTP/1.1, in frames, and what only frames can do wrong.

Must never: touch a stream without faults. What breaks the connection (a GOAWAY, a flood, bytes as they are) goes past the stock
machine, which would not say it.
"""

from __future__ import annotations

from typing import Final, NoReturn, Protocol

from h2.connection import H2Connection as StockMachine
from h2.settings import SettingCodes

from fastgw.sim.answers import PAD_LINE_BYTES
from fastgw.sim.engine import Fields
from fastgw.sim.faults import Faults
from fastgw.sim.player import GARBAGE, EndedError, Line, Player

_HEADERS, _CONTINUATION, _SETTINGS, _PING = 1, 9, 4, 6
_END_HEADERS: Final = 4
# One entry of 4 kB in the dynamic table, then references to it (CVE-2016-6581).
_BOMB_BYTES: Final = 4000
_BATCH: Final = 256


class Breakable(Protocol):
    """What a player does to a connection."""

    machine: StockMachine

    def flush(self) -> None: ...
    async def flushed(self) -> None: ...
    def raw(self, data: bytes) -> None: ...
    def settings(self, code: SettingCodes, value: int) -> None: ...
    def no_credit(self, seconds: float) -> None: ...
    def goaway(self, kind: str, number: int, code: int = 0) -> None: ...
    def close(self) -> None: ...


class H2Line(Line, Protocol):
    """What it needs of its stream."""

    number: int
    pad: int | None
    trailers: Fields

    @property
    def connection(self) -> Breakable: ...
    def fields(self, status: int, content_type: bytes, length: int = -1, extra: Fields = ()) -> list[tuple[bytes, bytes]]: ...
    def head(self, fields: list[tuple[bytes, bytes]], end: bool = False) -> None: ...
    def data(self, data: bytes) -> None: ...
    def end_stream(self) -> None: ...
    def rst(self, code: int, outcome: str = "faulted") -> None: ...


class H2Player(Player):
    """One faulted request on its stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: H2Line, faults: Faults) -> None:
        super().__init__(stream, faults)
        self._stream = stream
        if not self._fault_at and "rst" in faults and "after-events" in faults:
            self._fault_at = "rst"

    def at_once(self) -> None:
        """What is wrong with the connection shows as soon as the request's head is there."""
        faults, connection = self._faults, self._stream.connection
        if "max-streams" in faults:
            connection.settings(SettingCodes.MAX_CONCURRENT_STREAMS, faults.count("max-streams"))
        if "window" in faults:
            connection.settings(SettingCodes.INITIAL_WINDOW_SIZE, faults.count("window"))
        no_credit_ms = faults.real("no-credit")
        if no_credit_ms is not None:
            connection.no_credit(no_credit_ms / 1e3)
        if "goaway" in faults and "after-events" not in faults:
            self._goaway()

    def _goaway(self) -> None:
        self._stream.connection.goaway(
            self._faults.raw("goaway").decode(), self._stream.number, self._faults.code("goaway-code")
        )

    # --- before the head
    async def _before_head(self) -> None:
        faults = self._faults
        if "close" in faults:
            await self._close()
        if "reset" in faults:
            await self._reset()
        if "stall-before" in faults or "no-read" in faults:
            await self._stall()
        if "rst" in faults and self._fault_at != "rst":
            self._rst("rst")
        if "garbage" in faults or "raw" in faults:
            await self._raw(faults.raw("raw") if "raw" in faults else GARBAGE)
            await self._close()
        if "frames" in faults:
            await self._raw(faults.raw("frames"))
        await self._flood(_PING, faults.count("ping-flood"), 8)
        await self._flood(_SETTINGS, faults.count("settings-flood"), 0)
        if "hpack-bomb" in faults:
            await self._bomb(faults.count("hpack-bomb"))
        for number in range(faults.count("1xx")):
            self._stream.head([(b":status", b"103"), (b"link", b"</style.css>; rel=preload")])
            if number % _BATCH == 0:
                await self._stream.flushed()

    async def _flood(self, kind: int, count: int, size: int) -> None:
        for at in range(0, count, _BATCH):
            last = min(count, at + _BATCH)
            await self._raw(
                b"".join(frame(kind, 0, 0, number.to_bytes(size, "big") if size else b"") for number in range(at, last))
            )

    async def _bomb(self, references: int) -> NoReturn:
        entry = b"\x40\x01x" + b"\x7f" + _continued(_BOMB_BYTES - 127) + b"b" * _BOMB_BYTES
        block = b"\x88" + entry + b"\xbe" * references
        await self._raw(frame(_HEADERS, _END_HEADERS, self._stream.number, block[:16_384]))
        await self._stall()

    def _rst(self, name: str) -> NoReturn:
        self._stream.rst(self._faults.code(name))
        raise EndedError

    # --- the head
    async def _head(self, status: int, content_type: bytes, extra: Fields = (), stream: bool = False) -> None:
        faults = self._faults
        length = -1 if self._framing == "chunked" else self._total + faults.count("wrong-length") - faults.count("short-length")
        if "pad" in faults:
            self._stream.pad = min(255, faults.count("pad"))
        self._stream.trailers = tuple(_pair(line) for line in faults.trailers)
        fields = self._stream.fields(status, content_type, max(0, length) if length >= 0 else -1, extra)
        fields += [_pair(line) for line in faults.headers]
        fields += [(b"x-sim-%d" % n, b"%d" % n) for n in range(faults.count("many-headers"))]
        missing = faults.count("head") - sum(len(name) + len(value) + 32 for name, value in fields)
        for _ in range(0, max(0, missing), PAD_LINE_BYTES):
            fields.append((b"x-sim-padding", b"p" * PAD_LINE_BYTES))
        self._stream.head(fields)
        if "continuation-flood" in faults:
            await self._continuations(faults.count("continuation-flood"))
        elif "continuation" in faults:
            await self._in_pieces(faults.count("continuation"))
        await self._stream.flushed()
        if "stall-head" in faults:
            await self._stall()
        for _ in range(faults.count("empty-data")):
            self._stream.data(b"")
        if self._bytes_left == 0:
            await self._spent()

    def _taken(self) -> bytes:
        """The payload of the HEADERS frame that the machine was about to send."""
        said = self._stream.connection.machine.data_to_send()
        at = 0
        while at < len(said):
            length = int.from_bytes(said[at : at + 3], "big")
            if said[at + 3] == _HEADERS:
                payload = said[at + 9 : at + 9 + length]
                self._stream.transport.write(said[:at])
                return payload
            at += 9 + length
        raise AssertionError("no HEADERS were to be sent")

    async def _in_pieces(self, count: int) -> None:
        """The head in a HEADERS and so many CONTINUATION frames; where it has fewer bytes, with empty ones."""
        block, number = self._taken(), self._stream.number
        step = max(1, -(-len(block) // (count + 1)))
        out = frame(_HEADERS, 0, number, block[:step])
        for at in range(1, count + 1):
            out += frame(_CONTINUATION, _END_HEADERS if at == count else 0, number, block[at * step : (at + 1) * step])
        await self._raw(out)

    async def _continuations(self, count: int) -> NoReturn:
        """A header block that does not end (CVE-2024-27316)."""
        number = self._stream.number
        await self._raw(frame(_HEADERS, 0, number, self._taken()))
        one = frame(_CONTINUATION, 0, number, b"\x10\x05x-sim\x03bit")
        for at in range(0, count, _BATCH):
            await self._raw(one * min(_BATCH, count - at))
        await self._stall()

    # --- the body
    async def _event(self, data: bytes, whole: bool = False) -> None:
        if "goaway" in self._faults and self._written_events == self._faults.count("after-events", -1):
            self._goaway()
        await super()._event(data, whole)

    async def _break(self, data: bytes) -> NoReturn:
        if self._fault_at == "rst":
            await self._stream.flushed()
            self._rst("rst")
        await super()._break(data)

    async def _body(self, data: bytes) -> None:
        step = 1 if "one-byte-chunks" in self._faults else self._faults.count("split") or len(data)
        for at in range(0, len(data), step):
            await self._wire(data[at : at + step])

    async def _wire(self, data: bytes) -> None:
        if 0 <= self._bytes_left <= len(data):
            await self._write(data[: self._bytes_left])
            await self._spent()
        if self._bytes_left > 0:
            self._bytes_left -= len(data)
        await self._write(data)

    async def _finish(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            await self._body(held)
        if "rst-after-answer" in self._faults:
            self._end_and_rst()
        self._stream.end_stream()
        if "close-after-answer" in self._faults:
            self._stream.connection.flush()
            self._stream.connection.close()

    def _end_and_rst(self) -> NoReturn:
        """END_STREAM, then RST_STREAM: the stock machine would not say the second."""
        code = self._faults.code("rst-after-answer")
        self._stream.end_stream()
        self._stream.connection.raw(frame(3, 0, self._stream.number, code.to_bytes(4, "big")))
        raise EndedError

    async def _end_cleanly(self) -> NoReturn:
        self._stream.end_stream()
        await self._stream.flushed()
        raise EndedError

    async def _write(self, data: bytes) -> None:
        """One DATA frame's payload."""
        if self._stream.transport.is_closing():
            raise EndedError
        self._stream.data(data)
        await self._stream.flushed()

    async def _raw(self, data: bytes) -> None:
        if self._stream.transport.is_closing():
            raise EndedError
        self._stream.connection.raw(data)
        await self._stream.connection.flushed()

    async def _close(self) -> NoReturn:
        self._stream.connection.flush()
        self._stream.fail()
        self._stream.transport.close()
        raise EndedError


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _continued(value: int) -> bytes:
    """The rest of an integer that did not fit in its prefix (RFC 7541 section 5.1)."""
    out = b""
    while value >= 128:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))


def _pair(line: bytes) -> tuple[bytes, bytes]:
    """``Name:Value`` as it is: also what no field may be."""
    at = line.find(b":", 1)
    return (line, b"") if at < 0 else (line[:at], line[at + 1 :].lstrip(b" "))
