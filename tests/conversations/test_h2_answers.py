"""Requests and answers over HTTP/2, as they go well: what an engine gets, and what of its answer the client sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastgw.net.h2_stream import LINGER_S, WINDOW_BYTES
from fastgw.net.wire import QUEUED
from tests.conversations.h2_row import CANCEL, H2Talk, h2
from tests.support.byhand.h2 import JSON, SSE
from tests.support.conversation import KEY
from tests.support.requests import chat, chat_body, request
from tests.support.scripts import ANSWER, DONE, EVENT

FIRST = 65535  # a window that nobody has said anything of (RFC 9113 §6.9.2)
COUNTS = chat(path="/tokenize")  # its answer is no generation, and may be empty


class TestRequests:
    def test_what_the_engine_gets(self) -> None:
        with h2(vllm_api_key="sk-engine", api_keys=[KEY]) as say:
            client = say.talk.client().says(chat(key=KEY, headers=[("X-Custom", "Value"), ("Accept", "*/*")]))
            asked = say.last.answers()
            client.sees(200)
            assert asked.body == chat_body()
            assert asked.whole
            fields = asked.fields
            assert fields[b":method"] == b"POST"
            assert fields[b":scheme"] == b"http"
            assert fields[b":path"] == b"/v1/chat/completions"
            assert fields[b":authority"] == b"127.0.0.1:9"
            assert fields[b"authorization"] == b"Bearer sk-engine"
            assert fields[b"x-custom"] == b"Value"
            assert fields[b"content-length"] == b"%d" % len(chat_body())
            assert b"host" not in fields
            assert all(name == name.lower() for name in asked.names), "RFC 9113 §8.2"
            pseudo = [name.startswith(b":") for name in asked.names]
            assert pseudo == sorted(pseudo, reverse=True), "RFC 9113 §8.3: they come first"

    def test_the_same_again_and_another_method(self) -> None:
        with h2(passthrough_paths=["/v1/things"]) as say:
            client = say.talk.client()
            for _ in range(3):
                client.says(chat())
                say.last.answers()
                client.sees(200)
            client.says(request("GET", "/v1/things"))
            asked = say.last
            assert (asked.fields[b":method"], asked.whole, b"content-length" in asked.fields) == (b"GET", True, False)
            asked.answers()
            client.sees(200)
            assert [one.number for one in say.asked] == [1, 3, 5, 7]
            assert len(say.engine.peers) == 1, "one connection for all of them"

    def test_one_write_for_all_that_a_turn_brought(self) -> None:
        with h2() as say:
            clients = [say.talk.client() for _ in range(8)]
            clients[0].says(chat())
            say.last.answers()
            before = len(say.peer.wire.writes)
            for client in clients:
                client._take(chat())  # (all in one turn)
            say.talk.loop.settle()
            assert len(say.peer.wire.writes) == before + 1
            for asked in say.asked[1:]:
                asked.answers()
            for client in clients:
                client.sees(200)

    def test_a_body_waits_for_its_window(self) -> None:
        content = "x" * 200_000
        with h2() as say:
            client = say.talk.client().says(chat(content=content))
            asked = say.last
            assert len(asked.body) == FIRST
            assert not asked.whole
            peer = say.peer
            peer.says(_window(1, 1_000_000))  # the stream's own is not enough: the connection's is spent
            assert len(say.last.body) == FIRST
            peer.says(_window(0, 100_000))
            assert len(say.last.body) == FIRST + 100_000
            peer.says(_window(0, 100_000))
            assert say.last.whole
            assert say.last.body == chat_body(content=content)
            asked.answers()
            client.sees(200)

    def test_a_window_that_shrinks_below_nothing(self) -> None:
        """RFC 9113 §6.9.2: the sender tracks it, and waits until it is positive."""
        with h2() as say:
            say.talk.client().says(chat(content="x" * 100_000))
            assert len(say.last.body) == FIRST
            say.peer.says(_window(0, 1_000_000)).greets(initial_window_size=10)
            say.peer.says(_window(1, 65_000))
            assert len(say.last.body) == FIRST
            say.peer.says(_window(1, 1_000_000))
            assert say.last.whole
            say.last.answers()

    def test_an_upload_in_pieces(self) -> None:
        with h2() as say:
            part = b"--b\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n--b\r\n"
            part += b'content-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            body = part + b"s" * 150_000 + b"\r\n--b--\r\n"
            whole = request(
                "POST", "/v1/audio/transcriptions", headers=[("Content-Type", "multipart/form-data; boundary=b")], body=body
            )
            client = say.talk.client()
            for at in range(0, len(whole), 50_000):
                client.says(whole[at : at + 50_000])
            say.peer.says(_window(0, 1_000_000) + _window(1, 1_000_000))
            assert say.last.body == body
            assert say.last.whole
            say.last.answers()
            client.sees(200)


class TestAnswers:
    @pytest.mark.parametrize("pieces", [1, 2, 7])
    def test_however_it_comes(self, pieces: int) -> None:
        """Head and body as one read, or cut anywhere."""
        with h2() as say:
            for cut in range(1, 40):
                client = say.talk.client().says(chat())
                number = say.last.number
                peer = say.peer
                data = peer.head(number, 200, [*JSON, (b"content-length", b"%d" % len(ANSWER))]) + peer.data(
                    number, ANSWER, last=True
                )
                step = max(1, len(data) // pieces - cut) if pieces > 1 else len(data)
                for at in range(0, len(data), step):
                    peer.says(data[at : at + step])
                assert client.sees(200).body == ANSWER

    def test_a_stream_is_passed_on_as_it_comes(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins().says(EVENT)
            assert client.seen.chunks == [EVENT]
            asked.says(EVENT, EVENT + DONE, last=True)
            answer = client.sees(200)
            assert answer.body == EVENT * 3 + DONE
            assert answer.how_ended == "terminal-chunk"
            [record] = say.talk.records
            assert record["outcome"] == "ok"

    def test_many_frames_of_a_read_are_one_write(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins()
            say.peer.says(b"".join(say.peer.data(asked.number, EVENT) for _ in range(5)))
            assert client.seen.chunks == [EVENT * 5]
            asked.says(DONE, last=True)

    @pytest.mark.parametrize("status", [204, 304])
    def test_no_body(self, status: int) -> None:
        with h2(passthrough_paths=["/v1/things"]) as say:
            client = say.talk.client().says(request("GET", "/v1/things"))
            say.last.begins(JSON, status, last=True)
            assert client.sees(status).body == b""

    def test_an_empty_body(self) -> None:
        with h2() as say:
            client = say.talk.client().says(COUNTS)
            say.last.begins(JSON, last=True)
            assert client.sees(200).body == b""

    def test_the_end_comes_apart(self) -> None:
        """All that was announced is here: the client has its answer, and END_STREAM is waited for without a reset."""
        with h2() as say:
            client = say.talk.client().says(chat())
            asked = say.last.begins([*JSON, (b"content-length", b"%d" % len(ANSWER))]).says(ANSWER)
            assert client.sees(200).body == ANSWER
            asked.says(b"", last=True)
            assert say.peer.last.reset is None
            client.says(chat())
            say.last.answers()
            client.sees(200)

    def test_trailers_end_it_and_are_told_before_the_end(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins().says(EVENT + DONE)
            say.peer.says(say.peer.trailers(asked.number, [(b"grpc-status", b"0")]))
            answer = client.sees(200)
            assert (answer.body, answer.trailers) == (EVENT + DONE, [])
            assert client.trailed == b"grpc-status: 0\r\n"

    @pytest.mark.parametrize("body", [b"{}", b""])
    @pytest.mark.parametrize("told", [True, False])
    def test_trailers_that_come_with_all_the_rest(self, body: bytes, told: bool) -> None:
        """The usual answer, whole in one read, has none: this one is told by way of the others."""
        with h2() as say:
            client = say.talk.client().says(COUNTS)
            number = say.last.number
            fields = [*JSON, (b"content-length", b"%d" % len(body))] if told else JSON
            data = say.peer.data(number, body) if body else b""
            say.peer.says(say.peer.head(number, 200, fields) + data + say.peer.trailers(number, [(b"x-a", b"b")]))
            assert client.sees(200).body == body
            assert client.trailed == b"x-a: b\r\n"

    @pytest.mark.parametrize(("ends", "told"), [
        (lambda say: say.peer.says(say.peer.trailers(1, [(b"x-a", b"b")])), b"x-a: b\r\n"),
        (lambda say: say.last.says(b"", last=True), b""),
        (lambda say: say.last.resets(CANCEL), b""),
        (lambda say: say.peer.closes(), b""),
        (lambda say: say.talk.passes(LINGER_S + 0.5), b""),
    ], ids=["trailers", "end", "reset", "close", "silence"])  # fmt: skip
    @pytest.mark.parametrize("body", [b"{}", b"a" * 100, b""])
    def test_trailers_that_are_announced_are_waited_for(
        self, body: bytes, ends: Callable[[H2Talk], object], told: bytes
    ) -> None:
        """They come behind all bytes that the length tells, which have gone down meanwhile; and are no part of the answer."""
        with h2() as say:
            client = say.talk.client().says(COUNTS)
            asked = say.last.begins([*JSON, (b"content-length", b"%d" % len(body)), (b"trailer", b"x-a")])
            if body:
                asked.says(body)
            assert client.seen.body == body
            assert not say.talk.records
            ends(say)
            assert (client.sees(200).body, client.trailed) == (body, told)
            assert [record["outcome"] for record in say.talk.records] == ["ok"]
            assert say.engine.engine.truncations_total == 0
            say.talk.passes(LINGER_S + 0.5)
            client.says(COUNTS)
            say.last.answers()
            client.sees(200)

    def test_more_than_the_length_is_an_error_before_trailers_too(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            asked = say.last.begins([*JSON, (b"content-length", b"2"), (b"trailer", b"x-a")]).says(b"{}")
            asked.says(b"{")
            assert client.seen.body == b"{}"
            assert [record["outcome"] for record in say.talk.records] == ["truncated"]
            assert say.last.reset == CANCEL

    def test_interim_answers_are_passed_over(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            asked = say.last
            for status in (100, 103):
                asked.begins([(b"link", b"</a>")], status)
            asked.answers()
            client.sees(200)

    def test_an_error_of_the_engine_is_passed_on(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.answers(b'{"error":{"message":"no"}}', status=422)
            assert client.sees(422).body == b'{"error":{"message":"no"}}'

    def test_padding_and_priorities_are_taken_off(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            number = say.last.number
            block = say.peer.block([(b":status", b"200"), *JSON, (b"content-length", b"2")])
            head = b"\x03" + bytes(5) + block + bytes(3)
            data = b"\x04{}" + bytes(4)
            say.peer.says(
                _frame(1, 0x4 | 0x8 | 0x20, number, head) + _frame(0, 0x1 | 0x8, number, data) + _frame(2, 0, number, bytes(5))
            )
            assert client.sees(200).body == b"{}"


@pytest.mark.parametrize("length", [True, False])
def test_a_stream_begins_with_its_first_event(length: bool) -> None:
    """An error in its place is the answer that it says, whatever its head said of its length."""
    fails = b'data: {"error":{"message":"no","type":"server_error","code":503}}\n\n'
    with h2() as say:
        client = say.talk.client().says(chat(stream=True))
        say.last.begins([*SSE, *[(b"content-length", b"%d" % len(fails))][:length]]).says(fails, last=True)
        assert client.sees(503).json()["error"]["message"]


class TestPace:
    def test_credit_follows_the_client(self) -> None:
        """An engine is given no more while its client takes nothing; and all that it may send is a window."""
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins(SSE)
            client.takes = QUEUED
            event = b"data: " + b"x" * 8000 + b"\n\n"
            asked.says(event)
            sent = len(event)
            while sent + len(event) <= FIRST:
                asked.says(event)
                sent += len(event)
            assert say.last.credit == 0
            client.drains()
            assert say.last.credit >= sent
            assert FIRST - sent + say.last.credit <= WINDOW_BYTES
            asked.says(DONE, last=True)
            assert len(client.sees(200).body) == sent + len(DONE)

    def test_padding_takes_no_credit_for_good(self) -> None:
        """An engine that hides how long its events are pads each: it never comes to an end of its window."""
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins(SSE)
            room, sent = 65535, 0
            padded = _frame(0, 8, asked.number, b"\xff" + EVENT + bytes(255))
            while sent < 4 << 20:
                say.peer.look()
                count = (room + asked.credit - sent) // (len(padded) - 9)
                assert count, f"no credit after {sent} bytes"
                say.peer.says(padded * count)
                sent += (len(padded) - 9) * count
            asked.says(DONE, last=True)
            assert client.sees(200).body.endswith(EVENT + DONE)

    def test_what_waits_in_small_pieces_takes_no_more_room_than_in_large_ones(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins(SSE)
            client.takes = QUEUED
            asked.says(EVENT)
            text = b": " + bytes(range(97, 123)) * 1000 + b"\n\n"
            [stream] = say.engine.peer.wire.holder.streams.values()
            for at in range(0, len(text), 2):
                say.peer.says(say.peer.data(asked.number, text[at : at + 2]))
                assert len(stream.pieces) <= 1
            client.drains()
            asked.says(DONE, last=True)
            assert client.sees(200).body == EVENT + text + DONE

    def test_an_end_that_came_while_it_was_held(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins(SSE)
            client.takes = QUEUED
            asked.says(EVENT, EVENT, DONE, last=True)
            assert client.seen.how_ended == "open"
            client.drains()
            assert client.sees(200).body == EVENT * 2 + DONE

    def test_one_that_stalls_does_not_hold_the_others(self) -> None:
        with h2() as say:
            slow = say.talk.client().says(chat(stream=True))
            stalled = say.last.begins(SSE)
            slow.takes = QUEUED
            stalled.says(EVENT, EVENT)
            quick = say.talk.client().says(chat(stream=True))
            say.last.begins(SSE).says(EVENT, DONE, last=True)
            assert quick.sees(200).body == EVENT + DONE
            slow.leaves()
            stalled.peer.look()
            assert stalled.reset == CANCEL

    def test_the_connection_has_credit_for_all(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat(stream=True))
            asked = say.last.begins(SSE)
            event = b"data: " + b"x" * 30_000 + b"\n\n"
            for _ in range(400):  # 12 MB: more than any window
                asked.says(event)
                say.peer.look()
            asked.says(DONE, last=True)
            assert len(client.sees(200).body) == 400 * len(event) + len(DONE)


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


def _window(number: int, more: int) -> bytes:
    return _frame(8, 0, number, more.to_bytes(4, "big"))
