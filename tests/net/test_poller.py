"""The poller's look: what happens in it may end it."""

from __future__ import annotations

import asyncio
import socket

from fastgw.net.poller import READ, Polled, Reactor


class Closer(Polled):
    """Closes the whole reactor as soon as it has something to read."""

    __slots__ = ("called", "reactor", "sock")

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.called = 0

    def _readable(self) -> None:
        self.called += 1
        self.reactor.close()


async def test_a_reactor_closed_within_a_look_calls_nobody_more() -> None:
    reactor = Reactor(asyncio.get_running_loop())
    pairs = [socket.socketpair() for _ in range(50)]
    closers = [Closer(reactor, mine) for mine, _ in pairs]
    for one, (_, other) in zip(closers, pairs, strict=True):
        reactor.poller.watch(one, READ)
        other.send(b"x")
    await asyncio.sleep(0.05)
    assert sum(one.called for one in closers) == 1
    for mine, other in pairs:
        mine.close()
        other.close()
