"""Joules by model and by caller: what the GPUs of an engine have drawn, shared out by the tokens that it made meanwhile.

    drawn since the last report --- a request was under way ---> held --- tokens have come ---> models, callers
                 |                                                |
                 | nobody asked                                   | nothing is under way any more, and no tokens came
                 v                                                v
               idle                                            unshared

A machine reports what each of its GPUs has drawn in all, and which engines have it. A token of a prompt weighs :data:`PROMPT`,
one that is generated :data:`GENERATED`, and one that the engine had at hand nothing. A GPU that two report (two runners of one
machine) is read by the one that was first, until that is silent for :data:`SILENT_S`; the engines of both share it.

Owns: that sum. Without I/O and without a clock; millijoules are integers, and nothing is rounded away. Must never: make a label
of its own: models and callers are those of ``tallies``, which bounds them. Invariant: ``models`` + ``idle`` + ``unshared`` +
what is held = all that was reported, and none of them falls; a GPU counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

PROMPT: Final = 1
GENERATED: Final = 5
"""A token of an answer takes all of the weights through the chip, with those few that are generated beside it, where those of a
prompt go together: some five times as much, which is also what price lists say, and true within a factor of three."""
MOST_WATTS: Final = 5000
"""That a GPU draws. More is no energy but another counter: a report begins anew there, and adds nothing."""
SLACK_S: Final = 10.0  # by which a report may be late, or the one before it
SILENT_S: Final = 60.0
FORGET_S: Final = 600.0
"""A GPU of which nothing is heard for so long is gone, and begins anew when it comes back."""
MOST_GPUS: Final = 16384
"""That are remembered, of all machines together."""


class _Made:
    """What an engine has made since its machine's last report: tokens as they weigh, by whose they are."""

    __slots__ = ("callers", "models")

    def __init__(self) -> None:
        self.models: dict[str, int] = {}
        self.callers: dict[str, int] = {}


class _Gpu:
    """One GPU: what it had drawn at its last report, by whom, and what of that nobody has yet. ``engines``: who has it, as each
    machine said last, and when."""

    __slots__ = ("at", "busy", "engines", "held", "machine", "total")

    def __init__(self, machine: str, total: int, at: float) -> None:
        self.machine = machine
        self.total = total
        self.at = at
        self.held = 0
        self.busy = False  # a request was under way at the last report
        self.engines: dict[str, tuple[float, frozenset[str]]] = {}

    def drew(self, total: int, now: float) -> int:
        """Since the last report. A counter that is lower than it was has begun anew."""
        drawn = total - self.total if total >= self.total else total
        most = int(MOST_WATTS * 1000 * (now - self.at + SLACK_S))
        self.total, self.at = total, now
        return drawn if 0 <= drawn <= most else 0


