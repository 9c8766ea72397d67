"""The page about security: its table of limits is what the settings and the code have, and its figures are those of the run
that is kept beside them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hostile import report
from fastgw import Config
from tests.architecture.sources import parsed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE))

ROOMS = (
    "accel", "config", "control", "exchange", "gpu", "importing", "limits", "net", "observe", "policy", "protocol", "store",
    "top", "upstream",
    "accel", "config", "control", "exchange", "gpu", "limits", "net", "observe", "policy", "protocol", "store", "top",
    "upgrade", "upstream",
)  # fmt: skip
A_LIMIT = re.compile(r"_?(?:MAX|MOST)(?:_\w+)?|_?\w+_BYTES|_?\w+_S").fullmatch
OF_SETTINGS = re.compile(r"max_\w+|\w+_max_\w+|\w+_timeout_s|\w+_bytes|\w+_size|log_flood_rate|rate_limit_per_second").fullmatch

NO_LIMITS = {
    "units, sizes of what is fixed": (
        "net.process_line._LENGTH_BYTES", "upstream.seats.SECRET_BYTES", "upstream.seats._TOLD_BYTES",
        "accel.hashing.DIGEST_BYTES", "store.keys.KEY_BYTES", "store.keys._DIGEST_BYTES",
        "limits.ledger.DAY_S", "exchange.context.DAY_S", "store.database.DAY_S", "config.address.MAX_UNIX_PATH_BYTES",
        "accel.prefixes.FIRST_BYTES", "accel.prefixes.NODE_BYTES", "accel.prefixes.SECRET_BYTES",
        "accel.members._MODEL_BYTES", "net.live.HEAD_BYTES", "accel.frames.HEADER_BYTES", "protocol.h2.frames.MOST_WINDOW",
        "protocol.h2.frames.MAX_CONCURRENT_STREAMS", "protocol.h2.frames.MAX_FRAME_SIZE",
        "protocol.h2.frames.MAX_HEADER_LIST_SIZE",
    ),
    "how often, or how much at a time, the gateway itself does something": (
        "net.process_line._READ_BYTES", "upgrade.forward.LOOK_S", "upgrade.giving.LOOK_S",
        "net.tls.OVERHEAD_BYTES", "net.tls.TURN_BYTES", "net.certificates.LOOK_S",
        "net.certificates.SESSION_S", "net.certificates.ENDS_SOON_S",
        "net.wire.RECV_BYTES", "net.h2_stream.FRAME_BYTES", "net.h2_upstream.MOST_STREAM", "upstream.health.PROTOCOL_EVERY_S",
        "net.h2_client.FRAME_BYTES", "net.h2_arrival.MOST_STREAM", "net.h2_arrival.MOST_OPENED",
        "net.h2_connection.MOST_TURN_BYTES", "net.h2_arrival.LEAST_LOOK_S", "net.h2_arrival.MOST_LOOK_S",
        "net.h1_upstream.JOIN_BYTES", "exchange.attempt.APART_BYTES", "policy.rewrite.LEAD_BYTES",
        "net.vanished.PROBED_S", "net.vanished.PROBES_S", "net.listener.PAUSE_S", "net.shortage.TOLD_EVERY_S",
        "net.poller.MAX_EVENTS", "net.poller.MAX_HOLD_S", "net.poller.SLOWLY_S", "net.timers.TICK_S", "observe.logs.FLUSH_S",
        "net.timers.TURN_S", "net.timers.MOMENT_S", "net.timers.CATCH_UP_S",
        "accel.landing._READ_BYTES", "net.supervisor.LEAST_S",
        "observe.logs.FLUSH_BYTES", "observe.trace.BATCH_BYTES", "observe.trace.DELAY_S", "exchange.local.FRESH_S",
        "exchange.merged.PAUSE_S", "upstream.pool.IDLE_LIMIT_S", "upstream.pool.IDLE_FLOOR_S", "upstream.pool.WARM_GAP_S",
        "upstream.pool.UNNEEDED_S", "upstream.h2_slots.WARM_PAUSE_S",
        "upstream.discovery.file.EVERY_S", "upstream.discovery.follower.AGAIN_S",
        "upstream.discovery.names.MOST_WEIGHT", "net.bridge.READ_BYTES", "protocol.runners.WEIGHT_BYTES",
        "net.ws_wire.KEYS_BYTES",
        "upstream.leaving.LOOK_S", "upstream.discovery.follower.LOOK_S",
        "upstream.health.RESOLVE_EVERY_S", "upstream.lists.LARGE_BYTES", "upstream.publishing.AT_ONCE_S",
        "policy.routing.capability.KEPT_S", "policy.routing.ewma_latency.UNKNOWN_S", "policy.routing.loads.FRESH_S",
        "upstream.restraint.LOOK_S", "upstream.restraint.WINDOW_S", "upstream.restraint.LEAST_SLOWER_S",
        "policy.waiting.INTERVAL_S", "policy.cors.MAX_AGE_S",
        "limits.breaker.PROBE_WAIT_S", "limits.account.MOST_ENDED", "limits.account.MOST_RETIRED",
        "limits.drain.UNKNOWN_S", "limits.promises.MOST_S",
        "limits.promises.CROWD_S", "limits.promises.GOES_ON_MOST_S",
        "limits.admission.RESERVED_S", "limits.admission.RESERVED_EACH_S", "policy.quota.TURN_S",
        "store.state.LOOK_S", "store.state.RUN_S",
        "store.state._TAKEN_S", "store.state._WRITE_BUSY_S", "store.state._CALL_BUSY_S", "store.folder._REOPEN_BUSY_S",
        "store.database.PAUSE_S", "store.keys._TURN_S", "store.spending._TURN_S",
        "store.place._MADE_WITHIN_S", "control.server.STOP_S", "control.admin_live.EVERY_S", "observe.live.MARK_S",
        "observe.live.STALE_S", "observe.latencies.MARK_S",
        "store.place._MADE_WITHIN_S", "control.server.STOP_S", "control.webhook.FIRST_PAUSE_S", "control.webhook.MAX_PAUSE_S",
        "control.webhook.TOLD_EVERY_S",
        "gpu.server.STOP_S", "gpu.server.PACKED_BYTES", "gpu.watch.FRESH_S", "gpu.watch.CLOSE_S",
        "gpu.reading.FIRST_PAUSE_S", "gpu.reading.MAX_PAUSE_S", "top.cli.LEAST_INTERVAL_S", "top.cli.MOST_INTERVAL_S",
        "top.view.MOST_EVENTS",
        "gpu.reading.FIRST_PAUSE_S", "gpu.reading.MAX_PAUSE_S", "gpu.energy.MAX_PAUSE_S",
    ),
    "bounds of arithmetic, and of what an operator writes": (
        "limits.ledger.MAX_TOKENS", "limits.meter.MAX_RATE", "limits.meter.MAX_CAPACITY",
        "limits.meter.MAX_DEBT_PERIODS", "limits.lows.MOST_LOWS", "exchange.attempt.MOST_WEIGHED",
        "upstream.watch.MOST_TOKENS", "upstream.watch._MOST_TOKENS", "upstream.watch.DECAY_S",
        "upstream.restraint.MOST_TIMES", "policy.routing.keys._MOST_BYTES", "accel.prefixes.MOST_HOLDERS",
        "importing.reading.MAX_BYTES", "importing.reading.MAX_DEPTH", "importing.reading.MAX_VALUES",
        "importing.report.MAX_SHOWN", "importing.cli.MOST_INCLUDES", "importing.deployments.MOST_WEIGHT",
        "importing.tensorzero.MOST_RETRIES",
        "config.grammar.MOST_ADMIN_KEYS", "config.grammar.MAX_ADMIN_FILE_BYTES", "config.entries.MAX_SHARE",
        "policy.nearest.MOST_SHOWN", "policy.nearest.MOST_SLIPS", "exchange.dialects.MOST",
        "exchange.dialects.SHORT_BYTES", "exchange.dialects.FIGURE_BYTES",
        "config.money.MOST_AMOUNT", "config.money.MOST_PRICE", "config.paying.MAX_TENANT_CHARS",
        "limits.spending.MOST_COST",
        "limits.purse.MOST_SPENT", "limits.purse.MOST_HEARD", "limits.fairqueue.MAX_QUANTUM", "limits.slots.MOST",
        "limits.slots.STALE_S", "limits.slots.NOISE_S",
    ),
}  # fmt: skip
ALSO = {
        "config.grammar.MIN_ADMIN_KEY", "control.proof.FAILURES", "protocol.h2.budget.GLITCHES",
        "protocol.h2.budget.PINGS", "protocol.runners.BURST", "protocol.runners.RATE", "upstream.runners.FLAPS",
        "control.server.FAILURES",
    "protocol.h2.budget.UPDATES", "net.h2_upstream.RESETS", "net.h2_arrival.RESETS",
}  # limits by another kind of name


def shown(name: str, value: float) -> str:
    """A bound as the page has it."""
    if name.endswith(("_S", "_s")):
        return f"{value:g} s"
    if (name.upper().endswith("_BYTES") or name == "MAX_PAGE_CHARS") and value >= 1024:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size:g} {unit}"
    if name.upper().endswith("_BYTES"):
        return f"{value} bytes"
    if value > 2**31:
        power = round(value).bit_length() - 1
        return f"2^{power}" if value == 1 << power else f"2^{power + 1} - 1" if value == (2 << power) - 1 else f"{value:.0e}"
    return f"{value:,}"


def setting_shown(name: str) -> str:
    """The default of a setting as the page has it."""
    value = getattr(Config(), name)
    if value is None:
        return "auto"
    return "none" if value == 0 else shown(name, value)


@cache
def constants() -> dict[str, float]:
    """All numbers of the rooms whose names say that they are a limit, and those in ``ALSO``."""
    found: dict[str, float] = {}
    for room in ROOMS:
        for path in sorted((ROOT / "fastgw" / room).rglob("*.py")):
            place = ".".join(path.relative_to(ROOT / "fastgw").with_suffix("").parts)
            known: dict[str, float] = {}
            for node in parsed(path.relative_to(ROOT)).body:
                target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
                if isinstance(target, ast.Name) and target.id.isupper():
                    value = number(node.value, known)
                    if value is not None:
                        known[target.id] = value
            found |= {f"{place}.{name}": value for name, value in known.items() if A_LIMIT(name) or f"{place}.{name}" in ALSO}
    return found


def number(expression: Any, known: dict[str, float]) -> float | None:
    """The number that a constant is set to, from numbers and constants before it. (Compiled, they are no attributes.)"""
    try:
        value = eval(ast.unparse(expression), {"__builtins__": {}}, known)
    except (NameError, TypeError, AttributeError):
        return None
    return value if type(value) in (int, float) else None


def test_each_limit_of_the_code_is_in_the_table_as_it_is() -> None:
    excluded = {name for names in NO_LIMITS.values() for name in names}
    found = {name: shown(name.rpartition(".")[2], value) for name, value in constants().items() if name not in excluded}
    assert {name: bound for name, bound in ROWS.items() if "." in name} == found


def test_each_limit_stands_there_once() -> None:
    names = re.findall(r"(?m)^\| `([a-z0-9_.]+\.[A-Z0-9_]+)` \|", PAGE)
    assert sorted(set(names)) == sorted(names)


def test_nothing_is_excluded_that_is_not_there() -> None:
    assert {name for names in NO_LIMITS.values() for name in names} <= set(constants())


def test_each_setting_that_is_a_limit_is_in_the_table_with_its_default() -> None:
    settings = {name for name in Config.__struct_fields__ if OF_SETTINGS(name)}
    listed = {name: bound for name, bound in ROWS.items() if "." not in name}
    assert settings <= set(listed)
    assert listed == {name: setting_shown(name) for name in listed}


def test_the_figures_are_those_of_the_run_that_is_kept() -> None:
    published, kept = report.published()
    assert published == kept


@pytest.mark.parametrize("word", ["allowed_hosts", "log_flood_rate", "ADMIN_KEY", "duplicate_member", "overloaded"])
def test_what_it_promises_is_named(word: str) -> None:
    assert word in PAGE
