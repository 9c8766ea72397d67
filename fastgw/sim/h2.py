"""One HTTP/2 connection with prior knowledge: the stock ``h2`` machine, which is strict, and the streams on it.

Owns: the transport, the machine, the streams, what is sent when. Must never: decide what to answer (routes do) or how to
break an answer (the player does). Invariant: a request that was begun ends in exactly one outcome, and its job is over when its
stream is.

Of the stock machine two things are not wanted: it makes a connection error of one stream too many, where servers refuse the
stream (RFC 9113 section 5.1.2), and it stops altogether on a client's GOAWAY, which leaves open streams be (section 6.8).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Final, cast

from h2 import events
from h2.config import H2Configuration
from h2.connection import ConnectionState
from h2.connection import H2Connection as StockMachine
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from fastgw.sim.faults import Faults
from fastgw.sim.h2_seen import ConnectionSeen, Face, H2Owner
from fastgw.sim.h2_stream import H2Stream
from fastgw.sim.scripted import reset_transport

_CONFIG: Final = H2Configuration(
    client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)  # what it sends is the fault's business
_LAST: Final = (1 << 31) - 1


class _Machine(StockMachine):
    @property
    def open_inbound_streams(self) -> int:
        """Never too many for it: the connection counts them, and refuses streams."""
        super().open_inbound_streams  # noqa: B018 - it forgets closed streams meanwhile
        return 0


class H2Connection(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, simulator: H2Owner, face: Face) -> None:
        self.simulator = simulator
        self._loop = asyncio.get_running_loop()
        self._face = face
        self._streams: dict[int, H2Stream] = {}
        self._blocked = False
        self._flushing: asyncio.Handle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since_s = time.monotonic()
        self._waiting: list[asyncio.Future[None]] = []
        self._last = _LAST  # streams above it are not processed: a GOAWAY has said so
        self._closing = False
        self._highest = 0
        self._credit_from_s = 0.0
        self._resets: dict[int, str] = {}
        self._owed: list[tuple[int, int]] = []
        self._most_streams = _LAST
        self._settings_told: list[int] = []
        self.machine: StockMachine = _Machine(_CONFIG)
        self.seen: ConnectionSeen
        self.transport: asyncio.Transport
        self.number = 0
        self.on_connection = 0

    # --- called by the loop
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self.simulator.opened(self)
        self.seen = self.simulator.seen.connection(self.number)
        values, increment = self._face.settings()
        self._first_settings(values)
        if increment:
            self.machine.increment_flow_control_window(increment)
        self.flush()
        if self.simulator.config.keep_alive_s:
            self._idle = self._loop.call_later(self.simulator.config.keep_alive_s, self._check_idle)

    def _first_settings(self, values: dict[int, int]) -> None:
        """Exactly these, in their order: what the stock machine says beside them is left out."""
        known: dict[SettingCodes, int] = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 24}
        known |= {SettingCodes(key): value for key, value in values.items()}
        self.machine.local_settings = Settings(client=False, initial_values=known)
        self.machine.max_inbound_frame_size = values.get(SettingCodes.MAX_FRAME_SIZE, 16_384)
        self.machine.initiate_connection()
        self.machine.clear_outbound_data_buffer()
        payload = b"".join(int(key).to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
        self.transport.write(len(payload).to_bytes(3, "big") + b"\x04\0\0\0\0\0" + payload)
        self._settings_told.append(values.get(SettingCodes.MAX_CONCURRENT_STREAMS, _LAST))

    def connection_lost(self, exc: Exception | None) -> None:
        for handle in (self._idle, self._flushing):
            if handle is not None:
                handle.cancel()
        if self.seen.ended == "open":
            self.seen.ended = "closed" if self._closing else "reset" if exc is not None else "fin"
        for stream in list(self._streams.values()):
            stream.left()
        self._drained()
        self.simulator.closed(self)

    def eof_received(self) -> bool:
        """A half-close counts as leaving."""
        return False

    def data_received(self, data: bytes) -> None:
        if self._closing and self._last == 0:
            return
        try:
            told = self.machine.receive_data(data)
        except ProtocolError as error:
            self._wrong(error)
            return
        # The machine knows of all of it already: on a stream that is reset further on nothing can be said any more.
        self._resets = {event.stream_id: _name(event.error_code) for event in told if isinstance(event, events.StreamReset)}
        for number, code in self._resets.items():
            if stream := self._streams.get(number):
                stream.was_reset(code)
        for event in told:
            self._hear(event)
        self.flush_soon()

    def pause_writing(self) -> None:
        self._blocked = True
        for stream in self._streams.values():
            stream.pump()

    def resume_writing(self) -> None:
        self._blocked = False
        self._drained()
        self._pump_all()

    # --- what the client says
    def _hear(self, event: events.Event) -> None:
        seen = self.seen
        match event:
            case events.RequestReceived():
                self._begin(event)
            case events.DataReceived():
                self._take(event)
            case events.TrailersReceived(stream_id=number, headers=fields):
                if stream := self._streams.get(number or 0):
                    stream.request.trailers = tuple((bytes(name), bytes(value)) for name, value in fields or ())
            case events.StreamEnded(stream_id=number):
                if stream := self._streams.get(number or 0):
                    stream.dispatch()
            case events.StreamReset(stream_id=number, error_code=code):
                self.simulator.seen.was_reset(seen, number or 0, _name(code))
            case events.WindowUpdated():
                seen.window_updates += 1
                self._pump_all()
            case events.RemoteSettingsChanged(changed_settings=changed):
                seen.settings_frames += 1
                seen.settings |= {_setting(key): value.new_value for key, value in changed.items()}
                self._pump_all()
            case events.SettingsAcknowledged():
                if self._settings_told:
                    self._most_streams = self._settings_told.pop(0)
            case events.PingReceived():
                seen.pings += 1
            case events.PingAckReceived():
                seen.ping_acks += 1
            case events.ConnectionTerminated(error_code=code, last_stream_id=last):
                seen.goaway = f"{_name(code)} {last}"
                self.machine.state_machine.state = ConnectionState.SERVER_OPEN  # open streams go on
                self._close_when_done()
            case _:
                pass

    def _begin(self, event: events.RequestReceived) -> None:
        number = event.stream_id or 0
        if number > self._last:
            self.seen.unprocessed.append(number)  # RFC 9113 section 6.8: ignored, and safe to be sent again
            return
        if len(self._streams) >= self._most_streams:
            self.seen.refused.append(number)
            self.simulator.seen.refused += 1
            self.machine.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        self._highest = number
        self.on_connection += 1
        stream = H2Stream(self, number, [(bytes(name), bytes(value)) for name, value in event.headers or ()])
        self._streams[number] = stream
        self.simulator.seen.opened(self.seen, number, len(self._streams))
        if number in self._resets:
            stream.was_reset(self._resets[number])
            return
        stream.begin()
        if 0 < self.simulator.config.max_requests <= self.on_connection and self._last == _LAST:
            self.goaway("graceful", number)

    def _take(self, event: events.DataReceived) -> None:
        number, owed = event.stream_id or 0, event.flow_controlled_length or 0
        stream = self._streams.get(number)
        self._owed.append((number, owed))
        if stream is not None:
            stream.take(event.data or b"")
        self._credit()

    def _credit(self) -> None:
        """Give back what was taken, where it is not withheld: of all, or of a stream that does not read."""
        if self._credit_from_s > time.monotonic():
            return
        kept = []
        for number, owed in self._owed:
            stream = self._streams.get(number)
            if stream is not None and stream.reads_nothing:
                kept.append((number, owed))
            elif owed:
                with contextlib.suppress(StreamClosedError, KeyError):  # the connection's share is given back before that
                    self.machine.acknowledge_received_data(owed, number)
        self._owed = kept

    def no_credit(self, seconds: float) -> None:
        """For so long no WINDOW_UPDATE is sent."""
        self._credit_from_s = time.monotonic() + seconds
        self._loop.call_later(seconds, self._credit_again)

    def _credit_again(self) -> None:
        self._credit_from_s = 0.0  # a timer may be a little early
        self.give_credit()

    def give_credit(self) -> None:
        """For what is read again."""
        if not self.transport.is_closing():
            self._credit()
            self.flush_soon()

    def _wrong(self, error: ProtocolError) -> None:
        """The client has broken the protocol: the stock machine's GOAWAY, and the end."""
        self.seen.error = f"{type(error).__name__}: {error}"
        self.seen.ended = "error"
        self.simulator.malformed(self.seen.error)
        self.flush()
        for stream in list(self._streams.values()):
            stream.left("faulted")
        self.close()

    # --- what streams and players ask for
    @property
    def blocked(self) -> bool:
        return self._blocked or self.transport.is_closing()

    def flush_soon(self) -> None:
        """What this turn of the loop has to say leaves with one write."""
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        data = self.machine.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def raw(self, data: bytes) -> None:
        """Bytes that the machine knows nothing of, behind all that it has said."""
        self.flush()
        if not self.transport.is_closing():
            self.transport.write(data)

    async def flushed(self) -> None:
        """Returns when the kernel has everything; only with write limits of zero, as the player sets."""
        self.flush()
        while self._blocked and not self.transport.is_closing():
            self._waiting.append(self._loop.create_future())
            await self._waiting[-1]

    def ended(self, stream: H2Stream) -> None:
        """A stream is over."""
        if self._streams.pop(stream.number, None) is not None:
            self.simulator.seen.streams_open -= 1
        if self.transport.is_closing():
            return
        self._credit()
        self.flush_soon()
        self._idle_since_s = time.monotonic()
        if self._closing:
            self._close_when_done()

    def settings(self, code: SettingCodes, value: int) -> None:
        """One more SETTINGS frame; it holds when the client has acknowledged it."""
        self.machine.update_settings({code: value})
        most = value if code is SettingCodes.MAX_CONCURRENT_STREAMS else None
        self._settings_told.append(self._most_streams if most is None else most)
        self.flush()

    def goaway(self, kind: str, number: int, code: int = 0) -> None:
        """Say GOAWAY: the streams up to the last that it names are finished, then the connection closes.

        ``graceful``: the last is this one. ``double``: first 2^31-1, a while later the last that came until then, for what
        was under way. ``zero``, ``below``: neither this one nor any, or those before it, were processed.
        """
        if kind == "double":
            self.raw(goaway_frame(_LAST, 0))
            self._loop.call_later(0.02, self._second_goaway, code)
            return
        self._last = {"graceful": self._highest, "zero": 0, "below": max(0, number - 2)}[kind]
        self.raw(goaway_frame(self._last, code))
        for stream in [one for at, one in self._streams.items() if at > self._last]:
            self.seen.unprocessed.append(stream.number)
            stream.left("faulted")
        self._close_when_done()

    def _second_goaway(self, code: int) -> None:
        if not self.transport.is_closing():
            self.goaway("graceful", self._highest, code)

    def close(self) -> None:
        """Without a word, when what is written is out."""
        self._closing = True
        self.transport.close()

    def reset(self) -> None:
        reset_transport(self.transport)

    def by_fault(self) -> None:
        """A fault ends the connection: that is not the client's doing."""
        self.seen.ended = "fault"

    def faults(self, stream: H2Stream) -> Faults | None:
        """Which faults the stream's request is to have. FaultError when they are not understood."""
        head = stream.request.head
        return self.simulator.chooser.choose(head.fields.get(b"x-sim-fault"), head.method, head.path, self.on_connection)

    # --- the end
    def _close_when_done(self) -> None:
        self._closing = True
        if not self._streams:
            self.flush()
            self.transport.close()

    def _pump_all(self) -> None:
        for stream in list(self._streams.values()):
            stream.pump()
        self.flush_soon()

    def _drained(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _check_idle(self) -> None:
        limit_s = self.simulator.config.keep_alive_s
        left_s = limit_s if self._streams else self._idle_since_s + limit_s - time.monotonic()
        if left_s <= 0.0005:
            self.seen.ended = "idle"
            self.raw(goaway_frame(self._highest, 0))
            self.close()
            return
        self._idle = self._loop.call_later(left_s, self._check_idle)


def goaway_frame(last: int, code: int) -> bytes:
    """RFC 9113 section 6.8."""
    return b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + code.to_bytes(4, "big")


def _name(code: int | None) -> str:
    try:
        return ErrorCodes(code or 0).name
    except ValueError:
        return str(code)


def _setting(key: int) -> str:
    try:
        return SettingCodes(key).name
    except ValueError:
        return str(int(key))
