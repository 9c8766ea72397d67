"""What ``pyproject.toml`` asks for, on which targets, and everything that this pulls in.

A closure is walked over the metadata of distributions, installed or inside of wheels; where a distribution's metadata is
not at hand, its name is told, and never taken for one that needs nothing.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.audit import rules

ROOT: Final = Path(__file__).resolve().parents[2]


class Target(NamedTuple):
    """CPython on Linux, one minor version and machine."""

    python: str
    machine: str

    def environments(self) -> list[dict[str, str]]:
        """For markers: the first patch release and one later than all; a marker may tell them apart."""
        common = {
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "platform_release": "",
            "platform_version": "",
            "sys_platform": "linux",
            "python_version": self.python,
            "extra": "",
        }
        return [
            {**common, "python_full_version": f"{self.python}.{patch}", "implementation_version": f"{self.python}.{patch}"}
            for patch in (0, 99)
        ]

    def __str__(self) -> str:
        return f"{self.python} {self.machine}"


TARGETS: Final = tuple(Target(python, machine) for python in rules.PYTHONS for machine in rules.MACHINES)


class Distribution(NamedTuple):
    """One distribution's metadata, as far as it is asked for here."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    licence_expression: str = ""
    licence: str = ""
    licence_classifiers: tuple[str, ...] = ()


Distributions = Mapping[str, Distribution]


def read(found: importlib.metadata.Distribution) -> Distribution:
    metadata: Any = found.metadata
    return Distribution(
        canonicalize_name(metadata["Name"]),
        metadata["Version"],
        tuple(metadata.get_all("Requires-Dist") or ()),
        metadata.get("License-Expression") or "",
        metadata.get("License") or "",
        tuple(one for one in metadata.get_all("Classifier") or () if one.startswith("License ::")),
    )


def installed() -> dict[str, Distribution]:
    """What this interpreter's environment has."""
    return {one.name: one for one in map(read, importlib.metadata.distributions())}


def in_wheels(folder: Path) -> dict[str, Distribution]:
    """What a folder of wheels would install."""
    made: dict[str, Distribution] = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            (info,) = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
            one = read(importlib.metadata.PathDistribution(zipfile.Path(archive, f"{info}/")))
        made[one.name] = one
    return made


class Asked(NamedTuple):
    """The requirements of ``pyproject.toml``, by the set that they are in."""

    runtime: tuple[Requirement, ...]
    extras: Mapping[str, tuple[Requirement, ...]]
    build: tuple[Requirement, ...]
    binary: tuple[Requirement, ...] = ()
    tools: Mapping[str, tuple[Requirement, ...]] = {}

    def of(self, *extras: str) -> list[Requirement]:
        """Those of some extras; one that is not there is a mistake here, and raises KeyError."""
        return [one for extra in extras for one in self.extras[extra]]

    @property
    def shipped(self) -> list[Requirement]:
        return [*self.runtime, *self.of(*rules.SHIPPED_EXTRAS)]

    @property
    def work(self) -> list[Requirement]:
        return self.of(*rules.WORK_EXTRAS)


def asked(path: Path = ROOT / "pyproject.toml") -> Asked:
    project = tomllib.loads(path.read_text())
    extras = {
        name: tuple(map(Requirement, texts)) for name, texts in project["project"].get("optional-dependencies", {}).items()
    }
    build = [Requirement(text) for text in project["build-system"]["requires"]]
    # The backend asks for it where a compiler is: part of every build of the native twins.
    build += [one for one in extras.get("dev", ()) if canonicalize_name(one.name) == "cython"]
    binary = extras.pop(rules.BINARY_EXTRA, ())
    tools = {name: extras.pop(name, ()) for name in rules.TOOL_EXTRAS}
    return Asked(tuple(map(Requirement, project["project"]["dependencies"])), extras, tuple(build), binary, tools)


def lower_bound(requirement: Requirement) -> Version | None:
    """The lowest version that it lets in; None = it has no floor."""
    floors = [one.version.removesuffix(".*") for one in requirement.specifier if one.operator in (">=", "==", "~=", ">")]
    return max(map(Version, floors), default=None)


class Closure(NamedTuple):
    """What some requirements pull in: name → the requirements that it has to meet, and whose metadata was not at hand."""

    wanted: dict[str, list[tuple[Requirement, str]]]
    unknown: set[str]

    def unmet(self, versions: Mapping[str, str]) -> list[str]:
        """Sentences about what is missing from some versions, or not as it is asked for."""
        said = []
        for name, asking in sorted(self.wanted.items()):
            if name not in versions:
                said.append(f"{name} is missing, {asking[0][1]} needs it")
                continue
            said += [
                f"{name} {versions[name]} is not what {who} asks for ({requirement.specifier})"
                for requirement, who in asking
                if not requirement.specifier.contains(versions[name], prereleases=True)
            ]
        return said


def closure(requirements: Iterable[Requirement], known: Distributions, environment: Mapping[str, str], who: str) -> Closure:
    wanted: dict[str, list[tuple[Requirement, str]]] = {}
    unknown: set[str] = set()
    waiting = [(one, who) for one in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, asker = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate(dict(environment)):
            continue
        name = canonicalize_name(requirement.name)
        wanted.setdefault(name, []).append((requirement, asker))
        if name not in known:
            unknown.add(name)
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            inside = {**environment, "extra": extra}
            # What an extra adds has a marker that names it; without an extra none of these holds.
            for text in known[name].requires:
                one = Requirement(text)
                if one.marker is None or one.marker.evaluate(inside):
                    one.marker = None  # judged here, with the extra
                    waiting.append((one, name))
    return Closure(wanted, unknown)


def here() -> dict[str, str]:
    """This interpreter, as markers see it."""
    return {name: str(value) for name, value in default_environment().items()} | {"extra": ""}
