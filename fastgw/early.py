"""The first imports of ``fastgw serve``: msgspec, and the loop, without what they ask of others and a gateway has no use for.

At its import msgspec reads ``typing_extensions`` (whose names Python itself has), ``uuid`` and ``decimal`` (each for one type,
that it could read and write; with the first comes ``platform``), its descriptions of types and its schemas: half of its time,
and five milliseconds of each start. asyncio and uvloop read ``ssl``, and with it OpenSSL: as much again, and 4.3 MB. What
``fastgw serve`` does of TLS goes past its loop (``net/tls.py``), but for the control listener's (``control_tls``, where all is
imported as ever). Meanwhile others stand in their places.

Must never: be called in a process that is not the gateway's own, or leave anything of that in ``sys.modules``: whoever imports
one of these afterwards gets it whole. What wants more of them than the versions that this was written for is imported as ever.
Whoever brings TLS to the loop calls :func:`import_loop` only where nothing is to be encrypted; till then who tries is told.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Final

STANDINS: Final[dict[str, tuple[str, ...] | None]] = {
    "typing_extensions": None,  # not there: then it takes typing's
    "uuid": ("UUID", "SafeUUID"),
    "decimal": ("Decimal",),
    "msgspec.inspect": (),
    "msgspec._json_schema": ("schema", "schema_components"),
}
"""What is not to be imported with msgspec, with the names that must be in its place."""

LOOP_STANDINS: Final[dict[str, tuple[str, ...] | None]] = {
    "ssl": (
        *("SSLContext", "MemoryBIO", "create_default_context", "SSLError", "SSLWantReadError", "SSLSyscallError"),
        *("SSLZeroReturnError", "CertificateError", "SSL_ERROR_WANT_READ", "SSL_ERROR_WANT_WRITE", "SSL_ERROR_SYSCALL"),
    ),
}
"""The same for uvloop; asyncio does without by itself."""


def import_msgspec() -> None:
    """Import it so, unless it or one of these is there already."""
    package = _imported("msgspec", STANDINS)
    for name in STANDINS if package is not None else ():
        vars(package).pop(name.removeprefix("msgspec."), None)


def import_loop() -> None:
    """The same of asyncio and uvloop."""
    if "uvloop" not in sys.modules:
        _imported("asyncio", dict.fromkeys(LOOP_STANDINS))
        _imported("uvloop", LOOP_STANDINS)


def _imported(wanted: str, standins: dict[str, tuple[str, ...] | None]) -> ModuleType | None:
    """The module, imported just now while others stood in; None = as ever, here or long before."""
    if wanted in sys.modules or any(name in sys.modules for name in standins):
        return None
    for name, names in standins.items():
        sys.modules[name] = _standin(name, names)  # type: ignore[assignment]
    try:
        return import_module(wanted)
    except Exception:  # (whatever it is, the next line says it better)
        for name in [name for name in sys.modules if name.partition(".")[0] == wanted]:
            del sys.modules[name]
    finally:
        for name in standins:
            sys.modules.pop(name, None)
    import_module(wanted)
    return None


class _NotHere(Exception):
    """What stands for a class, an exception, a function: calling it is a mistake."""

    unknown = None  # (what a SafeUUID is where nobody says)

    def __init__(self, *_: Any) -> None:
        raise RuntimeError("`fastgw serve` has imported this without TLS, UUIDs and decimals: see fastgw/early.py")


def _standin(name: str, wanted: tuple[str, ...] | None) -> ModuleType | None:
    if wanted is None:
        return None
    module = ModuleType(name)
    for one in wanted:
        setattr(module, one, 0 if one.startswith("SSL_ERROR_") else type(one, (_NotHere,), {}))
    return module
