"""What each ending of a request costs: the rows of docs/limits.md, each played over real sockets, stream and plain answer.

``ROWS`` is the page's table in code: how the request is brought to that end (a function of ``Play``) and what it costs then. A
row of the page that is not here fails, and one here that the page has not. What the prompt's estimate is, is not worked out
again: it is what the gateway reserves for the very same request while an engine holds it, less the answer's ``max_tokens``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from fastgw import EngineConfig
from fastgw.limits.account import Account
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.metered import KEY, OTHER_KEY, account_of
from tests.e2e.played import (
    CACHED,
    COMPLETION,
    HALF,
    MAX_TOKENS,
    PASSED,
    PROMPT,
    REASONING,
    TEXT,
    Play,
    answers,
    dies,
    embeddings,
    ends_as_told,
    goes_alone,
    has_its_own_deadline,
    hold,
    is_answered,
    is_answered_in_part,
    is_answered_packed,
    is_answered_without_usage,
    is_cut,
    is_refused,
    is_retried,
    leaves_a_dial,
    leaves_a_shared_call,
    leaves_before_the_head,
    leaves_behind_the_head,
    leaves_in_the_middle,
    leaves_the_queue,
    leaves_the_second_dial,
    meets_a_deadline,
    meets_a_deadline_in_the_middle,
    meets_an_error,
    meets_broken_framing,
    meets_silence,
    part,
    stops,
)
from tests.e2e.test_cases_e_upstream import black_hole
from tests.support.client import RawClient
from tests.support.gateway import running

PAGE: Final = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()

pytestmark = [pytest.mark.together]


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
    play: Callable[[Play], Awaitable[None]]
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
    Row("the client left while it waited for room", NONE, NONE, leaves_the_queue, {"max_concurrent": 1}),
    Row("the client left while an engine was connected to", NONE, NONE, leaves_a_dial, {"engines": 0}),
    Row("the client left after a failed attempt, while another engine was connected to", FREE, FREE, leaves_the_second_dial,
        {"retry_statuses": ("503",), "engines": -1, "policy": "ordered"}),
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
    Row("the engine died before the head", FREE, FREE, dies(None, reset=True)),
    Row("what followed the engine's head was broken, and 502 took its place", ASKED, ASKED, meets_broken_framing),
    Row("the engine died in the middle of the answer", COUNTED, SIZED, dies(part, reset=False)),
    Row("the engine told of an error in its stream", COUNTED, "-", meets_an_error),
    Row("the quota cut the stream", COUNTED, "-", is_cut, {"on_exhausted": "cut", "default_cost_tokens": 2}),
    Row("the quota ended the stream, and its engine did so itself", SAID, "-", ends_as_told, {"on_exhausted": "cut"}),
    Row("the gateway stopped before the head", FREE, FREE, stops(hold)),
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


async def prompt_of(stream: bool, shared: bool) -> int:
    """What a gateway reserves for the prompt of such a request, while an engine has it."""
    if (stream, shared) not in PROMPTS:
        async with on_stage(ROWS[0], stream) as play, RawClient.connect(play.gw.url) as client:
            play.engine = hold
            await client.send(embeddings(1) if shared else play.data())
            await play.asked.wait()
            reserved = account_of(play.gw).ledger.reserved
            PROMPTS[stream, shared] = reserved if shared else reserved - MAX_TOKENS
    return PROMPTS[stream, shared]


@asynccontextmanager
async def on_stage(row: Row, stream: bool) -> AsyncIterator[Play]:
    settings = dict(row.settings)
    engines = settings.pop("engines", 1)
    async with AsyncExitStack() as stack:
        holder: list[Play] = []

        async def handler(conn: ScriptedConnection) -> None:
            await holder[0].handle(conn)

        engine = await stack.enter_async_context(ScriptedEngine(handler))
        urls = [engine.url] if engines else []
        if engines == 2:
            second = await stack.enter_async_context(ScriptedEngine(handler))
            urls.append(second.url)
        if engines < 1:
            urls.append(f"http://127.0.0.1:{stack.enter_context(black_hole())}")
        targets = [EngineConfig(url=url, warm_connections=0) for url in urls]
        quiet = {"health_interval_s": 3600.0, "daily_token_quota": 1_000_000, "tokens_per_minute": 1_000_000}
        holder.append(play := Play(None, engine, stream))  # type: ignore[arg-type]
        play.gw = await stack.enter_async_context(running(targets, api_keys=(KEY, OTHER_KEY), **{**quiet, **settings}))
        yield play


CASES = [
    pytest.param(row, stream, id=f"{row.ending} - {'stream' if stream else 'plain'}")
    for row in ROWS for stream in (True, False) if (row.stream if stream else row.plain) != "-"
]  # fmt: skip


@pytest.mark.parametrize(("row", "stream"), CASES)
async def test_what_it_costs(row: Row, stream: bool) -> None:
    cost = COSTS[row.stream if stream else row.plain]
    prompt = await prompt_of(stream, row.requests > 1)
    async with on_stage(row, stream) as play:
        play.prompt = prompt
        account = account_of(play.gw)
        await row.play(play)
        await play.gw.idle()
        judge(row, cost, account, play)


def judge(row: Row, cost: Cost, account: Account, play: Play) -> None:
    ledger = account.ledger
    assert (ledger.reserved, account.inflight) == (0, 0)
    assert ledger.requests == cost.requests * row.requests
    assert ledger.prompt == {"": 0, "said": PROMPT, "estimate": play.prompt}[cost.prompt] * row.requests
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
            text = len(TEXT) if row.play in (is_answered_without_usage, is_answered_in_part) else HALF
            if row.play is is_answered_packed:
                assert 0 < ledger.completion <= MAX_TOKENS
            else:
                assert text // 8 <= ledger.completion <= text // 4 + 10
        case _:
            assert ledger.completion == 0
    records = [one for one in play.gw.records if one["key_id"] == account.id and one["method"] == b"POST"]
    assert sum(max(0, one["prompt_tokens"]) + max(0, one["completion_tokens"]) for one in records) == (
        ledger.prompt + ledger.completion
    )
    assert {one["estimated"] for one in records} == {cost.estimated}
    if account.tokens is not None:
        # What the minute has lent is what was used.
        left = account.tokens.left(10**18)
        assert left == account.tokens.burst
