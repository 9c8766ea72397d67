"""All rows of a run, one after the other, over the connections of the one before; each table begins with a warm-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fastgw.bench.bodies import Bodies
from fastgw.bench.connection import Connections
from fastgw.bench.load import Load
from fastgw.bench.plan import Plan, Stage
from fastgw.bench.tally import Result

_MAY_MEND: Final = ("status 408", "status 425", "status 429")
_TO_DO: Final = {
    "no connection": "is it running there? --url says where, and --ca-file whose certificates are good",
    "status 401": "give the key of a caller in OPENAI_API_KEY",
    "status 403": "this key may not ask for that: another one in OPENAI_API_KEY, or another --model",
    "status 404": "/v1/models lists the names for --model; --url is without /chat/completions",
    "status 405": "--url and --api say which path is asked",
}


class Refused(Exception):
    """Nobody is there, or all is refused: what follows would measure that."""


def refusal(warming: Result) -> str:
    """Why a warm-up came to nothing that more requests would mend, and what would; "" = it did not."""
    kinds = [one.kind for one in warming.failures]
    lasting = [kind in _TO_DO or (kind.startswith("status 4") and kind not in _MAY_MEND) for kind in kinds]
    if warming.good or not lasting or not all(lasting):
        return ""
    first = warming.failures[0]
    what = _TO_DO.get(first.kind, "--model, --extra and --header say what is asked")
    return f"{first.kind}: {first.first or 'no more is said'} ({what})"


class Run:
    """``row`` of ``stages`` is under way, by ``load``; None = the warm-up, or nothing yet."""

    def __init__(self, plan: Plan, stages: Sequence[Stage]) -> None:
        self._plan = plan
        self.stages = stages
        self.row = 0
        self.load: Load | None = None
        self._load: Load | None = None
        self.stopped = False
        self.tell: Callable[[], None] = lambda: None
        """Called when a row begins."""

    def stop(self) -> None:
        self.stopped = True
        if self._load is not None:
            self._load.stop()

    async def all(self, results: list[Result]) -> None:
        """Fill ``results``, also with the row that is stopped.

        :raises Refused: when a warm-up was; what was measured before is in ``results``.
        """
        bodies, connections = Bodies(self._plan), Connections(self._plan)
        warm: set[bool] = set()
        try:
            for row, stage in enumerate(self.stages):
                self.row = row
                if self._plan.warmup and stage.stream not in warm:
                    warm.add(stage.stream)
                    warming = Stage(stage.stream, workers=1, requests=self._plan.warmup)
                    self._load = Load(self._plan, warming, bodies, connections)
                    found = await self._load.run()
                    if not self.stopped and (why := refusal(found)):
                        raise Refused(why)
                if self.stopped:
                    return
                self._load = self.load = Load(self._plan, stage, bodies, connections)
                self.tell()
                found = await self._load.run()
                self.load = None
                if found.begun:
                    results.append(found)
                if self.stopped:
                    return
        finally:
            connections.close()
