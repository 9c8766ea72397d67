"""What a release is made of; each step is a target of the Makefile, and the workflow types no other.

    python -m scripts.release tag v1.2.3    is that the version of this checkout, and has the changelog a section for it?
    python -m scripts.release sdist         the source distribution, in dist/release
    python -m scripts.release wheels        from it the wheels for every CPython, by cibuildwheel: wants Docker
    python -m scripts.release wheel         from it the wheel for this Python and this machine alone, compiled, and tried
    python -m scripts.release pack          what `make binary` made, under the names of a release
    python -m scripts.release sums          SHA256SUMS of all files in dist/release
    python -m scripts.release notes         what the changelog says of this version, in build/release/notes.md

Must never: hold a key, or send anything anywhere. Invariant: a wheel is built from the source distribution, never from what
lies about in a checkout.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import platform
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from scripts.locked import NO_DATE, ROOT, call, environment

RELEASE: Final = ROOT / "dist" / "release"
WORK: Final = ROOT / "build" / "release"
SUMS: Final = "SHA256SUMS"
BACKEND: Final = "import sys; sys.path.insert(0, 'native'); import backend; print(backend.{hook}(sys.argv[1]))"


def version() -> str:
    """As the package says it, read and not imported."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "fastgw" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def tag(named: str, changelog: str) -> str:
    """What is wrong with a tag, or "": a release is of the version that it says, and its changes are written down."""
    if named != f"v{version()}":
        return f"the tag is {named}, fastgw/__init__.py says {version()}"
    if not re.search(rf"^## \[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        return f"CHANGELOG.md has no section `## [{version()}] - YYYY-MM-DD`"
    return ""


def sdist() -> Path:
    python = environment(WORK / "build-venv", "build")
    RELEASE.mkdir(parents=True, exist_ok=True)
    call([str(python), "-c", BACKEND.format(hook="build_sdist"), str(RELEASE)], ROOT)
    return source()


def source() -> Path:
    """The source distribution that lies there."""
    path = RELEASE / f"fastgw-{version()}.tar.gz"
    if not path.exists():
        raise SystemExit(f"release: {path.name} is not there; make sdist")
    return path


def wheels() -> None:
    python = environment(WORK / "release-venv", "release")
    words = [str(python), "-m", "cibuildwheel", "--platform", "linux", "--output-dir", str(RELEASE), str(source())]
    call(words, ROOT)


def wheel() -> None:
    python = environment(WORK / "build-venv", "build")
    with tempfile.TemporaryDirectory(prefix="fastgw-release-") as folder:
        with tarfile.open(source()) as archive:
            archive.extractall(folder, filter="data")
        tree = Path(folder) / f"fastgw-{version()}"
        call([str(python), "-c", BACKEND.format(hook="build_wheel"), str(RELEASE)], tree, FASTGW_BUILD_NATIVE="1")
    (made,) = RELEASE.glob(f"fastgw-{version()}-*-linux_{platform.machine()}.whl")
    tried = environment(WORK / "tried-venv", "runtime")
    words = [str(tried), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--force-reinstall"]
    call([*words, str(made)], ROOT)
    call([str(tried), "-m", "fastgw", "self-test"], WORK, FASTGW_NATIVE="1")  # not where the sources are


def pack(dist: Path = ROOT / "dist", to: Path = RELEASE) -> list[Path]:
    """Programs are told apart by their machine; a folder becomes an archive whose bytes depend on what is in it and no more."""
    to.mkdir(parents=True, exist_ok=True)
    name = f"fastgw-{version()}-linux-{platform.machine()}"
    made = [to / name, to / f"{name}.cdx.json", to / f"{name}-THIRD-PARTY.txt", to / f"{name}.tar.gz"]
    for path, target in zip(("fastgw", "fastgw.cdx.json", "THIRD-PARTY.txt"), made, strict=False):
        shutil.copy(dist / path, target)

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(NO_DATE)
        return member

    with made[3].open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w") as archive:  # fmt: skip
        archive.add(dist / "fastgw-dir", name, recursive=False, filter=plain)
        for path in sorted((dist / "fastgw-dir").rglob("*")):
            archive.add(path, f"{name}/{path.relative_to(dist / 'fastgw-dir')}", recursive=False, filter=plain)
    return made


def sums(folder: Path = RELEASE) -> Path:
    """One line for each file, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(SUMS))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return folder / SUMS


def notes(changelog: str) -> str:
    """The changelog's section of this version, without its heading."""
    return changelog.partition(f"\n## [{version()}] - ")[2].partition("\n")[2].partition("\n## [")[0].strip() + "\n"


def main() -> int:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(prog="python -m scripts.release", description="See scripts/release/__main__.py.")
    parser.add_argument("step", choices=["tag", "sdist", "wheels", "wheel", "pack", "sums", "notes"])
    parser.add_argument("tag", nargs="?", default="", help="of `tag`: the tag's name")
    options = parser.parse_args()
    match options.step:
        case "tag":
            if why := tag(options.tag, changelog):
                raise SystemExit(f"release: {why}")
        case "sdist":
            print(sdist().relative_to(ROOT))
        case "wheels":
            wheels()
        case "wheel":
            wheel()
        case "pack":
            print("\n".join(str(path.relative_to(ROOT)) for path in pack()))
        case "sums":
            print(sums().read_text(encoding="utf-8"), end="")
        case "notes":
            WORK.mkdir(parents=True, exist_ok=True)
            (WORK / "notes.md").write_text(notes(changelog), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
