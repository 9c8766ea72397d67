"""What each ending of a request costs: the rows of docs/limits.md, each played as a conversation, stream and plain answer.

``ROWS`` is the page's table in code: how the request is brought to that end (a function of ``Stage``) and what it costs then. A
row of the page that is not here fails, and one here that the page has not. What the prompt's estimate is, is not worked out
again: it is what the gateway reserves for the very same request while an engine holds it, less the answer's ``max_tokens``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from tests.e2e.metered import KEY, OTHER_KEY, say
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandStream
from tests.support.conversation import Conversation, answering, conversation, kills, silent
from tests.support.requests import request
from tests.support.scripts import LAST_CHUNK, chunk

PAGE: Final = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()

MAX_TOKENS: Final = 300
PROMPT, COMPLETION, CACHED, REASONING = 7, 16, 5, 3  # what the engine says, where it says it: nothing that is estimated
USAGE: Final = {
    "prompt_tokens": PROMPT,
    "completion_tokens": COMPLETION,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": REASONING},
}
ERROR: Final = b'data: {"error":{"message":"out of memory","type":"server_error","code":500}}\n\n'
PASSED: Final = 5  # tokens, of a stream that does not come to its end
TEXT: Final = "word " * 160
HALF: Final = 500  # bytes of a plain answer that does not


# --- what an engine sends
def event(text: str = "word ", **more: Any) -> bytes:
    data = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def body(usage: dict[str, Any] | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    found = {"id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1_700_000_000, "model": "sim"}
    return json.dumps({**found, "choices": [choice], **({"usage": usage} if usage is not None else {})}).encode()


def head(stream: bool, size: int, *, status: str = "200 OK", extra: str = "") -> bytes:
    kind = "text/event-stream" if stream else "application/json"
    framing = "transfer-encoding: chunked" if stream else f"content-length: {size}"
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}{framing}\r\n\r\n".encode()


def whole(stream: bool, usage: dict[str, Any] | None = USAGE) -> bytes:
    if not stream:
        data = body(usage)
        return head(False, len(data)) + data
    events = [event() for _ in range(COMPLETION)]
    if usage is not None:
        events.append(b"data: " + json.dumps({"id": "c", "choices": [], "usage": usage}).encode() + b"\n\n")
    return head(True, 0) + chunk(b"".join([*events, b"data: [DONE]\n\n"])) + LAST_CHUNK


def part(stream: bool) -> bytes:
    data = body(USAGE)
    return head(stream, len(data)) + (chunk(event() * PASSED) if stream else data[:HALF])


class Stage:
    """A gateway before an engine that does as the test says."""

    def __init__(self, talk: Conversation, stream: bool) -> None:
        self.talk = talk
        self.stream = stream
        self.prompt = 0

    def data(self, *, key: str = KEY, **more: Any) -> bytes:
        more.setdefault("max_tokens", MAX_TOKENS)
        return say(stream=self.stream, key=key, **more)

    def asked(self, **more: Any) -> tuple[HandClient, HandStream]:
        """A request that an engine has."""
        client = self.talk.client().says(self.data(**more))
        return client, self.talk.engines[0].last

    def answered(self, data: bytes) -> RawResponse:
        """A request that got this."""
        client, asked = self.asked()
        asked.says(data)
        return client.seen


# --- how a request is brought to its end
def is_answered(stage: Stage) -> None:
    assert stage.answered(whole(stage.stream)).status == 200


def is_answered_without_usage(stage: Stage) -> None:
    assert stage.answered(whole(stage.stream, None)).status == 200


def is_answered_in_part(stage: Stage) -> None:
    assert stage.answered(whole(stage.stream, {"prompt_tokens": PROMPT})).status == 200


def is_answered_packed(stage: Stage) -> None:
    stream = stage.stream
    plain = b"".join([event(f"word{number} ") for number in range(COMPLETION)]) if stream else body(USAGE)
    data = gzip.compress(plain)
    client, asked = stage.asked()
    asked.says(head(stream, len(data), extra="content-encoding: gzip\r\n"), chunk(data) + LAST_CHUNK if stream else data)
    client.sees(200)


BUSY: Final = b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def is_retried(stage: Stage) -> None:
    client, asked = stage.asked()
    stage.talk.engines[1].play = answering(whole(stage.stream))
    asked.says(BUSY)
    stage.talk.passes(0.2)
    client.sees(200)
    assert stage.talk.stats.retries_total == 1


def leaves_the_queue(stage: Stage) -> None:
    first, asked = stage.asked(key=OTHER_KEY)
    client = stage.talk.client().says(stage.data())
    assert stage.talk.waiting == 1
    client.leaves()
    assert stage.talk.waiting == 0
    asked.says(whole(stage.stream))
    first.sees(200)


def leaves_a_dial(stage: Stage) -> None:
    stage.talk.engines[0].dial = "hangs"
    client = stage.talk.client().says(stage.data())
    assert stage.talk.stats.exchanges_open == 1
    client.leaves()


def leaves_the_second_dial(stage: Stage) -> None:
    client, asked = stage.asked()
    stage.talk.engines[1].dial = "hangs"
    asked.says(BUSY)
    stage.talk.passes(0.2)
    assert (stage.talk.stats.retries_total, stage.talk.engines[1].dials) == (1, 1)
    client.leaves()


def leaves_before_the_head(stage: Stage) -> None:
    client, _ = stage.asked()
    client.leaves()


def leaves_behind_the_head(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(head(stage.stream, 1000))
    client.leaves()


def leaves_in_the_middle(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(part(stage.stream))
    assert client.seen.body
    client.leaves()


def has_its_own_deadline(stage: Stage) -> None:
    client, _ = stage.asked(headers=[("x-request-timeout-ms", "100")])
    stage.talk.passes(0.3)
    client.sees(504)


def meets_a_deadline(stage: Stage) -> None:
    client, _ = stage.asked()
    stage.talk.passes(0.5)
    client.sees(504)


meets_silence = meets_a_deadline


def meets_a_deadline_in_the_middle(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(part(stage.stream))
    stage.talk.passes(0.5)
    assert (client.sink, client.seen.status) == (None, 200)


def answers(status: str) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        data = body(USAGE)  # whatever it says: this is no answer
        assert stage.answered(head(False, len(data), status=status) + data).status == int(status[:3])

    return play


def dies_before_the_head(stage: Stage) -> None:
    client, asked = stage.asked()
    kills(asked)
    client.sees(502)


def dies_before_an_event(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(head(True, 0), chunk(b": ping\n\n" + event()[:-2])).closes()
    client.sees(502)


def ends_before_an_event(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(head(True, 0), chunk(b": ping\n\n" + event()[:-2]), LAST_CHUNK)
    client.sees(502)


def begins_with_an_error(stage: Stage) -> None:
    answer = stage.answered(head(True, 0) + chunk(ERROR) + LAST_CHUNK)
    assert (answer.status, b"out of memory" in answer.body) == (500, True)


def dies_in_the_middle(stage: Stage) -> None:
    client, asked = stage.asked()
    asked.says(part(stage.stream)).closes()
    assert (client.sink, client.seen.status) == (None, 200)


def meets_broken_framing(stage: Stage) -> None:
    begin = head(True, 0).replace(b"text/event-stream", b"text/event-stream" if stage.stream else b"application/json")
    assert stage.answered(begin + b"zz\r\nthis is no chunk, however long it is made: " + b"word " * 100).status == 502


def meets_an_error(stage: Stage) -> None:
    error = b'{"error":{"message":"out of memory","type":"server_error","code":500}}'
    if stage.stream:
        data = head(True, 0) + chunk(event() * PASSED + ERROR + b"data: [DONE]\n\n") + LAST_CHUNK
    else:
        data = head(False, len(error)) + error
    assert b"out of memory" in stage.answered(data).body


def fails_behind_an_answer(stage: Stage) -> None:
    data = json.dumps({**json.loads(body(None)), "error": {"code": 500}}).encode()
    assert stage.answered(head(False, len(data)) + data).body == data


def ends_as_told(stage: Stage) -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    usage = b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % json.dumps(USAGE).encode()
    stage.talk.account().ledger.limit = stage.prompt + PASSED
    client, asked = stage.asked()
    asked.says(head(True, 0) + chunk(event() * PASSED + last), chunk(usage) + LAST_CHUNK)
    answer = client.sees(200)
    assert answer.body.count(b'"word "') == PASSED
    assert b"daily_quota_exceeded" in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")


def is_cut(stage: Stage) -> None:
    stage.talk.account().ledger.limit = stage.prompt + PASSED
    client, asked = stage.asked()
    asked.says(head(True, 0))
    for _ in range(2 * PASSED):
        asked.says(chunk(event()))
    answer = client.sees(200)
    assert b"daily_quota_exceeded" in answer.body
    assert answer.body.count(b'"word "') - PASSED in (0, 1)


def stops(said: Callable[[bool], bytes] | None) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        client, asked = stage.asked()
        if said is not None:
            asked.says(said(stage.stream))
        stage.talk.core.begin_drain()
        stage.talk.core.abort_all()
        assert client.sink is None

    return play


def is_refused(stage: Stage) -> None:
    talk = stage.talk
    talk.client().says(stage.data(max_tokens=10_000_000)).sees(429)
    talk.client().says(request("POST", "/v1/nowhere", key=KEY, body=b"{}")).sees(404)
    talk.client().says(request("POST", "/v1/chat/completions", key=KEY, body=b"{")).sees(400)


def embeddings(number: int) -> bytes:
    data = json.dumps({"model": "sim", "input": f"text {number}"}).encode()
    return request("POST", "/v1/embeddings", headers=[("Content-Type", "application/json")], body=data, key=KEY)


def shared(stage: Stage) -> list[HandClient]:
    """Two clients whose requests an engine has as one."""
    clients = [stage.talk.client().says(embeddings(number)) for number in (1, 2)]
    stage.talk.passes(0.1)
    assert (stage.talk.stats.merged_requests, stage.talk.asked) == (2, [1])
    return clients


def leaves_a_shared_call(stage: Stage) -> None:
    for client in shared(stage):
        client.leaves()


def goes_alone(stage: Stage) -> None:
    clients = shared(stage)
    [engine] = stage.talk.engines
    data = b'{"object":"list","data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
    data %= PROMPT, PROMPT
    engine.play = answering(head(False, len(data)) + data)
    kills(engine.last)
    stage.talk.passes(0.5)
    for client in clients:
        client.sees(200)
    assert stage.talk.asked == [3]


class Cost(NamedTuple):
    """What is charged. ``prompt`` "said" is the engine's own, "estimate" the gateway's."""

    prompt: str = ""
    tokens: str = ""
    estimated: bool = False
    requests: int = 1


COSTS: Final = {
    "the engine's count": Cost("said", "said"),
    "estimate: prompt and tokens": Cost("estimate", "passed", True),
    "estimate: prompt and size": Cost("estimate", "size", True),
    "estimate: its prompt and tokens": Cost("said", "passed", True),
    "estimate: its prompt and size": Cost("said", "size", True),
    "estimate: prompt": Cost("estimate", "", True),
    "nothing": Cost(),
    "no request": Cost(requests=0),
}


class Row(NamedTuple):
    """A row of the page, and how it is played."""

    ending: str
    stream: str
    plain: str
    play: Callable[[Stage], None]
    settings: Mapping[str, Any] = MappingProxyType({})
    requests: int = 1


TOGETHER: Final = {"embedding_merge_s": 0.02, "retry_fresh": False}
SAID, COUNTED, SIZED = "the engine's count", "estimate: prompt and tokens", "estimate: prompt and size"
ASKED, FREE, NONE = "estimate: prompt", "nothing", "no request"
ROWS: Final = [
    Row("answered whole, and the engine said what it used", SAID, SAID, is_answered),
    Row("answered whole, and it did not", COUNTED, SIZED, is_answered_without_usage),
    Row("answered whole, and it said only what the prompt was", "estimate: its prompt and tokens",
        "estimate: its prompt and size", is_answered_in_part),
    Row("answered whole, and packed (`content-encoding`)", SIZED, SIZED, is_answered_packed),
    Row("a failed attempt, then another engine's whole answer", SAID, SAID, is_retried,
        {"retry_statuses": ("503",), "engines": 2}),
    Row("the client left while it waited for room", NONE, NONE, leaves_the_queue, {"engine_max_concurrent": 1}),
    Row("the client left while an engine was connected to", NONE, NONE, leaves_a_dial),
    Row("the client left after a failed attempt, while another engine was connected to", FREE, FREE, leaves_the_second_dial,
        {"retry_statuses": ("503",), "engines": 2, "policy": "ordered"}),
    Row("the client left when an engine had the request, before the head of its answer", ASKED, ASKED, leaves_before_the_head),
    Row("the client left behind the head, before a token", ASKED, ASKED, leaves_behind_the_head),
    Row("the client left in the middle of the answer", COUNTED, SIZED, leaves_in_the_middle),
    Row("the client's own deadline (`x-request-timeout-ms`) came before the head", ASKED, ASKED, has_its_own_deadline),
    Row("a deadline of the gateway came before the head", FREE, FREE, meets_a_deadline, {"request_timeout_s": 0.1}),
    Row("a deadline came in the middle of the answer", COUNTED, SIZED, meets_a_deadline_in_the_middle,
        {"request_timeout_s": 0.2}),
    Row("the engine answered 4xx", FREE, FREE, answers("400 No")),
    Row("the engine answered 429", FREE, FREE, answers("429 No")),
    Row("the engine answered 5xx", FREE, FREE, answers("500 No")),
    Row("the engine stayed silent", FREE, FREE, meets_silence, {"first_byte_timeout_s": 0.1}),
    Row("the engine died before the head", FREE, FREE, dies_before_the_head),
    Row("what followed the engine's head was broken, and 502 took its place", FREE, FREE, meets_broken_framing),
    Row("the engine died behind the head, before an event", FREE, "-", dies_before_an_event),
    Row("the engine ended its stream before an event", FREE, "-", ends_before_an_event),
    Row("the engine's first event was an error", FREE, "-", begins_with_an_error),
    Row("the engine died in the middle of the answer", COUNTED, SIZED, dies_in_the_middle),
    Row("the engine told of an error in its stream, or with status 200", COUNTED, FREE, meets_an_error),
    Row("the engine told of an error beside what it had made", "-", SIZED, fails_behind_an_answer),
    Row("the quota cut the stream", COUNTED, "-", is_cut, {"on_exhausted": "cut", "default_cost_tokens": 2}),
    Row("the quota ended the stream, and its engine did so itself", SAID, "-", ends_as_told, {"on_exhausted": "cut"}),
    Row("the gateway stopped before the head", FREE, FREE, stops(None)),
    Row("the gateway stopped in the middle of the answer", COUNTED, SIZED, stops(part)),
    Row("the gateway refused it", NONE, NONE, is_refused),
    Row("the client left a shared call of embeddings", "-", ASKED, leaves_a_shared_call, TOGETHER, requests=2),
    Row("a shared call failed, and each went alone", "-", SAID, goes_alone, TOGETHER, requests=2),
]  # fmt: skip


def test_the_page_has_these_rows_and_no_others() -> None:
    table = PAGE.partition("<!-- endings -->")[2].partition("\n\n\"Nothing\"")[0]
    found = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.split("\n") if line.startswith("| ")]
    assert found[0] == ("how it ends", "a stream", "a plain answer")
    assert found[1:] == [(row.ending, row.stream, row.plain) for row in ROWS]
    assert {cell for row in ROWS for cell in (row.stream, row.plain)} - {"-"} == set(COSTS)


PROMPTS: Final[dict[tuple[bool, bool], int]] = {}


def prompt_of(stream: bool, merged: bool) -> int:
    """What a gateway reserves for the prompt of such a request, while an engine has it."""
    if (stream, merged) not in PROMPTS:
        with on_stage(ROWS[0], stream) as stage:
            stage.talk.client().says(embeddings(1) if merged else stage.data())
            assert stage.talk.asked == [1]
            reserved = stage.talk.account().ledger.reserved
            PROMPTS[stream, merged] = reserved if merged else reserved - MAX_TOKENS
    return PROMPTS[stream, merged]


@contextmanager
def on_stage(row: Row, stream: bool) -> Iterator[Stage]:
    settings = {"daily_token_quota": 1_000_000, "tokens_per_minute": 1_000_000, **row.settings}
    with conversation(settings.pop("engines", 1), silent, api_keys=(KEY, OTHER_KEY), **settings) as talk:
        yield Stage(talk, stream)


CASES = [
    pytest.param(row, stream, id=f"{row.ending} - {'stream' if stream else 'plain'}")
    for row in ROWS for stream in (True, False) if (row.stream if stream else row.plain) != "-"
]  # fmt: skip


@pytest.mark.parametrize(("row", "stream"), CASES)
def test_what_it_costs(row: Row, stream: bool) -> None:
    prompt = prompt_of(stream, row.requests > 1)
    with on_stage(row, stream) as stage:
        stage.prompt = prompt
        row.play(stage)
        assert stage.talk.stats.exchanges_open == 0
        judge(row, COSTS[row.stream if stream else row.plain], stage)


def judge(row: Row, cost: Cost, stage: Stage) -> None:
    account = stage.talk.account()
    ledger = account.ledger
    assert (ledger.reserved, account.inflight) == (0, 0)
    assert ledger.requests == cost.requests * row.requests
    assert ledger.prompt == {"": 0, "said": PROMPT, "estimate": stage.prompt}[cost.prompt] * row.requests
    assert ledger.estimated == (ledger.prompt + ledger.completion if cost.estimated else 0)
    merged = row.requests > 1
    match cost.tokens:
        case "said":
            assert ledger.completion == (0 if merged else COMPLETION)
            assert (ledger.cached, ledger.reasoning) == ((0, 0) if merged else (CACHED, REASONING))
        case "passed":
            most = COMPLETION if row.play in (is_answered_without_usage, is_answered_in_part) else PASSED
            assert most <= ledger.completion <= most + (row.play is is_cut)
        case "size":
            # About a token for four bytes of text: never its frame, and no more than was asked for.
            whole_text = (is_answered_without_usage, is_answered_in_part, fails_behind_an_answer)
            text = len(TEXT) if row.play in whole_text else HALF
            if row.play is is_answered_packed:
                assert 0 < ledger.completion <= MAX_TOKENS
            else:
                assert text // 8 <= ledger.completion <= text // 4 + 10
        case _:
            assert ledger.completion == 0
    records = [one for one in stage.talk.records if one["key_id"] == account.id and one["method"] == b"POST"]
    assert sum(max(0, one["prompt_tokens"]) + max(0, one["completion_tokens"]) for one in records) == (
        ledger.prompt + ledger.completion
    )
    assert {one["estimated"] for one in records} == {cost.estimated}
    if account.tokens is not None:
        # What the minute has lent is what was used.
        left = account.tokens.left(10**18)
        assert left == account.tokens.burst
