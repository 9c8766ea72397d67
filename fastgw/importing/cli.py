"""``fastgw import``: another gateway's configuration in, one of fastgw out, and what became of each entry.

Owns: the flags, and where the two texts go. Must never: write over a file that is there, unless it is told to. Exit codes: 0
all was translated, 1 something was not (the file is written all the same), 2 wrong command line, or a file that
cannot be read or written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from fastgw.importing import litellm, reading, tensorzero
from fastgw.importing.draft import Draft
from fastgw.importing.report import Report

MOST_INCLUDES: Final = 32
_MODE: Final = 0o600  # it has no key in it, and the addresses of engines
_EXAMPLES: Final = """\
examples:
  fastgw import litellm config.yaml --output fastgw.toml
  fastgw import tensorzero config/tensorzero.toml > fastgw.toml
  fastgw check --config fastgw.toml

The configuration goes to standard output, or to --output FILE; what became of each entry to standard error. No key is copied:
what the source takes from a variable, fastgw takes from that variable. docs/migrate.md has all of it. Exit status: 0 all was
translated, 1 something was not (the file is written all the same), 2 it cannot be read, or written.
"""


def _fail(message: str) -> NoReturn:
    print(f"fastgw import: error: {message} (see fastgw import --help)", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgw import",
        description="Write a configuration of fastgw from one of another gateway, and say what became of each of its entries.",
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=tuple(_KINDS), help="whose it is")
    parser.add_argument("file", metavar="FILE", help="LiteLLM's config.yaml, or tensorzero.toml")
    parser.add_argument("--output", metavar="FILE", help="write the configuration to this file, and not to standard output")
    parser.add_argument("--force", action="store_true", help="write over the file of --output where there is one")
    return parser


def main(argv: Sequence[str], variable: Callable[[str], str]) -> int:
    """Run it; ``variable`` tells what a variable holds ("" = it is not set)."""
    options = _parser().parse_args(list(argv))
    if options.force and not options.output:
        _fail("--force is of --output")
    if options.output and not options.force and os.path.lexists(options.output):
        _fail("the file of --output is there already: name another, or say --force")
    try:
        draft, report = _KINDS[options.kind](options.file, variable)
    except reading.Unreadable as error:
        print(f"fastgw import: error: {options.file}: {error}", file=sys.stderr)
        return 2
    try:
        _write(draft.text(), options.output, options.force)
    except (OSError, ValueError) as error:
        print(f"fastgw import: error: it cannot be written: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    print(report.text(), end="", file=sys.stderr)
    problems = draft.problems()
    for problem in problems:
        print(f"fastgw import: as it is it will not start: {problem}", file=sys.stderr)
    return 0 if report.complete and not problems else 1


def _write(text: str, path: str | None, force: bool) -> None:
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    with open(os.open(path, flags, _MODE), "w", encoding="utf-8") as file:
        file.write(text)


def _litellm(path: str, variable: Callable[[str], str]) -> tuple[Draft, Report]:
    source: dict[Any, Any] = reading.yaml(reading.read(path))
    named = source.pop("include", [])
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise reading.Unreadable("its include is no list of files")
    if len(named) > MOST_INCLUDES:
        raise reading.Unreadable(f"it includes more than {MOST_INCLUDES} files")
    for one in named:
        try:
            source = litellm.merged(source, reading.yaml(reading.read(reading.beside(path, one))))
        except reading.Unreadable as error:
            raise reading.Unreadable(f"a file that it includes: {one!r}: {error}") from None
    reading.bounded(source)
    return litellm.translate(source, variable)


def _tensorzero(path: str, variable: Callable[[str], str]) -> tuple[Draft, Report]:
    return tensorzero.translate(reading.toml(reading.read(path)))


_KINDS: Final[dict[str, Callable[[str, Callable[[str], str]], tuple[Draft, Report]]]] = {
    "litellm": _litellm,
    "tensorzero": _tensorzero,
}
