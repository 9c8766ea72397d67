"""``fastgw top`` before a real gateway: what it says, whom it gives the key, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from fastgw import cli
from fastgw.sim import SimConfig, Simulator
from fastgw.top import asking
from fastgw.top.asking import Source, Unread
from tests.cli.test_cli import environment
from tests.support.client import RawClient
from tests.support.gateway import Running, running
from tests.support.ports import closed_port
from tests.support.requests import chat

KEY = "an-admin-key-of-tests"


@asynccontextmanager
async def top(*argv: str, **env: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-W", "error", "-m", "fastgw", "top", *argv]
    process = await asyncio.create_subprocess_exec(*command, env=environment(**env), stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(*argv: str, **env: str) -> tuple[int | None, str, str]:
    async with top(*argv, **env) as process:
        out, wrong = await process.communicate()
        return process.returncode, out.decode(), wrong.decode()


async def asked(gw: Running, stopped: asyncio.Event) -> None:
    async with RawClient.connect(gw.url) as client:
        while not stopped.is_set():
            assert (await client.ask(chat("sim", stream=True, max_tokens=2), 10.0)).status == 200


async def test_S2_21_it_shows_what_the_gateway_does() -> None:
    async with Simulator(SimConfig(models=("sim",))) as sim, running(
        [sim.url], control_listen="127.0.0.1:0", admin_key=KEY
    ) as gw:
        await gw.until("the engine is known", lambda: gw.gateway.core.table.models)
        engine = sim.url.removeprefix("http://")
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(asked(gw, stopped))
            once = (gw.gateway.control_url, "--once", "--interval", "0.5")
            mine = ("--admin-key-env", "MINE")
            (_, table, wrong), (_, line, _), (_, without, _) = await asyncio.gather(
                said(*once, *mine, MINE=KEY), said(*once, "--json", *mine, MINE=KEY), said(*once, "--json", ADMIN_KEY=KEY)
            )
            stopped.set()
        assert wrong == ""
        assert f"\n{engine} " in table
        assert "engine_well" in table
        assert KEY not in table + line
        found = json.loads(line)
        assert found["gateway"]["requests_per_s"] > 0
        assert found["gateway"]["ttft_p50_s"] > 0
        assert [(one["name"], one["state"]) for one in found["engines"]] == [(engine, "well")]
        assert [one["model"] for one in found["models"]] == ["sim"]
        assert (found["events"] != [], json.loads(without)["events"]) == (True, [])
        await gw.idle()


async def test_it_goes_on_when_the_gateway_is_gone_and_ends_when_it_is_told() -> None:
    async with AsyncExitStack() as rest:
        async with running(control_listen="127.0.0.1:0") as gw:
            process = await rest.enter_async_context(top(gw.gateway.control_url, "--interval", "0.1"))
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readuntil(b"fastgw "), 10)
        await asyncio.wait_for(process.stdout.readuntil(b"Connect call failed"), 10)
        process.send_signal(signal.SIGINT)
        assert (await process.communicate())[1] == b""
        assert process.returncode == 0


@asynccontextmanager
async def answering(page: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """What has ``page`` at /metrics and nothing else; and the heads that it gets."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        there = seen[-1].startswith(b"GET /metrics ")
        said = b"200 OK" if there else b"401 Unauthorized", len(page) if there else 0, page if there else b""
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


async def test_the_key_is_for_admin_alone() -> None:
    async with answering(b"gateway_active_requests 0\n") as (url, seen):
        with pytest.raises(Unread, match="/admin/engines answers 401: is the key one of its admin keys"):
            await Source(url, KEY, "", True, 20, time.monotonic).read()
    assert [(head.split()[1], KEY.encode() in head) for head in seen] == [(b"/metrics", False), (b"/admin/engines", True)]


@pytest.mark.parametrize(("page", "told"), [(b"up 1\n", "not a gateway's"), (b"gateway_active_requests 0\n" * 9, "too large")])
async def test_what_is_no_gateway_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch, page: bytes, told: str) -> None:
    monkeypatch.setattr(asking, "MAX_PAGE_BYTES", 64)
    async with answering(page) as (url, _):
        with pytest.raises(Unread, match=told):
            await Source(url, "", "", True, 20, time.monotonic).read()


@pytest.mark.parametrize(
    ("argv", "env", "code", "told"),
    [
        (["http://127.0.0.1:{closed}", "--once"], {}, 1, "127.0.0.1:{closed}: [Errno 111] Connect call failed"),
        (["http://nowhere.invalid:1", "--once"], {}, 1, "its name is not known here"),
        (["ftp://secret"], {}, 2, "URL: the URL must be http://"),
        (["http://me:secret@host"], {}, 2, "must hold no user"),
        (["--interval", "0"], {}, 2, "--interval: must be a number from 0.1 to 3600"),
        (["--rows", "x"], {}, 2, "--rows: must be a number from 1 to 1000"),
        (["--ca-file", "/no/such/file", "https://h"], {}, 2, "--ca-file: "),
        (["--admin-key=secret"], {}, 2, "unrecognized arguments: --admin-key"),
        (["--admin-key-env", "MINE"], {"MINE": "secret key"}, 2, "--admin-key-env: a key is visible ASCII"),
        (["--admin-key-env", "MINE"], {"MINE": ""}, 2, "--admin-key-env: there is no such variable"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], env: dict[str, str], code: int,
    told: str,
) -> None:  # fmt: skip
    closed = str(closed_port())
    monkeypatch.delenv("ADMIN_KEY", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    try:
        found: object = cli.main(["top", *(word.format(closed=closed) for word in argv)])
    except SystemExit as error:
        found = error.code
    out, wrong = capsys.readouterr()
    assert (found, out) == (code, "")
    (line,) = wrong.splitlines()
    assert told.format(closed=closed) in line
    assert "secret" not in line
