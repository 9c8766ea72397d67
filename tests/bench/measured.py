"""A run without a command line: against a simulator or a script, in the test's own loop."""

from __future__ import annotations

from typing import Any

from fastgw.bench.plan import Plan, Stage
from fastgw.bench.run import Run
from fastgw.bench.tally import Client, Result, Tally
from fastgw.config import parse_engine_url


def planned(url: str = "http://127.0.0.1:1", **more: Any) -> Plan:
    if fault := more.pop("fault", ""):
        more["fields"] = (("x-sim-fault", fault),)
    return Plan(**{"address": parse_engine_url(url), "model": "sim", "max_tokens": 4, "warmup": 0, "timeout_s": 10.0, **more})


async def measured(url: str, *stages: Stage, **more: Any) -> list[Result]:
    results: list[Result] = []
    await Run(planned(url, **more), stages).all(results)
    return results


def told(stage: Stage, plan: Plan | None = None) -> Result:
    """A row of which nothing has come."""
    return Tally(plan or planned(), stage, 0.0).result(0, Client())
