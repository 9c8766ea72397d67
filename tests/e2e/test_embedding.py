"""S3.10: the gateway as a library, in somebody else's process: several at once, on either loop, nothing left behind.

Each test owns its loop, because the loop is part of the promise: uvloop's and asyncio's own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvloop

import fastgw
from fastgw import Config, EngineConfig, Gateway, StartError
from fastgw.sim import SimConfig, Simulator
from tests.conftest import open_fds
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.ports import closed_port

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, Loop] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}

pytestmark = pytest.mark.parametrize("loop", list(LOOPS.values()), ids=list(LOOPS))


@pytest.fixture(autouse=True)
def _threads_back_to_base() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def play(loop: Loop, main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run ``main`` on a loop of this kind; afterwards no task lives and no exception went unseen."""

    async def judged() -> None:
        unseen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(20):
            await main()
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        assert not unseen

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(judged())


async def ask(where: str, data: bytes) -> RawResponse:
    async with RawClient.connect(where) as client:
        await client.send(data)
        return await client.read_response()


def gateway(*urls: str, **settings: Any) -> Gateway:
    settings.setdefault("drain_timeout_s", 1.0)
    return Gateway(Config(engines=[EngineConfig(url=url) for url in urls], port=0, **settings))


def test_S3_10_as_the_readme_shows_it(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator() as sim:
            config = fastgw.Config(engines=[fastgw.EngineConfig(url=sim.url)], port=0)
            async with fastgw.Gateway(config) as gw:
                assert gw.url == f"http://127.0.0.1:{gw.port}"
                answer = await ask(gw.url, chat("sim", stream=True))
                assert (answer.events()[-1], answer.complete) == ("[DONE]", True)
            with pytest.raises(RuntimeError):
                _ = gw.url

    play(loop, main)


def test_S3_10_several_at_once_know_nothing_of_each_other(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator(SimConfig(models=["a"])) as one, Simulator(SimConfig(models=["b"])) as two:
            records: list[list[Any]] = [[], [], []]
            first = Gateway(Config(engines=[EngineConfig(url=one.url)], port=0, api_keys=["sk-1"]), access=records[0])
            of_two = EngineConfig(url=two.url, models=["b"])
            second = Gateway(Config(engines=[of_two], port=0, compat="rakka"), access=records[1])
            third = Gateway(Config(engines=[], port=0), access=records[2])
            async with first, second, third:
                assert len({gw.port for gw in (first, second, third)}) == 3
                answers = await asyncio.gather(
                    ask(first.url, chat("a", key="sk-1")), ask(first.url, chat("a", key="sk-2")), ask(second.url, chat("b")),
                    ask(second.url, chat("a")), ask(third.url, chat("a")),
                )  # fmt: skip
                assert [answer.status for answer in answers] == [200, 401, 200, 400, 503]
                assert (answers[2].header("x-request-id") or "").startswith("req-")
                assert not (answers[0].header("x-request-id") or "").startswith("req-")
                await first.stop()
                assert (await ask(second.url, chat("b"))).status == 200
            assert [gw.stats.exchanges_total for gw in (first, second, third)] == [2, 3, 1] == [len(one) for one in records]
            assert [gw.stats.live() for gw in (first, second, third)] == [dict.fromkeys(first.stats.live(), 0)] * 3

    play(loop, main)


def test_S3_10_a_gateway_before_a_gateway(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator() as sim, gateway(sim.url) as inner, gateway(inner.url) as outer:
            direct = await ask(sim.url, chat("sim", stream=True))
            assert (await ask(outer.url, chat("sim", stream=True))).body == direct.body

    play(loop, main)


def test_S3_10_one_in_each_thread(loop: Loop) -> None:
    failed: list[BaseException] = []

    async def main() -> None:
        async with Simulator() as sim, gateway(sim.url) as gw:
            for _ in range(20):
                assert (await ask(gw.url, chat("sim", stream=True))).complete

    def thread() -> None:
        try:
            play(loop, main)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert not failed


def test_S3_10_again_and_again_leaves_nothing(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator() as sim:
            # A first turn makes what stays: the loop's own descriptors, modules that are read when first used.
            async with gateway(sim.url) as gw:
                await ask(gw.url, chat("sim"))
            await asyncio.sleep(0.05)
            before, threads = open_fds(), threading.active_count()
            for turn in range(25):
                async with gateway(sim.url, warm_connections=turn % 3, unix_socket="") as gw:
                    for _ in range(turn % 4):
                        await ask(gw.url, chat("sim", stream=turn % 2 == 1))
            for _ in range(50):
                await asyncio.sleep(0.01)
                if not set(open_fds().items()) - set(before.items()):
                    break
            assert not set(open_fds().items()) - set(before.items())
            assert threading.active_count() == threads
            assert asyncio.all_tasks() == {asyncio.current_task()}

    play(loop, main)


def test_S3_10_a_stopped_gateway_is_forgotten(loop: Loop) -> None:
    """No timer, task, closure of the loop or module keeps it."""
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        async with Simulator() as sim:
            gw = gateway(sim.url)
            await gw.start()
            await ask(gw.url, chat("sim", stream=True))
            await gw.stop()
            seen.extend((weakref.ref(gw), weakref.ref(gw.core)))
            del gw
            await asyncio.sleep(0.1)
            gc.collect()
            assert [ref() for ref in seen] == [None, None]

    play(loop, main)


def test_S3_10_it_changes_nothing_of_the_process(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal handler, no environment, no current directory, no collector settings are touched or read."""
    monkeypatch.setenv("GATEWAY_PORT", "1")
    monkeypatch.setenv("FASTGW_API_KEYS", "sk-from-outside")

    async def main() -> None:
        def state() -> Any:
            handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)]
            return handlers, dict(os.environ), os.getcwd(), gc.get_threshold()

        before = state()
        frozen = gc.get_freeze_count()
        async with Simulator() as sim, gateway(sim.url) as gw:
            assert (await ask(gw.url, chat("sim"))).status == 200
            assert state() == before
        assert state() == before
        assert gc.get_freeze_count() <= frozen, "what was frozen may go, nothing is added to it"

    play(loop, main)


def test_S3_10_start_and_stop_are_forgiving(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator() as sim:
            gw = gateway(sim.url)
            await gw.stop()  # never started: nothing to do
            await gw.start()
            with pytest.raises(RuntimeError, match="started already"):
                await gw.start()
            assert (await ask(gw.url, chat("sim"))).status == 200
            await asyncio.gather(gw.stop(), gw.stop())
            await gw.stop()
            await gw.start()  # and once more
            assert (await ask(gw.url, chat("sim"))).status == 200
            await gw.stop()

    play(loop, main)


def test_S3_10_an_exception_in_the_body_stops_it_and_goes_on(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator() as sim:
            port = 0

            async def body() -> None:
                nonlocal port
                async with gateway(sim.url) as gw:
                    port = gw.port
                    raise KeyError("mine")

            with pytest.raises(KeyError, match="mine"):
                await body()
            with pytest.raises(ConnectionRefusedError):
                await RawClient.connect("127.0.0.1", port)

    play(loop, main)


def test_S3_10_stop_ends_what_is_live(loop: Loop) -> None:
    async def main() -> None:
        async with Simulator(SimConfig(itl_ms=10.0)) as sim:
            gw = gateway(sim.url)
            await gw.start()
            streams = [await RawClient.connect(gw.url) for _ in range(10)]
            answers = []
            for client in streams:
                await client.send(chat("sim", stream=True, max_tokens=5000))
                answers.append(await client.read_until(await client.read_head(), b"data: "))
            silent = await RawClient.connect(gw.url)
            await gw.stop(drain_s=0.1)
            for client, answer in zip(streams, answers, strict=True):
                await client.read_body(answer)
                assert not answer.complete
                assert '"shutting_down"' in answer.events()[-1]
                client.close()
            assert await silent.read_until_closed() == (b"", "fin")
            silent.close()
            assert gw.stats.live() == dict.fromkeys(gw.stats.live(), 0)
            for _ in range(100):
                if not sim.state.running:
                    break
                await asyncio.sleep(0.01)
            assert sim.state.running == 0

    play(loop, main)


def test_S3_10_S3_01_a_failed_start_raises_and_leaves_nothing(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        before = open_fds()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            gw = Gateway(Config(port=port, unix_socket=str(tmp_path / "g.sock")))
            with pytest.raises(StartError, match=f"127.0.0.1:{port}"):
                await gw.start()
            with pytest.raises(StartError):
                async with Gateway(Config(port=port)):
                    raise AssertionError("it started")
            assert not (tmp_path / "g.sock").exists()
            with pytest.raises(RuntimeError):
                _ = gw.url
            await gw.stop()
        assert open_fds() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gw.start()  # the port is free now
        assert (await ask(gw.url, request("GET", "/liveness"))).status == 200
        await gw.stop()

    play(loop, main)


def test_S3_10_S3_01_half_of_the_addresses_is_not_enough(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        port = closed_port()
        with pytest.raises(StartError, match="no-such-folder"):
            await Gateway(Config(port=port, unix_socket=str(tmp_path / "no-such-folder/g.sock"))).start()
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect("127.0.0.1", port)
        async with Gateway(Config(port=port)) as gw:
            assert gw.port == port

    play(loop, main)


def deaf(loop: Loop) -> tuple[Loop, list[str]]:
    """The same kind of loop, whose resolver never answers for one name, and what it was asked."""
    asked: list[str] = []
    base: Any = uvloop.Loop if loop is uvloop.new_event_loop else asyncio.SelectorEventLoop

    class Deaf(base):
        async def getaddrinfo(self, host: str, *args: Any, **options: Any) -> Any:
            if host != "engine.test":
                return await super().getaddrinfo(host, *args, **options)
            asked.append(host)
            return await asyncio.sleep(3600)

    return Deaf, asked


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_S3_10_a_name_that_does_not_resolve_leaves_nothing_behind(loop: Loop, how: str) -> None:
    """The start neither waits for a dead resolver nor leaves a look-up behind, whether it is stopped or cancelled."""
    made, asked = deaf(loop)

    async def main() -> None:
        port = closed_port()
        gw = Gateway(Config(engines=[EngineConfig(url="http://engine.test:9")], port=port))
        if how == "stop":
            begin = monotonic()
            async with gw:
                assert monotonic() - begin < 1.5, "the start waited for the resolver"
                assert (await ask(gw.url, request("GET", "/liveness"))).status == 200
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gw.start(), 0.1)
        assert asked[0] == "engine.test"
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect("127.0.0.1", port)

    play(made, main)


def test_S3_10_the_records_and_the_log_are_the_embedders(loop: Loop) -> None:
    async def main() -> None:
        records: list[fastgw.AccessRecord] = []
        told: list[str] = []
        probed = asyncio.Event()

        class Log:
            def debug(self, message: str, **fields: object) -> None: ...
            def info(self, message: str, **fields: object) -> None:
                told.append(message)
                if message == "engine is well":
                    probed.set()

            warning = error = info

        async with Simulator() as sim:
            async with Gateway(Config(engines=[EngineConfig(url=sim.url)], port=0), log=Log(), access=records) as gw:
                await ask(gw.url, chat("sim"))
                await ask(gw.url, request("GET", "/nothing"))
                await asyncio.wait_for(probed.wait(), 5.0)  # it may take longer than a request
            assert [(one.path, one.status, one.outcome) for one in records] == [
                (b"/v1/chat/completions", 200, "ok"), (b"/nothing", 404, "error"),
            ]  # fmt: skip
            assert 0 < records[0].ttft_s <= records[0].duration_s
            assert (records[0].model, records[0].completion_tokens > 0, records[1].error) == ("sim", True, "unknown_url")

    play(loop, main)
