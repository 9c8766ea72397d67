"""An agent's connection to its gateway: dialled, kept, dialled again, and left in good order.

    dialling <--- pause, longer each time, by chance ---+
        |                                               |
        v                                               |
    registering ---> registered ---- it breaks ---------+
                         |
                         v  SIGTERM
                     draining ---> gone: the gateway closes when nothing is under way, or the time is over

Owns: what is said, when; and the commands that are under way. Must never: dial without a pause, or say the token to anybody but
the gateway's address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import random
from time import monotonic
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from fastgw.agent.engine import CannotRead, LocalEngine
from fastgw.agent.loading import CannotLoad
from fastgw.agent.tunnel import NoTunnel, TunnelSocket, dialled
from fastgw.errors import described
from fastgw.net.poller import Reactor
from fastgw.net.wire import Wire
from fastgw.protocol import runner_words as words
from fastgw.protocol.runner_words import Command, EngineStatus, Health, RunnerMetrics, RunnerStatus
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
AGAIN_S: Final = 0.5
"""From a look that the engine has not answered to the next: nobody asks it while it is not known to be back."""
DOUBT_S: Final = 0.1
"""Between two looks, however often requests find that it does not answer."""
_MEANS: Final = {
    404: ": it takes no runners there. Set RUNNER_AUTH_TOKEN at the gateway, and name its own port (--gateway)",
    403: ": something in front of the gateway does not let this through",
    503: ": it starts, stops, or has as many connections from here as it takes",
}
"""Of an answer that is no handshake: what it comes from, and what to do."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says. ``token`` is read at each dial: it raises CannotRead where that fails. ``ping_s``: so often
    the gateway is asked whether it lives. ``url``: where the engine is asked, "" = at our own address and ``http_port``."""

    gateway: str
    runner_id: str
    runner_name: str = ""
    machine_type: str = ""
    http_port: int
    url: str = ""
    token: Callable[[], str]
    aliases: dict[str, str] = {}
    heartbeat_s: float = 30.0
    ping_s: float = 10.0
    look_s: float = 2.0
    drain_s: float = 30.0

    def __repr__(self) -> str:
        return f"<Asked {self.runner_id} of {self.gateway}>"  # (not with its token)


class GpuUse(Protocol):
    """All GPUs of this machine together."""

    @property
    def used_bytes(self) -> float | None: ...
    @property
    def total_bytes(self) -> float | None: ...
    @property
    def utilization_percent(self) -> float | None: ...
    @property
    def joules(self) -> Mapping[str, float]: ...


class Front(Protocol):
    """Who serves the requests of a tunnel."""

    @property
    def reactor(self) -> Reactor: ...

    def serve(self, wire: Wire) -> None:
        """Serve what comes over ``wire``, until it ends."""
        ...

    def doubts(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each request that the engine has not answered, or not to the end."""
        ...

    def follow(self, api_key: str) -> None:
        """From now on ask the engine with this key, "" = without one."""
        ...

    async def stop(self) -> None:
        """End all that is left."""
        ...


Socket = aiohttp.ClientWebSocketResponse | TunnelSocket


