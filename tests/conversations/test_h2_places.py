"""Places on an engine's HTTP/2 connections: who waits for one, what becomes of them, and of connections that go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.limits.breaker import CLOSED
from fastgw.net.h2_upstream import PING_S
from fastgw.upstream.h2_slots import MOST_UNWANTED, WARM_PAUSE_S
from tests.conversations.h2_row import ENHANCE_YOUR_CALM, REFUSED_STREAM, H2Talk, frame, h2, streaming
from tests.support.requests import chat
from tests.support.scripts import DONE, EVENT

FULL: dict[str, Any] = {"greeting": {"max_concurrent_streams": 1}, "max_connections": 1}
CONNECT_S = 5.0
HTTP_1_1_REQUIRED = 13


class TestFull:
    def test_an_engine_that_has_all_that_it_takes_is_well(self) -> None:
        """No place came free: that is no dial that failed, and nothing against the engine (CASES J9)."""
        with h2(**FULL) as say:
            [client] = streaming(say)
            late = [say.talk.client().says(chat()) for _ in range(5)]
            say.talk.passes(CONNECT_S + 0.3)
            for one in late:
                assert one.sees(503, "engine_busy").header("retry-after") == "1"
            engine = say.engine.engine
            assert (engine.failures_total, engine.failures, engine.healthy is False) == (0, 0, False)
            assert engine.breaker.state == CLOSED
            say.asked[0].says(DONE, last=True)
            client.sees(200)
            assert (engine.inflight, say.talk.stats.upstream_open) == (0, 1)

    def test_another_engine_is_asked_instead(self) -> None:
        with h2(2, policy="ordered", **FULL) as say:
            streaming(say)
            late = say.talk.client().says(chat())
            say.talk.passes(CONNECT_S + 0.3)
            say.talk.engines[1].last.answers()
            late.sees(200)

    def test_one_that_greets_nobody_is_not(self) -> None:
        with h2() as say:
            say.engine.greeting = None
            late = say.talk.client().says(chat())
            say.talk.passes(CONNECT_S + 0.3)
            assert late.seen.status in (502, 504)
            assert say.engine.engine.failures_total == 1

    @pytest.mark.parametrize("goes", [
        lambda say: say.peer.closes(),
        lambda say: say.peer.goes(1).closes("reset"),
        lambda say: (say.peer.goes(1), say.asked[0].says(DONE, last=True)),
        lambda say: say.peer.says(frame(6, 0, 1, bytes(8))),
    ], ids=["fin", "reset", "goaway", "broken"])  # fmt: skip
    def test_who_waits_gets_the_place_of_a_connection_that_goes(self, goes: Callable[[H2Talk], object]) -> None:
        with h2(**FULL) as say:
            streaming(say)
            late = say.talk.client().says(chat())
            goes(say)
            assert len(say.engine.peers) == 2
            say.last.answers()
            late.sees(200)

    def test_places_that_no_PING_gives_back_are_replaced(self) -> None:
        """It says this and that, and does not acknowledge PINGs: what was given up on it would never be free again."""
        with h2(greeting={"max_concurrent_streams": 2}) as say:
            [client] = streaming(say)
            say.peer.acks = False
            say.talk.client().says(chat()).leaves()
            for _ in range(4):
                say.talk.passes(PING_S - 1)
                say.asked[0].says(EVENT)
            late = say.talk.client().says(chat())
            assert len(say.engine.peers) == 2
            say.last.answers()
            late.sees(200)
            say.asked[0].says(DONE, last=True)
            client.sees(200)
            assert say.engine.peers[0].wire.closed


class TestReplays:
    @pytest.mark.parametrize("shows", [
        lambda say: say.peer.goes(3),
        lambda say: say.peer.says(frame(8, 0, 3, b"\0\0\1\0")),
        lambda say: [(say.talk.passes(PING_S), say.peer.look()) for _ in range(3)],
    ], ids=["GOAWAY", "WINDOW_UPDATE", "PING"])  # fmt: skip
    def test_what_the_engine_has_is_not_sent_again(self, shows: Callable[[H2Talk], object]) -> None:
        """The connection was idle when it was asked; but it did not die of that, for the engine has shown since that it has
        the request (RFC 9110 §9.2.2)."""
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)
            client.says(chat())
            assert len(say.asked) == 2
            shows(say)
            say.peer.closes("reset")
            client.sees(502, "bad_gateway")
            assert (len(say.asked), say.talk.stats.replays_total) == (2, 0)
            assert say.engine.engine.failures_total == 1

    @pytest.mark.parametrize("refuses", [
        lambda say: say.last.resets(REFUSED_STREAM),
        lambda say: say.peer.goes(0),
    ], ids=["REFUSED_STREAM", "GOAWAY"])  # fmt: skip
    def test_what_has_begun_is_not_however_it_is_called(self, refuses: Callable[[H2Talk], object]) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(say.peer.head(1, 103, []))
            refuses(say)
            client.sees(502, "bad_gateway")
            assert len(say.asked) == 1

    def test_the_record_says_why_a_stream_ended_alone(self) -> None:
        with h2() as say:
            streaming(say, 2)
            say.asked[0].resets(ENHANCE_YOUR_CALM)
            say.peer.says(say.peer.head(3, 200, []))
            said = [record["detail"].partition(": ")[2] for record in say.talk.records]
            assert said == ["the stream was reset: ENHANCE_YOUR_CALM", "fields in the middle of a body, or in a tunnel"]

    def test_the_policy_has_its_word_all_the_same(self) -> None:
        with h2(2, policy="ordered") as say:
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)
            client.says(chat())
            say.engine.peers[0].goes(3).closes()
            say.talk.passes(1.0)
            say.talk.engines[1].last.answers()
            client.sees(200)

    def test_one_replay_does_not_meet_the_next_that_died(self) -> None:
        """An engine that restarts ends all its connections, and they are read one after the other."""
        with h2(warm_connections=2) as say:
            for _ in range(2):
                say.engine.keep_warm()
                say.talk.loop.settle()
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)
            client.says(chat())
            wires = [peer.wire for peer in say.engine.peers]
            for wire in wires:
                wire.waiting.append("")
            for wire in wires:
                wire.holder.on_readable()
            say.talk.loop.settle()
            say.last.answers()
            client.sees(200)
            assert say.talk.stats.replays_total == 1

    def test_whose_connection_dies_under_the_replay_too_has_failed(self) -> None:
        """However warm that one was: an engine that greets, and closes at each request, would never be left alone."""
        with h2(warm_connections=2) as say:
            for _ in range(2):
                say.engine.keep_warm()
                say.talk.loop.settle()
            client = say.talk.client().says(chat())
            for _ in range(2):
                say.last.peer.closes("reset")
            client.sees(502, "bad_gateway")
            assert (len(say.asked), say.engine.engine.failures_total) == (2, 1)

    def test_a_request_that_must_be_HTTP1_is_no_reason_to_dial(self) -> None:
        """Where the setting says HTTP/2, its client gets the error; nobody else notices."""
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat())
            say.last.resets(HTTP_1_1_REQUIRED)
            client.sees(502, "bad_gateway")
            say.asked[0].says(DONE, last=True)
            other.sees(200)
            assert (len(say.asked), len(say.engine.peers)) == (2, 1)
            [found] = [record["detail"] for record in say.talk.records if record["status"] == 502]
            assert found.endswith("HTTP_1_1_REQUIRED, and protocol = h2: with auto it is asked in HTTP/1.1")

    def test_nor_is_a_connection_that_must_be(self) -> None:
        """It would be dialled, and say so, again and again."""
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(7, 0, 0, bytes(7) + bytes((HTTP_1_1_REQUIRED,))))
            client.sees(502, "bad_gateway")
            assert len(say.engine.peers) == 1
            assert say.talk.records[0]["detail"].endswith("with auto it is asked in HTTP/1.1")

    @pytest.mark.parametrize("among_others", [True, False])
    def test_it_goes_over_HTTP1_where_that_is_spoken(self, among_others: bool) -> None:
        """On a connection of its own; the engine is asked in HTTP/2 still, until it wants none of many in a row."""
        with h2() as say:
            say.engine.engine.protocol = "auto"
            [other] = streaming(say)
            for at in range(MOST_UNWANTED):
                say.talk.client().says(chat())
                say.last.resets(HTTP_1_1_REQUIRED)
                assert say.engine.dials_h1 == at + 1
                if among_others:
                    client = say.talk.client().says(chat())
                    say.last.answers()
                    client.sees(200)
            assert say.engine.engine.h2 is among_others
            say.asked[0].says(DONE, last=True)
            other.sees(200)


class TestSilence:
    """An engine that is stopped, or cut off: its kernel still takes what it is sent, and connections too."""

    @pytest.mark.parametrize("hears", ["nothing", "a connection"])
    def test_a_new_connection_has_the_time_to_connect(self, hears: str) -> None:
        """Until SETTINGS have come."""
        with h2() as say:
            if hears == "nothing":
                say.engine.dial = "hangs"
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            say.talk.passes(CONNECT_S - 0.5)
            assert not client.answers
            say.talk.passes(1.0)
            client.sees(504, "upstream_timeout")

    def test_an_idle_one_is_asked_with_the_request_and_given_up_for_one_that_lives(self) -> None:
        with h2(warm_connections=2) as say:
            for _ in range(2):
                say.engine.keep_warm()
                say.talk.loop.settle()
            peers = list(say.engine.peers)
            for _ in range(2):
                say.talk.passes(PING_S)
                for peer in peers:
                    peer.look()
            for peer in peers:
                peer.acks = False
            client = say.talk.client().says(chat())
            frames = [frame for peer in peers for frame in peer.look().frames[-4:]]
            assert [type(frame).__name__ for frame in frames].count("HeadersFrame") == 1
            assert [type(frame).__name__ for frame in frames].count("PingFrame") >= 1
            say.talk.passes(PING_S + 0.5)
            assert len(say.engine.peers) > 2, "the other has not been heard of either"
            say.last.answers()
            client.sees(200)

    def test_one_that_was_heard_of_just_now_has_two_looks(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)
            say.peer.acks = False
            client.says(chat())
            for _ in range(2):
                assert len(say.engine.peers) == 1
                say.talk.passes(PING_S + 0.2)
            say.last.answers()
            client.sees(200)
            assert len(say.engine.peers) == 2

    def test_and_then_the_time_to_connect(self) -> None:
        with h2(warm_connections=1) as say:
            say.engine.keep_warm()
            say.talk.loop.settle()
            for _ in range(2):
                say.talk.passes(PING_S)
                say.peer.look()
            say.peer.acks = False
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            say.talk.passes(PING_S + CONNECT_S + 1.0)
            client.sees(504, "upstream_timeout")

    def test_one_that_is_slow_and_there_is_waited_for(self) -> None:
        with h2(warm_connections=1) as say:
            say.engine.keep_warm()
            say.talk.loop.settle()
            for _ in range(2):
                say.talk.passes(PING_S)
                say.peer.look()
            client = say.talk.client().says(chat())
            for _ in range(10):
                say.peer.look()
                say.talk.passes(PING_S)
            say.last.answers()
            client.sees(200)
            assert len(say.engine.peers) == 1


class TestWarm:
    @pytest.mark.parametrize("ends", [lambda say: say.peer.goes(0), lambda say: say.peer.closes()], ids=["GOAWAY", "fin"])
    def test_one_that_goes_at_once_is_not_dialled_again_and_again(self, ends: Callable[[H2Talk], object]) -> None:
        """An engine that is about to end takes connections, and gives each up at once."""
        with h2(warm_connections=1) as say:
            for _ in range(5):
                say.engine.keep_warm()  # (as each probe does)
                say.talk.loop.settle()
                for _ in range(5):
                    ends(say)
            assert len(say.engine.peers) <= 5
            client = say.talk.client().says(chat())  # which is not made to wait
            say.last.answers()
            client.sees(200)
            say.peer.goes(1)
            assert len(say.engine.peers) == 7, "one that was of use is replaced at once"
            say.talk.passes(WARM_PAUSE_S)
            say.peer.goes(0)
            assert len(say.engine.peers) == 8, "and one that has lasted"
