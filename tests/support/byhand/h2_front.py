"""A client of HTTP/2 by hand, without sockets: the gateway's own connection over a wire whose other end the test holds.

What it says are frames (``tests/support/h2/frames.py``), what it sees are rows (``tests/support/h2/reading.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastgw.net.client import ConnLimits
from fastgw.net.h2_connection import H2Connection
from tests.support.byhand.h2 import HandWire
from tests.support.conversation import Conversation
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client
from tests.support.h2.reading import Seen


class FrontWire(HandWire):
    """``finished``: our side has been closed in order; nothing is counted that the kernel would hold."""

    finished = False

    def pause(self) -> None:
        self.reading = False

    def hold(self) -> None:
        self.reading = False

    def shutdown(self) -> None:
        self.finished = True

    def unacknowledged(self) -> int:
        return 0


class H2HandClient:
    """See the head of this file. Once it is there, both prefaces have been said."""

    def __init__(self, talk: Conversation, ip: str, greets: bool, settings: dict[str, int], acks: bool) -> None:
        config = talk.config
        limits = ConnLimits(
            head_bytes=config.max_head_bytes, header_count=config.max_header_count, head_s=config.head_timeout_s,
            idle_s=config.keepalive_timeout_s, body_s=config.body_timeout_s, write_s=config.write_timeout_s,
        )  # fmt: skip
        self.talk = talk
        self.peer = Client(settings=f.settings(**settings), pongs=acks)
        self.wire = FrontWire(talk.reactor, lambda wire: None)
        told = b"x-forwarded-for: %b\r\n" % ip.encode()
        talk.stats.connections_open += 1
        self.connection = H2Connection(talk.reactor, self.wire, talk.core, limits, talk.stats, ip, False, told)
        talk.core.connections.add(self.connection)
        self._read = 0
        self.connection.begin(b"", 0)
        if greets:
            self.sends(self.peer.begins())

    def says(self, *frames: bytes) -> H2HandClient:
        return self.sends(self.peer.says(*frames))

    def sends(self, data: bytes) -> H2HandClient:
        """Bytes as they are, in one read; and whatever follows has happened then."""
        if data and not self.wire.closed:
            self.wire.comes(data)
        return self.hears()

    def hears(self) -> H2HandClient:
        while True:
            self.talk.loop.settle()
            came = b"".join(self.wire.writes[self._read :])
            self._read = len(self.wire.writes)
            answer = self.peer.hears(came)
            if not came and not answer:
                return self
            if answer and not self.wire.closed:
                self.wire.comes(answer)

    def passes(self, seconds: float) -> H2HandClient:
        self.talk.passes(seconds)
        return self.hears()

    def sees(self, *rows: str) -> Seen:
        return self.hears().peer.sees(*rows)

    @property
    def ended(self) -> bool:
        """Whether nothing more is said to it."""
        return self.wire.closed or self.wire.finished

    def leaves(self) -> None:
        if not self.wire.closed:
            self.wire.reading = True
            self.wire.comes("")
            self.talk.loop.settle()


@contextmanager
def h2_client(
    talk: Conversation, ip: str = "127.0.0.1", *, greets: bool = True, acks: bool = True, **settings: int
) -> Iterator[H2HandClient]:
    """One more client, with a connection of its own, which it leaves at the end. ``acks``: it answers PINGs."""
    client = H2HandClient(talk, ip, greets, settings, acks)
    try:
        yield client
    finally:
        client.leaves()
