"""A reading on a terminal: by rich where it is installed, plain text elsewhere, the same words either way, in 80 columns.

Must never: let what an engine or a configuration calls itself move the cursor: what cannot be printed becomes a ``?``.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TextIO

from fastgw.top.view import Percentiles, Reading

WIDTH: Final = 80
_NAME_CHARS: Final = 26
_WELL: Final = ("well", "unknown", "ok")
_CLEAR: Final = "\x1b[H\x1b[2J"


class Table(NamedTuple):
    """``wrong``: the rows that somebody should look at."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    wrong: frozenset[int] = frozenset()
    left: int = 0
    """Rows that there are beside these."""


Shown = tuple[list[str], list[Table]]


def figure(value: float | None, unit: str = "") -> str:
    """In six characters or so, and its unit; ``-`` = not known."""
    if value is None:
        return "-"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            scale = 1e3 if letter == "k" else factor
            return f"{value / scale:.1f}{letter}{unit}"
    return f"{value:.0f}{unit}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}{unit}"


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def spread(found: Percentiles | None) -> str:
    """All three, in milliseconds."""
    return "-" if found is None else "/".join(f"{one * 1e3:.0f}" for one in (found.p50, found.p95, found.p99))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def clock(at: float) -> str:
    """Unix seconds by the clock on the wall; ``-`` = no clock shows them."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (OSError, OverflowError, ValueError):
        return "-"


def safe(text: str, most: int = WIDTH) -> str:
    """``text`` for one line of a terminal."""
    text = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def shown(found: Reading, where: str) -> Shown:
    """The lines above, and the tables that there is something to say in."""
    tables = [
        Table(
            ("ENGINE", "STATE", "BUSY", "REQ/S", "ERR/S", "WAITING", "KV"),
            [(safe(one.name, _NAME_CHARS), one.state, _of(one.inflight, one.slots), figure(one.requests_per_s),
              figure(one.errors_per_s), figure(one.waiting), percent(one.kv_usage)) for one in found.engines],
            frozenset(row for row, one in enumerate(found.engines) if one.state not in _WELL),
            found.engines_total - len(found.engines),
        ),
        Table(
            ("ENGINE", "TTFT P50/P95/P99 MS", "ITL P50/P95/P99 MS"),
            [(safe(one.name, _NAME_CHARS), spread(one.ttft_s), spread(one.itl_s)) for one in found.engines
             if one.ttft_s is not None or one.itl_s is not None],
        ),
        Table(
            ("MODEL", "REQ/S", "TOKENS/S", "TTFT P50", "TTFT P99"),
            [(safe(one.model, _NAME_CHARS), figure(one.requests_per_s), figure(one.tokens_per_s), ms(one.ttft_p50_s),
              ms(one.ttft_p99_s)) for one in found.models],
            left=found.models_total - len(found.models),
        ),
        Table(
            ("ERROR", "PER S"),
            [(safe(one.error, _NAME_CHARS), figure(one.per_s)) for one in found.errors],
            left=found.errors_total - len(found.errors),
        ),
        Table(
            ("CALLER", "REQ/S", "TOKENS/S"),
            [(safe(one.caller, _NAME_CHARS), figure(one.requests_per_s), figure(one.tokens_per_s)) for one in found.callers],
            left=found.callers_total - len(found.callers),
        ),
        Table(
            ("GPU", "STATE", "BUSY", "MEMORY", "TEMP", "POWER"),
            [(safe(one.gpu, 8), "ok" if one.up else "lost", figure(one.utilization, "%"),
              f"{figure(one.memory_used_gb)}/{figure(one.memory_total_gb, ' GiB')}", figure(one.temperature_c, " C"),
              figure(one.power_w, " W")) for one in found.gpus],
            frozenset(row for row, one in enumerate(found.gpus) if not one.up),
            found.gpus_total - len(found.gpus),
        ),
        Table(
            ("WHEN", "WHAT", "ENGINE", ""),
            [(clock(one.at), safe(one.what, 18), safe(one.engine, 18), safe(one.detail, 28))
             for one in found.events],
        ),
    ]  # fmt: skip
    return _head(found, where), [table for table in tables if table.rows]


def _head(found: Reading, where: str) -> list[str]:
    own = found.gateway
    up = ""
    if own.uptime_s is not None:
        up = f"  up {int(own.uptime_s // 86400)}d {time.strftime('%H:%M', time.gmtime(own.uptime_s % 86400))}"
    store = "store -" if own.store_up is None else "store ok" if own.store_up else "STORE DOWN: usage only in memory"
    driver = [f"GPU DRIVER: {found.gpu_driver}"] if found.gpu_driver not in (None, "ok") else []
    return [safe(line) for line in (
        f"fastgw {own.version} at {where}{up}  {clock(found.at)}",
        f"requests {figure(own.requests_per_s, '/s')}  5xx {figure(own.errors_per_s, '/s')}  refused "
        f"{figure(own.refused_per_s, '/s')}  under way {figure(own.active)}  waiting {figure(own.waiting)}",
        f"first token p50 {ms(own.ttft_p50_s)} p99 {ms(own.ttft_p99_s)}  between tokens p99 {ms(own.itl_p99_s)}"
        f"  broken off {figure(own.broken_off_per_s, '/s')}",
        f"tokens in {figure(own.prompt_tokens_per_s, '/s')} out {figure(own.completion_tokens_per_s, '/s')}  loop p99 "
        f"{ms(own.lag_p99_s)}  memory {figure(own.memory_bytes, 'B')}",
        store + ("  settings wait for a restart" if own.restart_pending else ""),
        *driver,
    )]  # fmt: skip


def _of(part: float, whole: float) -> str:
    return f"{part:.0f}/{whole:.0f}" if whole else f"{part:.0f}"


def text(found: Shown) -> str:
    """All of it with blanks between the columns."""
    head, tables = found
    lines = list(head)
    for table in tables:
        widths = [max(len(row[column]) for row in (table.columns, *table.rows)) for column in range(len(table.columns))]
        lines.append("")
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                  for row in (table.columns, *table.rows)]  # fmt: skip
        lines += [f"... {table.left} more (--rows)"] if table.left else []
    return "\n".join(line[:WIDTH] for line in lines) + "\n"


def _rich(found: Shown) -> Any:
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    head, tables = found
    parts: list[Any] = [Text(line, style="bold" if not at else "", no_wrap=True) for at, line in enumerate(head)]
    for table in tables:
        made = RichTable(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in table.columns:
            made.add_column(column, no_wrap=True)
        for at, row in enumerate(table.rows):
            made.add_row(*(Text(cell) for cell in row), style="red" if at in table.wrong else "")
        parts += [Text(""), made]
        parts += [Text(f"... {table.left} more (--rows)")] if table.left else []
    return Group(*parts)


Show = Callable[[Shown], None]


@contextmanager
def screen(out: TextIO, plain: bool, once: bool) -> Iterator[Show]:
    """What shows a reading in the place of the one before; ``once``: below what is there."""
    fancy = not plain and out.isatty() and importlib.util.find_spec("rich") is not None
    if fancy:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=out)
        if once:
            yield lambda found: console.print(_rich(found))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda found: live.update(_rich(found), refresh=True)
        return

    def show(found: Shown) -> None:
        said = text(found)
        if out.isatty() and not once:
            said = _CLEAR + "\n".join(said.split("\n")[: shutil.get_terminal_size().lines - 1])
        elif not once:
            said += "\n"
        encoding = out.encoding or "ascii"
        out.write(said.encode(encoding, "replace").decode(encoding))
        out.flush()

    yield show


def trouble(lines: Sequence[str], last: Shown | None) -> Shown:
    """What is wrong above what was seen last."""
    head, tables = last or ([], [])
    return [*(safe(line) for line in lines), "", *head], tables
