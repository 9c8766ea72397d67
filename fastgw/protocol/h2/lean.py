"""What the ``h2`` package does for a connection: its settings, both ways. All else goes past it.

Owns the connection's handshake, the values of either side's settings and when they hold, and the acknowledgements. It sees
SETTINGS and PING frames, whole, and nothing of streams: stock ``h2`` closes live streams on a graceful GOAWAY, makes
connection errors of several stream errors, bounds no rate of anything, and costs 78 µs for a request and 8 µs for a DATA
frame. So streams, windows, GOAWAY and budgets are ours (``net.h2_upstream``), and field blocks ``hpack``'s. Of ``h2`` only
what its documentation has is used, but for what ``tests/protocol/h2/test_lean.py`` holds each release to.

One of its connections has 15 kB, most of it for settings that may change. When both sides have acknowledged, only the values
stay; the next SETTINGS, which hardly anybody sends, is read by a new one that begins with them.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import Settings

from fastgw.accel.frames import HEADER_BYTES
from fastgw.protocol.h2.frames import (
    ACK,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FIRST_WINDOW,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    H2Error,
    ping,
)
from fastgw.protocol.h2.hpack import MOST_LIST_BYTES

UNLIMITED: Final = 2**31 - 1
"""Streams at once, where the peer does not say."""
MOST_SETTINGS: Final = 32
"""In one frame (nghttp2's figure). A frame has room for 2,730, each of which costs ``h2`` 4 µs."""
_SETTING_SIZE: Final = 6
_KNOWN: Final = frozenset((*range(HEADER_TABLE_SIZE, MAX_HEADER_LIST_SIZE + 1), ENABLE_CONNECT_PROTOCOL))


class Control:
    """One connection's handshake. ``pings``: what PINGs of ours have been acknowledged since it was last looked at."""

    __slots__ = ("_acked", "_client", "_connect", "_h2", "_settings", "_streams", "_theirs", "_window", "pings")

    def __init__(self, client: bool, values: dict[int, int]) -> None:
        self._client = client
        self._settings = values
        self._theirs: dict[int, int] | None = None  # the peer's, once they have come
        self._acked = False  # ours are
        self._streams = UNLIMITED
        self._window = FIRST_WINDOW
        self._connect = False
        self._h2: H2Connection | None = None
        self.pings: list[bytes] = []

    def begin(self) -> bytes:
        """What the connection begins with."""
        self._h2 = connection = self._made()
        return connection.data_to_send()

    def _made(self) -> H2Connection:
        """One that has said its settings, and knows of the peer's what is known."""
        connection = H2Connection(
            H2Configuration(
                client_side=self._client, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False
            )
        )
        # (Named wholly: what is left out stands at the protocol's own default, which is not announced.)
        connection.local_settings = Settings(client=self._client, initial_values=self._settings)  # type: ignore[arg-type]
        connection.initiate_connection()
        if not self._client:
            connection.receive_data(PREFACE)  # (a client's, which whoever has this has seen)
        if self._theirs is not None:
            connection.remote_settings = Settings(client=not self._client, initial_values=self._theirs)  # type: ignore[arg-type]
            connection.clear_outbound_data_buffer()
        return connection

    def take(self, frame: bytes) -> bytes:
        """A SETTINGS or PING frame of the peer's, whole: what is to be said to it. Raises H2Error where it breaks the
        protocol."""
        acked = frame[4] & ACK != 0
        if frame[3] == PING:
            return self._take_ping(frame, acked)
        if acked and len(frame) > HEADER_BYTES:
            raise H2Error(FRAME_SIZE_ERROR, "an acknowledgement with settings")  # (h2 takes it for another mistake)
        if len(frame) > HEADER_BYTES:
            frame = _understood(frame)
        connection = self._h2
        if connection is None:
            connection = self._made()
        try:
            connection.receive_data(frame)
        except ProtocolError as error:
            # (It would say GOAWAY itself; that is ours to do, which knows the streams.)
            connection.clear_outbound_data_buffer()
            raise H2Error(int(error.error_code), str(error) or type(error).__name__) from error
        said = connection.data_to_send()
        if acked:
            self._acked = True
        else:
            self._learn(connection.remote_settings)
        if self._acked and self._theirs is not None:
            self._h2 = None
        return said

    def _take_ping(self, frame: bytes, acked: bool) -> bytes:
        """RFC 9113 §6.7."""
        if frame[5] & 0x7F or frame[6:9] != bytes(3):  # (the reserved bit is not looked at: §4.1)
            raise H2Error(PROTOCOL_ERROR, "a PING for a stream")
        if len(frame) != HEADER_BYTES + 8:
            raise H2Error(FRAME_SIZE_ERROR, "PING of another size")
        if not acked:
            return ping(frame[HEADER_BYTES:], ack=True)
        self.pings.append(frame[HEADER_BYTES:])
        return b""

    def _learn(self, theirs: Settings) -> None:
        self._theirs = {int(which): value for which, value in theirs.items()}
        self._streams = min(theirs.get(MAX_CONCURRENT_STREAMS, UNLIMITED), UNLIMITED)
        self._window = theirs.initial_window_size
        connects = bool(theirs.enable_connect_protocol)
        if self._client and self._connect and not connects:
            raise H2Error(PROTOCOL_ERROR, "an extended CONNECT that was offered, and is not any more")  # (RFC 8441 §3)
        self._connect = connects

    def most_streams(self) -> int:
        """So many of ours the peer takes at once."""
        return self._streams

    def window(self) -> int:
        """The first window of a stream towards the peer."""
        return self._window

    def takes_connect(self) -> bool:
        """Whether it takes the extended CONNECT of RFC 8441."""
        return self._connect


def _understood(frame: bytes) -> bytes:
    """SETTINGS without those that mean nothing here: ``h2`` keeps each number that was ever told, at 850 bytes apiece."""
    size = len(frame) - HEADER_BYTES
    if size > MOST_SETTINGS * _SETTING_SIZE:
        raise H2Error(ENHANCE_YOUR_CALM, "too many settings in one frame")
    if size % _SETTING_SIZE:
        return frame  # (h2 says what is wrong with it)
    found = [frame[at : at + _SETTING_SIZE] for at in range(HEADER_BYTES, len(frame), _SETTING_SIZE)]
    kept = b"".join([one for one in found if int.from_bytes(one[:2], "big") in _KNOWN])
    return len(kept).to_bytes(3, "big") + frame[3:HEADER_BYTES] + kept


CLIENT_SETTINGS: Final = {
    HEADER_TABLE_SIZE: 0,
    ENABLE_PUSH: 0,
    MAX_HEADER_LIST_SIZE: MOST_LIST_BYTES,
}
"""Ours, towards engines: no table, so that blocks can be remembered by their bytes; nothing pushed."""

MOST_STREAMS: Final = 100
"""Requests that a client may have under way on one connection (RFC 9113 §6.5.2 has no less recommended)."""

SERVER_SETTINGS: Final = {
    HEADER_TABLE_SIZE: 0,
    MAX_CONCURRENT_STREAMS: MOST_STREAMS,
    MAX_HEADER_LIST_SIZE: MOST_LIST_BYTES,
    ENABLE_CONNECT_PROTOCOL: 1,
}
"""Ours, towards clients."""
