"""Which engine has which session and which response: said by one process, and known to the next.

Must never: be of use to whoever is another key's; or hold the loop for all that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.responses import Kept, Responses
from fastgw.net.clock import monotonic
from fastgw.upgrade.words import SeatRow
from fastgw.upgrade.words import Seats as Said
from fastgw.upstream.seats import Seat, Seats

SESSION: Final = "session"
RESPONSE: Final = "response"


def said(kind: str, seats: Seats | None, after: float) -> Iterator[Said]:
    """A word for each part of the table, with those that are good for longer than ``after``: whoever has several parts has the
    loop take its turn between two."""
    for part in seats.parts if seats is not None else ():
        rows = [
            SeatRow(key, told, seat.name, seat.until, seat.address if isinstance(seat, Kept) else None)
            for key, found in part.seats.items()
            for told, seat in found.items()
            if seat.until > after
        ]
        if rows:
            assert seats is not None
            yield Said(kind, seats.secret, rows)


def known(core: GatewayCore, sessions: Seats | None, word: Said) -> None:
    """From now on it is known here, as far as there are tables for it, and engines of these names."""
    now, most = monotonic(), core.config.session_table
    if word.kind == SESSION:
        if sessions is None:
            return
        sessions.secret = word.secret
        share = sessions.share(most)
        for row in word.rows:
            part = sessions.part(row.told)
            if part.seat(row.key, row.told) is not None:
                part.drop(row.key, row.told)
            if row.until > now:
                part.put(row.key, row.told, Seat(row.engine, row.until), share)
        return
    responses: Responses = core.responses or Responses()
    core.responses = responses
    responses.take_over(word.secret, most)
    engines = {pool.engine.name: pool.engine for pool in core.table.pools}
    for row in word.rows:
        engine = engines.get(row.engine)
        if engine is not None and row.until > now:
            kept = Kept(engine, row.until)
            if kept.address == row.address:
                responses.put(row.key, row.told, kept, most)
