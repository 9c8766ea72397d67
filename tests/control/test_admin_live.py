"""What the gateway does now, told once a second to all who watch, and to nobody while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pytest

from fastgw.control import admin_live as module
from fastgw.control.admin_live import MAX_WATCHERS, MOST_RUNNERS, AdminLive
from fastgw.control.server import ControlServer
from fastgw.protocol.hosts import HostRule
from tests.control.test_server import ADMIN_KEY, Events, the_key, until
from tests.support.client import RawClient, request
from tests.support.pages import Written


class Backend:
    """Says how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.wrong: list[dict[str, Any]] = []
        self.breaks = False

    def past(self) -> dict[str, object]:
        return {"points": []}

    def look(self) -> Any:
        self.looks += 1
        if self.breaks:
            raise RuntimeError("a fault of ours")
        return {"look": self.looks}

    @property
    def last_error(self) -> int:
        return len(self.wrong)

    def errors(self, number: int) -> Sequence[Any]:
        return self.wrong[max(0, number) :]

    def times(self, engine: str) -> tuple[Any, Any]:
        return ((0.1, 0.2, 0.3), None) if engine == "e" else (None, None)


class Runner(NamedTuple):
    id: str
    name: str = "r"
    engine: str = "e"
    health: str = "well"
    connected: bool = True
    inflight: int = 0
    silent_s: float = 0.1


class Serving(NamedTuple):
    control: ControlServer
    live: AdminLive
    backend: Backend
    log: Events

    @contextlib.asynccontextmanager
    async def watcher(self) -> AsyncIterator[Any]:
        """Reads event after event, as (name, document)."""
        async with RawClient.connect(self.control.url) as client:
            await client.send(request("GET", "/admin/live", key=ADMIN_KEY))
            text = bytearray()

            async def until_told(name: str) -> Any:
                async with asyncio.timeout(5):
                    while True:
                        if (at := text.find(b"event: " + name.encode())) >= 0 and (end := text.find(b"\n\n", at)) >= 0:
                            line = bytes(text[at:end]).split(b"data: ", 1)[1]
                            del text[:end]
                            return json.loads(line)
                        if not (piece := await client.read_some()):
                            raise EOFError
                        text.extend(piece)

            yield until_told


@contextlib.asynccontextmanager
async def telling() -> AsyncIterator[Serving]:
    backend, log = Backend(), Events()
    live = AdminLive(backend, lambda: [Runner(f"r{at}") for at in range(MOST_RUNNERS + 1)], lambda: None)
    control = ControlServer(
        host="127.0.0.1", port=0, operators=[the_key(ADMIN_KEY)], log=log, metrics=Written(), health=dict, keys=None,
        hosts=HostRule(["x"], ""), live=live,
    )  # fmt: skip
    await control.start()
    try:
        yield Serving(control, live, backend, log)
    finally:
        await control.stop()


async def test_one_look_is_everybodys_and_none_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    async with telling() as there:
        backend = there.backend
        async with there.watcher() as one, there.watcher() as other:
            await one("past")
            await other("past")
            seen = [(await one("now"))["now"]["look"] for _ in range(3)]
            also = [(await other("now"))["now"]["look"] for _ in range(3)]
            assert set(seen) & set(also)
            told = await one("now")
            assert (len(told["runners"]), told["runners_total"], told["gpus"]) == (MOST_RUNNERS, MOST_RUNNERS + 1, None)
            assert (told["runners"][0]["ttft"], told["runners"][0]["itl"]) == ([0.1, 0.2, 0.3], None), "its engine's"
            assert backend.looks <= max(*seen, *also) + 3, "each has his own"
        await until(lambda: there.live.watchers == 0)
        looks = backend.looks
        await asyncio.sleep(0.1)
        assert backend.looks == looks, "nobody watches"
        async with there.watcher() as again:
            assert (await again("now"))["now"]["look"] > looks


async def test_whoever_comes_between_two_looks_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 60.0)
    async with telling() as there, there.watcher() as one:
        assert (await one("now"))["now"]["look"] == 1
        async with there.watcher() as other:
            assert (await other("now"))["now"]["look"] == 1


async def test_errors_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    async with telling() as there:
        there.backend.wrong.append({"request_id": "before"})
        async with there.watcher() as one:
            assert await one("errors") == [{"request_id": "before"}]
            there.backend.wrong.append({"request_id": "then"})
            assert await one("errors") == [{"request_id": "then"}]


async def test_watchers_are_bounded_and_the_stop_of_the_gateway_ends_them() -> None:
    async with telling() as there, contextlib.AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(there.watcher()) for _ in range(MAX_WATCHERS)]
        for one in watchers:
            await one("past")
        async with RawClient.connect(there.control.url) as client:
            await client.send(request("GET", "/admin/live", key=ADMIN_KEY))
            assert (await client.read_response()).status == 429
            await client.send(request("GET", "/admin/live"))
            assert (await client.read_response()).status == 401
        begin = asyncio.get_running_loop().time()
        await there.control.stop()
        assert asyncio.get_running_loop().time() - begin < 1.0
        assert there.live.watchers == 0


async def test_a_look_that_fails_is_in_the_log_and_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    async with telling() as there:
        there.backend.breaks = True
        async with there.watcher() as one:
            with pytest.raises((EOFError, ConnectionError)):
                await one("now")
        assert [line[1] for line in there.log.lines if line[0] == "error"] == ["control failed"]
        there.backend.breaks = False
        async with there.watcher() as one:
            assert (await one("now"))["now"]["look"]
