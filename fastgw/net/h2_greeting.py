"""The question whether an engine speaks HTTP/2, on a connection of its own and by nothing but its first frame.

Without TLS: with it a handshake says so. Many engines are asked soon after the start: what speaks HTTP/2 is not imported.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fastgw.net.fetch import connected
from fastgw.net.wire import Address
from fastgw.protocol.h2 import frames as h2

GREETING: Final = h2.PREFACE + h2.settings({})


async def speaks_h2(addresses: tuple[Address, ...], timeout_s: float, silent: bool | None = False) -> bool | None:
    """Whether who answers at the first of ``addresses`` that accepts greets us in HTTP/2. None = nobody answered at all. (A
    server of HTTP/1 says 400, or closes.) ``silent``: what it means that nothing is said, in time or before the end."""
    try:
        async with asyncio.timeout(timeout_s):
            for family, address in addresses:
                try:
                    return await _greets(family, address, silent)
                except OSError:
                    continue
    except TimeoutError:
        return silent
    return None


async def _greets(family: int, address: object, silent: bool | None) -> bool | None:
    async with connected(family, address) as channel:
        await channel.send(GREETING)
        said = b""
        try:
            while len(said) < 9:
                data = await channel.receive()
                if not data:
                    return False if said else silent
                said += data
        except OSError:
            return False if said else silent
        greets = said[3] == h2.SETTINGS and not said[4] & h2.ACK and said[5:9] == bytes(4)
        if greets:
            await channel.send(h2.goaway(0, h2.NO_ERROR))
        return greets
