"""What a gateway's data plane must not leave behind, counted after each test that runs one.

Owns: the watch on every ``Gateway`` made meanwhile (its live counters are zero when it is dropped or stopped) and the
count of objects that live for one connection, one request or one gateway: the collector sees all of them, compiled or
not. Cost: a collection and a walk over what was made since :func:`forget` (or ``gc.freeze``).
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastgw.app import Gateway
from fastgw.stats import Stats

# By their names: a compiled class and its Python twin are two classes, and either may run.
WATCHED = (
    ("fastgw.app", "Gateway"),
    ("fastgw.exchange.attempt", "Attempt"),
    ("fastgw.exchange.exchange", "Exchange"),
    ("fastgw.exchange.gateway", "GatewayCore"),
    ("fastgw.exchange.intake", "Intake"),
    ("fastgw.exchange.merged", "MergedCall"),
    ("fastgw.exchange.relay", "Relay"),
    ("fastgw.exchange.tunnel", "Tunnel"),
    ("fastgw.exchange.unread", "Unread"),
    ("fastgw.exchange.upload", "Upload"),
    ("fastgw.net.h1_client", "H1ClientStream"),
    ("fastgw.net.h1_connection", "H1Connection"),
    ("fastgw.net.h1_upstream", "H1UpstreamConn"),
    ("fastgw.net.h1_upstream", "H1UpstreamStream"),
    ("fastgw.net.listener", "Listener"),
    ("fastgw.net.poller", "Poller"),
    ("fastgw.net.timers", "TimerWheel"),
    ("fastgw.net.wire", "PlainWire"),
    ("fastgw.policy.places", "Place"),
    ("fastgw.store.state", "State"),
    ("fastgw.upstream.pool", "Pool"),
)


def forget() -> None:
    """Whatever lives now is no test's: keep it out of collections and counts."""
    gc.collect()
    gc.freeze()


def left() -> dict[str, int]:
    """Live objects of the watched classes made since :func:`forget`, garbage collected first."""
    classes = {getattr(sys.modules.get(module), name, None) for module, name in WATCHED} - {None}
    gc.collect()
    return dict(Counter(type(one).__qualname__ for one in gc.get_objects() if type(one) in classes))


@contextmanager
def gateways() -> Iterator[list[Stats]]:
    """The counters of every gateway made within."""
    made: list[Stats] = []
    plain = Gateway.__init__

    def init(self: Gateway, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        made.append(self.stats)

    Gateway.__init__ = init  # type: ignore[method-assign]
    try:
        yield made
    finally:
        Gateway.__init__ = plain  # type: ignore[method-assign]


def alive(made: list[Stats]) -> list[dict[str, int]]:
    """What the counters of those gateways still call alive."""
    counted = ({name: count for name, count in stats.live().items() if count} for stats in made)
    return [live for live in counted if live]
