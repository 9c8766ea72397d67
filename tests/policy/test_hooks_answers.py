"""Filters that answer, forbid or choose themselves, wherever they may: what follows, what is billed, what is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.errors import GatewayError
from fastgw.exchange.phases import QUEUED
from fastgw.limits.breaker import CLOSED, HALF_OPEN
from fastgw.upstream.table import Group
from tests.e2e.engines import ANSWER, EVENT, QUIET, pool_engine, scripted
from tests.e2e.merging import ask as embedding
from tests.e2e.merging import plainly
from tests.policy.test_hooks_waits import Waiter
from tests.policy.witness import DONE, HEAD, MORE, PLAIN, Stage, Witness, ask, held, tagged
from tests.support.client import chat
from tests.support.gateway import Running, running


def answering(hook: str, tag: bytes = b"mine", status: int = 200) -> Any:
    def acts(name: str, exchange: Any) -> None:
        if name == hook and exchange.head.get(b"x-tag") == tag:
            exchange.answer(status, b"text/plain", b"mine")

    return acts


def refusing(hook: str, at: int = 1) -> Any:
    """The ``at``-th call of ``hook`` raises."""
    calls = 0

    def acts(name: str, exchange: Any) -> None:
        nonlocal calls
        if name == hook:
            calls += 1
            if calls == at:
                raise GatewayError("forbidden", "Not this one.")

    return acts


# --- who is answered before a body is read
@pytest.mark.parametrize("hook", HEAD)
async def test_who_is_answered_by_the_head_is_asked_nothing_more_and_leaves_nothing(stage: Stage, hook: str) -> None:
    """No deadline to the next of its connection, and no judgement: the same head is asked about again."""
    stage.before._acts = answering(hook)
    until = PLAIN[: PLAIN.index(hook) + 1]
    mine = chat("m", headers=[("x-tag", "mine"), ("x-request-timeout-ms", "40")])
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        for _ in range(2):
            answer = await client.ask(mine)
            assert (answer.status, answer.body) == (200, b"mine")
        # (Whoever has come as far as ``on_request`` is known by his head.)
        again = ["on_arrival", "on_request"] if hook == "on_request" else until
        assert stage.before.told["mine"] == [*until, "on_finish", *again, "on_finish"]
        assert stage.behind.told["mine"] == [*until[:-1], "on_finish", *again[:-1], "on_finish"]
        await client.send(tagged("hold"))
        await asyncio.sleep(0.1)
        stage.let.set()
        assert (await client.read_response()).status == 200
        assert stage.seen == ["hold"]


@pytest.mark.parametrize("hook", ["on_arrival", "on_request"])
async def test_who_is_answered_where_his_head_is_known_is_asked_nothing_more(stage: Stage, hook: str) -> None:
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        assert (await client.ask(tagged("mine"))).status == 200
        stage.before._acts = answering(hook)
        assert (await client.ask(tagged("mine"))).body == b"mine"
        known = ["on_arrival", "on_request"]
        assert stage.before.told["mine"] == [*PLAIN, *known[: known.index(hook) + 1], "on_finish"]
        assert stage.behind.told["mine"] == [*PLAIN, *known[: known.index(hook)], "on_finish"]
        assert stage.seen == ["mine"]


async def test_an_answer_in_place_of_an_attempt_says_nothing_of_an_engine_that_is_tried_again(stage: Stage) -> None:
    stage.before._acts = answering("on_attempt")
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw:
        known = pool_engine(gw)
        known.breaker = breaker = type(known.breaker)(1, 0.0)
        breaker.failed(0.0, 0.0, False)
        assert (await ask(gw, tagged("mine"))).body == b"mine"
        assert (breaker.state, known.inflight, known.answered_total, stage.seen) == (HALF_OPEN, 0, 0, [])
        assert (await ask(gw, tagged("plain"))).status == 200
        assert (breaker.state, known.answered_total) == (CLOSED, 1)


# --- who wakes twice
async def stirred(gw: Running, exchange: Any) -> None:
    """Woken as often as anybody might, and by a timer that came too late."""
    for _ in range(3):
        exchange.wake()
    exchange.wait_over()
    for _ in range(5):
        await asyncio.sleep(0.002)


async def test_a_wait_is_over_once(stage: Stage) -> None:
    waiter = stage.before._acts = Waiter("on_body")
    stage.behind._acts = later = Waiter("on_route")
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw:
        asked = asyncio.ensure_future(ask(gw, tagged("plain")))
        await gw.until("it waits", lambda: waiter.waiting)
        (exchange,) = waiter.waiting
        exchange.wake()
        exchange.wake()
        await gw.until("it waits again", lambda: later.waiting)
        exchange.wake()
        exchange.wake()
        assert (await asked).status == 200
        await gw.idle()
        assert (stage.before.told["plain"], stage.behind.told["plain"]) == (PLAIN, PLAIN)


async def test_who_waits_for_room_or_is_under_way_is_not_woken(stage: Stage) -> None:
    known: dict[str, Any] = {}
    stage.before._acts = lambda _, exchange: known.__setitem__(exchange.head.get(b"x-tag").decode(), exchange)
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        first = await held(gw, stage)
        second = asyncio.ensure_future(ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        await stirred(gw, known["plain"])
        await stirred(gw, known["hold"])
        assert (known["plain"].phase, gw.stats.queue_waiting_open, stage.seen) == (QUEUED, 1, ["hold"])
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
        await stirred(gw, known["plain"])
        assert stage.behind.told["plain"] == stage.behind.told["hold"] == PLAIN


async def test_who_waits_for_companions_is_not_woken(stage: Stage) -> None:
    known: list[Any] = []
    stage.before._acts = lambda hook, exchange: known.append(exchange) if hook == "on_route" else None
    async with scripted(plainly) as engine, running([engine.url], embedding_merge_s=0.1, **QUIET) as gw:
        asked = [asyncio.ensure_future(ask(gw, embedding(text))) for text in ("a", "b")]
        await gw.until("both are there", lambda: len(known) == 2)
        for one in known:
            await stirred(gw, one)
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200, 200]
        assert (gw.stats.merged_calls, gw.stats.merged_requests) == (1, 2)


# --- who forgets
class Forgets(Witness):
    """A ``rewrite`` without its ``return``, for one tag."""

    def rewrite(self, exchange: Any, engine: Any, body: bytes) -> bytes:
        return super().rewrite(exchange, engine, body) if exchange.head.get(b"x-tag") == b"plain" else None  # type: ignore[return-value]


@pytest.mark.parametrize("merged", [False, True])
async def test_a_rewrite_that_returns_nothing_is_a_500_and_no_more(stage: Stage, merged: bool) -> None:
    stage.before = Forgets()
    settings = {"embedding_merge_s": 0.02, **QUIET} if merged else QUIET
    async with scripted(stage.play) as engine, running([engine.url], expect_internal_errors=True, **settings) as gw:
        asked = [embedding("a"), embedding("b")] if merged else [tagged("mine")]
        for answer in await asyncio.gather(*(ask(gw, one) for one in asked)):
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert all("TypeError" in line["error"] and line["error"].endswith("rewritten") for _, _, line in gw.events.errors())
        assert (pool_engine(gw).inflight, pool_engine(gw).breaker.failures, stage.seen) == (0, 0, [])
        assert (await ask(gw, tagged("plain"))).status == 200


# --- who forbids what an engine has said
async def test_a_chunked_answer_that_came_at_once_is_refused_with_nothing_of_it(stage: Stage) -> None:
    stage.before._acts = refusing("on_data")
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        answer = await client.ask(tagged("once"))
        assert (answer.status, answer.complete, answer.error["message"]) == (403, True, "Not this one.")
        assert b"choices" not in answer.raw_body
        assert answer.header("transfer-encoding") is None
        await gw.idle()
        assert (gw.records[-1]["status"], gw.records[-1]["error"]) == (403, "forbidden")
        assert (await client.ask(tagged("once"))).body == ANSWER


@pytest.mark.parametrize(("tag", "at", "goes", "not_this"), [
    ("stream", 3, EVENT + MORE, DONE),
    ("long", 2, ANSWER[:9], ANSWER[9:]),
    ("ends", 2, EVENT, b"data: [DO"),
])  # fmt: skip
async def test_a_last_piece_is_refused_and_the_record_says_so(
    stage: Stage, tag: str, at: int, goes: bytes, not_this: bytes
) -> None:
    stage.before._acts = refusing("on_data", at)
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        await client.send(tagged(tag))
        answer = await client.read_response()
        assert (answer.status, answer.complete) == (200, False)
        assert answer.body.startswith(goes)
        assert not_this not in answer.body
        await gw.idle()
        record = gw.records[-1]
        assert (record["error"], record["outcome"]) == ("forbidden", "forbidden")
        assert pool_engine(gw).breaker.failures == 0


BILLED: list[tuple[str, Any, int, tuple[int, bool]]] = [
    ("on_data refuses", refusing("on_data"), 403, (5, False)),
    ("on_data answers", answering("on_data", b"much"), 200, (5, False)),
    ("on_response refuses", refusing("on_response"), 403, (0, True)),
    ("on_response answers", answering("on_response", b"much"), 200, (0, True)),
    ("on_attempt answers", answering("on_attempt", b"much"), 200, (-1, False)),
]


@pytest.mark.parametrize("row", BILLED, ids=[row[0] for row in BILLED])
async def test_what_is_billed_where_another_answer_stands_in_an_engines_place(stage: Stage, row: Any) -> None:
    """By the engine's own figures, where they had come; no word of an answer that nobody has read; nothing, where no engine
    was asked."""
    _, stage.before._acts, status, (completion, estimated) = row
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw:
        assert (await ask(gw, tagged("much"))).status == status
        await gw.idle()
        record = gw.records[-1]
        assert (record["completion_tokens"], record["estimated"]) == (completion, estimated)
        assert record["prompt_tokens"] == 3 or completion != 5


@pytest.mark.parametrize("hook", ["on_response", "on_data"])
async def test_a_shared_answer_that_is_refused_is_billed_by_its_shares(stage: Stage, hook: str) -> None:
    stage.before._acts = refusing(hook)
    async with scripted(plainly) as engine, running([engine.url], embedding_merge_s=0.05, **QUIET) as gw:
        answers = await asyncio.gather(*(ask(gw, embedding(text)) for text in ("four", "two2")))
        assert sorted(one.status for one in answers) == [200, 403]
        await gw.idle()
        assert gw.stats.merged_requests == 2
        assert [record["prompt_tokens"] for record in gw.records] == [4, 4]


async def test_a_second_answer_behind_one_that_has_begun_is_a_bug(stage: Stage) -> None:
    def acts(name: str, exchange: Any) -> None:
        if name == "on_data" and stage.before.told["stream"].count("on_data") == 2:
            exchange.answer(200, b"text/plain", b"mine")

    stage.before._acts = acts
    async with scripted(stage.play) as engine, running([engine.url], expect_internal_errors=True, **QUIET) as gw:
        async with await gw.client() as client:
            await client.send(tagged("stream"))
            answer = await client.read_response()
        assert (answer.status, answer.complete) == (200, False)
        assert answer.body.startswith(EVENT)
        assert b"HTTP/1.1" not in answer.raw_body
        assert b"mine" not in answer.raw_body
        assert [line["error"].split(" > ")[0] for _, _, line in gw.events.errors()] == ["RuntimeError"]
        await gw.idle()
        assert gw.records[-1]["error"] == "internal_error"
        assert stage.behind.told["stream"][-1] == "on_finish"
        assert pool_engine(gw).inflight == 0


# --- who chooses the engines himself
async def test_engines_that_a_filter_has_chosen_stay(stage: Stage) -> None:
    """One that is drained is not replaced by others; nor is it for those who wait for it when engines come."""

    def acts(name: str, exchange: Any) -> None:
        if name == "on_route":
            exchange.group = group

    stage.before._acts = acts
    async with (
        scripted(stage.play) as one,
        scripted(stage.play) as two,
        scripted(stage.play) as three,
        running([one.url, two.url], policy="ordered", engine_max_concurrent=1, **QUIET) as gw,
    ):
        fleet = gw.gateway.fleet
        second = fleet.pools[1]
        group = Group([second])
        holds = await held(gw, stage)
        waits = asyncio.ensure_future(ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        fleet.add(EngineConfig(url=three.url, name="three"))
        await gw.until("it is well", lambda: fleet.find("three").engine.healthy)
        fleet.publish()
        await asyncio.sleep(0.02)
        assert (gw.stats.queue_waiting_open, stage.seen) == (1, ["hold"])
        stage.let.set()
        assert ((await holds).status, (await waits).status) == (200, 200)
        fleet.drain(second.engine.name)
        answer = await ask(gw, tagged("plain"))
        assert (answer.status, answer.error["code"]) == (503, "engines_unavailable")
        await gw.idle()
        assert {record["engine"] for record in gw.records[:2]} == {second.engine.name}
        assert stage.seen == ["hold", "plain"]
