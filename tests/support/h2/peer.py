"""Either end of a connection by hand: a test says which frames it sends, and looks at which ones come.

    peer = Server()                                  # or Client()
    wire = peer.begins()                             # bytes for the other side: SETTINGS (a client's after its preface)
    peer.hears(bytes_of_the_other_side)              # as they come, cut anywhere
    peer.sees("SETTINGS", "HEADERS 1 end :path=/v1/models")
    wire = peer.says(answer(1, b"{}"), ping())
    peer.sees("PING ack")
    peer.has_seen_all()                              # nothing came that no row has named

No sockets and no time: bytes in, bytes out, so that a machine without I/O is fed them, or what is at the end of a socket pair.
:class:`Talk` has the two ends speak in turns, :class:`OnLoop` is the peer at the end of a socket pair on
the test's loop, :class:`OverSocket` at the end of a connection to another process.

What it does by itself unless told not to: it acknowledges SETTINGS (``acks``) and answers PING (``pongs``). It gives no credit
but by :func:`frames.window`, and it ends no stream: what a test wants is a row. What the other side must not do is told by
``reading.ProtocolBroken``.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from tests.support.h2 import frames
from tests.support.h2.reading import Reader, Seen

WAIT_S: Final = 3.0
_TURNS: Final = 1000


class Peer:
    """``unread``: what came and was not looked at; ``seen``: all that came; ``out``: bytes that are to be sent by itself."""

    is_client = False

    def __init__(self, *, acks: bool = True, pongs: bool = True, strict: bool = True, settings: bytes | None = None) -> None:
        self.acks = acks
        self.pongs = pongs
        self.settings = frames.settings() if settings is None else settings
        self.reader = Reader(not self.is_client, strict)
        self.unread: list[Seen] = []
        self.seen: list[Seen] = []
        self.out = b""
        self.ended = ""  # how the other side has left: fin, reset

    # --- what it says
    def begins(self) -> bytes:
        """Its preface: the octets of a client, then SETTINGS (RFC 9113 section 3.4)."""
        preface = frames.PREFACE if self.is_client else b""
        return preface + self.says(self.settings)

    def says(self, *pieces: bytes) -> bytes:
        """Frames, as they go on the wire: behind what it had to say by itself."""
        said = b"".join(pieces)
        self.reader.allowed(said)
        out, self.out = self.out + said, b""
        return out

    # --- what it hears
    def hears(self, data: bytes) -> bytes:
        """Bytes of the other side, cut anywhere; gives what it answers by itself."""
        for frame in self.reader.feed(data):
            self.seen.append(frame)
            self.unread.append(frame)
            if frame.kind == "SETTINGS" and "ack" not in frame.words() and self.acks:
                self.out += frames.settings_ack()
            elif frame.kind == "PING" and "ack" not in frame.words() and self.pongs:
                self.out += frames.ping(frame.payload, ack=True)
        out, self.out = self.out, b""
        return out

    # --- what a test looks at
    def sees(self, *rows: str) -> Seen:
        """Each row is the next unread frame that fits; what comes before it stays unread. The frame of the last row."""
        at = 0
        frame = None
        for row in rows:
            while at < len(self.unread) and not self.unread[at].is_a(row):
                at += 1
            assert at < len(self.unread), f"{row!r} did not come; unread: {self.told()}"
            frame = self.unread.pop(at)
        assert frame is not None
        return frame

    def found(self, row: str) -> Seen | None:
        """The first unread frame that fits, and it is read then."""
        at = next((at for at, frame in enumerate(self.unread) if frame.is_a(row)), -1)
        return self.unread.pop(at) if at >= 0 else None

    def count(self, row: str) -> int:
        """How many of all frames that ever came fit."""
        return sum(frame.is_a(row) for frame in self.seen)

    def has_seen_all(self, *rows: str, but: str = "SETTINGS|WINDOW_UPDATE|PING") -> None:
        """These came, and nothing else but what is of no matter here."""
        if rows:
            self.sees(*rows)
        left = [str(frame) for frame in self.unread if not frame.is_a(but)]
        assert not left, left
        self.unread.clear()

    def sees_nothing(self, row: str = "") -> None:
        left = [str(frame) for frame in self.unread if frame.is_a(row)]
        assert not left, left

    def body(self, stream: int) -> bytes:
        """All DATA that came on the stream."""
        return b"".join(frame.payload for frame in self.seen if frame.kind == "DATA" and frame.stream == stream)

    def streams(self) -> list[int]:
        """Those that HEADERS came for, in their order."""
        return list(dict.fromkeys(frame.stream for frame in self.seen if frame.kind == "HEADERS"))

    def told(self) -> list[str]:
        return [str(frame) for frame in self.unread]


class Server(Peer):
    """What fastgw as a client speaks to."""


class Client(Peer):
    """What fastgw as a server speaks to."""

    is_client = True


class Talk:
    """A peer and a machine without I/O, ``feed(bytes)`` and ``take() -> bytes`` (what the machine has to send).

    ``step``: the machine is fed so many bytes at a time. ``closed``: whether it wants the connection closed.
    """

    def __init__(
        self,
        peer: Peer,
        feed: Callable[[bytes], object],
        take: Callable[[], bytes],
        step: int = 0,
        closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.peer = peer
        self._closed = closed
        self._feed = feed
        self._take = take
        self._step = step

    def begins(self) -> Talk:
        """Both prefaces, and what follows from them."""
        return self._on(self.peer.begins())

    def says(self, *pieces: bytes) -> Talk:
        return self._on(self.peer.says(*pieces))

    def settles(self) -> Talk:
        return self._on(b"")

    def sees(self, *rows: str) -> Seen:
        return self.settles().peer.sees(*rows)

    def hears_for(self, seconds: float) -> Talk:
        """No time passes here: what follows has followed."""
        return self.settles()

    def _on(self, data: bytes) -> Talk:
        for _ in range(_TURNS):
            step = self._step or len(data) or 1
            for at in range(0, len(data), step):
                self._feed(data[at : at + step])
            came = self._take()
            data = self.peer.hears(came)
            if not came and not data:
                if self._closed():
                    self.peer.ended = self.peer.ended or "fin"
                return self
        raise AssertionError("the two never come to rest")


class OverSocket:
    """The peer at the end of a connected socket, blocking and with an end to each wait; for targets that are processes.

    A connection that has ended is no error: ``peer.ended`` says how, and nothing more is sent.
    """

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begins(self, wait: bool = True) -> OverSocket:
        """Its preface; with ``wait``, the other side's SETTINGS have come and ours are acknowledged, or it has left."""
        self.sends(self.peer.begins())
        if wait:
            self.until("SETTINGS !ack")
            if self.peer.settings:
                self.until("SETTINGS ack")
        return self

    def says(self, *pieces: bytes) -> OverSocket:
        return self.sends(self.peer.says(*pieces))

    def sends(self, data: bytes) -> OverSocket:
        """Bytes as they are."""
        if data and not self.peer.ended:
            self.sock.settimeout(WAIT_S)
            try:
                self.sock.sendall(data)
            except ConnectionError:
                self._drain()
                self.peer.ended = self.peer.ended or "reset"
        return self

    def until(self, row: str, within_s: float = WAIT_S) -> Seen | None:
        """The frame that fits, as soon as it is there; None when the connection ends or the time is up before it."""
        end = time.monotonic() + within_s
        while True:
            found = self.peer.found(row)
            if found is not None or self.peer.ended or not self._receive(end):
                return found

    def hears_for(self, seconds: float) -> OverSocket:
        """Whatever comes in that time."""
        end = time.monotonic() + seconds
        while not self.peer.ended and self._receive(end):
            pass
        return self

    def until_end(self, within_s: float = WAIT_S) -> str:
        """How it ended; empty: it has not."""
        self.hears_for(within_s)
        return self.peer.ended

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> OverSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, end: float) -> bool:
        left_s = end - time.monotonic()
        if left_s <= 0:
            return False
        self.sock.settimeout(left_s)
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return False
        except ConnectionError:
            self.peer.ended = "reset"
            return True
        if not data:
            self.peer.ended = "fin"
            return True
        self.sends(self.peer.hears(data))
        return True

    def _drain(self) -> None:
        """What came before the end of the connection showed."""
        end = time.monotonic() + 0.2
        while not self.peer.ended and self._receive(end):
            pass


