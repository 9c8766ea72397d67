"""S3, rakka inference gateway: embeddable, routes by deployment, by the ids of docs/compatibility.md.

Embedding itself (S3.10) has a file of its own: tests/e2e/test_embedding.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from time import monotonic

import pytest

from fastgw import Config, Gateway, StartError
from fastgw.config import load
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.reference.profile import ask, under
from tests.support.client import RawClient, chat, request

PROFILE = {"FASTGW_COMPAT": "rakka"}


def test_S3_01_default_bind() -> None:
    for environ in ({}, PROFILE):
        config = load({}, environ, "/nowhere")
        assert (config.host, config.port) == ("127.0.0.1", 8080)


async def test_S3_01_a_bind_failure_is_an_exception_of_the_api() -> None:
    async with under(PROFILE) as gw:
        with pytest.raises(StartError, match=f"127.0.0.1:{gw.port}"):
            await Gateway(Config(port=gw.port)).start()
        assert (await ask(gw.url, request("GET", "/healthz"))).status == 200


@pytest.mark.parametrize(("environ", "text"), [
    ({}, b"ok"), (PROFILE, b"ok"), ({"FASTGW_COMPAT": "openai-llm-gateway", "OLLAMA_BASE": "http://127.0.0.1:1"}, b"OK"),
])  # fmt: skip
async def test_S3_02_healthz(environ: dict[str, str], text: bytes) -> None:
    async with under(environ) as gw:
        answer = await ask(gw.url, request("GET", "/healthz"))
        assert (answer.status, answer.body) == (200, text)


async def test_S3_04_request_ids_are_the_time_in_nanoseconds() -> None:
    async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
        before = time.time_ns()
        answers = [await ask(gw.url, chat("sim", stream=stream)) for stream in (False, True)]
        after = time.time_ns()
        ids = [answer.header("x-request-id") or "" for answer in answers]
        for one in ids:
            assert re.fullmatch(r"req-[0-9]+", one)
            assert before <= int(one[4:]) <= after
        assert ids[0] != ids[1]
        assert [seen.header("x-request-id") for seen in sim.requests.to("/v1/chat/completions")] == ids


class TestS306:
    """S3.6: the deployment is the model; finding it takes no time worth a name."""

    async def test_S3_06_the_deployment_is_the_model(self) -> None:
        async with Simulator(SimConfig(models=["llama"])) as one, Simulator(SimConfig(models=["qwen"])) as two:
            async with under({**PROFILE, "BACKENDS": f"{one.url}||llama;{two.url}||qwen"}) as gw:
                for _ in range(3):
                    assert (await ask(gw.url, chat("qwen"))).status == 200
                assert (await ask(gw.url, chat("llama"))).status == 200
            assert (len(one.requests.to("/v1/chat/completions")), len(two.requests.to("/v1/chat/completions"))) == (1, 3)

    async def test_S3_06_the_look_up_is_bounded(self) -> None:
        """It is a look-up in a table of this process: with every engine silent it is still done at once."""

        async def silent(conn: ScriptedConnection) -> None:
            await conn.wait_closed(20)

        async with ScriptedEngine(silent) as engine, under({**PROFILE, "BACKENDS": f"{engine.url}||llama"}) as gw:
            begin = monotonic()
            answer = await ask(gw.url, chat("nobody"))
            assert answer.status == 400
            assert monotonic() - begin < 0.5


class TestS307:
    """S3.7: the engine's real answer, whole or as a stream."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_S3_07_the_real_completion_comes_back(self, stream: bool) -> None:
        async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
            data = chat("sim", stream=stream, max_tokens=16)
            direct, through = await ask(sim.url, data), await ask(gw.url, data)
            assert through.body == direct.body
            if stream:
                text = "".join(json.loads(one)["choices"][0]["delta"].get("content", "") for one in through.events()[:-1])
            else:
                text = through.json()["choices"][0]["message"]["content"]
            assert len(text) > 16


async def test_S3_08_an_unknown_deployment_under_the_profile() -> None:
    async with Simulator() as sim, under({**PROFILE, "BACKENDS": f"{sim.url}||llama"}) as gw:
        answer = await ask(gw.url, chat("other"))
        assert (answer.status, answer.error["type"]) == (400, "no_route")


async def test_S3_08_what_no_deployment_lists_is_unknown_without_a_configuration() -> None:
    async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
        core = gw.gateway.core
        assert core is not None
        await gw.until("its models", lambda: core.table.models)
        answer = await ask(gw.url, chat("other"))
        assert (answer.status, answer.error["type"]) == (400, "no_route")
        assert not sim.requests.to("/v1/chat/completions")


