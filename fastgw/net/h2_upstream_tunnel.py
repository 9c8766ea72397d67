"""A WebSocket at an engine of HTTP/2: a stream that an extended CONNECT makes a tunnel of (RFC 8441).

Who asks says what it says of any WebSocket, as HTTP/1 has it, and is told a 101; here that is written, and read, as HTTP/2 has
it. So the key stays here and is answered here, for whoever looks for that (RFC 6455 §4.1): the engine sees neither. An engine
whose connection does not offer this (``SETTINGS_ENABLE_CONNECT_PROTOCOL``) is not asked.
"""

from __future__ import annotations

from fastgw.accel.fields import value_in
from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.net.h2_stream import H2UpstreamStream, Link
from fastgw.net.upstream import UNPROCESSED, WANTS_HTTP1, Carrier
from fastgw.protocol.body import NoSource
from fastgw.protocol.h2.writer import request_block, tunnel_block
from fastgw.protocol.start import RequestStart
from fastgw.protocol.websocket import accept_of, switching, without_accept


class H2UpstreamTunnel(H2UpstreamStream):
    """See the head of this file. ``passes``: the engine has agreed; bytes pass as they are."""

    __slots__ = ("_key", "passes")

    def set_up(self) -> None:
        """What a constructor would add."""
        self.passes = False
        self._key = b""

    def send(
        self, start: RequestStart, trace: bytes, request_id: bytes, length: int, lead: bytes, body: bytes, skip: int, due: float
    ) -> None:
        link = self.link
        assert link is not None
        key = value_in(start.fields, b"sec-websocket-key")
        if not link.connects:
            self._gives_up(link, self.home.no_tunnels())
            return
        if key is None:
            self._gives_up(link, GatewayError("bad_request", "A WebSocket's handshake needs a Sec-WebSocket-Key."))
            return
        self._key = key
        if start.block is None:
            start.block = tunnel_block(start)
        self.method = b"CONNECT"
        self.waiting = True
        self.due(due)
        self._to_send = -1
        link.begin(self, request_block(link.own, start.block, trace, request_id, -1, b"CONNECT"), False)

    def _gives_up(self, link: Link, error: GatewayError | None) -> None:
        """It cannot be asked for here. None: it can in another way."""
        link.leave(self, -1)
        self.link = None
        self.error = error
        if error is None:
            self.fate = UNPROCESSED
        self.deliver_soon()

    def _begin(self, carrier: Carrier, head: ResponseHead, data: bytes) -> None:
        if head.status // 100 != 2:
            H2UpstreamStream._begin(self, carrier, head, data)
            return
        self.passes = True
        lines = b"%bsec-websocket-accept: %b\r\n" % (without_accept(head.forward), accept_of(self._key))
        carrier.on_head(switching(lines, head.has_date), NoSource(), data)

    def _tell(self, carrier: Carrier) -> None:
        if self.passes:
            self._pass(carrier)
        else:
            H2UpstreamStream._tell(self, carrier)
        if not self.passes or self.held or self.carrier is not carrier or self._finished:
            return
        if self.fate or self.ended:
            self._finished = True
            carrier.on_end(self.fate or "fin")

    def _pass(self, carrier: Carrier) -> None:
        data = self._taken_off()
        if not data:
            return
        carrier.on_data(data)
        if not self.ended:
            self._took(len(data))

    def tunnel(self) -> None:
        """(It is one.)"""

    def wants_h1(self, why: str) -> None:
        self.error = self.home.no_tunnels()
        self.fate = WANTS_HTTP1

    def cancel(self) -> None:
        link = self.link
        if link is not None and self.passes and self.ended and not self.sent_whole and not self.fate:
            self._end(link)  # with the engine's side ours has ended (§5), which is no abort
        H2UpstreamStream.cancel(self)
