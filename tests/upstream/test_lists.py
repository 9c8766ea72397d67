"""Engines' lists of models: what is read of them, how much, and again before a name is said to be nobody's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastgw import Config, EngineConfig
from fastgw.net.shortage import Shortage
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from fastgw.upstream import lists
from fastgw.upstream.lists import Learned, Lists
from tests.e2e.metered import ask as asks
from tests.e2e.metered import say
from tests.support.client import RawClient, chat
from tests.support.gateway import Events, Running, running
from tests.support.requests import request
from tests.support.scripts import ok
from tests.upstream.test_table import place

SELDOM: dict[str, Any] = {"warm_connections": 0, "model_refresh_s": 60.0, "health_interval_s": 60.0}
OFTEN: dict[str, Any] = {"warm_connections": 0, "model_refresh_s": 0.05, "health_interval_s": 0.05}
NO_MODEL = (
    b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 87\r\nconnection: close\r\n\r\n"
    b'{"error":{"message":"The model `a` does not exist.","type":"NotFoundError","code":404}}'
)


class Lister:
    """An engine that lists ``items``, and answers what it is asked of those."""

    def __init__(self, *names: str) -> None:
        self.items: list[dict[str, Any]] = [{"id": name, "owned_by": "vllm"} for name in names]
        self.engine = ScriptedEngine(self._play)

    async def _play(self, conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        body = json.dumps({"data": self.items}).encode() if asked.target == b"/v1/models" else b"{}"
        if asked.body and json.loads(asked.body)["model"] not in [item["id"] for item in self.items]:
            await conn.send(NO_MODEL)
        else:
            await conn.send(ok(body, b"connection: close"))

    def count(self, target: bytes) -> int:
        return sum(one.target == target for one in self.engine.requests)

    @property
    def read(self) -> int:
        """How often its list was."""
        return self.count(b"/v1/models")


async def answer(gw: Running, data: bytes) -> Any:
    async with RawClient.connect(gw.url) as client:
        return await client.ask(data)


def learned(gw: Running, count: int = 1) -> Callable[[], bool]:
    return lambda: sum(len(pool.engine.discovered_models) for pool in gw.gateway.fleet.pools) == count


async def test_what_was_loaded_a_moment_ago_is_found_before_a_404(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that ask for it wait for one reading; and whoever asks for names that are none has lists read no more often."""
    lister = Lister("m")
    other = EngineConfig(url="http://127.0.0.1:9", models=["n"])
    async with lister.engine as engine, running([EngineConfig(url=engine.url), other], **SELDOM) as gw:
        await gw.until("its list is known", learned(gw))
        lister.items.append({"id": "lora", "owned_by": "vllm"})
        with monkeypatch.context() as patched:
            patched.setattr("fastgw.policy.nearest.nearest", None)  # (what it is like is looked for when it is told)
            found = await asyncio.gather(*[answer(gw, chat("lora")) for _ in range(8)])
        assert {one.status for one in found} == {200}
        assert lister.read == 2
        for _ in range(3):
            refused = await answer(gw, chat("lara"))
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert "lora" in refused.error["message"], "by what is known by now"
        assert lister.read == 2, "it has just been read"
        assert lister.count(b"/v1/chat/completions") == 8, "who has told its list is asked for nothing else"
        monkeypatch.setattr(lists, "AGAIN_S", 0.0)
        monkeypatch.setattr(lists, "MOST_A_SECOND", 1e9)
        lister.items.append({"id": "lara", "owned_by": "vllm"})
        assert (await answer(gw, request("GET", "/v1/models/lara"))).json()["id"] == "lara"
        assert (await answer(gw, request("GET", "/v1/models/none"))).status == 404
        assert (await answer(gw, chat("none"))).status == 404
        assert lister.read == 5


async def test_what_was_unloaded_a_moment_ago_is_soon_a_404() -> None:
    """Its engine's word is the first news of it: the list has been read a moment ago."""
    lister = Lister("m", "lora")
    async with lister.engine as engine, running([engine.url], **SELDOM) as gw:
        await gw.until("its list is known", learned(gw, 2))
        lister.items.pop()
        assert (await answer(gw, chat("lora"))).status == 502
        await gw.until("its list is read again", learned(gw, 1))
        asked = lister.count(b"/v1/chat/completions")
        refused = await answer(gw, chat("lora"))
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert lister.count(b"/v1/chat/completions") == asked
        assert (await answer(gw, chat("m"))).status == 200


