"""Which twin of the hot modules runs: compiled, or the Python source beside it.

An extension stands next to the module that it was compiled from, and Python's own import prefers it. So ``auto`` takes
what is there and this file only has to say no: for ``FASTGW_NATIVE=0``, and where an installation is not whole, since
half of the twins compiled and half not would not fit each other. It is asked at the package's first import, before any
of them; therefore it reads the environment itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from pathlib import Path  # imported where it is used: four milliseconds of every start

Mode = Literal["auto", "0", "1"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

MODULES: Final = (
    "accel.bodies",
    "accel.chunks",
    "accel.frames",
    "accel.hashing",
    "accel.heads",
    "accel.histograms",
    "accel.huffman",
    "accel.judges",
    "accel.landing",
    "accel.lines",
    "accel.lookup",
    "accel.ids",
    "accel.masks",
    "accel.prefixes",
    "accel.renaming",
    "accel.sockets",
    "accel.spans",
    "accel.sse",
    "accel.tokens",
    "accel.usage",
    "exchange.asking",
    "exchange.attempt",
    "exchange.call",
    "exchange.context",
    "exchange.endpoints",
    "exchange.exchange",
    "exchange.figures",
    "exchange.filter",
    "exchange.gateway",
    "exchange.opening",
    "exchange.passage",
    "exchange.plan",
    "exchange.record",
    "exchange.refusal",
    "exchange.relay",
    "exchange.request",
    "exchange.state",
    "exchange.tally",
    "exchange.tracing",
    "exchange.tunnel",
    "limits.account",
    "limits.addresses",
    "limits.admission",
    "limits.breaker",
    "limits.budget",
    "limits.crowd",
    "limits.drain",
    "limits.fairqueue",
    "limits.ledger",
    "limits.lows",
    "limits.meter",
    "limits.promises",
    "limits.purse",
    "limits.region",
    "limits.scope",
    "limits.scopes",
    "limits.shared",
    "limits.spending",
    "limits.table",
    "net.client",
    "net.clock",
    "net.descriptors",
    "net.h1_arrival",
    "net.h1_client",
    "net.h1_connection",
    "net.h1_upstream",
    "net.h2_arrival",
    "net.h2_client",
    "net.h2_connection",
    "net.h2_link",
    "net.h2_stream",
    "net.h2_tunnel",
    "net.h2_upstream",
    "net.h2_upstream_tunnel",
    "net.handshake",
    "net.listener",
    "net.poller",
    "net.timers",
    "net.tls",
    "net.tls_shake",
    "net.upstream",
    "net.wire",
    "net.ws_wire",
    "observe.logs",
    "observe.tallies",
    "policy.auth",
    "policy.bodylimit",
    "policy.charge",
    "policy.iplimit",
    "policy.lanes",
    "policy.places",
    "policy.queue",
    "policy.quota",
    "policy.ratelimit",
    "policy.rewrite",
    "policy.route",
    "policy.routing.at_random",
    "policy.routing.by_route",
    "policy.routing.capability",
    "policy.routing.chosen",
    "policy.routing.consistent_hash",
    "policy.routing.ewma_latency",
    "policy.routing.keys",
    "policy.routing.least_loaded",
    "policy.routing.loads",
    "policy.routing.ordered",
    "policy.routing.power_of_two",
    "policy.routing.prefix_aware",
    "policy.routing.round_robin",
    "policy.routing.search",
    "policy.routing.session",
    "policy.routing.token_load",
    "policy.scopes",
    "policy.waiting",
    "protocol.body",
    "protocol.h2.answers",
    "protocol.h2.budget",
    "protocol.h2.frames",
    "protocol.h2.heads",
    "protocol.h2.hpack",
    "protocol.h2.requests",
    "protocol.h2.writer",
    "protocol.http1.client",
    "protocol.http1.framing",
    "protocol.http1.server",
    "protocol.http1.writer",
    "protocol.messages",
    "protocol.openai",
    "protocol.start",
    "protocol.websocket",
    "stats",
    "upstream.h2_slots",
    "upstream.kinds.kind",
    "upstream.pool",
    "upstream.seats",
    "upstream.table",
    "upstream.target",
    "upstream.watch",
)
"""The modules that have a compiled twin; ``native/build.py`` builds exactly these, and all or none."""

def _file(module: str, suffix: str) -> str:
    return os.path.join(os.path.dirname(__file__), *module.split(".")) + suffix


def source_of(module: str) -> Path:
    """The Python source of a module of :data:`MODULES`."""
    from pathlib import Path

    return Path(_file(module, ".py"))


def extension_of(module: str) -> Path:
    """Where this interpreter looks for its compiled twin."""
    from pathlib import Path

    return Path(_file(module, EXTENSION_SUFFIXES[0]))


def built() -> bool:
    """Whether every compiled twin is there for this interpreter."""
    # (By folders: a look at each file takes a quarter of a millisecond, several times in each start.)
    there: dict[str, set[str]] = {}
    for module in MODULES:
        folder, _, name = _file(module, EXTENSION_SUFFIXES[0]).rpartition(os.sep)
        if folder not in there:
            try:
                there[folder] = set(os.listdir(folder))
            except OSError:
                return False
        if name not in there[folder]:
            return False
    return True


class _Sources:
    """Finds the source of each module that has a compiled twin, whatever stands beside it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("fastgw.") or fullname[7:] not in MODULES:
            return None
        source = _file(fullname[7:], ".py")
        spec = ModuleSpec(fullname, SourceFileLoader(fullname, source), origin=source)
        spec.has_location = True
        return spec


