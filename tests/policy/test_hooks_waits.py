"""A filter has a request wait, before the queue, behind it, or twice: what it goes on with, and what ends the wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw import policy
from fastgw.exchange.filter import WAITS
from fastgw.exchange.phases import QUEUED
from tests.e2e.engines import QUIET, scripted
from tests.policy.witness import HEAD, PLAIN, WALK, Stage, ask, held, tagged
from tests.support.client import chat, request
from tests.support.gateway import running


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
        asked = asyncio.ensure_future(ask(gw, tagged("plain")))
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
        second = asyncio.ensure_future(ask(gw, tagged("plain")))
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
        timed = await ask(gw, chat("m", headers=[("x-tag", "timed"), ("x-request-timeout-ms", "30")]))
        assert (timed.status, stage.before.told["timed"]) == (504, told)
        monkeypatch.setattr("fastgw.exchange.exchange.MAX_WAIT_S", 0.03)
        forgotten = await ask(gw, tagged("forgotten"))
        assert (forgotten.status, stage.before.told["forgotten"]) == (503, told)
        assert "a filter had it wait" in gw.records[-1]["detail"]
        monkeypatch.setattr("fastgw.exchange.exchange.MAX_WAIT_S", 60.0)
        last = asyncio.ensure_future(ask(gw, tagged("last")))
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
        asked = asyncio.ensure_future(ask(gw, tagged("plain")))
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
        second = asyncio.ensure_future(ask(gw, tagged("plain")))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        sinks = [stream.sink for connection in core.connections for stream in connection.streams()]
        (waiting,) = [one for one in sinks if one.phase == QUEUED]
        assert waiting.timer is None
        stage.let.set()
        assert ((await first).status, (await second).status) == (200, 200)
