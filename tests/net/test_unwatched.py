"""A descriptor that the kernel has no room to watch again: whoever has it is told so at once, and it ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from fastgw.net.h1_upstream import H1UpstreamConn
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.stats import NullLog, Stats
from tests.net.talk import Front, HeardCarrier, turns, until
from tests.net.test_h1_upstream import OWN, Back, Pool
from tests.net.test_poller import Ear, _edge
from tests.support.unwatched import Phases, phases

WANTED = "No space left on device"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


async def _reactor(around: bool, stats: Stats) -> Reactor:
    return Reactor(asyncio.get_running_loop(), around, Shortage(NullLog(), stats))


class Stage:
    """A reactor of either form, its loop, and what it counted."""

    def __init__(self, stage: Phases, around: bool) -> None:
        self.stage = stage
        self.stats = Stats()
        self.reactor: Reactor = stage.well(_reactor(around, self.stats))

    def lacking(self, act: Callable[[], object], told: Callable[[], object]) -> None:
        """``act`` meets the shortage; soon ``told`` is true."""

        async def phase() -> None:
            act()
            await until(told)
            assert self.stats.shortages >= 1

        self.stage.full(phase())


def _close(stage: Phases, reactor: Reactor) -> None:
    async def end() -> None:
        await turns(2)
        reactor.close()

    stage.well(end())


@pytest.fixture(params=[False, True], ids=["within the loop", "around the loop"])
def here(request: pytest.FixtureRequest) -> Any:
    with phases() as stage:
        found = Stage(stage, request.param)
        try:
            yield found
        finally:
            _close(stage, found.reactor)
            del found.reactor  # (the fixture itself is kept for longer than its test)


@pytest.mark.parametrize("state", ["before a request", "in a body", "in a tunnel"])
def test_a_client_that_is_not_to_be_read_again_ends(here: Stage, state: str) -> None:
    async def begin() -> Front:
        place = Front(here.reactor)
        if state != "before a request":
            await place.ask(POST)
        if state == "in a tunnel":
            place.conn.tunnel()
        place.conn.wire.pause()
        await turns()
        return place

    place = here.stage.well(begin())
    here.lacking(place.conn.resume, lambda: place.conn.stream is None)
    assert place.service.ended == ["192.0.2.1"]
    assert [sink.heard for sink in place.service.sinks] == ([] if state == "before a request" else [[("gone", "fin")]])
    assert place.peer.sock.recv(100) == b"", "the client sees the end"
    place.end()


@pytest.mark.parametrize("state", ["answering", "idle"])
def test_an_engine_that_is_not_to_be_read_again_ends(here: Stage, state: str) -> None:
    async def begin() -> Back:
        place = Back(here.reactor, tcp=False)
        place.send()
        place.conn.wire.pause()
        await turns()
        return place

    place = here.stage.well(begin())
    if state == "answering":
        here.lacking(place.stream.resume, lambda: place.carrier.heard)
        assert place.carrier.heard == [("error", "engine_busy", f"no socket: {WANTED}")]
        assert place.pool.heard == ["gone"]
    else:
        here.lacking(lambda: place.conn.park(0.0, 1e9, 1e9), lambda: place.pool.heard)
        assert place.pool.heard == ["gone", ("idle closed", False)]
        assert place.carrier.heard == []
    assert place.conn.wire.closed
    assert place.stats.upstream_open == 0
    place.peer.sock.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dial_is_told_whether_it_finds_no_room_before_its_answer_or_behind(here: Stage, when: str) -> None:
    carrier, pool, stats = HeardCarrier(), Pool(), Stats()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = ((int(socket.AF_INET), listening.getsockname()), (int(socket.AF_INET), ("127.0.0.1", 1)))

        def dial() -> None:
            H1UpstreamConn.dial(here.reactor, address, pool, OWN, carrier, stats, 9.0)
            assert carrier.heard == [], "never from within"

        if when == "after":
            dial()  # here there is room, and the loop does not run: it hears of the answer in its next phase
        here.lacking(dial if when == "before" else lambda: None, lambda: pool.heard == ["gone"])
    first = [] if when == "before" else ["stream"]
    assert carrier.heard == [*first, ("error", "engine_busy", f"no socket: {WANTED}")]
    assert stats.upstream_open == 0


def test_a_poller_that_has_to_go_within_its_loop_does_so_when_there_is_room() -> None:
    """Where libuv watches something edge-triggered, the compiled poller does not stay around it."""
    heard: list[int] = []
    with phases() as stage:
        edge = _edge(stage.loop)
        stats = Stats()
        number = os.dup(edge)
        os.close(number)  # the poller's own is the next, and has this number
        reactor = Reactor(stage.loop, True, Shortage(NullLog(), stats))

        async def said(ear: Ear) -> None:
            ear.theirs.send(b"x")
            await until(lambda: heard)

        # (Its first turn shows what libuv watches: it is to come while there is no room.)
        ear = Ear(reactor, lambda: heard.append(1))
        stage.full(asyncio.sleep(0.05), only=number)
        assert heard == []
        stage.well(said(ear))
        ear.close(reactor)
        _close(stage, reactor)
        os.close(edge)
