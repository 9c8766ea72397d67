"""Models that are served by nobody now, and may be again in a moment: who served them has gone by itself, or has not come yet.

Clients' libraries take 404 for an answer and come again after 503. So what a runner served, or an engine that was found by its
name or in a file, is remembered for :data:`AWAY_S` after it went, or until it is back and says itself what it has. And a name
that nobody knows may be that of one who is still to come: of a runner, in the first :data:`START_S` in which they may dial in;
of an engine whose source has not said yet who is there, for :data:`AWAY_S`.

Owns: the names, :data:`MOST_ABSENT` at the most (of whoever went longest ago they are forgotten first), and what their clients
are told. Must never: remember what an operator has taken away, or tell one tenant of another's; nobody who may not come is
waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from fastgw.errors import GatewayError, Source
from fastgw.limits.account import flow_of
from fastgw.upstream.target import Engine

AWAY_S: Final = 300.0
START_S: Final = 30.0
"""A gateway that comes back is dialled again within :data:`fastgw.agent.link.MAX_PAUSE_S`, by each of its runners."""
MOST_ABSENT: Final = 4096

RUNNER: Final = "runner_away"
ENGINE: Final = "engine_away"
STARTS: Final = {
    RUNNER: "No engine serves this model yet: the gateway has just started, and runners that serve it may be on their way.",
    ENGINE: "No engine serves this model yet: which engines there are has been asked, and there is no answer so far.",
}
"""What is told of a name that nobody knows, by who may be still to come."""


class Who(NamedTuple):
    """Who is waited for: its error, and the id of a runner, the name of an engine, or the key of a source of engines."""

    kind: str
    id: str


class _Wait(NamedTuple):
    until: float
    who: Who
    flow: str  # whose alone it is, "" = everybody's


_NOBODY: Final = _Wait(0.0, Who("", ""), "")


def names_of(engine: Engine) -> list[str]:
    """All names by which it is asked, as far as that is known."""
    if engine.configured_models:
        return sorted(engine.configured_models)
    return [*engine.discovered_models, *[other for fact in engine.facts.values() for other in fact.aliases]]


class Absent:
    """See the head of this file. It is told the time."""

    __slots__ = ("_coming", "_models", "_names", "_went", "open")

    def __init__(self) -> None:
        self.open = False  # runners may dial in
        self._coming: dict[Who, _Wait] = {}  # whose names nobody knows
        self._models: dict[str, _Wait] = {}
        self._went: dict[Who, tuple[str, ...]] = {}  # the longest ago first, and with what
        self._names = 0  # that they have together

    def __len__(self) -> int:
        return self._names

    def begin(self, now: float) -> None:
        """Runners may dial in from now on."""
        self.open = True
        who = Who(RUNNER, "")
        self._coming[who] = _Wait(now + START_S, who, "")

    def end(self) -> None:
        """None may."""
        self.open = False
        for who in [who for who in (*self._coming, *self._went) if who.kind == RUNNER]:
            self.came(who)

    def awaits(self, source: str, models: Iterable[str], tenant: str, now: float) -> None:
        """That source of engines is asked who is there. ``models``: what all of them serve, none = they say so themselves."""
        who = Who(ENGINE, source)
        names = tuple(models)
        if names:
            self.went(who, names, now, tenant)
        else:
            self._coming[who] = _Wait(now + AWAY_S, who, flow_of(tenant) if tenant else "")

    def went(self, who: Who, models: Iterable[str], now: float, tenant: str = "") -> None:
        """It has gone by itself, and with it whoever served these."""
        self.came(who)
        names = tuple(dict.fromkeys(models))[:MOST_ABSENT]
        if not names or (who.kind == RUNNER and not self.open):
            return
        while self._names + len(names) > MOST_ABSENT:
            self.came(next(iter(self._went)))
        self._went[who] = names
        self._names += len(names)
        wait = _Wait(now + AWAY_S, who, flow_of(tenant) if tenant else "")
        for name in names:
            self._models[name] = wait

    def came(self, who: Who) -> None:
        """It says itself what it has, or is not waited for any more."""
        self._coming.pop(who, None)
        names = self._went.pop(who, ())
        self._names -= len(names)
        for name in names:
            if self._models.get(name, _NOBODY).who == who:
                del self._models[name]

    def here(self, engines: Iterable[Engine]) -> None:
        """These are there: each that has told what it serves is not waited for."""
        if self._went:
            for engine in engines:
                if engine.configured_models or engine.discovered_models:
                    self.came(Who(ENGINE, engine.name))

    def forget(self, models: Iterable[str]) -> None:
        """An operator has taken them away."""
        for name in models:
            self._models.pop(name, None)

    def lately(self, model: str, now: float, flow: str = "") -> bool:
        """Whether somebody that served it, for those of ``flow`` too, has gone lately."""
        wait = self._models.get(model, _NOBODY)
        return now < wait.until and wait.flow in ("", flow)

    def refusal(self, models: Iterable[str], now: float, retry_after_s: float, flow: str = "") -> GatewayError | None:
        """What is told to who asks for one of these, a name and what it stands for, which nobody serves; None = that there is
        no such model."""
        names = [name for name in models if name]
        for name in names:
            if self.lately(name, now, flow):
                kind = self._models[name].who.kind
                return GatewayError(kind, source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        for wait in self._coming.values() if names else ():
            if now < wait.until and wait.flow in ("", flow):
                kind = wait.who.kind
                return GatewayError(kind, STARTS[kind], source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        return None
