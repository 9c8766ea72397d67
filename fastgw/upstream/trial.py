"""Engines, asked once each before there is a gateway: what `fastgw check` says of them.

Owns: what is a mistake of the configuration and what is not: an engine that nobody answers for may come later. Must never: take
longer than it was given.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from fastgw.config import EngineConfig
from fastgw.net.fetch import FetchError
from fastgw.net.h2_greeting import speaks_h2
from fastgw.net.unusable import TlsError
from fastgw.upstream.asked import get
from fastgw.upstream.health import AT_ONCE, MAX_PROBE_BYTES
from fastgw.upstream.target import Engine


async def tried(engines: Sequence[EngineConfig], timeout_s: float) -> list[tuple[bool, str]]:
    """Of each engine whether it is as the configuration says (True also where nobody answered, which says nothing of it), and a
    line that says what came of it. Each has ``timeout_s`` for its name, as much for its answers, and for a greeting."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(config: EngineConfig) -> tuple[bool, str]:
        async with turns:
            return await _try(config, timeout_s)

    return await asyncio.gather(*map(one, engines))


async def _try(config: EngineConfig, timeout_s: float) -> tuple[bool, str]:
    try:
        engine = Engine(config)
    except TlsError as error:
        return False, str(error)
    if not engine.addresses:
        try:
            async with asyncio.timeout(timeout_s):
                found = await asyncio.get_running_loop().getaddrinfo(engine.host, engine.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError):
            return True, "its name is not known here"
        engine.addresses = tuple(dict.fromkeys((int(entry[0]), entry[4]) for entry in found))[:8]
    chosen: list[bool] = []
    try:
        async with asyncio.timeout(timeout_s):
            path, status = await _probed(engine, timeout_s, chosen)
    except TimeoutError:
        return True, f"no answer within {timeout_s:g} s"
    except FetchError as error:
        asks = engine.protocol == "auto" and engine.secure is None and not engine.h2
        if asks and await speaks_h2(engine.addresses, timeout_s):
            return True, "speaks HTTP/2 alone"
        return not error.wrong, str(error) if error.wrong else f"no answer: {error}"
    h2 = chosen[-1] if chosen else engine.h2
    secure = engine.secure
    trusted = "" if secure is None else f", its certificate is {'good' if secure.trust.verifies else 'not checked'}"
    at = "" if 200 <= status < 300 else f" at {path.decode()}: it is not well, or health_path has to say where else it is asked"
    return True, f"answers {status} in HTTP/{'2' if h2 else '1.1'}{trusted}{at}"


async def _probed(engine: Engine, timeout_s: float, chosen: list[bool]) -> tuple[bytes, int]:
    """The path that decided, and the status there: as health asks, whatever the kind answers. Raises FetchError."""
    path, status = b"", 0
    for path in engine.probe_paths:
        status, _ = await get(engine, path, b"", timeout_s, MAX_PROBE_BYTES, chosen.append)
        if 200 <= status < 300 or (status >= 500 and status != 501):
            break
    return path, status
