"""Engines in a file that somebody else writes (``engines_file``), read again when it has changed.

    [[engines]]                                     TOML, as in the configuration
    [{"url": "http://10.0.0.7:8000", ...}, ...]     JSON, the same fields
    [{"targets": ["10.0.0.7:8000"], "labels": {}}]  JSON, as Prometheus reads it (file_sd)

Owns: these shapes. A file that cannot be read whole (half written, with a mistake) changes nothing; whoever writes it puts a
new one in its place, or writes it over, as he likes. Must never: hold the loop for a disk.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fastgw.config import ConfigErrors, EngineConfig
from fastgw.config.entries import ENGINE_FIELDS
from fastgw.config.problems import told
from fastgw.upstream.discovery.source import Found, LookFailed
from fastgw.upstream.fleet import MOST_ENGINES
from fastgw.upstream.identity import Origin

MAX_FILE_BYTES: Final = 1 << 22
EVERY_S: Final = 1.0
MOST_STRANGE: Final = 8
"""Words of one entry that are no settings, and are named."""
_FIELDS: Final = frozenset(row.name for row in ENGINE_FIELDS)
_NUMBERS: Final = frozenset(row.name for row in ENGINE_FIELDS if row.kind == "int")
_SWITCHES: Final = frozenset(row.name for row in ENGINE_FIELDS if row.kind == "auto_bool")


class ByFile:
    """One file. What it says holds at once."""

    __slots__ = ("_engines", "_path", "_seen", "_wrong", "key")

    origin: Origin = "file"
    misses = 1
    stale_s = 0.0  # (whoever writes it can say that nobody is there)
    like: EngineConfig | None = None

    def __init__(self, path: str) -> None:
        self.key = f"file {path}"
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._engines: list[EngineConfig] = []
        self._wrong = ""  # why what was seen last changes nothing: it is not read again until it is another

    async def look(self) -> Found:
        """Raises LookFailed."""
        await asyncio.to_thread(self._read)
        return Found([self._engines], EVERY_S)

    def _read(self) -> None:
        seen, data = _read(self._path, self._seen)
        if data is None:
            if self._wrong:
                raise LookFailed(self._wrong)
            return
        self._seen = seen
        self._wrong = ""
        try:
            self._engines = _engines_of(self._path, data)
        except LookFailed as failed:
            self._wrong = str(failed)
            raise


def _read(path: str, before: tuple[int, ...]) -> tuple[tuple[int, ...], bytes | None]:
    """Which file it is, and what stands in it, None = it is the one that it was ``before``. Raises LookFailed."""
    try:
        about = os.stat(path)
        if before and stat.S_ISFIFO(about.st_mode):
            # (It is read once, as it is at a start: the next time somebody would have to write, and is waited for.)
            if stat.S_ISFIFO(before[0]):
                return before, None
            raise LookFailed("it is a pipe now, and read no more: put a file there")
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            # (Its time and size are whoever's copied it, `cp -p`; when that was nobody can set.)
            seen = (about.st_mode, about.st_ino, about.st_mtime_ns, about.st_size, about.st_ctime_ns)
            return seen, None if seen == before else file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise LookFailed(f"cannot read it: {getattr(error, 'strerror', None) or error}") from error


def _engines_of(path: str, data: bytes) -> list[EngineConfig]:
    if len(data) > MAX_FILE_BYTES:
        raise LookFailed(f"it is longer than {MAX_FILE_BYTES} bytes")
    return engines_in(data, path.endswith(".toml"))


def engines_in(data: bytes, toml: bool) -> list[EngineConfig]:
    """The engines that such a file names. Raises LookFailed: one mistake, and none of it counts."""
    try:
        if toml:
            import tomllib

            document: Any = tomllib.loads(data.decode())
        else:
            document = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise LookFailed(f"it is not valid {'TOML' if toml else 'JSON'}: {error}") from error
    listed = document.get("engines") if isinstance(document, dict) else document
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise LookFailed("it holds no list of engines")
    found: list[EngineConfig] = []
    for number, entry in enumerate(listed, 1):
        found += _engines(number, entry)
        if len(found) > MOST_ENGINES:
            raise LookFailed(f"it names more than {MOST_ENGINES} engines")
    return _apart(found)


def _apart(found: list[EngineConfig]) -> list[EngineConfig]:
    """Each once. (By its name it is followed: of two that are not the same, one would be left out.)"""
    there: dict[str, EngineConfig] = {}
    for engine in found:
        if there.setdefault(engine.name, engine) != engine:
            raise LookFailed(f"two engines have the name {engine.name!r}: name each")
    return list(there.values())


def _engines(number: int, entry: Mapping[str, Any]) -> list[EngineConfig]:
    if "targets" in entry:
        return _targets(number, entry)
    strange = sorted(set(entry) - _FIELDS)
    if strange:
        raise LookFailed(f"entry {number}: an engine has no setting {', '.join(map(repr, strange[:MOST_STRANGE]))}")
    return [_engine(number, entry)]


def _targets(number: int, entry: Mapping[str, Any]) -> list[EngineConfig]:
    """Labels that are an engine's fields are taken as such, others are somebody else's. A target is ``host:port``, or a URL."""
    targets, labels = entry["targets"], entry.get("labels") or {}
    if not isinstance(targets, list) or not isinstance(labels, dict) or not all(isinstance(one, str) for one in targets):
        raise LookFailed(f"entry {number}: targets must be a list of texts, and labels an object")
    if len(targets) > MOST_ENGINES:  # (before any is made)
        raise LookFailed(f"it names more than {MOST_ENGINES} engines")
    fields: dict[str, Any] = {}
    for name, value in labels.items():
        if name in _FIELDS and name != "url":
            fields[name] = _from_text(name, value) if isinstance(value, str) else value
    scheme = labels.get("__scheme__", "http")
    return [_engine(number, {**fields, "url": one if "://" in one else f"{scheme}://{one}"}) for one in targets]


def _from_text(name: str, text: str) -> Any:
    if name == "models":
        return [one.strip() for one in text.split(",") if one.strip()]
    if name in _NUMBERS and text.isascii() and text.removeprefix("-").isdecimal():
        return int(text[:20])
    if name in _SWITCHES and text in ("true", "false"):
        return text == "true"
    return text


def _engine(number: int, fields: Mapping[str, Any]) -> EngineConfig:
    if not fields.get("url"):
        raise LookFailed(f"entry {number}: this engine has no url")
    try:
        found = EngineConfig(**fields)
    except ConfigErrors as error:
        raise LookFailed(f"entry {number}: {told(error)}") from error
    for name in ("discover", "ranks"):
        if getattr(found, name):
            raise LookFailed(f"entry {number}: {name}: is for the configuration alone")
    return found
