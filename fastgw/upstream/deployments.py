"""How a name becomes engines where that depends on who asks: versions with shares, tenants with engines of their own, adapters,
further names of a model, and names that stand for several.

Owns: for one table, what each such name comes to, laid out once from the routes of the configuration and from what the engines
say. A plain model, which the same engines serve for everybody, is not here: the table finds it without asking. Must never: give
a tenant's engines to anybody else, or wait. Invariants: a look-up is one in a dictionary, however many names there are; and
what a request gets depends, but for the health of engines, on what it says of itself (:class:`Asker`), so that it gets the same
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fastgw.accel.hashing import digest
from fastgw.config import RouteConfig
from fastgw.limits.account import flow_of
from fastgw.net.clock import monotonic
from fastgw.upstream.absent import Absent
from fastgw.upstream.pool import Pool

if TYPE_CHECKING:
    from fastgw.upstream.table import Group

MOST_LOOKED_AT: Final = 64
"""Engines of one model that are looked at to choose between the models of a class."""
OWNER: Final = "fastgw"


class Grouping(Protocol):
    """The group of these engines, the table's own: which ``part`` of a name's, and whether a name leads there."""

    def __call__(self, members: Sequence[Pool], part: str = ..., named: bool = ...) -> Group | None: ...



Cuts = dict[tuple[object, ...], tuple[list[Pool], dict[str, list[Pool]]]]


class Asker:
    """Who asks, as far as it decides which engines he gets. ``flow``: his tenant's, or his key's own. ``draw``: a number of
    this request's, by which shares are drawn; ``key``: what names him, by which they are where they are to stay. ``models``:
    those that he may use, None = all. ``tried``: engines that have failed him. ``meets``: whether a part has what he needs."""

    __slots__ = ("draw", "flow", "key", "meets", "models", "tried")

    def __init__(
        self,
        flow: str = "",
        draw: int = 0,
        key: str = "",
        models: frozenset[str] | None = None,
        tried: tuple[Pool, ...] = (),
        meets: Callable[[Group], bool] | None = None,
    ) -> None:
        self.flow = flow
        self.draw = draw
        self.key = key
        self.models = models
        self.tried = tried
        self.meets = meets


class Side:
    """The engines of one model for some of those who ask: all of them, and where it has ``parts`` (its share, which version,
    its engines, None = it has none) one of these, as long as an engine of it is well and it has what the request needs.

    A draw falls on a part by the shares of all, of those without engines too, and where that has nobody it falls again, among
    the others: so whatever part comes, goes, falls ill or is well again, no draw moves but those that are its own.
    """

    __slots__ = ("parts", "salt", "whole")

    def __init__(self, whole: Group, parts: Sequence[tuple[int, str, Group | None]], salt: str) -> None:
        """``salt``: where a key stays at its part, what keeps the draws of several models apart; "" = it does not."""
        self.whole = whole
        self.parts = tuple(parts)
        self.salt = salt

    def drawn(self, asker: Asker) -> tuple[str, Group]:
        """The part that is his ("" = there are none), and the engines that he gets: of another one where that has nobody."""
        left = self.parts
        if not left:
            return "", self.whole
        # (The same in every process, and after every restart.)
        draw = int.from_bytes(digest(f"{self.salt}\n{asker.key}".encode())[:16]) if self.salt else asker.draw
        his = ""
        while left:
            draw, number = divmod(draw, sum([share for share, _, _ in left]))
            at = 0
            while number >= left[at][0]:
                number -= left[at][0]
                at += 1
            _, version, group = left[at]
            his = his or version
            if group is not None and alive(group, asker.tried) and (asker.meets is None or asker.meets(group)):
                return his, group
            left = left[:at] + left[at + 1 :]
        return his, self.whole

    def group(self, asker: Asker) -> Group:
        return self.drawn(asker)[1]


def alive(group: Group, tried: tuple[Pool, ...]) -> bool:
    """Whether an engine of it may be asked, now or when it has room. (One that is ejected, or wants to rest, is asked
    where nobody else is: its version's share is the others' until then.)"""
    for pool in group.pools:
        engine = pool.engine
        if pool in tried or engine.healthy is False or engine.ejected_until or engine.rests():
            continue
        if engine.permitted():
            return True
    return False


class Deployed:
    """See the head of this file."""

    __slots__ = ("_absent", "_anywhere", "_everyone", "_models", "_nameless", "_open", "_plain", "aliases", "classes")

    def __init__(
        self,
        plain: dict[str, Group],
        models: dict[str, dict[str, Side]],
        open_: dict[str, Group],
        nameless: dict[str, Group],
        everyone: dict[str, Group],
        absent: Absent,
        anywhere: frozenset[str],
    ) -> None:
        self._absent = absent
        self._anywhere = anywhere
        self._plain = plain
        self._models = models
        self._open = open_
        self._nameless = nameless
        self._everyone = everyone
        self.aliases: dict[str, str] = {}
        self.classes: dict[str, RouteConfig] = {}

    def side(self, model: str, asker: Asker) -> Side | None:
        """What he gets of a model that is not plain."""
        sides = self._models.get(model)
        return None if sides is None else sides.get(asker.flow) or sides.get("")

    def known(self, model: str, asker: Asker) -> Group | None:
        """The engines that are known to serve the model, for him."""
        group = self._plain.get(model)
        if group is None:
            side = self.side(model, asker)
            group = None if side is None else side.group(asker)
        return group

    def group(self, model: str, asker: Asker) -> Group | None:
        """The engines that may serve a model, well or not; None = nobody would, for him."""
        known = self.known(model, asker)
        if known is not None or self._absent.lately(model, monotonic(), asker.flow):
            return known
        if model in self._anywhere:
            return self._nameless.get(asker.flow) or self._nameless.get("")
        return self._open.get(asker.flow) or self._open.get("")

    def everyone(self, asker: Asker) -> Group | None:
        """The engines that may serve what names no model."""
        return self._everyone.get(asker.flow) or self._everyone.get("")

    def hidden(self, name: str, asker: Asker) -> bool:
        """Whether ``name`` is there for others alone: he is told that there is none such."""
        name = self.aliases.get(name, name)
        route = self.classes.get(name)
        models = (name,) if route is None else route.models
        return all(model in self._models and self.side(model, asker) is None for model in models)

    def may_use(self, name: str, asker: Asker) -> bool:
        """Whether his key, which does not name ``name`` among its models, may use it by what it stands for."""
        if asker.models is None:
            return True
        if name in self.aliases:
            return self.aliases[name] in asker.models
        route = self.classes.get(name)
        return route is not None and any(model in asker.models for model in route.models)

    def stands_for(self, name: str, asker: Asker) -> str:
        """The model that is asked for where a client says ``name``; "" = that very one."""
        route = self.classes.get(name)
        if route is None:
            return self.aliases.get(name, "")
        found = self.ranked(route, asker)
        return found[0][1] if found else ""

    def ranked(self, route: RouteConfig, asker: Asker) -> list[tuple[tuple[object, ...], str]]:
        """The models of a class that he may have, the best first, each with what it is judged by: whether no engine takes a
        request now, whether it would have to be loaded first, whether none is on the machine that is preferred, the load."""
        free = asker.models is None or route.model in asker.models
        found = []
        for at, model in enumerate(route.models):
            group = self.known(model, asker)
            if group is None or not (free or (asker.models is not None and model in asker.models)):
                continue
            found.append(((*_judged(group, model, route), at), model))
        return sorted(found)

    def owners(self, listed: Mapping[str, str], asker_flow: str) -> dict[str, str]:
        """The models that one of that ``flow`` sees, each with its owner, of ``listed``: plain ones, and all that need not
        be."""
        asker = Asker(asker_flow)
        found = {name: owner for name, owner in listed.items() if not self.hidden(name, asker)}
        judged = self._open.get(asker_flow) or self._open.get("")  # those who may know any name
        for alias, model in self.aliases.items():
            if model in found or (judged is not None and not self.hidden(model, asker)):
                found.setdefault(alias, found.get(model, OWNER))
        for name, route in self.classes.items():
            if any(model in found for model in route.models):
                found.setdefault(name, OWNER)
        return found

    def engines(self, name: str, asker: Asker) -> list[tuple[str, Group]]:
        """The engines that are known to serve a name that he sees, whatever is drawn, each with the model that is meant."""
        route = self.classes.get(name)
        models = (self.aliases.get(name, name),) if route is None else route.models
        found = []
        for model in models:
            side = self.side(model, asker)
            group = self._plain.get(model) if side is None else side.whole
            if group is not None:
                found.append((model, group))
        return found

    @property
    def flows(self) -> set[str]:
        """Those who have engines of their own."""
        return {flow for flow in self._everyone if flow}


def _judged(group: Group, model: str, route: RouteConfig) -> tuple[object, ...]:
    usable = loaded = there = False
    least = 0.0
    for pool in group.pools[:MOST_LOOKED_AT]:
        engine = pool.engine
        if not engine.usable():
            continue
        load = (engine.inflight + 1) / (engine.slots or engine.weight)
        least = min(least, load) if usable else load
        usable = True
        facts = engine.facts_of(model)
        loaded = loaded or facts is None or facts.loaded is not False
        there = there or engine.machine == route.machine
    return not usable, not loaded, bool(route.machine) and not there, least if route.choose == "least_loaded" else 0.0


def deployed(
    routes: Sequence[RouteConfig],
    pools: Sequence[Pool],
    serving: Mapping[str, Sequence[Pool]],
    grouping: Grouping,
    plain: dict[str, Group],
    absent: Absent,
    anywhere: frozenset[str] = frozenset({""}),
) -> Deployed | None:
    """What names come to that are more than plain models; those that are not plain are taken out of ``plain``. None = there
    are none."""
    by_model = {route.model: route for route in routes if not route.models}
    tenants = {pool.engine.tenant for pool in pools} != {""} and bool(pools)
    adapters = _adapters(pools, by_model)
    aliases = {alias: route.model for route in routes for alias in route.aliases}
    classes = {route.model: route for route in routes if route.models}
    special = {route.model for route in by_model.values() if route.versions} | adapters.keys()
    if not (tenants or special or aliases or classes):
        return None
    if tenants:
        special |= {model for model, members in serving.items() if any(pool.engine.tenant for pool in members)}
    models: dict[str, dict[str, Side]] = {}
    split: dict[tuple[int, ...], dict[str, list[Pool]]] = {}  # (most models have their lists in common)
    cuts: Cuts = {}
    for model in special:
        route = by_model.get(model)
        sides = models[model] = {}
        holders, base = serving.get(model, ()), serving.get(adapters.get(model, ""), ())
        known = split.get((id(holders), id(base)))
        if known is None:
            known = split[id(holders), id(base)] = _by_flow([*holders, *base])
        for flow, members in known.items():
            made = _side(model, bool(flow), route, members, holders, grouping, cuts)
            if made is not None:
                sides[flow] = made
        if model in plain and sides.keys() == {""} and not sides[""].parts and len(sides[""].whole) == len(plain[model]):
            del models[model]  # (an adapter that nobody else could load)
            continue
        plain.pop(model, None)
        if not sides:
            del models[model]
    for name in (*aliases, *classes):
        plain.pop(name, None)
        models.pop(name, None)
    if not (tenants or models or aliases or classes):
        return None
    judges = _groups([pool for pool in pools if pool.engine.judges()], grouping, True)
    nameless = _groups([pool for pool in pools if not pool.engine.configured_models], grouping, True)
    found = Deployed(plain, models, judges, nameless, _groups(pools, grouping, False), absent, anywhere)
    found.aliases = aliases
    found.classes = classes
    return found


def _by_flow(pools: Iterable[Pool]) -> dict[str, list[Pool]]:
    """Everybody's engines ("") and those of single tenants, each engine once."""
    found: dict[str, list[Pool]] = {}
    for pool in dict.fromkeys(pools):
        found.setdefault(flow_of(pool.engine.tenant) if pool.engine.tenant else "", []).append(pool)
    return found


