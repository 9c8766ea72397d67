"""The slots of engines, against the simulator over sockets: gauges of each kind, none at all, and no answer."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import fastgw.upstream.asked
from fastgw import Config, EngineConfig
from fastgw.limits.slots import START, GradientLimit
from fastgw.net.fetch import FetchError
from fastgw.sim import SimConfig, Simulator
from fastgw.stats import NullLog
from fastgw.upstream.health import Health
from fastgw.upstream.scheduler import ASK_AGAIN_ROUNDS, AT_ONCE, SILENT_ROUNDS, Scheduler
from fastgw.upstream.target import Engine
from tests.sim.client import chat, connect, read_to_end
from tests.support.llama import LlamaServer


class Place:
    """A pool, as far as the scheduler looks."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.engine = Engine(EngineConfig(url=url, **settings))


class Told(NullLog):
    """What was logged, above debug."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, **fields: object) -> None:
        self.lines.append(message)

    def error(self, message: str, **fields: object) -> None:
        self.lines.append(f"{message}: {fields}")


def scheduler(*places: Place, changed: Callable[[], None] = lambda: None, **settings: Any) -> Scheduler:
    given = {"interval_s": 0.02, "timeout_s": 2.0, "log": NullLog(), **settings}
    return Scheduler(lambda: places, changed=changed, **given)


@asynccontextmanager
async def busy(sim: Simulator, place: Place) -> AsyncIterator[Callable[[], None]]:
    """A gateway's traffic: always as many streams at the engine as its slots allow. Yields what ``changed`` should call."""
    tasks: set[asyncio.Task[None]] = set()
    ending = False

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        try:
            writer.write(chat(max_tokens=3))
            await read_to_end(reader)
        finally:
            writer.close()

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        place.engine.inflight -= 1
        fill()

    def fill() -> None:
        while not ending and place.engine.inflight < place.engine.slots:
            place.engine.inflight += 1
            task = asyncio.get_running_loop().create_task(one())
            tasks.add(task)
            task.add_done_callback(done)

    yield fill
    ending = True
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.sleep(0)
    assert place.engine.inflight == 0


