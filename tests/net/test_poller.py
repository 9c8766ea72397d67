"""The poller's look: what happens in it may end it, and however dense the traffic, the loop gets its turn."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from time import monotonic

import pytest

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


class Echo(Polled):
    """Answers each byte with a byte."""

    __slots__ = ("answered", "deferred", "poller", "sock")

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self.poller = reactor.poller
        self.sock = sock
        self.fd = sock.fileno()
        self.answered = 0
        self.deferred = 0

    def _readable(self) -> None:
        self.sock.send(self.sock.recv(1))
        self.answered += 1
        self.poller.soon(self._later)

    def _later(self) -> None:
        self.deferred += 1


@pytest.mark.quiet
async def test_the_loop_gets_its_turn_while_the_traffic_is_dense() -> None:
    reactor = Reactor(asyncio.get_running_loop(), alone=True)
    ours, theirs = socket.socketpair()
    echo = Echo(reactor, ours)
    reactor.poller.watch(echo, READ)
    stop = threading.Event()

    def play() -> None:
        while not stop.is_set():
            theirs.send(b"x")
            theirs.recv(1)

    player = threading.Thread(target=play, daemon=True)
    player.start()
    lags = []
    end = monotonic() + 0.6
    while monotonic() < end:
        begun = monotonic()
        await asyncio.sleep(0.002)
        lags.append(monotonic() - begun - 0.002)
    stop.set()
    # The last byte is answered by a look of its own.
    await asyncio.to_thread(player.join, 5.0)
    await asyncio.sleep(0)
    assert not player.is_alive()
    assert echo.answered > 200, "it was no dense traffic"
    assert echo.deferred == echo.answered, "what was put off has run"
    # Two milliseconds by design; the median, because two shared cores have bad moments.
    assert sorted(lags)[len(lags) // 2] < 0.006
    reactor.poller.watch(echo, 0)
    reactor.close()
    ours.close()
    theirs.close()


async def test_what_the_kernel_refuses_to_watch_is_not_taken_for_watched() -> None:
    reactor = Reactor(asyncio.get_running_loop())
    with tempfile.TemporaryFile() as file:
        one = Polled()
        one.fd = file.fileno()
        with pytest.raises(PermissionError):
            reactor.poller.watch(one, READ)
        assert one.interest == 0
        assert len(reactor.poller) == 0
        reactor.poller.watch(one, 0)
    reactor.close()
