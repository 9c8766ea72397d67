"""What has gone wrong lately: the last requests that did not end well, for whoever looks.

Owns two rings: faults (the gateway's own, an engine's, streams cut) and refusals (4xx, quotas). A flood of refusals, which
anybody can make, pushes no fault out. Clients that left are in neither. Must never: keep a prompt, a key, or a name that a
stranger has made up: a model is called as among the metrics.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import Any, Final

import msgspec

from fastgw.errors import code_of
from fastgw.exchange.state import ExchangeState

MOST_KEPT: Final = 100
"""Of each kind: 200 at most, of about half a kilobyte."""
MAX_DETAIL_CHARS: Final = 200
ENGINES_OWN: Final = "engine"
"""In the place of an error's name, where an engine answered so itself."""


class Ended(msgspec.Struct, frozen=True, gc=False):
    """One that did not end well. ``at``: Unix seconds; ``error``: the name of its kind, "" = an engine's own answer."""

    number: int
    at: float
    request_id: str
    status: int
    outcome: str
    error: str
    detail: str
    endpoint: str
    model: str
    engine: str
    key_id: str


class Recent:
    """See the head of this file. ``faults`` and ``refusals`` count all there were, ``kinds`` too by what was wrong; ``last`` is
    the number of the latest."""

    __slots__ = ("_faults", "_refusals", "faults", "kinds", "last", "refusals")

    def __init__(self) -> None:
        self._faults: deque[Ended] = deque(maxlen=MOST_KEPT)
        self._refusals: deque[Ended] = deque(maxlen=MOST_KEPT)
        self.faults = self.refusals = self.last = 0
        self.kinds: dict[str, int] = {}  # (no more than the table of errors has)

    def add(self, exchange: Any, outcome: str, model: str) -> None:
        """``exchange`` has ended so, or with a status from 400 on."""
        one: ExchangeState = exchange
        if outcome.startswith("client_"):
            return
        self.last += 1
        code = code_of(one.error_kind)
        kind = code or ENGINES_OWN
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        call = one.call
        ended = Ended(
            self.last, round(time(), 3), one.request_id.decode("latin-1"), one.status, outcome, code,
            one.detail[:MAX_DETAIL_CHARS], one.endpoint.label, model, call.pool.engine.name if call is not None else "",
            one.key_id,
        )  # fmt: skip
        if self._of(ended) is self._refusals:
            self.refusals += 1
        else:
            self.faults += 1
        self._of(ended).append(ended)

    def _of(self, ended: Ended) -> deque[Ended]:
        refused = 400 <= ended.status < 500 or ended.outcome == "quota"
        return self._refusals if refused else self._faults

    def put(self, ended: Ended) -> None:
        """One of another process, which has counted it."""
        self.last += 1
        self._of(ended).append(msgspec.structs.replace(ended, number=self.last))

    def since(self, number: int) -> list[Ended]:
        """Those that are kept and came after ``number``, in order."""
        found = [one for ring in (self._faults, self._refusals) for one in ring if one.number > number]
        return sorted(found, key=lambda one: one.number)
