"""The lock files: their form, and what can be said about them without asking anybody.

Six of them, so that a container installs what it needs and nothing else: ``runtime.lock``, ``extras.lock`` (which takes
``runtime.lock`` in and adds what the shipped extras pull in), ``build.lock`` (what building fastgw itself needs),
``binary.lock`` (which takes ``build.lock`` in and adds what freezes the binary),
``docs.lock`` and ``release.lock`` (what makes the site of the documentation, and what has wheels built: tools, each in an
environment of its own).

Invariant: a lock has pinned versions, markers and SHA-256 hashes, and nothing more. An option, an address or a version that
is not pinned is a mistake, since pip would obey it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.audit.project import ROOT, TARGETS, Closure, Distributions, Target, closure
from scripts.audit.rules import TOOL_EXTRAS

FOLDER: Final = ROOT / "requirements"
NAMES: Final = ("runtime", "extras", "build", "binary", *TOOL_EXTRAS)
TAKES_IN: Final = {"extras": "runtime", "binary": "build"}

HEADS: Final = {
    "runtime": """\
# What fastgw needs to run, pinned and hashed, for CPython {pythons} on Linux ({machines}): wheels and source
# distributions. Written by `make lock`, checked by `make audit`.
#
#     pip install --require-hashes -r requirements/runtime.lock
""",
    "extras": """\
# What the extras {extras} need on top of it. Written by `make lock`, checked by `make audit`.
#
#     pip install --require-hashes -r requirements/extras.lock
-r runtime.lock
""",
    "build": """\
# What building fastgw itself needs. Written by `make lock`, checked by `make audit`.
#
#     pip install --require-hashes -r requirements/build.lock && pip install --no-deps --no-build-isolation .
""",
    "binary": """\
# What `make binary` freezes with, on top of it. Written by `make lock`, checked by `make audit`.
#
#     pip install --require-hashes -r requirements/extras.lock -r requirements/binary.lock
-r build.lock
""",
    "docs": """\
# What `make site` makes the site of the documentation with, in an environment of its own. Written by `make lock`, checked by
# `make audit`.
#
#     pip install --require-hashes -r requirements/docs.lock
""",
    "release": """\
# What `make wheels` has wheels built with, in an environment of its own. Written by `make lock`, checked by `make audit`.
#
#     pip install --require-hashes -r requirements/release.lock
""",
}

_PIN: Final = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[0-9][\w.+!]*)(?: ; (?P<marker>[^\\#]+))?\Z", re.ASCII)
_HASH: Final = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})\Z")


class Pin(NamedTuple):
    """One distribution: where ``marker`` holds ("" = everywhere), a file that has one of the ``hashes``."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]

    def holds(self, environment: Mapping[str, str]) -> bool:
        return not self.marker or Marker(self.marker).evaluate(dict(environment))


class Lock(NamedTuple):
    pins: tuple[Pin, ...]
    includes: tuple[str, ...]
    mistakes: tuple[str, ...]


def render(pins: Iterable[Pin], head: str) -> str:
    said = [head]
    for pin in sorted(pins):
        first = f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")
        said.append(" \\\n".join([first, *(f"    --hash=sha256:{digest}" for digest in sorted(pin.hashes))]) + "\n")
    return "\n".join(said)


def parse(text: str) -> Lock:
    pins: list[Pin] = []
    includes: list[str] = []
    mistakes: list[str] = []
    for line in text.replace("\\\n", "\n\\").splitlines():
        stripped = line.lstrip("\\").strip()
        if not stripped or stripped.startswith("#"):
            continue
        if line.startswith("\\"):
            found = _HASH.match(stripped)
            if found and pins:
                pins[-1] = pins[-1]._replace(hashes=pins[-1].hashes | {found["digest"]})
            else:
                mistakes.append(f"not a SHA-256 hash: {stripped}")
        elif stripped.startswith("-r "):
            includes.append(stripped.removeprefix("-r ").strip())
        elif (found := _PIN.match(stripped)) and _marker(found["marker"]):
            pins.append(Pin(canonicalize_name(found["name"]), found["version"], (found["marker"] or "").strip(), frozenset()))
        else:
            mistakes.append(f"not a pinned version: {stripped}")
    return Lock(tuple(pins), tuple(includes), tuple(mistakes))


