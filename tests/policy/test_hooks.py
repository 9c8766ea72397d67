"""A filter that overrides every hook, before and behind all others: what is called, in which order; who may refuse, and wait.

Over sockets, with the gateway's own filters between the two.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from fastgw import EngineConfig, policy
from fastgw.errors import GatewayError
from fastgw.exchange.filter import HOOKS, WAITS, Filter
from fastgw.exchange.phases import QUEUED
from fastgw.exchange.state import NO_LIMIT
from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engines import ANSWER, EVENT, JSON_CHUNKED, QUIET, SSE_HEAD, chunk, ok, scripted
from tests.e2e.test_realtime_usage import HANDSHAKE, SWITCH, done
from tests.support.client import RawResponse, chat, request
from tests.support.gateway import Running, running

Said = Callable[[str, Any], Any]
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
RETRIES: dict[str, Any] = {"policy": "ordered", "max_retries": 1, "retry_statuses": ["503"], **QUIET}
MORE = EVENT.replace(b"word", b"more")
DONE = b"data: [DONE]\n\n"


class Witness(Filter):
    """Overrides every hook. ``told`` is what it was told of each request, by the request's tag; ``acts`` is asked first."""

    name = "witness"

    def __init__(self, acts: Said | None = None) -> None:
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        self.data: defaultdict[str, bytes] = defaultdict(bytes)
        self.rooms = 0
        self._acts = acts

    def _tell(self, hook: str, exchange: Any) -> Any:
        tag = (exchange.head.get(b"X-Tag") or b"").decode()
        self.told[tag].append(hook)
        return self._acts(hook, exchange) if self._acts is not None else None

    def on_origin(self, exchange: Any) -> None:
        self._tell("on_origin", exchange)

    def on_arrival(self, exchange: Any) -> None:
        self._tell("on_arrival", exchange)

    def on_head(self, exchange: Any) -> None:
        self._tell("on_head", exchange)

    def on_request(self, exchange: Any) -> None:
        self._tell("on_request", exchange)

    def preflight(self, exchange: Any) -> bytes:
        self._tell("preflight", exchange)
        return b"x-preflight: 1\r\n"

    def on_body(self, exchange: Any) -> bool | None:
        return self._tell("on_body", exchange)  # type: ignore[no-any-return]

    def on_route(self, exchange: Any) -> bool | None:
        return self._tell("on_route", exchange)  # type: ignore[no-any-return]

    def rewrite(self, exchange: Any, engine: Any, body: bytes) -> bytes:
        self._tell("rewrite", exchange)
        return body

    def on_attempt(self, exchange: Any, engine: Any) -> None:
        assert exchange.call is None or exchange.call.pool.engine is engine
        self._tell("on_attempt", exchange)

    def on_full(self, exchange: Any) -> bool:
        self._tell("on_full", exchange)
        return False

    def on_response(self, exchange: Any, head: Any) -> None:
        assert exchange.call.head is head
        self._tell("on_response", exchange)

    def on_data(self, exchange: Any, data: bytes) -> None:
        assert data
        self._tell("on_data", exchange)
        self.data[(exchange.head.get(b"x-tag") or b"").decode()] += data

    def on_allowance(self, exchange: Any) -> bool:
        self._tell("on_allowance", exchange)
        exchange.allowance = NO_LIMIT
        return True

    def on_said(self, exchange: Any, said: Any) -> bool:
        self._tell("on_said", exchange)
        return True

    def on_finish(self, exchange: Any, outcome: str) -> None:
        self._tell("on_finish", exchange)

    def on_room(self) -> None:
        self.rooms += 1


def test_the_witness_overrides_all() -> None:
    assert all(name in vars(Witness) for name in HOOKS)


class Stage:
    """An engine whose answers go by the request's tag, and two witnesses: ``before`` and ``behind`` all other filters."""

    def __init__(self) -> None:
        self.before = Witness()
        self.behind = Witness()
        self.let = asyncio.Event()
        self.seen: list[str] = []

    async def play(self, conn: ScriptedConnection, asked: RawRequest) -> None:
        tag = (asked.header(b"x-tag") or b"").decode()
        self.seen.append(tag)
        if tag in ("retry", "room") and self.seen.count(tag) == 1:
            await conn.send(BUSY)
        elif tag.startswith("hold"):
            await self.let.wait()
            await conn.send(ok())
        elif tag in ("stream", "cut"):
            await conn.send(SSE_HEAD + chunk(EVENT))
            await asyncio.sleep(0.02)
            await conn.send(chunk(MORE))
            await asyncio.sleep(0.02)
            await conn.send(chunk(DONE) + b"0\r\n\r\n")
        elif tag == "long":
            await conn.send(JSON_CHUNKED + chunk(ANSWER[:9]))
            await asyncio.sleep(0.02)
            await conn.send(chunk(ANSWER[9:]) + b"0\r\n\r\n")
        elif tag == "empty":
            await conn.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await conn.send(ok())

    async def session(self, conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if not asked.target.startswith(b"/v1/realtime"):
            await conn.send(ok(b'{"object":"list","data":[]}', b"connection: close"))
            return
        await conn.send(SWITCH)
        await conn.send(done(1, 2))

    def between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy, "ORDER", (lambda _: self.before, *policy.ORDER, lambda _: self.behind))


