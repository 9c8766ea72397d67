"""The states of a client's HTTP/1 connection (``net/h1_connection.py``), and the figures that it goes by.

The connection is in exactly one state:

    HEAD     waiting for a request head, or in the middle of one
    OPENING  a head is complete and the service is deciding (never seen between two loop callbacks)
    BODY     an exchange lives and its request body is still arriving
    BUSY     an exchange lives and its request is complete
    DISCARD  the answer is out, the rest of a refused request's body is being read and thrown away
    FLUSH    the last answer waits for the client to take it; then LINGER
    LINGER   our side is closed (FIN sent); what the client still sends is drained so that it is not met by an RST,
             which would destroy the answer in flight (RFC 9112 §9.6); after so much it is only waited for its end
    TUNNEL   the bytes belong to an upgraded protocol
    CLOSED   terminal; it has no stream any more
"""

from __future__ import annotations

import enum
from typing import Final

SURPLUS_BYTES: Final = 65536  # pipelined bytes held while an exchange is under way
# Read at once from a client that is not known yet, or that pipelines. What is left of a read is copied for each request in
# it, so a large read full of small requests would cost each of them more than itself.
PIPELINED_BYTES: Final = 16384
# What is read and thrown away of a refused request's body, in either protocol: any that might have been taken. Many send it all
# before they read: where it is not, httpx, and with it OpenAI's SDK, gets no 401 or 429 but an error, or over HTTP/2 nothing.
DISCARD_BYTES: Final = 32 << 20
BODY_PROGRESS_BYTES: Final = 256  # the least that a body must bring within the stall limit
WRITE_PROGRESS_BYTES: Final = 1024  # the least that a client must take within the write limit
LINGER_BYTES: Final = DISCARD_BYTES  # the same where the connection ends with the answer
LINGER_REFUSED_BYTES: Final = 65536  # of who was sent away
LINGER_S: Final = 2.0


class State(enum.IntEnum):
    HEAD = 0
    OPENING = 1
    BODY = 2
    BUSY = 3
    DISCARD = 4
    FLUSH = 5
    LINGER = 6
    TUNNEL = 7
    CLOSED = 8


# Plain module constants: looking a member up on an Enum class costs 50 ns on CPython 3.11, thirty times a request.
HEAD: Final = State.HEAD
OPENING: Final = State.OPENING
BODY: Final = State.BODY
BUSY: Final = State.BUSY
DISCARD: Final = State.DISCARD
FLUSH: Final = State.FLUSH
LINGER: Final = State.LINGER
TUNNEL: Final = State.TUNNEL
CLOSED: Final = State.CLOSED