_sources: Final = _Sources()


def _loaded_native() -> bool | None:
    """Which twin has been imported already; None = neither."""
    for module in MODULES:
        loaded = sys.modules.get(f"fastgw.{module}")
        if loaded is not None:
            return not str(loaded.__file__).endswith(".py")
    return None


def native() -> bool:
    """Whether the compiled twins run (or will, when nothing has been imported yet)."""
    loaded = _loaded_native()
    return built() and _sources not in sys.meta_path if loaded is None else loaded


def select(mode: str) -> str:
    """Choose the twin and return its name, ``"python"`` or ``"native"``.

    ``"auto"`` takes the best one there is, ``"0"`` insists on Python, ``"1"`` insists on the compiled one. The choice is
    made once per process: by ``FASTGW_NATIVE`` when the package is imported, or by the first call before a hot module is.

    :raises ImportError: for ``"1"`` when it is not installed, and for ``"0"`` or ``"1"`` when the other one runs already.
    :raises ValueError: for any other mode.
    """
    if mode not in MODES:
        raise ValueError(f"FASTGW_NATIVE must be one of {', '.join(MODES)}, not {mode!r}")
    loaded = _loaded_native()
    if loaded is not None and (mode == "auto" or loaded == (mode == "1")):
        return "native" if loaded else "python"  # (each gateway asks: no look at files for what runs already)
    wanted = built() if mode == "auto" else mode == "1"
    if wanted and not built():
        raise ImportError("FASTGW_NATIVE=1 asks for the native extension, and this installation has none; use auto or 0")
    if loaded is None:
        if wanted and mode == "1" and _sources in sys.meta_path:
            sys.meta_path.remove(_sources)
        elif not wanted and _sources not in sys.meta_path:
            sys.meta_path.insert(0, _sources)
    else:
        name = "native" if loaded else "pure Python"
        raise ImportError(f"fastgw runs its {name} twin already; set FASTGW_NATIVE={mode} before the program starts")
    return "native" if native() else "python"


def asked() -> str:
    """What the environment asks for."""
    return os.environ.get("FASTGW_NATIVE", "").strip() or "auto"


def select_at_import() -> None:
    """What the environment says, for whoever imports the package. A wrong value is the configuration's to refuse."""
    if asked() == "0" or not built():
        sys.meta_path.insert(0, _sources)
