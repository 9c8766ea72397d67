"""What calls tell of an engine while they are under way, whatever becomes of them."""

from __future__ import annotations

import pytest

from fastgw.upstream.watch import MOST_TOKENS, RING, Journal
from tests.conversations.h2_row import h2
from tests.support.conversation import Conversation, conversation
from tests.support.requests import chat, request
from tests.support.scripts import DONE, EVENT, JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok


def told(talk: Conversation, engine: int = 0) -> tuple[int, int, int, int, int]:
    watch = talk.engines[engine].engine.watch
    return watch.reading, watch.making, watch.answers, watch.faults, watch.samples


def test_a_prompt_counts_until_the_first_token_and_then_the_answer() -> None:
    with conversation() as talk:
        client = talk.client().says(chat(stream=True, content="word " * 400, max_tokens=40))
        reading = told(talk)[0]
        assert 450 < reading < 600
        assert told(talk)[1:] == (0, 0, 0, 0)
        talk.passes(0.5)
        engine = talk.engines[0].last
        engine.says(SSE_HEAD)
        assert told(talk)[:2] == (reading, 0), "a head is no token"
        engine.says(chunk(EVENT))
        assert told(talk) == (0, 40, 0, 0, 1)
        assert talk.engines[0].engine.watch.ttft_s == pytest.approx(0.5)
        engine.says(chunk(EVENT), chunk(DONE), LAST_CHUNK)
        client.sees(200)
        assert told(talk) == (0, 0, 1, 0, 1)


def test_an_answer_that_comes_whole_counts_as_a_prompt_until_it_is_there() -> None:
    with conversation() as talk:
        client = talk.client().says(chat(content="word " * 400))
        assert told(talk)[0] > 450
        talk.passes(2.0)
        talk.engines[0].last.says(ok())
        client.sees(200)
        assert told(talk) == (0, 0, 1, 0, 1)
        assert talk.engines[0].engine.watch.ttft_s == pytest.approx(2.0)
        client = talk.client().says(chat())
        talk.engines[0].last.says(JSON_CHUNKED, chunk(b'{"a"'))
        assert told(talk)[:2] == (0, 256), "what is expected where the request does not say"
        talk.engines[0].last.says(chunk(b":1}"), LAST_CHUNK)
        assert told(talk)[:3] == (0, 0, 2)


def test_several_answers_count_each_and_no_request_counts_for_ever() -> None:
    with conversation() as talk:
        talk.client().says(chat(stream=True, max_tokens=50, n=3))
        talk.engines[0].last.says(SSE_HEAD, chunk(EVENT))
        assert told(talk)[1] == 150
        talk.client().says(chat(stream=True, max_tokens=10**9, n=10**9))
        talk.engines[0].last.says(SSE_HEAD, chunk(EVENT))
        assert told(talk)[1] == 150 + 64 * 256
    watch = Journal().watch()
    assert watch.opened(10**18) == MOST_TOKENS


def test_failures_are_told_in_a_row_and_busy_is_none() -> None:
    with conversation(cb_failure_threshold=0) as talk:
        for status in (500, 502):
            talk.client().says(chat())
            talk.engines[0].last.says(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
        assert told(talk) == (0, 0, 0, 2, 0)
        assert talk.engines[0].engine.watch.row == 2
        talk.client().says(chat())
        talk.engines[0].last.says(b"HTTP/1.1 429 X\r\ncontent-length: 2\r\n\r\n{}")
        assert talk.engines[0].engine.watch.faults == 2
        talk.client().says(chat())
        talk.engines[0].last.says(b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\n{}")
        assert told(talk) == (0, 0, 0, 2, 0), "a refusal is quick, and says nothing of how quick the engine is"
        assert talk.engines[0].engine.watch.row == 2
        talk.client().says(chat())
        talk.engines[0].last.says(ok())
        assert told(talk)[2:4] == (1, 2)
        assert talk.engines[0].engine.watch.row == 0


def test_what_one_connection_takes_along_is_one_failure() -> None:
    with h2(greeting={"max_concurrent_streams": 100}) as say:
        for _ in range(6):
            say.talk.client().says(chat(stream=True))
        for asked in say.asked:
            asked.begins(())
        say.peer.closes("reset")
        engine = say.engine.engine
        assert (engine.failures_total, engine.breaker.failures, engine.watch.row, engine.watch.faults) == (6, 1, 1, 1)


def test_an_engine_that_is_let_finish_has_its_work_until_it_has() -> None:
    from fastgw import EngineConfig

    with conversation([EngineConfig(url="http://127.0.0.1:9", cancel=False)]) as talk:
        client = talk.client().says(chat(stream=True, max_tokens=30))
        engine = talk.engines[0].last
        engine.says(SSE_HEAD, chunk(EVENT))
        client.leaves()
        assert told(talk)[:2] == (0, 30)
        engine.says(chunk(DONE), LAST_CHUNK)
        assert told(talk)[:2] == (0, 0)


def test_requests_that_share_a_call_count_together() -> None:
    with conversation(embedding_merge_s=0.01) as talk:
        for _ in range(2):
            talk.client().says(request("POST", "/v1/embeddings", body=b'{"model":"m","input":"%b"}' % (b"word " * 100)))
        talk.passes(0.02)
        assert told(talk)[0] > 200
        talk.engines[0].last.says(ok(b'{"object":"list","data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[2]}]}'))
        assert told(talk)[0] == 0


def test_the_journal_is_a_ring() -> None:
    journal = Journal()
    one, two = journal.watch(), journal.watch()
    for _ in range(RING):
        one.opened(1)
    two.ended(0, 0)
    assert journal.count == RING + 1
    assert journal.changes[0] is two
    assert journal.changes[1] is one
    assert len(journal.changes) == RING
