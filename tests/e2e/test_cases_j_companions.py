"""J3, J4: what lies beside the store's file is cut, removed and put back while a gateway and a command use it.

Somebody cleans up, a backup is restored over a running gateway, a disk loses a file. A file that is mapped into memory and cut
short ends the process that reads it (SIGBUS), so none is mapped; and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fastgw.sim import SimConfig, Simulator
from fastgw.store.place import COMPANIONS
from tests.cli.test_cli import environment
from tests.e2e.durability import TOKENS, Life, durable, life, make_key, sound, written
from tests.e2e.metered import ask, say
from tests.support.client import RawClient

pytestmark = pytest.mark.once  # the store has no twins

# Commands as people run them, one after the other in one process, so that it holds the file nearly all the time.
COMMANDS = """
import contextlib, io, select, sys
from fastgw.store import cli
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    name = f"n{number}"
    for argv in (["create", "--name", name], ["list"], ["update", name, "--burst", "5"], ["show", name]):
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(argv, sys.argv[1])
        if code:
            sys.exit(100 + code)
print(number)
"""
# A backup tool: it switches the file to a write-ahead log, writes into it, and keeps it open.
ANOTHER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5.0)
assert other.execute("PRAGMA journal_mode = WAL").fetchall() == [("wal",)]
other.execute("INSERT OR REPLACE INTO meta VALUES ('theirs', 1)")
print("there", flush=True)
sys.stdin.read()
"""


def mapped(pid: int, folder: Path) -> list[str]:
    """What of the folder the process has in its memory."""
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if str(folder) in line]


def cut(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 0)
    os.close(fd)


