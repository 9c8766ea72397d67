"""The answers that fastgw gives itself: liveness, readiness, health, and the list of models.

Readiness asks the engines when the last verdicts are older than a second, so that what it says is true now; many
askers at once share one round of probes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import Any, Final

import msgspec

from fastgw.config.money import written
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.handshake import begin_session
from fastgw.exchange.phases import IS_SERVED, LOCAL
from fastgw.exchange.turns import Unable
from fastgw.limits.account import Account
from fastgw.limits.scope import Scope
from fastgw.limits.scopes import used_of
from fastgw.net.clock import micros, monotonic
from fastgw.protocol import anthropic
from fastgw.protocol.openai import model_object, models_list
from fastgw.upstream.models import MAX_NAME_CHARS
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group, UpstreamTable

FRESH_S: Final = 1.0
MOST_PAGES: Final = 16
MOST_LOOKED_AT: Final = 20_000
"""Engines, of all models of a list together, of which it is looked up what they say (:data:`Told`); a list of more leaves it
out."""
MOST_TOLD: Final = 256  # models of which that is remembered, for who asks for one alone

Told = tuple[int, str, str]
"""Of a model: how much context fits, of what it is made (``root``), and of which it is an adapter (``parent``)."""
NOTHING: Final[Told] = (0, "", "")
Owners = dict[str, tuple[int, str]]  # the place of a model in the list, and whose it is
Spawn = Callable[[str, Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class _Catalogue:
    """The models of one table as they are listed: (place in the list, owner) by name, and the pages that were asked for.

    Some tables have ten thousand models, and a page of them takes milliseconds to write: each is written once. Keys that may
    use some models only see their own; what is remembered of those are the last :data:`MOST_PAGES`. ``down``: engines without
    which a model is not listed.
    """

    __slots__ = ("_created", "_flows", "_others", "_pages", "_served", "_told", "down", "most_bytes", "owners", "table")

    def __init__(self, table: UpstreamTable, served: str, created: int, down: frozenset[Pool]) -> None:
        self.table = table
        self.down = down
        self._served = served
        self.owners = self._seen("")
        # Those who have engines of their own, and what some of them see.
        self._flows: set[str] = table.deployed.flows if table.deployed is not None else set()
        self._others: dict[str, Owners] = {}
        # Of the longest name, also of one that is listed for some: four bytes of UTF-8, as `%f0` each.
        self.most_bytes = 12 * max(map(len, (*self.owners, *table.models)), default=0)
        self.most_bytes = max(self.most_bytes, 12 * MAX_NAME_CHARS)
        self._created = created
        self._pages: dict[tuple[frozenset[str] | None, str, bool], bytes] = {}
        self._told: dict[tuple[str, str], Told] = {}

    def seen_by(self, flow: str) -> Owners:
        """All that one of that ``flow`` may see."""
        if flow not in self._flows:
            return self.owners
        found = self._others.get(flow)
        if found is None:
            if len(self._others) >= MOST_PAGES:
                del self._others[next(iter(self._others))]
            found = self._others[flow] = self._seen(flow)
        return found

    def _seen(self, flow: str) -> Owners:
        table = self.table
        models = table.models if table.deployed is None else table.deployed.owners(table.models, flow)
        if self.down:
            models = {name: owner for name, owner in models.items() if self._up(name, flow)}
        owners = models if not self._served or self._served in models else {self._served: "fastgw", **models}
        return {name: (at, owner) for at, (name, owner) in enumerate(owners.items())}

    def _up(self, name: str, flow: str) -> bool:
        """Whether an engine of it takes requests, or nobody knows of one."""
        pools = [pool for _, group in self._serving(name, flow) for pool in group.pools] if self.down else []
        return not pools or any(pool not in self.down for pool in pools)

    def page(self, allowed: frozenset[str] | None, flow: str, to_anthropic: bool) -> bytes:
        """The answer of ``GET /v1/models`` for one of that ``flow``, with those of ``allowed`` (None = with all)."""
        key = allowed, flow if flow in self._flows else "", to_anthropic
        page = self._pages.get(key)
        if page is None:
            owners = self.seen_by(flow) if allowed is None else self._usable(allowed, flow)
            if len(self._pages) >= MOST_PAGES:
                del self._pages[next(iter(self._pages))]
            if to_anthropic:
                page = anthropic.models_list([(name, self._created) for name in owners])
            else:
                told = self._all_told(owners, flow)
                page = models_list(
                    [(name, owner, self._created, *told.get(name, NOTHING)) for name, (_, owner) in owners.items()]
                )
            self._pages[key] = page
        return page

    def _all_told(self, names: Iterable[str], flow: str) -> dict[str, Told]:
        """What is told of each name; nothing where too many engines would have to be looked at."""
        serving = {name: self._serving(name, flow) for name in names}
        if sum([len(group) for several in serving.values() for _, group in several]) > MOST_LOOKED_AT:
            return {}
        return {name: _told(several) for name, several in serving.items()}

    def told(self, name: str, flow: str) -> Told:
        """What is told of a model, by all engines to which a request for it may go."""
        key = name, flow if flow in self._flows else ""
        found = self._told.get(key)
        if found is None:
            if len(self._told) >= MOST_TOLD:
                del self._told[next(iter(self._told))]
            found = self._told[key] = _told(self._serving(name, flow))
        return found

    def _serving(self, name: str, flow: str) -> list[tuple[str, Group]]:
        """The engines that are known to serve it for one of that ``flow``, each with the model that they are asked for."""
        deployed = self.table.deployed
        if deployed is None:
            group = self.table.known(name)
            return [(name, group)] if group is not None else []
        from fastgw.upstream.deployments import Asker  # (most gateways have none)

        found: list[tuple[str, Group]] = deployed.engines(name, Asker(flow))
        return found

    def owner(self, name: str, allowed: frozenset[str] | None, flow: str) -> str | None:
        """Whose the model ``name`` of that page is; None = it is not there."""
        owners = self.seen_by(flow)
        found = owners.get(name)
        if allowed is not None and name in allowed:
            found = found or self._other(name, flow)
        elif allowed is not None and not self._stands_for(name, allowed, owners):
            found = None
        return found[1] if found is not None else None

    def _usable(self, allowed: frozenset[str], flow: str) -> Owners:
        """What a key that names ``allowed`` may use of all that is seen, also by what that stands for; and those of its names
        that are not seen because they are an engine's further names for its models."""
        owners = self.seen_by(flow)
        deployed = self.table.deployed
        names = set(allowed & owners.keys())
        if deployed is not None:
            further = [name for name in (*deployed.aliases, *deployed.classes) if name in owners]
            names |= {name for name in further if self._stands_for(name, allowed, owners)}
        found = {name: owners[name] for name in sorted(names, key=lambda name: owners[name][0])}
        for name in sorted(allowed - owners.keys()):
            other = self._other(name, flow)
            if other is not None:
                found[name] = other
        return found

    def _stands_for(self, name: str, allowed: frozenset[str], owners: Owners) -> bool:
        """Whether a key may use the name by a model for which it stands."""
        deployed = self.table.deployed
        if deployed is None:
            return False
        route = deployed.classes.get(name)
        if route is not None:
            return any(model in allowed and model in owners for model in route.models)
        return deployed.aliases.get(name) in allowed

    def _other(self, name: str, flow: str) -> tuple[int, str] | None:
        """As it would be listed, where an engine has it as a further name for a model."""
        deployed = self.table.deployed
        if deployed is None:
            group = self.table.known(name)
        else:
            from fastgw.upstream.deployments import Asker  # (most gateways have none)

            group = deployed.known(name, Asker(flow))
        return (-1, group.pools[0].engine.kind.owner) if group is not None and self._up(name, flow) else None


