"""One configuration out of all the places it can be written in.

Order, rising: defaults (a compatibility profile changes some) < TOML file < ``config/.env`` < environment < flags. A
later place that names engines replaces those of the earlier ones. Invariant: either a valid :class:`Config`, or
:class:`ConfigErrors` with every mistake of every place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fastgw.config.check import duplicate_engines
from fastgw.config.entries import EngineConfig
from fastgw.config.problems import ConfigError, ConfigErrors
from fastgw.config.profiles import PROFILE_DEFAULTS, PROFILE_ENGINES
from fastgw.config.settings import Config
from fastgw.config.sources import Source, Value
from fastgw.config.table import BY_NAME, DEFAULTS
from fastgw.config.variables import read_dotenv, read_text, read_variables

DOTENV: Final = os.path.join("config", ".env")

# Settings that decide whether the gateway is open to others; "" stands for a file that could not be read at all.
_DECIDE_ACCESS: Final = frozenset({"api_keys", "api_keys_file", "host", "allow_anonymous", "compat", ""})


class Loaded(msgspec.Struct, frozen=True):
    """A configuration and where each of its settings was written (settings that nobody wrote are absent)."""

    config: Config
    origins: dict[str, str]


def load(
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Config:
    """The configuration as ``overrides`` (flags), ``environ`` (default: this process's) and the files under ``cwd`` say.

    ``overrides`` maps names of settings, or ``config`` for the TOML file, to text or to values of the right type;
    ``engines`` to a list of URLs or :class:`EngineConfig`. Raises :class:`ConfigErrors`.
    """
    return load_with_origins(overrides, environ, cwd).config


def load_with_origins(
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Loaded:
    """As :func:`load`, and where each setting was written."""
    return _merge(_sources(overrides, environ, cwd))


def read_some(
    names: Sequence[str], overrides: Mapping[str, object] | None = None, unreadable: list[ConfigError] | None = None
) -> dict[str, Any]:
    """The values of these settings as their places say, whatever is wrong with others. Raises :class:`ConfigErrors` with what
    is wrong with these. A file that cannot be read at all is wrong with all of them; where ``unreadable`` is given it is put
    there, and the other places are taken at their word."""
    values = {name: DEFAULTS[name] for name in names}
    errors: list[ConfigError] = []
    for source in _sources(overrides, None, None):
        errors += [error for error in source.errors if error.name in values]
        (errors if unreadable is None else unreadable).extend(error for error in source.errors if not error.name)
        for name in values.keys() & source.values.keys():
            found = source.values[name]
            values[name] = found.value
            check = BY_NAME[name].check
            errors += [ConfigError(found.where, name, problem) for problem in (check(found.value) if check else ())]
    if errors:
        raise ConfigErrors(errors)
    return values


def read_one(name: str, overrides: Mapping[str, object] | None = None) -> object:
    """The value of one setting as its places say, whatever is wrong with others: for commands that need no more."""
    value: object = DEFAULTS[name]
    for source in _sources(overrides, None, None):
        if name in source.values:
            value = source.values[name].value
    return value


def _sources(
    overrides: Mapping[str, object] | None, environ: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> list[Source]:
    """What each place says, the one that wins last."""
    base = "" if cwd is None else os.fspath(cwd)
    environ = os.environ if environ is None else environ
    overrides = overrides or {}
    dotenv, dotenv_source = read_dotenv(os.path.join(base, DOTENV))
    variables = {name: (text, name) for name, text in environ.items()}
    sources = []
    path: Any = overrides.get("config") or environ.get("FASTGW_CONFIG") or dotenv.get("FASTGW_CONFIG", ("", ""))[0]
    if path:
        from fastgw.config.toml_file import read_toml

        sources.append(read_toml(os.path.join(base, os.fspath(path)), _texts(dotenv, environ)))
    return [*sources, dotenv_source, read_variables(dotenv), read_variables(variables), _read_flags(overrides)]


def _texts(dotenv: Mapping[str, tuple[str, str]], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables by name; one that is empty in the environment counts as not set there."""
    return {**{name: text for name, (text, _) in dotenv.items()}, **{name: text for name, text in environ.items() if text}}


def _read_flags(overrides: Mapping[str, object]) -> Source:
    source = Source()
    for name, given in overrides.items():
        if name == "config" or given is None:
            continue
        row = BY_NAME.get(name)
        if row is None:
            source.fail(name, name, "there is no such setting")
        elif row.kind == "engines":
            entries: Sequence[Any] = [given] if isinstance(given, (str, EngineConfig)) else given  # type: ignore[assignment]
            for entry in entries:
                if isinstance(entry, EngineConfig):
                    source.engines = [*(source.engines or []), (entry, row.flag)]
                else:
                    source.add_engine({"url": entry}, lambda _, flag=row.flag: flag)  # type: ignore[misc]
        elif isinstance(given, str) and row.kind not in {"text", "choice"}:
            read_text(source, row, given, row.flag)
        else:
            source.put(name, given.lower() if isinstance(given, str) and name == "log_level" else given, row.flag)
    return source


def _merge(sources: Sequence[Source]) -> Loaded:
    errors = [error for source in sources for error in source.errors]
    failed = {name for source in sources for name in source.failed}
    chosen: dict[str, Value] = {}
    for source in sources:
        chosen.update(source.values)
    profile: Any = chosen["compat"].value if "compat" in chosen else ""
    values: dict[str, Any] = dict(PROFILE_DEFAULTS[profile])
    values.update((name, value.value) for name, value in chosen.items())
    origins = {name: value.where for name, value in chosen.items()}

    named = [(EngineConfig(url=url, kind=kind), profile) for url, kind in PROFILE_ENGINES.get(profile, ())]
    for source in sources:
        named = named if source.engines is None else source.engines
    clashes = duplicate_engines([engine for engine, _ in named])
    for first, second, message in clashes:
        places = f"here and at {named[first][1]}" if named[first][1] != named[second][1] else "here"
        message = f"{message}, {places}; to keep both, give each entry `models` of its own"
        errors.append(ConfigError(named[second][1], "engines", message))
    if not clashes:
        values["engines"] = tuple(engine for engine, _ in named)
    if named:
        origins["engines"] = ", ".join(dict.fromkeys(where for _, where in named))
    values["warnings"] = tuple(dict.fromkeys(note for source in sources for note in source.notes))

    config = None
    try:
        config = Config(**values)
    except ConfigErrors as found:
        for error in found.errors:
            # A gateway is not called open because its keys could not be read: that mistake stands in the list already.
            if error.name == "allow_anonymous" and failed & _DECIDE_ACCESS:
                continue
            where = origins.get(error.name) or (origins.get("host") if error.name == "allow_anonymous" else None)
            errors.append(ConfigError(where or "configuration", error.name, error.message))
    if errors or config is None:
        raise ConfigErrors(dict.fromkeys(errors))
    return Loaded(config, origins)
