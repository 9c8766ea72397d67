"""Disks that fail, each as a process of its own: ``python -m tests.store.faulty SCENE FOLDER``.

The scenes on a small disk expect to run in a mount namespace where ``FOLDER`` is a tmpfs of 512 kB. Exit code 0 = all held.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from fastgw.limits.key import UsageRow
from fastgw.store import cli, keys
from fastgw.store.database import Database
from fastgw.store.schema import Unavailable
from fastgw.store.state import State
from tests.store.test_database import torn
from tests.store.test_state import DAY, Held, until, usage

MANY = 400


def batch(number: int) -> list[UsageRow]:
    """More than a page or two, so that it needs room; every row holds ``number``."""
    return [(f"key_{one:016x}", DAY, number, number, number, 0, 0, 0) for one in range(MANY)]


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    filler = folder.parent / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for size in (4096, 512, 1):
        try:
            while True:
                os.write(fd, b"x" * size)
        except OSError:
            continue
    os.close(fd)
    return filler


async def failing(held: Held, first: int) -> int:
    """Hand over batches until one fails, as a gateway would; the loop must go on turning. Returns the next number."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counter = asyncio.create_task(count())
    for number in range(first, first + 500):
        if not await held.write(*batch(number)):
            break
    else:
        raise AssertionError("no batch failed")
    assert held.state.failing
    print("failing:", held.state.reason)
    assert turns >= number - first
    counter.cancel()
    return number + 1


async def well(held: Held, number: int, folder: Path) -> None:
    """The disk is well again: so is the state, and the sums are those of the last batch."""
    begin = time.monotonic()
    while not await held.write(*batch(number)):
        assert time.monotonic() - begin < 8
        number += 1
        await asyncio.sleep(0.05)
    assert (held.state.failing, held.state.reason) == (False, "")
    assert [level for level, _message in held.log.lines] == ["warning", "info"], held.log.lines
    assert await held.state.close()
    assert usage(folder) == sorted(batch(number))
    database = Database.open(str(folder / "fastgw.db"))
    assert database.integrity() == []
    database.close()


async def before(folder: Path) -> str:
    """A state as an earlier run leaves it; returns the id of its key."""
    held = Held(folder)
    record, _text = await held.state.run(keys.create, {"name": "kept"}, "test")
    assert await held.write(*batch(1))
    assert await held.state.close()
    return record.id


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder.parent)], check=True)


async def full_while_running(folder: Path) -> None:
    held = Held(folder)
    assert await held.write(*batch(1))
    filler = fill(folder)
    number = await failing(held, 2)
    assert not await held.write(*batch(number))
    number += 1
    await asyncio.sleep(0.3)
    assert held.state.failing
    long = {"name": "n", "models": [str(one) * 20 for one in range(900)]}
    answer = await asyncio.gather(held.state.run(keys.create, long, "test"), return_exceptions=True)
    assert isinstance(answer[0], Unavailable), answer
    filler.unlink()
    assert await held.state.run(keys.list_keys) == []
    await well(held, number, folder)


async def full_at_start(folder: Path) -> None:
    filler = fill(folder)
    held = Held(folder)
    assert held.loaded [:3] == ([], [], 0)
    number = await failing(held, 1)
    filler.unlink()
    await well(held, number, folder)


async def full_at_start_with_state(folder: Path) -> None:
    key_id = await before(folder)
    filler = fill(folder)
    held = Held(folder)
    assert [record.id for record in held.loaded.keys] == [key_id]
    assert sorted(held.loaded.usage) == sorted(batch(1))
    number = await failing(held, 2)
    filler.unlink()
    await well(held, number, folder)


async def read_only_at_start(folder: Path) -> None:
    key_id = await before(folder)
    remount(folder, "ro")
    held = Held(folder)
    assert [record.id for record in held.loaded.keys] == [key_id]
    assert sorted(held.loaded.usage) == sorted(batch(1))
    number = await failing(held, 2)
    remount(folder, "rw")
    other = Database.open(str(folder / "fastgw.db"))
    keys.disable(other, "kept", "test")
    other.close()
    await until(lambda: not held.state.failing)
    await until(lambda: held.told)  # what changed meanwhile
    assert [(record.id, record.disabled) for record in held.told] == [(key_id, True)]
    await well(held, number, folder)


async def read_only_for_commands(folder: Path) -> None:
    """What reads works, and what writes says why not."""
    key_id = await before(folder)
    remount(folder, "ro")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.main(["list"], str(folder)) == 0
        assert cli.main(["show", "kept"], str(folder)) == 0
        assert cli.main(["create"], str(folder)) == 1
    assert out.getvalue().count(key_id) == 2
    assert err.getvalue().startswith("fastgw keys: error: cannot open")
    assert err.getvalue().count("\n") == 1
    print(err.getvalue())


async def read_only_after_a_kill(folder: Path) -> None:
    """In the middle of a commit: the file is half new, and its journal cannot be played back where it lies."""
    held = Held(folder.parent / "first")
    assert await held.write(*batch(3))
    assert await held.state.close()
    torn(folder.parent / "first", folder)
    remount(folder, "ro")
    held = Held(folder)
    assert sorted(held.loaded.usage) == sorted(batch(3))
    number = await failing(held, 4)
    remount(folder, "rw")
    await well(held, number, folder)


async def read_only_and_new(folder: Path) -> None:
    """Not even the folder can be made."""
    remount(folder, "ro")
    held = Held(folder)
    number = await failing(held, 1)
    remount(folder, "rw")
    await well(held, number, folder)


async def write_errors(folder: Path) -> None:
    """Files may not grow (RLIMIT_FSIZE): SQLite's writes fail in the middle, as with a sick disk."""
    held = Held(folder)
    assert await held.write(*batch(1))
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    number = await failing(held, 2)
    assert not await held.write(*batch(number))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await well(held, number + 1, folder)


async def write_errors_at_the_end(folder: Path) -> None:
    """A disk that stays sick holds up the end of the process no longer than was granted, and says that rows are lost."""
    held = Held(folder)
    assert await held.write(*batch(1))
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    number = await failing(held, 2)
    begin = time.monotonic()
    assert not await held.state.close(3.0, batch(number))
    assert time.monotonic() - begin < 4
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = State(str(folder), log=held.log)
    rows = again.open(DAY).usage
    assert len({row[2] for row in rows}) == 1
    assert 1 <= rows[0][2] < number - 1
    assert await again.close()


if __name__ == "__main__":
    scene = globals()[sys.argv[1]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene(Path(sys.argv[2]) / "state"))
