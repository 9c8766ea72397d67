"""Asking engines for usage changes nothing that a client sees: by recordings of real ones, asked and not, event for event."""

from __future__ import annotations

from typing import Any, Final

import pytest

from fastgw import EngineConfig
from fastgw.config.names import ENGINE_KINDS, EngineKind
from fastgw.net.wire import QUEUED
from tests.conversations.said import CHAT, asking
from tests.e2e.metered import KEY, estimate, say
from tests.support.conversation import Conversation, conversation
from tests.support.recorded import DONE, RECORDED, event, told
from tests.support.scripts import LAST_CHUNK, chunk

COMPLETIONS: Final = "/v1/completions"
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT: Final = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
STOP: Final = event({"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]})
EXTRA: Final = event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}, "x": 1})
OPTIONS: Final[dict[str, dict[str, Any] | None]] = {
    "none": None, "for usage": {"include_usage": True}, "not for it": {"include_usage": False},
    "in each chunk": {"continuous_usage_stats": True}, "both": {"include_usage": True, "continuous_usage_stats": True},
}  # fmt: skip


def row(**fields: Any) -> list[EngineConfig]:
    return [EngineConfig(url="http://127.0.0.1:9", warm_connections=0, **fields)]


def streams(talk: Conversation, name: str, path: str, options: dict[str, Any] | None) -> list[Any]:
    more = {} if options is None else {"stream_options": options}
    client = talk.client().says(asking(path, stream=True, **more))
    engine = talk.engines[0].last
    engine.says(HEAD, *map(chunk, RECORDED[name](path, engine.json().get("stream_options"))), LAST_CHUNK)
    assert client.seen.complete
    return told(client.seen.body)


@pytest.mark.parametrize("kind", ENGINE_KINDS)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("name", RECORDED)
def test_a_client_is_told_what_its_engine_would_have_told_it(name: str, path: str, kind: EngineKind) -> None:
    """Whatever the engine is taken for, and whatever the client asks of it."""
    with conversation(row(kind=kind)) as talk:
        for options in OPTIONS.values():
            assert streams(talk, name, path, options) == told(b"".join(RECORDED[name](path, options))), options
            if kind != "llamacpp" or name == "llama.cpp":  # (which counts without being asked)
                assert (talk.records[-1]["prompt_tokens"], talk.records[-1]["completion_tokens"]) == (11, 3)


@pytest.mark.parametrize("how", ["fin", "reset", "silence", "frames"])
def test_a_last_chunk_that_waits_goes_down_before_its_stream_is_broken_off(how: str) -> None:
    with conversation(1, between_bytes_timeout_s=2.0) as talk:
        client = talk.client().says(asking(CHAT, stream=True))
        engine = talk.engines[0].last.says(HEAD, chunk(TEXT), chunk(STOP))
        assert client.seen.body == TEXT
        if how == "silence":
            talk.passes(3.0)
        elif how == "frames":
            engine.says(b"no chunk\r\n")
        else:
            engine.closes("fin" if how == "fin" else "reset")
        assert client.seen.body.startswith(TEXT + STOP)
        assert b'"error"' in client.seen.body[len(TEXT + STOP) :]
        assert not client.seen.complete


@pytest.mark.parametrize("alive", [b": ping\n\n", EXTRA[:9], b""], ids=["a comment", "half an event", "silence"])
def test_a_last_chunk_waits_no_longer_than_readers_bear(alive: bytes) -> None:
    """An engine that counts for long, or never says more: it is no less of an answer for that."""
    for counts in (True, False):
        with conversation(1, between_bytes_timeout_s=30.0) as talk:
            client = talk.client().says(asking(CHAT, stream=True))
            engine = talk.engines[0].last.says(HEAD, chunk(TEXT), chunk(STOP))
            talk.passes(0.7)
            if alive:
                engine.says(chunk(alive))
            assert STOP not in client.seen.body
            talk.passes(0.5)
            assert client.seen.body.endswith(STOP)
            assert not talk.records
            talk.passes(25.0)
            if counts:
                engine.says(chunk((EXTRA.removeprefix(alive)) + DONE), LAST_CHUNK)
                assert client.seen.complete
                assert told(client.seen.body) == told(TEXT + STOP + DONE)
            talk.passes(5.5)
            [record] = talk.records
            assert record["outcome"] == ("ok" if counts else "upstream_timeout")
            assert record["prompt_tokens"] == (11 if counts else record["prompt_tokens"])


def test_a_last_chunk_goes_to_a_slow_reader_too() -> None:
    with conversation(1) as talk:
        client = talk.client().says(asking(CHAT, stream=True))
        engine = talk.engines[0].last.says(HEAD, chunk(TEXT))
        client.takes = QUEUED
        engine.says(chunk(TEXT), chunk(STOP))
        client.drains()
        talk.passes(1.2)
        assert client.seen.body.endswith(STOP)


@pytest.mark.parametrize("waits", [STOP, TEXT[:-9]], ids=["a last chunk", "half an event"])
def test_a_read_of_which_all_waits_holds_no_engine_back(waits: bytes) -> None:
    """Its client takes everything again, and nothing is left that it could take: nobody would read on."""
    with conversation(1) as talk:
        client = talk.client().says(asking(CHAT, stream=True))
        engine = talk.engines[0].last.says(HEAD, chunk(TEXT))
        client.takes = QUEUED
        engine.says(chunk(TEXT))
        assert engine.held
        client.drains()
        engine.says(chunk(waits))
        assert not engine.held
        engine.says(chunk((TEXT[-9:] + STOP if waits != STOP else b"") + DONE), LAST_CHUNK)
        assert (client.seen.complete, client.seen.body.endswith(STOP + DONE)) == (True, True)


@pytest.mark.parametrize("behind", [DONE, TEXT + DONE, b""], ids=["ends", "goes on", "is silent"])
def test_a_last_chunk_with_the_last_token_that_may_pass_goes_down(behind: bytes) -> None:
    with conversation(1, api_keys=(KEY,), daily_token_quota=estimate() + 2, on_exhausted="cut") as talk:
        client = talk.client().says(say(stream=True))
        engine = talk.engines[0].last.says(HEAD, chunk(TEXT + STOP))
        if behind:
            engine.says(chunk(behind), LAST_CHUNK)
        talk.passes(5.0)
        seen = told(client.seen.body)
        assert (seen[:2], client.seen.complete) == (told(TEXT + STOP), True)
        assert [one for one in seen[2:] if one != b"[DONE]" and one["choices"][0]["delta"].get("content")] == []
