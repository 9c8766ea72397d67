"""``fastgw top``: the command line. Shows until SIGINT or SIGTERM, or once.

Must never: take the key as a flag (it would stand in ``ps``), or show it. Exit codes: 0 done, 1 the gateway could not be asked
at first, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TextIO

import msgspec
import uvloop

from fastgw.config import ConfigErrors
from fastgw.config.grammar import engine_key
from fastgw.net.unusable import TlsError
from fastgw.top.asking import Source, Unread
from fastgw.top.screen import Shown, screen, shown, trouble

DEFAULT_URL: Final = "http://127.0.0.1:9090"
LEAST_INTERVAL_S: Final = 0.1
MOST_INTERVAL_S: Final = 3600.0
MOST_ROWS: Final = 1000

_EXAMPLES: Final = """\
examples:
  fastgw top                                   the gateway whose control_listen is 127.0.0.1:9090
  ADMIN_KEY=... fastgw top http://10.0.0.5:9090 --admin-key-env ADMIN_KEY
  fastgw top --once                            one table of the next two seconds
  fastgw top --json | jq .gateway.requests_per_s

Engines that drain, leave or are away, and what happened last, are shown with an admin key (one that may read will do), from the
variable that --admin-key-env names. docs/monitoring.md says what the columns are.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(re.sub(r"(unrecognized arguments: -*[^\s=]*).*", r"\1", message, flags=re.DOTALL))


def _fail(message: str) -> NoReturn:
    print(f"fastgw top: error: {message} (see fastgw top --help)", file=sys.stderr)
    raise SystemExit(2)


def _between(least: float, most: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) or not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}")
        return kind(text)

    return read


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgw top", usage="fastgw top [URL] [options]",
        description="Show what a running gateway does, in a terminal, until Ctrl-C.",
        epilog=_EXAMPLES, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("url", metavar="URL", nargs="?", default=DEFAULT_URL, help=f"its control listener ({DEFAULT_URL})")
    add("--admin-key-env", metavar="NAME", default="", help="the variable that holds an admin key (none is sent else)")
    add("--interval", metavar="SECONDS", type=_between(LEAST_INTERVAL_S, MOST_INTERVAL_S, float), default=2.0,
        help="time between two looks; a gateway's figures are new every metrics_cache_s (default 2)")  # fmt: skip
    add("--rows", metavar="N", type=_between(1, MOST_ROWS, int), default=20, help="engines, models and GPUs shown (default 20)")
    add("--once", action="store_true", help="look twice, show one table, and end")
    add("--json", action="store_true", help="a line of JSON for each look, and no tables")
    add("--plain", action="store_true", help="plain text, also where rich is installed")
    add("--ca-file", metavar="FILE", default="", help="at https://: the CAs by which it is believed")
    add("--insecure", action="store_true", help="at https://: do not check its certificate")
    return parser


def main(argv: Sequence[str], variable: Callable[[str], str]) -> int:
    """Show a gateway; ``variable`` reads the environment."""
    options = _parser().parse_args(list(argv))
    # (Only who names it has it sent: the URL may be any server's.)
    key = variable(options.admin_key_env).strip() if options.admin_key_env else ""
    if options.admin_key_env and not key:
        _fail("--admin-key-env: there is no such variable, or nothing in it")
    for _ in engine_key(key):
        _fail("--admin-key-env: a key is visible ASCII without blanks")
    try:
        source = Source(options.url, key, options.ca_file, not options.insecure, options.rows, time.monotonic)
    except ConfigErrors as found:
        # (What the URL holds may be a secret.)
        said = "; ".join(f"{'--ca-file' if one.name == 'ca_file' else 'URL'}: {one.message}" for one in found.errors)
        _fail("the URL must hold no user and password" if "@" in options.url else said)
    except TlsError as error:
        _fail(f"--ca-file: {error}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_shown(source, options, sys.stdout))
    except BrokenPipeError:  # (whoever read it has seen enough; nothing is left to be said at the exit)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _shown(source: Source, options: argparse.Namespace, out: TextIO) -> int:
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    where = re.sub(r"^https?://", "", options.url)
    try:
        await source.read()  # (rates are of two)
    except Unread as error:
        print(f"fastgw top: {where}: {error}", file=sys.stderr)
        return 1
    last: Shown | None = None
    with screen(out, options.plain, options.once) as show:
        while not await _over(ends, options.interval):
            try:
                found = await source.read()
            except Unread as error:
                if options.once or options.json:
                    print(f"fastgw top: {where}: {error}", file=sys.stderr)
                    if options.once:
                        return 1
                    continue
                show(trouble([f"{time.strftime('%H:%M:%S')}  {where}: {error}", "this is what it said before:"], last))
                continue
            if options.json:
                out.write(msgspec.json.encode(found).decode() + "\n")
                out.flush()
            else:
                last = shown(found, where)
                show(last)
            if options.once:
                break
    return 0


async def _over(ends: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until it is to end."""
    try:
        await asyncio.wait_for(ends.wait(), seconds)
    except TimeoutError:
        return False
    return True
