"""An engine of HTTP/2 by hand, without sockets: the gateway's own pool and connections, over wires whose other end the test
holds.

What the gateway sends is read with ``hyperframe`` and ``hpack``, which it does not use for that; what the engine sends is built
with them, or is any bytes at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from fastgw.errors import GatewayError, Source
from fastgw.net.poller import Reactor
from fastgw.net.upstream import Carrier
from fastgw.net.wire import DEAD, QUEUED, SENT, Wire
from fastgw.stats import EventLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine
from tests.support.byhand.loop import HandLoop
from tests.support.scripts import ANSWER

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = Iterable[tuple[bytes, bytes]]
JSON: Fields = ((b"content-type", b"application/json"),)
SSE: Fields = ((b"content-type", b"text/event-stream"),)


class HandWire(Wire):
    """A wire whose other end is a peer. ``writes``: what left with each call. ``takes``: False = the kernel is full."""

    def __init__(self, reactor: Reactor, dialled: Callable[[HandWire], None]) -> None:
        super().__init__(reactor)
        self.writes: list[bytes] = []
        self.waiting: deque[bytes | str] = deque()
        self.takes = True
        self._dialled = dialled

    def dial(self, address: object) -> int:
        self._dialled(self)
        return 0

    def resume(self) -> None:
        self.reading = True

    def unread(self) -> bool:
        return bool(self.waiting)

    def recv(self, size: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        data = self.waiting.popleft()
        if isinstance(data, str):
            if data == "reset":
                raise ConnectionResetError
            return b""
        if len(data) > size:
            self.waiting.appendleft(data[size:])
        return data[:size]

    def write(self, data: bytes) -> int:
        if self.closed:
            return DEAD
        self.writes.append(data)
        return SENT if self.takes else QUEUED

    def comes(self, data: bytes | str) -> None:
        """This can be read."""
        self.waiting.append(data)
        while self.waiting and not self.closed and self.reading:
            self.holder.on_readable()


class Asked:
    """One request, as the engine has it."""

    def __init__(self, peer: H2Peer, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.peer = peer
        self.number = number
        self.fields = dict(fields)
        self.names = [name for name, _ in fields]
        self.body = b""
        self.whole = False
        self.reset: int | None = None  # the code with which the gateway gave it up
        self.credit = 0  # what it was given beside its first window

    def answers(self, body: bytes = ANSWER, fields: Fields = JSON, status: int = 200) -> Asked:
        """Whole, in one read."""
        peer = self.peer
        told = [*fields, (b"content-length", b"%d" % len(body))]
        peer.says(peer.head(self.number, status, told) + peer.data(self.number, body, last=True))
        return self

    def begins(self, fields: Fields = SSE, status: int = 200, *, last: bool = False) -> Asked:
        self.peer.says(self.peer.head(self.number, status, fields, last=last))
        return self

    def says(self, *pieces: bytes, last: bool = False) -> Asked:
        """Some of the body, each piece read by itself; ``last``: with the last of them it ends."""
        for at, piece in enumerate(pieces, 1):
            self.peer.says(self.peer.data(self.number, piece, last=last and at == len(pieces)))
        return self

    def resets(self, code: int) -> Asked:
        self.peer.says(RstStreamFrame(self.number, error_code=code).serialize())
        return self


class H2Peer:
    """One connection's other end. ``asked``: requests, in their order; ``frames``: all frames that came."""

    def __init__(self, pool: H2HandPool, wire: HandWire) -> None:
        self.pool = pool
        self.wire = wire
        self.asked: list[Asked] = []
        self.frames: list[Frame] = []
        self.acks = True  # it acknowledges SETTINGS and PINGs by itself
        self.goaway: int | None = None  # the code of the gateway's
        self._by_number: dict[int, Asked] = {}
        self._read = 0
        self._buffer = b""
        self._preface = True
        self._decoder = Decoder()
        self.encoder = Encoder()
        self.encoder.header_table_size = 0

    # --- what it says
    def says(self, data: bytes) -> H2Peer:
        """Send these bytes, in one read; then whatever follows from it happens."""
        self.wire.comes(data)
        self.pool.loop.settle()
        return self

    def closes(self, how: Literal["fin", "reset"] = "fin") -> H2Peer:
        self.wire.comes("" if how == "fin" else "reset")
        self.pool.loop.settle()
        return self

    def greets(self, **settings: int) -> H2Peer:
        """Its SETTINGS, by their names in ``hyperframe``."""
        values = {getattr(SettingsFrame, name.upper()): value for name, value in settings.items()}
        return self.says(SettingsFrame(settings=values).serialize())

    def goes(self, last: int, code: int = 0) -> H2Peer:
        return self.says(GoAwayFrame(0, last_stream_id=last, error_code=code).serialize())

    def block(self, fields: Fields) -> bytes:
        return self.encoder.encode(fields)

    def head(self, number: int, status: int, fields: Fields, *, last: bool = False) -> bytes:
        frame = HeadersFrame(number, self.block([(b":status", b"%d" % status), *fields]))
        frame.flags.add("END_HEADERS")
        if last:
            frame.flags.add("END_STREAM")
        return frame.serialize()

    def trailers(self, number: int, fields: Fields) -> bytes:
        frame = HeadersFrame(number, self.block(fields), flags=["END_HEADERS", "END_STREAM"])
        return frame.serialize()

    @staticmethod
    def data(number: int, payload: bytes, *, last: bool = False) -> bytes:
        parts = [payload[at : at + 16384] for at in range(0, len(payload), 16384)] or [b""]
        out = b""
        for at, part in enumerate(parts, 1):
            frame = DataFrame(number, part)
            if last and at == len(parts):
                frame.flags.add("END_STREAM")
            out += frame.serialize()
        return out

    # --- what it got
    @property
    def last(self) -> Asked:
        self.look()
        assert self.asked, "it has not been asked"
        return self.asked[-1]

    def look(self) -> H2Peer:
        """Read what has come."""
        writes = self.wire.writes
        self._buffer += b"".join(writes[self._read :])
        self._read = len(writes)
        if self._preface:
            if len(self._buffer) < len(PREFACE):
                return self
            assert self._buffer.startswith(PREFACE)
            self._buffer = self._buffer[len(PREFACE) :]
            self._preface = False
        said = b""
        while len(self._buffer) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + size:
                break
            frame.parse_body(memoryview(self._buffer[9 : 9 + size]))
            self._buffer = self._buffer[9 + size :]
            self.frames.append(frame)
            said += self._take(frame)
        if said and self.acks and not self.wire.closed:
            self.says(said)
            return self.look()
        return self

    def _take(self, frame: Frame) -> bytes:
        number = frame.stream_id
        if isinstance(frame, (HeadersFrame, ContinuationFrame)):
            assert "END_HEADERS" in frame.flags, "the tests ask for nothing that long"
            one = Asked(self, number, self._decoder.decode(frame.data, raw=True))  # type: ignore[arg-type]
            one.whole = "END_STREAM" in frame.flags
            self.asked.append(one)
            self._by_number[number] = one
        elif isinstance(frame, DataFrame):
            assert len(frame.data) <= 16384
            self._by_number[number].body += frame.data
            self._by_number[number].whole = "END_STREAM" in frame.flags
        elif isinstance(frame, RstStreamFrame):
            self._by_number[number].reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame.error_code
        elif isinstance(frame, WindowUpdateFrame) and number:
            self._by_number[number].credit += frame.window_increment
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            return SettingsFrame(flags=["ACK"]).serialize()
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            return PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize()
        return b""


