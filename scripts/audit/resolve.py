"""``make lock``: asks the package registry, through uv, what fulfils ``pyproject.toml``, and writes the lock files.

One resolution holds for all targets. Of the files that the registry lists for a version, those that one of the targets can
use are locked: its wheels for glibc and musl, and the source distribution. No address is written.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from scripts.audit import lockfile, rules
from scripts.audit.lockfile import Pin
from scripts.audit.project import TARGETS, asked

UV: Final = (sys.executable, "-m", "uv")
TIMEOUT_S: Final = 300
NO_SOLUTION: Final = 1  # uv's exit status when it was answered, and nothing fits

_LINUX: Final = re.compile(r"(?:many|musl)?linux[0-9_]*_(?P<machine>x86_64|aarch64)\Z")


class Unreachable(Exception):
    """The registry, or the tool that asks it, could not be had: nothing is known about the question."""


class Unsolvable(Exception):
    """The registry answered, and no versions fit."""


def for_targets(filename: str) -> bool:
    """Whether a wheel is for one of the targets, by its name."""
    try:
        _, _, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return any(_fits(tag.interpreter, tag.abi, tag.platform) for tag in tags)


def _fits(interpreter: str, abi: str, platform: str) -> bool:
    linux = _LINUX.match(platform)
    if platform != "any" and not (linux and linux["machine"] in rules.MACHINES):
        return False
    exact = {"cp" + python.replace(".", "") for python in rules.PYTHONS}
    if interpreter in exact and abi in (interpreter, "abi3", "none"):
        return True
    minor = re.match(r"cp3(\d+)\Z", interpreter)
    if abi == "abi3" and minor:  # good for every later minor version
        return any(int(minor[1]) <= int(python.split(".")[1]) for python in rules.PYTHONS)
    return abi == "none" and interpreter in {"py3", *("py" + python.replace(".", "") for python in rules.PYTHONS)}


def pins(listed: Mapping[str, Any]) -> list[Pin]:
    """What a lock in pylock's form (PEP 751) means for the targets; packages for none of them are left out."""
    made = []
    for package in listed.get("packages", ()):
        files = [wheel for wheel in package.get("wheels", ()) if for_targets(_filename(wheel))]
        files += [package["sdist"]] if "sdist" in package else []
        digests = frozenset(one["hashes"]["sha256"] for one in files)
        pin = Pin(canonicalize_name(package["name"]), package["version"], package.get("marker", ""), digests)
        held = _held(pin)
        if any(held):
            made.append(pin._replace(marker="") if all(held) else pin)
    return made


def _held(pin: Pin) -> list[bool]:
    """Where it is for: a marker may be written in more than one way."""
    return [pin.holds(environment) for target in TARGETS for environment in target.environments()]


def _filename(file: Mapping[str, Any]) -> str:
    return str(file.get("name") or file["url"].rpartition("/")[2])


def resolve(
    requirements: Iterable[Requirement], versions: Mapping[str, str] | None = None, uv: Sequence[str] = UV
) -> list[Pin]:
    """The newest versions that fulfil them, or ``versions`` where those name one; raises Unreachable, Unsolvable."""
    command = [*uv, "pip", "compile", "-", "--universal", "--python-version", rules.PYTHONS[0]]
    command += ["--format", "pylock.toml", "--quiet", "--no-header"]
    with tempfile.NamedTemporaryFile("w", prefix="fastgw-audit-", suffix=".txt") as constraints:
        if versions:
            constraints.write("".join(f"{name}=={version}\n" for name, version in versions.items()))
            constraints.flush()
            command += ["--constraints", constraints.name]
        text = "\n".join(map(str, requirements))
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"no answer within {TIMEOUT_S} s") from error
    if done.returncode == NO_SOLUTION and "No solution found" in done.stderr:
        raise Unsolvable(told(done.stderr))
    if done.returncode:
        raise Unreachable(told(done.stderr))
    return pins(tomllib.loads(done.stdout))


