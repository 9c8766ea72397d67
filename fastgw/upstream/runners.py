"""The runners that have dialled in: who is there, how each is, and which engine of the fleet stands for it.

    join -----> there <---- comes back in time ---- lost
                 |  ^                                 |
       starting, v  | well                            v  GRACE_S, or silence was why
   shutting down resting -- drained, nothing under way --> gone

Each runner is one engine of the fleet, at the address that it may have (``runner_address``), serving the models that it
reports; what is behind it is its own affair. Told by connections (``protocol/runners.Session``) what runners say; tells the
``yard`` (the fleet, in a gateway) what follows. Without I/O and without a clock.

Invariants: an id is one runner, an address is one runner's; the newer connection of an id wins, unless it comes from another
place while the one that is there answers; its engine goes on with all that is under way there, if its address is the same;
there are :attr:`Registry.most` runners at the most, and what is remembered of those that left is bounded too. A runner that is
lost gets no new requests while others are well, and after :data:`GRACE_S` it is gone, and what it served is ``absent``:
requests that it has not begun to answer go elsewhere, answers that have begun go on. Whoever comes and goes all the time waits
(:data:`FLAPS` times, then once in :data:`FLAP_S`), and keeps the place that it has; whoever is well and is not, all the time,
counts as not well meanwhile. An id that the operator has drained stays so until he says otherwise, however often its runner
comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from fastgw.config import ConfigErrors, EngineConfig
from fastgw.config.names import EngineKind
from fastgw.protocol.runner_words import (
    PROTOCOL_ERROR,
    ROUTABLE,
    Command,
    CommandResponse,
    Register,
    RunnerStatus,
    is_name,
)
from fastgw.protocol.runners import AWAY, DONE, LATER, POLICY, Refused, Session
from fastgw.upstream.absent import RUNNER, Absent, Who
from fastgw.upstream.kinds.registry import is_told, kind_called, kind_of
from fastgw.upstream.models import Facts, ModelFacts
from fastgw.upstream.runner_address import Network, tunnel_of, where
from fastgw.upstream.target import Engine

RESTS: Final = frozenset({"starting", "shutting_down"})
"""Words of a runner for which its engine gets nothing at all."""
GRACE_S: Final = 1.5
"""In which a runner whose connection broke may come back as if nothing had been."""
FLAPS: Final = 5
FLAP_S: Final = 10.0
ASKED_S: Final = 3.0
"""For a runner to answer, where another comes with its id from somewhere else."""
MOST_REMEMBERED: Final = 4096
"""Ids, each from one place, of which it is known how often they came lately."""
REPLACED: Final = "another runner of this id has come: give each its own --id"
"""(Or it is the same one, by another connection: then nobody hears that.)"""
TAKEN: Final = "another process takes this gateway's place"
MOST_COMMANDS: Final = 32
"""Under way with one runner."""


class Yard(Protocol):
    """What is done with the engines of runners. None of these raises but ``take_in``."""

    def take_in(self, config: EngineConfig) -> Engine:
        """An engine more. Raises :class:`Refused`."""
        ...

    def free_name(self, name: str) -> str:
        """That name, or one like it that no engine has."""
        ...

    def holds(self, engine: Engine) -> bool:
        """Whether it is there still: others can remove it."""
        ...

    def serves(self, engine: Engine, models: Sequence[str], aliases: dict[str, str]) -> None:
        """It answers to these models from now on; ``aliases`` are some of them, by what they are called there."""
        ...

    def rests(self, engine: Engine, resting: bool) -> None:
        """Whether it gets no new requests."""
        ...

    def vouched(self, engine: Engine, well: bool, away: bool = False) -> None:
        """Its runner is there, or is not; probes may find otherwise. ``away``: nor can it be asked until its runner is back,
        for which requests wait."""
        ...

    def disowned(self, engine: Engine, ill: bool) -> None:
        """Whether its runner says that it is not well: it is asked where nobody else is left, whatever probes find."""
        ...

    def lose(self, engine: Engine, why: str) -> None:
        """It goes: what it has not begun to answer goes elsewhere, the rest ends first."""
        ...

    def let_go(self, engine: Engine) -> None:
        """It goes when nothing is under way there."""
        ...

    def tell(self, what: str, runner: str, **about: object) -> None:
        """Something has happened."""
        ...


class Runner:
    """One runner, and what it said last. ``lost_at``: when its connection broke, -1 = it is there. ``asked_at``: when it was
    asked whether it is, because another came with its id, -1 = it was not. ``drained``: the operator wants it empty.
    ``resting``: its engine gets no new requests for what it says of itself, or because it is drained; ``ill``: it gets them as
    a last resort, for it may be slow to say that it is well. ``said``: its health, and whether an engine of it is well, as
    others were told last; ``wavers``: it says something else again and again, and counts as ill."""

    __slots__ = (
        "asked_at", "commands", "drained", "engine", "id", "ill", "joined_at", "lost_at", "machine", "models", "name",
        "resting", "said", "seen_at", "session", "status", "turns", "url", "wavers",
    )  # fmt: skip

    def __init__(self, message: Register, url: str, engine: Engine, session: Session, now: float) -> None:
        self.id = message.runner_id
        self.url = url
        self.engine = engine
        self.drained = self.ill = self.resting = self.wavers = False
        self.joined_at = now
        self.asked_at = -1.0
        self.turns: tuple[float, float] = (FLAPS, now)  # times that it may say something else, as of when
        self.models: tuple[tuple[str, ...], dict[str, str]] = ((), {})
        self.commands: dict[str, Callable[[CommandResponse | None], None]] = {}
        self.came(message, session, now)
        self.said = self.says()

    def __repr__(self) -> str:
        return f"<Runner {self.id} {self.status.health} {'there' if self.lost_at < 0 else 'lost'}>"

    def came(self, message: Register, session: Session, now: float) -> None:
        """It has registered, with these words."""
        self.name = message.runner_name
        self.machine = (message.machine_type or "").lower()
        self.status: RunnerStatus = message.status
        self.session = session
        self.lost_at = -1.0
        self.seen_at = now

    def says(self) -> tuple[str, bool]:
        """Its health, and whether an engine of it is well, by its own words."""
        status = self.status
        well = not status.engines or any(engine.is_healthy for engine in status.engines)
        return status.health, status.health in ROUTABLE and well


class Registry:
    """See the head of this file. It is the :class:`~fastgw.protocol.runners.House` of all connections."""

    __slots__ = (
        "_absent", "_by_url", "_drained", "_ends", "_flaps", "_runners", "_serial", "_unix", "_yard", "listed", "most",
    )  # fmt: skip

    def __init__(self, yard: Yard, absent: Absent, *, most: int, listed: Sequence[Network]) -> None:
        self._yard = yard
        self._absent = absent
        self.most = most
        self.listed = tuple(listed)
        self._runners: dict[str, Runner] = {}
        self._by_url: dict[str, Runner] = {}
        self._drained: dict[str, None] = {}  # ids that the operator wants empty, whether they are there or not
        self._flaps: dict[tuple[str, str], tuple[float, float]] = {}  # (from where, id): (times that it may come, as of when)
        self._serial = 0
        self._ends = False  # the gateway does: those that are there were told, and nobody comes any more
        self._unix = 0.0  # the time of day, as of the last tick

    def __len__(self) -> int:
        return len(self._runners)

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners.values())

    def find(self, id: str) -> Runner | None:
        """The runner of that id."""
        return self._runners.get(id)

    # --- a house
    def join(self, session: Session, message: Register, now: float) -> None:
        if self._ends:
            raise Refused("The gateway ends, and takes no more runners: come again.", close=LATER, retry_after_s=1.0)
        runner = self._runners.get(message.runner_id)
        if runner is None and len(self._runners) >= self.most:
            raise Refused("There are as many runners as there may be: raise max_runners.", close=LATER)
        self._damp(session.peer, message.runner_id, now)
        if runner is not None:
            self._contest(runner, session, now)
        url = tunnel_of(message.runner_id) if session.tunnelled else where(message, session.peer, self.listed)
        other = self._by_url.get(url)
        if other is not None and other is not runner:
            raise Refused(f"The runner {other.id!r} has this address: give each its own.")
        _check_names(message.status)  # (before anything changes)
        if runner is not None and (runner.url != url or not self._yard.holds(runner.engine)):
            before = runner
            runner = None
        else:
            before = None
        if runner is None:
            engine = self._yard.take_in(self._config(message, url))  # (before anything changes: it may refuse)
            made = Runner(message, url, engine, session, now)
            made.drained = made.id in self._drained
            if before is not None:
                self._replace(before, now)
            self._runners[made.id] = self._by_url[url] = made
            self._yard.tell("runner_joined", made.id, url=url)
            self._follow(made, now)
            self._yard.vouched(made.engine, not made.ill)
            return
        old, returned = runner.session, runner.lost_at >= 0
        runner.came(message, session, now)
        if not returned:
            old.close(POLICY, REPLACED, now)
        self._yard.tell("runner_returned" if returned else "runner_replaced", runner.id, url=url)
        self._follow(runner, now)
        self._yard.vouched(runner.engine, not runner.ill)

    def reported(self, session: Session, status: RunnerStatus, now: float) -> None:
        runner = self._of(session)
        if runner is None:
            return
        runner.seen_at = now
        before, runner.status = runner.status, status
        try:
            self._follow(runner, now)
        except Refused as refusal:
            runner.status = before
            session.fail(refusal.code, str(refusal), refusal.close, now)

    def answered(self, session: Session, response: CommandResponse, now: float) -> None:
        runner = self._of(session)
        done = runner.commands.pop(response.request_id, None) if runner is not None else None
        if done is not None:
            done(response)

    def left(self, session: Session, now: float) -> None:
        runner = self._of(session)
        if runner is None:
            return  # another connection has taken its place
        self._commands_end(runner)
        runner.lost_at = now
        if runner.status.health == "shutting_down":
            self._went(runner, "it has left", now, kindly=True)
        elif session.why == "TIMEOUT":
            self._went(runner, "nothing was heard of it", now)
        else:
            self._yard.vouched(runner.engine, False, runner.engine.tunnelled)
            self._yard.tell("runner_lost", runner.id, why=session.why or "its connection has ended")

    # --- time
    def tick(self, now: float, unix: float) -> None:
        """Look at all: who has been lost for too long goes, who is silent is asked, who wants to leave and is empty may."""
        self._unix = unix
        for runner in list(self._runners.values()):
            if runner.lost_at >= 0:
                if now - runner.lost_at >= GRACE_S:
                    self._went(runner, "its connection has ended", now)
                continue
            if not self._yard.holds(runner.engine):
                runner.session.close(POLICY, "its engine was removed: it may come again", now)
                continue
            if runner.wavers:
                self._turn(runner, now)
            runner.session.tick(now, unix)
            if runner.status.health == "shutting_down" and not runner.engine.inflight and runner.lost_at < 0:
                runner.session.close(DONE, "nothing is under way there", now)

    # --- the operator
    def command(
        self, runner: Runner, make: Callable[[str], Command], done: Callable[[CommandResponse | None], None], now: float
    ) -> str:
        """Have it do something; ``done`` is called once: with its answer, or with None when it has been lost. Returns the id of
        the command, for :meth:`forget`; "" = it cannot be told now."""
        if len(runner.commands) >= MOST_COMMANDS or runner.lost_at >= 0:
            return ""
        self._serial += 1
        request_id = f"{runner.id}-{self._serial}"[-128:]
        runner.commands[request_id] = done
        if not runner.session.command(make(request_id), now):
            runner.commands.pop(request_id, None)
            return ""
        return request_id

    def forget(self, runner: Runner, request_id: str) -> None:
        """Nobody waits for that command any more."""
        runner.commands.pop(request_id, None)

    def drain(self, runner: Runner, drained: bool) -> None:
        """It gets no new requests, whatever it says and however often it comes again; or does again."""
        self._drained.pop(runner.id, None)
        if drained:
            if len(self._drained) >= MOST_REMEMBERED:
                del self._drained[next(iter(self._drained))]
            self._drained[runner.id] = None
        if runner.drained != drained:
            runner.drained = drained
            self._yard.tell("runner_drained" if drained else "runner_undrained", runner.id)
            self._rest(runner)

    def dismiss(self, runner: Runner, why: str, now: float) -> None:
        """Its place is needed for something else: it is told, and its engine goes when nothing is under way there."""
        session = runner.session
        self._commands_end(runner)
        self._gone(runner, why, kindly=True)
        session.fail(PROTOCOL_ERROR, why, POLICY, now)

    def close(self, now: float) -> None:
        """The gateway stops, or takes no runners any more: all are told."""
        for runner in list(self._runners.values()):
            if runner.lost_at < 0:
                runner.session.close(AWAY, "the gateway takes no runners now", now)

    def go_away(self, now: float, others: bool) -> None:
        """The gateway ends: all are to dial again, and those that know how stay here meanwhile. ``others``: those that do not
        are let go, for somebody else waits for them."""
        first, self._ends = not self._ends, True
        for runner in [one for one in self._runners.values() if first and one.lost_at < 0]:
            session = runner.session
            if not session.go_away(now) and others:
                self._commands_end(runner)
                self._went(runner, TAKEN, now, kindly=True)
                session.close(AWAY, TAKEN, now)

    def judge(self, now: float) -> None:
        """The terms are others: who came with a token that is none any more goes."""
        for runner in list(self._runners.values()):
            if runner.lost_at < 0:
                runner.session.judge(now)

    # --- within
    def _of(self, session: Session) -> Runner | None:
        """The runner whose connection this is; None = it has another by now."""
        runner = self._runners.get(session.runner_id)
        return runner if runner is not None and runner.session is session else None

    def _config(self, message: Register, url: str) -> EngineConfig:
        fields: dict[str, Any] = {
            "url": url,
            "name": self._yard.free_name(message.runner_id),
            "kind": _kind_in(message.status),
            "protocol": "h2" if url == tunnel_of(message.runner_id) else "",
            "machine": (message.machine_type or "").lower(),
            "features": sorted({one.capability for one in message.status.capabilities}),
        }
        # (The last two where engines have them, for routing.)
        try:
            return EngineConfig(**{name: value for name, value in fields.items() if name in EngineConfig.__struct_fields__})
        except ConfigErrors as errors:
            raise Refused("; ".join(f"{one.name} {one.message}" for one in errors.errors)) from None

    def _follow(self, runner: Runner, now: float) -> None:
        """Have its engine be as it says. Raises :class:`Refused`."""
        status, engine = runner.status, runner.engine
        kind = kind_of(_kind_in(status))
        if is_told(kind) and kind is not engine.kind:
            engine.become(kind)  # (it was not up yet when its runner came, or is another one now)
        models = (status.models(), status.model_aliases)
        if models != runner.models and (models[0] or runner.says()[1]):  # (who is not well, and lists nothing, has what it had)
            _check_names(status)
            runner.models = models
            self._yard.serves(engine, *models)
            self._absent.came(Who(RUNNER, runner.id))
        if engine.tunnelled:  # (others are asked by the gateway, and tell more)
            engine.facts = _facts_in(status)
        metrics = status.metrics
        if metrics is None:
            engine.tells(0, 0)
        else:
            engine.tells(metrics.requests_running or 0, metrics.requests_waiting or 0)
        self._turn(runner, now)

    def _turn(self, runner: Runner, now: float) -> None:
        """Go by what it says of its health, so often (each time is a line of the log, and a new verdict); else it is ill."""
        left, at = runner.turns
        left = min(FLAPS, left + (now - at) / FLAP_S)
        said, before = runner.says(), runner.said
        if said != before and left >= 1:
            runner.said = said
            runner.turns = (left - 1, now)
            if said[0] != before[0]:
                self._yard.tell("runner_health", runner.id, health=said[0], before=before[0])
        runner.wavers = left < 1 and (runner.wavers or said != before)
        self._rest(runner)

    def _rest(self, runner: Runner) -> None:
        health, well = runner.said
        ill = runner.wavers or (not well and health not in RESTS)
        if ill != runner.ill:
            runner.ill = ill
            self._yard.disowned(runner.engine, ill)
        resting = runner.drained or health in RESTS
        if resting != runner.resting:
            runner.resting = resting
            self._yard.rests(runner.engine, resting)

    def _replace(self, runner: Runner, now: float) -> None:
        """Its place is another's by now."""
        self._forget(runner)
        if runner.lost_at < 0:
            self._commands_end(runner)
            runner.session.close(POLICY, REPLACED, now)
        if self._yard.holds(runner.engine):
            self._yard.let_go(runner.engine)

    def _went(self, runner: Runner, why: str, now: float, kindly: bool = False) -> None:
        """It has gone by itself. (Of one that the operator has drained nobody waits for more.)"""
        if not runner.drained:
            self._absent.went(Who(RUNNER, runner.id), runner.models[0], now)
        self._gone(runner, why, kindly)

    def _gone(self, runner: Runner, why: str, kindly: bool = False) -> None:
        self._forget(runner)
        self._yard.tell("runner_gone", runner.id, why=why, inflight=runner.engine.inflight)
        if self._yard.holds(runner.engine):
            if kindly:
                self._yard.let_go(runner.engine)
            else:
                self._yard.lose(runner.engine, why)

    def _forget(self, runner: Runner) -> None:
        del self._runners[runner.id]
        self._by_url.pop(runner.url, None)

    @staticmethod
    def _commands_end(runner: Runner) -> None:
        commands, runner.commands = runner.commands, {}
        for done in commands.values():
            done(None)

    def _contest(self, runner: Runner, session: Session, now: float) -> None:
        """Another comes with the id of ``runner``. Raises :class:`Refused` where that one may be there still, elsewhere: it is
        asked, and who comes again behind its silence has its place."""
        there = runner.session
        if runner.lost_at >= 0 or session.peer == there.peer:
            return
        if runner.asked_at < 0 or there.seen_at > runner.asked_at:
            runner.asked_at = now
            there.ask(self._unix, now)
        if now - runner.asked_at < ASKED_S:
            raise Refused(
                "A runner of this id is connected from another address, and is asked whether it lives: "
                f"come again in {ASKED_S:g} s, or take another id.",
                close=LATER,
                retry_after_s=ASKED_S,
            )

    def _damp(self, peer: str, id: str, now: float) -> None:
        """Raises :class:`Refused` for who comes too often. (Who has only heard of an id keeps it from nobody.)"""
        own = (peer, id)
        left, at = self._flaps.pop(own, (FLAPS, now))
        left = min(FLAPS, left + (now - at) / FLAP_S)
        if len(self._flaps) >= MOST_REMEMBERED:
            del self._flaps[next(iter(self._flaps))]
        self._flaps[own] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise Refused(f"This runner registers too often: come again in {FLAP_S:g} s.", close=LATER, retry_after_s=FLAP_S)


def _kind_in(status: RunnerStatus) -> EngineKind:
    """Of which kind its engines are, where all are of one."""
    kinds = {kind_called(engine.engine_type) for engine in status.engines}
    return kinds.pop() if len(kinds) == 1 else "auto"


def _facts_in(status: RunnerStatus) -> Facts:
    """What it has in memory, and what it would have to load."""
    loaded = {name for engine in status.engines for name in engine.loaded_models}
    named = [name for engine in status.engines for name in (*engine.loaded_models, *engine.available_models)]
    fits = {name: tokens for engine in status.engines for name, tokens in engine.context_tokens.items()}
    return {name: ModelFacts(name, fits.get(name, 0), loaded=name in loaded) for name in named}


def _check_names(status: RunnerStatus) -> None:
    """Those of its models, and what its aliases lead to. Raises :class:`Refused`."""
    for name in (*status.models(), *status.model_aliases.values()):
        _check(name)


def _check(name: str) -> None:
    """Raises :class:`Refused` for what cannot be a model's name: it stands in metrics and in the log."""
    if not is_name(name):
        raise Refused("A model's name holds control characters, or is longer than 200 bytes.")
