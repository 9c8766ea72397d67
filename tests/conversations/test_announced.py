"""An answer that has begun with no more than that it is there: what becomes of it where its engine fails right behind that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conversations.deployed_row import Deployed, deployed
from tests.conversations.said import (
    BLOCK,
    CHAT,
    COMPLETED,
    DELTA,
    ENGINES,
    MESSAGES,
    RESPONSES,
    ROUTE,
    STOP,
    asking,
    error,
    event,
)
from tests.support.conversation import answering
from tests.support.scripts import ANSWER, LAST_CHUNK, SSE_HEAD, chunk, ok

CREATED = event({"type": "response.created", "response": {"id": "r", "error": None}}, "response.created")
GOES_ON = event({"type": "response.in_progress", "response": {"id": "r"}}, "response.in_progress")
START = event({"type": "message_start", "message": {"usage": {"input_tokens": 5}}}, "message_start")
QUIET = event({"type": "ping"}, "ping")
ANNOUNCED = [(RESPONSES, CREATED + GOES_ON, DELTA + COMPLETED), (MESSAGES, START + QUIET, BLOCK + STOP)]


def opens(row: Deployed, path: str, said: bytes) -> tuple[Any, Any]:
    client = row.talk.client().says(asking(path, stream=True))
    return client, row.engines["a"].last.says(SSE_HEAD, chunk(said))


@pytest.mark.parametrize("how", ["error", "refusal", "dies", "ends"])
@pytest.mark.parametrize(("path", "said", "more"), ANNOUNCED)
def test_an_announcement_is_no_answer_yet(path: str, said: bytes, more: bytes, how: str) -> None:
    """What fails at once behind one is answered for by another, or with a status; the client sees nothing of it."""
    with deployed(ENGINES, ROUTE, plays={"a": None, "b": answering(SSE_HEAD, chunk(more) + LAST_CHUNK)}) as row:
        client, asked = opens(row, path, said)
        assert client.waits
        if how == "dies":
            asked.closes("reset")
        elif how == "ends":
            asked.says(LAST_CHUNK)
        else:
            asked.says(chunk(event(error(500 if how == "error" else 400), "error")))
        row.talk.passes(0.1)
        if how == "refusal":
            assert (client.seen.status, row.asked["b"], row.engines["a"].engine.failures_total) == (400, 0, 0)
        else:
            assert (client.sees(200).body, row.asked["b"], row.engines["a"].engine.failures_total) == (more, 1, 1)


@pytest.mark.parametrize(("path", "said", "more"), ANNOUNCED)
def test_but_it_does_not_wait_for_long(path: str, said: bytes, more: bytes) -> None:
    """Nor for a token that is there; and an error behind what has gone down is one in a stream, before any token."""
    with deployed(ENGINES, ROUTE, plays={"a": None}) as row:
        client, asked = opens(row, path, said)
        row.talk.passes(0.1)
        assert client.waits
        row.talk.passes(0.3)
        assert client.seen.body == said
        row.talk.passes(20.0)
        asked.says(chunk(more), LAST_CHUNK)
        assert client.sees(200).body == said + more
        client, asked = opens(row, path, said + more)
        assert client.seen.body == said + more
        asked.says(LAST_CHUNK)
        client, asked = opens(row, path, said)
        row.talk.passes(0.4)
        asked.says(chunk(event(error(500), "error")) + LAST_CHUNK)
        assert client.sees(200).body == said + event(error(500), "error")
        first, quick, failed = row.talk.records
        assert first["ttft_s"] > 20.0 > 1.0 > quick["ttft_s"]
        assert (failed["ttft_s"], failed["outcome"], row.asked["b"]) == (-1, "engine_error", 0)


@pytest.mark.parametrize("said", [b"", b'{"error":'])
@pytest.mark.parametrize("how", ["dies", "is silent"])
def test_a_plain_answer_that_has_begun_is_asked_for_nowhere_else(said: bytes, how: str) -> None:
    """Although nothing of it has gone down: its engine took the request, and worked on it."""
    engines = {"a": {"models": ("m",)}, "b": {"models": ("m",)}}
    settings: dict[str, Any] = {"policy": "ordered", "retry_fresh": True, "between_bytes_timeout_s": 2.0}
    with deployed(engines, plays={"a": None}, **settings) as row:
        client = row.talk.client().says(asking(CHAT))
        asked = row.engines["a"].last.says(ok(ANSWER)[: -len(ANSWER)] + said)
        if how == "dies":
            asked.closes("reset")
        else:
            row.talk.passes(1.8)
            assert client.waits
            row.talk.passes(0.4)
        assert (client.seen.status, client.seen.body, client.seen.complete) == (200, said, False)
        assert (row.asked["b"], row.engines["a"].engine.truncations_total) == (0, 1)
