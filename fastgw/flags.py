"""The flags of settings: the help that shows them, and what a command line says by them.

Owns which settings a first look at the help shows; all else of a flag is its row of the table. Must never: be slow to import,
or repeat the value of a flag in an error (it may be a key).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    import argparse

MATTER: Final = (
    "host", "port", "tls_cert_file", "tls_key_file",
    "engines", "policy", "served_model_name", "vllm_api_key",
    "api_keys_file", "allow_anonymous", "cors_origins",
    "rate_limit_per_second", "engine_max_concurrent",
    "first_byte_timeout_s", "request_timeout_s", "drain_timeout_s",
    "state_dir", "control_listen",
    "log_level", "access_log",
)  # fmt: skip
"""The twenty that a first gateway is made of."""

EXAMPLES: Final = """\
examples:
  fastgw serve --engine http://127.0.0.1:8000
  fastgw serve --engine http://10.0.0.5:8000 --engine http://10.0.0.6:8000 --policy ordered
  fastgw serve --config fastgw.toml --host 0.0.0.0 --api-keys-file keys.txt
  OLLAMA_BASE=http://127.0.0.1:11434 fastgw serve --port 9000

Each setting can also stand in a TOML file, in config/.env or in the environment as FASTGW_<NAME>; docs/configuration.md has
the whole list, and so has --help-all.
"""

_METAVARS: Final = {"int": "N", "float": "SECONDS", "list": "A,B", "keys": "KEY,KEY", "engines": "URL"}


def _plain(text: str) -> str:
    """Without the links of the page that is made of it as well."""
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"docs/\1", text)


def help_of(command: str, description: str, whole: bool) -> str:
    """The help of a command that takes the settings: the flags of :data:`MATTER`, or of each row of the table."""
    from fastgw.config.row import default_text, range_text
    from fastgw.config.table import DEFAULTS, SECTIONS, TABLE

    parser = parser_for(command, description, EXAMPLES.replace("fastgw serve", f"fastgw {command}"))
    if not whole:
        rest = len(TABLE) - len(MATTER)
        parser.add_argument("--help-all", action="store_true", help=f"show the other {rest} settings too")
    parser.add_argument("--config", metavar="FILE", help="a TOML file (also FASTGW_CONFIG)")
    if command == "check":
        parser.add_argument("--live", action="store_true", help="ask the running gateway whether it lives")
        parser.add_argument("--ready", action="store_true", help="ask the running gateway whether an engine of its is well")
    rows = [row for row in TABLE if whole or row.name in MATTER]
    sections = [section for section in SECTIONS if any(row.section == section for row in rows)]
    groups = {section: parser.add_argument_group(section.lower()) for section in sections}
    for row in rows:
        default = default_text(DEFAULTS[row.name])
        notes = [text for text in (range_text(row), f"default {default}" if default else "") if text]
        if row.kind == "choice":
            notes.insert(0, ", ".join(choice for choice in row.choices if choice))
        if row.env:
            notes.append("env " + ", ".join(row.env))
        help_ = _plain(row.help)
        if notes:
            help_ += f" ({'; '.join(notes)})"
        help_ = help_.replace("%", "%%")
        if row.kind in {"bool", "auto_bool"}:
            groups[row.section].add_argument(f"--[no-]{row.flag[2:]}", action="store_true", help=help_)
        else:
            groups[row.section].add_argument(row.flag, metavar=_METAVARS.get(row.kind, "TEXT"), help=help_)
    return parser.format_help()


def flags_in(program: str, argv: Sequence[str]) -> dict[str, object]:
    """The settings that flags name, as text: the configuration judges them.

    Written out, because building an argparse parser of this size takes longer than all the rest of reading a
    configuration.
    """
    from fastgw.config.table import TABLE

    rows = {row.flag: row for row in TABLE}
    found: dict[str, object] = {}
    engines: list[str] = []
    words = iter(range(len(argv)))
    for index in words:
        flag, equals, value = argv[index].partition("=")
        row = rows.get(flag)
        opposite = rows.get("--" + flag[5:]) if flag.startswith("--no-") else None
        if row is not None and row.kind in {"bool", "auto_bool"}:
            found[row.name] = value if equals else "true"
            continue
        if opposite is not None and opposite.kind in {"bool", "auto_bool"} and not equals:
            found[opposite.name] = "false"
            continue
        if row is None and flag != "--config":
            if not flag.startswith("-"):
                fail(program, f"argument {index + 1} belongs to no option", f"{program} --help")
            fail(program, f"there is no option {flag}{suggest(flag, [*rows, '--config', '--help'])}", f"{program} --help")
        if not equals:
            following = next(words, None)
            if following is None or argv[following].startswith("--"):
                fail(program, f"{flag} needs a value", f"{program} --help")
            value = argv[following]
        if row is None:
            found["config"] = value
        elif row.kind == "engines":
            engines.append(value)
        else:
            found[row.name] = value
    if engines:
        found["engines"] = engines
    return found


def parser_for(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            fail(self.prog, message, f"{self.prog} --help")

    return Parser(
        prog=f"fastgw {command}",
        usage=f"fastgw {command} [options]",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def suggest(word: str, known: Sequence[str]) -> str:
    """What may have been meant, as words behind an error."""
    from fastgw.config.sources import suggest as nearest

    return nearest(word.partition("=")[0], known)


def fail(program: str, message: str, see: str) -> NoReturn:
    print(f"{program}: error: {message} (see {see})", file=sys.stderr)
    raise SystemExit(2)