class OnLoop:
    """The peer at the end of a connected socket of a test on a loop, where the other end is on the same loop."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        sock.setblocking(False)

    def begins(self) -> OnLoop:
        return self.sends(self.peer.begins())

    def says(self, *pieces: bytes) -> OnLoop:
        return self.sends(self.peer.says(*pieces))

    def sends(self, data: bytes) -> OnLoop:
        if data:
            assert self.sock.send(data) == len(data)
        return self

    async def sees(self, *rows: str) -> Seen:
        """Each row's frame, as soon as it is there; see :meth:`Peer.sees`."""
        for row in rows:
            await self._until(lambda row=row: any(frame.is_a(row) for frame in self.peer.unread), row)
            frame = self.peer.sees(row)
        return frame

    async def ended(self) -> str:
        """How the other side has left, once it has."""
        await self._until(lambda: self.peer.ended, "the end")
        return self.peer.ended

    async def quiet(self, turns: int = 5) -> OnLoop:
        """What is at hand after so many turns."""
        for _ in range(turns):
            await asyncio.sleep(0.001)
            self._take()
        return self

    async def _until(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end, f"{what!r} did not come; unread: {self.peer.told()}, {self.peer.ended}"
            await asyncio.sleep(0.001)
            self._take()

    def _take(self) -> None:
        try:
            while not self.peer.ended:
                data = self.sock.recv(65536)
                if not data:
                    self.peer.ended = "fin"
                self.sends(self.peer.hears(data))
        except BlockingIOError:
            pass
        except ConnectionError:
            self.peer.ended = "reset"


def dial(port: int, peer: Client, host: str = "127.0.0.1") -> OverSocket:
    """A client's connection to that port."""
    return OverSocket(peer, socket.create_connection((host, port), timeout=WAIT_S))
