"""Both sides of a module that is compiled: the twins of ``accel``, and what is built upon them in pure Python."""

from __future__ import annotations

import importlib
import random
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from fastgw import twins
from tests.protocol.splits import cut
from tests.support.twins import native_twin

native = native_twin


@cache
def python(module: str, *uses: str) -> Any:
    """``module`` from its source, over the Python twins of ``uses`` (modules that its own imports name, each perhaps over those
    before it)."""
    loaded = sys.modules.get(module)
    if not twins.native() and (loaded is None or str(loaded.__file__).endswith(".py")):
        return importlib.import_module(module)
    others = {name: python(name, *uses[:at]) for at, name in enumerate(uses)}
    held = {name: sys.modules.get(name) for name in uses}
    name = f"{module}_python_side"
    spec = spec_from_file_location(name, twins.source_of(module.removeprefix("fastgw.")))
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    sys.modules[name] = found
    sys.modules.update(others)
    try:
        spec.loader.exec_module(found)
    finally:
        for other, was in held.items():
            if was is None:
                del sys.modules[other]
            else:
                sys.modules[other] = was
    return found


def some_ways(data: bytes, splits: int = 2) -> list[list[bytes]]:
    """Whole, byte by byte (of what is not long), and cut at random; the same ones each time for the same bytes."""
    found = [[data]]
    if 1 < len(data) <= 400:
        found.append([data[i : i + 1] for i in range(len(data))])
    chance = random.Random(data)
    if len(data) > 1:
        found += [cut(data, [chance.randrange(len(data)) for _ in range(chance.randrange(1, 6))]) for _ in range(splits)]
    return found
