"""Which ids of requests may be repeated: written to logs, told to engines and to clients."""

from __future__ import annotations

from typing import Final

_FIT: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:~+/=@-"
_PEERS: Final = (b"___prefill_addr_", b"___decode_addr_")


def valid_request_id(value: bytes) -> bool:
    """Whether a client's ``x-request-id`` may be taken over: 1 to 128 bytes that need no escaping anywhere,
    and do not name an engine's peers."""
    # (vLLM's P2P connector reads the addresses of peers, which it then dials, out of a request's id.)
    if not 0 < len(value) <= 128 or value.translate(None, _FIT):
        return False
    return value.find(_PEERS[0]) < 0 and value.find(_PEERS[1]) < 0
