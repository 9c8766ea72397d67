"""Requests of a client's HTTP/2 connection on their way in: heads, bodies, and how the client ends them.

One read brings many requests: so many of them are opened in one turn, and the next when all others had theirs.

What a client does that costs us something and brings nothing has budgets (``protocol.h2.budget``): frames of no use, resets,
and each stream that it has us reset (CVE-2023-44487, CVE-2025-8671). Who spends one is told ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import RequestHead
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.net.client import NO_HEAD, ConnLimits, Service, Spoken
from fastgw.net.clock import monotonic
from fastgw.net.h2_client import ClientLink, H2ClientStream
from fastgw.net.h2_link import CLOSED, LEAVING
from fastgw.net.h2_tunnel import H2Tunnel
from fastgw.net.poller import Reactor
from fastgw.net.wire import Wire
from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.budget import Budget
from fastgw.protocol.h2.frames import MAX_CONCURRENT_STREAMS, H2Error
from fastgw.protocol.h2.heads import Malformed
from fastgw.protocol.h2.hpack import Endless, HpackError
from fastgw.protocol.h2.lean import SERVER_SETTINGS, Control
from fastgw.protocol.h2.requests import RequestBlocks

MOST_OPENED: Final = 16  # requests of one connection in one turn
MOST_STREAM: Final = 2**31 - 1
RESETS: Final = 200  # of requests that are under way, by their client, in a burst and a second
RESET_RATE: Final = 33.0  # (nghttp2's)
MOST_LIMBO: Final = 256  # streams that we reset, and of which the client may not know yet
LEAST_LOOK_S: Final = 0.1
MOST_LOOK_S: Final = 5.0


class H2Arrival(ClientLink):
    """A connection, as far as requests come over it."""

    __slots__ = (
        "_dirty", "_first_window", "_forwarded", "_going_on", "_gone", "_idle_until", "_last", "_left", "_limbo", "_look_s",
        "_most", "_refusals", "_resets", "_spoken", "blocks", "limits", "peer_ip", "service", "streams", "trusted",
    )  # fmt: skip

    def __init__(
        self, reactor: Reactor, wire: Wire, service: Service, limits: ConnLimits, peer_ip: str, trusted: bool,
        forwarded: bytes, spoken: Spoken, most: int,
    ) -> None:  # fmt: skip
        super().__init__(reactor, wire, Control(False, {**SERVER_SETTINGS, MAX_CONCURRENT_STREAMS: most}))
        self._most = most
        self.service = service
        self.limits = limits
        self.peer_ip = peer_ip
        self.trusted = trusted
        self._forwarded = forwarded
        self._spoken = spoken
        self.blocks = RequestBlocks(limits.head_bytes, limits.header_count)
        self.streams: dict[int, H2ClientStream] = {}
        self._last = 0  # the highest stream that was opened,
        self._left = MOST_STREAM  # and that will be
        self._first_window = h2.FIRST_WINDOW  # of a stream, towards the client
        self._dirty: list[H2ClientStream] = []  # that have something to tell
        self._gone: list[H2ClientStream] = []  # whose exchange is to be told that its client has left
        self._going_on = False  # a turn is to come
        self._idle_until = 0.0  # so long it may have no stream
        self._limbo: dict[int, int] = {}  # and what their windows have left, -1 = nothing more may come
        self._resets = Budget("resets", RESETS, RESET_RATE)
        self._refusals = 0
        self._look_s = max(LEAST_LOOK_S, min(limits.write_s, limits.body_s, limits.head_s, MOST_LOOK_S * 4) / 4)

    # --- requests
    def is_idle(self, number: int) -> bool:
        # (One above the last that will be opened was, for all that is known here.)
        return self._last < number <= self._left or not number & 1

    def on_block(self, number: int, block: bytes, last: bool) -> None:
        stream = self.streams.get(number)
        try:
            if stream is not None:
                self._take_trailers(stream, block, last)
            elif number in self._limbo:
                self.blocks.skip(block)
                if not last or not self._was_under_way(number, 0, True):
                    self.budgets.glitches.spend(monotonic())
            elif not number & 1:
                raise H2Error(h2.PROTOCOL_ERROR, "a stream that no client has")
            elif number <= self._last:
                raise H2Error(h2.STREAM_CLOSED, "HEADERS of a stream that has ended")
            else:
                self._take_head(number, block, last)
        except HpackError as error:
            raise H2Error(h2.COMPRESSION_ERROR, str(error)) from error
        except Endless as error:
            raise H2Error(h2.ENHANCE_YOUR_CALM, str(error)) from error

    def _take_head(self, number: int, block: bytes, last: bool) -> None:
        if number > self._left:
            # (It was told, and asks elsewhere: RFC 9113 §6.8.)
            self.blocks.skip(block)
            self._forget(number, -1 if last else h2.FIRST_WINDOW)
            self._resets.spend(monotonic())
            return
        self._last = number
        head: RequestHead = NO_HEAD
        fault: GatewayError | None = None
        try:
            head = self.blocks.read(block, last)
        except Malformed as error:
            self._reset(number, -1 if last else h2.FIRST_WINDOW, h2.PROTOCOL_ERROR, str(error))
            return
        except GatewayError as error:
            fault = error
        if len(self.streams) >= self._most:
            self._reset(number, -1 if last else h2.FIRST_WINDOW, h2.REFUSED_STREAM, "too many streams")
            return
        length = head.content_length
        if last and length > 0:
            self._reset(number, -1, h2.PROTOCOL_ERROR, "a length, and no body")
            return
        if head.method == b"CONNECT":
            stream = self._tunnel(number)
        else:
            stream = H2ClientStream(
                self, self.service, self.peer_ip, self.trusted, self._forwarded, number, self._first_window
            )  # fmt: skip
        stream.spoken = self._spoken
        stream.head = head
        stream.fault = fault
        stream.length = length
        stream.ended = last
        if not self.streams:
            self.reactor.wheel.arm(self, monotonic() + self._look_s)
        self.streams[number] = stream
        self.budgets.sent(1)  # (who asks may give room for the answer at once, as browsers do)
        self._touch(stream)

    def _tunnel(self, number: int) -> H2ClientStream:
        stream = H2Tunnel(self, self.service, self.peer_ip, self.trusted, self._forwarded, number, self._first_window)
        stream.set_up()
        return stream

    def _take_trailers(self, stream: H2ClientStream, block: bytes, last: bool) -> None:
        if stream.ended:
            self.blocks.skip(block)
            self._fail(stream, h2.STREAM_CLOSED, "HEADERS behind the end")
            return
        try:
            self.blocks.trailers(block)
            if not last or stream.connects:
                raise Malformed("HEADERS in the middle of a body, or in a tunnel")
        except Malformed as error:
            self._fail(stream, h2.PROTOCOL_ERROR, str(error))
            return
        except GatewayError as error:
            stream.spoiled = error
        self._end_of(stream)

    def on_data(self, number: int, size: int, taken: int, payload: bytes | None, last: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._stray_data(number, taken, last)
            return
        stream.room -= taken
        if stream.ended:
            self._fail(stream, h2.STREAM_CLOSED, "DATA behind the end")
            return
        if stream.room < 0:
            self._fail(stream, h2.FLOW_CONTROL_ERROR, "more DATA than its window")
            return
        if taken > size:
            stream.padded(taken - size)
        got = stream.got = stream.got + size
        length = stream.length
        if length >= 0 and got > length:
            self._fail(stream, h2.PROTOCOL_ERROR, "more DATA than its length")
            return
        if size and not stream.told:
            if payload is None:
                payload = self.reader.payload()
            if stream.held or stream.by is not None:
                stream.put_by(payload)
            else:
                stream.pieces.append(keep(payload) if self._going_on else payload)
        if last:
            self._end_of(stream)
        else:
            self._touch(stream)

    def _was_under_way(self, number: int, taken: int, last: bool) -> bool:
        """Whether it can have been sent before the client knew that we had reset this stream: its window had room for it, and
        it had not ended."""
        room = self._limbo.get(number, -1) - taken
        if room < 0:
            return False
        self._limbo[number] = -1 if last else room
        return True

    def _stray_data(self, number: int, taken: int, last: bool) -> None:
        """DATA of no stream that there is."""
        if self._was_under_way(number, taken, last):
            return
        self.stray(number)
        if number not in self._limbo:
            self.put(h2.rst_stream(number, h2.STREAM_CLOSED))

    def _end_of(self, stream: H2ClientStream) -> None:
        """The client's side has ended."""
        if 0 <= stream.length != stream.got:
            self._fail(stream, h2.PROTOCOL_ERROR, "less DATA than its length")
            return
        stream.ended = True
        self._touch(stream)

    def on_reset(self, number: int, code: int) -> None:
        stream = self.streams.pop(number, None)
        if stream is None:
            if self._limbo.pop(number, None) is None:
                self.stray(number)
            return
        self._drop(stream)
        self._resets.spend(monotonic())

    def on_other(self, kind: int, number: int, payload: bytes) -> None:
        ClientLink.on_other(self, kind, number, payload)
        if kind != h2.PRIORITY:
            return
        if not number:
            raise H2Error(h2.PROTOCOL_ERROR, "PRIORITY for no stream")
        # (Nobody is served by them, but they have a form: §6.3.)
        if len(payload) != 5:
            self._wrong(number, h2.FRAME_SIZE_ERROR, "PRIORITY of another size")
        elif int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == number:
            self._wrong(number, h2.PROTOCOL_ERROR, "a stream that depends on itself")

    def _wrong(self, number: int, code: int, why: str) -> None:
        stream = self.streams.get(number)
        if stream is None:
            raise H2Error(code, why)
        self._fail(stream, code, why)

    # --- the ends of streams
    def _touch(self, stream: H2ClientStream) -> None:
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)

    def _drop(self, stream: H2ClientStream) -> None:
        """It is none any more; its exchange is told when this read has been gone through."""
        stream.is_over = True
        self._gone.append(stream)
        self._free()

    def _fail(self, stream: H2ClientStream, code: int, why: str) -> None:
        """The client broke the protocol on this stream."""
        self.streams.pop(stream.number, None)
        self._drop(stream)
        self._reset(stream.number, -1 if stream.ended else stream.room, code, why)

    def _reset(self, number: int, room: int, code: int, why: str) -> None:
        """The client has us reset a stream, which costs it. ``room``: as in ``_limbo``."""
        self.put(h2.rst_stream(number, code))
        self._forget(number, room)
        try:
            self.budgets.glitches.spend(monotonic())
        except H2Error:
            raise H2Error(h2.ENHANCE_YOUR_CALM, f"too many streams that had to be reset, the last for: {why}") from None

    def _forget(self, number: int, room: int) -> None:
        limbo = self._limbo
        limbo[number] = room
        if len(limbo) > MOST_LIMBO:
            del limbo[next(iter(limbo))]

    def over(self, stream: H2ClientStream, code: int) -> None:
        if self.streams.pop(stream.number, None) is None:
            return
        stream.is_over = True
        self.reactor.wheel.disarm(stream)
        refusals = stream.refusals
        self._refusals = self._refusals + 1 if refusals > stream.refused else min(refusals, self._refusals)
        if code >= 0:
            self.put(h2.rst_stream(stream.number, code))
            self._forget(stream.number, -1 if stream.ended else stream.room)
        self._free()

    def _free(self) -> None:
        """A stream has ended."""
        if self.streams or self.state is CLOSED:
            return
        if self.state is LEAVING:
            self.flush_soon()  # (which closes)
        self.rest()

    def rest(self) -> None:
        """It has no stream, and may have none for so long."""
        until = self._idle_until = monotonic() + self.limits.idle_s
        self.reactor.wheel.arm(self, until)
        if self._half_at:
            self.halved()

    # --- telling
    def deliver(self) -> None:
        gone = self._gone
        while gone:
            stream = gone.pop()
            self._tell_gone(stream, "reset")
        if not self._going_on:
            self._tell_some()

    def _tell_some(self) -> None:
        dirty, self._dirty = self._dirty, []
        opened = 0
        for at, stream in enumerate(dirty):
            if not stream.opened and not stream.is_over:
                if opened == MOST_OPENED:
                    self._later(dirty[at:])
                    break
                opened += 1
            stream.dirty = False
            if not stream.is_over:
                self._tell(stream)

    def _later(self, rest: list[H2ClientStream]) -> None:
        """The others have their turn first."""
        for stream in rest:
            stream.pieces = [keep(piece) for piece in stream.pieces]
        self._dirty = rest + self._dirty
        self._going_on = True
        self.reactor.loop.call_soon(self._go_on)
        self.reactor.poller.hurry()

    def _go_on(self) -> None:
        self._going_on = False
        if self.state is not CLOSED:
            self._tell_some()

    def deliver_soon(self, stream: H2ClientStream) -> None:
        self._touch(stream)
        if not self._going_on:
            self._going_on = True
            self.reactor.loop.call_soon(self._go_on)
            self.reactor.poller.hurry()

    def _tell(self, stream: H2ClientStream) -> None:
        try:
            if not stream.opened:
                blocks = self.blocks
                stream.known = blocks.known if blocks.last is stream.head else None
                stream.refusals = stream.refused = self._refusals
                stream.open()
                if blocks.last is stream.head:
                    blocks.known = stream.known
            if stream.held:
                stream.wait()
            else:
                stream.tell()
        except Exception as error:
            self.service.crashed(stream, error)

    def _tell_gone(self, stream: H2ClientStream, how: str) -> None:
        sink = stream.sink
        stream.sink = None
        self.reactor.wheel.disarm(stream)
        if sink is not None:
            try:
                sink.on_gone(how)
            except Exception as error:
                self.service.crashed(stream, error)

    def crashed(self, error: BaseException) -> None:
        # (Of no stream: all of them end with the connection.)
        nobody = H2ClientStream(self, self.service, self.peer_ip, self.trusted, b"", 0, 0)
        nobody.is_over = True
        self.service.crashed(nobody, error)
