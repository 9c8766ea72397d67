"""``/admin/engines`` over real sockets, before a fleet that nobody is behind: what is refused, in which words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

import fastgw.upstream.fleet as upstream
from fastgw import Config, EngineConfig
from fastgw.config.entries import ENGINE_FIELDS
from fastgw.control.admin_engines import FIELDS, MOST_MODELS
from fastgw.control.server import ControlServer
from fastgw.engines import EngineDesk
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.observe.latencies import Latencies
from fastgw.protocol.hosts import HostRule
from fastgw.stats import NullLog, Stats
from fastgw.upstream.fleet import Fleet
from tests.control.test_server import ADMIN_KEY, Events, the_key
from tests.support.client import RawClient, request
from tests.support.pages import Written

SECRET = "sk-which-an-engine-is-sent"


class Operator:
    """Whoever has the admin key."""

    def __init__(self, control: ControlServer, fleet: Fleet, log: Events) -> None:
        self.control = control
        self.fleet = fleet
        self.log = log

    async def ask(self, method: str, path: str = "", document: Any = None, body: bytes | None = None) -> tuple[int, Any]:
        given = json.dumps(document).encode() if document is not None else body
        async with RawClient.connect(self.control.url) as client:
            await client.send(request(method, f"/admin/engines{path}", body=given, key=ADMIN_KEY))
            answer = await client.read_response()
        return answer.status, answer.json() if answer.body else None

    async def refused(self, *call: Any, **named: Any) -> tuple[int, str, str]:
        status, document = await self.ask(*call, **named)
        return status, document["error"]["code"], document["error"]["message"]


@contextlib.asynccontextmanager
async def operator() -> AsyncIterator[Operator]:
    reactor = Reactor(asyncio.get_running_loop())
    config = Config(engines=[EngineConfig(url="http://127.0.0.1:1", name="first", api_key=SECRET)], warm_connections=0)
    fleet = Fleet(
        config, reactor, Stats(), NullLog(), Shortage(NullLog()), published=lambda: None, room=lambda: None
    )
    log = Events()
    control = ControlServer(
        host="127.0.0.1", port=0, operators=[the_key(ADMIN_KEY)], log=log, metrics=Written(), health=dict, keys=None,
        engines=EngineDesk(fleet, Latencies(fleet.engines)), hosts=HostRule([], "node-7"),
    )  # fmt: skip
    await control.start()
    try:
        yield Operator(control, fleet, log)
    finally:
        await control.stop()
        fleet.close()
        reactor.close()


def test_what_may_be_set_is_what_the_file_takes() -> None:
    assert list(FIELDS) == [row.name for row in ENGINE_FIELDS]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "url: must be there"),
        ({"url": 7}, "url: must be a string"),
        ({"url": "ftp://x"}, "url: the URL must be http://host:port, https://host:port or unix:/path"),
        ({"url": "http://u:p@x"}, "put the engine's key into api_key instead"),
        ({"url": "http://x", "wieght": 2}, "there is no field 'wieght' that can be set"),
        ({"url": "http://x", "weight": 0}, "weight: must be a whole number from 1 to 1000"),
        ({"url": "http://x", "weight": "2"}, "weight: must be a whole number"),
        ({"url": "http://x", "models": 7}, "models: must be a list of strings"),
        ({"url": "http://x", "models": [""]}, "models: must be a list of names"),
        ({"url": "http://x", "models": ["a\x1b[2J"]}, "models: holds a name with control characters, or of more than 200"),
        ({"url": "http://x", "models": ["x" * 201]}, "models: holds a name with control characters, or of more than 200"),
        ({"url": "http://x", "name": "x" * 201}, "name: must be text of 200 bytes at most, without control characters"),
        ({"url": "http://x", "name": ".."}, "name: has . or .. where a path has its parts"),
        ({"url": "http://x", "name": "gpu/./1"}, "name: has . or .. where a path has its parts"),
        ({"url": "http://x", "name": "  "}, "name: must be text of 200 bytes at most, without control characters"),
        ({"url": "http://x", "name": "a\u0000b"}, "name: holds a control character"),
        ({"url": "http://x", "name": "a\u0085b"}, "name: must be text of 200 bytes at most, without control characters"),
        ({"url": "http://x", "kind": "llama"}, "kind: must be one of auto, openai, vllm"),
        ({"url": "http://x", "cancel": None}, "cancel: must be true or false"),
        ({"url": "http://x", "weight": 0, "kind": "x", "max_concurrent": -1}, "max_concurrent: must be"),
        ({"url": "http://x", "kind": "vllm", "ranks": 2}, "ranks: an engine whose ranks are told apart"),
    ],
)
async def test_each_mistake_is_told(given: dict[str, Any], says: str) -> None:
    async with operator() as op:
        status, code, message = await op.refused("POST", "", given)
        assert (status, code) == (400, "invalid_parameter")
        assert says in message
        assert not re.search(r"(\w+): \1:", message), "a field is named once"
        assert len(op.fleet) == 1


async def test_names_of_the_most_bytes_are_taken() -> None:
    async with operator() as op:
        status, shown = await op.ask("POST", "", {"url": "http://x", "name": "x" * 200, "models": ["y" * 200]})
        assert (status, shown["name"]) == (201, "x" * 200)


async def test_bodies_that_are_none_are_refused_as_those_of_keys() -> None:
    async with operator() as op:
        assert (await op.refused("POST", "", body=b"[]"))[:2] == (400, "invalid_json")
        assert (await op.refused("POST", "", body=b'{"url":"http://x","url":"http://y"}'))[:2] == (400, "duplicate_member")


async def test_who_is_there_already_and_who_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async with operator() as op:
        status, code, message = await op.refused("POST", "", {"url": "http://x", "name": "first"})
        assert (status, code) == (409, "engine_exists")
        assert "give this one another `name`" in message
        monkeypatch.setattr(upstream, "MOST_ENGINES", 1)
        status, code, message = await op.refused("POST", "", {"url": "http://x"})
        assert (status, code) == (409, "too_many_engines")
        assert "remove one first" in message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nobody", 404, "engine_not_found"),
        ("DELETE", "/nobody", 404, "engine_not_found"),
        ("POST", "/nobody/drain", 404, "engine_not_found"),
        ("POST", "/nobody/undrain", 404, "engine_not_found"),
        ("POST", f"/{SECRET}/drain", 404, "engine_not_found"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/first/", 404, "unknown_url"),
        ("POST", "/first/reboot", 404, "unknown_url"),
        ("GET", "/first/drain", 405, "method_not_allowed"),
        ("PUT", "/first", 405, "method_not_allowed"),
        ("DELETE", "", 405, "method_not_allowed"),
        ("DELETE", "/first?now=yes", 400, "invalid_parameter"),
        ("DELETE", "/first?at=once", 400, "invalid_parameter"),
        ("GET", "?kind=vllm", 400, "invalid_parameter"),
    ],
)
async def test_what_means_nothing_is_refused(method: str, path: str, status: int, code: str) -> None:
    async with operator() as op:
        assert (await op.refused(method, path))[:2] == (status, code)
        assert len(op.fleet) == 1
        assert not op.fleet.pools[0].engine.draining
        assert SECRET not in repr(op.log.lines)


async def test_nobody_gets_in_without_the_key() -> None:
    async with operator() as op, RawClient.connect(op.control.url) as client:
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/first"), ("POST", "/first/drain")):
            await client.send(request(method, f"/admin/engines{path}", key="engine-secret"))
            assert (await client.read_response()).status == 401
        assert not op.fleet.pools[0].engine.draining


async def test_no_answer_shows_a_key_and_a_long_list_is_cut() -> None:
    async with operator() as op:
        op.fleet.pools[0].engine.discovered_models = tuple(f"m{at}" for at in range(MOST_MODELS + 5))
        _, page = await op.ask("GET")
        (shown,) = page["data"]
        assert SECRET not in json.dumps(page)
        assert (shown["api_key_set"], len(shown["models"]), shown["models_total"]) == (True, MOST_MODELS, MOST_MODELS + 5)


async def test_an_engine_that_is_busy_goes_later_and_says_so() -> None:
    async with operator() as op:
        op.fleet.pools[0].engine.inflight = 2
        status, shown = await op.ask("DELETE", "/first")
        assert (status, shown["draining"], shown["leaving"], shown["inflight"]) == (202, True, True, 2)
        status, shown = await op.ask("POST", "/first/undrain")
        assert (status, shown["draining"], shown["leaving"]) == (200, False, False)
        assert await op.ask("DELETE", "/first?now=true") == (204, None)
        assert await op.ask("GET") == (200, {"object": "list", "data": []})
