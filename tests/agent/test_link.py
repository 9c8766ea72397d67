"""An agent and its connection: how it finds out what its engine is, obeys, comes back after a pause, and leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fastgw.agent.engine import MAX_ANSWER_BYTES, LocalEngine
from fastgw.agent.link import MAX_PAUSE_S, MOST_BEFORE, REFUSED_PAUSE_S
from fastgw.agent.loading import CannotLoad
from fastgw.sim import SimConfig, Simulator
from fastgw.upstream.kinds.registry import ASKED
from tests.e2e.agents import agent
from tests.support.ports import closed_port
from tests.support.runners import TOKEN

pytestmark = pytest.mark.together

Pages = dict[str, Any]


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait until ``condition()`` is true."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


class Engine:
    """An engine that answers what a test says: ``GET path`` or ``POST path`` to (status, document)."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.asked: list[tuple[str, Any]] = []
        self.absent: list[str] = []  # what it was asked for and does not have
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        name = f"{request.method} {request.path}"
        if body:
            self.asked.append((name, json.loads(body)))
        if name not in self.pages:
            self.absent.append(name)
        found = self.pages.get(name, (404, {}))
        status, document = found() if callable(found) else found
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return web.Response(status=status, body=data)


@asynccontextmanager
async def engine(pages: Pages) -> AsyncIterator[Engine]:
    made = Engine(pages)
    async with served(made.answer) as made.url:
        yield made