class Broken(Exception):
    """The connection has ended; the text says how. ``pause_s``: no other try before that."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Link:
    """See the head of this file. ``engine`` is looked at again and again; ``dice`` gives a number below 1."""

    def __init__(
        self, http: aiohttp.ClientSession, engine: LocalEngine, asked: Asked, log: EventLog, dice: Callable[[], float] = random,
        front: Front | None = None, gpus: Callable[[], GpuUse | None] = lambda: None,
    ) -> None:
        """``front``: who serves requests that come over the same connection; None = the gateway asks the engine itself.
        ``gpus`` says without waiting what the GPUs do, None = nobody knows."""
        self._front = front
        self._gpus = gpus
        self._http = http
        self._engine = engine
        self._asked = asked
        self._log = log
        self._dice = dice
        self._leaving = asyncio.Event()
        self._looked = asyncio.Event()  # the engine has been looked at, and is another than it was
        self._doubted = asyncio.Event()  # requests have found that it does not answer
        if front is not None:
            front.doubts(self._doubted.set)
        self._answered = False  # it has been well once
        self._left_out: tuple[str, ...] = ()  # names that nobody can ask for, as was said last
        self._commands: set[asyncio.Task[None]] = set()
        self.registered = False

    def leave(self) -> None:
        """Drain, then end."""
        self._leaving.set()
        self._looked.set()

    async def run(self) -> None:
        """Until :meth:`leave`, and what follows it, is over."""
        await self._engine.look()
        self._warn()
        looks = asyncio.create_task(self._look(), name="looks at the engine")
        try:
            await self._keep()
        finally:
            looks.cancel()
            for command in list(self._commands):
                command.cancel()
            await asyncio.gather(looks, *self._commands, return_exceptions=True)

    async def _keep(self) -> None:
        tries = 0
        while not self._leaving.is_set():
            try:
                await self._connection()
                return
            except Broken as error:
                # (A gateway that has taken us reached us well; who comes too often is told so there, by 1013.)
                tries = 0 if self.registered else tries + 1
                most = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries, 10))
                pause_s = max(error.pause_s, most * (0.5 + self._dice() / 2))
                self._log.warning("not connected to the gateway", reason=str(error), again_s=round(pause_s, 1))
            self.registered = False
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._leaving.wait()

    # --- one connection
    async def _connection(self) -> None:
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
            await self._speak(ws, token)
        finally:
            with suppress(Exception):
                await ws.close()

    async def _speak(self, ws: Socket, token: str) -> None:
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
                status=self._status(),
                url=asked.url or None,
            ),
        )
        tells: list[asyncio.Task[None]] = []
        left_at = 0.0
        try:
            while True:
                if self._leaving.is_set() and not left_at:
                    left_at = monotonic()
                    await self._say(ws, self._update())
                    self._log.info("draining", seconds=asked.drain_s)
                limit_s = UNHEARD_PINGS * asked.ping_s if self.registered else ANSWER_S
                if left_at:
                    limit_s = max(0.0, asked.drain_s - (monotonic() - left_at))
                message = await self._receive(ws, limit_s)
                if message is None:
                    if left_at and monotonic() - left_at >= asked.drain_s:
                        return
                    continue  # (we are to leave, or it lives)
                if isinstance(message, words.RegisterAck):
                    if not self.registered:
                        self._open(ws)
                    self.registered = True
                    self._log.info("registered", gateway=asked.gateway, runner=message.runner_id)
                    tells = tells or [
                        asyncio.create_task(self._tell(ws), name="tells how the engine is"),
                        asyncio.create_task(self._ping(ws), name="pings the gateway"),
                    ]
                elif isinstance(message, words.Ping):
                    await self._say(ws, self._heartbeat())
                elif isinstance(message, words.Error):
                    refused = message.code == words.AUTH_FAILED or not self.registered
                    pause_s = REFUSED_PAUSE_S if message.retry_after_s is None else min(message.retry_after_s, MAX_PAUSE_S)
                    raise Broken(f"{message.code}: {message.message}", pause_s if refused else 0.0)
                else:
                    self._command(ws, message)
        except Broken:
            if left_at:
                return  # the gateway has let us go
            raise
        finally:
            for one in tells:
                one.cancel()
            await asyncio.gather(*tells, return_exceptions=True)

    def _open(self, ws: Socket) -> None:
        """The gateway has taken us: of a tunnel, its requests are served from here on."""
        if self._front is not None and isinstance(ws, TunnelSocket) and ws.end.wire is not None:
            self._front.serve(ws.end.wire)

    async def _receive(self, ws: Socket, limit_s: float) -> words.FromGateway | None:
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
            what = "nothing was heard" if self.registered else "no answer to `register`"
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

    # --- how the engine is
    async def _look(self) -> None:
        """Look at it every ``look_s``, sooner where it does not answer, and have it told when it is another. (A death that is
        never told of is one that the gateway's circuit breaker does not know to be over.)"""
        said, key = self._status(), self._engine.key
        answers = True
        while True:
            pause_s = self._asked.look_s if answers else min(self._asked.look_s, AGAIN_S)
            await asyncio.sleep(min(DOUBT_S, pause_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s - DOUBT_S):
                    await self._doubted.wait()
            doubted = self._doubted.is_set()
            self._doubted.clear()
            answers = await self._engine.look(doubted)
            if self._front is not None and self._engine.key != key:
                key = self._engine.key
                self._front.follow(key)
            self._warn()
            now = self._status()
            if now != said:
                said = now
                self._looked.set()

    def _warn(self) -> None:
        """Say once which of its models cannot be asked for."""
        left_out = self._engine.left_out
        if left_out != self._left_out:
            self._left_out = left_out
            if left_out:
                reason = "a name of a model is printable, and has 200 bytes at the most: give it another one at the engine"
                self._log.warning("models left out", models=[name[:80] for name in left_out[:10]], reason=reason)

    async def _tell(self, ws: Socket) -> None:
        """What has changed at once, and that we live every ``heartbeat_s``."""
        said = self._status()
        with suppress(Broken):  # (who reads meets it too)
            while True:
                self._looked.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._asked.heartbeat_s):
                        await self._looked.wait()
                now = self._status()
                same = (now.health, now.engines) == (said.health, said.engines)
                await self._say(ws, self._heartbeat() if same else self._update())
                said = now

    async def _ping(self, ws: Socket) -> None:
        """The gateway need not say anything by itself, and what a network swallows the kernel tries again for a quarter of an
        hour: so it is asked."""
        with suppress(Broken):  # (as there)
            while True:
                await asyncio.sleep(self._asked.ping_s)
                await self._say(ws, None)

    def _status(self) -> RunnerStatus:
        engine, gauges = self._engine.status, self._engine.gauges
        self._answered = self._answered or engine.is_healthy
        health: Health = "healthy" if engine.is_healthy else "unhealthy" if self._answered else "starting"
        if self._leaving.is_set():
            health = "shutting_down"
        use = self._gpus()
        metrics = RunnerMetrics() if gauges is not None or use is not None else None
        if metrics is not None and gauges is not None:
            metrics.requests_running, metrics.requests_waiting = gauges.running, gauges.waiting
            if gauges.kv_usage >= 0:
                metrics.kv_cache_usage = gauges.kv_usage
        if metrics is not None and use is not None:
            metrics.gpu_memory_used, metrics.gpu_memory_total = use.used_bytes, use.total_bytes
            metrics.gpu_utilization_percent = use.utilization_percent
            metrics.gpu_joules = dict(use.joules)
        have: list[EngineStatus] = [engine] if engine.is_healthy or engine.error else []
        return RunnerStatus(health=health, engines=have, metrics=metrics, model_aliases=self._aliases(engine))

    def _aliases(self, engine: EngineStatus) -> dict[str, str]:
        """Those that were asked for, then the engine's own; as many as a status may have names."""
        names = {*engine.loaded_models, *engine.available_models}
        found: dict[str, str] = {}
        for alias, name in [*self._asked.aliases.items(), *self._engine.aliases.items()]:
            names |= {alias, name}
            if len(names) > words.MAX_NAMES:
                break
            found.setdefault(alias, name)
        return found

    def _heartbeat(self) -> words.Heartbeat:
        return words.Heartbeat(**_members(self._status()))

    def _update(self) -> words.StatusUpdate:
        return words.StatusUpdate(**_members(self._status()))

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
            request_id=command.request_id, success=not error, error=error[:500] or None, status=self._status()
        )
        with suppress(Broken):
            await self._say(ws, answer)


def _members(status: RunnerStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in RunnerStatus.__struct_fields__}


def _why(error: Exception) -> str:
    """For whoever has to mend it. (Nothing of ours but the gateway's address is in such a message.)"""
    status = getattr(error, "status", 0)
    if status and status != 101:
        return f"answered {status}{_MEANS.get(status, '')}"
    # (101: it was taken, but not as what it is.)
    return str(getattr(error, "message", "") or error) or described(error)