@pytest.mark.parametrize("kind", ["vllm", "sglang", "tgi", "llamacpp"])
async def test_slots_come_to_the_size_of_the_batch_whoevers_gauges_they_are(kind: str) -> None:
    config = SimConfig(slots=20, ttft_ms=20.0, itl_ms=20.0, metrics_kind=kind, kv_tokens=1 << 30)
    async with Simulator(config) as sim:
        place = Place(sim.url, kind=kind)
        async with busy(sim, place) as fill:
            schedule = scheduler(place, changed=fill)
            slots, waiting, running = [], [], []
            for look in range(50):
                await schedule.round()
                fill()
                await asyncio.sleep(0.02)
                if look >= 25:
                    slots.append(place.engine.slots)
                    waiting.append(sim.state.waiting)
                    running.append(sim.state.running)
    assert 18 <= sorted(slots)[len(slots) // 2] <= 25
    assert sum(waiting) / len(waiting) <= 4
    assert sum(running) / len(running) >= 15
    assert place.engine.gradient is None


async def test_what_others_have_brought_there_is_known() -> None:
    async with Simulator(SimConfig(slots=2, ttft_ms=200.0, metrics_kind="vllm", kv_tokens=1 << 30)) as sim:
        place = Place(sim.url, kind="vllm")
        schedule = scheduler(place)
        others = [await asyncio.open_connection("127.0.0.1", sim.port) for _ in range(5)]
        for _, writer in others:
            writer.write(chat(max_tokens=1))
        async with asyncio.timeout(5):
            while sim.state.running + sim.state.waiting < 5:  # noqa: ASYNC110 - what is waited for is another's plain field
                await asyncio.sleep(0.005)
        place.engine.inflight = 1  # (one of them is ours)
        await schedule.round()
        assert place.engine.queued == 4
        assert place.engine.gauges is not None
        assert place.engine.gauges.running + place.engine.gauges.waiting == 5
        for reader, writer in others:
            await read_to_end(reader)
            writer.close()
        await schedule.round()
        assert place.engine.queued == 0
    place.engine.queued = 4
    await schedule.round()
    assert (place.engine.queued, place.engine.gauges) == (0, None), "nothing is shown any more"


async def test_what_is_configured_is_never_exceeded() -> None:
    async with Simulator(SimConfig(slots=100, ttft_ms=20.0)) as sim:
        place = Place(sim.url, max_concurrent=12)
        async with busy(sim, place) as fill:
            schedule = scheduler(place, changed=fill)
            seen = []
            for _ in range(10):
                await schedule.round()
                fill()
                await asyncio.sleep(0.005)
                seen.append(place.engine.slots)
    assert set(seen) == {12}


async def test_whoever_waits_is_told_when_a_limit_grows_and_only_then() -> None:
    calls: list[int] = []
    async with Simulator(SimConfig(slots=100)) as sim:
        place = Place(sim.url)
        schedule = scheduler(place, changed=lambda: calls.append(place.engine.slots))
        place.engine.inflight = START
        await schedule.round()
        assert (place.engine.slots, calls) == (2 * START, [])  # there was no limit before: nobody waited
        place.engine.inflight, place.engine.light = 2 * START, START
        await schedule.round()
        assert (place.engine.slots, calls) == (2 * START, [])  # half of it is in use
        place.engine.light = 0
        await schedule.round()
        assert (place.engine.slots, calls) == (4 * START, [4 * START])
        place.engine.max_concurrent = 5  # somebody has configured it lower since
        await schedule.round()
        assert (place.engine.slots, calls) == (5, [4 * START])


async def test_an_engine_without_gauges_gets_a_gradient_in_the_third_round_and_is_asked_again_later() -> None:
    log = Told()
    async with Simulator(SimConfig(metrics_kind="none", debug=True)) as sim:
        place = Place(sim.url)
        calls: list[int] = []
        schedule = scheduler(place, log=log, changed=lambda: calls.append(place.engine.slots))
        for _ in range(SILENT_ROUNDS - 1):
            await schedule.round()
            assert (place.engine.slots, place.engine.gradient) == (0, None)
        await schedule.round()
        gradient = place.engine.gradient
        assert isinstance(gradient, GradientLimit)
        assert place.engine.slots == START
        for _ in range(START):
            gradient.sample(0.02, START)
        await schedule.round()
        assert (place.engine.slots, calls) == (2 * START, [2 * START])
        asked = len(sim.requests)
        assert asked == SILENT_ROUNDS
        for _ in range(ASK_AGAIN_ROUNDS):
            await schedule.round()
        assert len(sim.requests) == asked + 1
        assert place.engine.gradient is gradient
    assert log.lines == ["engine shows no gauges: its limit goes by the time to the first token"]


async def test_gauges_that_appear_later_take_over_from_the_gradient() -> None:
    log = Told()
    async with Simulator(SimConfig(metrics_kind="none")) as sim:
        port = sim.port
        place = Place(sim.url)
        schedule = scheduler(place, log=log)
        for _ in range(SILENT_ROUNDS):
            await schedule.round()
        assert place.engine.gradient is not None
    async with Simulator(SimConfig(port=port)) as sim:
        for _ in range(ASK_AGAIN_ROUNDS):
            await schedule.round()
        assert place.engine.gradient is None
        assert place.engine.slots == START
    assert log.lines[-1] == "engine shows gauges: its limit goes by them"


async def test_an_engine_that_is_down_keeps_its_limit_and_gets_no_gradient() -> None:
    async with Simulator(SimConfig()) as sim:
        place = Place(sim.url)
        schedule = scheduler(place)
        await schedule.round()
        assert place.engine.slots == START
    place.engine.healthy = False
    for _ in range(2 * SILENT_ROUNDS):
        await schedule.round()
    assert (place.engine.slots, place.engine.gradient) == (START, None)


async def test_an_engine_that_is_well_but_never_answers_there_is_felt_instead() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        place = Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_concurrent=40)
        place.engine.healthy = True
        schedule = scheduler(place, timeout_s=0.05)
        for _ in range(SILENT_ROUNDS):
            await schedule.round()
        assert place.engine.gradient is not None
        assert place.engine.slots == 40


