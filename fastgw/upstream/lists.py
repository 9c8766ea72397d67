"""What engines list: read now and then, and again where somebody asks for what none of them is known to have.

Owns: the reading of an engine's list of models, and of what its kind says of them at paths of its own; how large that may be;
and who waits until lists have been read again. Must never: let strangers' names have lists read more often than every
:data:`AGAIN_S`, and :data:`MOST_A_SECOND` in the long run, or one slow engine hold those who wait longer than a probe may
take. Invariant: whoever was told that he waits is called, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from fastgw.config import Config
from fastgw.errors import described
from fastgw.net.clock import monotonic
from fastgw.net.fetch import FetchError, TooLarge
from fastgw.net.shortage import Shortage
from fastgw.protocol.openai import MOST_ITEMS, parse_models
from fastgw.stats import EventLog
from fastgw.upstream.asked import get, post
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.kinds.registry import ASKED, is_of, is_told, kind_of, known_by
from fastgw.upstream.models import Facts, in_list, trained_for
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MAX_LIST_BYTES: Final = 16 << 20
MAX_ANSWER_BYTES: Final = 1 << 20  # of what is said beside the list
LARGE_BYTES: Final = 1 << 18  # what is read in a thread: a larger one takes the loop a tenth of a second
AGAIN_S: Final = 3.0
MOST_A_SECOND: Final = 20
"""Lists, in the long run, that are read for who asks for what nobody is known to have: among many engines more time passes
between two readings of all."""
MOST_WAITING: Final = 1024
"""Requests that wait for one reading; whoever comes then is answered by what is known."""
READ_AT_ONCE: Final = 8
ANSWERED_AT_ONCE: Final = 8
"""Of those who wait, in one turn of the loop: each may be told which names are like his."""
MOST_SHOWN: Final = 16
"""Models of one engine that are asked for one by one, each time its list is read."""
ACCEPT: Final = b"Accept: application/json\r\n"

Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]


class Learned:
    """What one engine has said of itself so far."""

    __slots__ = ("asked", "at", "large", "listed", "of_kind", "read", "shown")

    def __init__(self) -> None:
        self.at = -1e9  # when its list was read last: long ago
        self.asked = False  # what it is, of one whose list does not tell
        self.of_kind = False  # its kind was learned, by its own answers: nobody has configured it
        self.shown: dict[str, int] = {}  # models that were asked for one by one, and the context of each
        self.large = False  # its list is too large, and the log has it
        self.read: tuple[int, str] = (0, "")  # which text, as a number, and as of which kind
        self.listed: Facts = {}  # what that says

    def anew(self, engine: Engine) -> None:
        """It may be another one now."""
        self.at = -1e9
        self.asked = False
        self.read = (0, "")
        if self.of_kind:
            self.of_kind = False
            engine.become(kind_of("auto"))


def _listed(facts: Facts) -> list[tuple[object, ...]]:
    """What others are told of these models beside their names."""
    return [(one.aliases, one.context_tokens, one.root, one.parent, one.owner) for one in facts.values()]


def _said(kind: Kind, body: bytes) -> tuple[Kind, Facts]:
    kind = known_by(kind, body)
    return kind, in_list(body, parse_models(body), kind.also)


class Lists:
    """See the head of this file. ``learned``: what is known of an engine. ``changed`` is called where one serves other models
    than before."""

    __slots__ = ("_at", "_changed", "_config", "_learned", "_log", "_pools", "_reads", "_shortage", "_spawn", "_waiting")

    def __init__(
        self,
        pools: Callable[[], Sequence[Pool]],
        config: Config,
        log: EventLog,
        shortage: Shortage,
        changed: Callable[[], None],
        learned: Callable[[Engine], Learned],
        spawn: Spawn | None,
    ) -> None:
        self._pools = pools
        self._config = config
        self._log = log
        self._shortage = shortage
        self._changed = changed
        self._learned = learned
        self._spawn = spawn
        self._waiting: list[Callable[[], None]] | None = None  # None = nobody reads them for others now
        self._at = -1e9  # when that was done last,
        self._reads = 0  # and of how many engines

    def follow(self, config: Config) -> None:
        self._config = config

    # --- for who asks for what nobody is known to have
    def again(self, then: Callable[[], None]) -> bool:
        """Read all lists again, and call ``then``. False where they have just been read so, where none is to be read, or too
        many wait already: it is not called then."""
        if self._waiting is None:
            if monotonic() - self._at < max(AGAIN_S, self._reads / MOST_A_SECOND):
                return False
            # (Who is not well would only be waited for; what a runner has, it says itself.)
            pools = [
                pool for pool in self._pools()
                if not pool.engine.configured_models and not pool.engine.tunnelled and pool.engine.healthy is not False
            ]  # fmt: skip
            if not pools or self._spawn is None:
                return False
            self._reads = len(pools)
            self._waiting = []
            self._spawn("lists of models", self._read(pools))
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(then)
        return True

    async def _read(self, pools: Sequence[Pool]) -> None:
        left = iter(pools)

        async def some() -> None:
            for pool in left:
                try:
                    await self._glance(pool)
                except FetchError:
                    pass  # (the next probe tells how it is)
                except Exception as error:
                    self._log.error("a look at models failed inside fastgw", engine=pool.engine.name, error=described(error))

        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.health_timeout_s):
                    await asyncio.gather(*(some() for _ in range(READ_AT_ONCE)))
        finally:
            self._at = monotonic()
            waiting, self._waiting = self._waiting, None
            self._answer(iter(waiting or ()))

    def _answer(self, waiting: Iterator[Callable[[], None]]) -> None:
        """Some of those who waited, in each turn of the loop: streams go on meanwhile."""
        some = list(islice(waiting, ANSWERED_AT_ONCE))
        if some:
            asyncio.get_running_loop().call_soon(self._answer, waiting)
        for then in some:
            then()

    async def _glance(self, pool: Pool) -> None:
        """Its list alone: what it says elsewhere of what is new there is learned with the next probe."""
        engine = pool.engine
        learned = self._learned(engine)
        facts = await self._list(pool, learned)
        if facts is not None and tuple(facts) != engine.discovered_models:
            self._has(engine, {name: engine.facts.get(name, one) for name, one in facts.items()})
            learned.at = -1e9

    # --- one engine
    async def learn(self, pool: Pool, learned: Learned) -> None:
        """Read its list, and what it says elsewhere of what that has."""
        engine = pool.engine
        learned.at = monotonic()
        try:
            facts = await self._list(pool, learned)
        except FetchError as error:
            if error.lacking:
                self._shortage.met(error.lacking, "a look at an engine's models")
                learned.at = -1e9  # the next probe asks again
            return
        listed = facts is not None
        if facts is not None and tuple(facts) != engine.discovered_models:
            self._has(engine, facts)  # at once: requests may wait for it
        if not (is_told(engine.kind) or learned.asked) and (facts or not listed):
            learned.asked = True
            await self._find_out(pool, learned)
        facts = await self._learn_more(pool, learned, facts or {})
        if listed or facts:
            self._has(engine, facts)

    async def _list(self, pool: Pool, learned: Learned) -> Facts | None:
        """What its list says; None = it has none. A list that is the same as before costs no more than its bytes."""
        engine = pool.engine
        try:
            status, body = await self._get(pool, engine.kind.models_path, MAX_LIST_BYTES)
        except TooLarge:
            self._too_large(engine, learned, f"it has more than {MAX_LIST_BYTES >> 20} MiB")
            raise
        if status != 200:
            return None
        text = hash(body)
        if learned.read != (text, engine.kind.name):
            large = len(body) > LARGE_BYTES
            kind, facts = await asyncio.to_thread(_said, engine.kind, body) if large else _said(engine.kind, body)
            self._is(engine, learned, kind)
            learned.listed = facts
            learned.read = (text, kind.name)
            if not facts and body.count(b"{") > MOST_ITEMS:
                self._too_large(engine, learned, f"it has more than {MOST_ITEMS} objects")
            else:
                learned.large = False
        return learned.listed

    def _too_large(self, engine: Engine, learned: Learned, reason: str) -> None:
        if not learned.large:
            learned.large = True
            self._log.warning("list of models is too large to be read", engine=engine.name, reason=reason)

    def _has(self, engine: Engine, facts: Facts) -> None:
        """These are its models."""
        models = tuple(facts)
        before, engine.facts = engine.facts, facts
        if models != engine.discovered_models or _listed(before) != _listed(facts):
            engine.discovered_models = models
            self._changed()

    @staticmethod
    def _is(engine: Engine, learned: Learned, kind: Kind) -> None:
        """It has told of which kind it is."""
        if kind is not engine.kind:
            learned.of_kind = True
            engine.become(kind)

    async def _get(self, pool: Pool, path: bytes, max_bytes: int = MAX_ANSWER_BYTES) -> tuple[int, bytes]:
        engine = pool.engine
        agreed = pool.speaks if engine.secure_h2 is not None else None
        return await get(engine, path, ACCEPT, self._config.health_timeout_s, max_bytes, agreed)

    async def _find_out(self, pool: Pool, learned: Learned) -> None:
        """Ask it for what only one kind has, one after the other: a few lines in the log of one that is none of these, once."""
        for kind in ASKED:
            with suppress(FetchError):
                status, body = await self._get(pool, kind.asked[0])
                if status == 200 and is_of(kind, body):
                    self._is(pool.engine, learned, kind)
                    return

    async def _learn_more(self, pool: Pool, learned: Learned, facts: Facts) -> Facts:
        """What its kind says of its models at paths of its own."""
        engine = pool.engine
        path, read = engine.kind.more
        if read is not None:
            try:
                status, body = await self._get(pool, path)
            except FetchError:
                return {name: engine.facts.get(name, one) for name, one in facts.items()}
            if status == 200:
                facts = read(body, facts)
        if engine.kind.show_path and not engine.h2:
            await self._show(pool, learned, [name for name in facts if name not in learned.shown][:MOST_SHOWN])
            facts = {
                name: one if one.context_tokens else replace(one, context_tokens=learned.shown.get(name, 0))
                for name, one in facts.items()
            }
            learned.shown = {name: fits for name, fits in learned.shown.items() if name in facts}
        return facts

    async def _show(self, pool: Pool, learned: Learned, names: Sequence[str]) -> None:
        """Models are asked for one by one, a few at a time of looking: the rest has its turn the next times."""
        engine = pool.engine
        for name in names:
            with suppress(FetchError):
                asked = msgspec.json.encode({"model": name})
                _, body = await post(engine, engine.kind.show_path, asked, self._config.health_timeout_s, MAX_ANSWER_BYTES)
                learned.shown[name] = trained_for(body)
