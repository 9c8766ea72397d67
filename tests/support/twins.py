"""Both twins of a module side by side in one process, for tests that hold one against the other.

The twin that the process does not run is loaded under a name of its own; what it imports from ``fastgw`` is the running
one's. So this is for the modules of ``accel``, which import nothing but each other's tables.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from fastgw import twins


@cache
def python_twin(module: str) -> Any:
    """The pure-Python twin of ``fastgw.accel.heads`` and the like."""
    return _load(module, twins.source_of(module.removeprefix("fastgw.")), "_python_twin")


@cache
def native_twin(module: str) -> Any:
    """The compiled twin; ImportError says how to build it."""
    path = twins.extension_of(module.removeprefix("fastgw."))
    if not path.exists():
        raise ImportError(f"{path.name} is not built: run `make native`")
    return _load(module, path, "_native_twin")


def _load(module: str, path: Path, mark: str) -> ModuleType:
    running = sys.modules.get(module)
    if running is not None and running.__file__ == str(path):
        return running
    # An extension's init function is found by the last part of its name: that part must stay.
    package, _, last = module.rpartition(".")
    name = f"{package}.{mark}.{last}"
    make = SourceFileLoader if path.suffix == ".py" else ExtensionFileLoader
    spec = importlib.util.spec_from_file_location(name, path, loader=make(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found
