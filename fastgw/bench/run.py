"""All rows of a run, one after the other, over the connections of the one before; each table begins with a warm-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastgw.bench.bodies import Bodies
from fastgw.bench.connection import Connections
from fastgw.bench.load import Load
from fastgw.bench.plan import Plan, Stage
from fastgw.bench.tally import Result


class Unreachable(Exception):
    """No connection can be had: nothing is to be measured."""


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

        :raises Unreachable: before anything was measured.
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
                    if not found.good and found.failures and found.failures[0].kind == "no connection":
                        raise Unreachable(f"no connection: {found.failures[0].first}")
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
