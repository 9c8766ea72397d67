"""Floors: what ``pyproject.toml`` asks for at least, what a security fix asks for, and what is locked and installed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.audit import rules
from scripts.audit.project import Asked, Distributions, closure, here, lower_bound
from scripts.audit.report import Section


def too_low(asked: Asked, floors: Collection[rules.Floor] = rules.FLOORS) -> list[str]:
    """Where ``pyproject.toml`` lets in a version that a security fix rules out."""
    said = []
    requirements: dict[str, Requirement] = {canonicalize_name(one.name): one for one in asked.shipped}
    for floor in floors:
        if floor.name not in requirements:
            said.append(f"{floor.name} is not asked for, so nothing keeps it at {floor.version}")
            continue
        bound = lower_bound(requirements[floor.name])
        if bound is None or bound < Version(floor.version):
            said.append(f"pyproject.toml asks for {requirements[floor.name]}; {_why(floor)}")
    return said


def _why(floor: rules.Floor) -> str:
    return f"below {floor.version}: {floor.because} ({', '.join(floor.references)})"


def below(versions: Mapping[str, str], what: str, asked: Asked, floors: Collection[rules.Floor] = rules.FLOORS) -> list[str]:
    """Which of some versions are below a floor, a security fix's or ``pyproject.toml``'s own."""
    said = [
        f"{one.name} {versions[one.name]} is {what}; {_why(one)}"
        for one in floors
        if one.name in versions and Version(versions[one.name]) < Version(one.version)
    ]
    tools = [one for asking in asked.tools.values() for one in asking]
    for requirement in (*asked.shipped, *asked.work, *asked.build, *asked.binary, *tools):
        name = canonicalize_name(requirement.name)
        if name in versions and not requirement.specifier.contains(versions[name], prereleases=True):
            said.append(f"{name} {versions[name]} is {what}, pyproject.toml asks for {requirement.specifier}")
    return list(dict.fromkeys(said))


def floors(asked: Asked, locked: Mapping[str, str], installed: Distributions, work: Collection[str]) -> Section:
    section = Section("floors", "is every version as new as it has to be?")
    section.table(
        ("security fix", "at least", "locked", "installed", "references"),
        [
            (one.name, one.version, locked.get(one.name, "-"), installed[one.name].version if one.name in installed else "-",
             ", ".join(one.references))
            for one in rules.FLOORS
        ],
    )  # fmt: skip
    versions = {name: one.version for name, one in installed.items()}
    runtime = closure(asked.runtime, installed, here(), "pyproject.toml")
    section.failed += too_low(asked)
    section.failed += below(locked, "locked", asked)
    section.failed += below(versions, "installed", asked)
    section.failed += [f"installed: {sentence}" for sentence in runtime.unmet(versions)]
    if not section.failed:
        section.fine.append(f"{len(locked)} locked, {len(runtime.wanted)} installed to run, {len(work)} installed to work with")
    return section
