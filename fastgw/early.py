"""The first import of ``fastgw serve``: msgspec, without what it asks of others and a gateway has no use for.

At its import msgspec reads ``typing_extensions`` (whose names Python itself has), ``uuid`` (for one type, that it could read
and write; with it comes ``platform``), its descriptions of types and its schemas: half of its time, and four milliseconds of
each start. Meanwhile others stand in their places. Must never: be called in a process that is not the gateway's own, or leave
anything of that in ``sys.modules``: whoever imports one of these afterwards gets it whole. A msgspec that wants more of them
than the one that this was written for is imported as ever.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

STANDINS: Final[dict[str, tuple[str, ...] | None]] = {
    "typing_extensions": None,  # not there: then it takes typing's
    "uuid": ("UUID", "SafeUUID"),
    "msgspec.inspect": (),
    "msgspec._json_schema": ("schema", "schema_components"),
}
"""What is not to be imported, with the names that must be in its place."""


def import_msgspec() -> None:
    """Import it so, unless it or one of these is there already."""
    if "msgspec" in sys.modules or any(name in sys.modules for name in STANDINS):
        return
    for name, wanted in STANDINS.items():
        sys.modules[name] = _standin(name, wanted)  # type: ignore[assignment]
    try:
        package = import_module("msgspec")
    except Exception:  # (whatever it is, the next line says it better)
        for name in [name for name in sys.modules if name.partition(".")[0] == "msgspec"]:
            del sys.modules[name]
        package = None
    finally:
        for name in STANDINS:
            sys.modules.pop(name, None)
    if package is None:
        import_module("msgspec")
        return
    for name in STANDINS:
        vars(package).pop(name.removeprefix("msgspec."), None)


def _standin(name: str, wanted: tuple[str, ...] | None) -> ModuleType | None:
    if wanted is None:
        return None
    module = ModuleType(name)
    for one in wanted:
        setattr(module, one, type(one, (), {"unknown": None}))  # (what a SafeUUID is where nobody says)
    return module
