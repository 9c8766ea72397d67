"""What happens to the engines, told over a socket: in order, once, to whoever comes again from where he stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastgw.control import admin_gateway as module
from fastgw.control import server as server_module
from fastgw.control.server import ControlServer
from fastgw.protocol.hosts import HostRule
from fastgw.upstream import chronicle
from fastgw.upstream.chronicle import Chronicle
from tests.control.test_server import ADMIN_KEY, Events, the_key, until
from tests.support.client import RawClient, request
from tests.support.pages import Written


@contextlib.asynccontextmanager
async def telling() -> AsyncIterator[tuple[ControlServer, Chronicle]]:
    events = Chronicle()
    control = ControlServer(
        host="127.0.0.1", port=0, operators=[the_key(ADMIN_KEY)], log=Events(), metrics=Written(), health=dict, keys=None,
        hosts=HostRule(["x"], ""), events=events,
    )  # fmt: skip
    await control.start()
    try:
        yield control, events
    finally:
        events.close()
        await control.stop()


async def _read(client: RawClient, query: str = "", last: int | None = None) -> None:
    headers = [("Last-Event-ID", str(last))] if last is not None else []
    await client.send(request("GET", f"/admin/events{query}", key=ADMIN_KEY, headers=headers))


async def _seen(client: RawClient, words: bytes) -> bytes:
    """What comes until ``words`` have."""
    text = b""
    async with asyncio.timeout(5):
        while words not in text:
            text += await client.read_some()
    return text


def told(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {\"")]


async def test_events_come_as_they_happen() -> None:
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        events.add("engine_added", "before")
        await _read(client)
        head = await _seen(client, b": from ")
        assert b"Content-Type: text/event-stream" in head
        events.add("engine_added", "gpu7", "dns")
        text = await _seen(client, b"gpu7")
        events.add("engine_not_well", "gpu7", "/health answered 503")
        text += await _seen(client, b"503")
        assert [(one["what"], one["engine"], one["detail"]) for one in told(text)] == [
            ("engine_added", "gpu7", "dns"), ("engine_not_well", "gpu7", "/health answered 503"),
        ]  # fmt: skip
        assert b"id: %d\nevent: engine_not_well\n" % events.last in text
        assert b"before" not in head + text


async def test_whoever_comes_again_gets_what_he_has_missed() -> None:
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        for at in range(4):
            events.add("engine_added", f"e{at}")
        await _read(client, "?follow=false", events.last - 2)
        answer = await client.read_response()
        assert [one["engine"] for one in told(answer.body)] == ["e2", "e3"]
        await _read(client, f"?follow=false&after={events.last - 1}")
        assert [one["engine"] for one in told((await client.read_response()).body)] == ["e3"]
        await _read(client, "?follow=false")
        assert len(told((await client.read_response()).body)) == 4
        assert b"event: missed" not in answer.body


async def test_no_more_are_kept_than_a_thousand_and_who_missed_some_is_told() -> None:
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        first = events.last
        for at in range(chronicle.KEPT + 5):
            events.add("engine_added", f"e{at}", "x" * 1000)
        assert len(events) == chronicle.KEPT
        await _read(client, "?follow=false", first + 1)
        answer = await client.read_response()
        assert b"event: missed" in answer.body
        assert len(told(answer.body)) == chronicle.KEPT
        assert told(answer.body)[0]["detail"] == "x" * chronicle.DETAIL_CHARS


@pytest.mark.parametrize("kept", [0, 2])
async def test_a_number_that_is_none_yet_is_another_gateways_and_whoever_names_it_begins_anew(kept: int) -> None:
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        for at in range(kept):
            events.add("engine_added", f"e{at}")
        await _read(client, last=events.last + 1000)
        text = await _seen(client, b"event: missed\n")
        events.add("engine_added", "next")
        text += await _seen(client, b"next")
        assert [one["engine"] for one in told(text)] == [*(f"e{at}" for at in range(kept)), "next"]
        before = events.last - kept - 1
        assert b"id: %d\nevent: missed\n" % before in text, "its `Last-Event-ID` is one that exists"


async def test_readers_are_few_and_one_who_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_READERS", 2)
    async with telling() as (control, _), RawClient.connect(control.url) as one, RawClient.connect(control.url) as two:
        for client in (one, two):
            await _read(client)
            await _seen(client, b": from ")
        async with RawClient.connect(control.url) as third:
            await _read(third)
            assert (await third.read_response()).status == 429
        two.close()
        await until(lambda: control.open == 1)
        async with RawClient.connect(control.url) as third:
            await _read(third)
            await _seen(third, b": from ")


async def test_a_reader_who_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WRITE_S", 0.2)
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        await _read(client)
        await _seen(client, b": from ")
        for _ in range(200):
            for _ in range(200):
                events.add("engine_added", "e", "x" * chronicle.DETAIL_CHARS)
            await asyncio.sleep(0.005)
            if control.open == 0:
                break
        await until(lambda: control.open == 0)


async def test_who_hears_nothing_for_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    async with telling() as (control, _), RawClient.connect(control.url) as client:
        await _read(client)
        await _seen(client, b": quiet\n\n")


async def test_readers_end_with_the_gateway() -> None:
    async with telling() as (control, events), RawClient.connect(control.url) as client:
        await _read(client)
        await _seen(client, b": from ")
        events.close()
        await _seen(client, b"0\r\n\r\n")


@pytest.mark.parametrize("query", [
    "?follow=yes", "?after=x", "?after=-1", "?after=1e9", "?since=1", "?after=" + "9" * 40, "?after=" + "0" * 5000,
], ids=lambda query: query[:20])  # fmt: skip
async def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    async with telling() as (control, _), RawClient.connect(control.url) as client:
        await _read(client, query)
        assert (await client.read_response()).status == 400
