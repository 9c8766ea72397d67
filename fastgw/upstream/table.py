"""Which engines may serve a model: an immutable snapshot that requests read without a lock.

A model that some engine is known to serve (by configuration, or by its own ``/v1/models``) goes to those engines.
Any other goes to the engines that judge the name themselves: those that are said to take anything, and those of which nobody
has said what they serve, they themselves neither. An engine that has told its list is not asked for what it does not list.
Where none judges, an unknown model is refused here, and in any case one that is ``absent``: who served it has gone, and may be
back in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastgw.config import RouteConfig
from fastgw.errors import GatewayError
from fastgw.net.clock import monotonic
from fastgw.upstream.absent import Absent
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MOST_ALIASES: Final = 10_000
"""Further names that engines say for their models."""


class Group:
    """The pools that may serve one model, in configured order.

    ``cursor``: where strategies that go by loads begin to look among engines that have as much to do. ``pools`` never changes.
    ``tabled``: a table made it; where it is none of the present one's any more, another has taken its place. What a filter
    makes is its own. ``named``: requests that name a model meet it. ``part``: where it is one of several for the same name,
    which ("" = it is the only one); those have ``lanes`` of their own for each route. ``notes``: what strategies have worked
    out of its engines, each under its name.
    """

    __slots__ = ("cursor", "lane", "lanes", "named", "notes", "part", "pools", "tabled")

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = tuple(pools)
        self.cursor = 0
        self.lane: Any = None  # the queue's
        self.lanes: dict[Any, Any] | None = None  # the queue's too, by the terms of routes
        self.notes: dict[str, Any] = {}
        self.tabled = False
        self.named = False
        self.part = ""

    def __len__(self) -> int:
        return len(self.pools)


def _other_names(engine: Engine) -> list[str]:
    """Of its models, each once; none of them is a model's own."""
    names = [other for fact in engine.facts.values() for other in fact.aliases if other not in engine.facts]
    return list(dict.fromkeys(names))


def _by_tag(engine: Engine) -> list[str]:
    """The other names of its configured models, where its kind takes a tag for granted."""
    names = [engine.kind.also(model) for model in sorted(engine.configured_models)]
    return [name for name in names if name and name not in engine.configured_models]


def _owner(engine: Engine, model: str) -> str:
    """Whose the model is, as the engine says."""
    fact = engine.facts.get(engine.served_name or model)
    return fact.owner if fact is not None and fact.owner else engine.kind.owner


def _has_adapters(engine: Engine) -> bool:
    for fact in engine.facts.values():  # noqa: SIM110 - a function that is compiled has no room for a generator
        if fact.parent:
            return True
    return False


def _plain(pools: Sequence[Pool]) -> bool:
    for pool in pools:  # noqa: SIM110 - (as above)
        if pool.engine.tenant or _has_adapters(pool.engine):
            return False
    return True


def _serving(pools: Sequence[Pool], owners: dict[str, str]) -> dict[str, list[Pool]]:
    """Who serves which models, in configured order; ``owners`` is filled with those that are listed, and who owns them. Engines
    that say the same, as most in a large fleet do, are gone through once, and such models have one list in common."""
    sorts: dict[frozenset[str], tuple[str, ...]] = {}
    alike: dict[tuple[str, ...], list[Pool]] = {}
    others: dict[str, list[Pool]] = {}
    for pool in pools:
        engine = pool.engine
        if engine.configured_models:
            models = sorts.get(engine.configured_models)
            if models is None:
                models = sorts[engine.configured_models] = tuple(sorted(engine.configured_models))
            if engine.kind.default_tag:
                for other in _by_tag(engine):
                    others.setdefault(other, []).append(pool)
        else:
            models = engine.discovered_models
            if engine.facts:
                for other in _other_names(engine):
                    others.setdefault(other, []).append(pool)
        alike.setdefault(models, []).append(pool)
    found: dict[str, list[Pool]] = {}
    merged: dict[str, None] = {}
    for models, members in alike.items():
        for model in models:
            if model not in found:
                found[model] = members
                owners[model] = _owner(members[0].engine, model)
            elif model in merged:
                found[model] += members
            else:
                found[model] = [*found[model], *members]
                merged[model] = None
    aliases = 0
    for other, members in others.items():
        # By its other names an engine is asked as well, and judges them itself; they are not listed.
        if other in found:
            found[other] = [*found[other], *members]
            merged[other] = None
        elif aliases < MOST_ALIASES:
            aliases += 1
            found[other] = members
    if merged:
        order = {pool: at for at, pool in enumerate(pools)}
        for model in merged:
            found[model].sort(key=order.__getitem__)
    return found


