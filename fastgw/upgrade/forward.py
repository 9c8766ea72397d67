"""What the old process tells the new one, who has its limits and its books: what its own requests use, hold and give back.

    a request ends ----> Forward.ended ----> in the next turn of the loop: settled, held, used
    time goes by ------> Forward.look  ----> what is held otherwise (a stream that was given more)

Owns: that each request is told of once, and all of its usage in rows that are answered. It stands where the counter of metrics
stood (:class:`Tally`) and where the store stood (``UsageStore``), so nothing on the way of a request knows of it. Must never:
hold a request for the other process. What is not answered stays in the books of this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fastgw.accel.histograms import Histogram
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.state import model_of
from fastgw.exchange.tally import Tally
from fastgw.limits.account import Account
from fastgw.limits.key import Batch, UsageRow
from fastgw.limits.purse import KEY, TENANT, Asked, Purse, Sums
from fastgw.limits.scope import EACH, MODEL, Scope
from fastgw.limits.spending import SpentRow
from fastgw.net.clock import micros, monotonic
from fastgw.net.process_line import ProcessLine
from fastgw.upgrade import words
from fastgw.upgrade.standing import ENGINE, Place, find, held, money_of
from fastgw.upgrade.words import HeldRow, SettledRow

LOOK_S: Final = 0.25


class Forward(Tally):
    """See the head of this file. ``counts`` is told as before."""

    def __init__(self, core: GatewayCore, line: ProcessLine, counts: Tally) -> None:
        super().__init__()
        self._core = core
        self._line = line
        self._counts = counts
        self._flush: Callable[[], None] | None = None  # has what was used handed to :meth:`write`, when the other one is there
        self._began_at = monotonic()  # what was admitted later is not in the rows that were said
        self.moved: dict[Account, None] = {}  # whose rows are others, while rows are being said
        self._said = False  # all of them were
        self._held: dict[Place, HeldRow] = {}  # as said last
        self._touched: dict[Place, tuple[Scope | None, Purse | None]] = {}  # where that may be another
        self._settled: list[SettledRow] = []
        self._counted: dict[str, int] = {}  # tokens of requests that were told of, and not of their usage
        self._done: Callable[[bool], None] | None = None  # whoever waits for the answer to a batch
        self._batch = ""
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._counts, name)  # (what the metrics of this process ask it for)

    # --- as the counter of requests
    def ended(self, exchange: Any, outcome: str, now: float) -> None:
        self._counts.ended(exchange, outcome, now)
        call = exchange.call
        owed = call is not None and call.remainder is not None and not call.remainder.over
        self._ended(exchange, owed)

    def used(self, exchange: Any) -> None:
        self._counts.used(exchange)
        self._ended(exchange, False)

    def spent(self, exchange: Any, cost: int) -> None:
        self._counts.spent(exchange, cost)
        if exchange.account is not None:
            self._moves(exchange.account, exchange.shares)

    def gaps(self, exchange: Any) -> Histogram | None:
        return self._counts.gaps(exchange)

    def failed(self, how: str) -> None:
        self._counts.failed(how)

    def _ended(self, exchange: Exchange, owed: bool) -> None:
        account = exchange.account
        call = exchange.call
        if call is not None:
            self._touched[(ENGINE, call.pool.engine.name, "")] = (None, None)
        if account is not None:
            self._moves(account, exchange.shares)
            if not owed and self._said:
                self._settle(exchange, account)
        self._wake()

    def _settle(self, exchange: Exchange, account: Account) -> None:
        session = exchange.session is not None
        counts = exchange.endpoint.metered and exchange.sent_at > 0.0
        used = max(0, exchange.prompt_tokens) + max(0, exchange.completion_tokens) if counts and not session else 0
        taken = exchange.reserved_minute if exchange.minute is not None and exchange.minute is account.tokens else 0
        shares = {share.scope.kind: share.minute for share in exchange.shares if share.tokens is not None}
        fresh = exchange.routed_at > self._began_at
        if account.requests is None and account.tokens is None and not account.scoped:
            return
        if used or taken or shares or fresh:
            model = exchange.substitute or model_of(exchange)
            since_us = micros(max(0.0, exchange.routed_at))
            self._settled.append(SettledRow(account.id, model, since_us, taken, shares, used, fresh))
            if used:
                self._counted[account.id] = self._counted.get(account.id, 0) + used

    def _moves(self, account: Account, shares: Sequence[Any]) -> None:
        """What is held of its limits may be another."""
        if not self._said:
            self.moved[account] = None
        for place, scope, money in places_of(self._core, account, shares):
            self._touched[place] = (scope, money)

    # --- what is held
    def hold_all(self) -> list[HeldRow]:
        """All that is under way here, as it is now; changes are said from then on."""
        self._touch_all()
        return self._changed()

    def _touch_all(self) -> None:
        for exchange in under_way(self._core):
            if exchange.account is not None:
                self._moves(exchange.account, exchange.shares)
        for place, row in self._held.items():
            if place not in self._touched and row.kind != ENGINE:
                core = self._core
                scope = find(core.accounts, place, micros(monotonic()), core.today)
                self._touched[place] = (scope, money_of(core.accounts, place))
        for pool in self._core.table.pools:
            self._touched[(ENGINE, pool.engine.name, "")] = (None, None)

    def _changed(self) -> list[HeldRow]:
        engines = {pool.engine.name: pool.engine for pool in self._core.table.pools}
        found = []
        for place, (scope, money) in self._touched.items():
            if place[0] == ENGINE:
                engine = engines.get(place[1])
                row = HeldRow(*place) if engine is None else HeldRow(*place, inflight=engine.inflight, light=engine.light)
            else:
                row = held(place, scope, money)
            empty = HeldRow(*place)
            if row != self._held.get(place, empty):
                found.append(row)
                if row == empty:
                    self._held.pop(place, None)
                else:
                    self._held[place] = row
        self._touched.clear()
        return found

    # --- saying it
    def begin(self) -> None:
        """All rows were said: what changes from now on is kept until :meth:`go_on`."""
        self._said = True
        self._began_at = monotonic()

    def go_on(self, flush: Callable[[], None]) -> None:
        """The other process is the gateway: it is told, of all that has changed and of whatever will."""
        self._flush = flush
        self._look()

    def _wake(self) -> None:
        if self._said and not self._soon:
            self._soon = True
            self._core.reactor.loop.call_soon(self._say)
            self._core.reactor.poller.hurry()

    def _look(self) -> None:
        self._timer = self._core.reactor.loop.call_later(LOOK_S, self._look)
        self._touch_all()
        self._say()

    def _say(self) -> None:
        self._soon = False
        if self._flush is None or self._line.gone:
            return
        settled, self._settled = self._settled, []
        for at in range(0, len(settled), words.ROWS):
            self._line.send(words.write(words.Settled(settled[at : at + words.ROWS])))
        rows = self._changed()
        for at in range(0, len(rows), words.ROWS):
            self._line.send(words.write(words.Held(rows[at : at + words.ROWS])))
        self._flush()

    def stop(self) -> None:
        """Nothing is said any more."""
        if self._timer is not None:
            self._timer.cancel()

    # --- as the store
    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        """(``rows`` are what this process alone has counted of a day.)"""
        if self._done is not None or self._line.gone:
            return False
        if spent is None:
            self._core.reactor.loop.call_soon(done, True)
            return True
        self._batch = spent.id
        self._done = done
        more = self._uncounted(spent.rows)
        if more:
            self._line.send(words.write(words.Settled(more)))
        for at in range(0, len(spent.rows), words.ROWS):
            last = at + words.ROWS >= len(spent.rows)
            self._line.send(words.write(words.Used(spent.id if last else "", list(spent.rows[at : at + words.ROWS]))))
        return True

    def _uncounted(self, rows: Sequence[SpentRow]) -> list[SettledRow]:
        """What was used by no request that has ended: sessions are counted as they go on."""
        found = []
        for key, _, model, _, prompt, completion, *_ in rows:
            used = prompt + completion
            counted = min(used, self._counted.get(key, 0))
            if counted:
                self._counted[key] -= counted
                if not self._counted[key]:
                    del self._counted[key]
            if used > counted:
                found.append(SettledRow(key, model, 0, 0, {}, used - counted, False))
        return found

    def noted(self, batch: str) -> None:
        """The other process has this batch; "" = whatever it has, it will not say so."""
        done, self._done = self._done, None
        if done is not None:
            done(batch == self._batch)

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        """(Of a day that begins here nothing is known: the other process has it.)"""
        self._core.reactor.loop.call_soon(done, [])
        return True

    def sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> bool:
        self._core.reactor.loop.call_soon(done, ("", [0] * len(asked), [100] * len(asked)))
        return True


def under_way(core: GatewayCore) -> Iterator[Exchange]:
    """All requests that have not ended."""
    for connection in core.connections:
        for stream in connection.streams():
            if isinstance(stream.sink, Exchange):
                yield stream.sink


def places_of(
    core: GatewayCore, account: Account, shares: Sequence[Any]
) -> Iterator[tuple[Place, Scope | None, Purse | None]]:
    """Wherever a request of the account may hold something."""
    yield (KEY, account.id, ""), account, account.purse
    if account.shared is not None or account.joint is not None:
        yield (TENANT, account.tenant, ""), account.joint, account.shared
    for share in shares:
        scope = share.scope
        if scope.kind == MODEL:
            yield (MODEL, scope.id, ""), scope, None
        elif scope.kind == EACH:
            yield (EACH, scope.id, _model_of(core, scope)), scope, None


def _model_of(core: GatewayCore, scope: Scope) -> str:
    return next((name for name, each in core.accounts.scopes.each_of(scope.id) if each is scope), "")

