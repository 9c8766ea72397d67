"""One question to an engine beside the traffic: a probe, its models, its gauges. In the protocol that it speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
    def secure(self) -> Believed | None: ...
    @property
    def secure_h2(self) -> Believed | None: ...


async def get(engine: Asked, path: bytes, fields: bytes, timeout_s: float, max_bytes: int) -> tuple[int, bytes]:
    """(status, body) of what the engine has at ``path``; ``fields`` are lines beside those that all requests to it have. Raises
    FetchError."""
    lines = engine.head_block + fields
    if engine.h2:
        from fastgw.net.h2_fetch import fetch_h2  # (no part of a start)

        return await fetch_h2(engine.addresses, engine.base + path, lines, timeout_s, max_bytes, engine.secure_h2)
    return await fetch(engine.addresses, engine.base + path, lines, timeout_s, max_bytes, engine.secure)
