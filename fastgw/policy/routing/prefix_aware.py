"""The engine that has most of the prompt at hand, unless it has too much to do.

What engines have in their caches is not asked, but remembered: which prompts went where, as hashes of their beginnings
(``accel.prefixes``), of each engine as much as ``prefix_cache_tokens`` says that it keeps. What a request costs at an engine is
what that would have to do: what it has under way (prompts to be read, as far as they are not at hand, and answers to be made),
and of this prompt what is missing. The engine that has most of it is compared by that with the one that has least to do; so the
beginning that everybody sends (a system prompt) comes to as many engines as that takes, and a conversation stays where it is
while that is quicker than to read it anew elsewhere.

The guard: whatever it would save, no engine gets a request for its cache that has more than ``prefix_balance_percent`` of its
share of all requests under way, but for a few. Prompts of less than a block go by load alone.

The prompt is what stands in ``messages``, ``prompt`` or ``input``, as bytes: the model and the parameters beside it do not
matter. """

from __future__ import annotations

from typing import Any, Final

from fastgw.accel.bodies import prompt_span
from fastgw.accel.prefixes import Prefixes
from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.least_loaded import by_load
from fastgw.policy.routing.loads import TOKENS, loads_of, scores_of
from fastgw.stats import Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

FEW: Final = 4  # requests under way at an engine that are too few to be called an imbalance


class Known:
    """What is worked out of one group. ``slots``: of its engines in the table, by their places; ``places``: the reverse. ``of``
    tells whose table that is."""

    __slots__ = ("loads", "of", "places", "slots")

    def __init__(self, group: Group, prefixes: Prefixes, of: object) -> None:
        self.of = of
        self.slots = [prefixes.slot(pool.engine.name) for pool in group.pools]
        self.places = {slot: place for place, slot in enumerate(self.slots)}
        self.loads = loads_of(group, TOKENS)


class PrefixAware(Strategy):
    """``secret`` keys the hashes; ``most_bytes``: of the table, one for all models; ``cache_bytes``: of prompts that an engine
    keeps. ``remembered``: what outlives this strategy when settings change; the table does, where it is to be as large."""

    __slots__ = ("_balance_percent", "_cache_bytes", "_most_bytes", "_of", "_prefixes", "_remembered", "_secret", "_stats")

    def __init__(
        self,
        secret: bytes,
        most_bytes: int,
        cache_bytes: int,
        balance_percent: int,
        stats: Stats,
        remembered: dict[str, Any],
    ) -> None:
        self._secret = secret
        self._most_bytes = most_bytes
        self._cache_bytes = cache_bytes
        self._balance_percent = balance_percent
        self._stats = stats
        self._remembered = remembered
        self._prefixes: Prefixes | None = None
        self._of = object()  # (notes that went by another table do not keep that)

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        prefixes = self._prefixes
        if prefixes is None:
            prefixes = self._begin()
        known: Known | None = group.notes.get("prefix")
        if known is None or known.of is not self._of:
            known = group.notes["prefix"] = Known(group, prefixes, self._of)
        prefixes.slot_bytes = self._cache_bytes
        size = look(prefixes, exchange)
        if not prefixes.count:
            return by_load(group, tried, TOKENS)
        facts = exchange.facts
        assert facts is not None
        tokens = facts.prompt_tokens
        loads = known.loads
        pool = by_load(group, tried, TOKENS)
        if pool is None:
            return None
        stats = self._stats
        stats.prefix_tokens += tokens
        cached = 0
        found = prefixes.found
        if found:
            place = loads.place(pool)
            cost = to_do(pool) + tokens
            refused = False
            better = -1
            for number in range(found):
                slot = prefixes.holder(number)
                at: int = known.places.get(slot, -1)
                if at < 0:
                    continue
                held = prefixes.held(number) * tokens // size
                if at == place:
                    # It would be asked for its load alone: what it has counts all the same.
                    if to_do(pool) + tokens - held <= cost:
                        cost = to_do(pool) + tokens - held
                        cached = held
                        better = at
                    continue
                other: Pool = loads.pools[at]
                less = to_do(other) + tokens - held
                if less >= cost:
                    continue
                if other in tried or not other.engine.usable():
                    continue
                if loads.load(at) >= FEW and loads.load(at) > loads.bound(at, self._balance_percent):
                    refused = True
                    continue
                cost = less
                cached = held
                better = at
            if better >= 0:
                pool = loads.pools[better]
                stats.prefix_hits += 1
                stats.prefix_hit_tokens += cached
            elif refused:
                stats.prefix_moved += 1
        place = loads.place(pool)
        if place >= 0:
            prefixes.put(known.slots[place])
        if pool.engine.watch is not None:
            pool.engine.watch.known = cached
        return pool

    def _begin(self) -> Prefixes:
        """The first request: the table is made now, or is the one that a strategy before this has filled."""
        found: Prefixes | None = self._remembered.get("prefix")
        if found is None or found.most_bytes != self._most_bytes:
            found = self._remembered["prefix"] = Prefixes(self._secret, self._most_bytes, self._cache_bytes)
        self._prefixes = found
        return found

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        found = scores_of(group, TOKENS)
        facts = exchange.facts
        tokens = facts.prompt_tokens if facts is not None else 0
        known: Known | None = group.notes.get("prefix")
        has: dict[int, int] = {}
        prefixes = self._prefixes
        if prefixes is not None and known is not None and known.of is self._of:
            size = look(prefixes, exchange)
            for number in range(prefixes.found):
                place = known.places.get(prefixes.holder(number), -1)
                has[place] = prefixes.held(number) * tokens // size
        for at, pool in enumerate(group.pools):
            held = has.get(at, 0)
            found[at] = (
                float(to_do(pool) + tokens - held),
                f"has {held} of the prompt's {tokens} tokens; {to_do(pool)} tokens are to be read and made there, "
                f"{pool.engine.inflight} requests under way",
            )
        return found


def to_do(pool: Pool) -> int:
    """Tokens that the engine has to read and to make before it has nothing to do, for a weight of 1.

    Of what is to be read half: a prompt counts whole until its first token has come, and is half read by then on average. And
    who goes elsewhere for that reads anew, which delays whoever comes next there, and takes the room of other prompts.
    """
    watch = pool.engine.watch
    return (watch.reading // 2 + watch.making) // pool.engine.weight if watch is not None else 0


def look(prefixes: Prefixes, exchange: ExchangeState) -> int:
    """Have ``prefixes`` look at the request's prompt; returns its bytes. (Of one without a prompt, ``count`` is 0 then.)"""
    facts = exchange.facts
    body = exchange.body
    if facts is None or not body:
        prefixes.look(b"", 0, 0, 0)
        return 0
    start, end = prompt_span(body, facts)
    prefixes.look(body, start, end, hash(exchange.substitute or facts.model))
    return end - start
