"""A WebSocket on a stream of a client's HTTP/2 connection (RFC 8441).

An extended CONNECT is told as the request without a body that it is in HTTP/1. What comes on it is kept until it is answered,
and its client gets no credit; then it is a tunnel, whose DATA pass as they are, both ways. END_STREAM is the end of one side,
and a reset that of both (§5). A client whose tunnel has ended at our side has :data:`LINGER_S` to end his.

Must never: say 2xx to what is no tunnel, for bytes would pass then.
"""

from __future__ import annotations

from fastgw.accel.heads import ResponseHead
from fastgw.accel.sockets import keep
from fastgw.net.clock import monotonic
from fastgw.net.h1_states import LINGER_S
from fastgw.net.h2_client import H2ClientStream
from fastgw.net.timers import NEVER
from fastgw.protocol.h2.answers import tunnel_block
from fastgw.protocol.h2.frames import CANCEL, NO_ERROR


class H2Tunnel(H2ClientStream):
    """See the head of this file. ``passes``: it was answered, and is a tunnel."""

    __slots__ = ("passes",)

    def set_up(self) -> None:
        """What a constructor would add: it is one from the start."""
        self.passes = False
        self.connects = True

    def expired(self, now: float) -> None:
        self.deadline = NEVER
        sink = self.sink
        if sink is not None:
            try:
                sink.on_total_timeout()
            except Exception as error:
                self.service.crashed(self, error)
        elif self.passes and not self.is_over:
            self.link.over(self, NO_ERROR)  # the client's end has been waited for

    # --- in
    def open(self) -> None:
        H2ClientStream.open(self)
        self._wait()
        sink = self.sink
        if sink is not None:
            sink.on_body(b"", True)

    def _wait(self) -> None:
        self.held = True
        self.pieces = [keep(piece) for piece in self.pieces]

    def tell(self) -> None:
        if not self.passes:
            self._wait()
            return
        sink = self.sink
        data = self._taken_off()
        if data and sink is not None:
            sink.on_tunnel_data(data)
            self._say()
            sink = self.sink
        if self.ended and not self.told:
            self.told = True
            if sink is not None:
                sink.on_tunnel_end()
            elif self.last and not self.out_bytes and not self.queued:
                self.link.over(self, -1)

    def _taken_off(self) -> bytes:
        """All that has come."""
        pieces = self.pieces
        by, self.by = self.by, None
        if by is not None:
            pieces.append(by.rest(self.sink))
        if not pieces:
            return b""
        data: bytes = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unsaid += len(data)
        return data

    # --- out
    def upgrade(self, head: ResponseHead, request_id: bytes, data: bytes) -> int:
        # A session has no end in sight: that limit is for exchanges.
        self.deadline = NEVER
        self.passes = True
        self.held = False
        self._begun = tunnel_block(head, request_id)
        return self.write_wire(data)

    def early(self) -> bytes:
        if self.ended:
            self.link.deliver_soon(self)
        return self._taken_off()

    def pause(self) -> None:
        self.held = True

    def resume(self) -> None:
        self.go_on()
        self._say()  # (of what came early)

    def pass_on(self, data: bytes) -> int:
        return self.write_wire(data)

    def hang_up(self) -> None:
        self.finish()

    def tear_off(self) -> None:
        self.sink = None
        self.deadline = NEVER
        self.code = CANCEL
        self._close_up()

    def _own(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        if 200 <= status < 300:
            self.close()
        else:
            H2ClientStream._own(self, status, content_type, body, lines)

    def _ended(self) -> None:
        if self.passes and not self.ended:
            self.wheel.arm(self, monotonic() + LINGER_S)
        else:
            H2ClientStream._ended(self)
