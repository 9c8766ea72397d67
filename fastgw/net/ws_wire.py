"""A wire whose bytes travel in the binary messages of a WebSocket (RFC 6455), which carries texts beside them.

    WebSocketWire  what a connection (of HTTP/2) speaks over, as over any other wire
    WebSocketEnd   this end of the WebSocket, over a wire of its own: a plain one or one of TLS
    Talk           who is told of texts, and of the end

What a turn writes leaves in frames of :data:`FRAME_BYTES` at the most; what the kernel does not take of one waits in the inner
wire, the rest here, unframed: so a text, a pong and a close go in front of it, and never wait for more than a frame. A holder
that does not read (``pause``, ``hold``) stops the whole WebSocket from being read: its peer's TCP then.

An end without a close, or behind one, is told as a reset: nothing that stands on the wire is whole because of it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from fastgw.accel.landing import Landing
from fastgw.accel.masks import framed, unmasked
from fastgw.accel.sockets import keep
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.wire import DEAD, NOBODY, QUEUED, RECV_BYTES, SENT, Holder, Wire
from fastgw.protocol.messages import BINARY, CLOSE, DONE, FIN, NO_STATUS, PING, PONG, TEXT, MessageError, MessageReader

FRAME_BYTES: Final = 65536
"""Of a binary message's payload at the most, by us."""
KEYS_BYTES: Final = 4096
"""Of chance, for masks: drawn together, for each drawing is a call of the kernel's."""
CLOSE_S: Final = 2.0
"""For the peer to answer our close."""
MAX_PONGS_BYTES: Final = 16384
"""That wait for a peer which asks and does not read: from there on a ping is not answered (RFC 6455 §5.5.3 has the last do)."""

OPEN: Final = 0
CLOSING: Final = 1  # our close is out: the peer's is waited for
OVER: Final = 2


class Talk:
    """Who is told what a WebSocket says beside the wire's bytes. None of the calls may raise."""

    __slots__ = ()

    def on_text(self, text: bytes) -> None:
        """A text is whole."""
        raise NotImplementedError

    def on_sign(self) -> bool:
        """A ping or a pong has come; False = no more of them is listened to."""
        return True

    def on_room(self) -> None:
        """What could not be sent at once has gone out."""

    def on_over(self, code: int, why: str) -> None:
        """It has ended, once. ``code``: of the peer's close, or of ours where it broke the protocol; 1006 = there was none.
        ``why``: in the words of whoever closed."""
        raise NotImplementedError


