"""``fastgw keys``: the operator's commands for keys, beside a running gateway or without one.

Owns: the flags, the tables and the JSON they print. Must never: print a key's text but once (when it is made), print a
digest, or take a key's text as an argument, where ``ps`` shows it. Exit codes: 0 done, 1 could not, 2 wrong command line.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from fastgw.config.grammar import fingerprints
from fastgw.limits.key import NUMBERS, KeyRecord, UsageRow
from fastgw.store import fields, keys, place, reading
from fastgw.store.database import DAY_S, Database, today
from fastgw.store.place import FILE_NAME
from fastgw.store.schema import StateError, Unavailable, is_busy, trouble

_EXAMPLES: Final = """\
examples:
  fastgw keys create --name ann --tenant research --requests-per-minute 600 --daily-tokens 2000000
  fastgw keys create --name ci --expires-at 30d --models llama-3.1-8b --networks 10.0.0.0/8 --json
  fastgw keys list
  fastgw keys show ann
  fastgw keys update ann --concurrency 8 --priority high --daily-tokens default
  fastgw keys update ci --certificates runner.crt
  fastgw keys rotate ann --grace 1h
  fastgw keys disable ann
  fastgw keys delete key_1f0c3a5b7d9e2468

KEY is a key's id, or its name where no other key has it. A running gateway follows within a second.
"""
_SEE: Final = "fastgw keys --help"
_LISTS: Final = ("models", "networks", "certificates")
FINGERPRINT_CHARS: Final = 12  # that a list shows of each
_TOTALS: Final = ("prompt_tokens", "completion_tokens", "requests", "estimated_tokens", "cached_tokens", "reasoning_tokens")
_HELP: Final = {
    "name": "what to call the key (up to 128 characters)",
    "tenant": "whose it is: keys of one tenant share its place in the queue",
    "expires_at": 'when it ends: "30d", "12h", 2030-01-31, 2030-01-31T12:00:00Z, Unix seconds, or "never"',
    "requests_per_minute": "requests a minute",
    "burst": "requests at once",
    "tokens_per_minute": "tokens a minute; answers that name no maximum then end at default_max_tokens (4096)",
    "daily_tokens": "tokens a day (UTC); the same holds",
    "concurrency": "requests at the same time",
    "priority": "its place in the queue",
    "on_exhausted": "what happens to a stream that meets the daily limit",
    "budget": 'what it may spend in a period, such as "12.50"',
    "budget_period": "the period of its budget (UTC)",
    "models": 'models it may use, with commas between ("all" = every model)',
    "networks": 'networks it may come from, with commas between ("all" = everywhere)',
    "certificates": 'client certificates that are the key as well, as PEM files or SHA-256 fingerprints, with commas between '
    '("none" = the text alone)',
}


class _Refused(Exception):
    """The command cannot be done; the message says why and what to do."""


def main(argv: Sequence[str], state_dir: str) -> int:
    """Run one command on the state in ``state_dir`` (``--state-dir`` goes before it); returns the exit code.

    ``SystemExit`` leaves from ``--help`` and from a wrong command line.
    """
    options = _parser().parse_args(list(argv), argparse.Namespace(state_dir="", json=False))
    folder = options.state_dir or state_dir
    if not folder:
        _fail("no state folder is named: give --state-dir DIR, or set FASTGW_STATE_DIR")
    try:
        database = _open(folder, create=options.command == "create", read=options.command in {"list", "show"})
        try:
            options.run(database, options)
        finally:
            database.close()
        sys.stdout.flush()
    except fields.KeyProblems as error:
        for problem in error.problems:
            print(f"fastgw keys: error: {_as_flag(problem)}", file=sys.stderr)
        return 2
    except keys.KeyNotFound as error:
        print(f"fastgw keys: error: {error} (see fastgw keys list)", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has enough; nothing more can be said, also not at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (_Refused, StateError, sqlite3.Error, OSError) as error:
        told = error if isinstance(error, _Refused) else trouble(f"cannot use {folder}", error)
        hint = "; try again, and look at the disk and at who else writes to it" if isinstance(told, Unavailable) else ""
        print(f"fastgw keys: error: {told}{hint}", file=sys.stderr)
        return 1
    return 0


def _open(folder: str, *, create: bool, read: bool) -> Database:
    path = os.path.join(folder, FILE_NAME)
    for note in place.claim(folder, make=create):
        print(f"fastgw keys: note: {note}", file=sys.stderr)
    if place.look(path) is None and not create:
        raise _Refused(f"there is no state in {folder}; name the gateway's folder, or make a first key: fastgw keys create")
    try:
        return Database.open(path, create=create, check=False, probe=not read)
    except Unavailable as error:
        if not read:
            raise
        return reading.read(path, busy=is_busy(error))


# --- the command line
def _fail(message: str) -> NoReturn:
    print(f"fastgw keys: error: {message} (see {_SEE})", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse quotes what it could not read, which may be a key that somebody pasted.
        _fail(message if fields.PREFIX not in message else "an argument cannot be read; keys are never given as arguments")


def _parser() -> argparse.ArgumentParser:
    shared = _Parser(add_help=False, allow_abbrev=False)
    shared.add_argument("--state-dir", metavar="DIR", default=argparse.SUPPRESS,
                        help="the gateway's state folder (env FASTGW_STATE_DIR)")  # fmt: skip
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser = _Parser(
        prog="fastgw keys",
        description="Make, look at and change the keys of a gateway.",
        epilog=_EXAMPLES,
        allow_abbrev=False,
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[Database, argparse.Namespace], None], help_: str, *, key: bool) -> Any:
        added = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.", parents=[shared],
                                    allow_abbrev=False)  # fmt: skip
        added.set_defaults(run=run)
        if key:
            added.add_argument("key", metavar="KEY", help="a key's id, or its name where no other key has it")
        return added

    _add_fields(command("create", _create, "make a key and print it, once", key=False))
    listing = command("list", _list, "list all keys", key=False)
    listing.add_argument("--tenant", help="only the keys of this tenant")
    show = command("show", _show, "show all fields of a key, and what it has used", key=True)
    show.add_argument("--days", type=int, default=7, metavar="N", help="days of usage, 1 to 400 (default: %(default)s)")
    _add_fields(command("update", _update, "change fields of a key; what is not named stays", key=True))
    command("disable", _disable, "refuse a key until it is enabled again", key=True)
    command("enable", _enable, "undo disable", key=True)
    rotate = command("rotate", _rotate, "give a key a new text and print it, once", key=True)
    grace = 'how long the text before stays valid, such as "0", "90s", "1h", "7d" (default: %(default)s)'
    rotate.add_argument("--grace", default="1h", metavar="TIME", help=grace)
    command("delete", _delete, "end a key for good", key=True)
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    for name, help_ in _HELP.items():
        flag = "--" + name.replace("_", "-")
        if name in NUMBERS or name == "budget":
            parser.add_argument(flag, metavar="AMOUNT" if name == "budget" else "N",
                                help=f'{help_} (0 = no limit, "default" = the gateway\'s)')  # fmt: skip
        elif name in fields.CHOICES:
            choices = fields.CHOICES[name]
            parser.add_argument(flag, metavar="|".join(choices), help=f'{help_} ("default" = the gateway\'s)')
        else:
            metavar = {
                "models": "A,B", "networks": "CIDR,CIDR", "expires_at": "TIME", "certificates": "FILE,FILE"
            }.get(name, "TEXT")  # fmt: skip
            parser.add_argument(flag, *(["--certificate"] if name == "certificates" else []), metavar=metavar, help=help_)


def _fields(options: argparse.Namespace) -> dict[str, object]:
    """What was given, as the store reads it; what cannot be turned into its type stays text, and is refused there."""
    found: dict[str, object] = {}
    for name in _HELP:
        text = getattr(options, name)
        if text is None:
            continue
        value: object = text
        if name in NUMBERS or name in fields.CHOICES or name == "budget":
            if text == "default":
                value = None
            elif name in NUMBERS and text.isascii() and text.lstrip("-").isdecimal() and len(text) <= 20:
                value = int(text)
        elif name in {"models", "networks"}:
            value = [] if text in {"", "all"} else [one.strip() for one in text.split(",")]
        elif name == "certificates":
            value = [] if text in {"", "none"} else [_certificate(one.strip()) for one in text.split(",")]
        found[name] = value
    return found


def _certificate(text: str) -> str:
    """A fingerprint as it is, or what a file holds; what is neither stays, and is refused by the store."""
    if fingerprints([text]):
        try:
            with open(text, encoding="latin-1") as file:
                return file.read(fields.MAX_PEM_CHARS + 1)
        except (OSError, ValueError):
            pass
    return text


def _as_flag(problem: str) -> str:
    """The store's sentence in the words of the command line."""
    name, colon, rest = problem.partition(": ")
    return f"--{name.replace('_', '-')}: {rest.replace('null', 'default')}" if colon and name in fields.FIELDS else problem


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"cli:{os.getuid()}"


