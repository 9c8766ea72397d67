"""A request body that is passed on while it arrives: multipart uploads and pass-through paths.

    1. look for the `model` field in the first part of the body (bounded, kept);
    2. route and connect, holding the client back meanwhile;
    3. pass on what was kept, then each read as it comes; a full socket towards the engine stops reading the client.

A body that has arrived whole before routing is at hand for a replay, like a JSON body; once bytes have been passed on
and forgotten, it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastgw.accel.lines import chunk
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.net.clock import monotonic
from fastgw.net.stream import QUEUED
from fastgw.net.timers import NEVER
from fastgw.net.upstream_conn import HEAD as NO_ANSWER
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.http1.writer import LAST_CHUNK
from fastgw.protocol.multipart import ModelField

if TYPE_CHECKING:
    from fastgw.exchange.attempts import Attempts
    from fastgw.exchange.exchange import Exchange

FIELD_BYTES: Final = 1 << 20  # how far the `model` field is looked for


class Upload:
    """The request body of one upload."""

    __slots__ = (
        "_field",
        "_kept",
        "_kept_bytes",
        "_routed",
        "_sink",
        "begun",
        "chunked",
        "limit",
        "model",
        "sent_whole",
        "whole",
    )

    def __init__(self, field: ModelField | None, chunked: bool, limit: int) -> None:
        self._field = field
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._routed = False
        self._sink: UpstreamConn | None = None
        self.chunked = chunked
        self.limit = limit
        self.model = ""
        self.whole = False  # the body was complete before an engine was chosen
        self.begun = False  # bytes of it have been passed on
        self.sent_whole = False

    @property
    def kept_bytes(self) -> int:
        """What has been kept of it so far, to be sent when an engine is there."""
        return self._kept_bytes

    def take(self, exchange: Exchange, data: bytes, last: bool) -> None:
        """Bytes from the client. Raises GatewayError before routing; afterwards the exchange is told."""
        if exchange.bytes_in > self.limit:
            raise GatewayError("body_too_large", detail="upload over max_upload_bytes")
        field = self._field
        if field is not None and not (self._sink is not None and self._sink.closed):
            # All of it, before it goes on: what stands behind the model may make it another one to an engine.
            field.feed(data)
            if last:
                field.finish(not exchange.gateway.routes_anything())
        if self._sink is not None:
            self._pass_on(exchange, data, last)
            return
        self._kept.append(keep(data))
        self._kept_bytes += len(data)
        if self._routed:
            # Connecting: the client is held back, and this is what had been read of it before that.
            if last:
                self._complete(exchange)
            return
        if field is not None and not self.model:
            if field.model is not None:
                self.model = field.model
            elif not last and self._kept_bytes < FIELD_BYTES:
                return
            elif not exchange.gateway.routes_anything():
                raise GatewayError("missing_model", "Put the `model` field before the file.", param="model")
        if last:
            self._complete(exchange)
        else:
            exchange.conn.pause_reading()
        self._routed = True
        exchange.route()

    def _complete(self, exchange: Exchange) -> None:
        """The body was whole before it was needed: from here on it is like any other."""
        self.whole = self.sent_whole = True
        exchange.body = b"".join(self._kept)
        self._kept = []

    def begin(self, exchange: Attempts, conn: UpstreamConn) -> None:
        """An engine is connected: send the head and what has been kept, which is not all."""
        pool = exchange.pool
        assert pool is not None
        self.begun = True
        self._sink = conn
        length = -1 if self.chunked else exchange.head.content_length
        head = exchange.request_head(pool, length)
        kept = b"".join(self._kept)
        self._kept = []
        if self.chunked:
            kept = chunk(kept)
        conn.begin(exchange, head + kept, NEVER)
        if conn.queued_bytes:
            conn.wheel.arm(conn, monotonic() + exchange.gateway.first_byte_timeout_s)
        else:
            exchange.conn.resume_reading()

    def _pass_on(self, exchange: Exchange, data: bytes, last: bool) -> None:
        conn = self._sink
        if conn is None or conn.closed or self.sent_whole:
            return
        wire = chunk(data) if self.chunked else data
        if last:
            self.sent_whole = True
            if self.chunked:
                wire += LAST_CHUNK
        queued = bool(wire) and conn.write(wire) == QUEUED
        if (last or queued) and conn.state is NO_ANSWER:
            # The first-byte limit runs from the end of the body, or while the engine does not take what there is of it.
            conn.wheel.arm(conn, monotonic() + exchange.gateway.first_byte_timeout_s)
        if queued and not last:
            exchange.conn.pause_reading()

    def drained(self) -> None:
        """The engine has taken all there was: until the client sends more, the client's own limit holds."""
        conn = self._sink
        if conn is not None and not self.sent_whole and conn.state is NO_ANSWER:
            conn.deadline = NEVER
