"""One HTTP/2 connection to an engine, and the requests on it.

CONNECTING while the dial is under way, GREETING until the engine's SETTINGS show that it speaks HTTP/2: nothing is asked
before. Then it takes as many requests at once as the engine said, until it is LEAVING: GOAWAY came, or it is given up.

What an engine does to one stream ends that stream (RFC 9113 §5.4.2); what ends the connection is told to each stream as a
reset. A reset of ours frees no place before a PING says that the engine has seen it: a client that comes and goes would have
an engine work on more than it said it takes.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.frames import header
from fastgw.net.clock import monotonic
from fastgw.net.dial import Dial, DialError
from fastgw.net.h2_link import CLOSED, CONNECTING, GREETING, LEAVING, OPEN
from fastgw.net.h2_stream import NOT_ALLOWED, H2UpstreamStream, Link, Places
from fastgw.net.poller import Reactor
from fastgw.net.upstream import CROWDED_OUT, LEFT_OVER, UNPROCESSED
from fastgw.net.wire import Address, Wire
from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.budget import Budget
from fastgw.protocol.h2.frames import DATA, END_STREAM, H2Error, headers, window_update
from fastgw.protocol.h2.heads import Malformed, bad_answer, response_head, trailer_lines
from fastgw.protocol.h2.hpack import NO_TABLE, HpackError, TooLong
from fastgw.protocol.h2.lean import CLIENT_SETTINGS, Control
from fastgw.stats import Stats

PING_S: Final = 10.0  # without a byte from the engine: it is asked whether it is there; and so long it has to answer
MAX_INTERIM: Final = 16  # 1xx answers before the real one
MOST_STREAM: Final = 1 << 30  # the number from which on a connection is replaced: there are twice as many
RESETS: Final = 400  # of ours in a burst, and a second: engines count them too (nghttp2: 1,000 and 33; Envoy: 500)
RESET_RATE: Final = 30.0


class H2Home(Places):
    """Whose connections these are; the layer above is one."""

    __slots__ = ()

    def opened(self, conn: H2UpstreamConn) -> None:
        """It takes requests from now on."""
        raise NotImplementedError

    def dial_failed(self, conn: H2UpstreamConn, error: DialError) -> None:
        """It did not come about."""
        raise NotImplementedError

    def no_h2(self, conn: H2UpstreamConn, detail: str) -> None:
        """Who answered does not speak HTTP/2; the connection is gone."""
        raise NotImplementedError

    def freed(self, conn: H2UpstreamConn) -> None:
        """It may have room again; or has no stream any more."""
        raise NotImplementedError

    def leaving(self, conn: H2UpstreamConn, why: str, broken: bool) -> None:
        """It takes no more requests. ``broken``: the engine broke the protocol, and it ends at once."""
        raise NotImplementedError

    def gone(self, conn: H2UpstreamConn) -> None:
        """It has closed, whatever it was doing."""
        raise NotImplementedError

    def unneeded(self, conn: H2UpstreamConn) -> bool:
        """No request has been on it for :data:`PING_S`: whether it closes."""
        raise NotImplementedError


class H2UpstreamConn(Link):
    """A connection to one engine; see the head of this file."""

    __slots__ = (
        "_dirty", "_first", "_freed", "_idle", "_limbo", "_next", "_resets", "_stuck", "home", "limit", "making", "reserved",
        "stats", "streams", "useful",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, wire: Wire, home: H2Home, own: tuple[bytes, bytes], stats: Stats) -> None:
        super().__init__(reactor, wire, Control(True, CLIENT_SETTINGS), own)
        self.home = home
        self.stats = stats
        self.streams: dict[int, H2UpstreamStream] = {}
        self.reserved = 0  # placed, and not sent yet
        self.limit = 0  # streams of ours at once, as the engine said
        self.making: Dial | None = None  # which it is the end of
        self._resets = Budget("resets", RESETS, RESET_RATE)
        self._next = 1
        self._first = True  # no block has gone out
        self._dirty: list[H2UpstreamStream] = []  # that have something to tell
        self._stuck: dict[H2UpstreamStream, None] = {}  # that have something to send, the longest first
        self._freed = False
        self._limbo: dict[int, int] = {}  # what we reset, and the PING that tells when the engine must know
        self._idle = False  # it had no stream at the last look
        self.useful = False  # an answer came on it, and nothing was refused since
        stats.upstream_open += 1
        stats.dials_total += 1

    def __repr__(self) -> str:
        return f"<H2UpstreamConn {self.state.name} streams={len(self.streams)} of {self.limit} limbo={len(self._limbo)}>"

    # --- dialling
    @classmethod
    def dial(cls, reactor: Reactor, wire: Wire, addresses: tuple[Address, ...], home: H2Home, own: tuple[bytes, bytes],
             stats: Stats, timeout_s: float) -> H2UpstreamConn:  # fmt: skip
        """Start to connect; ``home`` is told from the loop, never from here. All addresses, and the engine's greeting, have one
        time limit. Raises OSError when no socket can be made."""
        dial = Dial(reactor, wire, addresses, timeout_s)
        conn = cls(reactor, wire, home, own, stats)
        conn.making = dial
        dial.begin(conn)
        return conn

    def on_dialled(self, code: int) -> None:
        dial = self.making
        if dial is None or self.state is not CONNECTING:
            return
        if code:
            if (error := dial.failed(self, code)) is not None:
                self._give_up(error)
            return
        self.making = None
        if not self.wire.for_h2():
            self._not_h2("not agreed on by ALPN")
        else:
            self.connected()

    def _give_up(self, error: DialError) -> None:
        """It did not come about. (An engine that closes before its SETTINGS may be one that ends, or begins; one that is silent
        is busy: neither says what it speaks.)"""
        self.close()
        self.home.dial_failed(self, error)

    # --- places
    def spare(self) -> int:
        """How many more requests it takes now."""
        return self.limit - len(self.streams) - len(self._limbo) - self.reserved if self.state is OPEN else 0

    def busy(self) -> bool:
        """Whether requests are under way on it, or about to be."""
        return bool(self.streams) or self.reserved > 0

    def doubted(self) -> bool:
        """Whether the engine was not heard of for long, or has still to show that it is there."""
        return self._idle or self._pinged

    def place(self, stream: H2UpstreamStream) -> None:
        """Give it one of the places that are spare."""
        stream.shared = self.busy()
        stream.link = self
        stream.connected = True
        stream.window = self.control.window()
        self.reserved += 1

    def begin(self, stream: H2UpstreamStream, block: bytes, last: bool) -> None:
        self.reserved -= 1
        if self.state is not OPEN:  # it closed, or said GOAWAY, between the place and the request
            stream.link = None
            stream.fate = LEFT_OVER
            stream.deliver_soon()
            self._free()
            return
        if not self.streams:
            self._heard = False  # (what was, says nothing of an engine that was stopped since)
        number = stream.number = self._next
        self._next += 2
        self.streams[number] = stream
        stream.pings = self._pings
        self.budgets.sent(1)
        if self._first:
            self._first = False
            block = NO_TABLE + block
        self.put(headers(number, block, last))
        if self._idle:  # for so long that the engine may be gone: a PING with the request tells sooner than its answer
            self._idle = False
            self.doubt()
            self.reactor.wheel.arm(self, monotonic() + PING_S)
        if number >= MOST_STREAM:
            self.retire("its numbers are used up")

    def leave(self, stream: H2UpstreamStream, code: int) -> None:
        if self.state is CLOSED:
            return
        number = stream.number
        self._stuck.pop(stream, None)
        if not number:
            self.reserved -= 1
        elif self.streams.pop(number, None) is None:
            return
        elif not (stream.ended and stream.sent_whole):
            self._reset(number, h2.CANCEL if code < 0 else code)
        self._free()

    def _reset(self, number: int, code: int) -> None:
        """The place is not free before the engine has seen it: a PING behind it will say."""
        self.put(h2.rst_stream(number, code))
        self._limbo[number] = self._pings + 1
        if not self._resets.has(monotonic()) and self.state is OPEN:
            self.retire("too many requests were given up on it")

    def _free(self) -> None:
        """There may be room; whoever waits is looked at when this turn ends."""
        self._freed = True
        self.flush_soon()

    # --- the write side
    def flushing(self) -> None:
        if self._limbo and not self.unacked():
            self.ping()

    def flushed(self) -> None:
        if not self._freed:
            return
        self._freed = False
        if self.state is LEAVING and not self.busy():
            self.close(h2.NO_ERROR)
        else:
            self.home.freed(self)

    def data(self, stream: H2UpstreamStream, payload: bytes, last: bool) -> None:
        size = len(payload)
        stream.window -= size
        self.window -= size
        self.budgets.sent(1)
        self.put(header(size, DATA, END_STREAM if last else 0, stream.number))
        if size:
            self.put(payload)
        if last and stream.ended:
            self._done(stream)

    def stuck(self, stream: H2UpstreamStream) -> None:
        self._stuck[stream] = None

    def on_room(self) -> None:
        stuck = self._stuck  # the longest first; who has had some of the room has the last place then
        for stream in list(stuck):
            left = self.window
            if left <= 0 or not self.writable:
                return
            if stream.pump():
                stuck.pop(stream, None)
            elif self.window < left and stream in stuck:
                stuck[stream] = stuck.pop(stream)

    def credit(self, stream: H2UpstreamStream, more: int) -> None:
        if self.state is not CLOSED:
            self.put(window_update(stream.number, more))

    # --- the read side
    def deliver(self) -> None:
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            stream.dirty = False
            stream.deliver()

    def crashed(self, error: BaseException) -> None:
        self.home.crashed(error)

    def is_idle(self, number: int) -> bool:
        return number >= self._next or not number & 1

    def _touch(self, stream: H2UpstreamStream) -> None:
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)

    def on_data(self, number: int, size: int, taken: int, payload: bytes | None, last: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if number not in self._limbo:
                self.stray(number)
            return
        stream.room -= taken
        if stream.room < 0:
            self._fail(stream, h2.FLOW_CONTROL_ERROR, "more DATA than its window")
            return
        if stream.head is None or stream.ended:
            self._fail(stream, h2.PROTOCOL_ERROR, "DATA where there can be none")
            return
        if size:
            if payload is None:
                payload = self.reader.payload()
            stream.came(payload)
        if taken > size:
            stream.padded(taken - size)
        if last:
            self._end_of(stream)
        self._touch(stream)

    def on_block(self, number: int, block: bytes, last: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if number not in self._limbo:
                self.stray(number)  # (without a table there is nothing to be learned from it)
            return
        try:
            if stream.head is not None:
                if not last or stream.ended or (stream.method == b"CONNECT" and stream.head.status < 300):
                    raise Malformed("fields in the middle of a body, or in a tunnel")
                stream.trailers = trailer_lines(block)
            else:
                head = response_head(block)
                if head.status >= 200:
                    stream.head = head
                    self.useful = True
                    self.home.unwanted = 0
                elif last:
                    raise Malformed("an interim answer is the last")
                else:
                    stream.interim += 1
                    if stream.interim > MAX_INTERIM:
                        raise Malformed("too many interim responses")
                    return
        except HpackError as error:
            raise H2Error(h2.COMPRESSION_ERROR, str(error)) from error
        except (TooLong, Malformed) as error:  # (of one too long the rest is not read: without a table nobody misses it)
            self._fail(stream, h2.PROTOCOL_ERROR, str(error))
            return
        if last:
            self._end_of(stream)
        self._touch(stream)

    # --- the ends of streams
    def _end_of(self, stream: H2UpstreamStream) -> None:
        """The engine's side has ended."""
        stream.ended = True
        if stream.carrier is None:
            self.reactor.wheel.disarm(stream)  # it was waited for, and nothing else of it
        if stream.sent_whole:
            self._done(stream)

    def _done(self, stream: H2UpstreamStream) -> None:
        """Both sides have."""
        self.streams.pop(stream.number, None)
        self._free()

    def _fail(self, stream: H2UpstreamStream, code: int, why: str) -> None:
        """The engine broke the protocol on this stream."""
        self.streams.pop(stream.number, None)
        self._stuck.pop(stream, None)
        self._reset(stream.number, code)
        self._free()
        if stream.head is None or stream.carrier is None:
            stream.error = bad_answer(why)
        else:
            stream.fate = why
        self._touch(stream)

    def on_reset(self, number: int, code: int) -> None:
        stream = self.streams.pop(number, None)
        if stream is None:
            if self._limbo.pop(number, 0):
                self._free()
            else:
                self.stray(number)
            return
        self._stuck.pop(stream, None)
        self._free()
        if stream.carrier is None or stream.ended:  # it wants no more of the request: the answer is whole (RFC 9113 §8.1)
            stream.sent_whole = True
            return
        why = f"the stream was reset: {h2.name_of(code)}"
        if stream.head is not None:
            stream.fate = why
        elif code == h2.REFUSED_STREAM and not stream.interim:
            stream.fate = CROWDED_OUT if self.useful or len(self.streams) >= max(1, self.limit) else UNPROCESSED
            self.useful = False
        elif code == h2.HTTP_1_1_REQUIRED and not stream.interim:
            stream.wants_h1(why)
        elif code == h2.CONNECT_ERROR and not stream.interim:
            stream.fate = "reset"  # (who stands before the engine lost it, as we would have)
        else:
            stream.error = bad_answer(why)
        self._touch(stream)

    def on_goaway(self, last: int, code: int) -> None:
        why = f"GOAWAY: {h2.name_of(code)}"
        barred = code == h2.HTTP_1_1_REQUIRED and not self.home.wants_h1(why, 0)
        self.retire(why)
        for number in [number for number in self.streams if number > last]:  # not looked at, and never will be (RFC 9113 §6.8)
            stream = self.streams.pop(number)
            self._stuck.pop(stream, None)
            stream.fate = "reset" if stream.begun() else (LEFT_OVER if last else UNPROCESSED)
            stream.error = bad_answer(why + NOT_ALLOWED) if barred and not stream.begun() else None
            self._touch(stream)
        for stream in self.streams.values():
            stream.shared = True  # the engine has it
        self._free()

    # --- the connection's own
    def on_settings(self, more: int) -> None:
        self.limit = self.control.most_streams()
        self.connects = self.control.takes_connect()
        if more:
            for stream in self.streams.values():
                stream.window += more
                if stream.window > h2.MOST_WINDOW:
                    raise H2Error(h2.FLOW_CONTROL_ERROR, "a window that is too large")
            self.on_room()
        if self.state is GREETING:  # (they came first, as they must: RFC 9113 §3.4)
            self.state = OPEN
            self.reactor.wheel.arm(self, monotonic() + PING_S)
            self.home.opened(self)
        else:
            self._free()

    def on_acked(self, ping: int) -> None:
        if self._limbo:
            self._limbo = {stream: at for stream, at in self._limbo.items() if at > ping}
            self._free()

    def on_window(self, number: int, more: int) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += more
        stream.shared = True  # the engine has it
        if not more or stream.window > h2.MOST_WINDOW:
            self._fail(stream, h2.FLOW_CONTROL_ERROR if more else h2.PROTOCOL_ERROR, "a window of no or of too many bytes")
        elif stream in self._stuck and stream.pump():
            self._stuck.pop(stream, None)

    # --- time, and the end
    def expired(self, now: float) -> None:
        if self.state is CONNECTING:
            self._give_up(DialError("connect timeout", timed_out=True))
        elif self.state is GREETING:
            self._give_up(DialError("no SETTINGS in time", timed_out=True))
        elif self._idle and not self.busy() and self.home.unneeded(self):
            self.close(h2.NO_ERROR)
        elif not self.alive() or self.half_for(now) >= PING_S:
            self.ended("reset")
        else:
            if self.unanswered_for(now) >= 2 * PING_S:
                self.retire("it does not answer a PING")  # which alone gives back the places of what was reset
            self._idle = not self.busy()
            self.reactor.wheel.arm(self, now + PING_S)

    def retire(self, why: str) -> None:
        """Take no more requests; what is under way goes on."""
        if self.state is OPEN:
            self.state = LEAVING
            self.home.leaving(self, why, False)
            self._free()

    def _not_h2(self, why: str) -> None:
        self.close()
        self.home.no_h2(self, why)

    def broken(self, error: H2Error) -> None:
        """It cannot be read on."""
        if self.state is GREETING:
            self._not_h2(str(error))
        elif self.state is not CLOSED:
            why = f"{h2.name_of(error.code)}: {error}"
            self.home.leaving(self, why, True)
            self.close(error.code)
            self._tell_all(why)

    def ended(self, how: str) -> None:
        if self.state is CONNECTING:
            self._give_up(DialError("connection reset"))
        elif self.state is GREETING and self.reader.halfway():
            self._not_h2("closed before its SETTINGS")
        elif self.state is GREETING:
            self._give_up(DialError("closed before its SETTINGS"))
        else:
            self.close()
            self._tell_all(how)

    def lost(self) -> None:
        """End as if the engine had reset the connection: whoever has a stream on it is told so."""
        if self.state is CONNECTING or self.state is GREETING:
            self._give_up(DialError("connection reset"))
        elif self.state is not CLOSED:
            self.ended("reset")

    def _tell_all(self, how: str) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            if not stream.fate and stream.error is None:
                stream.fate = how
            stream.shared = stream.shared or stream.pings < self._acked  # the engine had it
            stream.deliver()

    def close(self, code: int = -1) -> None:
        """Close at once, with a GOAWAY where there is a ``code`` for it; streams are not told."""
        if self.state is CLOSED:
            return
        greeted = self.state is not CONNECTING
        self.state = CLOSED
        if code >= 0 and greeted:
            self.last_words(0, code)
        for kept in (self._out, self._stuck, self._limbo):
            kept.clear()
        self.wire.dispose()
        self.reactor.wheel.disarm(self)
        self.stats.upstream_open -= 1
        self.home.gone(self)
