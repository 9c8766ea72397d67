"""The control process with workers that do what a test says: who is started when, who takes whose clients, what is counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import fastgw.workers.roster as roster_module
from fastgw import Config
from fastgw.accounts import of as accounts_of
from fastgw.limits.key import KeyRecord
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.workers import words
from fastgw.workers.crew import Crew
from fastgw.workers.part import NotBegun
from fastgw.workers.posts import MAX_WAIT_S, waits_s
from tests.support.gateway import Events

ROW = ("anonymous", "", "m", 20_000, 3, 5, 1, 0, 0, 0, 7, 0)


class Someone:
    """A worker: its line, and what it was told. ``ends`` as a process does."""

    def __init__(self, fds: Sequence[int], number: int) -> None:
        self.pid = 1000 + number
        self.line = ProcessLine.inherited(os.dup(fds[0]))
        self.listens = [os.fstat(fd).st_ino for fd in fds[1:]]
        self.told: list[words.Word] = []
        self.status: int | None = None
        self.killed = False
        self.task = asyncio.get_running_loop().create_task(self._hears())
        self.obeys = True

    async def _hears(self) -> None:
        try:
            while True:
                word = words.read(await self.line.receive())
                self.told.append(word)
                if isinstance(word, words.StandIn):
                    for sock in self.line.take_sockets(word.sockets):
                        sock.close()
                elif isinstance(word, words.Ask):
                    self.says(words.Done(word.number))
                elif isinstance(word, words.Drain | words.Retire) and self.obeys:
                    self.ends(0)
        except LineGone:
            pass

    def says(self, *said: words.Word) -> None:
        for word in said:
            self.line.send(words.write(word))

    def ends(self, status: int) -> None:
        self.status = status
        self.line.close()
        self.task.cancel()

    def kinds(self) -> list[str]:
        return [type(word).__name__ for word in self.told]

    # --- as a process
    def poll(self) -> int | None:
        return self.status

    def kill(self) -> None:
        self.killed = True
        self.ends(-9)

    def wait(self) -> int:
        assert self.status is not None
        return self.status


class Shop:
    """The control process, and everybody it has started."""

    def __init__(self, config: Config, wills: Sequence[Callable[[Someone], None]]) -> None:
        self.config = config
        self.all: list[Someone] = []
        self.wills = wills
        self.events = Events()
        self.crew = Crew(2, spawn=self._spawn, log=self.events)
        self.accounts = accounts_of(config)
        self.accounts.books.kept = True
        core = SimpleNamespace(accounts=self.accounts, today=20_000, room=lambda: None, config=config)
        self.fleet = SimpleNamespace(own=SimpleNamespace(add=lambda socks: None), listed=list)
        vitals = SimpleNamespace(energy=None)
        self.around: Any = SimpleNamespace(
            core=core, fleet=self.fleet, keeping=None, listener=None, metrics=SimpleNamespace(vitals=vitals, before=None),
            stored=None, control=None,
        )

    def _spawn(self, fds: Sequence[int]) -> Any:
        one = Someone(fds, len(self.all))
        self.all.append(one)
        at = len(self.all) - 1
        (self.wills[at] if at < len(self.wills) else up)(one)
        return one

    async def begins(self) -> None:
        await self.crew.given(self.config, self.accounts, None)
        await self.crew.begin(self.around)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5.0):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def up(one: Someone) -> None:
    one.says(words.Up(one.pid))


def dies(one: Someone) -> None:
    one.ends(1)


def waits(one: Someone) -> None:
    """It is not ready yet."""


@asynccontextmanager
async def shop(*wills: Callable[[Someone], None], begins: bool = True) -> AsyncIterator[Shop]:
    there = Shop(Config(engines=[], port=0, workers=2), wills)
    try:
        if begins:
            await there.begins()
        yield there
    finally:
        await there.crew.end(0.0)
        await there.crew.close(there.around.keeping)
        for one in there.all:
            if one.status is None:
                one.ends(0)


async def test_each_has_a_socket_of_its_own_on_one_port() -> None:
    async with shop() as there:
        first, second = there.all
        begin = first.told[0]
        assert isinstance(begin, words.Begin)
        assert (begin.at, begin.workers, begin.required) == (0, 2, False)
        assert set(first.listens[: begin.sockets]).isdisjoint(second.listens[: begin.sockets])
        assert len({sock.getsockname() for sock in there.crew.socks}) == 1
        with pytest.raises(NotBegun, match="in use"):  # another program would not share the port
            await Crew(2, spawn=there._spawn, log=there.events).given(
                Config(engines=[], port=int(there.crew.addresses[0].rpartition(":")[2])), there.accounts, None
            )


@pytest.mark.parametrize("wills", [(dies,), (up, dies)])
async def test_one_that_does_not_come_up_is_no_start(wills: Any) -> None:
    async with shop(*wills, begins=False) as there:
        with pytest.raises(NotBegun, match="ended before it was ready"):
            await there.begins()
        assert all(one.status is not None for one in there.all)
        assert len(there.all) == 2


async def test_another_takes_the_clients_of_one_that_ends_until_the_next_is_there() -> None:
    async with shop(up, up, waits) as there:
        first, second = there.all
        first.ends(-9)
        await there.until(lambda: len(there.all) == 3)
        third = there.all[2]
        await there.until(lambda: second.kinds()[-1] == "StandIn")
        ((_, _, told),) = there.events.errors()
        assert (told["worker"], told["signal"], told["restart_s"]) == (1, "SIGKILL", 0.0)
        slots = [one.told[0].worker for one in (first, second) if isinstance(one.told[0], words.Begin)]
        await there.until(lambda: third.told)
        assert isinstance(third.told[0], words.Begin)
        assert third.told[0].worker not in slots[1:], "what it holds is told from what others hold"
        up(third)
        await there.until(lambda: second.kinds()[-1] == "StandBack")
        # And the other way round.
        second.ends(0)
        await there.until(lambda: third.kinds()[-2:] == ["StandIn", "StandBack"])
        assert len(there.events.errors()) == 1, "one that was asked to end is no error"


async def test_nobody_waits_where_any_is_there() -> None:
    """Also where all had gone, where the next does not last, and where one only ends what it has."""
    async with shop(up, up, waits, waits) as there:
        for one in there.all[:2]:
            one.ends(-9)
        await there.until(lambda: len(there.all) == 4)
        third, fourth = there.all[2:]
        up(third)
        await there.until(lambda: third.told and third.kinds()[-1] == "StandIn")
        assert third.told[-1] == words.StandIn(1, 1)
        fourth.ends(1)
        await there.until(lambda: len(there.all) == 5)
        await there.until(lambda: third.kinds()[-1] == "StandBack")
        assert third.kinds().count("StandIn") == 1, "it has those sockets"
        third.says(words.Leaves())
        await there.until(lambda: there.all[4].kinds()[-1] == "StandIn")
        assert there.all[4].told[-1] == words.StandIn(0, 1)


async def test_one_that_cannot_be_started_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(roster_module, "waits_s", lambda failures: 0.0)
    tries = 0

    def fails(one: Someone) -> None:
        nonlocal tries
        tries += 1
        if tries <= 6:
            one.ends(1)
            raise BlockingIOError(11, "no process")
        up(one)

    async with shop(up, up, *[fails] * 7) as there:
        there.all[0].ends(-9)
        await there.until(lambda: tries > 6 and there.crew.may_renew())
        assert [message for _, message, _ in there.events.errors()].count("a worker cannot be started") == 6


async def test_one_that_ends_while_another_is_to_take_its_place() -> None:
    async with shop(up, up, waits) as there:
        task = asyncio.ensure_future(there.crew.renew())
        await there.until(lambda: len(there.all) == 3)
        there.all[0].ends(-9)
        await there.until(lambda: len(there.all) == 4)
        up(there.all[2])
        assert await task
        await there.until(lambda: there.all[3].status == there.all[1].status == 0)
        assert [one.status for one in there.all] == [-9, 0, None, 0, None], "one at each place"


def test_how_long_until_the_next() -> None:
    assert [waits_s(0), waits_s(1)] == [0.0, 0.0]
    assert [0.8 * wait <= waits_s(2 + at) <= wait for at, wait in enumerate((0.5, 1.0, 2.0, 4.0, 8.0))] == [True] * 5
    assert max(waits_s(1000) for _ in range(100)) <= MAX_WAIT_S


async def test_what_was_used_is_in_the_books_once() -> None:
    async with shop() as there:
        first, _ = there.all
        first.says(words.Used("", [ROW]), words.Used("a:1", [ROW]))
        await there.until(lambda: first.kinds()[-1] == "Noted")
        (row,) = there.accounts.books.rows()
        assert row == ("anonymous", "", "m", 20_000, 6, 10, 2, 0, 0, 0, 14, 0)
        assert there.accounts.touched == [there.accounts.anonymous]


async def test_who_says_what_nobody_knows_is_ended_and_another_started() -> None:
    async with shop() as there:
        there.all[0].line.send(b"\xc1")
        await there.until(lambda: len(there.all) == 3)
        ((_, _, told),) = there.events.errors()
        assert "does not know" in told["reason"]
        assert there.all[0].killed


async def test_keys_engines_and_settings_are_told_to_all() -> None:
    async with shop() as there:
        taken: list[Sequence[KeyRecord]] = []
        record = KeyRecord(id="k", digest=b"d" * 32)
        there.crew.keys_changed(taken.append)([record])
        there.crew.engine("drain", "e")
        assert await there.crew.followed() == []
        assert taken == [[record]]
        for one in there.all:
            assert one.told[1:4] == [words.Keys([record]), words.Engine("drain", "e"), words.Follow()]


async def test_new_ones_take_the_places_and_the_old_retire() -> None:
    async with shop() as there:
        assert await there.crew.renew()
        first, second, third, fourth = there.all
        await there.until(lambda: first.status is not None and second.status is not None)
        assert first.told[-1] == second.told[-1] == words.Retire(there.config.upgrade_timeout_s)
        assert (third.told[1:], fourth.told[1:]) == ([], [])
        assert not there.events.errors()
        await asyncio.sleep(0.05)
        assert len(there.all) == 4, "nobody is started for those"


async def test_no_new_one_and_all_is_as_it_was() -> None:
    async with shop(up, up, dies) as there:
        assert not await there.crew.renew()
        first, second, third = there.all
        assert (first.status, second.status, third.status) == (None, None, 1)
        await asyncio.sleep(0.05)
        assert len(there.all) == 3


async def test_who_does_not_end_is_killed(monkeypatch: Any) -> None:
    monkeypatch.setattr(roster_module, "HURRY_S", 0.05)
    async with shop() as there:
        stubborn, second = there.all
        stubborn.obeys = False
        await there.crew.end(0.05)
        assert (stubborn.killed, second.killed, second.status) == (True, False, 0)
        assert [word.at_once for word in stubborn.told if isinstance(word, words.Drain)] == [False, True]
