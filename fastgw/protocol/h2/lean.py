"""What the ``h2`` package does for a connection: its settings, both ways, and its PINGs. All else goes past it.

Owns the connection's handshake, the values of either side's settings and when they hold, and the acknowledgements. It sees
SETTINGS and PING frames, whole, and nothing of streams: stock ``h2`` closes live streams on a graceful GOAWAY, makes
connection errors of several stream errors, bounds no rate of anything, and costs 78 µs for a request and 8 µs for a DATA
frame. So streams, windows, GOAWAY and budgets are ours (``net.h2_upstream``), and field blocks ``hpack``'s. Of ``h2`` only
what its documentation has is used, but for what ``tests/protocol/h2/test_lean.py`` holds each release to.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import PingAckReceived
from h2.exceptions import ProtocolError
from h2.settings import Settings

from fastgw.accel.frames import HEADER_BYTES
from fastgw.protocol.h2.frames import (
    ACK,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PREFACE,
    SETTINGS,
    H2Error,
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

    __slots__ = ("_h2", "pings")

    def __init__(self, client: bool, values: dict[int, int]) -> None:
        self._h2 = H2Connection(
            H2Configuration(
                client_side=client, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False
            )
        )
        # (Named wholly: what is left out stands at the protocol's own default, which is not announced.)
        self._h2.local_settings = Settings(client=client, initial_values=values)  # type: ignore[arg-type]
        self.pings: list[bytes] = []

    def begin(self) -> bytes:
        """What the connection begins with."""
        self._h2.initiate_connection()
        if not self._h2.config.client_side:
            self._h2.receive_data(PREFACE)  # (a client's, which whoever has this has seen)
        return self._h2.data_to_send()

    def take(self, frame: bytes) -> bytes:
        """A SETTINGS or PING frame of the peer's, whole: what is to be said to it. Raises H2Error where it breaks the
        protocol."""
        connection = self._h2
        if frame[3] == SETTINGS and frame[4] & ACK and len(frame) > HEADER_BYTES:
            raise H2Error(FRAME_SIZE_ERROR, "an acknowledgement with settings")  # (h2 takes it for another mistake)
        if frame[3] == SETTINGS and len(frame) > HEADER_BYTES:
            frame = _understood(frame)
        try:
            events = connection.receive_data(frame)
        except ProtocolError as error:
            # (It would say GOAWAY itself; that is ours to do, which knows the streams.)
            connection.clear_outbound_data_buffer()
            raise H2Error(int(error.error_code), str(error) or type(error).__name__) from error
        for event in events:
            if isinstance(event, PingAckReceived):
                self.pings.append(event.ping_data)
        return connection.data_to_send()

    def most_streams(self) -> int:
        """So many of ours the peer takes at once."""
        return min(self._h2.remote_settings.get(MAX_CONCURRENT_STREAMS, UNLIMITED), UNLIMITED)

    def window(self) -> int:
        """The first window of a stream towards the peer."""
        return self._h2.remote_settings.initial_window_size

    def takes_connect(self) -> bool:
        """Whether it takes the extended CONNECT of RFC 8441."""
        return bool(self._h2.remote_settings.enable_connect_protocol)


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
}
"""Ours, towards clients."""
