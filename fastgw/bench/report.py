"""The report as JSON, and what any report says of its run. Never in it: the key, fields of the request, prompts' texts.

Seconds everywhere, as measured; ``version`` of the form grows when a name changes its meaning or goes.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from fastgw import __version__, twins
from fastgw.bench.plan import Plan, Slo
from fastgw.bench.tally import Result

FORM: Final = 1


class About(msgspec.Struct, frozen=True):
    """Of a run as a whole."""

    url: str
    model: str
    date: str
    prompt: str
    """How long it was; never its text."""
    max_tokens: int
    turns: int
    seed: int
    slo: Slo
    stall_s: float
    version: str
    twin: str
    python: str
    cores: int


class Report(msgspec.Struct, frozen=True):
    form: int
    about: About
    rows: list[Result]


def about(plan: Plan) -> About:
    tokens, size = plan.prompt_tokens, len(plan.prompt)
    made = "as the trace says" if plan.traced else f"about {tokens} tokens" if tokens else f"a text of {size} characters"
    return About(
        url=plan.url, model=plan.model, date=datetime.now(UTC).isoformat(timespec="seconds"),
        prompt=made, max_tokens=plan.max_tokens, turns=plan.turns, seed=plan.seed, slo=plan.slo, stall_s=plan.stall_s,
        version=__version__, twin="native" if twins.native() else "python", python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
    )  # fmt: skip


def json(results: Sequence[Result], about: About) -> bytes:
    return msgspec.json.format(msgspec.json.encode(Report(FORM, about, list(results))), indent=1) + b"\n"


def write(path: str, text: bytes) -> None:
    """The whole file or none of it. Raises ``OSError``."""
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
