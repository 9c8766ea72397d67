"""What is inside of the frozen program: an SBOM (CycloneDX 1.6) and the licences' texts, from what PyInstaller collected.

Run by the Python that froze it. Owns: which distribution, or which library of the system, each collected file came from.
Invariant: a file whose origin is not known is named as such, never left out; and nothing depends on when or where it was made.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

from scripts.audit import lockfile, project
from scripts.audit.licences import names

LICENCE_FILE: Final = re.compile(r"(?:licen[cs]e|copying|notice|authors)(?:[.-].*)?\Z", re.IGNORECASE)
# Its loader is the first of what it freezes, under an exception that leaves all the rest alone; metadata has no word for it.
FREEZER: Final = "pyinstaller"
FREEZER_LICENCE: Final = "GPL-2.0-or-later WITH Bootloader-exception"
OF_PYTHON: Final = re.compile(r"(?:base_library\.zip|libpython3.*|python3[^/]*|python3\.\d+/.*)\Z")

Component = dict[str, Any]


def distributions(held: dict[str, Any]) -> list[str]:
    """Of which distributions a module or an extension is inside, by their names, in order."""
    tops = importlib.metadata.packages_distributions()
    found = {name for module in held["modules"] for name in tops.get(module.partition(".")[0], ())}
    found.update(name for inside, _ in held["files"] for name in tops.get(re.split(r"[/.]", inside)[0], ()))
    return sorted({FREEZER, *map(canonicalize_name, found)} - {"fastgw", "setuptools"})


def libraries(held: dict[str, Any]) -> list[tuple[str, Path]]:
    """The shared libraries of the system that are inside: name and where it was taken from."""
    return sorted((inside, Path(path)) for inside, path in held["files"] if ".so" in inside and "/" not in inside)


def locked() -> dict[str, lockfile.Pin]:
    locks = lockfile.read()
    return {pin.name: pin for pin in (*locks.shipped, *locks.making)}


def _licences(one: project.Distribution) -> list[str]:
    return [FREEZER_LICENCE] if one.name == FREEZER else names(one)[0]


def of_distribution(name: str, pins: dict[str, lockfile.Pin]) -> Component:
    one = project.read(importlib.metadata.distribution(name))
    said = _licences(one)
    component: Component = {
        "type": "library",
        "name": one.name,
        "version": one.version,
        "purl": f"pkg:pypi/{one.name}@{one.version}",
        "licenses": [{"expression": " OR ".join(said)}] if said else [],
    }
    if name in pins and pins[name].version == one.version:
        # Every file of this version that the locks allow: which of them pip took, the machine decided.
        component["properties"] = [
            {"name": "fastgw:locked:sha256", "value": digest} for digest in sorted(pins[name].hashes)
        ]
    return component


def of_library(name: str, path: Path) -> Component:
    package, version = _package(path)
    component: Component = {"type": "library", "name": name, "hashes": [{"alg": "SHA-256", "content": _digest(path)}]}
    if package:
        component |= {"version": version, "purl": f"pkg:deb/debian/{package}@{version}"}
    return component


def sbom(held: dict[str, Any], version: str) -> Component:
    pins = locked()
    python = platform.python_version()
    components = [{"type": "library", "name": "cpython", "version": python, "licenses": [{"expression": "Python-2.0"}],
                   "purl": f"pkg:generic/cpython@{python}"}]  # fmt: skip
    components += [of_distribution(name, pins) for name in distributions(held)]
    components += [of_library(name, path) for name, path in libraries(held) if not OF_PYTHON.match(name)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "name": "fastgw", "version": version, "purl": f"pkg:pypi/fastgw@{version}",
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": components,
    }  # fmt: skip


def licences(held: dict[str, Any]) -> str:
    """The texts that the licences of all that is inside ask to be passed on."""
    parts = [_part("CPython", f"CPython {platform.python_version()}", _texts_of_python())]
    for name in distributions(held):
        found = importlib.metadata.distribution(name)
        said = _licences(project.read(found))
        texts = [Path(str(file.locate())).read_text(errors="replace") for file in sorted(found.files or (), key=str)
                 if LICENCE_FILE.match(file.name) and file.suffix not in (".py", ".pyc")]  # fmt: skip
        parts.append(_part(name, f"{name} {found.version}: {', '.join(said)}", texts))
    for name, path in libraries(held):
        package, version = _package(path)
        if OF_PYTHON.match(name):
            continue
        copyright_ = Path("/usr/share/doc", package, "copyright") if package else None
        there = copyright_ is not None and copyright_.exists()
        texts = [copyright_.read_text(errors="replace")] if copyright_ is not None and there else []
        parts.append(_part(name, f"{name}, of {package or 'the system'} {version}", texts))
    return "What is inside of the program fastgw beside its own code, and under which terms.\n\n" + "\n".join(parts)


def _part(name: str, title: str, texts: list[str]) -> str:
    body = "\n\n".join(text.strip() for text in texts) or f"(No text came with {name}.)"
    return f"{'=' * 100}\n{title}\n{'=' * 100}\n\n{body}\n"


def _texts_of_python() -> list[str]:
    of_debian = Path(f"/usr/share/doc/python3.{sys.version_info[1]}/copyright")
    places = (Path(sysconfig.get_path("stdlib"), "LICENSE.txt"), of_debian)
    return [place.read_text(errors="replace") for place in places if place.exists()][:1]


def _package(path: Path) -> tuple[str, str]:
    """The Debian package that a library belongs to, and its version; ("", "") where that cannot be told."""
    asked = shutil.which("dpkg-query")
    if not asked:
        return "", ""
    for place in dict.fromkeys((str(path.resolve()), str(path), str(path.resolve()).removeprefix("/usr"))):
        done = subprocess.run([asked, "--search", place], capture_output=True, text=True, check=False)
        if not done.returncode:
            package = done.stdout.partition(":")[0].split(",")[0].strip()
            words = [asked, "--show", "--showformat=${Version}\n", package]
            version = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
            return package, version[0]
    return "", ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(held_path: str, dist: str) -> None:
    held = json.loads(Path(held_path).read_text())
    version = held["version"]
    Path(dist, "fastgw.cdx.json").write_text(json.dumps(sbom(held, version), indent=1) + "\n")
    Path(dist, "THIRD-PARTY.txt").write_text(licences(held))


if __name__ == "__main__":
    main(*sys.argv[1:])
