"""Through which gateways a request has come (``Via``, RFC 9110 §7.6.3), so that none goes round and round.

Each gateway has a pseudonym, of its process and of nobody's address, and puts it behind what a request says. Owns: what it
writes, and what a request may say. A request that says our own pseudonym has been here; one that goes round somewhere else, or
between the processes of one gateway, ends after :data:`MOST_HOPS`. Asked once for each head that is new on its connection.
"""

from __future__ import annotations

from typing import Final

from fastgw.errors import GatewayError

OURS: Final = b"fastgw-"
"""What a gateway's pseudonym begins with."""

MOST_HOPS: Final = 8
"""Gateways of this kind that a request may have come through."""



class Hops:
    """What one gateway says of itself, as ``instance``, and finds said."""

    __slots__ = ("_alone", "_pseudonym")

    def __init__(self, instance: bytes) -> None:
        self._pseudonym = OURS + instance
        # (Nearly all requests say nothing: for them no text is made.)
        self._alone = {"h1": b"via: 1.1 %b\r\n" % self._pseudonym, "h2": b"via: 2 %b\r\n" % self._pseudonym}

    def line(self, said: bytes | None, protocol: str) -> bytes:
        """What engines are told; ``said`` is the request's ``Via``, ``protocol`` by which it came, ``h1`` or ``h2``."""
        alone = self._alone[protocol]
        return b"via: %b, %b" % (said, alone[5:]) if said else alone

    def refuse_rounds(self, said: bytes) -> None:
        """Raises GatewayError for a request that goes round."""
        if said.find(self._pseudonym) >= 0:
            raise GatewayError("loop_detected", "This gateway has sent this request itself: an engine of its leads back to it.")
        if said.count(OURS) >= MOST_HOPS:
            raise GatewayError("loop_detected", f"This request has come through {MOST_HOPS} gateways: it goes round.")