async def test_S3_08_an_unknown_deployment_otherwise() -> None:
    async with Simulator() as sim, under({"BACKENDS": f"{sim.url}||llama"}) as gw:
        answer = await ask(gw.url, chat("other"))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_S3_08_a_timeout_under_the_profile() -> None:
    async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}, first_byte_timeout_s="0.2") as gw:
        answer = await ask(gw.url, chat("sim", headers=[("x-sim-fault", "stall-before")]))
        assert (answer.status, answer.error["type"], answer.error["message"]) == (400, "internal_error", "coordinator timeout")


async def test_S3_09_a_slow_client_slows_its_own_engine_and_nobody_else() -> None:
    sent = 0

    async def flood(conn: ScriptedConnection) -> None:
        nonlocal sent
        seen = await conn.read_request()
        if not seen.target.endswith(b"/completions"):
            await conn.send(b'HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{"object":"list","data":[]}'[:-3])
            return
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        event = b"data: " + b"x" * 8000 + b"\n\n"
        frame = b"%x\r\n%b\r\n" % (len(event), event)
        while sent < 64 << 20:
            await conn.send(frame)
            sent += len(frame)

    async with Simulator(SimConfig(models=["quick"])) as sim, ScriptedEngine(flood) as engine:
        environ = {**PROFILE, "BACKENDS": f"{engine.url}||flood;{sim.url}||quick"}
        async with under(environ) as gw:
            async with RawClient.connect(gw.url, rcvbuf=8192) as client:
                await client.send(chat("flood", stream=True))
                await client.read_head()
                last = -1
                while sent != last:
                    last = sent
                    await asyncio.sleep(0.2)
                assert sent < 16 << 20, "the engine was never held back"
                assert gw.gateway.core is not None
                slow = [conn for conn in gw.gateway.core.connections if conn.wire.queued_bytes]
                assert all(conn.wire.queued_bytes <= 2 * 65536 for conn in slow), "more than a bounded queue is held"
                for _ in range(5):
                    begin = monotonic()
                    assert (await ask(gw.url, chat("quick", stream=True))).complete
                    assert monotonic() - begin < 1.0
                before = sent
                for _ in range(40):
                    await client.read_some()
                await asyncio.sleep(0.1)
                assert sent >= before
            await gw.idle()


async def test_S3_11_a_client_that_leaves_frees_its_engine() -> None:
    async with Simulator(SimConfig(itl_ms=20.0)) as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
        for stream in (True, False):
            client = await RawClient.connect(gw.url)
            await client.send(chat("sim", stream=stream, max_tokens=2000))
            await gw.until("the engine works", lambda: sim.state.running == 1)
            client.reset()
            await gw.until("the engine is free", lambda: sim.state.running == 0, 1.0)
        assert sim.state.cancelled == 2
        await gw.idle()
    assert [record["outcome"] for record in gw.records] == ["client_closed", "client_closed"]


async def test_S3_11_a_deployment_may_have_several_replicas() -> None:
    async with Simulator(SimConfig(models=["m"])) as one, Simulator(SimConfig(models=["m"])) as two:
        async with under({**PROFILE, "BACKENDS": f"{one.url}||m;{two.url}||m"}) as gw:
            core = gw.gateway.core
            assert core is not None
            await gw.until("both lists of models read", lambda: core.table.version == 2)  # each begins the turns anew
            for _ in range(6):
                assert (await ask(gw.url, chat("m"))).status == 200
        assert (len(one.requests.to("/v1/chat/completions")), len(two.requests.to("/v1/chat/completions"))) == (3, 3)


async def test_S3_13_first_byte_and_between_bytes() -> None:
    async with Simulator() as sim:
        flags = {"first_byte_timeout_s": "0.3", "between_bytes_timeout_s": "0.3"}
        async with under({"VLLM_URL": sim.url}, **flags) as gw:
            late = await ask(gw.url, chat("sim", headers=[("x-sim-fault", "stall-before")]))
            assert (late.status, late.error["code"]) == (504, "upstream_timeout")
            cut = await ask(gw.url, chat("sim", stream=True, headers=[("x-sim-fault", "stall-after-events=4")]))
            assert not cut.complete
            assert json.loads(cut.events()[-1])["error"]["code"] == "upstream_timeout"
