"""CASES G1 to G5: what an engine of HTTP/2 may do, and the client must not see."""

from __future__ import annotations

import pytest

from fastgw.exchange.plan import PASSES_S
from tests.conversations.h2_row import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    broke_off,
    frame,
    h2,
    streaming,
)
from tests.support.requests import chat, request
from tests.support.scripts import DONE, EVENT

HTTP_1_1_REQUIRED = 13


class TestG1:
    def test_G1_streams_under_way_go_on_and_new_work_goes_elsewhere(self) -> None:
        with h2() as say:
            clients = streaming(say, 3)
            first = say.peer
            asked = list(first.asked)
            first.goes(5)
            later = say.talk.client().says(chat())
            assert len(say.engine.peers) == 2
            say.last.answers()
            later.sees(200)
            for one in asked:
                one.says(EVENT + DONE, last=True)
            for client in clients:
                assert client.sees(200).body == EVENT * 2 + DONE
            assert first.look().goaway == NO_ERROR
            assert first.wire.closed, "it ends with its last stream"
            assert say.talk.stats.replays_total == 0

    def test_G1_it_is_replaced_before_its_last_stream_ends(self) -> None:
        with h2(warm_connections=1) as say:
            [client] = streaming(say)
            first = say.peer
            first.goes(1)
            say.talk.loop.settle()
            assert len(say.engine.peers) == 2, "a warm one, before anybody asks"
            first.asked[0].says(DONE, last=True)
            client.sees(200)

    def test_G1_before_anything_was_asked(self) -> None:
        with h2(warm_connections=1) as say:
            say.engine.keep_warm()
            say.talk.loop.settle()
            say.peer.goes(0)
            client = say.talk.client().says(chat())
            assert len(say.engine.peers) == 2
            say.last.answers()
            client.sees(200)


class TestG2:
    def test_G2_what_was_not_looked_at_is_asked_again(self) -> None:
        with h2() as say:
            clients = [say.talk.client().says(chat(content=f"number {at}")) for at in range(3)]
            first = say.peer
            bodies = [one.body for one in first.asked]
            first.goes(1)
            second = say.peer
            assert second is not first
            assert [one.body for one in second.asked] == bodies[1:]
            first.asked[0].answers()
            for one in second.asked:
                one.answers()
            for client in clients:
                client.sees(200)
            assert say.talk.stats.replays_total == 2
            assert say.engine.engine.failures_total == 0
            assert len(say.talk.records) == 3

    def test_G2_twice_as_nginx_says_it(self) -> None:
        """First that it will go, with the largest number there is; then which was the last."""
        with h2() as say:
            clients = [say.talk.client().says(chat()) for _ in range(3)]
            first = say.peer
            first.goes(2**31 - 1)
            assert len(say.engine.peers) == 1
            first.goes(3)
            say.peer.asked[0].answers()
            for one in first.asked[:2]:
                one.answers()
            for client in clients:
                client.sees(200)

    def test_G2_not_for_ever(self) -> None:
        """An engine that takes nothing, on no connection: the client gets its error in the end."""
        with h2() as say:
            client = say.talk.client().says(chat())
            for _ in range(10):
                if client.answers:
                    break
                say.peer.goes(0)
                say.talk.passes(0.2)
            client.sees(502, "bad_gateway")
            assert len(say.engine.peers) < 8

    def test_G2_as_often_as_others_are_taken(self) -> None:
        """nginx takes ``keepalive_requests`` on a connection, here one, and no more."""
        with h2() as say:
            clients = [say.talk.client().says(chat(content=f"number {at}")) for at in range(30)]
            for _ in clients:
                peer = say.peer
                first = peer.asked[0]
                peer.goes(1)
                first.answers()
            for client in clients:
                client.sees(200)
            order = [peer.look().asked[0].body for peer in say.engine.peers[:30]]
            assert [f"number {at}".encode() in body for at, body in enumerate(order)] == [True] * 30, "who came first is first"
            assert say.engine.engine.failures_total == 0

    def test_G2_another_engine_where_one_takes_nothing(self) -> None:
        with h2(2, policy="ordered") as say:
            client = say.talk.client().says(chat())
            for _ in range(10):
                if say.talk.engines[1].asked:
                    break
                say.peer.goes(0)
            say.talk.engines[1].last.answers()
            client.sees(200)

    def test_G2_a_stream_that_has_begun_is_never_asked_again(self) -> None:
        """(Which is the engine's mistake: it answered what it says it did not look at.)"""
        with h2() as say:
            [client] = streaming(say)
            say.peer.goes(0)
            broke_off(say.talk, client)


