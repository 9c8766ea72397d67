"""CASES, group E: silence (E13), refusals of the engine's own (E15)."""

from __future__ import annotations

import pytest

from tests.support.byhand.client import HandClient
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat
from tests.support.scripts import ANSWER, DONE, EARLY, EVENT, LAST_CHUNK, SSE_HEAD, chunk, ok

LIMIT_S = 4.0
SLACK_S = 0.11  # a tick of the clock, and a little
PING = b": ping\n\n"


def goes_silent(talk: Conversation, said: list[bytes], signs: int) -> HandClient:
    """The engine says this, a second between each, and then nothing. The first ``signs`` of it are signs of life: its time runs
    from the last of those, and it has that, and no more."""
    client = talk.client().says(chat(stream=True))
    asked = talk.engines[0].last
    since = talk.loop.now
    for at, piece in enumerate(said, 1):
        talk.passes(1.0)
        asked.says(piece)
        if at <= signs:
            since = talk.loop.now
    talk.passes(since + LIMIT_S - 0.01 - talk.loop.now)
    assert client.sink is not None, "too early"
    talk.passes(0.01 + SLACK_S)
    assert client.sink is None, "too late"
    assert asked.cancelled, "the engine is told to stop"
    return client


class TestE13:
    """Silence: E504 while nothing has gone down, else the event `upstream_timeout` and an abort, at its limit; keep-alive
    comments are no sign of life."""

    @pytest.mark.parametrize("said", [[], [b"HTTP/1.1 2"], [b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"], [EARLY]])
    def test_E13_no_answer(self, said: list[bytes]) -> None:
        with conversation(1, first_byte_timeout_s=LIMIT_S) as talk:
            client = goes_silent(talk, said, 0)
            assert client.sees(504).error["type"] == "upstream_error"
            assert talk.records[0]["error"] == "upstream_timeout"
            assert talk.engines[0].engine.failures_total == 1
            client.says(chat())
            talk.passes(LIMIT_S + SLACK_S)
            client.sees(504)  # K

    @pytest.mark.parametrize(
        "said", [[SSE_HEAD], [SSE_HEAD, chunk(PING), chunk(PING)], [SSE_HEAD + b"fff\r\ndata:"], [SSE_HEAD, chunk(EVENT[:-1])]]
    )
    def test_E13_before_the_first_event(self, said: list[bytes]) -> None:
        """A head is a sign of life and no answer; what comes behind it is neither, before a whole event."""
        with conversation(1, between_bytes_timeout_s=LIMIT_S) as talk:
            client = goes_silent(talk, said, 1)
            assert client.sees(504).error["type"] == "upstream_error"
            assert [record["outcome"] for record in talk.records] == ["error"]

    def test_E13_comments_that_keep_connections_alive_reach_the_client(self) -> None:
        """Those that are on the way to him close what says nothing: none of a long prefill's is held for longer than 15 s."""
        with conversation(1) as talk:
            client = talk.client().says(chat(stream=True))
            asked = talk.engines[0].last.says(SSE_HEAD)
            for _ in range(14):
                talk.passes(1.0)
                asked.says(chunk(PING))
            assert not client.answers
            talk.passes(2.0)
            asked.says(chunk(PING))
            assert client.seen.body.count(PING) == 15
            asked.says(chunk(EVENT), chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
            assert client.sees(200).body.endswith(EVENT + b"data: [DONE]\n\n")

    @pytest.mark.parametrize(
        ("said", "signs"), [([SSE_HEAD + chunk(EVENT)], 1), ([SSE_HEAD, chunk(EVENT) * 2, chunk(EVENT[:30])], 2)]
    )
    def test_E13_mid_stream(self, said: list[bytes], signs: int) -> None:
        with conversation(1, between_bytes_timeout_s=LIMIT_S) as talk:
            answer = goes_silent(talk, said, signs).seen
            assert (answer.status, answer.complete) == (200, False)
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            assert answer.body.count(b'"error"') == 1
            assert [record["outcome"] for record in talk.records] == ["upstream_timeout"]

    def test_an_engine_that_says_that_a_request_goes_round_has_not_failed(self) -> None:
        """It is a gateway too, or behind one; what a client says of his request's way takes no engine from others."""
        round_ = answering(b"HTTP/1.1 508 Loop Detected\r\ncontent-length: 0\r\n\r\n")
        with conversation(1, round_, cb_failure_threshold=2) as talk:
            for _ in range(5):
                talk.client().says(chat()).sees(508)
            assert talk.engines[0].engine.failures_total == 0

    def test_E13_mid_answer(self) -> None:
        with conversation(1, between_bytes_timeout_s=LIMIT_S) as talk:
            client = goes_silent(talk, [ok()[:-20]], 1)
            assert not client.seen.complete
            assert client.seen.body == ANSWER[:-20]

    def test_E13_comments_are_no_sign_of_life(self) -> None:
        with conversation(1, between_bytes_timeout_s=LIMIT_S) as talk:
            client = talk.client().says(chat(stream=True))
            asked = talk.engines[0].last.says(SSE_HEAD + chunk(EVENT))
            for _ in range(3):
                talk.passes(1.0)
                asked.says(chunk(PING))
            talk.passes(1.0 + SLACK_S)
            answer = client.seen
            assert (answer.complete, client.sink) == (False, None)
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            assert answer.body.count(PING) == 3  # passed on, all the same

    def test_E13_a_slow_engine_is_not_a_silent_one(self) -> None:
        with conversation(1, between_bytes_timeout_s=LIMIT_S, first_byte_timeout_s=LIMIT_S) as talk:
            client = talk.client().says(chat(stream=True))
            for piece in [SSE_HEAD, *[chunk(EVENT)] * 20, chunk(DONE), LAST_CHUNK]:
                talk.passes(LIMIT_S - 0.1)
                talk.engines[0].last.says(piece)
            assert client.sees(200).body == EVENT * 20 + DONE

    def test_E13_zero_is_no_limit(self) -> None:
        with conversation(1, between_bytes_timeout_s=0, first_byte_timeout_s=0) as talk:
            client = talk.client().says(chat(stream=True))
            for piece in [SSE_HEAD, chunk(EVENT), chunk(DONE), LAST_CHUNK]:
                talk.passes(1800.0)
                talk.engines[0].last.says(piece)
            assert client.sees(200).body == EVENT + DONE

    def test_E13_the_limit_of_the_whole_exchange(self) -> None:
        with conversation(1, request_timeout_s=LIMIT_S) as talk:
            client = talk.client().says(chat(stream=True))
            asked = talk.engines[0].last.says(SSE_HEAD)
            for _ in range(39):
                talk.passes(0.1)
                asked.says(chunk(EVENT))
            assert client.sink is not None
            talk.passes(0.1 + SLACK_S)
            assert '"code":"upstream_timeout"' in client.seen.events()[-1]
            assert (client.seen.complete, asked.cancelled) == (False, True)


class TestE15:
    """The engine's own refusals pass unchanged, once; only 5xx that are not back-pressure count against it."""

    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("status", "counts"),
        [(400, 0), (404, 0), (408, 0), (422, 0), (429, 0), (500, 1), (501, 0), (502, 1), (503, 0), (504, 1), (529, 1)],
    )
    def test_E15_passes_unchanged_but_our_fields(self, status: int, counts: int, stream: bool, policy: str) -> None:
        body = b'{"object":"error", "message": "caf\xc3\xa9",  "type":"NotEnough","param":null,"code":%d}\n' % status
        head = b"HTTP/1.1 %d Whatever It Says\r\nretry-after: 17\r\nretry-after-ms: 16500\r\nx-should-retry: false\r\n" % status
        speaks = answering(head + b"Content-Type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        with conversation(2, speaks, speaks, policy=policy) as talk:
            client = talk.client()
            answer = client.says(chat(stream=stream)).sees(status)
            assert answer.body == body
            assert answer.header("retry-after") == "17"
            assert (answer.header("retry-after-ms"), answer.header("x-should-retry")) == (None, None), "the gateway's own words"
            assert talk.asked == [1, 0]
            assert talk.engines[0].engine.failures_total == counts
            client.says(chat(stream=stream)).sees(status)  # K


class TestHonestAccounts:
    """What the gateway or the client did is not held against an engine."""

    HEAD = b"POST /v1/up HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 2000\r\n\r\n"

    def test_an_upload_that_pauses_is_the_clients_affair(self) -> None:
        with conversation(1, answering(ok()), first_byte_timeout_s=LIMIT_S, passthrough_paths=["/v1/up"]) as talk:
            client = talk.client().says(self.HEAD + b"x" * 1000)
            talk.passes(5 * LIMIT_S)
            client.says(b"x" * 1000).sees(200)
            assert talk.engines[0].engine.failures_total == 0

    def test_the_limit_runs_from_the_end_of_an_upload(self) -> None:
        with conversation(1, first_byte_timeout_s=LIMIT_S, passthrough_paths=["/v1/up"]) as talk:
            client = talk.client().says(self.HEAD + b"x" * 1000)
            talk.passes(LIMIT_S - 1.0)
            client.says(b"x" * 1000)
            talk.passes(LIMIT_S - 0.01)
            assert client.sink is not None, "too early"
            talk.passes(0.01 + SLACK_S)
            client.sees(504)

    def test_a_drain_that_cuts_a_stream_is_no_truncation_of_the_engine(self) -> None:
        with conversation(1) as talk:
            talk.client().says(chat(stream=True))
            [engine] = talk.engines
            engine.last.says(SSE_HEAD + chunk(EVENT))
            talk.core.begin_drain()
            talk.core.abort_all()
            assert [record["outcome"] for record in talk.records] == ["draining"]
            account = engine.engine
            assert (account.truncations_total, account.failures_total, talk.stats.truncations_total) == (0, 0, 0)


class TestStandstill:
    """A process that was stopped (SIGSTOP, a suspended machine) is behind its deadlines when it wakes: what came meanwhile
    is read before anybody is judged. Who really was silent is judged a moment later."""

    @pytest.mark.parametrize("stood_s", [LIMIT_S - 0.9, 30.0])
    @pytest.mark.parametrize("streams", [False, True])
    def test_what_came_meanwhile_came_in_time(self, streams: bool, stood_s: float) -> None:
        limits = {"first_byte_timeout_s": LIMIT_S, "between_bytes_timeout_s": LIMIT_S}
        with conversation(1, **limits, cb_failure_threshold=1) as talk:
            client = talk.client().says(chat(stream=streams))
            asked = talk.engines[0].last
            if streams:
                asked.says(SSE_HEAD + chunk(EVENT))
            talk.passes(1.0)
            talk.loop.stands_still(stood_s)
            talk.passes(0.001)  # timers come first, and then the sockets
            asked.says(chunk(DONE) + LAST_CHUNK if streams else ok())
            assert client.sees(200).complete
            assert [record["outcome"] for record in talk.records] == ["ok"]
            assert (talk.engines[0].engine.failures_total, talk.engines[0].engine.breaker.failures) == (0, 0)

    def test_who_was_silent_is_judged_all_the_same(self) -> None:
        with conversation(1, first_byte_timeout_s=LIMIT_S) as talk:
            client = talk.client().says(chat())
            talk.loop.stands_still(30.0)
            talk.passes(0.01)
            assert client.sink is not None
            talk.loop.stands_still(30.0)  # however often
            talk.passes(0.001)
            client.sees(504)
