"""Models that are served by nobody now, and may be again in a moment: their runners have gone, or have not come yet.

Clients' libraries take 404 for an answer and come again after 503. So what a runner served that went by itself is remembered
for :data:`AWAY_S`, or until it is back and says itself what it has; and in the first :data:`START_S` in which runners may dial
in, a name that nobody knows may be one of theirs.

Owns: the names, :data:`MOST_ABSENT` at the most (the runner that went longest ago is forgotten first), and what their clients
are told. Must never: remember what an operator has taken away; nobody who may not dial in is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fastgw.errors import GatewayError, Source

AWAY_S: Final = 300.0
START_S: Final = 30.0
"""A gateway that comes back is dialled again within :data:`fastgw.agent.link.MAX_PAUSE_S`, by each of its runners."""
MOST_ABSENT: Final = 4096
STARTS: Final = "No engine serves this model yet: the gateway has just started, and runners that serve it may be on their way."


class Absent:
    """See the head of this file. It is told the time."""

    __slots__ = ("_models", "_names", "_runners", "_starts_until", "open")

    def __init__(self) -> None:
        self.open = False  # runners may dial in
        self._starts_until = 0.0
        self._models: dict[str, tuple[float, str]] = {}  # until when each is waited for, and for whom
        self._runners: dict[str, tuple[str, ...]] = {}  # who went, the longest ago first, and with what
        self._names = 0  # that they have together

    def __len__(self) -> int:
        return self._names

    def begin(self, now: float) -> None:
        """Runners may dial in from now on."""
        self.open = True
        self._starts_until = now + START_S

    def end(self) -> None:
        """None may."""
        self.open = False
        self._starts_until = 0.0
        self._models.clear()
        self._runners.clear()
        self._names = 0

    def went(self, runner: str, models: Iterable[str], now: float) -> None:
        """The runner of that id has gone by itself, and with it whoever served these."""
        self.came(runner)
        names = tuple(dict.fromkeys(models))[:MOST_ABSENT]
        if not (self.open and names):
            return
        while self._names + len(names) > MOST_ABSENT:
            self.came(next(iter(self._runners)))
        self._runners[runner] = names
        self._names += len(names)
        for name in names:
            self._models[name] = (now + AWAY_S, runner)

    def came(self, runner: str) -> None:
        """It says itself what it has, or is not waited for any more."""
        names = self._runners.pop(runner, ())
        self._names -= len(names)
        for name in names:
            if self._models.get(name, (0.0, ""))[1] == runner:
                del self._models[name]

    def forget(self, models: Iterable[str]) -> None:
        """An operator has taken them away."""
        for name in models:
            self._models.pop(name, None)

    def lately(self, model: str, now: float) -> bool:
        """Whether a runner that served it has gone lately."""
        until, _ = self._models.get(model, (0.0, ""))
        return now < until

    def refusal(self, models: Iterable[str], now: float, retry_after_s: float) -> GatewayError | None:
        """What is told to who asks for one of these, a name and what it stands for, which nobody serves; None = that there is
        no such model."""
        names = [name for name in models if name]
        if any(self.lately(name, now) for name in names):
            return GatewayError("runner_away", source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        if names and now < self._starts_until:
            return GatewayError("runner_away", STARTS, source=Source.UPSTREAM, param="model", retry_after_s=retry_after_s)
        return None
