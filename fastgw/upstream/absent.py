"""Models that are served by nobody now, and may be again in a moment: who served them has gone by itself, or has not come yet.

Clients' libraries take 404 for an answer and come again after 503. So what a runner served, or an engine that was found by its
name or in a file, is remembered for :data:`AWAY_S` after it went, or until it is back and says itself what it has. And a name
that nobody knows may be that of one who is still to come: of a runner, in the first :data:`START_S` in which they may dial in;
of an engine whose source has not said yet who is there, for :data:`AWAY_S`.

Owns: the names, and what their clients are told. Must never: remember what an operator has taken away, or tell one tenant of
another's; nobody who may not come is waited for. Invariants: a name is waited for as long as one of those that served it is;
who comes, or is taken away, ends no wait but its own. All have :data:`MOST_ABSENT` names together: where they are more, whoever
has more than :data:`SHARE` of them gives some up, then whoever went longest ago all that it has.
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
SHARE: Final = MOST_ABSENT // 8

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
    flow: str  # whose alone it is, "" = everybody's
    names: tuple[str, ...] = ()
    source: str = ""  # the key of the source that it was found by


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
        self._went: dict[Who, _Wait] = {}  # the longest ago first
        # By name and flow until when it is waited for whom, the longest last.
        self._models: dict[tuple[str, str], dict[Who, float]] = {}
        self._names = 0  # that all who went have together

    def __len__(self) -> int:
        return self._names

    def begin(self, now: float) -> None:
        """Runners may dial in from now on."""
        self.open = True
        self._coming[Who(RUNNER, "")] = _Wait(now + START_S, "")

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
            self.went(who, names, now, tenant, source)
        else:
            self._coming[who] = _Wait(now + AWAY_S, flow_of(tenant) if tenant else "")

    def ends(self, source: str) -> None:
        """None of that source of engines may come any more."""
        self.came(Who(ENGINE, source))
        for who in [who for who, wait in self._went.items() if wait.source == source]:
            self.came(who)

    def went(self, who: Who, models: Iterable[str], now: float, tenant: str = "", source: str = "") -> None:
        """It has gone by itself, and with it one that served these."""
        self.came(who)
        names = tuple(dict.fromkeys(models))[:MOST_ABSENT]
        if not names or (who.kind == RUNNER and not self.open):
            return
        wait = self._went[who] = _Wait(now + AWAY_S, flow_of(tenant) if tenant else "", names, source)
        self._names += len(names)
        for name in names:
            self._models.setdefault((name, wait.flow), {})[who] = wait.until
        while self._names > MOST_ABSENT:
            self._make_room()

    def _make_room(self) -> None:
        large = next((who for who, wait in self._went.items() if len(wait.names) > SHARE), None)
        if large is None:
            self.came(next(iter(self._went)))
            return
        wait = self._went[large]
        stay = max(SHARE, len(wait.names) - (self._names - MOST_ABSENT))
        self._went[large] = wait._replace(names=wait.names[:stay])
        self._drop(large, wait, wait.names[stay:])

    def _drop(self, who: Who, wait: _Wait, names: tuple[str, ...]) -> None:
        self._names -= len(names)
        for name in names:
            waits = self._models[name, wait.flow]
            del waits[who]
            if not waits:
                del self._models[name, wait.flow]

    def came(self, who: Who) -> None:
        """It says itself what it has, or is not waited for any more."""
        self._coming.pop(who, None)
        wait = self._went.pop(who, None)
        if wait is not None:
            self._drop(who, wait, wait.names)

    def here(self, engines: Iterable[Engine]) -> None:
        """These are there: each that has told what it serves is not waited for."""
        if self._went:
            for engine in engines:
                if engine.configured_models or engine.discovered_models:
                    self.came(Who(ENGINE, engine.name))

    def lately(self, model: str, now: float, flow: str = "") -> bool:
        """Whether somebody that served it, for those of ``flow`` too, has gone lately."""
        return bool(self._models) and self._awaited(model, now, flow) is not None

    def engine(self, name: str, now: float) -> str:
        """Of what kind the engine of that name is, where it has gone and is waited for; empty = it is not."""
        for kind in (RUNNER, ENGINE):  # (a runner's engine has its id for a name)
            wait = self._went.get(Who(kind, name))
            if wait is not None and now < wait.until:
                return kind
        return ""

    def _awaited(self, model: str, now: float, flow: str) -> Who | None:
        """The last of those that served it, and are waited for by those of ``flow``."""
        for whose in ("", flow):
            waits = self._models.get((model, whose))
            if waits is not None and now < waits[who := next(reversed(waits))]:
                return who
        return None

    def refusal(self, models: Iterable[str], now: float, retry_after_s: float, flow: str = "") -> GatewayError | None:
        """What is told to who asks for one of these, a name and what it stands for, which nobody serves; None = that there is
        no such model."""
        names = [name for name in models if name]
        for name in names:
            awaited = self._awaited(name, now, flow)
            if awaited is not None:
                return GatewayError(awaited.kind, source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        for who, wait in self._coming.items() if names else ():
            if now < wait.until and wait.flow in ("", flow):
                told = STARTS[who.kind]
                return GatewayError(who.kind, told, source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        return None