def tagged(tag: str, **more: Any) -> bytes:
    return chat("m", headers=[("x-tag", tag)], stream=tag in ("stream", "cut"), **more)


HEAD = ["on_origin", "on_arrival", "on_head", "on_request"]
WALK = ["on_body", "on_route"]
SENT = ["on_attempt", "rewrite"]
PLAIN = [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_finish"]

LIVES: list[tuple[str, list[str]]] = [
    ("plain", PLAIN),
    ("long", [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_data", "on_finish"]),
    ("empty", [*HEAD, *WALK, *SENT, "on_response", "on_finish"]),
    ("stream", [*HEAD, *WALK, *SENT, "on_response", "on_data", "on_data", "on_data", "on_finish"]),
    # An answer that is not passed on is no answer.
    ("retry", [*HEAD, *WALK, *SENT, *SENT, "on_response", "on_data", "on_finish"]),
]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    made.between(monkeypatch)
    return made


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


async def held(gw: Running, stage: Stage, tag: str = "hold") -> asyncio.Task[RawResponse]:
    """A request that an engine is at work on."""

    async def ask() -> RawResponse:
        async with await gw.client() as client:
            return await client.ask(tagged(tag))

    task = asyncio.ensure_future(ask())
    await gw.until("at the engine", lambda: tag in stage.seen)
    return task


async def test_filters_behind_the_queue_see_a_request_when_it_has_waited(stage: Stage) -> None:
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        first = await held(gw, stage)
        second = asyncio.ensure_future(_ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        assert stage.before.told["plain"] == [*HEAD, *WALK]
        assert stage.behind.told["plain"] == [*HEAD, "on_body"]
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
        await gw.idle()
        assert (stage.before.told["plain"], stage.behind.told["plain"]) == (PLAIN, PLAIN)
        assert next(one for one in gw.records if one["queued_s"] >= 0.0)["status"] == 200


async def _ask(gw: Running, data: bytes) -> RawResponse:
    async with await gw.client() as client:
        return await client.ask(data)


async def test_whoever_finds_no_room_again_is_asked_about_and_not_routed_again(stage: Stage) -> None:
    async with scripted(stage.play) as one, scripted(stage.play) as two:
        engines = [EngineConfig(url=one.url), EngineConfig(url=two.url, max_concurrent=1)]
        async with running(engines, **RETRIES) as gw:
            core: Any = gw.gateway.core
            core.table.pools[1].engine.inflight += 1  # somebody is there
            asked = asyncio.ensure_future(_ask(gw, tagged("room")))
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
        assert answer.body.startswith(EVENT + MORE + b'data: {"error":')
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


# --- who has it wait
class Waiter:
    """In a hook's place: has a request wait, ``seconds`` or until ``let``."""

    def __init__(self, hook: str, seconds: float = -1.0) -> None:
        self.hook = hook
        self.seconds = seconds
        self.waiting: list[Any] = []

    def __call__(self, hook: str, exchange: Any) -> bool | None:
        if hook != self.hook:
            return None
        if self.seconds >= 0.0:
            exchange.gateway.later(exchange, self.seconds)
        else:
            self.waiting.append(exchange)
        return WAITS


@pytest.mark.parametrize("first", ["on_body", "on_route"])
@pytest.mark.parametrize("second", ["on_body", "on_route"])
async def test_a_request_waits_in_a_filter_then_for_room_then_in_another_filter(stage: Stage, first: str, second: str) -> None:
    one, two = Waiter(first, 0.01), Waiter(second)
    stage.before._acts, stage.behind._acts = one, two
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        core: Any = gw.gateway.core
        asked = asyncio.ensure_future(_ask(gw, tagged("plain")))
        await gw.until("it has come to the last filter", lambda: two.waiting)
        until = PLAIN[: PLAIN.index(second) + 1]
        assert (stage.before.told["plain"], stage.behind.told["plain"]) == (until, until)
        assert stage.seen == []
        exchange = two.waiting.pop()
        exchange.wake()
        assert (await asked).status == 200
        await gw.idle()
        assert (stage.before.told["plain"], stage.behind.told["plain"]) == (PLAIN, PLAIN)
        exchange.resume()  # it has ended: nothing is left to do
        assert core.table.pools[0].engine.inflight == 0


async def test_what_waits_in_a_filter_then_waits_for_room(stage: Stage) -> None:
    stage.before._acts = Waiter("on_route", 0.01)
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        first = await held(gw, stage)
        second = asyncio.ensure_future(_ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        assert stage.behind.told["plain"] == [*HEAD, "on_body"]
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
        assert stage.behind.told["plain"] == PLAIN


@pytest.mark.parametrize("hook", WALK)
async def test_what_ends_a_wait(stage: Stage, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client leaves; its own time is over; nobody wakes it; the gateway stops. Each leaves nothing behind."""
    waiter = stage.before._acts = Waiter(hook)
    told = [*PLAIN[: PLAIN.index(hook) + 1], "on_finish"]
    async with scripted(stage.play) as engine, running([engine.url], drain_timeout_s=0.05, **QUIET) as gw:
        client = await gw.client()
        await client.send(tagged("gone"))
        await gw.until("it waits", lambda: len(waiter.waiting) == 1)
        with pytest.raises(RuntimeError, match="RECEIVING goes on"):
            type(waiter.waiting[0]).resume(_not_waiting(waiter.waiting[0]))
        client.close()
        await gw.until("it is gone", lambda: stage.before.told["gone"] == told)
        timed = await _ask(gw, chat("m", headers=[("x-tag", "timed"), ("x-request-timeout-ms", "30")]))
        assert (timed.status, stage.before.told["timed"]) == (504, told)
        monkeypatch.setattr("fastgw.exchange.exchange.MAX_WAIT_S", 0.03)
        forgotten = await _ask(gw, tagged("forgotten"))
        assert (forgotten.status, stage.before.told["forgotten"]) == (503, told)
        assert "a filter had it wait" in gw.records[-1]["detail"]
        monkeypatch.setattr("fastgw.exchange.exchange.MAX_WAIT_S", 60.0)
        last = asyncio.ensure_future(_ask(gw, tagged("last")))
        await gw.until("it waits", lambda: len(waiter.waiting) == 4)
        await gw.gateway.stop()
        assert (await last).status == 503
        for exchange in waiter.waiting:
            exchange.resume()
            assert exchange.timer is None
    assert stage.seen == []
    assert stage.behind.told["last"][-1] == "on_finish"


def _not_waiting(exchange: Any) -> Any:
    """The same gateway's, fresh: it is still being read."""
    return type(exchange)(exchange.gateway, exchange.client, exchange.head, exchange.endpoint, b"x")


async def test_a_filter_sets_the_timer_of_a_wait_that_has_begun(stage: Stage) -> None:
    """In the place of the one that would have ended it; and what is left of the walk is not lost."""
    waiter = stage.before._acts = Waiter("on_route")
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw:
        asked = asyncio.ensure_future(_ask(gw, tagged("plain")))
        await gw.until("it waits", lambda: waiter.waiting)
        (exchange,) = waiter.waiting
        exchange.gateway.later(exchange, 60.0)
        exchange.gateway.later(exchange, 0.01)
        assert (await asked).status == 200
        assert stage.behind.told["plain"] == PLAIN


async def test_the_client_of_a_held_upload_is_seen_to_leave(stage: Stage) -> None:
    waiter = stage.before._acts = Waiter("on_route")
    part = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n'
    form = part % b"model" + b"m\r\n" + part % b"file"
    headers = [("x-tag", "u"), ("content-type", "multipart/form-data; boundary=b")]
    data = request("POST", "/v1/audio/transcriptions", body=form + bytes(1000), headers=headers)
    async with scripted(stage.play) as engine, running([engine.url], **QUIET) as gw:
        client = await gw.client()
        await client.send(data.replace(b"Content-Length: %d" % (len(form) + 1000), b"Content-Length: 100000"))
        await gw.until("it waits", lambda: waiter.waiting)
        client.close()
        await gw.until("it is gone", lambda: stage.before.told["u"][-1] == "on_finish")


async def test_who_is_queued_in_the_last_filter_keeps_nothing_else(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the gateway comes: nobody is behind the queue."""
    monkeypatch.setattr(policy, "ORDER", policy.ORDER[1:-1])
    async with scripted(stage.play) as engine, running([engine.url], max_concurrent=1, **QUIET) as gw:
        core: Any = gw.gateway.core
        first = await held(gw, stage)
        second = asyncio.ensure_future(_ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        sinks = [stream.sink for connection in core.connections for stream in connection.streams()]
        (waiting,) = [one for one in sinks if one.phase == QUEUED]
        assert waiting.timer is None
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
