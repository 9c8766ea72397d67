"""Made-up projects, distributions and lock files for the audit's judgements."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from scripts.audit.project import Asked, Distribution

HASH = "a" * 64
OTHER = "b" * 64


def project(runtime: Sequence[str] = (), otel: Sequence[str] = (), dev: Sequence[str] = ()) -> Asked:
    made = {name: tuple(map(Requirement, texts)) for name, texts in (("otel", otel), ("dev", dev))}
    empty = dict.fromkeys(("dns", "redis", "zstd", "fuzz", "bench", "dashboard", "import", "top", "audit"), ())
    return Asked(tuple(map(Requirement, runtime)), {**empty, **made}, ())


def known(*rows: tuple[str, ...]) -> dict[str, Distribution]:
    """Of (name, version, requirement, ...)."""
    return {name: Distribution(name, version, requires) for name, version, *requires in rows}  # type: ignore[arg-type]


def wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """A wheel that pip takes; returns its SHA-256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        head = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata)
        archive.writestr(f"{info}/METADATA", "\n".join(head))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()
