"""Active health: one task asks each engine in turn, names are looked up again, models are learned (``lists``).

An engine is well when one of its probe paths answers 2xx; a path that answers 4xx is not there, and the next one is
asked; one that answers 5xx is a verdict. Traffic has a say too: a dial that fails counts like a failed probe, so an engine that
died is left out before the next round, and its name is looked up at once; and one that does what requests ask of it is well,
however slow its probe path is. Only a probe (or the lack of any other engine) brings one back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from fastgw.config import Config
from fastgw.errors import described
from fastgw.limits.breaker import ALL, CLOSED, OPEN
from fastgw.net.clock import monotonic
from fastgw.net.fetch import FetchError, TooSlow
from fastgw.net.shortage import LACKING, Shortage
from fastgw.net.timers import NEVER
from fastgw.stats import EventLog
from fastgw.upstream.asked import get
from fastgw.upstream.chronicle import Chronicle
from fastgw.upstream.lists import ACCEPT, Learned, Lists, Spawn
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MAX_PROBE_BYTES: Final = 1 << 20
RESOLVE_EVERY_S: Final = 30.0
LOOK_UP_S: Final = 1.0  # between two times that one is looked up because nobody can be reached there
SERVED_ROUNDS: Final = 2  # of probes in which what traffic has seen outweighs that there was no answer
PROTOCOL_EVERY_S: Final = 60.0
AT_ONCE: Final = 8
FIRST_AT_ONCE: Final = 64
FLAPS_S: Final = 30.0  # in which a breaker that is open to one caller, or for one model, is told of once
MOST_REASONS: Final = 16
"""Of one engine, that the log has for which it is not set up for what it is asked."""


async def _get(pool: Pool, path: bytes, timeout_s: float) -> tuple[int, bytes]:
    engine = pool.engine
    agreed = pool.speaks if engine.secure_h2 is not None else None
    return await get(engine, path, ACCEPT, timeout_s, MAX_PROBE_BYTES, agreed)


class _Known:
    """What probes have found out about one engine."""

    __slots__ = (
        "gaps_s", "good_path", "greeted", "h2", "heard", "learned", "looked_at", "looks", "opened_at", "protocol_at",
        "resolved_at", "served_at", "silent_at", "slow", "told", "told_open",
    )  # fmt: skip

    def __init__(self) -> None:
        self.learned = Learned()  # from its list of models, and beside
        self.told: set[tuple[str, str]] = set()  # what it is not set up for, as the log has it: the model, and why
        self.good_path = b""
        self.h2 = False  # it spoke HTTP/2 when that was looked at last; `protocol_at`: when it is asked again
        self.greeted = False  # it ever spoke it
        self.heard = False  # the last probe was answered, whatever it was
        self.slow = False  # it was not, in time
        self.told_open = False  # that its breaker is, and then also that it no longer is
        self.opened_at = -1e9  # when that was told last
        self.silent_at = -1e9  # when it was asked last and it was not
        self.looks = False  # its name is looked up, because nobody can be reached there
        self.gaps_s = 0.0  # what was counted of the time between pieces of its text, at the last probe
        self.served_at = -1e9  # when that last was more than before
        self.looked_at = self.resolved_at = self.protocol_at = -1e9  # long ago


class Health:
    """Probes of all engines of one gateway. ``pools`` is asked anew each time: engines come and go."""

    __slots__ = (
        "_config", "_events", "_first", "_known", "_log", "_pools", "_round", "_shortage", "_spawn", "_verdict_changed",
        "lists",
    )  # fmt: skip

    def __init__(
        self,
        pools: Callable[[], Sequence[Pool]],
        config: Config,
        log: EventLog,
        models_changed: Callable[[], None],
        verdict_changed: Callable[[], None],
        shortage: Shortage | None = None,
        events: Chronicle | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        """``spawn`` runs what is done beside the rounds; None = nothing is."""
        self._events = Chronicle() if events is None else events
        self._first = asyncio.Semaphore(FIRST_AT_ONCE)
        self._pools = pools
        self._config = config
        self._log = log
        self._shortage = shortage or Shortage(log)
        self._verdict_changed = verdict_changed
        self._spawn = spawn
        self.lists = Lists(
            pools, config, log, self._shortage, models_changed, lambda engine: self._of(engine).learned, spawn
        )
        self._known: dict[Engine, _Known] = {}
        self._round: asyncio.Future[None] | None = None

    def follow(self, config: Config) -> None:
        """From the next probe on go by ``config``. (How often :meth:`run` does, it is told when it is begun.)"""
        self._config = config
        self.lists.follow(config)

    def counts(self) -> tuple[int, int]:
        """(engines that are well and take requests, all engines). Where the breaker spares one, it takes none, unless that is
        on the word of one caller, and the next one is heard."""
        pools = self._pools()
        now = monotonic()
        well = [pool for pool in pools if pool.engine.healthy is True and not pool.engine.draining]
        breakers = [pool.engine.breaker for pool in well]
        return sum(one.state != OPEN or one.whose[0] != "" or now >= one.until for one in breakers), len(pools)

    def forget(self, engine: Engine) -> None:
        """It is gone. (A probe of it that is under way ends as it likes.)"""
        self._known.pop(engine, None)

    def _of(self, engine: Engine) -> _Known:
        known = self._known.get(engine)
        if known is None:
            known = _Known()
            if any(pool.engine is engine for pool in self._pools()):
                self._known[engine] = known
        return known

    async def run(self) -> None:
        """Probe for ever, every ``health_interval_s``."""
        while True:
            await self.round()
            await asyncio.sleep(self._config.health_interval_s)

    async def round(self) -> None:
        """Probe every engine once; callers at the same time share one round."""
        if self._round is not None:
            await asyncio.shield(self._round)
            return
        self._round = asyncio.get_running_loop().create_future()
        try:
            waiting = iter(list(self._pools()))

            async def some() -> None:
                for pool in waiting:
                    try:
                        await self.probe(pool)
                    except Exception as error:
                        # A bug met by one engine must not end the probes of all.
                        self._log.error("probe failed inside fastgw", engine=pool.engine.name, error=described(error))

            # Eight at a time: a thousand engines must not mean a thousand sockets at once, nor tasks, which take the loop
            # milliseconds to make.
            await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        finally:
            self._round.set_result(None)
            self._round = None

    async def freshen(self, max_age_s: float) -> None:
        """Probe again unless all verdicts are younger than ``max_age_s``."""
        oldest = min((pool.engine.probed_at for pool in self._pools()), default=monotonic())
        if monotonic() - oldest > max_age_s:
            await self.round()

    async def first_probe(self, pool: Pool) -> None:
        """Of one that has just come. (A thousand may come together.)"""
        async with self._first:
            await self.probe(pool)

    async def probe(self, pool: Pool) -> None:
        """One engine: look its name up if needed, ask its health, learn its models now and then. Where this process is too
        short of descriptors or memory to ask, there is no verdict."""
        engine = pool.engine
        if engine.tunnelled:
            engine.probed_at = monotonic()
            if pool.connections and not engine.away:  # (its runner says how it is; what requests have found otherwise is over)
                self._judge(pool, True, "")
            self._told(engine, self._of(engine))
            return
        known = self._of(engine)
        opened = engine.breaker.opened_total
        verdict: bool | None = None if await self._resolve(engine, known) else False
        detail = "name not resolved"
        if engine.addresses:
            verdict, detail = await self._ask(pool, known)
            if verdict is False and not known.heard and (await self._moved(engine, known) or await self._turned(pool, known)):
                verdict, detail = await self._ask(pool, known)
            if verdict is False and known.slow and self._serves(engine, known):
                verdict = True
        if verdict is not None:
            self._judge(pool, verdict, detail)
        breaker = engine.breaker
        state = breaker.state
        told_little = breaker.failures > self._config.cb_failure_threshold and not breaker.dials
        if verdict and known.heard and state != CLOSED and breaker.opened_total == opened and not told_little:
            # What opened it was before this answer, so one request may try. When that has failed too, probes tell nothing of
            # what requests meet there, and the breaker has its time; but for dials, which the probe has just done.
            engine.came_back()
            if breaker.state != state:
                self._verdict_changed()
        self._told(engine, known)
        if verdict and monotonic() - known.learned.at >= self._config.model_refresh_s:
            await self.lists.learn(pool, known.learned)
        if verdict and known.heard and engine.kind.h2c:
            await self._turned(pool, known)
        engine.probed_at = monotonic()
        pool.keep_warm()

    async def _turned(self, pool: Pool, known: _Known) -> bool:
        """Whether an engine without TLS, of which nobody has said what it speaks, is found to speak the other protocol: by a
        greeting in HTTP/2, when it is new and not of a kind that never does, when it has come back, and a while after it has
        stopped to; and where it cannot be understood in the one that it spoke. (To one of HTTP/1 the question is an error in
        its log: it is not asked again and again.)"""
        engine = pool.engine
        if engine.protocol != "auto" or engine.secure is not None:
            return False
        now = monotonic()
        well = known.heard
        if known.h2 and not engine.h2:
            known.h2 = False  # traffic has found so
            known.protocol_at = now + PROTOCOL_EVERY_S
        if well and engine.h2:
            known.h2 = True
            known.protocol_at = NEVER
        known.greeted = known.greeted or engine.h2
        asked_lately = not known.greeted and now - known.silent_at < PROTOCOL_EVERY_S
        if now < known.protocol_at if well else asked_lately:
            return False
        from fastgw.net.h2_greeting import speaks_h2  # (no part of a start)

        # (One that spoke it, and says nothing now, may be busy, or away behind somebody who takes connections for it. When it
        # is not well nobody loses anything by another try.)
        silent = None if engine.h2 and engine.healthy else False
        found = await speaks_h2(engine.addresses, self._config.health_timeout_s, silent)
        if found is None:
            return False
        turned = found != engine.h2
        if well:
            known.protocol_at = NEVER
        elif not turned:
            known.silent_at = now
        known.h2 = found
        known.greeted = known.greeted or found
        pool.speaks(found)
        return turned

    async def _ask(self, pool: Pool, known: _Known) -> tuple[bool | None, str]:
        engine = pool.engine
        paths = (known.good_path,) if known.good_path else engine.probe_paths
        known.heard = known.slow = False
        detail = ""
        deadline = monotonic() + self._config.health_timeout_s
        for path in paths:
            left = deadline - monotonic()
            if left <= 0:
                known.slow = True
                break
            try:
                status, _ = await _get(pool, path, left)
            except FetchError as error:
                detail = str(error)
                if error.lacking:
                    self._shortage.met(error.lacking, "a probe of an engine")
                    return None, detail
                known.slow = isinstance(error, TooSlow)
                break
            known.heard = True
            if 200 <= status < 300:
                known.good_path = path
                return True, ""
            detail = f"{path.decode()} answered {status}"
            if status >= 500 and status != 501:
                # The engine knows this path and says that it is not well: a list of models does not outweigh that.
                break
        known.good_path = b""
        return False, detail or "no answer in time"

    def _judge(self, pool: Pool, well: bool, detail: str) -> None:
        engine = pool.engine
        if well:
            engine.failures = 0
            if engine.disowned:
                return
            if engine.healthy is not True:
                if engine.healthy is False:
                    engine.came_back()
                    known = self._of(engine)
                    known.protocol_at = known.silent_at = -1e9  # it may be another one now
                    known.told.clear()
                    known.learned.anew(engine)
                self._log.info("engine is well", engine=engine.name)
                self._events.add("engine_well", engine.name)
                engine.healthy = True
                self._verdict_changed()
            return
        engine.failures += 1
        if engine.healthy is False and not engine.probed_at:
            self._log.warning("engine is not well", engine=engine.name, reason=detail)  # one that has just been added
        if engine.healthy is not False and (engine.healthy is None or engine.failures >= self._config.health_unhealthy_after):
            self._fell_ill(engine, detail)

    def _fell_ill(self, engine: Engine, reason: str) -> None:
        engine.healthy = False
        self._log.warning("engine is not well", engine=engine.name, reason=reason)
        self._events.add("engine_not_well", engine.name, reason)
        self._verdict_changed()

    def _serves(self, engine: Engine, known: _Known) -> bool:
        """Whether it has done lately what requests ask of it: that its probe path is slow says nothing then. (While it is well,
        also whether it is at it.)"""
        now = monotonic()
        if engine.gaps.total != known.gaps_s and engine.healthy is not False:
            known.gaps_s = engine.gaps.total
            known.served_at = now
        rounds_s = SERVED_ROUNDS * (self._config.health_interval_s + self._config.health_timeout_s)
        return now - max(engine.served_at, known.served_at) <= rounds_s

    def _told(self, engine: Engine, known: _Known) -> None:
        """Its breaker is, if another than requests has closed it: that is told as well."""
        if known.told_open and engine.breaker.state == CLOSED:
            self.breaker_moved(engine)

    def dial_failed(self, engine: Engine, detail: str) -> None:
        """Traffic could not connect."""
        known = self._of(engine)
        engine.served_at = known.served_at = -1e9
        if self._spawn is not None and not (known.looks or engine.literal or engine.tunnelled):
            known.looks = True
            self._spawn(f"look-up of {engine.name}", self._look_up(engine, known))
        engine.failures += 1
        if engine.healthy is not False and engine.failures >= self._config.health_unhealthy_after:
            self._fell_ill(engine, detail)

    def misconfigured(self, engine: Engine, model: str, why: str) -> None:
        """A request has found that it is not set up for ``model`` ("" = for none). Each reason is told once, until the engine
        comes back or has other settings: its requests would tell it again and again."""
        told = self._of(engine).told
        if (model, why) not in told and len(told) < MOST_REASONS:
            told.add((model, why))
            about = {"model": model} if model else {}
            self._log.warning("engine is not set up for what it is asked", engine=engine.name, reason=why, **about)
        if model in engine.discovered_models:
            self.lists.again(lambda: None)  # (it had listed that: a moment ago it may have been unloaded)

    def breaker_moved(self, engine: Engine) -> None:
        """Traffic has opened its breaker, or closed it again. (One that is open to a caller or for a model alone closes as soon
        as another asks, and one failure opens it again: that is told once in a while, with its end.)"""
        known = self._of(engine)
        if engine.breaker.state == CLOSED:
            if not known.told_open:
                return
            known.told_open = False
            self._log.info("circuit breaker closed", engine=engine.name)
            self._events.add("breaker_closed", engine.name)
            return
        now = monotonic()
        if not known.told_open and engine.breaker.whose != ALL and now - known.opened_at < FLAPS_S:
            return
        known.told_open = True
        known.opened_at = now
        seconds = round(engine.breaker.until - now, 1)
        self._log.warning("circuit breaker open", engine=engine.name, seconds=seconds)
        self._events.add("breaker_open", engine.name, f"for {seconds:g} s")

    async def resolve(self, engine: Engine) -> bool:
        """Look the engine's name up: at first, and every half minute (addresses move under a name). True where this process
        was too short of something to ask."""
        return await self._resolve(engine, self._of(engine))

    async def _moved(self, engine: Engine, known: _Known, waits: bool = False) -> bool:
        """Whether its name, at whose addresses nobody was reached, has others now. (Each failure asks so. Where it was looked
        up a moment ago, who ``waits`` does until it is time.)"""
        early_s = known.looked_at + LOOK_UP_S - monotonic()
        if engine.literal or engine.tunnelled or (early_s > 0.0 and not waits):
            return False
        if early_s > 0.0:
            await asyncio.sleep(early_s)
        before = engine.addresses
        await self._resolve(engine, known, 0.0)
        return engine.addresses != before

    async def _look_up(self, engine: Engine, known: _Known) -> None:
        """Traffic has reached nobody there."""
        try:
            if await self._moved(engine, known, waits=True):
                for pool in self._pools():
                    if pool.engine is engine:
                        await self.probe(pool)
        finally:
            known.looks = False

    async def _resolve(self, engine: Engine, known: _Known, every_s: float = RESOLVE_EVERY_S) -> bool:
        if engine.literal or (engine.addresses and monotonic() - known.resolved_at < every_s):
            return False
        loop = asyncio.get_running_loop()
        known.looked_at = monotonic()
        try:
            async with asyncio.timeout(self._config.health_timeout_s):
                found = await loop.getaddrinfo(engine.host, engine.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno in LACKING:
                self._shortage.met(error.errno or 0, "an engine's name")
                return True
            if not engine.addresses:
                self._log.warning("engine name does not resolve", engine=engine.name, error=str(error) or "timeout")
            return False
        # IPv4 first: engines listen there more often, and a refused first address costs a round trip.
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        known.resolved_at = monotonic()
        engine.addresses = tuple(dict.fromkeys((int(entry[0]), entry[4]) for entry in found))[:8]
        return False

    async def resolve_all(self, limit_s: float) -> None:
        """Look all names up before traffic, but wait no longer than ``limit_s``: the probes go on trying."""
        waiting = [asyncio.ensure_future(self.resolve(pool.engine)) for pool in self._pools() if not pool.engine.literal]
        if not waiting:
            return
        try:
            await asyncio.wait(waiting, timeout=limit_s)
        finally:
            # Nobody else knows of these tasks: left alone they would outlive a gateway that stops now.
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
