"""Deployments of models, as other gateways list them, become engines.

There an entry is a pair of a name and an address, and one address stands as often as it has names. Here it is an engine, once,
with all models that are reached by it in the same way. Owns: that, shares, and where an engine's key comes from. Must never:
take a key over; an engine names the variable that has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from fastgw.config.address import parse_engine_url
from fastgw.config.table import BY_NAME
from fastgw.config.toml_file import KEY_VARIABLE
from fastgw.importing.draft import Draft
from fastgw.importing.litellm_table import OWN_PATHS
from fastgw.importing.report import Outcome, Path, Report, shown

NO_PROVIDER: Final = (
    "an API of its own, or none that is known here: fastgw passes OpenAI's and Anthropic's on, and translates none. "
    'If it has OpenAI\'s, write an [[engines]] with its url and kind = "openai"'
)
NO_ADDRESS: Final = "it names no address, and there is none by itself: write an [[engines]] with its url"
NOT_V1: Final = (
    "there requests go right beneath this address, and here to its /v1: if it has one, write an [[engines]] with its url, else "
    "a proxy before it can take /v1 away"
)
MOST_WEIGHT: Final = 1000
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OF_ALL: Final = BY_NAME["vllm_api_key"].variables
# Texts that stand where a key has to, and are none.
_NO_KEYS: Final = frozenset({
    "", "none", "null", "empty", "na", "n/a", "x", "dummy", "fake", "fake-key", "no-key", "not-needed", "sk-no-key-required",
    "lm-studio",
})  # fmt: skip


@dataclass(slots=True)
class Deployment:
    """One entry: ``path`` is where it stands, ``model`` what clients ask for, ``served_name`` what the engine calls it.
    ``there``: it has become an engine, or a part of one. ``told``: what becomes of single entries of it in that case."""

    path: Path
    model: str
    url: str
    kind: str
    served_name: str
    key_variable: str = ""
    name: str = ""
    name_path: Path = ()
    weight: int = 1
    max_concurrent: int = 0
    order: float = 0
    there: bool = False
    notes: list[str] = field(default_factory=list)
    told: list[tuple[Outcome, Path, str]] = field(default_factory=list)

    @property
    def way(self) -> tuple[object, ...]:
        """What two entries have in common that are one engine."""
        name = "" if self.served_name == self.model else self.served_name
        return (self.url, self.kind, name, self.key_variable, self.name, self.weight, self.max_concurrent, self.order)


def into_engines(deployments: Sequence[Deployment], draft: Draft, report: Report) -> None:
    """Those that are engines go into the draft, in the order in which they are to be asked."""
    ways: dict[tuple[object, ...], list[Deployment]] = {}
    served: dict[tuple[str, str], Deployment] = {}
    names: dict[str, tuple[object, ...]] = {}
    for one in sorted(deployments, key=lambda one: one.order):
        try:
            address = parse_engine_url(one.url)
        except ValueError as error:
            report.tell("left", one.path, f"url: {error}")
            continue
        if address.base and one.kind not in OWN_PATHS and not one.url.strip().rstrip("/").endswith("/v1"):
            report.tell("left", one.path, NOT_V1)
            continue
        one.url = address.url
        first = served.setdefault((one.url, one.model), one)
        if first is not one:
            report.tell("left", one.path, f"{shown(first.path)} has this model at this address: one engine is there once")
            continue
        if names.setdefault(one.name, one.way) != one.way and one.name:
            one.name = ""
            one.told.append(("left", one.name_path, "another engine has this name"))
        ways.setdefault(one.way, []).append(one)
    for same in ways.values():
        _engine(same, draft, report)


def _engine(same: list[Deployment], draft: Draft, report: Report) -> None:
    one = same[0]
    served_name = "" if one.served_name == one.model else one.served_name
    fields = {
        "url": one.url, "name": one.name, "kind": one.kind, "models": [each.model for each in same], "served_name": served_name,
        KEY_VARIABLE: one.key_variable,
        "weight": "" if one.weight == 1 else one.weight, "max_concurrent": one.max_concurrent or "",
    }  # fmt: skip
    problem = draft.add_engine(fields, [note for each in same for note in each.notes])
    for each in same:
        each.there = not problem
        if each.name:
            each.told.append(("translated", each.name_path, "name"))
        if problem:
            report.tell("left", each.path, problem)
        for outcome, path, words in each.told:
            report.tell(outcome, path, words)


def key_of(value: object, path: Path, prefix: str, one: Deployment) -> None:
    """Where the key of an engine comes from: ``prefix`` is how the source names a variable."""
    text = value if isinstance(value, str) else "" if value is None else "?"
    variable = text.removeprefix(prefix) if text.startswith(prefix) else ""
    if variable and VARIABLE.fullmatch(variable):
        one.key_variable = variable
        shared = f"; what {variable} holds goes to engines without a key of their own, too" if variable in _OF_ALL else ""
        one.told.append(("different" if shared else "translated", path, f"{KEY_VARIABLE}{shared}"))
    elif text.strip().lower() in _NO_KEYS:
        one.told.append(("translated", path, "no key"))
    else:
        one.notes.append(
            f'{KEY_VARIABLE} = "..."  <- its key stands in {shown(path)}: put it into a variable, and name that here'
        )
        one.told.append(
            ("left", path, f"keys are not copied: put it into a variable, and name that in {KEY_VARIABLE} of this engine")
        )


def shares(weights: Sequence[float]) -> list[int]:
    """The same proportions in whole numbers from 1 to 1000, as near as that goes. All are above 0."""
    exact = [Fraction(str(weight)) for weight in weights]
    found = [int(weight * math.lcm(*(one.denominator for one in exact))) for weight in exact]
    if not all(weight == int(weight) for weight in weights):
        found = [weight // math.gcd(*found) for weight in found]
    top = max(found, default=0)
    return [max(1, weight * MOST_WEIGHT // top) for weight in found] if top > MOST_WEIGHT else found