async def test_who_does_not_answer_holds_a_404_no_longer_than_a_probe() -> None:
    lister = Lister("m")
    stuck = asyncio.Event()

    async def play(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if asked.target == b"/v1/models":
            await stuck.wait()
        await conn.send(ok(b"{}", b"connection: close"))

    settings = {**SELDOM, "health_timeout_s": 0.3}
    async with lister.engine as engine, ScriptedEngine(play) as silent, running([engine.url], **settings) as gw:
        await gw.until("its list is known", learned(gw))
        gw.gateway.fleet.add(EngineConfig(url=silent.url, models=["x"], name="silent"))
        gw.gateway.fleet.find("silent").engine.configured_models = frozenset()
        gw.gateway.fleet.find("silent").engine.discovered_models = ("x",)
        gw.gateway.fleet.publish()
        async with asyncio.timeout(5.0):
            assert (await answer(gw, chat("none"))).status == 404
        stuck.set()


async def test_so_many_wait_for_one_reading_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_WAITING", 3)
    monkeypatch.setattr(lists, "ANSWERED_AT_ONCE", 2)
    tasks: list[Coroutine[Any, Any, Any]] = []
    ill, configured, runners, well = place(1), place(2, models=("a",)), place(3), place(4)
    ill.engine.healthy, runners.engine.tunnelled = False, True
    pools = [ill, configured, runners]
    events = Events()
    made = Lists(
        lambda: pools, Config(health_timeout_s=0.5), events, Shortage(events), lambda: None, lambda _: Learned(),
        lambda _, coroutine: tasks.append(coroutine),
    )  # fmt: skip
    called: list[int] = []
    assert not made.again(lambda: called.append(0)), "there is nobody to be asked"
    pools.append(well)
    asked: list[Any] = []

    async def reads(engine: Any, *_: Any) -> tuple[int, bytes]:
        asked.append(engine)
        return 200, b'{"data": [{"id": "m"}]}'

    monkeypatch.setattr("fastgw.upstream.lists.get", reads)
    assert [made.again(lambda at=at: called.append(at)) for at in range(4)] == [True, True, True, False]  # type: ignore[misc]
    (reading,) = tasks
    await reading
    assert called == [0, 1], "whoever else has something to do meanwhile does it"
    await asyncio.sleep(0)
    assert called == [0, 1, 2]
    assert asked == [well.engine]
    assert well.engine.discovered_models == ("m",)
    assert not made.again(lambda: None), "that was a moment ago"
    monkeypatch.setattr(lists, "AGAIN_S", 0.0)
    monkeypatch.setattr(lists, "MOST_A_SECOND", 0.1)
    assert not made.again(lambda: None), "of one engine, ten seconds ago at the least"
    monkeypatch.setattr(lists, "MOST_A_SECOND", 1e9)
    assert made.again(lambda: None)
    await tasks[-1]


async def test_a_large_list_is_read_and_of_a_larger_one_the_log_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """(It is read in a thread, and again only when it has changed.)"""
    lister = Lister()
    lister.items = [{"id": f"m{at}", "padding": "x" * 3000} for at in range(600)]
    async with lister.engine as engine, running([engine.url], **OFTEN) as gw:
        await gw.until("its list is known", learned(gw, 600))
        listed = (await answer(gw, request("GET", "/v1/models"))).json()["data"]
        assert len(listed) == 600
        monkeypatch.setattr(lists, "_said", None)
        before = lister.read
        await gw.until("it is read again", lambda: lister.read > before + 2)
        monkeypatch.setattr(lists, "MAX_LIST_BYTES", 1 << 20)
        before = lister.read
        await gw.until("it is too large now", lambda: lister.read > before + 3)
        told = [fields["reason"] for _, line, fields in gw.events.lines if line == "list of models is too large to be read"]
        assert told == ["it has more than 1 MiB"], "once"
        assert learned(gw, 600)(), "what is known is not forgotten"


async def test_a_list_keeps_what_engines_say_of_their_models() -> None:
    lister = Lister()
    lister.items = [
        {"id": "base", "owned_by": "acme", "root": "/srv/base", "parent": None, "max_model_len": 4096},
        {"id": "lora", "owned_by": "acme", "root": "/srv/lora", "parent": "base"},
    ]
    async with lister.engine as engine, running([engine.url], **SELDOM) as gw:
        await gw.until("its list is known", learned(gw, 2))
        listed = (await answer(gw, request("GET", "/v1/models"))).json()["data"]
        for one, said in zip(listed, lister.items, strict=True):
            assert one.items() >= {name: value for name, value in said.items() if value is not None}.items()
            assert (await answer(gw, request("GET", f"/v1/models/{one['id']}"))).json() == one


@pytest.mark.parametrize("only", [False, True])
async def test_models_whose_engines_are_all_down_may_be_left_out_of_the_list(only: bool) -> None:
    engines = [
        EngineConfig(url=f"http://127.0.0.{at}:9", models=models, warm_connections=0)
        for at, models in ((1, ["a", "b"]), (2, ["b", "c"]))
    ]
    async with running(engines, models_healthy_only=only, **SELDOM) as gw:
        one, two = [pool.engine for pool in gw.gateway.fleet.pools]

        async def listed() -> list[str]:
            return [model["id"] for model in (await answer(gw, request("GET", "/v1/models"))).json()["data"]]

        await gw.until("they were asked", lambda: one.probed_at and two.probed_at)
        one.healthy = two.healthy = True
        assert await listed() == ["a", "b", "c"]
        one.healthy = False
        assert await listed() == (["b", "c"] if only else ["a", "b", "c"])
        assert (await answer(gw, request("GET", "/v1/models/a"))).status == (404 if only else 200)
        one.healthy = True
        gw.gateway.fleet.drain(two.name)
        assert await listed() == (["a", "b"] if only else ["a", "b", "c"])


async def test_ollamas_models_are_there_by_their_names_without_a_tag() -> None:
    """Whether it lists them, or they are configured."""
    sim_of = SimConfig(plays="ollama", models=("llama3:latest",), any_model=True)
    async with (
        Simulator(sim_of) as sim,
        running([EngineConfig(url=sim.url, kind="ollama", models=["llama3:latest"])], **SELDOM) as configured,
        running([sim.url], **OFTEN) as listed,
    ):
        await listed.until("its list is known", lambda: listed.gateway.fleet.table.group("llama3") is not None)
        for gw in (configured, listed):
            async with RawClient.connect(gw.url) as client:
                assert (await asks(client, say(model="llama3", max_tokens=1, key=None))).status == 200