class H2HandPool(Pool):
    """An engine of HTTP/2. ``peers``: the other ends of all connections that were dialled. ``greeting``: the settings with
    which each greets by itself; None = the test does. ``dial``: what becomes of a new one."""

    def __init__(self, engine: Engine, loop: HandLoop, reactor: Reactor, stats: Stats, log: EventLog) -> None:
        self.loop = loop
        self.reactor = reactor
        self.peers: list[H2Peer] = []
        self.greeting: dict[str, int] | None = {"max_concurrent_streams": 100}
        self.dial: Literal["ok", "refused", "hangs"] = "ok"
        self.dials_h1 = 0  # which find no room
        super().__init__(engine, reactor, stats, log, 5.0)

    def wire(self) -> HandWire:
        return HandWire(self.reactor, self._dialled)

    def _dial(self, carrier: Carrier, fresh: int) -> Any:
        self.dials_h1 += 1
        raise GatewayError("engine_busy", source=Source.GATEWAY, retry_after_s=1.0)

    def _dialled(self, wire: HandWire) -> None:
        peer = H2Peer(self, wire)
        self.peers.append(peer)
        if self.dial != "hangs":
            self.loop.call_soon(self._answered, peer, 0 if self.dial == "ok" else 111)

    def _answered(self, peer: H2Peer, code: int) -> None:
        if peer.wire.closed:
            return
        peer.wire.holder.on_dialled(code)
        if code == 0 and self.greeting is not None:
            greeting = {getattr(SettingsFrame, name.upper()): value for name, value in self.greeting.items()}
            self.loop.call_soon(peer.wire.comes, SettingsFrame(settings=greeting).serialize())

    @property
    def asked(self) -> list[Asked]:
        """The requests that it has got, over all its connections."""
        return [one for peer in self.peers for one in peer.look().asked]

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    @property
    def peer(self) -> H2Peer:
        """The other end of the connection that was dialled last."""
        return self.peers[-1]

    def close_idle(self) -> None:
        self.close()
        self.loop.settle()
