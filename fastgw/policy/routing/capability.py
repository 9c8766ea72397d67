"""An engine that can do what the request needs, and of those the one with least to do.

What a request needs are words, of its route (``needs``) and of its own head (``needs_header``), which must be among the machine
and the features of an engine; and room for its prompt and the answer that it allows, where an engine says how long a context it
takes. Whoever has the model in memory comes before those who would have to load it. Where no context is long enough, the
longest is asked: a prompt's tokens are an estimate, and the engine has the last word. Where nobody has what is needed, nobody
is asked.

What engines say of themselves changes seldom: who is fit for which needs is kept for a second.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from fastgw.accel.lookup import first_in
from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.loads import REQUESTS, Loads, scores_of
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.standing import Standing, ranked
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine

KEPT_S: Final = 1.0
MOST_KEPT: Final = 64  # kinds of requests of which it is known who is fit
MOST_NEEDS_BYTES: Final = 256  # of what a head says that is needed; nobody has more


class Offers:
    """What the engines of a group have, told once of those that have the same; ``words``: what any has."""

    __slots__ = ("_places", "_pools", "until", "words")

    def __init__(self, pools: tuple[Pool, ...], until: float) -> None:
        self.until = until
        self._pools = pools
        self._places: dict[frozenset[str], list[int]] = {}
        for at, pool in enumerate(pools):
            self._places.setdefault(frozenset((*pool.engine.features, pool.engine.machine)), []).append(at)
        self.words: frozenset[str] = frozenset().union(*self._places)

    def pools(self, wanted: frozenset[str]) -> tuple[Pool, ...]:
        """Who has all of it, in order."""
        if not wanted <= self.words:
            return ()
        found = [at for words, places in self._places.items() if wanted <= words for at in places]
        return tuple([self._pools[at] for at in sorted(found)])


class Fit:
    """Who has what is needed, for one model. ``sizes``: the contexts that there are among them, in order; ``tiers``: by how
    many of those are too short, who is fit, the better ones first. ``unmet``: what nobody has, in a sentence, "" = somebody has
    all of it."""

    __slots__ = ("model", "pools", "sizes", "tiers", "unmet", "until")

    def __init__(self, offers: Offers, wanted: frozenset[str], model: str, until: float) -> None:
        self.model = model
        self.until = until
        self.pools = offers.pools(wanted)
        self.unmet = "" if self.pools else _unmet(wanted, wanted - offers.words)
        self.sizes = sorted({context_of(pool.engine, model) for pool in self.pools} - {0})
        self.tiers: dict[int, list[Loads]] = {}

    def tier(self, tokens: int) -> list[Loads]:
        """Who is fit for a request of so many tokens."""
        short = bisect_left(self.sizes, tokens)
        found = self.tiers.get(short)
        if found is None:
            least = self.sizes[short] if short < len(self.sizes) else 0
            sizes = [(pool, context_of(pool.engine, self.model)) for pool in self.pools]
            fit = [pool for pool, size in sizes if not size or (least and size >= least)]
            if not fit and self.sizes:
                fit = [pool for pool, size in sizes if size == self.sizes[-1]]
            cold = [pool for pool in fit if is_cold(pool.engine, self.model)]
            warm = [pool for pool in fit if pool not in cold]
            found = self.tiers[short] = [Loads(tuple(some), REQUESTS) for some in (warm, cold) if some]
        return found


def context_of(engine: Engine, model: str) -> int:
    """Tokens that prompt and answer may have there, 0 = not known."""
    facts = engine.facts_of(model)
    return facts.context_tokens if facts is not None else 0


def is_cold(engine: Engine, model: str) -> bool:
    """Whether it says that it would have to load the model first."""
    facts = engine.facts_of(model)
    return facts is not None and facts.loaded is False


class Capability(Strategy):
    """``needs`` by the model of a route; ``header``: the field that tells of more."""

    __slots__ = ("_names", "_needs")

    def __init__(self, header: bytes, needs: dict[str, frozenset[str]]) -> None:
        self._names = (header,) if header else ()
        self._needs = needs

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        tiers = self._known(group, exchange).tier(tokens_of(exchange))
        start = group.cursor
        for loads in tiers:
            at = loads.least_but(0, tried) if tried else loads.least(start if start < len(loads.pools) else 0)
            if at >= 0:
                group.cursor = at + 1 if at + 1 < len(group.pools) else 0
                return loads.pools[at]
        for loads in tiers:
            at = search(loads.pools, 0, tried)
            if at >= 0:
                return loads.pools[at]
        return None

    def able(self, group: Group, exchange: ExchangeState) -> tuple[Pool, ...]:
        found: tuple[Pool, ...] = ()
        for loads in self._known(group, exchange).tier(tokens_of(exchange)):
            found = found + loads.pools if found else loads.pools
        return found

    def unmet(self, group: Group, exchange: ExchangeState) -> str:
        """(Not for want of context: where none is long enough, the longest is asked.)"""
        return self._known(group, exchange).unmet

    def _said(self, exchange: ExchangeState) -> bytes | None:
        return first_in(exchange.head.forward, self._names) if self._names else None

    def _known(self, group: Group, exchange: ExchangeState) -> Fit:
        """Who has what the request needs."""
        said = self._said(exchange)
        model = exchange.substitute or exchange.model
        fits: dict[object, Fit] | None = group.notes.get("capability")
        if fits is None:
            fits = group.notes["capability"] = {}
        key = (said, model)
        fit: Fit | None = fits.get(key)
        if fit is None or monotonic() >= fit.until:
            if len(fits) >= MOST_KEPT - 1:
                fits.clear()
            fit = fits[key] = self._fit(group, fits, self._wanted(said, model), model)
        return fit

    def _fit(self, group: Group, fits: dict[object, Fit], wanted: frozenset[str], model: str) -> Fit:
        """For all who need this, however they say it."""
        now = monotonic()
        fit = fits.get((wanted, model))
        if fit is None or now >= fit.until:
            offers: Offers | None = group.notes.get("offers")
            if offers is None or now >= offers.until:
                offers = group.notes["offers"] = Offers(group.pools, now + KEPT_S)
            fit = fits[wanted, model] = Fit(offers, wanted, model, now + KEPT_S)
        return fit

    def _wanted(self, said: bytes | None, model: str) -> frozenset[str]:
        wanted = self._needs.get(model, frozenset())
        if said:
            if len(said) > MOST_NEEDS_BYTES:
                return frozenset((said.decode("latin-1"),))
            wanted |= {word for one in said.decode("latin-1").split(",") if (word := one.strip())}
        return wanted

    def explain(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> list[Standing]:
        model = exchange.substitute or exchange.model
        wanted = self._wanted(self._said(exchange), model)
        tokens = tokens_of(exchange)
        fit = Fit(Offers(group.pools, 0.0), wanted, model, 0.0).tier(tokens)
        scores, unfit = scores_of(group, REQUESTS), []
        for at, pool in enumerate(group.pools):
            engine = pool.engine
            lacks = ", ".join(sorted(wanted - engine.features - {engine.machine}))
            size = context_of(engine, model)
            tier = next((number for number, loads in enumerate(fit) if pool in loads.pools), -1)
            short = f"takes {size} tokens, and {tokens} are needed" if tier < 0 else ""
            unfit.append(f"lacks {lacks}" if lacks else short)
            if tier > 0 or is_cold(engine, model):
                scores[at] = (scores[at][0] + 1e9, "has to load the model; " + scores[at][1])
        return ranked(group.pools, tried, scores, unfit)


def _unmet(wanted: frozenset[str], lacking: frozenset[str]) -> str:
    if not lacking:
        return f"No engine for this model has all that the request needs at once: {_shown(wanted)}."
    return f"No engine for this model has what the request needs: {_shown(lacking)}."


def _shown(words: frozenset[str]) -> str:
    """As many of them as a sentence holds."""
    text = ", ".join(sorted(words))
    return text if len(text) <= MOST_NEEDS_BYTES else text[:MOST_NEEDS_BYTES] + "..."


def tokens_of(exchange: ExchangeState) -> int:
    """What the request takes of a context, as far as is known: its prompt, and the answer that it allows."""
    facts = exchange.facts
    if facts is None:
        return 0
    limit = facts.token_limit
    return facts.prompt_tokens + (limit if limit > 0 else 0)
