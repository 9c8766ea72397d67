"""What an engine with ``cancel = false`` makes for nobody is charged all the same: once, when it has ended."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.paying import PriceConfig
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandStream
from tests.support.conversation import KEY, Conversation, conversation
from tests.support.requests import request
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk, ok
from tests.support.tenants import scopes_of

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 50}
USED = b'"usage":{"prompt_tokens":70,"completion_tokens":20}'
PLAIN = ok(b'{"id":"x","choices":[{"message":{"content":"hello"}}],%b}' % USED)
STREAM = SSE_HEAD + chunk(EVENT) * 3 + chunk(b'data: {"choices":[],%b}\n\n' % USED) + chunk(DONE) + LAST_CHUNK
UNSAID = SSE_HEAD + chunk(EVENT) * 3 + chunk(DONE) + LAST_CHUNK
WORD = b'{"message":{"content":"a"},"done":false}\n'
OLLAMA = ok(WORD * 3 + b'{"done":true,"prompt_eval_count":70,"eval_count":20}\n').replace(b"/json", b"/x-ndjson")
ONE_LINE = ok(b'{"message":{"content":"a"},"done":true,"prompt_eval_count":70,"eval_count":20}')
FIRST = len(SSE_HEAD) + len(chunk(EVENT))
PROMPT = range(100, 141)  # what it is taken for


class Row(NamedTuple):
    """``answer`` is all that the engine says, and ``at`` how much of it its client sees come. ``charged``: -1 = an estimate."""

    path: str
    answer: bytes
    at: int
    charged: tuple[int, int]


ROWS = {
    "a stream, before its head": Row("/v1/chat/completions", STREAM, 0, (70, 20)),
    "behind its head": Row("/v1/chat/completions", STREAM, len(SSE_HEAD), (70, 20)),
    "amid it": Row("/v1/chat/completions", STREAM, FIRST + 30, (70, 20)),
    "that says nothing of its use": Row("/v1/chat/completions", UNSAID, FIRST, (-1, 3)),
    "a plain answer, before its head": Row("/v1/chat/completions", PLAIN, 0, (70, 20)),
    "amid its head": Row("/v1/chat/completions", PLAIN, 20, (70, 20)),
    "amid it, plain": Row("/v1/chat/completions", PLAIN, len(PLAIN) - 30, (70, 20)),
    "that may be an error": Row("/v1/chat/completions", PLAIN, PLAIN.index(b"{") + 1, (70, 20)),
    "an engine's own lines": Row("/api/chat", OLLAMA, OLLAMA.index(b"false}\n") + 20, (70, 20)),
    "amid its one line": Row("/api/chat", ONE_LINE, len(ONE_LINE) - 40, (70, 20)),
    "it refuses": Row("/v1/chat/completions", ok(b"{}").replace(b"200 OK", b"400 No"), 0, (0, 0)),
    "it dies before its head": Row("/v1/chat/completions", b"", 0, (-1, 0)),
    "it dies amid a stream": Row("/v1/chat/completions", STREAM[: FIRST * 2 - len(SSE_HEAD)], FIRST, (-1, 2)),
}


def asking(talk: Conversation, path: str, own_ms: str = "") -> tuple[HandClient, HandStream]:
    stream = path == "/api/chat" or "stream" not in BODY
    headers = [("x-request-timeout-ms", own_ms)] if own_ms else []
    data = json.dumps({**BODY, "stream": stream}).encode()
    client = talk.client().says(request("POST", path, headers=headers, body=data, key=KEY))
    return client, talk.engines[0].last


def letting_finish(**settings: Any) -> Any:
    target = EngineConfig(url="http://127.0.0.1:9", cancel=False, warm_connections=0)
    settings = {
        "api_keys": (KEY,), "daily_token_quota": 10_000, "tokens_per_minute": 10_000, "retry_fresh": False, "metrics_by": "key",
        "key_budget": "100", "prices": [PriceConfig(model="*", input="1", output="1")],
        "routes": [RouteConfig(model=BODY["model"], key_daily_tokens=10_000, key_concurrency=5)], **settings,
    }  # fmt: skip
    return conversation([target], **settings)


def beside(talk: Conversation) -> tuple[int, int, int]:
    """Of the key's use of the model: requests under way, tokens that are held, and tokens that are used."""
    (scope,) = scopes_of(talk.core)
    assert scope.day is not None
    return scope.inflight, scope.day.reserved, scope.day.spent


