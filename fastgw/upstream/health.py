"""Active health: one task asks each engine in turn, names are looked up again, models are learned.

An engine is well when one of its probe paths answers 2xx; a path that answers 4xx is not there, and the next one is
asked; one that answers 5xx is a verdict. Traffic has a say too: a dial that fails counts like a
failed probe, so an engine that died is left out before the next round; only a probe (or the lack of any other engine)
brings it back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import replace

from fastgw.config import Config
from fastgw.errors import described
from fastgw.limits.breaker import ALL, CLOSED, OPEN
from fastgw.net.clock import monotonic
from fastgw.net.fetch import FetchError
from fastgw.net.shortage import LACKING, Shortage
from fastgw.net.timers import NEVER
from fastgw.protocol.openai import parse_models
from fastgw.stats import EventLog
from fastgw.upstream.asked import get, post
from fastgw.upstream.chronicle import Chronicle
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.kinds.registry import ASKED, is_of, is_told, kind_of, known_by
from fastgw.upstream.models import Facts, in_list, trained_for
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MAX_PROBE_BYTES: Final = 1 << 20
RESOLVE_EVERY_S: Final = 30.0
PROTOCOL_EVERY_S: Final = 60.0
AT_ONCE: Final = 8
FIRST_AT_ONCE: Final = 64
FLAPS_S: Final = 30.0  # in which a breaker that is open to one caller, or for one model, is told of once
MOST_SHOWN: Final = 16
MOST_REASONS: Final = 16
"""Of one engine, that the log has for which it is not set up for what it is asked."""
"""Models of one engine that are asked for one by one, each time its list is read."""
_ACCEPT: Final = b"Accept: application/json\r\n"


async def _get(pool: Pool, path: bytes, timeout_s: float) -> tuple[int, bytes]:
    engine = pool.engine
    agreed = pool.speaks if engine.secure_h2 is not None else None
    return await get(engine, path, _ACCEPT, timeout_s, MAX_PROBE_BYTES, agreed)


def _listed(facts: Facts) -> list[tuple[tuple[str, ...], int]]:
    """By which other names the models are known, and how much context they take: what others are told of them."""
    return [(one.aliases, one.context_tokens) for one in facts.values()]


class _Known:
    """What probes have found out about one engine."""

    __slots__ = (
        "asked", "good_path", "greeted", "h2", "heard", "learned", "models_at", "opened_at", "protocol_at", "resolved_at",
        "shown", "silent_at", "told", "told_open",
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked = False  # what it is, of one whose list does not tell
        self.learned = False  # its kind was, by its own answers: nobody has configured it
        self.shown: dict[str, int] = {}  # models that were asked for one by one, and the context of each
        self.told: set[tuple[str, str]] = set()  # what it is not set up for, as the log has it: the model, and why
        self.good_path = b""
        self.h2 = False  # it spoke HTTP/2 when that was looked at last; `protocol_at`: when it is asked again
        self.greeted = False  # it ever spoke it
        self.heard = False  # the last probe was answered, whatever it was
        self.told_open = False  # that its breaker is, and then also that it no longer is
        self.opened_at = -1e9  # when that was told last
        self.silent_at = -1e9  # when it was asked last and it was not
        self.models_at = self.resolved_at = self.protocol_at = -1e9  # long ago


class Health:
    """Probes of all engines of one gateway. ``pools`` is asked anew each time: engines come and go."""

    __slots__ = (
        "_config", "_events", "_first", "_known", "_log", "_models_changed", "_pools", "_round", "_shortage",
        "_verdict_changed",
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
    ) -> None:
        self._events = Chronicle() if events is None else events
        self._first = asyncio.Semaphore(FIRST_AT_ONCE)
        self._pools = pools
        self._config = config
        self._log = log
        self._shortage = shortage or Shortage(log)
        self._models_changed = models_changed
        self._verdict_changed = verdict_changed
        self._known: dict[Engine, _Known] = {}
        self._round: asyncio.Future[None] | None = None

    def follow(self, config: Config) -> None:
        """From the next probe on go by ``config``. (How often :meth:`run` does, it is told when it is begun.)"""
        self._config = config

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
            return
        known = self._of(engine)
        opened = engine.breaker.opened_total
        verdict: bool | None = None if await self._resolve(engine, known) else False
        detail = "name not resolved"
        if engine.addresses:
            verdict, detail = await self._ask(pool, known)
            if verdict is False and not known.heard and await self._turned(pool, known):
                verdict, detail = await self._ask(pool, known)
        if verdict is not None:
            self._judge(pool, verdict, detail)
        if verdict and engine.breaker.opened_total == opened and engine.breaker.failures <= self._config.cb_failure_threshold:
            # What opened it was before this answer, so one request may try. When that has failed too, probes tell nothing of
            # what requests meet there, and the breaker has its time.
            engine.came_back()
        if verdict and monotonic() - known.models_at >= self._config.model_refresh_s:
            await self._learn_models(pool, known)
        if verdict and engine.kind.h2c:
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
        known.heard = False
        detail = ""
        deadline = monotonic() + self._config.health_timeout_s
        for path in paths:
            left = deadline - monotonic()
            if left <= 0:
                break
            try:
                status, _ = await _get(pool, path, left)
            except FetchError as error:
                detail = str(error)
                if error.lacking:
                    self._shortage.met(error.lacking, "a probe of an engine")
                    return None, detail
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
                    known.models_at = known.protocol_at = known.silent_at = -1e9  # it may be another one now
                    known.asked = False
                    known.told.clear()
                    if known.learned:
                        known.learned = False
                        engine.become(kind_of("auto"))
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

    def dial_failed(self, engine: Engine, detail: str) -> None:
        """Traffic could not connect."""
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

    async def _learn_models(self, pool: Pool, known: _Known) -> None:
        engine = pool.engine
        known.models_at = monotonic()
        try:
            status, body = await _get(pool, engine.kind.models_path, self._config.health_timeout_s)
        except FetchError as error:
            if error.lacking:
                self._shortage.met(error.lacking, "a look at an engine's models")
                known.models_at = -1e9  # the next probe asks again
            return
        names: list[str] = []
        facts: Facts = {}
        if status == 200:
            self._is(engine, known, known_by(engine.kind, body))
            names = parse_models(body)
            facts = in_list(body, names)
            if tuple(names) != engine.discovered_models:
                self._has(engine, facts)  # at once: requests may wait for it
        if not (is_told(engine.kind) or known.asked) and (names or status != 200):
            known.asked = True
            await self._find_out(pool, known)
        facts = await self._learn_more(pool, known, facts)
        if status == 200 or facts:
            self._has(engine, facts)

    def _has(self, engine: Engine, facts: Facts) -> None:
        """These are its models."""
        models = tuple(facts)
        before, engine.facts = engine.facts, facts
        if models != engine.discovered_models or _listed(before) != _listed(facts):
            engine.discovered_models = models
            self._models_changed()

    @staticmethod
    def _is(engine: Engine, known: _Known, kind: Kind) -> None:
        """It has told of which kind it is."""
        if kind is not engine.kind:
            known.learned = True
            engine.become(kind)

    async def _find_out(self, pool: Pool, known: _Known) -> None:
        """Ask it for what only one kind has, one after the other: a few lines in the log of one that is none of these, once."""
        for kind in ASKED:
            with suppress(FetchError):
                status, body = await _get(pool, kind.asked[0], self._config.health_timeout_s)
                if status == 200 and is_of(kind, body):
                    self._is(pool.engine, known, kind)
                    return

    async def _learn_more(self, pool: Pool, known: _Known, facts: Facts) -> Facts:
        """What its kind says of its models at paths of its own."""
        engine = pool.engine
        path, read = engine.kind.more
        if read is not None:
            try:
                status, body = await _get(pool, path, self._config.health_timeout_s)
            except FetchError:
                return {name: engine.facts.get(name, one) for name, one in facts.items()}
            if status == 200:
                facts = read(body, facts)
        if engine.kind.show_path and not engine.h2:
            await self._show(pool, known, [name for name in facts if name not in known.shown][:MOST_SHOWN])
            facts = {
                name: one if one.context_tokens else replace(one, context_tokens=known.shown.get(name, 0))
                for name, one in facts.items()
            }
            known.shown = {name: fits for name, fits in known.shown.items() if name in facts}
        return facts

    async def _show(self, pool: Pool, known: _Known, names: Sequence[str]) -> None:
        """Models are asked for one by one, a few at a time of looking: the rest has its turn the next times."""
        engine = pool.engine
        for name in names:
            with suppress(FetchError):
                asked = msgspec.json.encode({"model": name})
                _, body = await post(engine, engine.kind.show_path, asked, self._config.health_timeout_s, MAX_PROBE_BYTES)
                known.shown[name] = trained_for(body)

    async def resolve(self, engine: Engine) -> bool:
        """Look the engine's name up: at first, and every half minute (addresses move under a name). True where this process
        was too short of something to ask."""
        return await self._resolve(engine, self._of(engine))

    async def _resolve(self, engine: Engine, known: _Known) -> bool:
        if engine.literal or (engine.addresses and monotonic() - known.resolved_at < RESOLVE_EVERY_S):
            return False
        loop = asyncio.get_running_loop()
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
