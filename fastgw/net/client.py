"""A client's request as the layers above know it, however many of them share a connection, and whom it tells what.

    Connection    what a client is connected by: it can be idle, and closed; it has one stream (HTTP/1) or many
    ClientStream  one request on it and its answer: what the layers above may ask for
    Sink          what a stream tells; an exchange is one
    Service       what opens an exchange for each request

Nothing above ``net`` knows how a message is framed, or whose socket it is. Calls come from the loop, one at a time, and none of
them may wait. A stream object may serve one request after the other: what it is between two of them is its connection's.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.accel.heads import Kept, RequestHead, ResponseHead
from fastgw.accel.landing import Landing
from fastgw.errors import GatewayError
from fastgw.net.timers import NEVER, Timed, TimerWheel
from fastgw.net.wire import DEAD, Holder, Wire

UNTOLD: Final = -1
"""As the length of an answer's body: it ends where it ends."""

NO_BODY: Final = -2
"""As the length of an answer's body: there is none, and nothing is said of one."""


MAX_REFUSALS: Final = 10
"""On one connection, without an answer of an engine between them; then it is closed."""


class Sink:
    """What a client's request tells. A subclass defines the calls that it can get."""

    __slots__ = ()

    def on_body(self, data: bytes, last: bool) -> None:
        """Bytes of the request body, without its framing; ``last`` comes exactly once."""
        raise NotImplementedError

    def landing(self, length: int) -> Landing | None:
        """Where a body of ``length`` bytes is to be received as it is; None = nowhere. :meth:`on_body` is told without bytes
        then: they have come there."""
        return None

    def hold(self, size: int) -> None:
        """``size`` more bytes of the body have come than are taken, and wait in the client's stream. Raises GatewayError where
        there is no room for them: :meth:`on_error` follows."""

    def let_go(self, size: int) -> None:
        """So many of those do not wait there any more."""

    def on_gone(self, how: str) -> None:
        """The client left (``"fin"`` or ``"reset"``). Nothing can be written any more."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """What could not be sent at once has gone out."""
        raise NotImplementedError

    def on_stalled(self) -> None:
        """The client does not read; its stream is closed already."""
        raise NotImplementedError

    def on_error(self, error: GatewayError) -> None:
        """The request's body cannot be read on."""
        raise NotImplementedError

    def on_total_timeout(self) -> None:
        """The limit for the whole exchange (:meth:`ClientStream.due`) has passed."""
        raise NotImplementedError

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes of an upgraded protocol."""
        raise NotImplementedError

    def on_tunnel_end(self) -> None:
        """The client has said its last of the upgraded protocol, and still listens. (HTTP/2's can.)"""
        raise NotImplementedError


class Spoken:
    """What a client's connection speaks: ``protocol`` "h1" or "h2", ``tls`` its version, "" = it is not encrypted.
    ``certificate``: the SHA-256 of the one that the client has shown and that was verified, b"" = none."""

    __slots__ = ("certificate", "protocol", "tls")

    def __init__(self, protocol: str, tls: str = "", certificate: bytes = b"") -> None:
        self.protocol = protocol
        self.tls = tls
        self.certificate = certificate


H1: Final = Spoken("h1")
H2: Final = Spoken("h2")


def told_of(peer_ip: str, trusted: bool, secured: bool) -> bytes:
    """What engines are told of a peer whose own word about others is not taken: constant for its connection. (A Unix socket has
    no address to tell.)"""
    if trusted:
        return b""
    address = b"x-forwarded-for: %b\r\n" % peer_ip.encode() if peer_ip != "unix" else b""
    return address + (b"x-forwarded-proto: https\r\n" if secured else b"x-forwarded-proto: http\r\n")


class ClientStream(Timed):
    """One request of a client's, and the answer to it.

    ``sink`` is whoever answers it, None = nobody any more. ``frames`` says how the answer's body is framed since :meth:`begin`
    (``protocol.body.PLAIN`` or ``CHUNKS``), and ``bounded`` whether its length has been told, so that nothing can be put behind
    it. ``sent`` counts the bytes of this answer, heads and frames included: where there are any, its head has gone down.
    ``known`` is the service's own: what it made of the connection's last head; ``refusals`` too: how many requests of the
    connection have been refused in a row. ``spoken`` is its connection's. ``connects``: the request is a CONNECT, so that a 2xx
    says that bytes pass from there on (RFC 9110 §9.3.6): nothing but :meth:`upgrade` may give it one.
    """

    __slots__ = (
        "bounded",
        "connects",
        "forwarded",
        "frames",
        "head",
        "known",
        "peer_ip",
        "received_at",
        "refusals",
        "sent",
        "service",
        "sink",
        "spoken",
        "trusted",
        "wheel",
    )

    def __init__(self, wheel: TimerWheel, service: Service, peer_ip: str, trusted: bool, forwarded: bytes) -> None:
        self._set_up(wheel, service, peer_ip, trusted, forwarded)

    def _set_up(self, wheel: TimerWheel, service: Service, peer_ip: str, trusted: bool, forwarded: bytes) -> None:
        # (What a subclass calls: a base's constructor costs as much as all of this.)
        self.deadline = NEVER
        self.wheel_slot = 0
        self.wheel = wheel
        self.service = service
        self.peer_ip = peer_ip
        self.trusted = trusted
        self.forwarded = forwarded  # what engines are told of a peer whose own word about others is not taken; else nothing
        self.head = NO_HEAD
        self.sink: Sink | None = None
        self.known: Any = None
        self.refusals = 0
        self.spoken = H1
        self.received_at = 0.0
        self.sent = 0
        self.frames = 0
        self.bounded = False
        self.connects = False

    # --- the request
    def due(self, deadline: float) -> None:
        """Bound the whole exchange: ``sink.on_total_timeout`` then. Limits of reading and writing are the stream's own."""
        raise NotImplementedError

    def go_ahead(self) -> None:
        """Ask the client for the body that it holds back (100-continue), if none of it has come."""
        raise NotImplementedError

    def hold_back(self) -> None:
        """Read no more of this request until :meth:`go_on`; that the client leaves is noticed all the same."""
        raise NotImplementedError

    def go_on(self) -> None:
        """What held the client back is over."""
        raise NotImplementedError

    def mind_leaving(self, minded: bool) -> None:
        """Whether a client that leaves while it is not read is noticed at once. (One that is read is, in any case; and one that
        is held back.)"""
        raise NotImplementedError

    # --- an answer that is whole
    def answer(self, head: ResponseHead, request_id: bytes, extra: bytes, body: bytes) -> None:
        """An engine's whole answer: its status and fields, the request's id, ``extra`` lines, the body. Ends the request."""
        raise NotImplementedError

    def local(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        """An answer of the gateway's own, with ``lines`` beside those that every answer has. Ends the request."""
        raise NotImplementedError

    def refuse(self, status: int, body: bytes, lines: bytes, close: bool) -> None:
        """An error, as :meth:`local`. The connection ends with it where ``close`` says so, or the rest of the request's body
        may never come, or is too long to be read for nothing."""
        raise NotImplementedError

    # --- an answer in pieces
    def begin(self, head: ResponseHead, length: int, request_id: bytes, extra: bytes) -> None:
        """Prepare an answer with a body of ``length`` bytes, or :data:`UNTOLD`, or :data:`NO_BODY`. It goes out with what is
        written next, or :meth:`flush`; until then :meth:`refuse` can still answer in its place."""
        raise NotImplementedError

    def flush(self) -> int:
        """Send what was begun, where nothing has been written yet. Returns like :meth:`write`."""
        raise NotImplementedError

    def write(self, payload: bytes) -> int:
        """Some of the body. Returns ``SENT``, ``QUEUED`` (no more until ``on_drained``) or ``DEAD`` (see ``net.wire``)."""
        raise NotImplementedError

    def write_wire(self, wire: bytes) -> int:
        """The same, framed as ``frames`` says already, the end included where there is one."""
        raise NotImplementedError

    def trail(self, lines: bytes) -> None:
        """What the engine has said behind its body, whole lines: said before the end is. A client of HTTP/1 is told nothing of
        it (RFC 9110 §6.5.1: who does not ask for trailers may not know what to do with them)."""

    def end(self, payload: bytes) -> int:
        """The last of the body (which may be nothing), and its end. :meth:`finish` follows."""
        raise NotImplementedError

    def finish(self) -> None:
        """The answer has been written whole: the request has ended, another may follow."""
        raise NotImplementedError

    def conclude(self, payload: bytes) -> None:
        """The last of the body, and the end of the request."""
        if self.end(payload) == DEAD:
            self.close()
        else:
            self.finish()

    def break_off(self, told: bool) -> None:
        """End without completing the answer. ``told``: its reader has been told why; without that, or where the framing does
        not show that an end is missing, it is reset."""
        raise NotImplementedError

    def close(self, reset: bool = False) -> None:
        """End at once; ``sink`` is not told."""
        raise NotImplementedError

    # --- somebody else's
    def release(self) -> tuple[int, bytes]:
        """Give the connection's descriptor away, with what has come behind the request's head: nothing of it is ours then, and
        the stream is over. (-1, b"") where it cannot be: it is encrypted, or has other requests on it."""
        return -1, b""

    def release_wire(self) -> tuple[Wire | None, bytes]:
        """As :meth:`release`, with the wire as it is, encrypted or not."""
        return None, b""

    def take_over(self) -> bool:
        """From here on bytes pass as they are, both ways and without a limit of time, and nothing is answered before: what has
        come is :meth:`early`'s. False = not in this protocol."""
        return False

    # --- an upgraded protocol
    def upgrade(self, head: ResponseHead, request_id: bytes, data: bytes) -> int:
        """The engine's 101 and its first bytes; from here on bytes pass as they are, both ways, without a limit of time."""
        raise NotImplementedError

    def early(self) -> bytes:
        """What the client has sent before the upgrade was answered; read on."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more of the upgraded protocol for now."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read it again."""
        raise NotImplementedError

    def pass_on(self, data: bytes) -> int:
        """Bytes of the upgraded protocol. Returns like :meth:`write`."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """The upgraded protocol has ended: what is queued goes out, then the end."""
        raise NotImplementedError

    def tear_off(self) -> None:
        """The upgraded protocol has broken off at its other end."""
        self.hang_up()


class ConnLimits:
    """The figures a client connection works under (seconds and bytes)."""

    __slots__ = ("body_s", "head_bytes", "head_s", "header_count", "idle_s", "write_s")

    def __init__(
        self, *, head_bytes: int, header_count: int, head_s: float, idle_s: float, body_s: float, write_s: float
    ) -> None:
        self.set(head_bytes, header_count, head_s, idle_s, body_s, write_s)

    def set(
        self, head_bytes: int, header_count: int, head_s: float, idle_s: float, body_s: float, write_s: float
    ) -> None:
        """Other figures: times from when each next begins to run, the rest for connections that are made from now on."""
        self.head_bytes = head_bytes
        self.header_count = header_count
        self.head_s = head_s
        self.idle_s = idle_s
        self.body_s = body_s
        self.write_s = write_s


class Connection(Holder):
    """A client's connection, as far as who serves it must know: for the drain."""

    __slots__ = ()

    def streams(self) -> list[ClientStream]:
        """The requests under way on it."""
        raise NotImplementedError

    def close_idle(self) -> bool:
        """Close when no request is under way; says whether it did."""
        raise NotImplementedError

    def close(self, reset: bool = False) -> None:
        """Close at once; nobody is told but ``service.closed``."""
        raise NotImplementedError

    def retire(self) -> None:
        """Another process takes what comes from now on, on other connections. What comes here all the same is served; whoever
        can be told so in so many words is (with HTTP/1 it stands in the next answer)."""


class Service:
    """What serves the requests of client connections; the layer above is one."""

    __slots__ = ("draining",)

    def __init__(self) -> None:
        self.draining = False

    def open(self, stream: ClientStream, head: RequestHead) -> None:
        """Begin an exchange: set ``stream.sink``, or answer at once."""
        raise NotImplementedError

    def recalled(self, stream: ClientStream, kept: Kept, head: RequestHead) -> Any:
        """What is known of ``head`` on this stream, by what was of the same on a connection that is gone; None = nothing."""
        raise NotImplementedError

    def refuse(self, stream: ClientStream, error: GatewayError) -> None:
        """Answer a request whose head could not be read (``stream.head`` is :data:`NO_HEAD` then)."""
        raise NotImplementedError

    def other_protocol(self, connection: Connection, rest: bytes) -> bool:
        """The first that came on ``connection`` is the head with which HTTP/2 begins, and ``rest`` behind it: whether its
        client is spoken to in that from here on, by another connection, which has its wire."""
        return False

    def crashed(self, stream: ClientStream, error: BaseException) -> None:
        """A bug showed while ``stream`` was served."""
        raise NotImplementedError

    def closed(self, connection: Connection, peer_ip: str) -> None:
        """``connection`` has closed."""
        raise NotImplementedError


NO_HEAD: Final = RequestHead(b"", b"", b"", b"", 1, b"", b"", -1, False, False, 0, None, None, None)
"""Of a request whose head could not be read."""
