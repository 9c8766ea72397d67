"""A request at an engine as the layers above know it, however many of them share a connection, and whom it tells what.

    UpstreamStream  one request at one engine: what the layers above may ask for
    Carrier         what a stream tells; whoever asks an engine something is one

Nothing above ``net`` knows how a message is framed, or whose socket it is: with an answer's head comes the source that reads
its body. Calls come from the loop, one at a time, and none of them may wait.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.net.timers import NEVER, Timed, TimerWheel
from fastgw.protocol.body import Source
from fastgw.protocol.start import RequestStart

FRESH: Final = 1
"""A request takes no chance with a connection that may have died: one that nothing has happened to yet, or one in use."""
UPGRADE: Final = 2
"""It is for a WebSocket: a connection to itself, or a stream of HTTP/2's where the engine takes them there."""
HTTP1: Final = 3
"""The engine speaks HTTP/2, and wants this one in HTTP/1.1: a connection to itself."""

UNPROCESSED: Final = "unprocessed"
"""How a request ends that an engine did not take: refused, above what its GOAWAY names, or never sent."""
LEFT_OVER: Final = "left over"
"""The same, where its connection ends and has taken others before it; or it was not sent, for the connection had ended."""
CROWDED_OUT: Final = "crowded out"
"""The same, where its connection goes on, and takes others: one was answered since it refused the last, or as many are under
way as it says that it takes. (Who says that there is room, and answers nobody, has failed, whomever it keeps.)"""
WANTS_HTTP1: Final = "wants HTTP/1.1"
"""The same, and it is to be asked in HTTP/1.1."""
NOT_TAKEN: Final = (UNPROCESSED, LEFT_OVER, CROWDED_OUT, WANTS_HTTP1)


class Carrier:
    """What a request at an engine tells. A subclass defines the calls that it can get."""

    __slots__ = ()

    def on_stream(self) -> None:
        """The stream that was being opened is: send the request."""
        raise NotImplementedError

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        """No connection came about; the stream is closed already."""
        raise NotImplementedError

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        """The final answer's head, what reads its body, and the bytes of the body that came with it (not read yet)."""
        raise NotImplementedError

    def on_error(self, error: GatewayError) -> None:
        """What came is no answer, or this process was too short of something to connect (``Source.GATEWAY``), or a bug showed;
        the stream is closed already."""
        raise NotImplementedError

    def on_data(self, data: bytes) -> None:
        """Bytes of the body, as they came: for the source. Of an upgraded protocol: as they are."""
        raise NotImplementedError

    def on_end(self, how: str) -> None:
        """The engine closed (``"fin"`` or ``"reset"``), or this stream alone has ended (else: why): ask the source whether that
        ends its message. Or it said, or it is certain, that it has not looked at the request and will not
        (one of :data:`NOT_TAKEN`): the same may be asked again."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """What could not be sent at once has gone out."""
        raise NotImplementedError

    def on_silent(self) -> None:
        """Nothing came from the engine until :meth:`UpstreamStream.due`."""
        raise NotImplementedError


class UpstreamStream(Timed):
    """One request at an engine. ``connected``: it can be sent now; else ``carrier.on_stream`` says when. ``waiting``: it was
    sent, and no answer's head has come. ``closed``: it is of no use any more. ``shared``: others are under way on its
    connection, which therefore was not idle; or the engine has shown since that it has the request."""

    __slots__ = ("carrier", "closed", "connected", "shared", "waiting", "wheel")

    def __init__(self, wheel: TimerWheel) -> None:
        self._set_up(wheel)

    def _set_up(self, wheel: TimerWheel) -> None:
        # (What a subclass calls: a base's constructor costs as much as all of this.)
        self.deadline = NEVER
        self.wheel_slot = 0
        self.wheel = wheel
        self.carrier: Carrier | None = None
        self.connected = False
        self.shared = False
        self.waiting = False
        self.closed = False

    def due(self, deadline: float) -> None:
        """When the next sign of life is due, ``NEVER`` = not: ``carrier.on_silent`` then."""
        raise NotImplementedError

    def send(
        self, start: RequestStart, trace: bytes, request_id: bytes, length: int, lead: bytes, body: bytes, skip: int, due: float
    ) -> None:
        """The request's head, and its body of ``length`` bytes (-1: it ends with :meth:`end`) as far as it is at hand, which is
        ``lead`` and then ``body`` from ``skip`` on. ``trace``: lines of its own, which stand before its other
        fields. An answer's head is due by ``due``."""
        raise NotImplementedError

    def write(self, data: bytes) -> int:
        """More of the body, or of an upgraded protocol. Returns ``SENT``, ``QUEUED`` or ``DEAD`` (see ``net.wire``)."""
        raise NotImplementedError

    def end(self) -> None:
        """The body has been written whole. Of an upgraded protocol: our side has ended, the engine's goes on. (Where something
        is queued still, this is said again when it is out.)"""
        raise NotImplementedError

    def queued(self) -> int:
        """Bytes that could not be sent yet."""
        raise NotImplementedError

    def begun(self) -> bool:
        """Whether any byte of an answer has come."""
        raise NotImplementedError

    def hold(self) -> None:
        """Read no more for now; nothing is due meanwhile."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again. (:meth:`due` anew.)"""
        raise NotImplementedError

    def tunnel(self) -> None:
        """The answer was a 101: from here on bytes pass as they are, both ways."""
        raise NotImplementedError

    def blames(self) -> bool:
        """Whether the engine has one failure more when this has failed: of all that a connection has taken along with it, the
        first to ask is told so, and no other."""
        return True

    def cancel(self) -> None:
        """End at once, which is also how the engine's work is cancelled; the carrier is not told."""
        raise NotImplementedError
