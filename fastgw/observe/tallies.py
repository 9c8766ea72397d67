"""What the exchanges of a gateway have come to, by endpoint and model: plain numbers that the metrics read.

Owns: one :class:`Cell` for each endpoint and model, made when the first of its requests ends. Must never: make a label of what
a stranger sends. A model has its name here where an engine is known to serve it, or a route names it, else it is ``other``; so
are all beyond :data:`MOST_CELLS`, when those of models that are gone have been added to ``other``. A status that is none of
HTTP's is its class (RFC 9110 §15), a method that is none of HTTP's ``other``; how requests failed goes by names of the
gateway's own. Callers are keys, or tenants, by their ids; all beyond :data:`MOST_CALLERS` are ``other``, and so is what keys
have used that are gone by then.

Invariants: an exchange is counted once, whatever became of it; the sum over all cells of an endpoint never falls.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any, Final

from fastgw.accel.fields import METHODS, REASONS
from fastgw.accel.histograms import Bounds, Histogram
from fastgw.accel.tokens import MOST_TOKENS
from fastgw.config.names import MetricsBy
from fastgw.exchange.record import streamed
from fastgw.exchange.state import ExchangeState, model_of
from fastgw.exchange.tally import Tally
from fastgw.exchange.tracing import kept_in
from fastgw.limits.account import Accounts
from fastgw.limits.purse import MOST_SPENT
from fastgw.observe.conventions import error_type
from fastgw.observe.energy import Drawn, Energy
from fastgw.observe.recent import Recent
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.times import FIRST_TOKEN, PER_TOKEN

OTHER: Final = "other"
MOST_CELLS: Final = 1000
"""Pairs of an endpoint and a model; those of more models are ``other`` of their endpoint, of which there are some dozens."""
MOST_STATUSES: Final = 32
"""Pairs of a method and a status, of each cell; more are those of the method ``other``, by their classes."""
MOST_ERRORS: Final = 16
"""Kinds of error, of each cell; more are all :data:`OTHER_ERROR`."""
MOST_CALLERS: Final = 1000
OTHER_ERROR: Final = "_OTHER"
"""An ``error.type`` that has no name of its own, as the conventions call it."""

# Those of OpenTelemetry's conventions for generative AI are among them, so that both are read off the same counts.
DURATION: Final = Bounds((
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36,
))  # fmt: skip
QUEUED: Final = Bounds((0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0))
OWN: Final = Bounds((0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0))
TOKENS: Final = Bounds((
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0,
))  # fmt: skip

_BY_METHOD: Final = 1000
_NUMBERS: Final = {method: number * _BY_METHOD for number, method in enumerate(METHODS)}
_OTHER_METHOD: Final = len(METHODS) * _BY_METHOD


class Cell:
    """The requests of one endpoint for one model. ``statuses``: how many had which method and status, as one number;
    ``duration``: of all, and of those that failed once more, by how, in ``failed``; ``well_s``: the sum of all others;
    ``cost``: in billionths of the currency."""

    __slots__ = (
        "cached", "completion", "cost", "duration", "endpoint", "estimated", "failed", "first_token", "gaps", "model", "own",
        "per_token", "prompt", "queued", "reasoning", "statuses", "well_s",
    )  # fmt: skip

    def __init__(self, endpoint: str, model: str) -> None:
        self.endpoint = endpoint
        self.model = model
        self.statuses: dict[int, int] = {}
        self.duration = Histogram(DURATION)
        self.first_token = Histogram(FIRST_TOKEN)
        self.gaps = Histogram(PER_TOKEN)
        self.per_token = Histogram(PER_TOKEN)
        self.queued = Histogram(QUEUED)
        self.own = Histogram(OWN)
        self.prompt = Histogram(TOKENS)
        self.completion = Histogram(TOKENS)
        self.failed: dict[str, Histogram] = {}
        self.well_s = 0.0
        self.cached = 0
        self.reasoning = 0
        self.estimated = 0
        self.cost = 0

    def by_status(self) -> list[tuple[str, int, int]]:
        """(method, status, how many)"""
        found = []
        for key, count in self.statuses.items():
            number, status = divmod(key, _BY_METHOD)
            found.append((METHODS[number].decode() if number < len(METHODS) else OTHER, status, count))
        return found

    def count(self, method: bytes, status: int) -> None:
        """One more has ended so."""
        key = _NUMBERS.get(method, _OTHER_METHOD) + status
        seen = self.statuses.get(key)
        if seen is not None:
            self.statuses[key] = seen + 1
            return
        if status not in REASONS:
            key -= status % 100
        if len(self.statuses) >= MOST_STATUSES and key not in self.statuses:
            key = _OTHER_METHOD + status - status % 100
        self.statuses[key] = self.statuses.get(key, 0) + 1

    def fail(self, error: str, took: float) -> None:
        """One of those that have ended failed so."""
        found = self.failed.get(error)
        if found is None:
            if len(self.failed) >= MOST_ERRORS:
                error = OTHER_ERROR
            found = self.failed.setdefault(error, Histogram(DURATION))
        found.observe(took)

    def many(self, key: int, count: int) -> None:
        """So many of a method and status, as ``statuses`` has them."""
        if key not in self.statuses and len(self.statuses) >= MOST_STATUSES:
            key = _OTHER_METHOD + key % _BY_METHOD // 100 * 100
        self.statuses[key] = self.statuses.get(key, 0) + count

    def failures_of(self, error: str) -> Histogram:
        """How long those took that failed so."""
        if error not in self.failed and len(self.failed) >= MOST_ERRORS:
            error = OTHER_ERROR
        return self.failed.setdefault(error, Histogram(DURATION))

    def add(self, one: Cell) -> None:
        """What ``one`` has counted counts here."""
        for key, count in one.statuses.items():
            self.many(key, count)
        for error, took in one.failed.items():
            self.failures_of(error).add(took)
        self.duration.add(one.duration)
        self.first_token.add(one.first_token)
        self.gaps.add(one.gaps)
        self.per_token.add(one.per_token)
        self.queued.add(one.queued)
        self.own.add(one.own)
        self.prompt.add(one.prompt)
        self.completion.add(one.completion)
        self.well_s += one.well_s
        self.cached += one.cached
        self.reasoning += one.reasoning
        self.estimated += one.estimated
        self.cost = min(self.cost + one.cost, MOST_SPENT)


class Caller:
    """What one key, or tenant, has used; ``cost`` in billionths of the currency."""

    __slots__ = ("completion", "cost", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt = self.completion = self.cost = 0

    def add(self, one: Caller) -> None:
        """What ``one`` has used counts here."""
        self.requests += one.requests
        self.prompt += one.prompt
        self.completion += one.completion
        self.cost = min(self.cost + one.cost, MOST_SPENT)


class Tallies(Tally):
    """See the head of this file. ``by``: whose requests are counted apart as well, none where it is empty.

    ``trace`` says in which trace an exchange is that somebody keeps, by its id, or that it is in none (""); ``energy`` is told
    of tokens, where somebody knows what GPUs draw."""

    __slots__ = (
        "_by", "_cells", "_count", "_crowded", "_folded", "callers", "energy", "failures", "outcomes", "recent", "trace",
    )  # fmt: skip

    def __init__(self, by: MetricsBy = "", trace: Callable[[ExchangeState], str] | None = None) -> None:
        self._by = by
        self._cells: dict[str, dict[str, Cell]] = {}  # by the endpoint's label, and the model
        self._count = 0
        self._folded = -1  # as of which table of engines
        self._crowded = 0  # how often there was no place for a caller
        self.callers: dict[str, Caller] = {}
        self.failures: dict[str, int] = {}  # of attempts, by how
        self.outcomes: dict[str, int] = {}  # of exchanges that did not end well
        self.recent = Recent()
        self.trace = trace
        self.energy: Energy | Drawn | None = None

    def cells(self) -> list[Cell]:
        """All there are."""
        return [cell for cells in self._cells.values() for cell in cells.values()]

    # --- what is told
    def ended(self, exchange: Any, outcome: str, now: float) -> None:
        one: ExchangeState = exchange  # (the compiled twin types this name)
        cell = self._cell(one)
        status = one.status
        cell.count(one.head.method, status)
        started = one.started_at
        took = now - started
        at = cell.duration.observe(took)
        first = -1
        if one.own_s >= 0.0:
            cell.own.observe(one.own_s)
        if one.queued_s >= 0.0:
            cell.queued.observe(one.queued_s)
        completion = one.completion_tokens
        owed = one.call is not None and one.call.remainder is not None  # (what it has used is told when it is known)
        if not owed and (one.prompt_tokens >= 0 or completion >= 0):
            self._used(cell, one)
        token_at = one.token_at
        if token_at and status < 400 and streamed(one):
            call = one.call
            assert call is not None  # (streamed)
            call.pool.engine.first_tokens.observe(token_at - call.sent_at)
            first = cell.first_token.observe(token_at - started)
            if completion > 1 and outcome == "ok":
                cell.per_token.observe((now - token_at) / (completion - 1))
        if outcome != "ok":
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if status >= 400 or outcome != "ok":
            self.recent.add(exchange, outcome, cell.model)
            shown = status if status in REASONS else status - status % 100
            cell.fail(error_type(shown, one.error_kind, outcome), max(took, 0.0))
        else:
            cell.well_s += max(took, 0.0)
        caller = self._called(one, 1, not owed) if self._by else ""
        if self.energy is not None and not owed and (one.prompt_tokens >= 0 or completion >= 0):
            self._drew(cell, one, caller)
        if self.trace is not None:
            found = self.trace(one)
            if found:
                when = time()
                cell.duration.exemplify(at, took, when, found)
                if first >= 0:
                    cell.first_token.exemplify(first, token_at - started, when, found)

    def spent(self, exchange: Any, cost: int) -> None:
        cell = self._cell(exchange)
        cell.cost = min(cell.cost + cost, MOST_SPENT)
        name = self._name(exchange) if self._by else ""
        if name:
            caller = self._caller(name)
            caller.cost = min(caller.cost + cost, MOST_SPENT)

    def gaps(self, exchange: Any) -> Histogram | None:
        return self._cell(exchange).gaps

    def used(self, exchange: Any) -> None:
        cell = self._cell(exchange)
        self._used(cell, exchange)
        caller = self._called(exchange, 0, True) if self._by else ""
        if self.energy is not None:
            self._drew(cell, exchange, caller)

    def failed(self, how: str) -> None:
        self.failures[how] = self.failures.get(how, 0) + 1

    def _used(self, cell: Cell, exchange: ExchangeState) -> None:
        """(An engine's word is taken up to a bound here too, as where keys are charged.)"""
        prompt = min(max(exchange.prompt_tokens, 0), MOST_TOKENS)
        completion = min(max(exchange.completion_tokens, 0), MOST_TOKENS)
        cell.prompt.observe(prompt)
        if exchange.completion_tokens >= 0:
            cell.completion.observe(completion)
        if exchange.cached_tokens > 0:
            cell.cached += exchange.cached_tokens
        if exchange.reasoning_tokens > 0:
            cell.reasoning += exchange.reasoning_tokens
        if exchange.estimated:
            session = exchange.session
            cell.estimated += prompt + completion if session is None else session.estimated

    def _drew(self, cell: Cell, exchange: ExchangeState, caller: str) -> None:
        energy, call = self.energy, exchange.call
        if energy is not None and call is not None:
            prompt = min(max(exchange.prompt_tokens, 0), MOST_TOKENS)
            fresh = prompt - min(max(exchange.cached_tokens, 0), prompt)
            completion = min(max(exchange.completion_tokens, 0), MOST_TOKENS)
            energy.used(call.pool.engine.name, cell.model, caller, fresh, completion)

    # --- where it belongs
    def _cell(self, exchange: ExchangeState) -> Cell:
        cells = self._cells.get(exchange.endpoint.label)
        model = model_of(exchange)
        if cells is not None:
            cell = cells.get(model)
            if cell is not None:
                return cell
        return self._bound(exchange, model)

    def _bound(self, exchange: ExchangeState, model: str) -> Cell:
        """The cell of one whose model has none here."""
        table = exchange.gateway.table
        return self.cell_for(exchange.endpoint.label, model if serves(table, model) else OTHER, table)

    def cell_for(self, label: str, model: str, table: UpstreamTable) -> Cell:
        """The cell of an endpoint and a model, which has a name; that of others where there are too many."""
        found = self._cells.get(label, {}).get(model)
        if found is not None:
            return found
        if self._count >= MOST_CELLS and self._folded != table.version:
            self._fold(table)
            found = self._cells.get(label, {}).get(model)
            if found is not None:
                return found
        if self._count >= MOST_CELLS:
            model = OTHER
        cells = self._cells.setdefault(label, {})
        if model not in cells:
            cells[model] = Cell(label, model)
            self._count += 1
        return cells[model]

    def _fold(self, table: UpstreamTable) -> None:
        """The cells of models that ``table`` does not know any more are ``other``. (Looked for once in each table.)"""
        self._folded = table.version
        kept = {OTHER}
        for label, cells in self._cells.items():
            for model in list(cells):
                if serves(table, model):
                    kept.add(model)
                elif model != OTHER:
                    if OTHER not in cells:
                        cells[OTHER] = Cell(label, OTHER)
                    cells[OTHER].add(cells.pop(model))
        self._count = sum([len(cells) for cells in self._cells.values()])
        if self.energy is not None:
            self.energy.fold(kept, OTHER)

    def _name(self, exchange: ExchangeState) -> str:
        """Whoever it is counted for, "" = nobody."""
        account = exchange.account
        if account is None or not account.id:
            return ""
        name = account.id if self._by == "key" else account.flow.removeprefix("tenant ")
        return self._bounded(name, exchange.gateway.accounts)

    def _bounded(self, name: str, accounts: Accounts) -> str:
        if name in self.callers or len(self.callers) < MOST_CALLERS:
            return name
        if self._by == "key" and not self._crowded % MOST_CALLERS:
            self._make_room(accounts)
        self._crowded += 1  # (so a look at a thousand is paid for by as many requests)
        return name if len(self.callers) < MOST_CALLERS else OTHER

    def caller_for(self, name: str, accounts: Accounts) -> Caller:
        """Whoever is called so, or all others where there are too many."""
        return self._caller(self._bounded(name, accounts))

    def _make_room(self, accounts: Accounts) -> None:
        """What keys have used with which no request comes any more is ``other``'s."""
        there = {"", OTHER}
        now = time()
        for name in list(self.callers):
            account = accounts.by_id(name)
            if account is not None and not account.disabled and not 0.0 < account.expires_at <= now:
                there.add(name)
            elif name != OTHER:
                gone = self.callers.pop(name)
                self._caller(OTHER).add(gone)
        if self.energy is not None:
            self.energy.fold(there, OTHER, callers=True)

    def _caller(self, name: str) -> Caller:
        caller = self.callers.get(name)
        if caller is None:
            caller = self.callers[name] = Caller()
        return caller

    def _called(self, exchange: ExchangeState, requests: int, used: bool) -> str:
        """Count it for whoever it is, "" = nobody."""
        name = self._name(exchange)
        if not name:
            return ""
        caller = self._caller(name)
        caller.requests += requests
        if used:
            caller.prompt += min(max(exchange.prompt_tokens, 0), MOST_TOKENS)
            caller.completion += min(max(exchange.completion_tokens, 0), MOST_TOKENS)
        return name


def serves(table: UpstreamTable, model: str) -> bool:
    """Whether ``model`` is a label as things are: an engine serves it, a route names it, or it is "", none."""
    return not model or model in table.models or model in table.routes or table.known(model) is not None


def sampled(exchange: ExchangeState) -> str:
    """The trace that an exchange is kept in, by its id: the gateway's own, or the one that its client says it is in and keeps
    (W3C Trace Context); "" = in none."""
    trace = exchange.trace
    if trace is not None:
        return trace.trace_id.decode() if trace.sampled else ""
    known = exchange.client.known
    if known is not None and known.head is exchange.head:
        kept: str = known.kept
        return kept
    return kept_in(exchange.head.forward)
