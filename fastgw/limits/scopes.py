"""The limits that stand beside a key's own, of tenants, of models, and of each key for a model: which hold for a request.

Owns: the scopes, by names that the configuration has and no others. Those of one key and one model come to be when the key asks
for it, :data:`MOST_EACH` at most: then one that is as good as new goes, and where none is, keys share one for each model. Must
never: let a name that a client makes up become one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastgw.limits.purse import KEY, TENANT, Purse
from fastgw.limits.scope import EACH, MODEL, Limits, Scope

MOST_EACH: Final = 100_000
"""Of one key and one model each, of about a kilobyte: more than keys ask for at once."""
LOOKED_AT: Final = 2
"""Old ones of which a new one pays for a look."""

NONE: Final = Limits()


def used_of(scope: Scope, now_us: int, today: int) -> dict[str, object]:
    """What may be used of it, and is: of each limit that it has."""
    found: dict[str, object] = {}
    for name, meter in (("requests", scope.requests), ("tokens", scope.tokens)):
        if meter is not None:
            found |= {f"{name}_per_minute": meter.rate, f"{name}_remaining": meter.left(now_us)}
    day = scope.day
    if day is not None:
        left = day.left(today)
        found |= {"quota": day.limit, "quota_used": day.spent, "quota_remaining": left, "quota_reserved": day.reserved}
    if scope.concurrency:
        found |= {"requests_under_way": scope.inflight, "concurrency": scope.concurrency}
    return found


class ModelLimits(NamedTuple):
    """What holds for one model, by all its ``names``: the first is its own."""

    names: tuple[str, ...]
    together: Limits
    each: Limits


class Model:
    """A model that is limited, by ``terms``: all who ask for it ``together``, ``each`` key, or both. ``crowd``: of the keys for
    which there was no room."""

    __slots__ = ("crowd", "each", "terms", "together")

    def __init__(self, terms: ModelLimits) -> None:
        self.terms = terms
        self.each = False
        self.together: Scope | None = None
        self.crowd: Scope | None = None


class Scopes:
    """See the head of this file. ``unread``: where budgets are put of which is to be asked what they have seen."""

    __slots__ = ("_each", "_most", "_order", "_tenants", "_unread", "models", "region")

    def __init__(self, unread: list[Purse], most: int = MOST_EACH) -> None:
        self._unread = unread
        self.region: Any = None  # in which other processes have them too
        self._most = most
        self._tenants: dict[str, Scope] = {}
        self.models: dict[str, Model] = {}
        self._each: dict[tuple[str, str], tuple[Scope, ModelLimits]] = {}
        self._order: deque[tuple[str, str]] = deque()  # of those, the one that was looked at longest ago first

    def __len__(self) -> int:
        return len(self._each)

    def follow(self, tenants: Mapping[str, Limits], models: Iterable[ModelLimits], now_us: int) -> None:
        """These hold from now on; what was taken stays taken."""
        before = self._tenants
        self._tenants = {}
        for name, limits in tenants.items():
            if limits != NONE:
                scope = self._tenants[name] = before.get(name) or Scope(TENANT, name)
                self._limit(scope, limits, (TENANT, name), (), now_us)
        known = {model.terms.names[0]: model for model in self.models.values()}
        self.models = {}
        for terms in models:
            names, together, each = terms
            if together == NONE and each == NONE:
                continue
            model = known.get(names[0]) or Model(terms)
            model.terms = terms
            model.each = each != NONE
            if together == NONE:
                model.together = None
            else:
                model.together = model.together or Scope(MODEL, names[0])
                self._limit(model.together, together, (MODEL, ""), names, now_us)
            if model.crowd is not None:
                self._limit(model.crowd, each, (KEY, ""), names, now_us)
            self.models |= dict.fromkeys(names, model)

    def tenant(self, name: str) -> Scope | None:
        """Of all keys of that tenant; None = it has no limits."""
        return self._tenants.get(name)

    def of(self, key: str, joint: Scope | None, model: str, now_us: int, today: int) -> tuple[Scope, ...]:
        """Those that hold for a request for ``model`` with a ``key`` whose tenant's is ``joint``, the narrowest first."""
        found = self.models.get(model)
        if found is None:
            return () if joint is None else (joint,)
        scopes = []
        if found.each:
            scopes.append(self.of_key(key, found, now_us, today))
        if joint is not None:
            scopes.append(joint)
        if found.together is not None:
            scopes.append(found.together)
        return tuple(scopes)

    def of_key(self, key: str, model: Model, now_us: int, today: int) -> Scope:
        """What one key may use of a model."""
        terms = model.terms
        name = (key, terms.names[0])
        known = self._each.get(name)
        if known is not None and known[1] is terms:
            return known[0]
        if known is None:
            if len(self._each) >= self._most:
                self._sweep(now_us, today)
            if len(self._each) >= self._most:
                if model.crowd is None:
                    model.crowd = Scope(EACH, terms.names[0])
                    self._join(model.crowd, terms.names[0])
                    self._limit(model.crowd, terms.each, (KEY, ""), terms.names, now_us)
                return model.crowd
            self._order.append(name)
        scope = known[0] if known is not None else Scope(EACH, key)
        self._join(scope, terms.names[0])
        self._limit(scope, terms.each, (KEY, key), terms.names, now_us)
        self._each[name] = (scope, terms)
        return scope

    def remember(self, keys: Sequence[str], now_us: int, today: int) -> None:
        """These keys have used something today: of the models whose day is limited for each is to be asked how much."""
        models = [model for model in dict.fromkeys(self.models.values()) if model.terms.each.daily_tokens]
        for key in keys if models else ():
            for model in models:
                if len(self._each) >= self._most:
                    return
                self.of_key(key, model, now_us, today)

    def each_of(self, key: str) -> list[tuple[str, Scope]]:
        """What a key has of models for which each has limits: those that it has asked for."""
        models = dict.fromkeys(self.models.values())
        names = [model.terms.names[0] for model in models if model.each]
        return [(name, known[0]) for name in names if (known := self._each.get((key, name))) is not None]

    def each(self) -> list[tuple[tuple[str, str], Scope]]:
        """What keys have of models for which each has limits, by both names."""
        return [(name, known[0]) for name, known in self._each.items()]

    def together(self) -> list[Scope]:
        """What all keys of a tenant have, and all who ask for a model."""
        models = dict.fromkeys(self.models.values())
        return [*self._tenants.values(), *[model.together for model in models if model.together is not None]]

    def everyone(self) -> list[Scope]:
        """All there are."""
        found: list[Scope] = [*self.together(), *[known[0] for known in self._each.values()]]
        return found + [model.crowd for model in dict.fromkeys(self.models.values()) if model.crowd is not None]

    def days(self) -> list[Purse]:
        """Of all there are."""
        return [scope.day for scope in self.everyone() if scope.day is not None]

    def _join(self, scope: Scope, model: str) -> None:
        if self.region is not None:
            self.region.join(scope, model)

    def _limit(self, scope: Scope, limits: Limits, day_of: tuple[str, str], models: tuple[str, ...], now_us: int) -> None:
        if scope.limit(limits, day_of, models, now_us):
            assert scope.day is not None
            self._unread.append(scope.day)

    def _sweep(self, now_us: int, today: int) -> None:
        """Look at some that were not looked at for longest, and let those go that are as good as new."""
        for _ in range(min(LOOKED_AT, len(self._order))):
            name = self._order.popleft()
            if self._each[name][0].idle(now_us, today):
                del self._each[name]
            else:
                self._order.append(name)
