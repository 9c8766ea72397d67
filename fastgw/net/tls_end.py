"""One side of TLS as a wire knows it, and the sizes that the protocol has."""

from __future__ import annotations

import ssl
from typing import Final

RECORD_BYTES: Final = 16384  # of one record at most (RFC 8446 §5.1)
MAX_HANDSHAKE_BYTES: Final = 1 << 16  # that a peer may send in its handshake; OpenSSL would take twice as much in one message


class End:
    """One side's way to speak TLS: with whom, by which certificates. Below it nothing knows of files or names."""

    __slots__ = ()

    accepts = False
    """Whether the peer speaks first."""
    asks = False
    """Whether a client is asked for its certificate."""

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The TLS of a new connection, between two buffers."""
        raise NotImplementedError

    def spoken(self, tls: ssl.SSLObject) -> None:
        """A connection that was dialled has brought its first bytes, or ends after a good handshake: its session may be resumed
        by another."""

    def misspoken(self) -> bytes:
        """What is answered to a peer whose first bytes are HTTP without TLS."""
        return b""
