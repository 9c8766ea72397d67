"""A connection of an engine's pool that its own side has made (a runner's tunnel): adopted, not dialled, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw.limits.breaker import CLOSED, OPEN
from fastgw.net.clock import monotonic
from fastgw.net.h2_upstream import H2UpstreamConn
from tests.conversations.h2_row import REFUSED_STREAM, H2Talk, h2, streaming
from tests.support.byhand.h2 import H2Peer, HandWire
from tests.support.requests import chat


@contextmanager
def dialled_in(engines: int = 1, connections: int = 1, **settings: Any) -> Iterator[H2Talk]:
    """The first engine is behind a tunnel."""
    with h2(engines, policy="ordered", **settings) as say:
        say.engine.engine.tunnelled = True
        say.engine.engine.addresses = ()
        for _ in range(connections):
            adopts(say)
        yield say
        say.engine.close(True)


def adopts(say: H2Talk) -> tuple[H2Peer, H2UpstreamConn]:
    """Its side has dialled."""
    wire = HandWire(say.engine.reactor, lambda wire: None)
    peer = H2Peer(say.engine, wire)
    say.engine.peers.append(peer)
    return peer, say.engine.adopt(wire)


def test_a_request_waits_for_its_greeting_and_goes_over_it() -> None:
    with dialled_in() as say:
        client = say.talk.client().says(chat())
        say.engine.peers[0].greets(max_concurrent_streams=1)
        say.last.answers()
        client.sees(200)
        second, third = (say.talk.client().says(chat()) for _ in range(2))
        say.last.answers()
        second.sees(200)
        say.last.answers()  # the place came free
        third.sees(200)
        assert len(say.engine.peers) == 1


def test_without_one_nothing_is_dialled_and_another_engine_is_asked() -> None:
    with dialled_in(2, connections=0) as say:
        client = say.talk.client().says(chat())
        say.talk.engines[1].last.answers()
        client.sees(200)
    with dialled_in(connections=0) as say:
        say.talk.client().says(chat()).sees(502, "bad_gateway")
        assert say.engine.peers == []


def test_what_was_cut_off_together_is_one_failure() -> None:
    with dialled_in() as say:
        say.engine.peers[0].greets(max_concurrent_streams=100)
        clients = streaming(say, 12)
        say.engine.peers[0].closes("reset")
        assert all(client.sink is None for client in clients), "all have ended"
        breaker = say.engine.engine.breaker
        assert (breaker.state, breaker.failures) == (CLOSED, 1)


def test_an_open_breaker_lets_one_try_when_its_side_has_dialled_again() -> None:
    with dialled_in(connections=0, cb_failure_threshold=1) as say:
        say.engine.engine.breaker.failed(monotonic(), 0.0, probe=False)
        say.talk.client().says(chat()).sees(503, "circuit_open")
        adopts(say)[0].greets(max_concurrent_streams=8)
        client = say.talk.client().says(chat())
        say.last.answers()
        client.sees(200)


def test_one_that_does_not_greet_is_given_up_with_those_who_wait() -> None:
    with dialled_in() as say:
        client = say.talk.client().says(chat())
        say.talk.passes(5.5)
        client.sees(504, "upstream_timeout")
        assert say.engine.connections == 0


def test_it_is_kept_while_it_is_idle_and_while_its_engine_is_drained() -> None:
    with dialled_in() as say:
        peer = say.engine.peers[0].greets(max_concurrent_streams=8)
        for _ in range(6):
            say.talk.passes(10.0)
            peer.look()  # (it answers what it is asked)
        say.engine.close()
        say.talk.loop.settle()
        assert not peer.wire.closed
        say.engine.reopen()
        client = say.talk.client().says(chat())
        say.last.answers()
        client.sees(200)
        say.engine.close(True)
        say.talk.loop.settle()
        assert peer.wire.closed


@pytest.mark.parametrize("how", ["silent", "reset"])
def test_one_that_is_lost_fails_what_has_not_begun_over_to_another(how: str) -> None:
    with dialled_in(2) as say:
        peer = say.engine.peers[0].greets(max_concurrent_streams=8)
        say.engine.engine.fleeting = True
        client = say.talk.client().says(chat())
        assert len(say.asked) == 1
        if how == "reset":
            peer.closes("reset")
        else:
            peer.acks = False
            for _ in range(3):
                say.talk.passes(10.5)
        say.talk.engines[1].last.answers()
        client.sees(200)


def test_the_newer_takes_what_is_new_when_the_older_leaves() -> None:
    with dialled_in(connections=0) as say:
        old, conn = adopts(say)
        old.greets(max_concurrent_streams=8)
        first = say.talk.client().says(chat())
        old.look()
        conn.retire("another has come")
        new, kept = adopts(say)
        second = say.talk.client().says(chat())
        new.greets(max_concurrent_streams=8)
        assert (len(old.look().asked), len(new.look().asked)) == (1, 1)
        old.asked[0].answers()
        first.sees(200)
        say.talk.loop.settle()
        assert old.wire.closed
        new.asked[0].answers()
        second.sees(200)
        assert not new.wire.closed
        assert kept.spare() == 8


@pytest.mark.parametrize("tunnel", [True, False])
def test_who_refuses_all_has_nobody_behind_it_however_long_it_was_well(tunnel: bool) -> None:
    """Its connection lives on when its engine has died: no request waits for that, and the breaker hears of it."""
    with dialled_in(2, cb_failure_threshold=2) if tunnel else h2(2, policy="ordered", cb_failure_threshold=2) as say:
        if tunnel:
            say.engine.peers[0].greets(max_concurrent_streams=100)
        well = say.talk.client().says(chat())
        say.last.answers()
        well.sees(200)
        clients = [say.talk.client().says(chat()) for _ in range(2)]
        refused = 1
        while len(say.asked) > refused:
            say.asked[refused].resets(REFUSED_STREAM)
            refused += 1
        assert refused <= 1 + 3 * len(clients)
        for asked in list(say.talk.engines[1].asked):
            asked.answers()
        for client in clients:
            client.sees(200)
        assert say.engine.engine.breaker.state == OPEN


@pytest.mark.parametrize("tunnel", [True, False])
def test_who_takes_no_streams_fails_and_is_left_alone(tunnel: bool) -> None:
    with dialled_in(2, cb_failure_threshold=1) if tunnel else h2(2, policy="ordered", cb_failure_threshold=1) as say:
        first, second = say.talk.engines
        first.greeting = {"max_concurrent_streams": 0}
        if tunnel:
            first.peers[0].greets(max_concurrent_streams=0)
        late = say.talk.client().says(chat())
        say.talk.passes(5.3)
        second.last.answers()
        late.sees(200)
        client = say.talk.client().says(chat())
        second.last.answers()
        client.sees(200)
        assert first.asked == []