# --- the commands
def _create(database: Database, options: argparse.Namespace) -> None:
    record, text = keys.create(database, _fields(options), _actor())
    _print_new(record, text, options)


def _rotate(database: Database, options: argparse.Namespace) -> None:
    grace_s = 0.0 if options.grace == "0" else fields.duration_s(options.grace)
    if grace_s is None:
        raise fields.KeyProblems(['--grace: must be 0, or a number and one of s, m, h, d, w, such as "1h"'])
    record, text = keys.rotate(database, options.key, grace_s, _actor())
    _print_new(record, text, options)


def _list(database: Database, options: argparse.Namespace) -> None:
    found = keys.list_keys(database, options.tenant)
    used = {row[0]: row for row in database.load_usage(today())}
    if options.json:
        _print_json([{**shown(record), "today": _usage(used.get(record.id))} for record in found])
        return
    rows = [("ID", "NAME", "TENANT", "STATE", "EXPIRES", "REQ/MIN", "TOKENS TODAY", "DAILY TOKENS", "PRIORITY", "CERTIFICATE")]
    for record in found:
        row = used.get(record.id)
        spent = str(row[2] + row[3]) if row else "0"
        ends, priority = _date(record.expires_at) or "never", record.priority or "default"
        limits = (_limit(record.requests_per_minute), spent, _limit(record.daily_tokens))
        shows = " ".join(one[:FINGERPRINT_CHARS] for one in record.certificates) or "-"
        rows.append((record.id, record.name, record.tenant, _state(record), ends, *limits, priority, shows))
    _print_table(rows)
    if not found:
        print("no keys", file=sys.stderr)


