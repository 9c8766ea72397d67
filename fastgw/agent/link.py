"""An agent's connection to its gateway: dialled, kept, dialled again, and left in good order.

    dialling <--- pause, longer each time, by chance ---+
        |                                               |
        v                                               |
    registering ---> registered ---- it breaks ---------+
                         |     |                        |
                         |     +---- sent on -----------+
                         |             +---> beside the next one until its gateway closes it, with what is under way there
                         v  SIGTERM, of all of them
                     draining ---> gone: the gateway closes when nothing is under way, or the time is over

Owns: what is said, when; and the commands that are under way. Must never: dial without a pause, or say the token to anybody but
the gateway's address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import random
from time import monotonic
from typing import Final

import aiohttp
import msgspec

from fastgw.agent.asked import Asked, Front, GpuUse
from fastgw.agent.engine import CannotRead, LocalEngine
from fastgw.agent.loading import CannotLoad
from fastgw.agent.looks import Looks
from fastgw.agent.tunnel import NoTunnel, TunnelSocket, dialled
from fastgw.errors import described
from fastgw.protocol import runner_words as words
from fastgw.protocol.runner_words import Command
from fastgw.stats import EventLog

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
REFUSED_PAUSE_S: Final = 10.0
"""After a refusal that another try at once would meet again, and that does not say when none would: a wrong token."""
PASSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Answers to a handshake that say nothing against us: the gateway starts, or whoever stands before it does not reach it yet."""
ANSWER_S: Final = 10.0
"""For the gateway to take us, and to take what is said."""
MOST_COMMANDS: Final = 8
UNHEARD_PINGS: Final = 3
"""Without an answer: the gateway is gone, or the network that led there."""
STEADY_S: Final = 30.0
"""A gateway that sends us on sooner than this, time and again, is dialled after longer and longer pauses, as one that fails."""
MOST_BEFORE: Final = 4
"""Connections that go on to their end beside the one that lives: of gateways that have sent us on."""
_MEANS: Final = {
    404: ": it takes no runners there. Set RUNNER_AUTH_TOKEN at the gateway, and name its own port (--gateway)",
    403: ": something in front of the gateway does not let this through",
    503: ": it starts, stops, or has as many connections from here as it takes",
}
"""Of an answer that is no handshake: what it comes from, and what to do."""

Socket = aiohttp.ClientWebSocketResponse | TunnelSocket


