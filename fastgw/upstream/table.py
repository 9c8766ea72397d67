"""Which engines may serve a model: an immutable snapshot that requests read without a lock.

A model that some engine is known to serve (by configuration, or by its own ``/v1/models``) goes to those engines.
Any other goes to the engines without configured models, which judge the name themselves: llama.cpp ignores it, vLLM
answers 404. With only configured engines an unknown model is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastgw.config import RouteConfig
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MOST_ALIASES: Final = 10_000
"""Further names that engines say for their models."""
MAX_CYCLE: Final = 1000  # turns in one round of a weighted group


class Group:
    """The pools that may serve one model, in configured order, and in turns by weight.

    ``cursor`` is the group's place in its turns: kept here, not on the policy, so that two models that alternate do
    not each meet the same engine for ever. ``pools`` and ``turns`` never change. ``tabled``: a table made it; where it is none
    of the present one's any more, another has taken its place. What a filter makes is its own. ``part``: of one model's
    engines, beside others for the same model. ``notes``: what strategies remember of it, each under its name; ``before``: of
    that what outlives the coming and going of engines (a note's ``memory``), from the group that had its place.
    """

    __slots__ = ("before", "cursor", "lane", "notes", "part", "pools", "tabled", "turns")

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = tuple(pools)
        self.turns = _turns(self.pools)
        self.cursor = 0
        self.lane: Any = None  # the queue's
        self.notes: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.tabled = False
        self.part = False

    def __len__(self) -> int:
        return len(self.pools)

    def memories(self) -> dict[str, Any]:
        """What the group that takes its place goes on with; none of it refers to an engine."""
        found = dict(self.before)
        for name, note in self.notes.items():
            memory = getattr(note, "memory", None)
            if memory is not None:
                found[name] = memory
        return found


def _other_names(engine: Engine) -> list[str]:
    """Of its models, each once; none of them is a model's own."""
    names = [other for fact in engine.facts.values() for other in fact.aliases if other not in engine.facts]
    return list(dict.fromkeys(names))


def _has_adapters(engine: Engine) -> bool:
    for fact in engine.facts.values():  # noqa: SIM110 - a function that is compiled has no room for a generator
        if fact.parent:
            return True
    return False


def _turns(pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """Smooth weighted round robin, laid out once: no engine's turns bunch up."""
    weights = [pool.engine.weight for pool in pools]
    if len(set(weights)) <= 1:
        return pools
    total = sum(weights)
    if total > MAX_CYCLE:
        weights = [max(1, weight * MAX_CYCLE // total) for weight in weights]
        total = sum(weights)
    credit = [0] * len(pools)
    turns = []
    for _ in range(total):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        best = max(range(len(pools)), key=credit.__getitem__)
        credit[best] -= total
        turns.append(pools[best])
    return tuple(turns)


class UpstreamTable:
    """A snapshot; ``version`` grows with each. Pools (and their engines) are shared between snapshots.

    ``routes``: what the configuration says of names. ``deployed`` knows those that come to more than the same engines for
    everybody (``upstream.deployments``, as ``deploy`` lays it out); None where there are none, and then nobody asks.
    """

    __slots__ = ("_by_model", "_groups", "_open", "deployed", "everyone", "models", "pools", "routes", "version")

    def __init__(
        self,
        pools: Sequence[Pool],
        previous: UpstreamTable | None = None,
        routes: Sequence[RouteConfig] = (),
        deploy: Callable[..., Any] | None = None,
    ) -> None:
        self.version: int = previous.version + 1 if previous is not None else 0
        self.pools: tuple[Pool, ...] = tuple(pools)
        before = previous._groups if previous is not None else {}
        # Models that the same engines serve share one group, so that a thousand names cost one layout; and a group goes on
        # from one snapshot to the next, so that a model learned elsewhere does not begin everybody's turns anew. With other
        # weights it is another one.
        self._groups: dict[tuple[object, ...], Group] = {}

        def group(members: Sequence[Pool], part: str = "", was: Group | None = None) -> Group | None:
            key: tuple[object, ...] = tuple([(id(pool), pool.engine.weight) for pool in members])
            if not key:
                return None
            if part:
                key = (part, *key)
            if key not in self._groups:
                made = before.get(key)
                if made is None:
                    made = Group(members)
                    if was is not None:
                        made.before = was.memories()
                self._groups[key] = made
                made.tabled = True
                made.part = bool(part)
            return self._groups[key]

        serving: dict[str, list[Pool]] = {}
        self.models: dict[str, str] = {}  # id -> who owns it, by the kind of engine
        plain = True
        aliases = 0
        for pool in self.pools:
            engine = pool.engine
            plain = plain and not engine.tenant and not _has_adapters(engine)
            for model in sorted(engine.configured_models) if engine.configured_models else engine.discovered_models:
                serving.setdefault(model, []).append(pool)
                self.models.setdefault(model, engine.kind.owner)
            if engine.facts and not engine.configured_models:
                # By its other names it is asked as well, and judges them itself; they are not listed.
                for other in _other_names(engine):
                    if other in serving or aliases < MOST_ALIASES:
                        aliases += other not in serving
                        serving.setdefault(other, []).append(pool)
        was: dict[str, Group] = previous._by_model if previous is not None else {}
        by_model = {model: group(members, "", was.get(model)) for model, members in serving.items()}
        self._by_model: dict[str, Group] = {model: found for model, found in by_model.items() if found is not None}
        self.routes: dict[str, RouteConfig] = {name: one for one in routes for name in (one.model, *one.aliases)}
        self.deployed: Any = None
        special = not plain or any(one.versions or one.aliases or one.models or one.adapter_of for one in routes)
        if special and deploy is not None:
            self.deployed = deploy(routes, self.pools, serving, group, self._by_model)
        shared = [pool for pool in self.pools if not pool.engine.tenant]
        opened, everyone = (previous._open, previous.everyone) if previous is not None else (None, None)
        self._open: Group | None = group([pool for pool in shared if not pool.engine.configured_models], "", opened)
        self.everyone: Group | None = group(shared, "", everyone)

    def groups(self) -> set[Group]:
        """All there are."""
        return set(self._groups.values())

    def known(self, model: str) -> Group | None:
        """The engines that are known to serve ``model`` for everybody, by any of its names."""
        return self._by_model.get(model)

    def group(self, model: str) -> Group | None:
        """The engines that may serve ``model``, well or not, for whoever asks; None = nobody would, or it depends on who asks
        (``deployed``)."""
        found = self._by_model.get(model)
        return found if found is not None or self.deployed is not None else self._open