def books(talk: Conversation) -> list[tuple[int, int]]:
    """(prompt, completion) wherever they are told: the day, all, the model and the caller among the metrics; and the money."""
    ledger, stats, tallies = talk.account().ledger, talk.stats, talk.tallies
    cells = tallies.cells()
    [caller] = tallies.callers.values()
    return [
        (ledger.prompt, ledger.completion), (stats.tokens_prompted, stats.tokens_generated),
        (round(sum(cell.prompt.total for cell in cells)), round(sum(cell.completion.total for cell in cells))),
        (caller.prompt, caller.completion),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_it_is_charged_once_when_its_engine_has_ended(name: str) -> None:
    row = ROWS[name]
    with letting_finish() as talk:
        client, asked = asking(talk, row.path)
        if row.at:
            asked.says(row.answer[: row.at])
        client.leaves()
        [record] = talk.records
        account = talk.account()
        ledger, purse = account.ledger, account.purse
        assert (ledger.requests, ledger.prompt) == (0, 0)
        assert record["prompt_tokens"] >= 0, "what was known then"
        assert min(ledger.reserved, purse.reserved) > 100, "it is held until all is known"
        assert beside(talk) == (1, ledger.reserved, 0)
        asked.says(row.answer[row.at :])
        if name.startswith("it dies"):
            asked.closes()
        assert (ledger.requests, ledger.reserved, purse.reserved) == (1, 0, 0)
        [(prompt, completion)] = set(books(talk))
        assert (prompt in PROMPT if row.charged[0] < 0 else prompt == row.charged[0], completion) == (True, row.charged[1])
        assert purse.spent == (prompt + completion) * 1000
        assert beside(talk) == (0, 0, prompt + completion)
        assert len(talk.raw_records) == 1


@pytest.mark.parametrize(("end", "charged"), [
    ("the gateway stops", (-1, 1)), ("it falls silent", (-1, 1)), ("the quota cuts it", (70, 20)),
    ("it was silent for too long", (0, 0)), ("its time was over", (0, 0)), ("his time was over", (70, 20)),
])  # fmt: skip
def test_whoever_ended_the_request(end: str, charged: tuple[int, int]) -> None:
    """What costs nothing when its engine is stopped costs nothing here; nothing is kept back, or charged again."""
    settings: dict[str, Any] = {
        "the quota cuts it": {"daily_token_quota": 130, "on_exhausted": "cut", "default_cost_tokens": 1},
        "it was silent for too long": {"first_byte_timeout_s": 3.0}, "its time was over": {"request_timeout_s": 3.0},
    }.get(end, {})  # fmt: skip
    with letting_finish(between_bytes_timeout_s=30.0, **settings) as talk:
        client, asked = asking(talk, "/v1/chat/completions", "3000" if end.startswith("his") else "")
        ledger = talk.account().ledger
        if "time" in end or end.endswith("too long"):
            talk.passes(3.1)
            client.sees(504)
        else:
            asked.says(SSE_HEAD, chunk(EVENT))
            if end == "the quota cuts it":
                asked.says(chunk(EVENT) * 40)
                talk.passes(2.5)
            else:
                client.leaves()
        assert ledger.requests == (1 if charged == (0, 0) else 0)
        if end == "the gateway stops":
            talk.core.abort_all()
        elif end == "it falls silent":
            talk.passes(6.0)
        else:
            asked.says(STREAM if "time" in end or end.endswith("too long") else STREAM[FIRST:])
        assert (ledger.requests, ledger.reserved, talk.account().purse.reserved, talk.core.unread) == (1, 0, 0, set())
        [(prompt, completion)] = set(books(talk))
        assert (prompt in PROMPT if charged[0] < 0 else prompt == charged[0], completion) == (True, charged[1])
        assert beside(talk) == (0, 0, prompt + completion)
