"""``fastgw check``: what of a configuration only a try shows: its certificates, its engines, and who is found where it says.

Must never: take what is not there yet for a mistake. What it says goes to stdout, what is wrong to stderr.
"""

from __future__ import annotations

import asyncio
import sys

from fastgw.config import Config, EngineConfig
from fastgw.config.settings import inherited
from fastgw.doors import shown_to_clients
from fastgw.net.unusable import TlsError
from fastgw.upstream.discovery.follower import sources_of
from fastgw.upstream.discovery.source import LookFailed
from fastgw.upstream.trial import tried


def try_it(config: Config, timeout_s: float) -> int:
    """Try the certificates, and ask each engine once, which has ``timeout_s``; 0 = none of them is wrong."""
    code = 0
    try:
        shown = shown_to_clients(config)
        for note in shown.notes if shown is not None else ():
            print(f"  warning: {note}")
    except TlsError as error:
        print(f"fastgw check: {error}", file=sys.stderr)
        code = 1
    asked, bad = asyncio.run(_look(config, timeout_s))
    code = 1 if bad else code
    for engine, (good, told) in asked:
        print(f"  engine {engine.name}: {told}" if good else f"fastgw check: engine {engine.name}: {told}",
              file=sys.stdout if good else sys.stderr)  # fmt: skip
        code = code if good else 1
    return code


async def _look(config: Config, timeout_s: float) -> tuple[list[tuple[EngineConfig, tuple[bool, str]]], bool]:
    """What came of asking each engine, those that are found among them, and whether a file of engines cannot be taken."""
    engines = [one for one in config.engines if not one.discover]
    bad = False
    for source in sources_of(config):
        try:
            found = await source.look()
            engines += [inherited(one, config) for group in found.groups for one in group]
        except LookFailed as error:
            if source.origin == "file":
                bad = True
                print(f"fastgw check: engines_file {config.engines_file}: {error}", file=sys.stderr)
            else:
                print(f"  {source.key}: nobody is found here: {error}")
    return list(zip(engines, await tried(engines, timeout_s), strict=True)), bad
