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
CHAT, LINES = "/v1/chat/completions", "/api/chat"
FAILS = b'data: {"error":{"message":"no","code":400}}\n\n'
ANNOUNCED = b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n'
FAILED = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"code":"server_error"},%b}}\n\n' % (
    USED.replace(b"prompt", b"input").replace(b"completion", b"output")
)
STARTS = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":70,"output_tokens":1}}}\n\n'
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n'
NDJSON_HEAD = SSE_HEAD.replace(b"event-stream", b"x-ndjson")


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

REFUSED = {
    "its first event is an error": (CHAT, SSE_HEAD + chunk(FAILS) + LAST_CHUNK),
    "behind a comment": (CHAT, SSE_HEAD + chunk(b": hi\n\n" + FAILS) + LAST_CHUNK),
    "with a length": (CHAT, ok(FAILS).replace(b"application/json", b"text/event-stream")),
    "it has no event": (CHAT, SSE_HEAD + chunk(b": hi\n\n") + LAST_CHUNK),
    "half of one": (CHAT, SSE_HEAD + chunk(EVENT[:30]) + LAST_CHUNK),
    "a plain error": (CHAT, ok(FAILS[6:-2])),
    "behind an announcement": ("/v1/responses", SSE_HEAD + chunk(ANNOUNCED) + chunk(FAILED) + LAST_CHUNK),
    "behind a start": ("/v1/messages", SSE_HEAD + chunk(STARTS) + chunk(OVERLOADED) + LAST_CHUNK),
    "TGI's": ("/generate_stream", SSE_HEAD + chunk(b'data:{"error":"no","error_type":"validation"}\n\n') + LAST_CHUNK),
    "a line": (LINES, NDJSON_HEAD + chunk(b'{"error":"no"}\n') + LAST_CHUNK),
    "half a line": (LINES, NDJSON_HEAD + chunk(WORD[:-10]) + LAST_CHUNK),
}
"""What no client would have been shown as an answer: by path, what the engine says."""


def asking(talk: Conversation, path: str, own_ms: str = "") -> tuple[HandClient, HandStream]:
    stream = path == LINES or "stream" not in BODY
    headers = [("x-request-timeout-ms", own_ms)] if own_ms else []
    data = json.dumps({**BODY, "stream": stream}).encode()
    client = talk.client().says(request("POST", path, headers=headers, body=data, key=KEY))
    return client, talk.engines[0].last


LETS = EngineConfig(url="http://127.0.0.1:9", cancel=False, warm_connections=0)


def letting_finish(target: EngineConfig = LETS, **settings: Any) -> Any:
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