def told(stderr: str) -> str:
    """An error in one line: what a tool said first and last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return ": ".join(dict.fromkeys(line.removeprefix("error: ").removeprefix("cause: ") for line in (lines[:1] + lines[-1:])))


def write() -> list[str]:
    """Resolve anew and write all of them; returns what changed."""
    wanted = asked()
    shipped = resolve(wanted.shipped)
    runtime = {pin.name for pin in resolve(wanted.runtime, {pin.name: pin.version for pin in shipped})}
    # A marker that extras widen is widened for both: one version, one row.
    making = resolve([*wanted.build, *wanted.binary])
    building = {pin.name for pin in resolve(wanted.build, {pin.name: pin.version for pin in making})}
    # One version of a name in all of them, so that one download and one look at what is known will do.
    one = {pin.name: pin.version for pin in [*shipped, *making]}
    tools = {name: resolve(asking, one) for name, asking in wanted.tools.items()}
    made = {
        "runtime": [pin for pin in shipped if pin.name in runtime],
        "extras": [pin for pin in shipped if pin.name not in runtime],
        "build": [pin for pin in making if pin.name in building],
        "binary": [pin for pin in making if pin.name not in building],
        **tools,
    }
    words = {
        "pythons": ", ".join(rules.PYTHONS),
        "machines": ", ".join(rules.MACHINES),
        "extras": ", ".join(rules.SHIPPED_EXTRAS),
    }
    lockfile.FOLDER.mkdir(exist_ok=True)
    said = []
    for name, wants in made.items():
        path = lockfile.FOLDER / f"{name}.lock"
        before = lockfile.parse(path.read_text()).pins if path.exists() else ()
        path.write_text(lockfile.render(wants, lockfile.HEADS[name].format(**words)))
        said += [f"{path.name}: {change}" for change in changes(before, wants)]
    return said


def changes(before: Iterable[Pin], after: Iterable[Pin]) -> list[str]:
    old, new = {pin.name: pin for pin in before}, {pin.name: pin for pin in after}
    said = [f"{name} {new[name].version} is new" for name in sorted(new.keys() - old.keys())]
    said += [f"{name} {old[name].version} is gone" for name in sorted(old.keys() - new.keys())]
    for name in sorted(new.keys() & old.keys()):
        if old[name].version != new[name].version:
            said.append(f"{name} {old[name].version} -> {new[name].version}")
        elif old[name] != new[name]:
            said.append(f"{name} {new[name].version}: other files")
    return said


def compare(locked: Iterable[Pin], listed: Iterable[Pin]) -> tuple[list[str], list[str]]:
    """Where a lock is not what the registry lists for its versions, and which files were added to those since."""
    ours, theirs = {pin.name: pin for pin in locked}, {pin.name: pin for pin in listed}
    mistakes = [f"{name} is not in the lock, and is needed" for name in sorted(theirs.keys() - ours.keys())]
    mistakes += [f"{name} is in the lock, and nothing needs it" for name in sorted(ours.keys() - theirs.keys())]
    notes = []
    for name in sorted(ours.keys() & theirs.keys()):
        mine, its = ours[name], theirs[name]
        if (mine.version, _held(mine)) != (its.version, _held(its)):
            mistakes.append(f"{name} is locked as {mine.version} {mine.marker}, and resolves to {its.version} {its.marker}")
        if gone := mine.hashes - its.hashes:
            mistakes.append(f"{name} {mine.version}: the registry has no file with the hash {', '.join(sorted(gone))}")
        if missing := its.hashes - mine.hashes:
            notes.append(f"{name} {mine.version} has {len(missing)} more files")
    return mistakes, notes


def main() -> int:
    try:
        said = write()
    except (Unreachable, Unsolvable) as error:
        print(f"lock: nothing was written, {error}", file=sys.stderr)
        return 1
    print("\n".join(said) or "lock: all is as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
