"""The end of a gateway, as its clients see it.

    leaving      "not ready", and all else as ever: whoever sends requests here is given time to notice (``delay_s``)
    draining     what is under way goes on; new work is 503, on new connections too, so that nobody finds the door shut
    over         nothing is left, or the time is over: then nobody is let in any more, and what is left is broken off

Or another process takes clients from now on: whoever has a connection here is served, and sent there with his next answer.

Owns that order. Must never: close the listener while something is still under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from fastgw.exchange.gateway import CLOSES, GatewayCore
from fastgw.net.client import Connection
from fastgw.net.listener import Listener
from fastgw.stats import EventLog

LOOK_S: Final = 0.01


async def drain(
    core: GatewayCore, listener: Listener, log: EventLog, *, delay_s: float, drain_s: float, lasting: bool = False
) -> None:
    """Bring it to its end. May be cancelled and asked again, with less time. ``lasting``: the sockets are somebody's who keeps
    them for the next one."""
    core.leaving = True
    if delay_s:
        await asyncio.sleep(delay_s)
    core.begin_drain()
    await until(lambda: not core.busy(), monotonic() + drain_s)
    listener.close(lasting)
    if core.busy():
        log.warning("drain time over", aborted=core.busy())
        core.abort_all()
    core.close_idle(list(core.connections))  # those that have come meanwhile, and asked nothing


def send_on(core: GatewayCore) -> None:
    """Clients are to come again elsewhere: whoever is told with his next answer, and whoever can be told before is now."""
    core.draining = True  # (and not `leaving`: what comes here all the same is served)
    core.version += 1
    _part(core, list(core.connections))


def _part(core: GatewayCore, left: list[Connection]) -> None:
    for connection in left[-CLOSES:]:
        connection.retire()
    del left[-CLOSES:]
    if left:
        core.reactor.loop.call_soon(_part, core, left)


async def retire(core: GatewayCore, listener: Listener, seconds: float) -> None:
    """Take nobody else on sockets that others have too, and return when nothing is under way here, or so much later."""
    listener.close(others=True)
    send_on(core)
    await until(lambda: not (core.connections or core.unread), monotonic() + seconds)


async def until(condition: Callable[[], bool], deadline: float) -> None:
    """Look every few milliseconds: the data plane has no event for "the last one ended", and pays for none."""
    while not condition() and monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(min(LOOK_S, max(0.0, deadline - monotonic())))
