"""A process whose children write usage and keys through ``State`` until they are killed.

    python -m tests.store.victim FOLDER

Each line on standard input starts a child (``0`` or ``20`` milliseconds between batches). Standard output gets what the
child says, a line each, before the event it depends on can be lost: ``pid``, ``loaded`` (the number that all usage rows hold,
and how many keys there are), ``sent`` and ``acked`` with the number of a batch, ``key`` with the id of a key that was made;
``broken`` where rows that were written together differ; and ``ended`` with the child's signal, when it is gone.
Children are forked, so that a life costs milliseconds and not a start of the interpreter.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from fastgw.limits.key import UsageRow
from fastgw.stats import NullLog
from fastgw.store import keys
from fastgw.store.state import Loaded, State

DAY = 20_000
USERS = ("key_a", "key_b", "key_c", "key_d", "key_e")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def rows_of(number: int) -> list[UsageRow]:
    """One batch: its number stands in every row, so a batch in part would show."""
    return [(user, DAY, number, 2 * number, number, number // 2, number, number // 3) for user in USERS]


def number_of(loaded: Loaded) -> int:
    number = loaded.usage[0][2] if loaded.usage else 0
    if sorted(loaded.usage) != (rows_of(number) if number else []):
        say("broken", loaded.usage)
    return number


async def live(folder: str, pause_s: float) -> None:
    state = State(folder, log=NullLog())
    loaded = state.open(DAY)
    number = number_of(loaded)
    if state.failing:
        say("broken", state.reason)
    loop = asyncio.get_running_loop()
    state.start(loop, lambda records: None)
    say("loaded", number, len(loaded.keys))
    while True:
        number += 1
        done: asyncio.Future[bool] = loop.create_future()
        say("sent", number)
        state.write(rows_of(number), done.set_result)
        if number % 3 == 0:
            record, _text = await state.run(keys.create, {"name": f"made with {number}"}, "victim")
            say("key", record.id)
        if await done:
            say("acked", number)
        await asyncio.sleep(pause_s)


def child(folder: str, pause_ms: int) -> None:
    say("pid", os.getpid())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(folder, pause_ms / 1e3))


def main(folder: str) -> None:
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, int(line))
            finally:
                os._exit(1)
        _pid, status = os.waitpid(pid, 0)
        say("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1])