@pytest.mark.parametrize("leaves", ["before its head", "behind it", "amid its body"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_answer_costs_whoever_left_as_little_as_whoever_stays(name: str, leaves: str) -> None:
    path, answer = REFUSED[name]
    head = answer.index(b"\r\n\r\n") + 4
    at = {"before its head": 0, "behind it": head, "amid its body": (head + len(answer)) // 2}[leaves]
    for stays in (True, False):
        with letting_finish() as talk:
            client, asked = asking(talk, path)
            if at:
                asked.says(answer[:at])
            if not stays:
                client.leaves()
            asked.says(*[answer[start : start + 40] for start in range(at, len(answer), 40)])
            ledger = talk.account().ledger
            assert (ledger.requests, ledger.reserved, talk.account().purse.spent) == (1, 0, 0)
            assert set(books(talk)) == {(0, 0)}


SPOKEN = b'{"text":"hello","usage":{"type":"tokens","input_tokens":70,"output_tokens":20}}'
LASTS = b'{"text":"hello","usage":{"type":"duration","seconds":60}}'
UPLOADED = {
    "tokens": ("/v1/audio/transcriptions", ok(SPOKEN), (70, 20)), "seconds": ("/v1/audio/transcriptions", ok(LASTS), (600, 0)),
    "an image": ("/v1/images/edits", ok(SPOKEN), (70, 20)), "an error": ("/v1/audio/transcriptions", ok(FAILS[6:-2]), (0, 0)),
    "it dies": ("/v1/audio/translations", ok(SPOKEN)[:-30], (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", UPLOADED)
@pytest.mark.parametrize("end", ["leaves", "leaves behind the head", "leaves amid the body", "his time is over"])
def test_of_an_upload_nothing_is_known_before_its_engine_has_said_it(name: str, end: str) -> None:
    path, answer, charged = UPLOADED[name]
    at = {"leaves behind the head": answer.index(b"\r\n\r\n") + 4, "leaves amid the body": len(answer) - 10}.get(end, 0)
    headers: list[tuple[str, str]] = [("content-type", "multipart/form-data; boundary=B")]
    body = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'
    with letting_finish(between_bytes_timeout_s=30.0) as talk:
        if end == "his time is over":
            headers += [("x-request-timeout-ms", "400")]
        client = talk.client().says(request("POST", path, headers=headers, body=body, key=KEY))
        asked = talk.engines[0].last
        if at:
            asked.says(answer[:at])
        if end == "his time is over":
            talk.passes(0.5)
            client.sees(504)
        else:
            client.leaves()
        ledger = talk.account().ledger
        assert ledger.requests == 0
        asked.says(answer[at:])
        if name == "it dies":
            asked.closes()
        assert (ledger.requests, set(books(talk)), talk.core.unread) == (1, {charged}, set())
        assert talk.account().purse.spent == sum(charged) * 1000


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


@pytest.mark.parametrize("at", [5, 40])
def test_what_was_half_there_when_its_time_was_over_is_read_whole(at: int) -> None:
    said = b'data: {"choices":[],%b}\n\n' % USED
    with letting_finish() as talk:
        client, asked = asking(talk, CHAT, "3000")
        asked.says(SSE_HEAD, chunk(EVENT), chunk(said[:at]))
        talk.passes(3.1)
        assert client.seen.body.startswith(EVENT + b"\n\ndata: ")
        asked.says(chunk(said[at:]), chunk(DONE), LAST_CHUNK)
        assert (set(books(talk)), talk.core.unread) == ({(70, 20)}, set())


DRIPS = {
    "comments": (b"text/event-stream", b": hi\n\n", 0.0, 30), "blanks": (b"application/json", b" ", 0.0, 30),
    "events": (b"text/event-stream", EVENT, 0.0, 3600), "a request's time": (b"text/event-stream", EVENT, 600.0, 600),
    "a plain answer": (b"application/json", b"[", 600.0, 600),
}  # fmt: skip


@pytest.mark.parametrize("protocol", ["h1", "h2"])
@pytest.mark.parametrize("name", DRIPS)
def test_what_never_ends_holds_nothing_for_ever(name: str, protocol: Any) -> None:
    """Comments hold its place for as long as its client would have waited with them, and more of an answer for as long as a
    request may take."""
    kind, drip, time_s, most = DRIPS[name]
    target = EngineConfig(url="http://127.0.0.1:9", cancel=False, warm_connections=0, protocol=protocol)
    with letting_finish(target, between_bytes_timeout_s=30.0, request_timeout_s=time_s) as talk:
        client, asked = asking(talk, CHAT)

        def says(data: bytes) -> None:
            asked.says(chunk(data)) if protocol == "h1" else asked.says(data)

        if protocol == "h1":
            asked.says(SSE_HEAD.replace(b"text/event-stream", kind))
        else:
            asked.begins([(b"content-type", kind)])
        says(EVENT if b"event" in kind else b"[")
        client.leaves()
        account = talk.account()
        held = 0
        while account.inflight and held <= most + 8:
            assert account.ledger.reserved > 100
            talk.passes(4.0)
            held += 4
            if talk.core.unread:
                says(drip)
        assert most - 4 <= held <= most + 4
        assert (talk.core.unread, account.inflight, account.ledger.reserved, account.purse.reserved) == (set(), 0, 0, 0)
        assert talk.engines[0].engine.inflight == 0
