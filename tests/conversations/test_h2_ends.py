"""CASES E, F and I over HTTP/2: connections that die, and clients that leave."""

from __future__ import annotations

import pytest

from fastgw.net.h2_upstream import PING_S, RESETS
from fastgw.protocol.h2.budget import GLITCHES
from tests.conversations.h2_row import (
    CANCEL,
    broke_off,
    frame,
    h2,
    streaming,
)
from tests.support.byhand.h2 import JSON
from tests.support.requests import chat
from tests.support.scripts import ANSWER, DONE, EVENT


class TestLost:
    @pytest.mark.parametrize("how", ["fin", "reset"])
    def test_F5_every_stream_of_a_connection_that_dies_is_told(self, how: str) -> None:
        with h2() as say:
            clients = streaming(say, 3)
            say.peer.closes(how)  # type: ignore[arg-type]
            for client in clients:
                assert not client.seen.complete
                assert b"bad_gateway" in client.seen.body
            assert say.engine.engine.truncations_total == 3

    def test_E2_an_idle_connection_that_died_is_not_noticed(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)
            client.says(chat())
            say.engine.peers[0].closes()
            assert len(say.engine.peers) == 2
            say.last.answers()
            client.sees(200)
            assert say.talk.stats.replays_total == 1

    def test_E2_one_that_others_were_on_is(self) -> None:
        """It was no idle connection, and the engine may have begun: not asked again (RFC 9110 §9.2.2)."""
        with h2() as say:
            [stream] = streaming(say)
            client = say.talk.client().says(chat())
            say.engine.peers[0].closes("reset")
            client.sees(502, "bad_gateway")
            assert not stream.seen.complete
            assert len(say.engine.peers) == 1

    def test_an_end_that_is_still_to_be_said_keeps_no_connection_when_the_gateway_stops(self) -> None:
        """The answer was whole by its length; who would wait for END_STREAM is gone."""
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.begins([*JSON, (b"content-length", b"%d" % len(ANSWER))]).says(ANSWER)
            client.sees(200)
            say.engine.close(True)
            say.talk.passes(0)
            assert say.peer.look().wire.closed
            assert say.talk.stats.upstream_open == 0

    def test_PINGs_find_out(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            say.peer.acks = False
            say.talk.passes(2 * PING_S + 0.3)
            assert say.peer.frames[-1].type != 7
            assert client.waits is False or not client.seen.complete
            say.talk.passes(PING_S + 0.5)
            broke_off(say.talk, client)

    def test_PINGs_that_are_answered_keep_it(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            for _ in range(20):
                say.talk.passes(PING_S / 2)
                say.peer.look()
            say.asked[0].says(DONE, last=True)
            client.sees(200)


class TestI:
    def test_I1_a_client_that_leaves_cancels_at_once(self) -> None:
        with h2() as say:
            [gone, other] = streaming(say, 2)
            gone.leaves()
            assert say.peer.look().asked[0].reset == CANCEL
            assert say.peer.asked[1].reset is None
            say.asked[1].says(DONE, last=True)
            other.sees(200)
            assert say.engine.engine.failures_total == 0

    def test_I1_before_a_byte_of_an_answer(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            client.leaves()
            assert say.peer.last.reset == CANCEL

    def test_I1_before_the_connection_is_there(self) -> None:
        with h2() as say:
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            client.leaves()
            say.peer.greets(max_concurrent_streams=1)
            assert say.asked == []

    def test_I1_what_was_on_its_way_is_not_held_against_the_engine(self) -> None:
        with h2() as say:
            [gone, other] = streaming(say, 2)
            say.peer.acks = False
            gone.leaves()
            number = say.asked[0].number
            say.peer.says(say.peer.data(number, EVENT) * (2 * GLITCHES))
            say.asked[1].says(DONE, last=True)
            other.sees(200)
            assert say.peer.goaway is None

    def test_I4_a_place_is_free_when_the_engine_has_seen_the_reset(self) -> None:
        """Rapid reset: an engine never has more than it takes, though clients come and go."""
        with h2(greeting={"max_concurrent_streams": 2}, max_connections=1) as say:
            first = [say.talk.client().says(chat()) for _ in range(2)]
            say.peer.acks = False
            for client in first:
                client.leaves()
            third = say.talk.client().says(chat())
            assert len(say.asked) == 2
            say.peer.says(b"".join(_ack(one) for one in say.peer.frames if one.type == 6))
            assert len(say.asked) == 3
            say.last.answers()
            third.sees(200)

    def test_I4_many_resets_are_not_all_on_one_connection(self) -> None:
        """Engines count resets, and end connections for them: one is replaced before it comes to that."""
        with h2() as say:
            for _ in range(RESETS + 10):
                client = say.talk.client().says(chat())
                say.peer.look()
                client.leaves()
                say.peer.look()
            assert len(say.engine.peers) == 2
            assert sum(one.reset == CANCEL for one in say.engine.peers[0].look().asked) <= RESETS + 1


def _ack(ping: object) -> bytes:
    return frame(6, 1, 0, ping.opaque_data)  # type: ignore[attr-defined]
