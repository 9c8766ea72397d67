"""Variables: the environment and ``config/.env``, under this program's names and those of other gateways.

Owns: the names that mean something in a way of their own (``BACKENDS``, ``MINISGL_GATEWAY_ADDR``...). Must never: take a
misspelt ``FASTGW_...`` in silence, or repeat the text of a variable, which may hold keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fastgw.config.row import Setting
from fastgw.config.sources import LEVELS, Source, parse_text, read_file
from fastgw.config.table import TABLE

# Kubernetes sets these for a service that is called fastgw (or gateway): they are nobody's settings.
_SERVICE_LINK: Final = re.compile(
    r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)\Z"
)
_SERVICE_VALUE: Final = re.compile(r"(?:tcp|udp|sctp)://")
# (The second says how it is built; who has that in his shell, or in an image, runs it there too.)
_NOT_SETTINGS: Final = frozenset({"FASTGW_CONFIG", "FASTGW_BUILD_NATIVE"})


def read_dotenv(path: str) -> tuple[dict[str, tuple[str, str]], Source]:
    """The variables of a ``.env`` file as name to text and place. Lines are ``[export] NAME=value``.

    Values may stand in single quotes (taken as they are) or double quotes (with ``\\n \\t \\" \\\\ \\$``); in a bare
    value, `` #`` begins a comment. Nothing is expanded.
    """
    source = Source()
    found: dict[str, tuple[str, str]] = {}
    if not os.path.exists(path):
        return found, source
    text = read_file(path, source, "file")
    for number, line in enumerate((text or "").splitlines(), 1):
        where = f"{path}:{number}"
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = re.fullmatch(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", stripped)
        if match is None:
            source.fail(where, "", "this line is not NAME=value")
            continue
        value = _dotenv_value(match[2])
        if value is None:
            source.fail(where, match[1], "the quotes are not closed, or something follows them")
        else:
            found[match[1]] = (value, where)
    return found, source


def _dotenv_value(text: str) -> str | None:
    if text[:1] == "'":
        match = re.fullmatch(r"'([^']*)'\s*(?:#.*)?", text)
        return match[1] if match else None
    if text[:1] == '"':
        match = re.fullmatch(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?', text)
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), match[1]) if match else None
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()


def read_variables(variables: Mapping[str, tuple[str, str]]) -> Source:
    """What a set of variables (name to text and place) says. An empty variable counts as one that is not set."""
    source = Source()
    known = _NOT_SETTINGS | {name for row in TABLE for name in row.variables}
    given = {name: pair for name, pair in variables.items() if pair[0].strip() and not _is_service_link(name, pair[0])}
    for name, (_, where) in given.items():
        if name.startswith("FASTGW_") and name not in known:
            source.fail(where, name, "there is no such variable" + source.hint(name, known))
    for row in TABLE:
        for name in row.variables:
            if name in given:
                text, where = given[name]
                special = _SPECIAL.get((row.name, name))
                if special:
                    special(source, row, text, where)
                elif row.kind == "engines":
                    _engine_list(source, text, where, "auto")
                else:
                    read_text(source, row, text, where)
    return source


def read_text(source: Source, row: Setting, text: str, where: str) -> None:
    try:
        value = parse_text(row, text)
    except ValueError as error:
        source.fail(where, row.name, str(error))
        return
    if row.kind == "keys" and not value:
        # Somebody meant to close the gateway: an empty list must not open it.
        source.fail(where, row.name, "holds no key")
        return
    source.put(row.name, value, where)


def _is_service_link(name: str, value: str) -> bool:
    if name.startswith("FASTGW_") and _SERVICE_LINK.match(name):
        return True
    return name.endswith("_PORT") and _SERVICE_VALUE.match(value) is not None


def _engine_list(source: Source, text: str, where: str, kind: str, models: Sequence[str] = ()) -> None:
    urls = [url.strip() for url in text.split(",")]
    urls = [url for url in urls if url]
    if not urls:
        source.fail(where, "engines", "holds no URL")
    for index, url in enumerate(urls, 1):
        prefix = f"entry {index}: " if len(urls) > 1 else ""
        about: dict[str, object] = {"models": list(models)} if models else {}
        source.add_engine({"url": url, "kind": kind, **about}, lambda _: where, prefix)


def _backends(source: Source, row: Setting, text: str, where: str) -> None:
    """``url|api_key|models|weight|served_name;...``: all but the URL may be empty or left out."""
    entries = [entry.strip() for entry in text.split(";")]
    for index, entry in enumerate((entry for entry in entries if entry), 1):
        prefix = f"entry {index}: "
        parts = [part.strip() for part in entry.split("|")]
        if len(parts) > 5:
            source.fail(where, row.name, prefix + "more than url|api_key|models|weight|served_name")
            continue
        url, key, models, weight, served = parts + [""] * (5 - len(parts))
        if weight and not re.fullmatch(r"[0-9]{1,4}", weight):
            source.fail(where, row.name, prefix + "weight must be a whole number from 1 to 1000")
            continue
        fields = {
            "url": url,
            "api_key": key,
            "models": [model.strip() for model in models.split(",") if model.strip()],
            "weight": int(weight or 1),
            "served_name": served,
        }
        source.add_engine(fields, lambda _: where, prefix)
    if source.engines is None and "engines" not in source.failed:
        source.fail(where, row.name, "holds no engine")


def _address(source: Source, row: Setting, text: str, where: str) -> None:
    from fastgw.config.address import parse_host_port

    try:
        host, port = parse_host_port(text.strip())
    except ValueError as error:
        source.fail(where, row.name, str(error))
        return
    source.put(row.name, host if row.name == "host" else port, where)


def _milliseconds(source: Source, row: Setting, text: str, where: str) -> None:
    if not re.fullmatch(r"[0-9]{1,8}", text.strip()) or not int(text):
        source.fail(where, row.name, "must be a whole number of milliseconds, 1 to 86400000")
        return
    source.put(row.name, int(text) / 1000, where)


def _rust_log(source: Source, row: Setting, text: str, where: str) -> None:
    """``info,gateway=debug``: the first directive; what is no level is left alone, since Rust programs share the name."""
    level = text.split(",")[0].rpartition("=")[2].strip().lower()
    if level in LEVELS:
        source.put(row.name, LEVELS[level], where)
    else:
        source.notes.append(f"{where}: the first directive names no level that is known here; the variable is not used")


_SPECIAL: Final[dict[tuple[str, str], Callable[[Source, Setting, str, str], None]]] = {
    ("host", "MINISGL_GATEWAY_ADDR"): _address,
    ("port", "MINISGL_GATEWAY_ADDR"): _address,
    ("connect_timeout_s", "MINISGL_GATEWAY_TIMEOUT_MS"): _milliseconds,
    ("first_byte_timeout_s", "MINISGL_GATEWAY_TIMEOUT_MS"): _milliseconds,
    ("engines", "BACKENDS"): _backends,
    # (Its workers get whatever is asked for, whatever they list.)
    ("engines", "MINISGL_GATEWAY_WORKERS"): lambda source, row, text, where: _engine_list(source, text, where, "auto", ["*"]),
    ("engines", "OLLAMA_BASE"): lambda source, row, text, where: _engine_list(source, text, where, "ollama"),
    ("engines", "VLLM_URL"): lambda source, row, text, where: _engine_list(source, text, where, "vllm"),
    ("log_level", "RUST_LOG"): _rust_log,
}
