"""One question to an engine beside the traffic: a probe, its models, its gauges. In the protocol that it speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fastgw.net.channel import Channel
from fastgw.net.fetch import fetch
from fastgw.net.wire import Address

if TYPE_CHECKING:
    from fastgw.net.certificates import Believed


class Asked(Protocol):
    """What is read of an engine."""

    @property
    def addresses(self) -> tuple[Address, ...]: ...
    @property
    def base(self) -> bytes: ...
    @property
    def head_block(self) -> bytes: ...
    @property
    def h2(self) -> bool: ...
    @property
    def protocol(self) -> str: ...
    @property
    def secure(self) -> Believed | None: ...
    @property
    def secure_h2(self) -> Believed | None: ...


async def get(
    engine: Asked,
    path: bytes,
    fields: bytes,
    timeout_s: float,
    max_bytes: int,
    agreed: Callable[[bool], None] | None = None,
) -> tuple[int, bytes]:
    """(status, body) of what the engine has at ``path``; ``fields`` are lines beside those that all requests to it have. Over
    TLS one of ``auto`` is asked in what the handshake says, and ``agreed`` is told whether that is HTTP/2. Raises
    FetchError."""
    lines = engine.head_block + fields
    if engine.secure_h2 is not None and engine.protocol == "auto":

        async def as_agreed(channel: Channel) -> tuple[int, bytes] | None:
            h2 = channel.protocol() == "h2"
            if agreed is not None:
                agreed(h2)
            if not h2:
                return None
            from fastgw.net.h2_fetch import ask  # (no part of a start)

            return await ask(channel, engine.base + path, lines, max_bytes, True)

        return await fetch(engine.addresses, engine.base + path, lines, timeout_s, max_bytes, engine.secure_h2, as_agreed)
    if engine.h2:
        from fastgw.net.h2_fetch import fetch_h2  # (no part of a start)

        return await fetch_h2(engine.addresses, engine.base + path, lines, timeout_s, max_bytes, engine.secure_h2)
    return await fetch(engine.addresses, engine.base + path, lines, timeout_s, max_bytes, engine.secure)


async def post(engine: Asked, path: bytes, body: bytes, timeout_s: float, max_bytes: int) -> tuple[int, bytes]:
    """(status, body) of what the engine answers there to ``body``, JSON, in HTTP/1.1: who is asked so speaks no other. Raises
    FetchError."""
    return await fetch(
        engine.addresses, engine.base + path, engine.head_block, timeout_s, max_bytes, engine.secure, None, body
    )
