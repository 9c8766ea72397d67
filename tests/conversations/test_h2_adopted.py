"""A connection of an engine's pool that its own side has made (a runner's tunnel): adopted, not dialled, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw.limits.breaker import CLOSED, OPEN
from fastgw.net.clock import monotonic
from fastgw.net.h2_upstream import H2UpstreamConn
from tests.conversations.h2_row import ENHANCE_YOUR_CALM, REFUSED_STREAM, H2Talk, h2, streaming
from tests.support.byhand.h2 import H2Peer, HandWire
from tests.support.requests import chat
from tests.support.scripts import EVENT


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


def _leaves(say: H2Talk) -> None:
    """It will take no more on the connection, and greets nobody on another."""
    say.engine.greeting = None
    say.engine.peers[0].goes(1)


TAKES_NO_MORE: dict[str, tuple[Callable[[H2Talk], object], Callable[[H2Talk], object]]] = {
    "refuses": (lambda say: None, lambda say: say.last.resets(REFUSED_STREAM)),
    "wants it calm": (lambda say: None, lambda say: say.last.resets(ENHANCE_YOUR_CALM)),
    "says that all are above the last": (lambda say: None, lambda say: say.last.peer.goes(say.last.number - 1)),
    "greets nobody more": (_leaves, lambda say: None),
    "has room for none": (lambda say: say.peer.greets(max_concurrent_streams=0), lambda say: None),
    "reads nothing": (lambda say: say.peer.greets(initial_window_size=0), lambda say: None),
}


@pytest.mark.parametrize("how", list(TAKES_NO_MORE))
def test_who_keeps_one_request_and_takes_no_other_has_failed(how: str) -> None:
    """Whoever it keeps says nothing for it; nor does it cost each of the others half a minute."""
    begins, does = TAKES_NO_MORE[how]
    with h2(2, policy="ordered", cb_failure_threshold=2, first_byte_timeout_s=5.0) as say:
        first, second = say.talk.engines
        streaming(say)
        begins(say)
        for _ in range(2):
            before = len(second.asked)
            client = say.talk.client().says(chat())
            for _ in range(12):
                if client.answers or len(second.asked) > before:
                    break
                if say.last.reset is None and not say.last.peer.wire.closed and len(say.asked) > 1:
                    does(say)
                say.talk.passes(0.5)
                say.asked[0].says(EVENT)
            for asked in second.asked[before:]:
                asked.answers()
            assert client.seen.status in (200, 502, 504)
        assert first.engine.breaker.state == OPEN
        got = len(first.asked)
        client = say.talk.client().says(chat())
        second.last.answers()
        client.sees(200)
        assert len(first.asked) == got


def test_who_is_as_full_as_it_says_has_not() -> None:
    """Its one place is taken, by its own word; and whoever was on the way when it said so is told to come again."""
    with h2(2, policy="ordered", max_connections=1, cb_failure_threshold=1) as say:
        streaming(say)
        crossed = say.talk.client().says(chat())
        say.peer.greets(max_concurrent_streams=1)
        say.last.resets(REFUSED_STREAM)
        client = say.talk.client().says(chat())
        say.talk.passes(5.3)
        for asked in list(say.talk.engines[1].asked):
            asked.answers()
        for one in (crossed, client):
            one.sees(200)
        assert say.engine.engine.breaker.state == CLOSED
