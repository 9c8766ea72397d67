"""A request body that is passed on while it arrives: multipart uploads and pass-through paths.

    1. keep it, within the memory that all bodies may have together, until the form's `model` field has come, however late;
    2. route and connect, holding the client back meanwhile;
    3. pass on what was kept, piece by piece as the engine takes it, then each read as it comes; a full socket towards the
       engine stops reading the client.

All of a form is read on the way, before it goes on: what stands behind the model may make it another one to an engine. A small
body that was whole before it was needed is like any other from there on. A larger one stays in pieces: joining hundreds of
megabytes would hold everybody else up. Both can be sent again; once bytes have been passed on and forgotten, that is over.
"""

from __future__ import annotations

from typing import Final, Protocol

from fastgw.accel.heads import RequestHead
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.exchange.unnamed import is_a_question
from fastgw.limits.account import Account
from fastgw.net.client import ClientStream
from fastgw.net.clock import monotonic
from fastgw.net.timers import NEVER
from fastgw.net.upstream import UpstreamStream
from fastgw.net.wire import QUEUED
from fastgw.protocol.multipart import ModelField
from fastgw.protocol.start import RequestStart

PIECE_BYTES: Final = 1 << 18  # kept, and passed on, at once
JOIN_BYTES: Final = 1 << 20  # larger bodies stay in pieces
MODEL_WITHIN_BYTES: Final = 65536  # of a form that needs none, it is waited for
PARTS_AT_ONCE: Final = 16  # of a form are read in one turn

Edit = tuple[int, int, bytes]


class Host(Protocol):
    """What is asked of the exchange."""

    gateway: Context
    account: Account | None
    client: ClientStream
    head: RequestHead
    call: Call | None
    request_id: bytes
    body: bytes
    bytes_in: int
    substitute: str

    def hold(self, size: int) -> None: ...
    def let_go(self, size: int) -> None: ...
    def route(self) -> None: ...
    def client_may_go_on(self) -> None: ...