@asynccontextmanager
async def served(handler: Callable[[web.BaseRequest], Any]) -> AsyncIterator[str]:
    """The URL of a server of aiohttp's."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def local(pages: Pages, kind: Any = "auto", **more: Any) -> AsyncIterator[tuple[LocalEngine, Engine]]:
    async with engine(pages) as there, aiohttp.ClientSession() as http:
        yield LocalEngine(http, there.url, kind, str, more.get("adapters", {}), more.get("pull", True)), there


def models(*names: str, owner: str = "vllm") -> tuple[int, Any]:
    return 200, {"data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}


def compact(*names: str, owner: str = "vllm") -> tuple[int, bytes]:
    return 200, json.dumps(models(*names, owner=owner)[1], separators=(",", ":")).encode()


OLLAMA: Pages = {
    "GET /api/tags": (200, {"models": [{"name": "l:8b"}, {"name": "q:4b"}]}),
    "GET /api/ps": (200, {"models": [{"name": "l:8b"}]}), "GET /api/version": (200, {"version": "0.9"}),
    "GET /v1/models": compact("l:8b", "q:4b", owner="library"),
}  # fmt: skip
INFO = (200, {"model_id": "m", "max_total_tokens": 4096})
ROUTER = (200, {"data": [{"id": "a", "status": {"value": "loaded"}}, {"id": "b", "status": {"value": "unloaded"}}]})


@pytest.mark.parametrize(("pages", "kind", "loaded", "available"), [
    ({"GET /health": (200, {}), "GET /v1/models": compact("m")}, "vllm", ["m"], []),
    (OLLAMA, "ollama", ["l:8b"], ["q:4b"]),
    ({"GET /health": (200, {}), "GET /v1/models": compact("a", "b", owner="llamacpp"), "GET /models": ROUTER},
     "llamacpp", ["a"], ["b"]),
    ({"GET /health": (200, {}), "GET /v1/models": compact("a", owner="llamacpp"), "GET /models": compact("a")},
     "llamacpp", ["a"], []),
    ({"GET /health": (200, {}), "GET /v1/models": compact("m", owner="me")}, "auto", ["m"], []),
    ({"GET /health": (200, {}), "GET /info": INFO}, "tgi", ["m"], []),
    ({"GET /health": (200, {}), "GET /info": INFO, "GET /v1/models": compact("m", owner="m")}, "tgi", ["m"], []),
])  # fmt: skip
async def test_what_an_engine_is_and_what_it_has_in_memory(pages: Pages, kind: str, loaded: Any, available: Any) -> None:
    async with local(pages) as (found, _):
        await found.look()
        said = found.status
        assert (said.is_healthy, said.engine_type) == (True, kind), said
        assert (said.loaded_models, said.available_models) == (loaded, available)
        assert said.context_tokens == ({"m": 4096} if kind == "tgi" else {})


async def test_adapters_that_it_could_have_are_available() -> None:
    pages = {"GET /health": (200, {}), "GET /v1/models": compact("m", "sql")}
    async with local(pages, adapters={"sql": "/a", "law": "/b"}) as (found, _):
        await found.look()
        assert (found.status.loaded_models, found.status.available_models) == (["m", "sql"], ["law"])


@pytest.mark.parametrize("pages", [
    {}, {"GET /health": (503, {})}, {"GET /health": (200, {})}, {"GET /health": (200, {}), "GET /v1/models": (500, {})},
    {"GET /health": (200, {}), "GET /v1/models": (200, b"x" * (MAX_ANSWER_BYTES + 1))}, {"GET /health": (302, {})},
])  # fmt: skip
async def test_one_that_is_not_well_says_how(pages: Pages) -> None:
    async with local(pages) as (found, _):
        await found.look()
        assert not found.status.is_healthy
        assert found.status.error


async def test_one_that_fails_once_was_busy_and_one_that_comes_back_may_be_another() -> None:
    pages: Pages = {"GET /health": (200, {}), "GET /v1/models": compact("m")}
    async with local(pages) as (found, there):
        said = []
        for now in ((200, {}), (503, {}), (200, {}), (503, {}), (503, {}), (503, {})):
            pages["GET /health"] = now
            await found.look()
            said.append(found.status.is_healthy)
            assert found.status.loaded_models == ["m"], "what it has is known while it is away"
        assert said == [True, True, True, True, False, False]
        there.pages = OLLAMA
        await found.look()
        assert (found.status.engine_type, found.status.available_models) == ("ollama", ["q:4b"])


async def test_what_it_does_not_have_it_is_asked_for_once_and_again_when_it_is_back() -> None:
    pages: Pages = {"GET /health": (200, {}), "GET /v1/models": compact("m", owner="me")}
    async with local(pages) as (found, there):
        for _ in range(5):
            await found.look()
        once = sorted({"GET /api/version", "GET /metrics", *[f"GET {kind.asked[0].decode()}" for kind in ASKED]})
        assert sorted(there.absent) == once
        there.pages = {}
        for _ in range(2):
            await found.look()
        there.absent.clear()
        there.pages = pages
        await found.look()
        assert sorted(there.absent) == once


@pytest.mark.parametrize("odd", ["x" * 201, "é" * 101])
async def test_a_name_that_no_gateway_takes_keeps_no_other_model_out(odd: str) -> None:
    pages = {"GET /health": (200, {}), "GET /v1/models": compact("good", odd), "GET /metrics": (200, b"")}
    async with local(pages) as (found, _):
        await found.look()
        assert (found.status.is_healthy, found.status.loaded_models, found.left_out) == (True, ["good"], (odd,))


async def test_one_that_nobody_answers_for_is_not_well() -> None:
    async with aiohttp.ClientSession() as http:
        found = LocalEngine(http, f"http://127.0.0.1:{closed_port()}", "auto", str, {}, True)
        await found.look()
        assert found.status.error


async def test_a_model_is_pulled_where_it_is_not_there_and_kept() -> None:
    pages = {**OLLAMA, "POST /api/pull": (200, {"status": "success"}), "POST /api/generate": (200, {"done": True})}
    async with local(pages) as (found, there):
        await found.look()
        await found.load("new:1b")
        await found.load("q:4b")
        await found.unload("l:8b")
        there.pages["GET /api/tags"] = (200, {"models": [{"name": "l:8b"}, {"name": "qwen3:latest"}]})
        await found.look()
        assert found.aliases == {"qwen3": "qwen3:latest"}
        await found.load("qwen3")
        await found.unload("qwen3")
        assert there.asked == [
            ("POST /api/pull", {"model": "new:1b", "stream": False}),
            ("POST /api/generate", {"model": "new:1b", "keep_alive": -1, "stream": False}),
            ("POST /api/generate", {"model": "q:4b", "keep_alive": -1, "stream": False}),
            ("POST /api/generate", {"model": "l:8b", "keep_alive": 0, "stream": False}),
            ("POST /api/generate", {"model": "qwen3:latest", "keep_alive": -1, "stream": False}),
            ("POST /api/generate", {"model": "qwen3:latest", "keep_alive": 0, "stream": False}),
        ]
        there.pages["POST /api/pull"] = (500, {"error": "no room left on device"})
        with pytest.raises(CannotLoad, match="no room left"):
            await found.load("other:1b")


async def test_a_router_is_waited_for_until_it_has_the_model() -> None:
    how = iter(["unloaded", "loading", "loaded"])
    pages: Pages = {
        "GET /health": (200, {}), "GET /v1/models": compact("b", owner="llamacpp"),
        "GET /models": lambda: (200, {"data": [{"id": "b", "status": {"value": next(how, "loaded")}}]}),
        "POST /models/load": (200, {"success": True}),
    }  # fmt: skip
    async with local(pages) as (found, there):
        await found.look()
        await found.load("b")
        assert there.asked == [("POST /models/load", {"model": "b"})]
        there.pages["GET /models"] = (200, {"data": [{"id": "b", "status": {"value": "unloaded", "failed": True}}]})
        with pytest.raises(CannotLoad, match="failed"):
            await found.load("b")


# --- its connection
class Gateway:
    """A gateway by hand: what it is told, and what it answers to ``register``."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.dialled: list[float] = []  # when
        self.heard: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.dialled.append(monotonic())
        if isinstance(answer, int):
            return web.Response(status=answer)
        ws = web.WebSocketResponse(timeout=0.1)
        await ws.prepare(request)
        self.sockets.append(ws)
        async for message in ws:
            said = {**json.loads(message.data), "socket": self.sockets.index(ws)}
            self.heard.append(said)
            if said["type"] == "register":
                for one in answer if isinstance(answer, list) else [answer]:
                    await ws.send_json(one)
                    if one["type"] == "error":
                        await ws.close(code=1008)
        return ws

    def said(self, *kinds: str) -> list[dict[str, Any]]:
        return [one for one in self.heard if one["type"] in kinds]