def _marker(text: str | None) -> bool:
    try:
        return text is None or bool(Marker(text))
    except InvalidMarker:
        return False


class Locks(NamedTuple):
    """All of them, by name."""

    runtime: Lock
    extras: Lock
    build: Lock
    binary: Lock
    docs: Lock
    release: Lock

    @property
    def shipped(self) -> list[Pin]:
        return [*self.runtime.pins, *self.extras.pins]

    @property
    def making(self) -> list[Pin]:
        """What builds and freezes, and is not shipped (the frozen program's loader apart)."""
        return [*self.build.pins, *self.binary.pins]

    @property
    def tools(self) -> dict[str, Lock]:
        return {name: getattr(self, name) for name in TOOL_EXTRAS}

    def versions(self) -> dict[str, str]:
        """Of what is shipped: the name's version, wherever it is for."""
        return {pin.name: pin.version for pin in self.shipped}


def read(folder: Path = FOLDER) -> Locks:
    """One that is not there has nothing but the mistake that it is not there."""
    paths = [folder / f"{name}.lock" for name in NAMES]
    return Locks(*(parse(path.read_text()) if path.exists() else Lock((), (), ("it is not there",)) for path in paths))


def form(locks: Locks) -> list[str]:
    """What is wrong with how they are written."""
    said: list[str] = []
    for name, lock in zip(NAMES, locks, strict=True):
        said += [f"{name}.lock: {mistake}" for mistake in lock.mistakes]
        said += [f"{name}.lock: {pin.name} {pin.version} has no hash" for pin in lock.pins if not pin.hashes]
        expected = (f"{TAKES_IN[name]}.lock",) if name in TAKES_IN else ()
        if lock.includes != expected:
            said.append(f"{name}.lock: takes in {list(lock.includes)} instead of {list(expected)}")
        if not lock.pins:
            said.append(f"{name}.lock: is empty")
    for name, below in TAKES_IN.items():
        upper, lower = getattr(locks, name), getattr(locks, below)
        twice = {pin.name for pin in lower.pins} & {pin.name for pin in upper.pins}
        said += [f"{one} is pinned in {below}.lock and in {name}.lock" for one in sorted(twice)]
    both = {pin.name for pin in locks.shipped} & {pin.name for pin in locks.making}
    said += [f"{name} is shipped, and pinned for the build too" for name in sorted(both)]
    return said


class Complete(NamedTuple):
    mistakes: list[str]
    unknown: set[str]


def complete(
    name: str,
    pins: Iterable[Pin],
    requirements: Iterable[Requirement],
    known: Distributions,
    targets: Iterable[Target] = TARGETS,
) -> Complete:
    """Whether pins are what some requirements pull in on every target, no less and no more.

    ``known`` has the metadata of exactly the pinned versions; a pin without is told of in ``unknown``, for then what it needs
    itself is not known.
    """
    pins, requirements = list(pins), list(requirements)
    exact = {one.name: one for one in known.values() if any((one.name, one.version) == pin[:2] for pin in pins)}
    mistakes: dict[str, list[str]] = {}
    needed: set[str] = set()
    unknown: set[str] = set()
    for target in targets:
        for environment in target.environments():
            versions: dict[str, str] = {}
            for pin in pins:
                if pin.holds(environment):
                    if pin.name in versions:
                        mistakes.setdefault(f"{pin.name} is pinned twice", []).append(str(target))
                    versions[pin.name] = pin.version
            walked: Closure = closure(requirements, exact, environment, "pyproject.toml")
            for sentence in walked.unmet(versions):
                mistakes.setdefault(sentence, []).append(str(target))
            needed |= set(walked.wanted)
            unknown |= walked.unknown & set(versions)
    said = [f"{name}: {sentence} (on {', '.join(dict.fromkeys(where))})" for sentence, where in mistakes.items()]
    if not unknown:
        said += [f"{name}: nothing needs {pin.name}" for pin in pins if pin.name not in needed]
    return Complete(said, unknown)