def cut_in_half(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, os.fstat(fd).st_size // 2)
    os.close(fd)


def remove(path: Path) -> None:
    path.unlink()


@asynccontextmanager
async def child(code: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, env=environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:  # a check has failed
            process.kill()
            await process.communicate(b"")


class Asking:
    """Clients that ask one thing after the other until they are told to end."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._over = False
        self._tasks = [asyncio.create_task(self._client(bool(number % 2))) for number in range(4)]

    async def _client(self, stream: bool) -> int:
        answered = 0
        async with RawClient.connect(self._url) as client:
            while not self._over:
                answer = await ask(client, say(TOKENS, key=self._key, stream=stream))
                assert (answer.status, answer.complete) == (200, True), answer.body
                answered += 1
                await asyncio.sleep(0.002)  # others use this machine too
        return answered

    async def end(self) -> int:
        """How many were answered."""
        self._over = True
        return sum(await asyncio.gather(*self._tasks))


def mischief(state: Path) -> Iterator[str]:
    """One companion after the other, in each of the ways, for ever."""
    ways = itertools.cycle([(way, end) for end in COMPANIONS for way in (cut, cut_in_half, cut, remove)])
    for way, end in ways:
        with suppress(FileNotFoundError):
            way(Path(f"{state}/fastgw.db{end}"))
            yield f"{way.__name__} {end}"
        yield ""


async def through(one: Life, key: str, rounds: int) -> dict[str, int]:
    """Load, commands and mischief at once; returns how often what was done."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done: dict[str, int] = {}
    async with child(COMMANDS, str(one.state)) as commands:
        load = Asking(one.url, key)
        for what in itertools.islice(mischief(one.state), rounds):
            if what:
                done[what] = done.get(what, 0) + 1
            assert one.process.poll() is None, one.log.read_text()[-2000:]
            assert commands.returncode is None, "a command has ended"
            assert not mapped(one.process.pid, one.state) + mapped(commands.pid, one.state)
            await asyncio.sleep(chance.uniform(0.0, 0.006))
        told, _err = await commands.communicate(b"enough\n")
        assert commands.returncode == 0, (commands.returncode, told.decode())
        made = int(told.decode().split()[-1])
    assert one.process.poll() is None
    done["made"], done["answered"] = made, await load.end()
    assert await one.requests(key) == done["answered"]
    return done


async def companions(folder: Path, rounds: int) -> None:
    id, key = make_key(folder, "--name", "kept")
    async with Simulator(SimConfig(record=0)) as sim:
        async with life(folder, sim.url) as one:
            done = await through(one, key, rounds)
            print(done)
            assert done["made"] >= 2, done
            assert done["answered"] > rounds / 10, "hardly anything was asked: this proves nothing"
            assert done["cut -journal"] > rounds / 40, done
            found = await one.requests(key)
            assert await one.end() == 0
            durable(written(one.state, id), found)
            sound(one.state)
            with sqlite3.connect(f"file:{one.state}/fastgw.db?mode=ro", uri=True) as database:
                names = {name for (name,) in database.execute("SELECT name FROM keys WHERE deleted = 0")}
            database.close()
            assert names == {"kept", *(f"n{number}" for number in range(1, done["made"] + 1))}
        async with life(folder, sim.url) as one:
            assert await one.requests(key) == found
            assert await one.chat(None) == 401
            assert await one.end() == 0


@pytest.mark.deadline_s(60)
async def test_J4_companions_are_cut_and_removed_under_a_gateway_and_a_command(tmp_path: Path) -> None:
    await companions(tmp_path, 250)


@pytest.mark.soak
@pytest.mark.deadline_s(600)
@pytest.mark.timeout(600)
async def test_J4_companions_are_cut_and_removed_ten_thousand_times(tmp_path: Path) -> None:
    await companions(tmp_path, 20_000)


@pytest.mark.deadline_s(60)
@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_J4_another_program_that_makes_a_log_is_met_by_one_that_leaves_it(end: str, tmp_path: Path) -> None:
    """Everybody would map its index. While the other one has it the store fails; then what is left of the log is taken over."""
    id, key = make_key(tmp_path)
    async with (
        Simulator(SimConfig(record=0)) as sim,
        life(tmp_path, sim.url) as one,
        child(ANOTHER, str(one.state / "fastgw.db")) as other,
    ):
        assert other.stdout is not None
        assert await other.stdout.readline() == b"there\n"
        await one.until_metric("gateway_store_up", 0)
        assert not mapped(one.process.pid, one.state)
        assert await one.chat(key) == 200
        if end == "killed":
            other.kill()
            for companion in ("-shm", "-wal"):
                cut(Path(f"{one.state}/fastgw.db{companion}"))
        await other.communicate(b"")
        await one.until_metric("gateway_store_up", 1)
        assert not mapped(one.process.pid, one.state)
        assert {path.name for path in one.state.iterdir()} == {"fastgw.db", "fastgw.db-journal", "lock"}
        assert await one.chat(key) == 200
        await one.until_written(id, 2)
        assert await one.end() == 0


@pytest.mark.deadline_s(60)
@pytest.mark.parametrize("size", [4096])
async def test_J4_the_file_itself_is_cut_under_a_gateway(size: int, tmp_path: Path) -> None:
    """Keys are known and traffic goes on, the log says so; and no start is open, nor does a command take it for a new one."""
    _id, key = make_key(tmp_path)
    file = tmp_path / "disk" / "state" / "fastgw.db"
    async with Simulator(SimConfig(record=0)) as sim:
        async with life(tmp_path, sim.url) as one:
            assert await one.chat(key) == 200
            os.truncate(file, size)
            await one.until_metric("gateway_store_up", 0)
            assert [await one.chat(key), await one.chat(None)] == [200, 401]
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", "fastgw", "keys", "create"], capture_output=True, text=True, check=False,
                cwd=tmp_path, env=environment(FASTGW_STATE_DIR=str(one.state)),
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
            assert file.stat().st_size == size
            await one.end(signal.SIGKILL)  # the end would wait for the disk
        async with life(tmp_path, sim.url, wait=False) as one:
            await one.until("it gives up", lambda: one.process.poll() is not None)
            assert one.process.returncode == 1
            assert one.log.read_text().count("\n") == 1
        async with life(tmp_path, sim.url, FASTGW_ON_CORRUPT_STATE="set_aside") as one:
            assert [await one.chat(None), await one.chat(key)] == [401, 401]
            assert json.dumps(one.said("damaged state was set aside"))
            assert await one.end() == 0
        async with life(tmp_path, sim.url) as one:
            assert await one.chat(None) == 401, "and so is the next one"
            assert await one.end() == 0