ACK = {"type": "register_ack", "runner_id": "r1"}
GO = {"type": "go_away"}


@asynccontextmanager
async def pair(*answers: Any, **asked: Any) -> AsyncIterator[tuple[Gateway, Any]]:
    gateway = Gateway(list(answers))
    async with (
        Simulator(SimConfig()) as sim,
        served(gateway.handle) as url,
        agent(url, sim.url, **asked) as one,
    ):
        yield gateway, one


async def test_S4_14_it_registers_and_says_how_it_is() -> None:
    async with pair(ACK, heartbeat_s=0.05, aliases={"fast": "sim"}) as (gateway, _):
        await until(lambda: len(gateway.said("heartbeat")) > 1)
        first = gateway.heard[0]
        assert (first["auth_token"], first["protocol_version"]) == (TOKEN, 1)
        assert first["status"]["engines"][0]["loaded_models"] == ["sim"]
        assert first["status"]["model_aliases"] == {"fast": "sim"}
        assert "url" not in first or first["url"] is None


@pytest.mark.parametrize("welcome", [ACK, {"type": "Welcome", "runner_id": "r1"}])
async def test_pings_and_commands_are_answered_in_either_language(welcome: Any) -> None:
    async with pair(welcome, heartbeat_s=60.0, look_s=60.0) as (gateway, _):
        await until(lambda: bool(gateway.sockets and gateway.heard))
        ws = gateway.sockets[0]
        await ws.send_json({"type": "ping", "timestamp": 1})
        await until(lambda: len(gateway.said("heartbeat")) == 1)
        for kind in ("load_model", "LoadModel", "unload_model"):
            await ws.send_json({"type": kind, "model_id": "m", "request_id": kind})
        await ws.send_json({"type": "RequestStatus", "request_id": "how"})
        await until(lambda: len(gateway.said("command_response")) == 4)
        answers = {one["request_id"]: one for one in gateway.said("command_response")}
        assert [answers[one]["success"] for one in ("load_model", "LoadModel", "unload_model", "how")] == [False] * 3 + [True]
        assert "no models while it runs" in answers["load_model"]["error"]
        assert answers["how"]["status"]["health"] == "healthy"


async def test_it_comes_back_when_its_connection_breaks() -> None:
    """Each time after as short a pause: the gateway has taken it."""
    async with pair(ACK, dice=-0.9) as (gateway, one):
        registered = lambda: [line for line in one.events.lines if line[1] == "registered"]  # noqa: E731
        for times in range(1, 6):
            await until(lambda: len(registered()) == times)  # noqa: B023 - it is called in this turn
            await gateway.sockets[-1].close()
        waits = [line[2]["again_s"] for line in one.events.lines if line[1] == "not connected to the gateway"]
        assert set(waits) == {0.0}