class UpstreamTable:
    """A snapshot; ``version`` grows with each. Pools (and their engines) are shared between snapshots.

    ``routes``: what the configuration says of names. ``deployed`` knows those that come to more than the same engines for
    everybody (``upstream.deployments``, as ``deploy`` lays it out); None where there are none, and then nobody asks.
    ``served``: a name by which any engine without configured models is asked, whatever it lists; so it is where none is named
    at all.
    """

    __slots__ = (
        "_by_model", "_groups", "_nameless", "_open", "absent", "anywhere", "deployed", "everyone", "models", "pools", "routes",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        pools: Sequence[Pool],
        previous: UpstreamTable | None = None,
        routes: Sequence[RouteConfig] = (),
        deploy: Callable[..., Any] | None = None,
        absent: Absent | None = None,
        served: str = "",
    ) -> None:
        if absent is None:
            absent = previous.absent if previous is not None else Absent()
        self.absent: Absent = absent  # models that may be back; all tables of a gateway have the same
        self.version: int = previous.version + 1 if previous is not None else 0
        self.pools: tuple[Pool, ...] = tuple(pools)
        before = previous._groups if previous is not None else {}
        # Models that the same engines serve share one group; and a group goes on from one snapshot to the next, so that a model
        # learned elsewhere does not begin everybody's turns anew. With other weights it is another one.
        self._groups: dict[tuple[object, ...], Group] = {}

        told: dict[int, tuple[Sequence[Pool], tuple[object, ...]]] = {}  # lists that were seen, and what tells them

        def group(members: Sequence[Pool], part: str = "", named: bool = True) -> Group | None:
            if not members:
                return None
            if id(members) not in told:
                told[id(members)] = members, (*members, *[pool.engine.weight for pool in members])
            key = (part, told[id(members)][1])
            found = self._groups.get(key)
            if found is None:
                made = before.get(key)
                found = self._groups[key] = Group(members) if made is None else made
                found.tabled = True
                found.named = False
                found.part = part
            found.named = found.named or named
            return found

        self.models: dict[str, str] = {}  # id -> who owns it, by the kind of engine
        serving = _serving(self.pools, self.models)
        lists = {id(members): members for members in serving.values()}  # (most models have theirs in common)
        groups = {at: group(members) for at, members in lists.items()}
        by_model = {model: groups[id(members)] for model, members in serving.items()}
        self._by_model: dict[str, Group] = {model: found for model, found in by_model.items() if found is not None}
        self.routes: dict[str, RouteConfig] = {name: one for one in routes for name in (one.model, *one.aliases)}
        self.anywhere = frozenset(("", served))
        self.deployed: Any = None
        special = any(one.versions or one.aliases or one.models or one.adapter_of for one in routes)
        if deploy is not None and (special or not _plain(self.pools)):
            self.deployed = deploy(routes, self.pools, serving, group, self._by_model, absent, self.anywhere)
        shared = [pool for pool in self.pools if not pool.engine.tenant]
        self._open: Group | None = group([pool for pool in shared if pool.engine.judges()])
        self._nameless: Group | None = group([pool for pool in shared if not pool.engine.configured_models])
        self.everyone: Group | None = group(shared, "", False)

    def groups(self) -> set[Group]:
        """All there are."""
        return set(self._groups.values())

    def known(self, model: str) -> Group | None:
        """The engines that are known to serve ``model`` for everybody, by any of its names."""
        return self._by_model.get(model)

    def named(self) -> list[Group]:
        """Those whose engines are each other's like: a request for a model goes to one of them."""
        return [group for group in self._groups.values() if group.named]

    def away(self, model: str, retry_after_s: float, flow: str) -> GatewayError | None:
        """What is told to who of ``flow`` asks for ``model``, which nobody serves, where those who do may be on their way;
        None = they are not."""
        route = self.routes.get(model)
        stands_for = (route.model, *route.models) if route is not None else ()
        return self.absent.refusal((model, *stands_for), monotonic(), retry_after_s, flow)

    def group(self, model: str) -> Group | None:
        """The engines that may serve ``model``, well or not, for whoever asks; None = nobody would, or it depends on who asks
        (``deployed``)."""
        found = self._by_model.get(model)
        if found is not None or self.deployed is not None:
            return found
        if model in self.anywhere:
            return self._nameless
        return None if self._open is None or self.absent.lately(model, monotonic()) else self._open
