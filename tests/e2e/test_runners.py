"""Runners dial in, serve, are lost in every way, and leave: gateway, agents and engines over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Container
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import Config, ConfigErrors, EngineConfig, energy
from fastgw.gpu.watch import Use
from fastgw.sim import SimConfig, Simulator
from fastgw.upstream.target import Engine
from tests.e2e.agents import ADMIN, agent, desk, dialled, there
from tests.e2e.metered import say
from tests.e2e.test_cases_k_process import serve
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running
from tests.support.ports import closed_port
from tests.support.runners import TOKEN, heartbeat, register, status
from tests.support.ws import Socket, handshake

pytestmark = pytest.mark.together

NO_SETTINGS = ("api_key_digests", "warnings")


async def asked(gw: Running, model: str = "sim", **fields: Any) -> RawResponse:
    async with RawClient.connect(gw.url) as client:
        await client.send(say(key=None, model=model, **fields))
        return await client.read_response()


async def admin(gw: Running, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    body = json.dumps(document).encode() if document is not None else None
    async with RawClient.connect(gw.gateway.control_url) as client:
        await client.send(request(method, f"/admin/runners{path}", body=body, key=ADMIN))
        answer = await client.read_response()
    return answer.status, answer.json() if answer.body else None


def whole(answer: RawResponse) -> bool:
    return answer.status == 200 and answer.complete


@asynccontextmanager
async def by_hand(gw: Running, port: int, *models: str, id: str = "r1", **more: Any) -> AsyncIterator[Socket]:
    """A runner that the test plays."""
    one = await Socket.opened(gw.url)
    await one.say(register(*(models or ("sim",)), id=id, http_port=port, **more))
    assert (await one.message())["type"] == "register_ack"
    engine = engine_of(gw, id)
    await gw.until("requests meet it", lambda: any(pool.engine is engine for pool in gw.gateway.fleet.table.pools))
    try:
        yield one
    finally:
        one.close()


def engine_of(gw: Running, id: str = "r1") -> Engine:
    runner = desk(gw).registry.find(id)
    assert runner is not None
    return runner.engine


def models(gw: Running) -> Container[str]:
    """Those that requests may have."""
    return gw.gateway.fleet.table.models


def port_of(sim: Simulator) -> int:
    return int(sim.url.rpartition(":")[2])


# --- serving
async def test_S4_04_S4_09_an_engine_behind_an_agent_serves_under_its_names_and_aliases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(energy, "READ_S", 0.01)
    async with Simulator(SimConfig(models=("llama",))) as sim, dialled() as gw:
        use = Use(used_bytes=8e10, total_bytes=1.5e11, utilization_percent=42.5, joules={"GPU-1": 1.5})
        beside = agent(gw.url, sim.url, aliases={"fast": "llama"}, machine_type="gpu", gpus=lambda: use)
        async with beside:
            await gw.until("it serves", lambda: "fast" in models(gw))
            assert whole(await asked(gw, "llama"))
            assert whole(await asked(gw, "fast"))
            assert [json.loads(one.body)["model"] for one in sim.requests if one.body] == ["llama", "llama"]
            assert (await asked(gw, "nobody's")).error["code"] == "runner_away", "it has just started: others may come yet"
            _, shown = await admin(gw, "GET", "/r1")
            assert shown["machine_type"] == "gpu"
            assert shown["loaded_models"] == ["llama"]
            assert shown["metrics"]["requests_running"] == 0
            gpus = ("gpu_memory_used", "gpu_memory_total", "gpu_utilization_percent")
            assert [shown["metrics"][name] for name in gpus] == [8e10, 1.5e11, 42.5]
            assert shown["metrics"]["gpu_joules"] == {"GPU-1": 1.5}
            await gw.until("they are its engine's", lambda: gw.gateway.core.tally.energy is not None)
            assert gw.gateway.core.tally.energy.gpus == 1
        await gw.until("it is gone", lambda: there(gw) == [])
        await gw.until("so are its models", lambda: not models(gw))
        answer = await asked(gw, "llama")
        assert (answer.status, answer.error["message"][:10]) == (503, "The runner"), "it may come back"


async def test_S4_14_one_that_leaves_in_good_order_ends_what_is_under_way_first() -> None:
    async with Simulator(SimConfig(itl_ms=5.0, output_tokens=60)) as sim, dialled() as gw, agent(gw.url, sim.url) as one:
        await gw.until("it serves", lambda: "sim" in models(gw))
        streams = [asyncio.ensure_future(asked(gw, stream=True)) for _ in range(4)]
        engine = engine_of(gw)
        await gw.until("they run", lambda: engine.inflight == 4)
        await one.leave()
        assert all(whole(answer) for answer in await asyncio.gather(*streams))
        assert there(gw) == []


async def test_while_its_engine_is_away_it_gets_nothing_and_then_again() -> None:
    async with dialled() as gw:
        port = closed_port()
        async with agent(gw.url, f"http://127.0.0.1:{port}"):
            await gw.until("it has come", lambda: there(gw) == ["r1"])
            assert desk(gw).show("r1").health == "starting"
            assert not desk(gw).show("r1").takes_requests
            async with Simulator(SimConfig(port=port)):
                await gw.until("it serves", lambda: desk(gw).show("r1").takes_requests)
                assert whole(await asked(gw))
            await gw.until("it is not well", lambda: desk(gw).show("r1").health == "unhealthy")
            assert not desk(gw).show("r1").takes_requests


# --- lost
@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_S4_08_what_a_lost_runner_has_not_begun_to_answer_goes_elsewhere(how: str) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Simulator(SimConfig(itl_ms=60.0, output_tokens=35)))
        other = await stack.enter_async_context(Simulator(SimConfig(itl_ms=1.0)))
        gw = await stack.enter_async_context(dialled(health_interval_s=60.0))
        first = await stack.enter_async_context(by_hand(gw, port_of(one)))
        streams = [asyncio.ensure_future(asked(gw, stream=True)) for _ in range(3)]
        engine = engine_of(gw)
        await gw.until("they are answered", lambda: sum(record.token_at > 0 for record in begun(gw)) == 3)
        plain = [asyncio.ensure_future(asked(gw)) for _ in range(3)]  # (said whole, at the end)
        await gw.until("they are there", lambda: engine.inflight == 6)
        await stack.enter_async_context(by_hand(gw, port_of(other), id="r2"))
        first.close(reset=how == "reset")
        await gw.until("it is gone", lambda: there(gw) == ["r2"], 2.0 + 0.5)
        answers = await asyncio.gather(*streams, *plain)
        assert all(whole(answer) for answer in answers)
        assert {record["engine"] for record in gw.records if record["stream"]} == {"r1"}
        assert sum(record["engine"] == "r2" for record in gw.records if not record["stream"]) == 3
        await gw.until("its engine has left", lambda: len(gw.gateway.fleet) == 1)


async def test_S4_08_over_http2_too_what_waits_goes_elsewhere() -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Simulator(SimConfig(ttft_ms=6000.0, h2=True)))
        other = await stack.enter_async_context(Simulator(SimConfig(h2=True)))
        gw = await stack.enter_async_context(dialled(health_interval_s=60.0, upstream_protocol="h2"))
        first = await stack.enter_async_context(by_hand(gw, port_of(one)))
        waits = [asyncio.ensure_future(asked(gw)) for _ in range(3)]
        engine = engine_of(gw)
        await gw.until("they are there", lambda: engine.inflight == 3 and len(one.requests) == 3)
        await stack.enter_async_context(by_hand(gw, port_of(other), id="r2"))
        first.close(reset=True)
        assert all(whole(answer) for answer in await asyncio.gather(*waits))
        assert {record["engine"] for record in gw.records if record["model"]} == {"r2"}


def begun(gw: Running) -> list[Any]:
    core = gw.gateway.core
    assert core is not None
    return [stream.sink for connection in core.connections for stream in connection.streams()]


async def test_one_that_comes_back_goes_on_with_all_that_is_under_way() -> None:
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(SimConfig(itl_ms=20.0, output_tokens=50)))
        gw = await stack.enter_async_context(dialled())
        async with by_hand(gw, port_of(sim)) as first:
            streams = [asyncio.ensure_future(asked(gw, stream=True)) for _ in range(3)]
            plain = asyncio.ensure_future(asked(gw))
            engine = engine_of(gw)
            await gw.until("they are there", lambda: engine.inflight == 4)
            first.close(reset=True)
            async with by_hand(gw, port_of(sim)):
                assert all(whole(answer) for answer in await asyncio.gather(*streams, plain))
                assert engine_of(gw) is engine
                assert gw.stats.failovers_total == 0


async def test_one_that_returns_while_its_engine_still_answers_has_that_engine_again() -> None:
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(SimConfig(itl_ms=60.0, output_tokens=60)))
        gw = await stack.enter_async_context(dialled())
        async with by_hand(gw, port_of(sim)) as first:
            stream = asyncio.ensure_future(asked(gw, stream=True))
            engine = engine_of(gw)
            await gw.until("it is answered", lambda: any(one.token_at > 0 for one in begun(gw)))
            first.close(reset=True)
            await gw.until("it is gone", lambda: there(gw) == [], 3.0)
            assert engine.inflight == 1
            async with by_hand(gw, port_of(sim)):
                assert engine_of(gw) is engine
                assert not engine.draining
                assert whole(await asked(gw, max_tokens=1))
                assert whole(await stream)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_S4_08_requests_of_an_engine_that_is_killed_or_frozen_go_elsewhere(how: str) -> None:
    settings = {"runner_heartbeat_s": 0.3, "runner_timeout_s": 0.8, "health_interval_s": 60.0}
    async with Simulator(SimConfig(itl_ms=1.0)) as other, dialled(**settings) as gw:
        port = closed_port()
        env = {**os.environ, "RUNNER_AUTH_TOKEN": TOKEN}
        fastgw = [sys.executable, "-m", "fastgw"]
        quiet: dict[str, Any] = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        beside = ["--gateway", gw.url, "--engine", f"http://127.0.0.1:{port}", "--id", "r1", "--look", "0.1"]
        with (
            subprocess.Popen([*fastgw, "sim", "--port", str(port), "--ttft-ms", "3000"], **quiet) as sim,  # noqa: ASYNC220
            subprocess.Popen([*fastgw, "runner", *beside], **quiet) as runner,  # noqa: ASYNC220
        ):
            try:
                await gw.until("it serves", lambda: there(gw) == ["r1"] and desk(gw).show("r1").takes_requests, 10.0)
                engine = engine_of(gw)
                waiting = [asyncio.ensure_future(asked(gw, stream=at < 2)) for at in range(4)]
                await gw.until("they are there", lambda: engine.inflight == 4)
                async with by_hand(gw, port_of(other), id="r2"):
                    pinged = asyncio.ensure_future(answers_pings(gw))
                    for process in (runner, sim):
                        process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
                    answers = await asyncio.wait_for(asyncio.gather(*waiting), 4.0)
                    assert all(whole(answer) for answer in answers)
                    await gw.until("it is gone", lambda: there(gw) == ["r2"], 3.0)
                    pinged.cancel()
            finally:
                for process in (runner, sim):
                    process.kill()


async def answers_pings(gw: Running) -> None:
    """The runner that the test plays lives."""
    while True:
        await asyncio.sleep(0.1)
        runner = desk(gw).registry.find("r2")
        if runner is not None:
            runner.session.on_text(json.dumps(heartbeat("sim")), asyncio.get_running_loop().time())


async def test_S4_02_L5_behind_a_partition_a_runner_is_gone_after_its_time() -> None:
    """Nothing comes through any more, and no end of a connection either."""
    async with (
        Simulator(SimConfig(ttft_ms=4000.0)) as sim,
        dialled(runner_heartbeat_s=0.3, runner_timeout_s=0.8, health_interval_s=60.0) as gw,
        partition(port_of(sim)) as (engine_port, cut_engine),
        partition(gw.port) as (gateway_port, cut_gateway),
        agent(f"http://127.0.0.1:{gateway_port}", f"http://127.0.0.1:{engine_port}"),
    ):
        await gw.until("it serves", lambda: there(gw) == ["r1"] and desk(gw).show("r1").takes_requests)
        waits = asyncio.ensure_future(asked(gw))
        engine = engine_of(gw)
        await gw.until("it is there", lambda: engine.inflight == 1)
        cut_engine.set()
        cut_gateway.set()
        answer = await asyncio.wait_for(waits, 3.0)
        assert answer.status in (502, 503)  # (there is nobody else)
        assert there(gw) == []


@asynccontextmanager
async def partition(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A way to ``port`` that lets nothing through once it is cut."""
    cut = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def passes(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if cut.is_set():
                    await asyncio.sleep(3600)
                sink.write(data)
                await sink.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            sink.close()

    async def comes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        for one in (passes(reader, ours), passes(theirs, writer)):
            tasks.add(asyncio.create_task(one))

    server = await asyncio.start_server(comes, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- who gets what
async def test_S4_03_a_request_goes_to_a_runner_whose_machine_is_what_it_needs() -> None:
    settings: dict[str, Any] = {"policy": "capability", "needs_header": "x-needs"}
    async with (
        Simulator(SimConfig()) as slow,
        Simulator(SimConfig()) as quick,
        dialled(**settings) as gw,
        by_hand(gw, slow.port, id="c", machine_type="cpu"),
        by_hand(gw, quick.port, id="g", machine_type="gpu"),
    ):
        for machine, sim in (("gpu", quick), ("cpu", slow)):
            for _ in range(3):
                async with RawClient.connect(gw.url) as client:
                    await client.send(say(key=None, model="sim", headers=[("x-needs", machine)]))
                    assert whole(await client.read_response())
            assert [one.path for one in sim.requests].count("/v1/chat/completions") == 3


# --- the operator
async def test_S4_12_an_operator_reads_who_came_and_went() -> None:
    async with dialled() as gw:
        async with by_hand(gw, closed_port(), "a"):
            pass
        await gw.until("it is gone", lambda: there(gw) == [])
        async with RawClient.connect(gw.gateway.control_url) as client:
            await client.send(request("GET", "/admin/events?follow=false", key=ADMIN))
            answer = await client.read_response()
        told = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
        seen = [one["what"] for one in told if one["engine"] == "r1"]
        assert [what for what in seen if what.startswith("runner_")] == ["runner_joined", "runner_lost", "runner_gone"]


async def test_S4_12_an_operator_has_a_model_loaded_and_let_go_and_waits_for_it() -> None:
    async with dialled() as gw, by_hand(gw, closed_port(), "a") as one:
        for what in ("load", "unload"):
            waits = asyncio.ensure_future(admin(gw, "POST", f"/r1/{what}", {"model_id": "b"}))
            command = await one.message()
            assert (command["type"], command["model_id"]) == (f"{what}_model", "b")
            await one.say({
                "type": "command_response", "request_id": command["request_id"], "success": True,
                "status": status("a", *(["b"] if what == "load" else [])),
            })  # fmt: skip
            answered, shown = await waits
            assert answered == 200
            assert shown["loaded_models"] == (["a", "b"] if what == "load" else ["a"])
        waits = asyncio.ensure_future(admin(gw, "POST", "/r1/status"))
        command = await one.message()
        assert command["type"] == "request_status"
        await one.say({
            "type": "command_response", "request_id": command["request_id"], "success": True, "status": status("z"),
        })  # fmt: skip
        assert (await waits)[1]["loaded_models"] == ["z"]


async def test_what_an_operator_is_told_where_it_comes_to_nothing() -> None:
    async with dialled() as gw, by_hand(gw, closed_port(), "a") as one:
        waits = asyncio.ensure_future(admin(gw, "POST", "/r1/load", {"model_id": "b"}))
        command = await one.message()
        await one.say({
            "type": "command_response", "request_id": command["request_id"], "success": False, "error": "no\x1b room",
        })  # fmt: skip
        answered, told = await waits
        assert (answered, told["error"]["code"]) == (502, "runner_refused")
        assert told["error"]["message"].endswith("no  room")
        answered, told = await admin(gw, "POST", "/r1/load", {"model_id": "b", "timeout_s": 0.05})
        assert (answered, told["error"]["code"]) == (504, "runner_timeout")
        waits = asyncio.ensure_future(admin(gw, "POST", "/r1/load", {"model_id": "b"}))
        await one.message()
        await one.message()
        one.close(reset=True)
        answered, told = await waits
        assert (answered, told["error"]["code"]) == (502, "runner_lost")


@pytest.mark.parametrize(("method", "path", "document", "wanted"), [
    ("GET", "", None, 200), ("GET", "/r1", None, 200), ("HEAD", "", None, 200), ("POST", "", None, 405),
    ("GET", "/r2", None, 404), ("GET", "/r1/load", None, 405), ("GET", "/r1/other", None, 404),
    ("POST", "/r1/load", {}, 400), ("POST", "/r1/load", {"model_id": ""}, 400),
    ("POST", "/r1/load", {"model_id": "x" * 300}, 400),
    ("POST", "/r1/load", {"model_id": 3}, 400), ("POST", "/r1/load", {"model_id": "m", "timeout_s": -1.0}, 400),
    ("POST", "/r1/load", {"model_id": "m", "path": "/etc"}, 400), ("GET", "?x=1", None, 400), ("POST", "/r2/drain", None, 404),
])  # fmt: skip
async def test_how_an_operator_is_answered(method: str, path: str, document: Any, wanted: int) -> None:
    async with dialled() as gw, by_hand(gw, closed_port()):
        body = json.dumps(document).encode() if document is not None else None
        async with RawClient.connect(gw.gateway.control_url) as client:
            await client.send(request(method, f"/admin/runners{path}", body=body, key=ADMIN))
            assert (await client.read_response(head_only=method == "HEAD")).status == wanted
            await client.send(request(method, f"/admin/runners{path}", body=body, key="guessed"))
            assert (await client.read_response(head_only=method == "HEAD")).status == 401


async def test_a_drained_runner_gets_nothing_and_undrained_it_does() -> None:
    async with Simulator(SimConfig()) as sim, dialled() as gw, by_hand(gw, port_of(sim)):
        answered, shown = await admin(gw, "POST", "/r1/drain")
        assert (answered, shown["draining"], shown["takes_requests"]) == (200, True, False)
        assert (await asked(gw)).status == 503
        assert (await admin(gw, "POST", "/r1/undrain"))[1]["takes_requests"]
        assert whole(await asked(gw))


async def test_an_engine_that_is_removed_comes_again_with_its_runner() -> None:
    async with Simulator(SimConfig()) as sim, dialled() as gw, agent(gw.url, sim.url):
        await gw.until("it serves", lambda: "sim" in models(gw))
        before = engine_of(gw)
        async with RawClient.connect(gw.gateway.control_url) as client:
            for path in ("/admin/engines/r1", "/admin/engines/r1?now=true", "/workers/r1"):
                await client.send(request("DELETE", path, key=ADMIN))
                answer = await client.read_response()
                assert (answer.status, "/admin/runners/r1/drain" in answer.body.decode()) == (409, True), path
        assert engine_of(gw) is before
        gw.gateway.fleet.remove("r1")
        await gw.until("it is another", lambda: there(gw) == ["r1"] and engine_of(gw) is not before)
        await gw.until("it serves again", lambda: "sim" in models(gw))
        assert whole(await asked(gw))


async def test_no_engine_is_the_gateway_itself() -> None:
    async with dialled() as gw:
        own, control = (int(url.rpartition(":")[2]) for url in (gw.url, gw.gateway.control_url))
        for port in (own, control):
            runner = await Socket.opened(gw.url)
            await runner.say(register("m", http_port=port))
            assert "an address of this gateway itself" in (await runner.message())["message"]
            runner.close()
            for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"):
                url = f"http://{host}:{port}"
                async with RawClient.connect(gw.gateway.control_url) as client:
                    await client.send(request("POST", "/admin/engines", body=json.dumps({"url": url}).encode(), key=ADMIN))
                    answer = await client.read_response()
                assert (answer.status, "this gateway itself" in answer.body.decode()) == (400, True), url
        assert gw.gateway.fleet.pools == ()
        with pytest.raises(ConfigErrors, match="this gateway itself"):
            await gw.gateway.follow(again(gw, engines=(EngineConfig(url=f"http://127.0.0.1:{own}"),)))


# --- settings that are read again
def again(gw: Running, **fields: Any) -> Config:
    """Its settings, but for these."""
    config = gw.gateway.config
    return Config(**{**{name: getattr(config, name) for name in Config.__struct_fields__ if name not in NO_SETTINGS}, **fields})


async def test_where_the_configuration_names_its_engine_a_runner_makes_room_and_is_told() -> None:
    async with Simulator(SimConfig()) as sim, dialled() as gw, by_hand(gw, port_of(sim)) as runner:
        await gw.gateway.follow(again(gw, engines=(EngineConfig(url=sim.url, name="ours"),)))
        assert "The configuration has an engine of this address" in (await runner.message())["message"]
        assert (there(gw), [pool.engine.name for pool in gw.gateway.fleet.pools]) == ([], ["ours"])
        assert whole(await asked(gw))
        back = await Socket.opened(gw.url)
        await back.say(register("sim", http_port=port_of(sim)))
        assert "The engine 'ours' has this address" in (await back.message())["message"]
        back.close()


async def test_a_gateway_takes_runners_when_it_is_told_a_token_and_none_when_it_is_taken_away() -> None:
    async with Simulator(SimConfig()) as sim, dialled(runner_auth_token="") as gw:
        config = gw.gateway.config
        fields = {name: getattr(config, name) for name in Config.__struct_fields__ if name not in NO_SETTINGS}
        async with agent(gw.url, sim.url) as one:
            await gw.until("it is turned away", lambda: any("404" in str(line) for line in one.events.lines))
            assert "Set RUNNER_AUTH_TOKEN at the gateway" in str(one.events.lines), "it says what that means"
            await gw.gateway.follow(Config(**{**fields, "runner_auth_token": TOKEN}))
        async with agent(gw.url, sim.url):
            await gw.until("it has come", lambda: there(gw) == ["r1"])
            await gw.until("requests meet it", lambda: "sim" in models(gw))
            await gw.gateway.follow(Config(**{**fields, "runner_auth_token": TOKEN, "engine_max_idle": 3}))
            assert whole(await asked(gw))
            assert there(gw) == ["r1"]
            await gw.gateway.follow(Config(**{**fields, "runner_auth_token": ""}))
            await gw.until("it is gone", lambda: there(gw) == [], 3.0)


async def test_what_a_library_says_of_a_strangers_handshake_is_a_line_of_the_log(tmp_path: Path) -> None:
    """aiohttp warns of a protocol that it does not know, with the header as it came: not past the log and its limit."""
    async with serve(tmp_path, "http://127.0.0.1:9", f"--runner-auth-token={TOKEN}", "--log-flood-rate=5") as served:
        for _ in range(30):
            async with RawClient.connect(f"http://127.0.0.1:{served.port}") as client:
                await client.send(handshake(lines=b"Sec-WebSocket-Protocol: sk-of-a-page\r\n"))
                await client.read_head()
        await served.until("lines are left out", lambda: served.said("lines left out"))
        assert 5 <= len(served.said("a library says")) < 30
        assert "sk-of-a-page" not in served.log.read_text()
        assert all(line.startswith("{") for line in served.log.read_text().splitlines())
