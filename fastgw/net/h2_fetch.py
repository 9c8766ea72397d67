"""What ``fetch`` is for engines that speak HTTP/2: a connection for each, one deadline.

Not for traffic. Of the protocol it has what one small answer takes: windows that are never exhausted, and no second stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fastgw.accel.frames import FrameReader
from fastgw.net.channel import Channel
from fastgw.net.fetch import TLS_ALERT, FetchError, TooLarge, TooSlow, connected, is_wrong, why
from fastgw.net.h2_link import unpadded
from fastgw.net.shortage import LACKING
from fastgw.net.wire import Address
from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.frames import H2Error
from fastgw.protocol.h2.heads import Malformed, response_head
from fastgw.protocol.h2.hpack import NO_TABLE, HpackError, TooLong
from fastgw.protocol.h2.lean import CLIENT_SETTINGS, Control
from fastgw.protocol.h2.writer import own_block, request_block, start_block
from fastgw.protocol.start import RequestStart

if TYPE_CHECKING:
    from fastgw.net.certificates import Believed

MOST_FRAMES: Final = 10_000
"""Of a probe's answer, of any kind: whoever sends more than that is not well."""
_ID: Final = b"probe"


async def fetch_h2(
    addresses: tuple[Address, ...],
    target: bytes,
    fields: bytes,
    timeout_s: float,
    max_bytes: int,
    secure: Believed | None = None,
) -> tuple[int, bytes]:
    """As :func:`fastgw.net.fetch.fetch`, over HTTP/2 with prior knowledge; where it is ``secure``, as agreed on."""
    last = "no address"
    wrong = False
    try:
        async with asyncio.timeout(timeout_s):
            for family, address in addresses:
                try:
                    return await _ask(family, address, target, fields, max_bytes, secure)
                except TooLarge:
                    raise
                except (OSError, FetchError) as error:
                    last = why(error, secure)
                    wrong = is_wrong(error)
                    if isinstance(error, OSError) and error.errno in LACKING:
                        raise FetchError(last, error.errno) from error
    except TimeoutError:
        raise TooSlow(f"no answer within {timeout_s:g} s") from None
    raise FetchError(last, wrong=wrong)


async def _ask(
    family: int, address: object, target: bytes, fields: bytes, max_bytes: int, secure: Believed | None
) -> tuple[int, bytes]:
    async with connected(family, address, secure) as channel:
        if secure is not None and channel.protocol() != "h2":
            raise FetchError('does not speak HTTP/2: not agreed on by ALPN (protocol = "auto" asks in either)', wrong=True)
        return await ask(channel, target, fields, max_bytes, secure is not None)


async def ask(channel: Channel, target: bytes, fields: bytes, max_bytes: int, secure: bool) -> tuple[int, bytes]:
    """The one request of a connection over which nothing has been said, and its answer. Raises OSError and FetchError."""
    own, rest = fields.split(b"\r\n", 1)
    start = start_block(RequestStart(b"GET", target, rest))
    block = NO_TABLE + request_block(own_block(own + b"\r\n", secure), start, b"", _ID, 0, b"GET")
    control = Control(True, CLIENT_SETTINGS)
    hello = control.begin() + h2.window_update(0, max_bytes) + h2.headers(1, block, True) + h2.window_update(1, max_bytes)
    await channel.send(hello)
    answer = _Answer(control, max_bytes)
    while True:
        data = await channel.receive()
        if not data:
            raise FetchError("closed before the end of an answer")
        if data[:5] == b"HTTP/" or (not secure and data[:2] == TLS_ALERT):
            spoken = "HTTP/1 (protocol = \"auto\" asks in either)" if data[:1] == b"H" else "TLS (https:// is for that)"
            raise FetchError(f"does not speak HTTP/2, but {spoken}", wrong=True)
        try:
            said = answer.feed(data)
        except (H2Error, HpackError, TooLong, Malformed) as error:
            raise FetchError(str(error)) from error
        if said:
            await channel.send(said)
        if answer.done:
            return answer.status, bytes(answer.body)


class _Answer:
    """The one answer on a connection."""

    __slots__ = ("_block", "_control", "_frames", "_last", "_max_bytes", "_reader", "body", "done", "status")

    def __init__(self, control: Control, max_bytes: int) -> None:
        self._control = control
        self._max_bytes = max_bytes
        self._reader = FrameReader()
        self._frames = 0
        self._block = b""
        self._last = False
        self.status = 0
        self.body = bytearray()
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """What is to be said to that."""
        reader = self._reader
        out = b""
        reader.feed(data)
        while not self.done and reader.next():
            self._frames += 1
            if reader.oversized or self._frames > MOST_FRAMES:
                raise FetchError("frames that are too large, or too many")
            kind, flags = reader.kind, reader.flags
            if kind == h2.SETTINGS or kind == h2.PING:
                out += self._control.take(reader.frame())
            elif kind == h2.HEADERS or kind == h2.CONTINUATION:
                self._take_block(reader.payload(), flags, kind == h2.HEADERS)
            elif kind == h2.DATA:
                self._take_data(reader)
            elif kind == h2.RST_STREAM or kind == h2.GOAWAY:
                # (A GOAWAY may let this one stream go on; a probe does not.)
                raise FetchError("the engine gave the probe up")
        return out

    def _take_block(self, payload: bytes, flags: int, first: bool) -> None:
        if first:
            self._last = bool(flags & h2.END_STREAM)
            if flags & h2.PADDED:
                payload = unpadded(payload)
            if flags & h2.PRIORITISED:
                payload = payload[5:]
        self._block += payload
        if len(self._block) > 65536:
            raise FetchError("a field block without end")
        if flags & h2.END_HEADERS:
            block, self._block = self._block, b""
            if not self.status:
                head = response_head(block)
                if head.status >= 200:
                    self.status = head.status
            self.done = self._last

    def _take_data(self, reader: FrameReader) -> None:
        payload = reader.payload()
        if reader.flags & h2.PADDED:
            payload = unpadded(payload)
        self.body += payload
        if len(self.body) > self._max_bytes:
            raise TooLarge("answer too large")
        self.done = reader.whole and bool(reader.flags & h2.END_STREAM)