async def test_pages_that_are_too_large_or_nonsense_are_no_gauges() -> None:
    pages = [b"vllm:num_requests_running 1\n" + b"# x\n" * 80_000, b"\xff\x00{{{", b"vllm:num_requests_running NaN\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + pages.pop(0))
        writer.close()

    log = Told()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        place.engine.healthy = True
        schedule = scheduler(place, log=log)
        for _ in range(SILENT_ROUNDS):
            await schedule.round()
        assert pages == []
        assert place.engine.slots == START
    assert len(log.lines) == 1


async def test_the_page_is_asked_for_as_text_with_the_engines_key_under_its_base() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\ntgi_queue_size 0\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        place = Place(f"http://127.0.0.1:{port}/engine/v1", api_key="secret")
        await scheduler(place).round()
    assert place.engine.slots == START
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /engine/metrics HTTP/1.1"
    assert {b"Authorization: Bearer secret", b"Accept: text/plain", b"Connection: close"} <= set(lines)


async def test_a_real_engine_shows_that_its_batch_is_full_and_who_waits(tmp_path: Path) -> None:
    """llama.cpp with two places and five streams: what it has been sent is cut to what runs, and one at hand."""
    async with LlamaServer(tmp_path, slots=2, slot_tokens=8192) as server:
        place = Place(server.url, kind="llamacpp")
        schedule = scheduler(place)
        await schedule.round()
        assert place.engine.slots == START
        streams = [await connect(server.url) for _ in range(5)]
        for _, writer in streams:
            writer.write(chat(max_tokens=6000, stream=True))
        place.engine.inflight = 5
        async with asyncio.timeout(10.0):
            while place.engine.slots == START:
                await asyncio.sleep(0.05)
                await schedule.round()
        for _, writer in streams:
            writer.close()
        assert (place.engine.slots, place.engine.gradient) == (3, None)


async def test_one_slow_engine_holds_up_no_other_and_one_broken_look_ends_none() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    log = Told()
    async with Simulator(SimConfig()) as sim, await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        slow = Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        broken, well = Place(sim.url), Place(sim.url)
        def changed() -> None:
            raise RuntimeError

        schedule = scheduler(slow, broken, well, log=log, timeout_s=0.3, changed=changed)
        task = asyncio.ensure_future(schedule.run())
        async with asyncio.timeout(0.25):
            while not well.engine.slots:  # noqa: ASYNC110 - what is waited for is another object's plain field
                await asyncio.sleep(0.005)
        broken.engine.inflight = well.engine.slots
        async with asyncio.timeout(5.0):
            while not log.lines[2:]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert log.lines[2].startswith("scheduling failed inside fastgw")
        assert broken.engine.label.decode() in log.lines[2]
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_this_process_lacks_says_nothing_about_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_files(*_: object) -> tuple[int, bytes]:
        raise FetchError("no socket", errno.EMFILE)

    place = Place("http://127.0.0.1:9")
    place.engine.healthy = True
    looks = scheduler(place)
    monkeypatch.setattr(fastgw.upstream.asked, "fetch", no_files)
    for _ in range(2 * SILENT_ROUNDS):
        await looks.round()
    assert place.engine.gradient is None


@pytest.mark.parametrize("who", ["health", "scheduler"])
async def test_a_thousand_engines_are_asked_by_few_tasks(who: str) -> None:
    """A task for each would take the loop milliseconds to make, in every round."""
    places: Any = [Place("http://127.0.0.1:1", name=f"engine-{number}") for number in range(1000)]
    if who == "health":
        round_ = Health(lambda: places, Config(), NullLog(), lambda: None, lambda: None).round()
    else:
        round_ = scheduler(*places).round()
    before = len(asyncio.all_tasks())
    task = asyncio.ensure_future(round_)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) - before <= 1 + AT_ONCE
    await task
    assert who == "scheduler" or all(place.engine.healthy is False for place in places)