class Upload:
    """The request body of one upload. ``model`` is what its form names; ``whole``: all of it had come before an engine was
    chosen; ``joined``: it is ``exchange.body`` now; ``begun``: bytes of it have been passed on."""

    __slots__ = (
        "_edits",
        "_field",
        "_needs_model",
        "_next",
        "_offset",
        "_pieces",
        "_routed",
        "_sink",
        "begun",
        "chunked",
        "ended",
        "joined",
        "kept_bytes",
        "limit",
        "model",
        "sent_whole",
        "unread",
        "waits",
        "whole",
    )

    def __init__(self, field: ModelField | None, chunked: bool, limit: int, needs_model: bool = True) -> None:
        self._field = field
        self._needs_model = needs_model
        self._pieces: list[bytearray] = []
        self._next = 0  # the piece that goes next, and where it begins in the body
        self._offset = 0
        self._edits: list[Edit] = []
        self._routed = False
        self._sink: UpstreamStream | None = None
        self.kept_bytes = 0
        self.chunked = chunked
        self.limit = limit
        self.model = ""
        self.ended = False  # the client has sent all of it
        self.unread: tuple[bytes, bytes, bool] | None = None  # one read, what of it is left, whether it is the last
        self.waits = False  # the client is held back: no engine takes what it sends, or none is chosen yet
        self.whole = False
        self.joined = False
        self.begun = False
        self.sent_whole = False

    # --- from the client
    def read(self, data: bytes) -> bytes:
        """Look at what came, before it is taken; what is left of it after so many parts as one turn has time for."""
        field = self._field
        if field is None or (self._sink is not None and self._sink.closed):
            return b""
        return field.feed(data, PARTS_AT_ONCE)

    def take(self, exchange: Host, data: bytes, last: bool) -> None:
        """Bytes from the client, which have been read. Raises GatewayError before routing; afterwards the exchange is told."""
        if exchange.bytes_in > self.limit:
            raise GatewayError("body_too_large", detail="upload over max_upload_bytes")
        sink = self._sink
        field = self._field
        if last and field is not None and not (sink is not None and sink.closed):
            field.finish(self._needs_model and field.model is None and is_a_question(exchange.gateway, exchange.account))
        self.ended = last
        if self._routed and field is not None and field.model is not None and not self.model:
            self._late_model(exchange, field.model)
        if sink is not None and self._next == len(self._pieces):
            self._pass_on(exchange, sink, data)
            return
        exchange.hold(len(data))
        self._keep(data)
        if self._routed:
            return  # connecting, or what was kept is still on its way; this had been read before the client was held back
        if field is not None:
            if field.model is None and (self._needs_model or self.kept_bytes < MODEL_WITHIN_BYTES) and not last:
                return
            self.model = field.model or ""
        if last:
            self.whole = True
            if self.kept_bytes <= JOIN_BYTES:
                exchange.body = b"".join(self._pieces)
                self._pieces = []
                self.joined = self.sent_whole = True
        else:
            self._hold_back(exchange)
        self._routed = True
        exchange.route()

    def _late_model(self, exchange: Host, model: str) -> None:
        """A model that nobody asked for came when an engine had been chosen: it must be one of that engine's."""
        self.model = model
        group = exchange.gateway.serving(exchange.gateway.table, exchange) if not exchange.substitute else None
        pool = exchange.call.pool if exchange.call is not None else None
        engine = pool.engine if group is not None and pool is not None and pool in group.pools else None
        if engine is None or engine.served_name or model in engine.aliases or exchange.substitute:
            message = "A `model` must come before the file here: another engine has been chosen."
            raise GatewayError("invalid_parameter", message, param="model")

    def _hold_back(self, exchange: Host) -> None:
        self.waits = True
        exchange.client.hold_back()

    def _keep(self, data: bytes) -> None:
        self.kept_bytes += len(data)
        pieces = self._pieces
        # (Small reads share a piece: each for itself would be many times its size.)
        if pieces and len(pieces) > self._next and len(pieces[-1]) + len(data) <= PIECE_BYTES:
            pieces[-1] += data
        elif data:
            pieces.append(bytearray(data))

    # --- to the engine
    def begin(self, exchange: Host, call: Call, start: RequestStart, trace: bytes) -> None:
        """An engine is connected: send the head, with the lines of its trace, and what has been kept as far as it is taken."""
        stream = call.stream
        assert stream is not None
        self.begun = True
        self.sent_whole = False
        self._sink = stream
        self._next = self._offset = 0
        engine = call.pool.engine
        name = engine.served_name or exchange.substitute
        if engine.aliases:
            name = engine.aliases.get(name or self.model, name)
        self._edits = self._field.edits(name) if self._field is not None and name else []
        grown = sum(len(new) - (end - start) for start, end, new in self._edits)
        if self.chunked and not self.whole:
            length = -1
        else:
            length = (self.kept_bytes if self.whole else exchange.head.content_length) + grown
        stream.send(start, trace, exchange.request_id, length, b"", b"", 0, NEVER)
        self._go_on(exchange, stream)

    def _go_on(self, exchange: Host, stream: UpstreamStream) -> bool:
        """Send what was kept while the engine takes it; whether all of it has gone."""
        pieces = self._pieces
        while self._next < len(pieces) and not stream.queued():
            piece = pieces[self._next]
            at = self._offset
            self._offset += len(piece)
            self._next += 1
            if not self.whole:
                pieces[self._next - 1] = bytearray()  # it cannot be sent again in any case
                exchange.let_go(len(piece))
            data = self._edited(piece, at)
            if data and stream.write(data) == QUEUED:
                break
        if self._next == len(pieces) and self.ended:
            self._finish(stream)
        if stream.queued() or self.sent_whole:
            # The first-byte limit runs from the end of the body, or while the engine does not take what there is of it.
            if stream.waiting:
                stream.due(monotonic() + exchange.gateway.first_byte_timeout_s)
            return False
        self.waits = False
        exchange.client_may_go_on()
        return True

    def _finish(self, stream: UpstreamStream) -> None:
        if not self.sent_whole:
            self.sent_whole = True
            stream.end()

    def _edited(self, piece: bytearray, at: int) -> bytes:
        """``piece``, which begins at ``at`` in the body, with what stands in the place of its parts."""
        if not self._edits:
            return bytes(piece)
        out: list[bytes | bytearray] = []
        position, end = at, at + len(piece)
        for start, stop, new in self._edits:
            if stop <= position or start >= end:
                continue
            if start >= position:
                out += (piece[position - at : start - at], new)
            position = min(stop, end)
        out.append(piece[position - at :])
        return b"".join(out)

    def forget(self) -> None:
        """What was kept is not needed any more: an answer has begun, or all is over."""
        self._pieces = []

    def renamed(self, body: bytes, name: str) -> bytes:
        """``body``, which is this upload's, for the model ``name``."""
        if self._field is None:
            return body
        for start, end, new in reversed(self._field.edits(name)):
            body = body[:start] + new + body[end:]
        return body

    def _pass_on(self, exchange: Host, stream: UpstreamStream, data: bytes) -> None:
        if stream.closed or self.sent_whole:
            return
        queued = bool(data) and stream.write(data) == QUEUED
        if self.ended:
            self._finish(stream)
        if (self.ended or queued) and stream.waiting:
            stream.due(monotonic() + exchange.gateway.first_byte_timeout_s)
        if queued and not self.ended:
            self._hold_back(exchange)

    def drained(self, exchange: Host) -> None:
        """The engine has taken all there was: until the client sends more, the client's own limit holds."""
        stream = self._sink
        if stream is None or stream.closed or self.sent_whole:
            return
        if self._go_on(exchange, stream) and stream.waiting:
            stream.due(NEVER)