class Energy:
    """See the head of this file; millijoules."""

    def __init__(self) -> None:
        self.models: dict[str, int] = {}
        self.callers: dict[str, int] = {}
        self.idle = 0
        self.unshared = 0
        self._gpus: dict[str, _Gpu] = {}
        self._made: dict[str, dict[str, _Made]] = {}  # by engine, and the machine that shares its tokens out
        self._engines: dict[str, set[str]] = {}  # of each machine, by its GPUs as it reported last

    @property
    def gpus(self) -> int:
        """How many there are that engines have."""
        return sum(any(names for _, names in gpu.engines.values()) for gpu in self._gpus.values())

    @property
    def held(self) -> int:
        """What was drawn for requests that have not ended yet."""
        return sum(gpu.held for gpu in self._gpus.values())

    # --- requests
    def used(self, engine: str, model: str, caller: str, prompt: int, generated: int) -> None:
        """A request has ended at ``engine``. ``prompt``: without what was at hand; ``caller`` "" = nobody is to know."""
        machines = self._made.get(engine)
        if machines is None:
            return
        weight = PROMPT * prompt + GENERATED * generated
        for made in machines.values():
            made.models[model] = made.models.get(model, 0) + weight
            made.callers[caller] = made.callers.get(caller, 0) + weight

    def fold(self, kept: Collection[str], into: str, *, callers: bool = False) -> None:
        """What other models than ``kept``, or ``callers``, have is ``into``'s, and will be: they have no label any more."""
        made = [one for machines in self._made.values() for one in machines.values()]
        models, whose = [self.models, *[one.models for one in made]], [self.callers, *[one.callers for one in made]]
        for weights in whose if callers else models:
            for name in weights.keys() - kept:
                weights[into] = weights.get(into, 0) + weights.pop(name)

    # --- machines
    def told(
        self, machine: str, totals: Mapping[str, int], engines: Mapping[str, Collection[str] | None], busy: Collection[str],
        now: float,
    ) -> None:  # fmt: skip
        """``machine`` reports ``totals``, which its GPUs have drawn up to now by their UUIDs, and which of them each of its
        ``engines`` has (None = all); ``busy`` are engines at which something is under way. One that says the same as before
        is none: what was made meanwhile waits for the next."""
        known = self._gpus
        if totals and all(uuid in known and known[uuid].total == total for uuid, total in totals.items()):
            return
        own = []
        silent: dict[str, str] = {}  # who read a GPU until now
        for uuid, total in totals.items():
            gpu = known.get(uuid)
            if gpu is None:
                if len(known) >= MOST_GPUS:
                    continue
                gpu = known[uuid] = _Gpu(machine, total, now)
            elif gpu.machine != machine and now - gpu.at >= SILENT_S:
                silent[uuid] = gpu.machine
                gpu.machine = machine
            names = frozenset(name for name, has in engines.items() if has is None or uuid in has)
            gpu.engines[machine] = now, names
            if gpu.machine == machine:
                own.append((uuid, gpu, total))
        there: set[str] = set()
        for uuid, gpu, total in own:
            gpu.engines = {who: said for who, said in gpu.engines.items() if now - said[0] < SILENT_S}
            names = frozenset().union(*(said[1] for said in gpu.engines.values()))
            there |= names
            for machines in [self._made.get(name, {}) for name in names] if uuid in silent else ():
                # (What was made since that one reported has its share of what was drawn since then.)
                if silent[uuid] in machines:
                    machines.setdefault(machine, machines[silent[uuid]])
            self._report(gpu, gpu.drew(total, now), names, busy)
        self._begin_anew(machine, there)

    def _report(self, gpu: _Gpu, drawn: int, names: frozenset[str], busy: Collection[str]) -> None:
        if not names:
            return  # nobody's: it is no affair of a gateway
        made = [found for name in sorted(names) if (found := self._made.get(name, {}).get(gpu.machine)) is not None]
        models = _together(one.models for one in made)
        was, gpu.busy = gpu.busy, not names.isdisjoint(busy)
        if not (was or gpu.busy or models):
            self.idle += drawn
            return
        gpu.held += drawn
        if any(models.values()):
            for whose, weights in ((self.models, models), (self.callers, _together(one.callers for one in made))):
                for name, share in split(gpu.held, weights):
                    whose[name] = whose.get(name, 0) + share
            gpu.held = 0
        elif not gpu.busy:
            self.unshared += gpu.held
            gpu.held = 0

    def _begin_anew(self, machine: str, names: set[str]) -> None:
        """What these engines make from now on is for the machine's next report; others are not its any more."""
        for name in self._engines.get(machine, set()) - names:
            machines = self._made[name]
            del machines[machine]
            if not machines:
                del self._made[name]
        for name in names:
            self._made.setdefault(name, {})[machine] = _Made()
        self._engines[machine] = names

    def forget(self, now: float) -> None:
        """What has been silent for too long is gone."""
        for uuid, gpu in [(uuid, gpu) for uuid, gpu in self._gpus.items() if now - gpu.at >= FORGET_S]:
            self.unshared += gpu.held
            del self._gpus[uuid]
        for machine in self._engines.keys() - {gpu.machine for gpu in self._gpus.values()}:
            self._begin_anew(machine, set())
            del self._engines[machine]


def _together(some: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in some:
        for name, weight in one.items():
            found[name] = found.get(name, 0) + weight
    return found


def split(amount: int, weights: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """``amount`` by ``weights``, of which one at least is above 0, to the last unit."""
    whole = sum(weights.values())
    seen = given = 0
    for name, weight in weights.items():
        seen += weight
        upto = amount * seen // whole
        yield name, upto - given
        given = upto


class Drawn:
    """What is to be told of energy by a process that reads no GPU: tokens that engines have made, by whose they are."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str, str], list[int]] = {}

    def used(self, engine: str, model: str, caller: str, prompt: int, generated: int) -> None:
        """As :meth:`Energy.used`."""
        made = self._made.setdefault((engine, model, caller), [0, 0])
        made[0] += prompt
        made[1] += generated

    def fold(self, kept: Collection[str], into: str, *, callers: bool = False) -> None:
        """As :meth:`Energy.fold`: (what waits here is told with the names it had; they are bounded there as well)."""

    def taken(self) -> list[tuple[tuple[str, str, str], tuple[int, int]]]:
        """What has come since it was taken last."""
        made, self._made = self._made, {}
        return [(whose, (prompt, generated)) for whose, (prompt, generated) in made.items()]