class Broken(Exception):
    """The connection has ended; the text says how. ``pause_s``: no other try before that."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Connection:
    """One, from its dial to its end. ``since``: when the gateway has taken us, -1 = it has not. ``sent_on``: it has told us to
    dial again."""

    __slots__ = ("sent_on", "since")

    def __init__(self) -> None:
        self.since = -1.0
        self.sent_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def registered(self) -> bool:
        return self.since >= 0

    def steady(self) -> bool:
        return self.registered and monotonic() - self.since >= STEADY_S


class Link:
    """See the head of this file. ``engine`` is looked at again and again; ``dice`` gives a number below 1."""

    def __init__(
        self, http: aiohttp.ClientSession, engine: LocalEngine, asked: Asked, log: EventLog, dice: Callable[[], float] = random,
        front: Front | None = None, gpus: Callable[[], GpuUse | None] = lambda: None,
    ) -> None:
        """``front``: who serves requests that come over the same connection; None = the gateway asks the engine itself.
        ``gpus`` says without waiting what the GPUs do, None = nobody knows."""
        self._front = front
        self._http = http
        self._engine = engine
        self._asked = asked
        self._log = log
        self._dice = dice
        self._looks = Looks(engine, asked, log, front, gpus)
        self._leaving = asyncio.Event()
        self._stirred = asyncio.Event()  # we are to leave, or a gateway that has sent us on has ended
        self._all: set[asyncio.Task[None]] = set()
        self._before: set[asyncio.Task[None]] = set()  # of those, the connections of gateways that have sent us on
        self._commands: set[asyncio.Task[None]] = set()

    def leave(self) -> None:
        """Drain, then end."""
        self._looks.leaving = True
        self._leaving.set()
        self._stirred.set()
        self._looks.stir()

    async def run(self) -> None:
        """Until :meth:`leave`, and what follows it, is over."""
        await self._looks.begin()
        looks = asyncio.create_task(self._looks.run(), name="looks at the engine")
        try:
            await self._keep()
            if self._before:
                await asyncio.wait(self._before)
        finally:
            tasks = [looks, *self._all, *self._commands]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        """One connection that lives, until we leave."""
        tries = sent_on = 0
        while not self._leaving.is_set():
            one = Connection()
            task = asyncio.create_task(self._connection(one), name="a connection")
            self._all.add(task)
            task.add_done_callback(self._all.discard)
            await asyncio.wait({task, one.sent_on}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                broken = _broken(task)
                if broken is None:
                    return
                # (A gateway that has taken us reached us well; who comes too often is told so there, by 1013.)
                tries, least_s = 0 if one.registered else tries + 1, broken.pause_s
                pause_s = self._pause_s(tries, least_s)
                self._log.warning("not connected to the gateway", reason=str(broken), again_s=round(pause_s, 1))
            else:
                sent_on = 0 if one.steady() else sent_on + 1
                tries, least_s = max(0, sent_on - 1), 0.0
                pause_s = self._pause_s(tries, least_s)
                await self._set_aside(task)
            if await self._pause(pause_s):
                tries = 0  # (where a gateway has ended, beside which we dialled in vain, there may be another)
                await self._pause(self._pause_s(tries, least_s))

    def _pause_s(self, tries: int, least_s: float) -> float:
        most = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries, 10))
        spread: float = most * (0.5 + self._dice() / 2)
        return max(least_s, spread)

    async def _pause(self, pause_s: float) -> bool:
        """Returns True where we are to leave, or a gateway that had sent us on has ended: before that time."""
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self._leaving.is_set() else pause_s):
                return await self._stirred.wait()
        return False

    async def _set_aside(self, task: asyncio.Task[None]) -> None:
        """It goes on to its end, beside the next one: that waits where there are too many of them."""
        self._log.info("sent on by the gateway", gateway=self._asked.gateway)
        self._before.add(task)
        task.add_done_callback(self._ended)
        while len(self._before) > MOST_BEFORE and not self._leaving.is_set():
            await self._pause(MAX_PAUSE_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._before.discard(task)
        self._stirred.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Broken):
            self._log.info("the gateway that had sent us on has ended", reason=str(error))
        elif error is not None:
            self._log.error("a connection failed", error=described(error))

    # --- one connection
    async def _connection(self, one: Connection) -> None:
        """Returns when we have left; raises :class:`Broken`."""
        asked = self._asked
        try:
            token = asked.token()
        except CannotRead as error:
            raise Broken(str(error)) from None
        try:
            async with asyncio.timeout(ANSWER_S):
                ws: Socket
                if self._front is not None:
                    ws = await dialled(self._front.reactor, asked.gateway)
                else:
                    ws = await self._http.ws_connect(
                        asked.gateway, autoping=False, compress=0, max_msg_size=words.MAX_FRAME_BYTES, autoclose=True,
                        timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                    )  # fmt: skip
        except TimeoutError:
            raise Broken(f"no answer in {ANSWER_S:g} s") from None
        except (aiohttp.ClientError, NoTunnel, OSError) as error:
            refused = getattr(error, "status", 0) not in (0, *PASSES)
            raise Broken(_why(error), REFUSED_PAUSE_S if refused else 0.0) from None
        try:
            await self._speak(one, ws, token)
        finally:
            with suppress(Exception):
                await ws.close()

    async def _speak(self, one: Connection, ws: Socket, token: str) -> None:
        asked = self._asked
        await self._say(
            ws,
            words.Register(
                runner_id=asked.runner_id,
                runner_name=asked.runner_name,
                machine_type=asked.machine_type or None,
                http_port=asked.http_port,
                protocol_version=words.VERSION,
                auth_token=token,
                status=self._looks.status(),
                url=asked.url or None,
                go_away=True,
            ),
        )
        tells: list[asyncio.Task[None]] = []
        left_at = 0.0
        try:
            while True:
                if self._leaving.is_set() and not left_at:
                    left_at = monotonic()
                    await self._say(ws, self._looks.update())
                    self._log.info("draining", seconds=asked.drain_s)
                limit_s = UNHEARD_PINGS * asked.ping_s if one.registered else ANSWER_S
                if left_at:
                    limit_s = max(0.0, asked.drain_s - (monotonic() - left_at))
                message = await self._receive(one, ws, limit_s)
                if message is None:
                    if left_at and monotonic() - left_at >= asked.drain_s:
                        return
                    continue  # (we are to leave, or it lives)
                if isinstance(message, words.RegisterAck):
                    if not one.registered:
                        self._open(ws)
                        one.since = monotonic()
                    self._log.info("registered", gateway=asked.gateway, runner=message.runner_id)
                    tells = tells or [
                        asyncio.create_task(self._tell(ws), name="tells how the engine is"),
                        asyncio.create_task(self._ping(ws), name="pings the gateway"),
                    ]
                elif isinstance(message, words.Ping):
                    await self._say(ws, self._looks.heartbeat())
                elif isinstance(message, words.GoAway):
                    if not one.sent_on.done():
                        one.sent_on.set_result(None)
                elif isinstance(message, words.Error):
                    refused = message.code == words.AUTH_FAILED or not one.registered
                    pause_s = REFUSED_PAUSE_S if message.retry_after_s is None else min(message.retry_after_s, MAX_PAUSE_S)
                    raise Broken(f"{message.code}: {message.message}", pause_s if refused else 0.0)
                else:
                    self._command(ws, message)
        except Broken:
            if left_at:
                return  # the gateway has let us go
            raise
        finally:
            for told in tells:
                told.cancel()
            await asyncio.gather(*tells, return_exceptions=True)

    def _open(self, ws: Socket) -> None:
        """The gateway has taken us: of a tunnel, its requests are served from here on."""
        if self._front is not None and isinstance(ws, TunnelSocket) and ws.end.wire is not None:
            self._front.serve(ws.end.wire)

    async def _receive(self, one: Connection, ws: Socket, limit_s: float) -> words.FromGateway | None:
        """The next message; None when it is but a sign of life, when we are to leave, or ``limit_s`` is over while we do.
        Raises :class:`Broken`."""
        reads = asyncio.ensure_future(ws.receive())
        leaves = None if self._leaving.is_set() else asyncio.ensure_future(self._leaving.wait())
        waits = {reads} if leaves is None else {reads, leaves}
        try:
            done, _ = await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if leaves is not None:
                leaves.cancel()
            if not reads.done():
                reads.cancel()
                await asyncio.gather(reads, return_exceptions=True)
        if reads not in done:
            if self._leaving.is_set():
                return None
            what = "nothing was heard" if one.registered else "no answer to `register`"
            raise Broken(f"{what} in {limit_s:g} s")
        message = reads.result()
        if message.type is aiohttp.WSMsgType.PING and isinstance(ws, aiohttp.ClientWebSocketResponse):
            with suppress(ConnectionError):
                await ws.pong(message.data)
        if message.type in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG):
            return None
        if message.type is not aiohttp.WSMsgType.TEXT:
            why = "".join([char for char in str(message.extra or "") if char.isprintable()])
            said = f"the gateway has closed ({ws.close_code})" + (f": {why}" if why else "")
            raise Broken(said, REFUSED_PAUSE_S if ws.close_code == 1013 else 0.0)
        try:
            return words.from_gateway(message.data)
        except words.Unreadable as error:
            raise Broken(f"what the gateway says cannot be read: {error}") from None

    async def _say(self, ws: Socket, message: msgspec.Struct | None) -> None:
        """None: have it answer."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await (ws.ping() if message is None else ws.send_str(words.written(message).decode()))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Broken(_why(error)) from None

    async def _tell(self, ws: Socket) -> None:
        """What has changed at once, and that we live every ``heartbeat_s``."""
        looks = self._looks
        said, serial = looks.status(), looks.serial
        with suppress(Broken):  # (who reads meets it too)
            while True:
                await looks.another(serial, self._asked.heartbeat_s)
                now, serial = looks.status(), looks.serial
                same = (now.health, now.engines) == (said.health, said.engines)
                await self._say(ws, looks.heartbeat() if same else looks.update())
                said = now

    async def _ping(self, ws: Socket) -> None:
        """The gateway need not say anything by itself, and what a network swallows the kernel tries again for a quarter of an
        hour: so it is asked."""
        with suppress(Broken):  # (as there)
            while True:
                await asyncio.sleep(self._asked.ping_s)
                await self._say(ws, None)

    # --- commands
    def _command(self, ws: Socket, command: Command) -> None:
        task = asyncio.create_task(self._obey(ws, command, len(self._commands) >= MOST_COMMANDS), name="a command")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _obey(self, ws: Socket, command: Command, full: bool) -> None:
        error = "There are as many commands under way as there may be." if full else ""
        if not full:
            try:
                if isinstance(command, words.LoadModel):
                    await self._engine.load(command.model_id)
                elif isinstance(command, words.UnloadModel):
                    await self._engine.unload(command.model_id)
                await self._engine.look()
            except CannotLoad as refusal:
                error = str(refusal)
            except Exception as fault:
                error = described(fault)
                self._log.error("a command failed", error=error)
        what = type(command).__name__
        self._log.info("command", what=what, model=getattr(command, "model_id", ""), error=error)
        answer = words.CommandResponse(
            request_id=command.request_id, success=not error, error=error[:500] or None, status=self._looks.status()
        )
        with suppress(Broken):
            await self._say(ws, answer)


def _broken(task: asyncio.Task[None]) -> Broken | None:
    """How that connection broke; None = it was let go. Raises what is nobody's but ours."""
    error = task.exception()
    if error is None or isinstance(error, Broken):
        return error
    raise error


def _why(error: Exception) -> str:
    """For whoever has to mend it. (Nothing of ours but the gateway's address is in such a message.)"""
    status = getattr(error, "status", 0)
    if status and status != 101:
        return f"answered {status}{_MEANS.get(status, '')}"
    # (101: it was taken, but not as what it is.)
    return str(getattr(error, "message", "") or error) or described(error)
