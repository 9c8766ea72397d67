"""Known vulnerabilities of exact versions, as pip-audit's services tell them.

Invariant: silence is no answer. A service that cannot be reached, that leaves a version out, or that does not know what
every service knows (:data:`scripts.audit.rules.CANARY`) has checked nothing: pip-audit itself then says "no known
vulnerabilities found" and ends with status 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.audit import rules

TIMEOUT_S: Final = 600
PER_REQUEST_S: Final = 15

_CAUSED: Final = re.compile(r"Caused by \w+\(\"?(.*?)\"?\)+\Z")

PIP_AUDIT: Final = (sys.executable, "-m", "pip_audit")


class Found(NamedTuple):
    """One vulnerability of one version."""

    name: str
    version: str
    identities: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version"
        return f"{self.name} {self.version}: {', '.join(self.identities)} ({fixed})"


class Answer(NamedTuple):
    """What a service knows about the versions that it was asked for, and which it said nothing about."""

    found: tuple[Found, ...]
    silent: Mapping[str, str]


class Unreachable(Exception):
    """There was no answer that could be read; the message says why."""


Ask = Callable[[Mapping[str, str], Sequence[str]], Answer]


def ask(versions: Mapping[str, str], service: Sequence[str], command: Sequence[str] = PIP_AUDIT) -> Answer:
    """Ask pip-audit; ``service`` are its options that choose one. Raises Unreachable."""
    with tempfile.NamedTemporaryFile("w", prefix="fastgw-audit-", suffix=".txt") as file:
        file.write("".join(f"{name}=={version}\n" for name, version in versions.items()))
        file.flush()
        words = [*command, "--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json", "--aliases", "on"]
        words += ["--desc", "off", "--progress-spinner", "off", "--timeout", str(PER_REQUEST_S), *service]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"no answer within {TIMEOUT_S} s") from error
    try:
        return answer(done.stdout, versions)
    except (ValueError, KeyError, TypeError) as error:
        lines = done.stderr.strip().splitlines()
        raise Unreachable(_cause(lines[-1]) if lines else f"an answer that cannot be read: {error!r}") from error


def _cause(line: str) -> str:
    """The last line of a traceback; of a chain of errors in one line, the innermost."""
    found = _CAUSED.search(line)
    return found[1] if found else line


def answer(text: str, versions: Mapping[str, str]) -> Answer:
    """pip-audit's JSON about these versions; ValueError, KeyError or TypeError when it is none."""
    listed: Any = json.loads(text)
    if not isinstance(listed, dict) or not isinstance(listed.get("dependencies"), list):
        raise ValueError("no list of dependencies")
    silent = dict.fromkeys(versions, "left out of the answer")
    found: list[Found] = []
    for row in listed["dependencies"]:
        name = canonicalize_name(row["name"])
        if "skip_reason" in row:
            silent[name] = str(row["skip_reason"])
            continue
        if name not in versions or Version(versions[name]) != Version(row["version"]):
            continue
        found += [
            Found(name, row["version"], (one["id"], *one.get("aliases", ())), tuple(one.get("fix_versions", ())))
            for one in row["vulns"]
        ]
        silent.pop(name, None)
    return Answer(tuple(found), silent)


class Checked(NamedTuple):
    """Which source answered ("" = none did, and ``obstacles`` says why), and what."""

    source: str
    answers: Mapping[str, Answer]
    obstacles: tuple[str, ...]


def check(sets: Mapping[str, Mapping[str, str]], osv_url: str = "", ask: Ask = ask) -> Checked:
    """Ask the first source that can tell a vulnerable version from a sound one about some sets of versions."""
    sources: Iterable[tuple[str, Sequence[str]]] = [(name, ("--vulnerability-service", name)) for name in rules.SOURCES]
    if osv_url:
        sources = [(osv_url, ("--vulnerability-service", "osv", "--osv-url", osv_url))]
    canary, version, identity = rules.CANARY
    obstacles = []
    for name, service in sources:
        try:
            known = ask({canary: version}, service)
            if not known.found:
                why = known.silent.get(canary, "")
                obstacles.append(f"{name} does not know {identity} of {canary} {version}{why and f' ({why})'}")
                continue
            answers = {title: ask(versions, service) for title, versions in sets.items()}
        except Unreachable as error:
            obstacles.append(f"{name} ({error})")
            continue
        return Checked(name, answers, tuple(obstacles))
    return Checked("", {}, tuple(obstacles))
