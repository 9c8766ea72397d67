"""A filter that overrides every hook, before and behind all others: what is called, in which order; who may refuse, and wait.

Over sockets, with the gateway's own filters between the two.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.errors import GatewayError
from fastgw.exchange.filter import HOOKS
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engines import EVENT, QUIET, ok, scripted
from tests.e2e.test_realtime_usage import HANDSHAKE
from tests.policy.witness import DONE, HEAD, MORE, PLAIN, RETRIES, SENT, WALK, Stage, Witness, ask, held, tagged
from tests.support.client import RawResponse, chat, request
from tests.support.gateway import Running, running


def test_the_witness_overrides_all() -> None:
    assert all(name in vars(Witness) for name in HOOKS)


LIVES: list[tuple[str, list[str]]] = [
    ("plain", PLAIN),
    ("long", [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_data", "on_finish"]),
    ("empty", [*HEAD, *WALK, *SENT, "on_response", "on_finish"]),
    ("stream", [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_data", "on_data", "on_finish"]),
    # An answer that is not passed on is no answer.
    ("retry", [*HEAD, *WALK, *SENT, *SENT, "on_response", "on_data", "on_finish"]),
]


@pytest.mark.parametrize(("tag", "told"), LIVES)
async def test_each_hook_is_called_in_its_turn(stage: Stage, tag: str, told: list[str]) -> None:
    async with (
        scripted(stage.play) as one,
        scripted(stage.play) as two,
        running([one.url, two.url], **RETRIES) as gw,
        await gw.client() as client,
    ):
        answer = await client.ask(tagged(tag))
        await gw.idle()
        assert (stage.before.told[tag], stage.behind.told[tag]) == (told, told)
        assert stage.before.data[tag] == stage.behind.data[tag] == answer.body
        assert stage.behind.rooms or tag != "retry"  # its place at the first engine is free
        # The same head again: it is judged already.
        if tag == "plain":
            await client.ask(tagged(tag))
            await gw.idle()
            assert stage.before.told[tag] == [*told, "on_arrival", "on_request", *told[4:]]


OTHERS: list[tuple[str, bytes, int, list[str]]] = [
    ("not found", request("GET", "/nowhere", headers=[("x-tag", "t")]), 404, ["on_origin", "on_arrival", "on_finish"]),
    ("answered here", request("GET", "/health", headers=[("x-tag", "t")]), 200, [*HEAD, "on_finish"]),
    (
        "options",
        request("OPTIONS", "/v1/chat/completions", headers=[("x-tag", "t")]), 204,
        ["on_origin", "on_arrival", "preflight", "on_finish"],
    ),
    ("too deep", chat("m", headers=[("x-tag", "t")], x=json.loads("[" * 200 + "]" * 200)), 400, [*HEAD, "on_finish"]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "status", "told"), OTHERS, ids=[row[0] for row in OTHERS])
async def test_what_goes_to_no_engine(stage: Stage, what: str, data: bytes, status: int, told: list[str]) -> None:
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        answer = await client.ask(data)
        assert answer.status == status
        assert stage.before.told["t"] == told
        # (Only the first is asked for lines.)
        assert stage.behind.told["t"] == [one for one in told if one != "preflight"]
        assert (answer.header("x-preflight") is not None) == (what == "options")


async def test_a_session(stage: Stage) -> None:
    told = [*HEAD, *WALK, *SENT, "on_response", "on_said", "on_finish"]
    async with ScriptedEngine(stage.session) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        await client.send(request("GET", "/v1/realtime?model=m", headers=[*HANDSHAKE, ("x-tag", "s")]))
        assert (await client.read_head()).status == 101
        await gw.idle()
        assert (stage.before.told["s"], stage.behind.told["s"]) == (told, told)


async def test_an_upload_has_no_body_to_show(stage: Stage) -> None:
    form = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    headers = [("x-tag", "u"), ("content-type", "multipart/form-data; boundary=b")]
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        assert (await client.ask(request("POST", "/v1/audio/transcriptions", body=form, headers=headers))).status == 200
        told = [*HEAD, "on_route", *SENT, "on_response", "on_data", "on_finish"]
        assert (stage.before.told["u"], stage.behind.told["u"]) == (told, told)


async def test_embeddings_that_share_a_call_are_shown_each_for_itself(stage: Stage) -> None:
    async def play(conn: ScriptedConnection, asked: RawRequest) -> None:
        inputs = json.loads(asked.body)["input"]
        rows = [{"object": "embedding", "index": at, "embedding": [1]} for at in range(len(inputs))]
        await conn.send(ok(json.dumps({"object": "list", "data": rows, "model": "m"}).encode()))

    async def ask(gw: Running, text: str) -> RawResponse:
        async with await gw.client() as client:
            body = json.dumps({"model": "m", "input": text}).encode()
            return await client.ask(request("POST", "/v1/embeddings", body=body, headers=[("x-tag", "e")]))

    async with scripted(play) as engine, running([engine.url], embedding_merge_s=0.02, **QUIET) as gw:
        answers = await asyncio.gather(ask(gw, "a"), ask(gw, "b"))
        assert [one.status for one in answers] == [200, 200]
        assert gw.stats.merged_requests == 2
        for name in ("on_body", "on_route", "on_attempt", "on_response", "on_data", "on_finish"):
            assert stage.before.told["e"].count(name) == stage.behind.told["e"].count(name) == 2
        assert stage.before.told["e"].count("rewrite") == 1
        assert sorted(stage.behind.data["e"]) == sorted(answers[0].body + answers[1].body)


async def test_a_stream_that_has_used_its_allowance(stage: Stage) -> None:
    def acts(hook: str, exchange: Any) -> None:
        if hook == "on_route":
            exchange.allowance = 1

    stage.behind._acts = acts
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        answer = await client.ask(tagged("cut"))
        assert answer.body == stage.behind.data["cut"] == EVENT + MORE + DONE
        assert stage.before.told["cut"].count("on_allowance") == 1


async def test_filters_behind_the_queue_see_a_request_when_it_has_waited(stage: Stage) -> None:
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        first = await held(gw, stage)
        second = asyncio.ensure_future(ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        assert stage.before.told["plain"] == [*HEAD, *WALK]
        assert stage.behind.told["plain"] == [*HEAD, "on_body"]
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
        await gw.idle()
        assert (stage.before.told["plain"], stage.behind.told["plain"]) == (PLAIN, PLAIN)
        assert next(one for one in gw.records if one["queued_s"] >= 0.0)["status"] == 200


async def test_whoever_finds_no_room_again_is_asked_about_and_not_routed_again(stage: Stage) -> None:
    async with scripted(stage.play) as one, scripted(stage.play) as two:
        engines = [EngineConfig(url=one.url), EngineConfig(url=two.url, max_concurrent=1)]
        async with running(engines, **RETRIES) as gw:
            core: Any = gw.gateway.core
            core.table.pools[1].engine.inflight += 1  # somebody is there
            asked = asyncio.ensure_future(ask(gw, tagged("room")))
            await gw.until("it waits", lambda: gw.stats.queue_waiting_open == 1)
            assert stage.before.told["room"] == [*HEAD, *WALK, *SENT, "on_full"]
            core.table.pools[1].engine.inflight -= 1
            core.room()
            assert (await asked).status == 200
            assert stage.before.told["room"] == [*HEAD, *WALK, *SENT, "on_full", *SENT, "on_response", "on_data", "on_finish"]


# --- who refuses
@pytest.mark.parametrize("hook", [*HEAD, *WALK, "on_attempt", "on_response", "on_data"])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_hook_refuses(stage: Stage, hook: str, reused: bool) -> None:
    """What is behind it is not called, but every end is; the engine is left, and the connection goes on."""

    def acts(name: str, exchange: Any) -> None:
        if name == hook and exchange.head.get(b"x-tag") == b"no":
            raise GatewayError("forbidden", "Not this one.")

    stage.before._acts = acts
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        if reused:
            assert (await client.ask(tagged("plain"))).status == 200
        answer = await client.ask(tagged("no"))
        assert (answer.status, answer.error["message"]) == (403, "Not this one.")
        until = PLAIN[: PLAIN.index(hook) + 1]
        assert stage.before.told["no"] == [*until, "on_finish"]
        assert stage.behind.told["no"] == [*until[:-1], "on_finish"]
        assert len(stage.seen) == reused + (hook in ("on_response", "on_data"))
        core: Any = gw.gateway.core
        assert [(pool.engine.inflight, pool.engine.breaker.failures) for pool in core.table.pools] == [(0, 0)]
        assert (await client.ask(tagged("plain"))).status == 200


async def test_a_hook_ends_a_stream(stage: Stage) -> None:
    def acts(name: str, exchange: Any) -> None:
        if name == "on_data" and len(stage.before.told["stream"]) > len(PLAIN) - 1:
            raise GatewayError("forbidden")

    stage.before._acts = acts
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        await client.send(tagged("stream"))
        answer = await client.read_response()
        assert (answer.status, answer.complete) == (200, False)
        assert answer.body.startswith(EVENT + b'data: {"error":')
        assert MORE not in answer.body, "what it was refused for"
        assert DONE not in answer.body
        await gw.idle()
        assert gw.records[-1]["error"] == "forbidden"


@pytest.mark.parametrize("hook", [*WALK, "on_attempt", "on_response", "on_data"])
async def test_a_hook_gives_another_answer(stage: Stage, hook: str) -> None:
    def acts(name: str, exchange: Any) -> None:
        if name == hook:
            exchange.answer(200, b"text/plain", b"mine")

    stage.before._acts = acts
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw, await gw.client() as client:
        for _ in range(2):
            answer = await client.ask(tagged("plain"))
            assert (answer.status, answer.body) == (200, b"mine")
        assert stage.behind.told["plain"][: PLAIN.index(hook) + 1] == [*PLAIN[: PLAIN.index(hook)], "on_finish"]
        assert len(stage.seen) == (2 if hook in ("on_response", "on_data") else 0)


async def test_a_bug_in_a_hook_is_a_500(stage: Stage) -> None:
    def acts(name: str, exchange: Any) -> None:
        if name == "on_attempt":
            raise ValueError(name)

    stage.before._acts = acts
    async with (
        scripted(stage.play) as engine,
        running([engine.url], expect_internal_errors=True, **QUIET) as gw,
        await gw.client() as client,
    ):
        assert (await client.ask(tagged("plain"))).status == 500
        assert stage.behind.told["plain"][-1] == "on_finish"