async def test_pauses_grow_and_end_somewhere_and_a_refusal_is_not_asked_again_at_once() -> None:
    port = closed_port()
    async with agent(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}", dice=1.0) as one:
        waits = lambda: [line[2]["again_s"] for line in one.events.lines if line[1] == "not connected to the gateway"]  # noqa: E731
        await until(lambda: len(waits()) == 1)
        assert waits() == [1.0]
        assert [f"127.0.0.1:{port}" in line[2]["reason"] for line in one.events.lines if "reason" in line[2]] == [True]
        assert MAX_PAUSE_S >= 30.0
    for passes in (408, 429, 500, 502, 503, 504):
        # (A proxy before a gateway that restarts says so: nothing against us.)
        async with pair(passes, dice=1.0) as (_, one):
            await until(lambda: len(waits()) == 1)
            assert waits() == [1.0]
    refused = {"type": "error", "code": "PROTOCOL_ERROR", "message": "no"}
    for refusal, pause_s in (
        (403, REFUSED_PAUSE_S), (404, REFUSED_PAUSE_S), (refused, REFUSED_PAUSE_S),
        (refused | {"code": "AUTH_FAILED"}, REFUSED_PAUSE_S), (refused | {"retry_after_s": 3}, 3.0),
        (refused | {"retry_after_s": 1e9}, MAX_PAUSE_S), (refused | {"retry_after_s": 0}, 0.5),
    ):  # fmt: skip
        async with pair(refusal) as (_, one):
            await until(lambda: bool(waits()))
            assert waits() == [pause_s]
            assert TOKEN not in str(one.events.lines)


async def test_one_that_is_sent_on_speaks_with_both_and_leaves_both() -> None:
    async with pair(ACK, heartbeat_s=60.0, look_s=60.0, dice=-0.9) as (gateway, one):
        await until(lambda: bool(gateway.heard))
        assert gateway.heard[0]["go_away"] is True
        await gateway.sockets[0].send_json(GO)
        await until(lambda: len(gateway.said("register")) == 2)
        for ws in gateway.sockets:
            await ws.send_json({"type": "ping", "timestamp": 1})
        await until(lambda: len(gateway.said("heartbeat")) == 2)
        one.link.leave()
        await until(lambda: {said["socket"] for said in gateway.heard if said.get("health") == "shutting_down"} == {0, 1})
        await gateway.sockets[1].close(code=1000)
        await asyncio.sleep(0.05)
        assert not one.task.done(), "something may be under way at the one before"
        await gateway.sockets[0].close(code=1000)
        await asyncio.wait_for(one.task, 2)


async def test_gateways_that_send_on_at_once_are_dialled_ever_later_and_not_without_an_end() -> None:
    async with pair([ACK, GO], heartbeat_s=60.0, dice=-0.9) as (gateway, _):
        await until(lambda: len(gateway.sockets) == MOST_BEFORE + 1)
        waits = [after - before for before, after in pairwise(gateway.dialled)]
        assert all(wait > 0.02 * 2**times for times, wait in enumerate(waits)), waits
        await asyncio.sleep(0.5)
        assert [ws.closed for ws in gateway.sockets] == [False] * (MOST_BEFORE + 1), "and none is given up for it"
        await gateway.sockets[0].close()
        await until(lambda: len(gateway.sockets) == MOST_BEFORE + 2)


async def test_one_that_was_sent_on_in_vain_dials_again_when_its_gateway_has_ended() -> None:
    """It was no upgrade: whoever starts the gateway anew does so behind its end, and not when the pauses are over."""
    async with pair([ACK, GO], 503, 503, 503, 503, ACK, heartbeat_s=60.0, dice=-0.9) as (gateway, one):
        warned = lambda: [line[2]["again_s"] for line in one.events.lines if line[1] == "not connected to the gateway"]  # noqa: E731
        await until(lambda: len(warned()) == 4)
        assert warned()[-2:] == [0.2, 0.4]
        ended = monotonic()
        await gateway.sockets[0].close(code=1001)
        await until(lambda: len(gateway.said("register")) == 2)
        assert monotonic() - ended < 0.2


async def test_it_leaves_when_it_is_let_go_or_when_its_time_is_over() -> None:
    async with pair(ACK) as (gateway, one):
        await until(lambda: bool(gateway.heard))
        one.link.leave()
        await until(lambda: any(said.get("health") == "shutting_down" for said in gateway.heard))
        assert not one.task.done()
        await gateway.sockets[0].close(code=1000)
        await asyncio.wait_for(one.task, 2)
    async with pair(ACK, drain_s=0.1) as (gateway, one):
        await until(lambda: bool(gateway.heard))
        await one.leave()
    async with pair(500) as (_, one):
        await one.leave()  # (it was never there)
