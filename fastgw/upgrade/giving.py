"""The old process hands over: its sockets, its limits, what is under way; and ends when that has ended.

    saying     rows of limits, in pieces, while all is served as ever
    waiting    who comes waits in the backlog; the store gets all, and its folder is free
    last       in one turn of the loop: the sockets, what has changed meanwhile, and all that is held
    said       the other one takes it over, and says that it could begin. Until then everything can be taken back
    handed     "go". What is used here counts there from now on
    over       nothing is under way here any more, or the time is over

Owns that order. Invariant: until ``go`` is said this process is the gateway, and if anything fails it goes on as if nothing had
been; from then on it writes nothing to the store, unless the other process is there no more to do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from fastgw.draining import send_on, until
from fastgw.exchange.gateway import GatewayCore
from fastgw.housekeeping import Housekeeping, UsageStore
from fastgw.limits.breaker import CLOSED
from fastgw.limits.meter import Meters
from fastgw.limits.spending import SpentRow
from fastgw.net.clock import micros
from fastgw.net.listener import Listener
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.upgrade import places, standing, words
from fastgw.upgrade.beside import Beside
from fastgw.upgrade.forward import Forward, under_way
from fastgw.upgrade.refusals import NotHanded
from fastgw.upgrade.taking import listens_by
from fastgw.upgrade.words import BreakerRow, Word
from fastgw.upstream.seats import Seats

if TYPE_CHECKING:
    import socket

    from fastgw.control.server import ControlServer
    from fastgw.upstream.fleet import Fleet

WRITE_S: Final = 5.0  # for the store to take what there is
TAKE_S: Final = 60.0  # for the other one to take over: a million keys are read in some seconds
WAITING_BYTES: Final = 1 << 20  # said and not read by the other: more is said when it has
LOOK_S: Final = 0.05

T = TypeVar("T")


class Left(NamedTuple):
    """What a gateway hands over, or needs for it. ``close`` frees the folder of its store; ``gone`` returns when the other
    process has ended, which has not taken over, and then ``open`` takes the folder again; ``runners`` tells those that have
    dialled in to dial again; ``besides`` were the gateway before it."""

    core: GatewayCore
    fleet: Fleet
    listener: Listener
    control: ControlServer | None
    keeping: Housekeeping
    meters: Meters | None
    by: str
    stored: bool
    close: Callable[[], Awaitable[None]]
    gone: Callable[[], Awaitable[object]]
    open: Callable[[], Awaitable[UsageStore | None]]
    runners: Callable[[], None]
    besides: list[Beside]
    sessions: Seats | None


class Giving:
    """One hand-over. See the head of this file."""

    def __init__(self, left: Left, line: ProcessLine) -> None:
        self._left = left
        self._line = line
        self._counts = left.core.tally
        self._forward: Forward | None = None
        self._booked: list[SpentRow] = []
        self._said = words.Engines([])
        self._befores: list[tuple[Beside, socket.socket, words.Before]] = []
        self._task: asyncio.Task[None] | None = None
        self._ends_at = float("inf")

    # --- handing over
    async def give(self) -> None:
        """Raises :class:`NotHanded`; all is as it was then."""
        left = self._left
        try:
            await self._give()
        except BaseException as error:
            await self._take_back()
            if isinstance(error, LineGone):
                raise NotHanded("the new process ended before it had taken over") from error
            if isinstance(error, TimeoutError):
                raise NotHanded(f"the new process had not taken over within {TAKE_S:g} s") from error
            if isinstance(error, msgspec.MsgspecError):
                raise NotHanded("the new process said what this version does not know") from error
            raise
        left.listener.close(others=True)
        for one, _, _ in self._befores:
            one.close()  # (it is heard there)
        send_on(left.core)

    async def _give(self) -> None:
        left = self._left
        if left.stored and not await left.keeping.known(WRITE_S):
            raise NotHanded("what the store has cannot be read: nothing is handed over before it can")
        forward = self._forward = Forward(left.core, self._line, self._counts)
        left.core.tally = forward
        await self._say_seats(began_at := monotonic(), 0.0)
        await self._say_rows()
        left.listener.hold()
        if left.control is not None:
            await left.control.hold()
        if left.stored:
            if not await left.keeping.pause(WRITE_S):
                raise NotHanded("what was used cannot be written down: nothing is handed over before it can")
            await left.close()
        await self._say_seats(monotonic(), began_at + left.core.config.session_ttl_s)
        self._say_sockets()
        self._say_rest(forward)
        async with asyncio.timeout(TAKE_S):
            await self.hears(words.Taken)
        if _of_operator(self._engines()) != _of_operator(self._said):
            raise NotHanded("engines were added, removed or drained meanwhile, which the new process does not know")
        self._send(words.Go())
        if self._line.gone:  # (it could begin, and has died since)
            raise LineGone
        left.keeping.go_on(forward)
        forward.go_on(left.keeping.flush)
        self._task = asyncio.get_running_loop().create_task(self._listens(forward), name="upgrade")

    async def hears(self, kind: type[T]) -> T:
        """The next word, which is of this kind. Raises :class:`LineGone`, and :class:`NotHanded` where it is another."""
        word = words.read(await self._line.receive())
        if not isinstance(word, kind):
            raise NotHanded("the new process said something else than it was to")
        return word

    def _send(self, word: Word, socks: list[socket.socket] | None = None) -> None:
        self._line.send(words.write(word), socks or ())

    async def _room(self) -> None:
        await asyncio.sleep(0)
        if self._line.waiting_bytes > WAITING_BYTES:
            async with asyncio.timeout(TAKE_S):
                while self._line.waiting_bytes > WAITING_BYTES and not self._line.gone:  # noqa: ASYNC110 - as in `draining`
                    await asyncio.sleep(0.001)

    def _say_sockets(self) -> None:
        left = self._left
        client, control = left.listener.socks, left.control.socks if left.control is not None else []
        roles = ["unix" if isinstance(sock.getsockname(), str) else "tcp" for sock in client] + ["control"] * len(control)
        self._send(words.Sockets(roles, left.by, listens_by(left.core.config)), [*client, *control])

    async def _say_seats(self, now: float, after: float) -> None:
        """Where sessions and responses are: all, and then those that have come, or were used, since."""
        core = self._left.core
        responses = core.responses.seats if core.responses is not None else None
        for kind, seats in ((places.SESSION, self._left.sessions), (places.RESPONSE, responses)):
            for word in places.said(kind, seats, max(now, after)):
                self._send(word)
                await self._room()

    async def _say_rows(self) -> None:
        """In pieces, as they are now. What changes until all are said is said again."""
        left, core = self._left, self._left.core
        accounts = core.accounts.all()
        for at in range(0, len(accounts), words.ROWS):
            now_us = micros(monotonic())
            rows = [standing.of_account(account, now_us, left.stored) for account in accounts[at : at + words.ROWS]]
            if found := [row for row in rows if row is not None]:
                self._send(words.Scopes(found))
            await self._room()
        meters = left.meters
        names = meters.names() if meters is not None else []
        for at in range(0, len(names), words.ROWS):
            assert meters is not None
            now_us = micros(monotonic())
            pairs = [(name, standing.of_meter(meters.get(name, now_us), now_us)) for name in names[at : at + words.ROWS]]
            self._send(words.Addresses([(name, row) for name, row in pairs if row is not None]))
            await self._room()

    def _say_rest(self, forward: Forward) -> None:
        """In one turn of the loop: what is behind it is told by ``forward``."""
        left, core = self._left, self._left.core
        accounts, now_us = core.accounts, micros(monotonic())
        moved = {**forward.moved, **dict.fromkeys(accounts.touched)}
        moved |= {one.account: None for one in under_way(core) if one.account is not None}
        rows = [standing.of_account(account, now_us, left.stored, last=True) for account in moved]
        rows += [standing.of_scope(*one, now_us, left.stored) for one in standing.beside(accounts)]
        found = [row for row in rows if row is not None]
        for at in range(0, len(found), words.ROWS):
            self._send(words.Scopes(found[at : at + words.ROWS]))
        self._booked = left.keeping.waiting()
        for at in range(0, len(self._booked), words.ROWS):
            self._send(words.Booked(self._booked[at : at + words.ROWS]))
        self._said = self._engines()
        self._send(self._said)
        self._befores = [(one, *one.leave()) for one in left.besides if one.there]
        if self._befores:
            rows_of = [before for _, _, before in self._befores]
            self._send(words.Befores(rows_of), [sock for _, sock, _ in self._befores])
        holds = forward.hold_all()
        for at in range(0, len(holds), words.ROWS):
            self._send(words.Held(holds[at : at + words.ROWS]))
        self._send(words.Over(accounts.required))
        left.keeping.told_elsewhere()
        forward.begin()

    def _engines(self) -> words.Engines:
        rows: list[BreakerRow] = []
        added: list[dict[str, object]] = []
        for one in self._left.fleet.listed():
            engine, breaker = one.pool.engine, one.pool.engine.breaker
            if one.leaving or one.origin == "runner":
                continue
            if breaker.state != CLOSED or engine.draining:
                rows.append(
                    BreakerRow(
                        engine=engine.name,
                        url=one.config.url,
                        open=breaker.state != CLOSED,
                        failures=breaker.failures,
                        until=breaker.until,
                        dials=breaker.dials,
                        whose=breaker.whose,
                        draining=engine.draining,
                    )
                )
            if one.origin == "admin":
                added.append(msgspec.to_builtins(one.config))
        return words.Engines(rows, added)

    async def _take_back(self) -> None:
        """The other one is not there: all is as it was."""
        left, forward = self._left, self._forward
        self._line.close()
        left.core.tally = self._counts
        if forward is not None:
            forward.stop()
            forward.noted("")
        for one, _, before in self._befores:
            one.go_on(before)
        for row in self._booked:
            standing.book(left.core.accounts, row)
        left.listener.go_on()
        await left.gone()  # (or it may have the folder still)
        left.keeping.take_back(await left.open())
        if left.control is not None:
            await left.control.hold()  # (it may not have come that far)
            await left.control.go_on()

    # --- when it is handed over
    async def over(self, seconds: float) -> None:
        """Returns when nothing is under way here, or so much later; before that where the other process is to end too."""
        left, core = self._left, self._left.core
        self._ends_at = min(self._ends_at, monotonic() + seconds)
        left.runners()
        if left.control is not None:
            await left.control.stop()
        await until(lambda: not (core.connections or core.unread) or monotonic() >= self._ends_at, float("inf"))

    async def _listens(self, forward: Forward) -> None:
        try:
            while True:
                word = words.read(await self._line.receive())
                if isinstance(word, words.Noted):
                    forward.noted(word.batch)
                elif isinstance(word, words.Hurry):
                    self._ends_at = min(self._ends_at, monotonic() + word.seconds)
        except (LineGone, msgspec.MsgspecError):
            forward.noted("")  # (what was not answered stays)

    @property
    def alone(self) -> bool:
        """The other process has gone."""
        return self._line.gone

    async def end(self, wait_s: float) -> list[SpentRow]:
        """Say the last of it, waiting no longer; what nobody has answered for."""
        await self._left.keeping.last(0.0 if self.alone else wait_s)
        forward = self._forward
        assert forward is not None
        forward.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        rows: list[SpentRow] = self._left.keeping.waiting()
        self._line.close()
        return rows


def _of_operator(word: words.Engines) -> tuple[list[dict[str, object]], list[str]]:
    """What of it is so because somebody has said so, and not by what engines do."""
    return word.added, [row.engine for row in word.rows if row.draining]