class WebSocketEnd(Holder):
    """See the head of this file. ``client``: we have dialled, and mask. ``texts``: the bound of a text, in bytes. ``farewell``:
    with what it closes where the wire in it is given back. ``heard``: bytes have come, or gone that had to wait (whoever asks
    makes it False again): a pong stands behind all that was sent before it."""

    __slots__ = ("_client", "_keys", "_keys_at", "_reactor", "_state", "farewell", "heard", "inner", "reader", "talk", "wire")

    def __init__(self, reactor: Reactor, inner: Wire, client: bool, texts: int, talk: Talk) -> None:
        super().__init__()
        self._reactor = reactor
        self._client = client
        self._keys = b""
        self._keys_at = 0
        self._state = OPEN
        self.farewell = (DONE, "the stream in it has ended")
        self.heard = False
        self.inner = inner
        self.reader = MessageReader(not client, texts)
        self.talk: Talk | None = talk
        self.wire: WebSocketWire | None = None
        inner.holder = self

    def __repr__(self) -> str:
        return f"<WebSocketEnd {('open', 'closing', 'over')[self._state]} {self.inner!r}>"

    def begin(self, data: bytes) -> None:
        """Read: ``data`` came behind the handshake."""
        if data:
            self.came(data)
        self.inner.resume()

    def stream(self) -> WebSocketWire:
        """The wire in it, from now on."""
        self.wire = wire = WebSocketWire(self._reactor, self)
        return wire

    # --- the read side
    def on_readable(self) -> None:
        try:
            data = self.inner.recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.came(data)
        else:
            self._end(1006, "the connection has ended")

    def on_left(self) -> None:
        self._end(1006, "the connection has ended")

    def on_broken(self) -> None:
        self._end(1006, "the connection has ended")

    def came(self, data: bytes) -> None:
        """What was read."""
        self.heard = True
        reader = self.reader
        error: MessageError | None = None
        payload = b""
        try:
            payload = reader.feed(data)
        except MessageError as wrong:
            error = wrong
        if reader.events:
            self._tell()
        if payload and self._state == OPEN:
            wire = self.wire
            if wire is None:
                error = error or MessageError(1003, "bytes where only texts are spoken")
            else:
                wire.come(payload)
        if self._state == OVER:
            return
        if error is not None:
            self._say_close(error.code, str(error))
            self._end(error.code, str(error))
        elif reader.closed >= 0:
            code = reader.closed
            if self._state == OPEN:
                self._say_close(DONE if code == NO_STATUS else code, "")
            self._end(code, reader.reason.decode("utf-8", "replace"))

    def _tell(self) -> None:
        events, self.reader.events = self.reader.events, []
        for kind, payload in events:
            talk = self.talk
            if talk is None or self._state != OPEN:
                return
            if kind == TEXT:
                talk.on_text(payload)
            elif talk.on_sign() and kind == PING and self.inner.queued_bytes < MAX_PONGS_BYTES:
                self._put(PONG, payload)

    # --- the write side
    def _key(self) -> bytes:
        """A mask: nobody may foresee it (RFC 6455 §10.3)."""
        if not self._client:
            return b""
        at = self._keys_at
        if at >= len(self._keys):
            self._keys = os.urandom(KEYS_BYTES)
            at = 0
        self._keys_at = at + 4
        return unmasked(self._keys, at, at + 4, b"", 0)

    def _put(self, kind: int, payload: bytes) -> None:
        self.inner.write(framed(FIN | kind, payload, 0, len(payload), self._key()))

    def say(self, text: bytes) -> bool:
        """Send a text, in front of what of the wire's bytes is no frame yet; False = nothing is sent any more."""
        if self._state != OPEN:
            return False
        self._put(TEXT, text)
        return True

    def ping(self) -> bool:
        """As :meth:`say`: have the peer answer."""
        if self._state != OPEN:
            return False
        self._put(PING, b"")
        return True

    def waiting(self) -> int:
        """Bytes in frames that the kernel has not taken."""
        return self.inner.queued_bytes

    def push(self, data: bytes, start: int) -> int:
        """``data[start:]`` in frames, as far as the kernel takes them: how far, -1 = it is broken. What it did not take of the
        last frame waits: :meth:`waiting`."""
        inner = self.inner
        size = len(data)
        if self._state != OPEN:
            return -1
        while start < size and not inner.queued_bytes:
            stop = start + FRAME_BYTES
            if stop > size:
                stop = size
            if inner.write(framed(FIN | BINARY, data, start, stop, self._key())) == DEAD:
                return -1
            start = stop
        return start

    def on_congested(self) -> None:
        """(Who writes sees it.)"""

    def on_written(self) -> None:
        self.heard = True
        wire = self.wire
        if wire is not None:
            wire.go_on()
        talk = self.talk
        if talk is not None:
            talk.on_room()

    def on_progressed(self) -> None:
        self.heard = True
        wire = self.wire
        if wire is not None:
            wire.progressed()

    # --- the end
    def close(self, code: int, reason: str) -> None:
        """Say that we close, and wait a moment for the peer to say so too. The wire ends now."""
        if self._state != OPEN:
            return
        self._say_close(code, reason)
        self._state = CLOSING
        self.reader.forget_texts()
        self._cut_wire()
        if self._state == CLOSING:
            self._reactor.wheel.arm(self, monotonic() + CLOSE_S)
            self.inner.resume()

    def cut(self) -> None:
        """End at once."""
        self._end(1006, "cut")

    def expired(self, now: float) -> None:
        self._end(1006, "the close was not answered")

    def _say_close(self, code: int, reason: str) -> None:
        # (1004 to 1006 and 1015 stand for what was not said: RFC 6455 §7.4.1.)
        if code in (1004, NO_STATUS, 1006, 1015):
            code = DONE
        self._put(CLOSE, code.to_bytes(2, "big") + reason.encode("utf-8", "replace")[:120])

    def _cut_wire(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.lose()

    def _end(self, code: int, why: str) -> None:
        if self._state == OVER:
            return
        self._state = OVER
        self._reactor.wheel.disarm(self)
        self._cut_wire()
        self.inner.dispose()
        talk, self.talk = self.talk, None
        if talk is not None:
            talk.on_over(code, why)


class WebSocketWire(Wire):
    """See the head of this file."""

    __slots__ = ("_again", "_congested", "_end", "_gone", "_lost", "_plain", "_rest")

    def __init__(self, reactor: Reactor, end: WebSocketEnd) -> None:
        super().__init__(reactor)
        self._end: WebSocketEnd | None = end
        self._plain = b""  # came, and is not told yet
        self._rest: deque[bytes] = deque()  # to be sent, and not framed yet,
        self._gone = 0  # but for so much of the first
        self._again = self._congested = self._lost = False

    # --- the read side
    def come(self, payload: bytes) -> None:
        """The WebSocket has brought this."""
        self._plain = self._plain + payload if self._plain else payload
        if self.reading:
            holder = self.holder
            holder.on_readable()
            if self._plain:
                self._call_again()

    def lose(self) -> None:
        """It brings nothing more."""
        self._end = None
        self._lost = True
        self._rest.clear()
        self.queued_bytes = 0
        if self.closed:
            return
        holder = self.holder
        if self.reading:
            if not self._plain:
                holder.on_readable()
            else:
                self._call_again()
        elif holder is not NOBODY:
            holder.on_left()

    def recv(self, size: int) -> bytes:
        plain = self._plain
        if not plain:
            if self._lost:
                raise ConnectionResetError("the WebSocket has ended")
            raise BlockingIOError
        if len(plain) > size:
            self._plain = plain[size:]
            self._call_again()
            return plain[:size]
        self._plain = b""
        if self._lost:
            self._call_again()
        return plain

    def land(self, landing: Landing) -> int:
        plain = self.recv(landing.length - landing.got)
        landing.put(plain)
        return len(plain)

    def _call_again(self) -> None:
        if self.reading and not self._again:
            self._again = True
            self.poller.soon(self._more)

    def _more(self) -> None:
        self._again = False
        if self.reading and not self.closed and (self._plain or self._lost):
            holder = self.holder
            holder.on_readable()

    def resume(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            if self._end is not None:
                self._end.inner.resume()
            if self._plain or self._lost:
                self._call_again()

    def pause(self) -> None:
        if self.reading:
            self.reading = False
            if self._end is not None:
                self._end.inner.hold()

    def hold(self) -> None:
        self.pause()

    def watch_leaving(self, minded: bool) -> None:
        """(It always is.)"""

    def unread(self) -> bool:
        return bool(self._plain) or self._lost or (self._end is not None and self._end.inner.unread())

    def silent_since(self, turn: int) -> bool:
        return not self._plain and not self._lost and self._end is not None and self._end.inner.silent_since(turn)

    # --- the write side
    def write(self, data: bytes) -> int:
        end = self._end
        if end is None or self.closed:
            return DEAD
        if self.queued_bytes:
            self._rest.append(keep(data))
            self.queued_bytes += len(data)
            return QUEUED
        at = end.push(data, 0)
        if at < 0:
            return DEAD
        waits = end.waiting()
        if not waits:
            return SENT
        if at < len(data):
            self._rest.append(keep(data, at))
        self.queued_bytes = waits + len(data) - at
        if not self._congested:
            self._congested = True
            holder = self.holder
            holder.on_congested()
        return QUEUED

    def write_both(self, head: bytes, body: bytes, start: int) -> int:
        return self.write(head + body[start:])

    def go_on(self) -> None:
        """The kernel has taken what waited in frames."""
        end, rest = self._end, self._rest
        if not self._congested or end is None:
            return
        while rest and not end.waiting():
            data = rest[0]
            at = end.push(data, self._gone)
            if at < 0:
                return  # (the read side says so)
            self._gone = at
            if at == len(data):
                rest.popleft()
                self._gone = 0
        self._count()
        holder = self.holder
        if self.queued_bytes:
            holder.on_progressed()
        else:
            self._congested = False
            holder.on_written()

    def progressed(self) -> None:
        """The kernel has taken some of it."""
        if self._congested:
            self._count()
            holder = self.holder
            holder.on_progressed()

    def _count(self) -> None:
        end = self._end
        self.queued_bytes = sum([len(one) for one in self._rest]) - self._gone + (end.waiting() if end is not None else 0)

    def shutdown(self) -> None:
        """(A WebSocket closes both ways.)"""
        if self._end is not None:
            self._end.close(DONE, "")

    def unacknowledged(self) -> int:
        return self._end.inner.unacknowledged() if self._end is not None else 0

    # --- the end
    def dispose(self, reset: bool = False) -> None:
        """The WebSocket closes with it."""
        if self.closed:
            return
        self.closed = True
        self.reading = False
        self.holder = NOBODY
        self._plain = b""
        self._rest.clear()
        self.queued_bytes = 0
        end, self._end = self._end, None
        if end is not None:
            end.wire = None
            code, reason = end.farewell
            end.close(code, reason)
