"""A request body on its way in, where it does not come whole in one read as it is: in pieces, packed, or as an upload.

Each step takes a turn's worth of work at most: what is left waits for the next turn, and the client is held back meanwhile.
"""

from __future__ import annotations

from typing import Final, Protocol

from fastgw.accel.landing import Landing
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.exchange.context import Context
from fastgw.exchange.phases import DONE
from fastgw.exchange.upload import Host, Upload
from fastgw.protocol.coding import Decoder

INLINE_BYTES: Final = 65536  # of a packed body are unpacked with the read in which they came
STEP_BYTES: Final = 1 << 18  # and so many in each turn after that


class Receiving(Host, Protocol):
    """What is asked of the exchange."""

    phase: int
    upload: Upload | None
    gateway: Context

    def whole(self, body: bytes) -> None: ...
    def take_up(self) -> None: ...


class Intake:
    """See the head of this file. ``decoder``: of a packed body."""

    __slots__ = ("_landing", "_turn_due", "decoder")

    def __init__(self, decoder: Decoder | None = None) -> None:
        self.decoder = decoder
        self._landing: Landing | None = None
        self._turn_due = False

    def take(self, exchange: Receiving, data: bytes, last: bool) -> None:
        """What the client has sent. Raises GatewayError."""
        if self.decoder is None:
            self._arrived(exchange, data, last)
        else:
            self.decoder.take(data, last)
            self._unpack(exchange, INLINE_BYTES)

    def _unpack(self, exchange: Receiving, room: int) -> None:
        """Go on with what came packed: about ``room`` bytes at most, for everybody else waits."""
        decoder = self.decoder
        assert decoder is not None
        limit = exchange.gateway.max_body_bytes if exchange.upload is None else exchange.upload.limit
        data = decoder.step(room, limit)
        grown = decoder.memory_bytes - decoder.counted_bytes
        if grown > 0:
            exchange.hold(grown)
            decoder.counted_bytes += grown
        pending = decoder.pending
        self._arrived(exchange, data, decoder.whole and not pending)
        if exchange.phase != DONE and pending:
            exchange.client.hold_back()
            if exchange.upload is None or not exchange.upload.waits:
                self.in_turn(exchange)

    def _arrived(self, exchange: Receiving, data: bytes, last: bool) -> None:
        """Bytes of the body itself, unless they have come to where it is received."""
        landing = self._landing
        landed = landing is not None and landing.length >= 0
        size = landing.got - exchange.bytes_in if landing is not None and landed else len(data)
        exchange.bytes_in += size
        upload = exchange.upload
        if upload is not None:
            if upload.unread is not None:
                # It waits behind what came before it.
                before, left, _ = upload.unread
                upload.unread = (before + data, left + data, last)
                return
            left = upload.read(data)
            if left:
                # Many parts at once: each takes microseconds.
                upload.unread = (data, left, last)
                exchange.client.hold_back()
                self.in_turn(exchange)
            else:
                upload.take(exchange, data, last)
            return
        if exchange.bytes_in > exchange.gateway.max_body_bytes:
            self._landing = None
            raise GatewayError("body_too_large", detail="crossed while reading")
        exchange.hold(size)
        if landing is None:
            if last:
                self._whole(exchange, keep(data))
                return
            # One buffer: a list of two-byte pieces would hold twenty times what the client sent.
            landing = self.land(-1)
        if not landed:
            landing.put(data)
        if last:
            self._whole(exchange, landing.whole())

    def _whole(self, exchange: Receiving, body: bytes) -> None:
        """All of it is there."""
        self._landing = None
        if self.decoder is not None:
            exchange.let_go(self.decoder.counted_bytes)
            self.decoder = None
        exchange.whole(body)

    def land(self, length: int) -> Landing:
        """Where the body is received: ``length`` bytes, -1 = nobody knows how many, and they are put there."""
        self._landing = Landing(length)
        return self._landing

    def in_turn(self, exchange: Receiving) -> None:
        """Go on when everybody else has had a turn."""
        if not self._turn_due:
            self._turn_due = True
            exchange.gateway.take_up_later(exchange)

    def take_up(self, exchange: Receiving) -> bool:
        """The turn has come. False where nothing was left to be done here. Raises GatewayError."""
        self._turn_due = False
        upload = exchange.upload
        if upload is not None and upload.unread is not None:
            self._read_on(exchange, upload, upload.unread)
        elif self.decoder is not None and self.decoder.pending:
            self._unpack(exchange, STEP_BYTES)
            exchange.client_may_go_on()
        else:
            return False
        return True

    def _read_on(self, exchange: Receiving, upload: Upload, unread: tuple[bytes, bytes, bool]) -> None:
        """Some more parts of a form, of what came in one read."""
        data, left, last = unread
        left = upload.read(left)
        if left:
            upload.unread = (data, left, last)
            self.in_turn(exchange)
            return
        upload.unread = None
        upload.take(exchange, data, last)
        exchange.client_may_go_on()

    def has_more(self, exchange: Receiving) -> bool:
        """Whether something of what came has not been read yet: its turn is to come."""
        if self.decoder is not None and self.decoder.pending:
            self.in_turn(exchange)
            return True
        return False

    def forget(self) -> None:
        """Nothing of the body is needed any more."""
        self._landing = None