class TestG3:
    def test_G3_refused_is_asked_again(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.resets(REFUSED_STREAM)
            assert len(say.asked) == 2
            assert say.asked[0].body == say.asked[1].body
            say.last.answers()
            client.sees(200)
            assert say.talk.stats.replays_total == 1
            assert say.engine.engine.failures_total == 0

    def test_G3_who_refuses_again_is_left_alone_for_a_while(self) -> None:
        """Asked at once, each request that it has no room for would be five; and who takes nobody in the end has failed."""
        with h2() as say:
            client = say.talk.client().says(chat())
            for times in (2, 3, 4, 5):
                say.last.resets(REFUSED_STREAM)
                if times > 2:
                    assert len(say.asked) == times - 1
                    say.talk.passes(0.2)
                assert len(say.asked) == times
            say.last.resets(REFUSED_STREAM)
            say.talk.passes(0.5)
            client.sees(502, "bad_gateway")
            assert (len(say.asked), say.talk.stats.replays_total) == (5, 4)
            assert say.engine.engine.failures_total == 1

    def test_G3_and_another_engine_is_asked(self) -> None:
        with h2(2, policy="ordered") as say:
            client = say.talk.client().says(chat())
            for _ in range(2):
                say.last.resets(REFUSED_STREAM)
            assert [len(engine.asked) for engine in say.talk.engines] == [2, 1]
            say.talk.engines[1].last.answers()
            client.sees(200)

    def test_G3_who_answers_others_has_room_in_time(self) -> None:
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat())
            for _ in range(12):
                quick = say.talk.client().says(chat())
                say.last.answers()
                quick.sees(200)
                say.asked[-2].resets(REFUSED_STREAM)
                say.talk.passes(1.1)
            say.last.answers()
            client.sees(200)
            say.asked[0].says(DONE, last=True)
            other.sees(200)
            assert len(say.engine.peers) == 1
            assert say.engine.engine.failures_total == 0

    def test_G3_and_not_for_ever(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            for wait_s in (0.0, PASSES_S):
                say.talk.passes(wait_s)
                refused = say.last
                quick = say.talk.client().says(chat())
                say.last.answers()
                quick.sees(200)
                refused.resets(REFUSED_STREAM)
            client.sees(502, "bad_gateway")
            assert say.engine.engine.failures_total == 1

    @pytest.mark.parametrize("how", ["refused", "lost"])
    def test_G3_and_one_that_is_connected_already_is_asked_at_once(self, how: str) -> None:
        with h2(2, policy="ordered") as say:
            first, second = say.talk.engines
            first.engine.draining = True
            client = say.talk.client().says(chat())
            second.last.answers()
            client.sees(200)
            first.engine.draining, first.engine.fleeting = False, True
            client = say.talk.client().says(chat())
            if how == "lost":
                first.peer.closes("reset")
            else:
                for _ in range(2):
                    first.last.resets(REFUSED_STREAM)
            assert len(second.asked) == 2
            second.last.answers()
            client.sees(200)

    def test_G3_an_upload_of_which_a_part_is_gone_is_not(self) -> None:
        with h2() as say:
            body = (
                b"--b\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n--b\r\n"
                b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"s" * 9000 + b"\r\n--b--\r\n"
            )
            upload = request(
                "POST", "/v1/audio/transcriptions", headers=[("Content-Type", "multipart/form-data; boundary=b")], body=body
            )
            client = say.talk.client().says(upload[:-2000])
            asked = say.asked
            if asked and not asked[-1].whole:
                asked[-1].resets(REFUSED_STREAM)
                client.sees(502, "bad_gateway")
                assert len(say.asked) == 1
            else:
                pytest.skip("it is sent when it is whole")

    @pytest.mark.parametrize("code", [INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, NO_ERROR, 99])
    def test_G3_any_other_reset_before_the_head(self, code: int) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.resets(code)
            client.sees(502, "bad_gateway")
            assert len(say.asked) == 1
            assert say.engine.engine.failures_total == 1

    @pytest.mark.parametrize("code", [INTERNAL_ERROR, REFUSED_STREAM, CANCEL, NO_ERROR])
    def test_G3_in_the_middle_of_a_stream(self, code: int) -> None:
        with h2() as say:
            [client] = streaming(say)
            say.last.resets(code)
            broke_off(say.talk, client)
            assert say.engine.engine.truncations_total == 1
            assert not say.peer.wire.closed

    def test_G3_no_error_after_a_whole_answer(self) -> None:
        """The engine has answered, and does not want the rest of the body (RFC 9113 §8.1)."""
        with h2() as say:
            client = say.talk.client().says(chat(content="x" * 200_000))
            asked = say.last
            assert not asked.whole
            asked.answers(b'{"error":{}}', status=413).resets(NO_ERROR)
            assert client.sees(413).body == b'{"error":{}}'
            other = say.talk.client().says(chat())
            say.peer.says(frame(8, 0, 0, (1 << 20).to_bytes(4, "big")))
            say.last.answers()
            other.sees(200)
            assert len(say.engine.peers) == 1

    def test_G3_it_wants_http1(self) -> None:
        """Of one that is to speak HTTP/2: there is nothing else to ask it in."""
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.resets(HTTP_1_1_REQUIRED)
            client.sees(502)


class TestG5:
    def test_G5_one_at_a_time_takes_a_connection_each(self) -> None:
        with h2(greeting={"max_concurrent_streams": 1}) as say:
            clients = [say.talk.client().says(chat()) for _ in range(3)]
            assert [len(peer.look().asked) for peer in say.engine.peers] == [1, 1, 1]
            for one in say.asked:
                one.answers()
            for client in clients:
                client.sees(200)
            say.talk.client().says(chat())
            assert len(say.engine.peers) == 3
            say.asked[-1].peer.pool.peers[0].look().asked[-1].answers()

    def test_G5_they_wait_where_there_may_be_no_more_connections(self) -> None:
        with h2(greeting={"max_concurrent_streams": 1}, max_connections=1) as say:
            clients = [say.talk.client().says(chat()) for _ in range(3)]
            for at in range(3):
                assert len(say.asked) == at + 1
                say.last.answers()
                clients[at].sees(200)
            assert len(say.engine.peers) == 1

    def test_G5_none_for_now(self) -> None:
        """They wait, without a connection more, and go when the engine raises its limit; or are told in time."""
        with h2(greeting={"max_concurrent_streams": 0}, max_connections=1) as say:
            clients = [say.talk.client().says(chat()) for _ in range(2)]
            assert say.asked == []
            assert len(say.engine.peers) == 1
            say.peer.greets(max_concurrent_streams=1)
            say.last.answers()
            clients[0].sees(200)
            say.peer.greets(max_concurrent_streams=0)
            assert len(say.asked) == 2
            say.last.answers()
            clients[1].sees(200)
            late = say.talk.client().says(chat())
            say.talk.passes(5.2)
            late.sees(503, "engine_busy")

    def test_G5_lowered_in_the_middle(self) -> None:
        with h2(greeting={"max_concurrent_streams": 10}) as say:
            clients = streaming(say, 4)
            first = say.peer
            first.greets(max_concurrent_streams=2)
            more = say.talk.client().says(chat())
            assert [len(peer.look().asked) for peer in say.engine.peers] == [4, 1], "another connection: nobody is refused"
            say.last.answers()
            more.sees(200)
            for one in first.asked:
                one.says(DONE, last=True)
            for client in clients:
                client.sees(200)

    @pytest.mark.parametrize("limit", [100, 128, 250])
    def test_G5_a_thousand_take_no_more_connections_than_it_asks_for_and_one(self, limit: int) -> None:
        with h2(greeting={"max_concurrent_streams": limit}, warm_connections=1) as say:
            say.engine.keep_warm()
            say.talk.loop.settle()
            clients = [say.talk.client().says(chat()) for _ in range(1000)]
            assert len(say.engine.peers) <= -(-1000 // limit) + 1
            assert max(len(peer.look().asked) for peer in say.engine.peers) <= limit
            for one in say.asked:
                one.answers()
            for client in clients:
                client.sees(200)

    def test_G5_all_in_one_turn_before_anything_is_known(self) -> None:
        with h2(greeting={"max_concurrent_streams": 100}) as say:
            clients = [say.talk.client() for _ in range(1000)]
            for client in clients:
                client._take(chat())
            say.talk.loop.settle()
            assert len(say.engine.peers) <= 11
            for one in say.asked:
                one.answers()
            for client in clients:
                client.sees(200)