def _groups(pools: Iterable[Pool], grouping: Grouping, named: bool) -> dict[str, Group]:
    """Of each flow its own. (They are parts: a route's requests that are judged by different engines wait apart.)"""
    made = {flow: grouping(members, f"of {flow}", named) for flow, members in _by_flow(pools).items()}
    return {flow: group for flow, group in made.items() if group is not None}


def _side(
    model: str,
    tenant: bool,
    route: RouteConfig | None,
    members: Sequence[Pool],
    holders: Sequence[Pool],
    grouping: Grouping,
    cuts: Cuts,
) -> Side | None:
    """What of ``members``, which are a ``tenant``'s or everybody's, gets which share. ``holders`` have the model; the others,
    of an adapter, could load it. ``cuts``: what was told of other models with these very ``members``."""
    versions = route.versions if route is not None else {}
    if versions and tenant:
        # (His engines are his, whatever their version.)
        named = any(versions.get(pool.engine.version, 0) for pool in members)
        versions = versions if named else {}
    if versions:
        key = (id(members), *[name for name, share in versions.items() if share])
        if key not in cuts:
            cuts[key] = _by_version(members, versions)
        counted, of = cuts[key]
        shares = [(versions[name], name, part) for name, part in of.items()]
    else:
        holding = set(holders)
        counted = [
            pool for pool in members if pool in holding or (pool.engine.kind.loads_adapters and not pool.engine.served_name)
        ]
        first = [pool for pool in counted if pool in holding]
        shares = [(1, "", first)] if len(first) < len(counted) else []
    whole = grouping(counted, model if route is not None else "")
    if whole is None:
        return None
    parts = [(share, name, grouping(part, f"{model} {name}")) for share, name, part in shares]
    return Side(whole, parts, model if route is not None and route.sticky else "")


def _by_version(members: Sequence[Pool], versions: Mapping[str, int]) -> tuple[list[Pool], dict[str, list[Pool]]]:
    """Those of ``members`` that get any share, and of each version its own."""
    counted: list[Pool] = []
    of: dict[str, list[Pool]] = {name: [] for name, share in versions.items() if share}
    for pool in members:
        mine = of.get(pool.engine.version)
        if mine is not None:
            mine.append(pool)
            counted.append(pool)
    return counted, of


def _adapters(pools: Sequence[Pool], by_model: Mapping[str, RouteConfig]) -> dict[str, str]:
    """The LoRA adapters that are known, and the model of each: by the configuration, or by the engines."""
    found = {facts.name: facts.parent for pool in pools for facts in pool.engine.facts.values() if facts.parent}
    found.update({model: route.adapter_of for model, route in by_model.items() if route.adapter_of})
    return found
