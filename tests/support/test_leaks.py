"""The watch for leaks sees one when there is one."""

from __future__ import annotations

from fastgw import Config, Gateway
from tests.support import leaks


def test_what_is_still_held_is_counted_and_what_is_dropped_is_not() -> None:
    leaks.forget()
    held = [Gateway(Config()), Gateway(Config())]
    assert leaks.left() == {"Gateway": 2}
    held[0].__dict__["itself"] = held[0]  # a cycle: only the collector finds it
    held.clear()
    assert leaks.left() == {}


def test_a_gateway_that_lost_count_is_named() -> None:
    with leaks.gateways() as made:
        gateway = Gateway(Config())
    gateway.stats.exchanges_open += 1
    assert leaks.alive(made) == [{"exchanges_open": 1}]
    gateway.stats.exchanges_open -= 1
    assert leaks.alive(made) == []


async def test_a_running_gateway_counts_as_alive() -> None:
    leaks.forget()
    gateway = Gateway(Config(port=0))
    await gateway.start()
    left = leaks.left()
    await gateway.stop()
    assert {"Gateway", "GatewayCore", "Listener", "TimerWheel"} <= set(left)
    del gateway