def _told(serving: list[tuple[str, Group]]) -> Told:
    """The least of the contexts that engines say they take, and what the first that says so says of its making."""
    said = [pool.engine.facts_of(model) for model, group in serving for pool in group.pools]
    facts = [one for one in said if one is not None]
    fits = min([one.context_tokens for one in facts if one.context_tokens], default=0)
    return fits, next((one.root for one in facts if one.root), ""), next((one.parent for one in facts if one.parent), "")


class LocalEndpoints:
    """Handlers by name, as the endpoint table calls them."""

    __slots__ = ("_core", "_created", "_listed", "_spawn")

    def __init__(self, core: GatewayCore, spawn: Spawn) -> None:
        self._core = core
        self._spawn = spawn
        self._created = int(time())
        self._listed = _Catalogue(core.table, core.config.served_model_name, self._created, frozenset())
        core.locals.update(
            liveness=self.liveness,
            readiness=self.readiness,
            health=self.health,
            healthz=self.healthz,
            ready=self.ready,
            models=self.models,
            model=self.model,
            usage=self.usage,
            tunnel=partial(begin_session, core, Unable()),
        )

    def _json(self, exchange: Exchange, status: int, value: object) -> None:
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        # (What an endpoint that asks for a key answers is for that key alone.)
        exchange.answer(status, b"application/json", body, b"cache-control: no-store\r\n" if exchange.endpoint.auth else b"")

    # --- health
    def liveness(self, exchange: Exchange) -> None:
        self._json(exchange, 200, {"status": "ok"})

    def healthz(self, exchange: Exchange) -> None:
        text = b"OK" if self._core.profile == "openai-llm-gateway" else b"ok"
        if self._core.profile == "openai-llm-gateway":
            self._core.log.info("health check", path="/healthz")
        exchange.answer(200, b"text/plain; charset=utf-8", text)

    def health(self, exchange: Exchange) -> None:
        """The process is up and says what it knows of its engines; always 200 while it can answer."""
        well, total = self._core.health.counts()
        self._json(exchange, 200, {"status": "ok", "healthy_engines": well, "total_engines": total})

    def readiness(self, exchange: Exchange) -> None:
        self._later(exchange, self._readiness)

    def _readiness(self, exchange: Exchange) -> None:
        well, total = self._core.health.counts()
        ready = well > 0 and not self._core.leaving
        answer: dict[str, object] = {"ready": ready, "healthy_workers": well, "total_workers": total}
        if not total:
            answer["reason"] = "no_workers_configured"
        elif self._core.leaving:
            answer["reason"] = "draining"
        elif not ready:
            answer["reason"] = "no_healthy_workers"
        self._json(exchange, 200 if ready else 503, answer)

    def ready(self, exchange: Exchange) -> None:
        self._later(exchange, self._ready)

    def _ready(self, exchange: Exchange) -> None:
        core = self._core
        well, total = core.health.counts()
        # Runners dial in through what asks whether it is ready (a Service of Kubernetes): it is, for the first of them.
        for_runners = core.table.absent.open and not total and not core.config.engines and not core.config.engines_file
        ready = (well > 0 or for_runners) and not core.leaving
        status = "ready" if ready else "draining" if core.leaving else "not_ready"
        answer: dict[str, object] = {"status": status, "healthy_engines": well, "total_engines": total}
        if ready and not well:
            answer["waits_for"] = "runners"
        self._json(exchange, 200 if ready else 503, answer)

    def _later(self, exchange: Exchange, answer: Callable[[Exchange], None]) -> None:
        """Answer when the engines' verdicts are fresh; the client may leave meanwhile."""
        exchange.move(IS_SERVED)

        async def wait() -> None:
            try:
                async with asyncio.timeout(2 * self._core.config.health_timeout_s):
                    await self._core.health.freshen(FRESH_S)
            except TimeoutError:
                self._core.log.warning("probes took too long", path=exchange.endpoint.label)
            exchange.local_task = None
            if exchange.phase == LOCAL:
                answer(exchange)

        exchange.local_task = self._spawn(f"answer {exchange.endpoint.label}", wait())
        self._core.reactor.poller.hurry()

    # --- models
    def _catalogue(self) -> _Catalogue:
        """What the table of this moment lists: laid out once for each."""
        core = self._core
        pools = core.table.pools if core.config.models_healthy_only else ()
        down = frozenset([pool for pool in pools if pool.engine.healthy is False or pool.engine.draining])
        if self._listed.table is not core.table or self._listed.down != down:
            self._listed = _Catalogue(core.table, core.config.served_model_name, self._created, down)
        return self._listed

    def _models(self, exchange: Exchange) -> None:
        """The list as the key may see it."""
        account = exchange.account
        allowed, flow = (account.models, account.flow) if account is not None else (None, "")
        self._json(exchange, 200, self._catalogue().page(allowed, flow, anthropic.speaks(exchange.head.forward)))

    def models(self, exchange: Exchange) -> None:
        self._when_learned(exchange, self._models)

    def model(self, exchange: Exchange) -> None:
        self._when_learned(exchange, self._model)

    def _when_learned(self, exchange: Exchange, answer: Callable[[Exchange], None]) -> None:
        if self._core.table.models or self._core.config.served_model_name or not self._core.table.pools:
            answer(exchange)
            return
        # Nothing learned yet (just started): ask first.
        self._later(exchange, answer)

    def _model(self, exchange: Exchange, again: bool = True) -> None:
        account = exchange.account
        allowed, flow = (account.models, account.flow) if account is not None else (None, "")
        catalogue = self._catalogue()
        quoted = exchange.head.path[len(b"/v1/models/") :]
        # (A name has no more bytes than this in its longest spelling, and escapes are dear to read.)
        from urllib.parse import unquote

        name = unquote(quoted.decode("utf-8", "replace")) if len(quoted) <= catalogue.most_bytes else ""
        owner = catalogue.owner(name, allowed, flow)
        if owner is None:
            away = None
            if allowed is None or name in allowed:
                away = catalogue.table.away(name, self._core.retry_after_s, flow)
            if again and away is None and self._core.reads_again(lambda: self._read_again(exchange)):
                if exchange.phase != LOCAL:
                    exchange.move(IS_SERVED)
                return
            exchange.fail(away or GatewayError("model_not_found", param="model"))
            return
        if anthropic.speaks(exchange.head.forward):
            self._json(exchange, 200, anthropic.model_object(name, self._created))
            return
        self._json(exchange, 200, model_object(name, owner, self._created, *catalogue.told(name, flow)))

    def _read_again(self, exchange: Exchange) -> None:
        if exchange.phase == LOCAL:
            self._model(exchange, again=False)

    # --- usage
    def usage(self, exchange: Exchange) -> None:
        """What the calling key has used today (UTC), and what it may; -1 = unlimited."""
        account = exchange.account
        assert account is not None  # the endpoint asks for a key where there are any
        each = self._core.accounts.scopes.each_of(account.id) if account.scoped else []
        of_all = [one for one in (account.joint, account.purse, account.shared) if one is not None]
        with self._core.accounts.inside(account, *of_all, *[scope for _, scope in each]):
            answer = self._used(account, each)
        self._json(exchange, 200, answer)

    def _used(self, account: Account, each: Sequence[tuple[str, Scope]]) -> dict[str, object]:
        ledger = account.ledger
        ledger.roll(self._core.today)
        now_us = micros(monotonic())
        answer: dict[str, object] = {
            "date": datetime.fromtimestamp(ledger.day * 86400, UTC).date().isoformat(),
            "prompt_tokens": ledger.prompt,
            "completion_tokens": ledger.completion,
            "total_tokens": ledger.prompt + ledger.completion,
            "estimated_tokens": ledger.estimated,
            "cached_tokens": ledger.cached,
            "reasoning_tokens": ledger.reasoning,
            "requests": ledger.requests,
            "quota": ledger.limit or -1,
            "quota_remaining": ledger.left(self._core.today),
            "quota_reserved": ledger.reserved,
            "requests_under_way": account.inflight,
            "concurrency": account.concurrency or -1,
        }
        for name, meter in (("requests", account.requests), ("tokens", account.tokens)):
            answer[f"{name}_per_minute"] = meter.rate if meter is not None else -1
            answer[f"{name}_remaining"] = meter.left(now_us) if meter is not None else -1
        for purse in (account.purse, account.shared):
            if purse is not None:
                left = purse.left(self._core.today)
                answer[f"{purse.kind}_budget"] = {
                    "limit": written(purse.limit), "remaining": written(left), "spent": written(purse.spent),
                    "reserved": written(purse.reserved), "currency": self._core.config.currency, "period": purse.period,
                    "ends": datetime.fromtimestamp(purse.ends * 86400, UTC).date().isoformat(),
                }  # fmt: skip
        if account.scoped:
            if account.joint is not None:
                answer["tenant"] = used_of(account.joint, now_us, self._core.today)
            if each:
                answer["models"] = {model: used_of(scope, now_us, self._core.today) for model, scope in each}
        return answer

