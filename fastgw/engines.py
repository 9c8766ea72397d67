"""The admin API's engines: what the control listener asks for, done by the fleet.

Control and engines know nothing of each other; this is where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Protocol

from fastgw.config import ConfigErrors, EngineConfig
from fastgw.control.admin_engines import (
    MOST_MODELS,
    EngineExists,
    EngineNotFound,
    EngineOfRunner,
    EngineShown,
    ModelShown,
    Percentiles,
    TooManyEngines,
)
from fastgw.control.call import FieldProblems
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.net.clock import monotonic
from fastgw.net.unusable import TlsError
from fastgw.observe.latencies import Latencies, Spread
from fastgw.upstream import identity
from fastgw.upstream.absent import ENGINE, Who
from fastgw.upstream.fleet import Fleet, FleetFull
from fastgw.upstream.identity import Listed
from fastgw.upstream.models import ModelFacts

_HEALTH: Final = {True: "well", False: "not_well", None: "unknown"}
_OF_TIMES: Final = ("p50", "p95", "p99")  # as `observe.latencies.QUANTILES`
_BREAKER: Final = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half_open"}


def _fact(one: ModelFacts) -> ModelShown:
    return ModelShown(
        name=one.name, context_tokens=one.context_tokens, parent=one.parent, loaded=one.loaded, aliases=one.aliases
    )


def _percentiles(found: Spread) -> Percentiles | None:
    return None if found is None else Percentiles(**dict(zip(_OF_TIMES, found, strict=True)))


class Told(Protocol):
    """Whoever is told what the operator has done with the engine of that name."""

    def __call__(self, what: str, name: str, fields: dict[str, Any] | None = None, why: str = "") -> None: ...


def _none(name: str) -> int:
    return 0


def _nobody(what: str, name: str, fields: dict[str, Any] | None = None, why: str = "") -> None:
    """Is told."""


class EngineDesk:
    """A ``control.admin_engines.EnginesBackend`` over a fleet. ``told``: of all that is done; ``elsewhere``: how
    many connections to an engine other processes have."""

    def __init__(
        self, fleet: Fleet, latencies: Latencies | None, runner_of: Callable[[str], str] = lambda name: ""
    ) -> None:
        """``latencies`` None: nobody looks at them. ``runner_of`` gives
        the id of the runner that an engine stands for, "" = it stands for none."""
        self._fleet = fleet
        self._latencies = latencies
        self._runner_of = runner_of
        self.told: Told = _nobody
        self.elsewhere: Callable[[str], int] = _none

    def engines(self) -> Sequence[EngineShown]:
        return [self._shown(one, 0) for one in self._fleet.listed()]

    def show(self, name: str) -> EngineShown:
        return self._shown(self._find(name))

    def add(self, fields: Mapping[str, Any]) -> EngineShown:
        if not fields.get("url"):
            raise FieldProblems(["url: must be there"])
        try:
            config = EngineConfig(**fields)
            if config.discover:
                raise FieldProblems(["discover: is for the configuration alone"])
            self._fleet.add(config)
        except ConfigErrors as error:
            raise FieldProblems([f"{one.name}: {one.message}" for one in error.errors]) from None
        except (TlsError, identity.LeadsHere) as error:
            raise FieldProblems([f"url: {error}"]) from None
        except identity.EngineExists as error:
            raise EngineExists(str(error)) from None
        except FleetFull as error:
            raise TooManyEngines(str(error)) from None
        self.told("add", config.name, dict(fields))
        return self.show(config.name)

    def change(self, name: str, fields: Mapping[str, Any]) -> EngineShown:
        with self._named(name):
            self._fleet.change(name, fields)
        self.told("change", name, dict(fields))
        return self.show(name)

    def drain(self, name: str) -> EngineShown:
        with self._named(name):
            self._fleet.drain(name)
        self.told("drain", name)
        return self.show(name)

    def undrain(self, name: str) -> EngineShown:
        with self._named(name):
            self._fleet.undrain(name)
        self.told("undrain", name)
        return self.show(name)

    def remove(self, name: str, at_once: str) -> EngineShown | None:
        there = self._find(name)
        if runner := self._runner_of(name):
            raise EngineOfRunner(
                f"This engine is there as long as its runner is: drain that (POST /admin/runners/{runner}/drain), or stop it."
            )
        self._fleet.absent.came(Who(ENGINE, name))
        gone = self._fleet.remove(name, at_once=at_once)
        self.told("remove", name, why=at_once)
        return None if gone else self._shown(there._replace(leaving=True))

    def _find(self, name: str) -> Listed:
        """Who has that name, or else had it."""
        for one in self._fleet.listed():
            if one.pool.engine.name == name:
                return one
        raise EngineNotFound

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """What is wrong with a call for the engine of that name, as the API tells it."""
        try:
            yield
        except identity.UnknownEngine:
            raise EngineNotFound from None
        except identity.EngineExists as error:
            raise EngineExists(str(error)) from None
        except ConfigErrors as error:
            raise FieldProblems([f"{one.name}: {one.message}" for one in error.errors]) from None

    def _shown(self, one: Listed, facts: int = MOST_MODELS) -> EngineShown:
        pool, config = one.pool, one.config
        engine = pool.engine
        ttft, itl = self._latencies.of((engine,)) if self._latencies is not None else (None, None)
        models = sorted(engine.configured_models) if engine.configured_models else engine.discovered_models
        return EngineShown(
            name=engine.name,
            url=config.url,
            origin=one.origin,
            kind=engine.kind.name,
            models=models[:MOST_MODELS],
            models_total=len(models),
            facts=[_fact(fact) for fact in islice(engine.facts.values(), facts)],
            served_name=engine.served_name,
            api_key_set=bool(config.api_key),
            weight=engine.weight,
            health=_HEALTH[engine.healthy],
            breaker=_BREAKER[engine.breaker.state],
            inflight=engine.inflight,
            slots=engine.slots,
            connections=pool.connections + self.elsewhere(engine.name),
            draining=engine.draining,
            ejected=engine.ejected_until > 0.0,
            rests_s=round(max(0.0, engine.rests_until - monotonic()), 3),
            away=engine.away,
            leaving=one.leaving,
            requests_total=engine.answered_total,
            failures_total=engine.failures_total,
            ejections_total=engine.ejections_total,
            ttft_s=_percentiles(ttft),
            itl_s=_percentiles(itl),
        )
