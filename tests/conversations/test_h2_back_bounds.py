"""What an engine of HTTP/2 may leave half done or unanswered, and how streams of one connection share what it lets go."""

from __future__ import annotations

import pytest

from fastgw.net.h2_stream import WINDOW_BYTES
from fastgw.net.h2_upstream import PING_S
from fastgw.net.wire import QUEUED
from tests.conversations.h2_row import broke_off, frame, h2, streaming
from tests.support.byhand.h2 import SSE
from tests.support.requests import chat
from tests.support.scripts import DONE

FIRST = 65535


@pytest.mark.parametrize("half", [
    pytest.param(lambda say: [frame(1, 4, 1, b"x" * 100)[:50], *[b"x"] * 49], id="HEADERS"),
    pytest.param(lambda say: [frame(1, 0, 1, b"x"), *[frame(9, 0, 1, b"x")] * 5], id="a field block"),
    pytest.param(lambda say: [say.peer.data(1, b"x" * 100)[:50], *[b"x"] * 49], id="DATA"),
])  # fmt: skip
def test_one_that_comes_byte_by_byte_for_ever_is_given_up(half: object) -> None:
    """All others on the connection would wait behind it, and new ones come to it."""
    with h2() as say:
        clients = streaming(say, 2)
        for piece in half(say):  # type: ignore[operator]
            say.peer.says(piece)
            say.talk.passes(PING_S)
            if say.peer.wire.closed:
                break
        assert say.peer.wire.closed
        for client in clients:
            broke_off(say.talk, client)


def test_who_answers_no_PING_is_replaced() -> None:
    """The places of what was reset would never be free again; what is under way goes on."""
    with h2(greeting={"max_concurrent_streams": 2}) as say:
        [gone, stays] = streaming(say, 2)
        first = say.peer
        first.acks = False
        gone.leaves()
        for _ in range(4):
            say.talk.passes(PING_S)
            first.asked[1].says(b": on\n\n")
        assert not first.wire.closed
        say.talk.client().says(chat())
        assert len(say.engine.peers) == 2
        say.last.answers()
        first.asked[1].says(DONE, last=True)
        stays.sees(200)
        say.talk.loop.settle()
        assert first.wire.closed


class TestShared:
    def test_who_stalls_holds_a_window_of_its_own_and_nobody_else(self) -> None:
        """Whatever the size of its frames; the connection's window is given again as it is read."""
        with h2() as say:
            [slow, quick] = streaming(say, 2)
            slow.takes = QUEUED
            [stalled, other] = say.asked
            sent = 0
            for size in (1, 1000, 16000, 16000, 16000, 16000):
                for _ in range(100 if size == 1 else 1):
                    stalled.says(b"Z" * size)
                    sent += size
            assert stalled.credit == 0
            assert sent < WINDOW_BYTES <= FIRST
            for _ in range(400):
                other.says(b"data: " + b"y" * 16000 + b"\n\n")
            given = FIRST + sum(one.window_increment for one in say.peer.frames if one.type == 8 and not one.stream_id)
            assert given - sent - 400 * 16008 >= FIRST
            other.says(DONE, last=True)
            quick.sees(200)
            slow.drains()
            assert stalled.credit <= WINDOW_BYTES
            stalled.says(b"\n\n" + DONE, last=True)
            assert slow.sees(200).body.count(b"Z") == sent

    def test_long_prompts_take_turns(self) -> None:
        """The connection's window is what the engine gives for all: the first does not get all of it."""
        with h2(greeting={"max_concurrent_streams": 100, "initial_window_size": 1 << 20}) as say:
            clients = [say.talk.client().says(chat(content="x" * 200_000)) for _ in range(3)]
            for _ in range(6):
                say.peer.says(frame(8, 0, 0, (20_000).to_bytes(4, "big")))
            got = [len(one.body) for one in say.peer.look().asked]
            assert got[0] - FIRST < 60_000, got
            assert min(got[1:]) >= 40_000, got
            say.peer.says(frame(8, 0, 0, (1 << 20).to_bytes(4, "big")))
            for one in say.peer.look().asked:
                assert one.whole
                one.answers()
            for client in clients:
                client.sees(200)


@pytest.mark.parametrize("begun", [True, False])
def test_an_engine_that_takes_no_body_is_not_waited_for(begun: bool) -> None:
    with h2(greeting={"max_concurrent_streams": 100, "initial_window_size": 0}, first_byte_timeout_s=7.0,
            between_bytes_timeout_s=7.0) as say:  # fmt: skip
        client = say.talk.client().says(chat(stream=True))
        if begun:
            say.last.begins(SSE)
        say.talk.passes(8)
        assert say.asked[0].reset is not None
        assert not client.waits