def _show(database: Database, options: argparse.Namespace) -> None:
    if not 1 <= options.days <= 400:
        raise fields.KeyProblems(["--days: must be a number from 1 to 400"])
    record = keys.find(database, options.key)
    used = database.usage_of(record.id, options.days)
    if options.json:
        _print_json({**shown(record), "usage": [{"day": _date(row[1] * DAY_S)[:10], **_usage(row)} for row in used]})
        return
    _print_record(record)
    if used:
        print()
        _print_table([("DAY", "PROMPT", "COMPLETION", "REQUESTS", "ESTIMATED", "CACHED", "REASONING"),
                      *((_date(row[1] * DAY_S)[:10], *map(str, row[2:])) for row in used)])  # fmt: skip


def _update(database: Database, options: argparse.Namespace) -> None:
    changes = _fields(options)
    if not changes:
        raise fields.KeyProblems(["nothing to change is named (see fastgw keys update --help)"])
    _print_changed("changed", keys.update(database, options.key, changes, _actor()), options)


def _disable(database: Database, options: argparse.Namespace) -> None:
    _print_changed("disabled", keys.disable(database, options.key, _actor()), options)


def _enable(database: Database, options: argparse.Namespace) -> None:
    _print_changed("enabled", keys.enable(database, options.key, _actor()), options)


def _delete(database: Database, options: argparse.Namespace) -> None:
    record = keys.delete(database, options.key, _actor())
    if options.json:
        _print_json({"id": record.id, "deleted": True})
    else:
        print(f"deleted {record.id}")


# --- what is printed
def shown(record: KeyRecord) -> dict[str, object]:
    """A key as JSON has it: all that was set, times in ISO 8601, and no digest."""
    found: dict[str, object] = {"id": record.id}
    for name in ("name", "tenant", "created_at", "expires_at", "disabled", *NUMBERS, "budget", *fields.CHOICES, *_LISTS):
        found[name] = getattr(record, name)
    found["budget"] = fields.shown_budget(record.budget)
    for name in ("created_at", "expires_at", "previous_until"):
        found[name] = _date(getattr(record, name)) or None
    return found


def _usage(row: UsageRow | None) -> dict[str, int]:
    return dict(zip(_TOTALS, row[2:] if row else [0] * len(_TOTALS), strict=True))


def _date(at: float) -> str:
    if not at:
        return ""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return "9999-12-31T23:59:59Z"  # a time that no calendar has: the clock was wrong when it was written


def _limit(value: int | None) -> str:
    return "default" if value is None else str(value) if value else "none"


def _state(record: KeyRecord) -> str:
    if record.disabled:
        return "disabled"
    return "expired" if record.expires_at and record.expires_at <= datetime.now(UTC).timestamp() else "active"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _print_new(record: KeyRecord, text: str, options: argparse.Namespace) -> None:
    if options.json:
        _print_json({**shown(record), "key": text})
        return
    print(f"id   {record.id}\nkey  {text}\nKeep it now: it is stored nowhere and will not be shown again.")
    if record.previous_until:
        print(f"The key before it stays valid until {_date(record.previous_until)}.")


def _print_changed(what: str, record: KeyRecord, options: argparse.Namespace) -> None:
    if options.json:
        _print_json(shown(record))
    else:
        print(f"{what} {record.id}")


def _print_record(record: KeyRecord) -> None:
    for name, value in shown(record).items():
        if name in NUMBERS:
            text = _limit(getattr(record, name))
        elif name == "budget":
            text = "none" if value == "0" else str(value or "default")
        elif name in _LISTS:
            text = ", ".join(getattr(record, name)) or ("none" if name == "certificates" else "all")
        elif name in fields.CHOICES:
            text = str(value or "default")
        elif name == "disabled":
            name, text = "state", _state(record)
        else:
            text = str(value or ("never" if name == "expires_at" else "-"))
        print(f"{name:<20} {text}")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
