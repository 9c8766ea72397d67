"""How far a run is, on a terminal: a bar by rich where it is installed, a line written again elsewhere; on no terminal a line
for each row. It looks at the run now and then, from a timer of the loop: the load itself tells nobody.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from fastgw.bench.run import Run

EVERY_S: Final = 0.5
"""Rich draws for half a millisecond, in which nothing is read: a thousandth of the time. (The line takes a microsecond.)"""
_WIDTH: Final = 24


def line(run: Run) -> tuple[str, float, str]:
    """What is under way, how much of it is over (0 to 1), and what has come of it."""
    stage = run.stages[run.row]
    name = f"[{run.row + 1}/{len(run.stages)}] {'stream' if stage.stream else 'plain'} {stage.kind} {stage.name}"
    if run.load is None:
        return name, 0.0, "warm-up"
    tally = run.load.tally
    failed = f", {tally.failed} failed" if tally.failed else ""
    return name, run.load.done(), f"{tally.good} answers{failed}"


@contextmanager
def shown(run: Run, out: TextIO, *, quiet: bool, fancy: bool) -> Iterator[None]:
    """Show ``run`` on ``out`` meanwhile."""
    if quiet:
        yield
        return
    rich = fancy and out.isatty() and importlib.util.find_spec("rich") is not None
    show, close = _bar(out) if rich else _text(out)

    def tell() -> None:
        show(*line(run))

    async def look() -> None:
        while True:
            tell()
            await asyncio.sleep(EVERY_S)

    run.tell = tell
    looking = asyncio.get_running_loop().create_task(look(), name="bench progress")
    try:
        yield
    finally:
        looking.cancel()
        close()


Shows = tuple[Callable[[str, float, str], None], Callable[[], None]]


def _text(out: TextIO) -> Shows:
    last = ""

    def show(name: str, share: float, said: str) -> None:
        nonlocal last
        if out.isatty():
            bar = ("#" * round(_WIDTH * share)).ljust(_WIDTH, ".")
            out.write(f"\r{name} {bar} {share:4.0%} {said}\x1b[K")
        elif name != last:
            out.write(f"{name}\n")
        last = name
        out.flush()

    def close() -> None:
        if out.isatty():
            out.write("\r\x1b[K")
            out.flush()

    return show, close


def _bar(out: TextIO) -> Shows:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(), console=Console(file=out), auto_refresh=False, transient=True,
    )  # fmt: skip
    task = progress.add_task("", total=1.0, said="")
    progress.start()

    def show(name: str, share: float, said: str) -> None:
        progress.update(task, description=name, completed=share, said=said)
        progress.refresh()

    return show, progress.stop
