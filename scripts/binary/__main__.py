"""``make binary``: ``dist/fastgw``, one file, and ``dist/fastgw-dir``, the same as a folder.

    python -m scripts.binary [--folder build/binary] [--dist dist]

An environment of its own has what the lock files name, every file held to its hash; the twins are compiled in a copy of the
sources; PyInstaller freezes both (``native/pyinstaller/fastgw.spec``). Beside them go the licences of all that is inside and
an SBOM. Invariant: two builds of one revision, with one Python and one compiler, have the same bytes, wherever they are made.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Final

from scripts.locked import call, environment

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = ("extras", "binary")  # they take in what fastgw runs with, and what builds it
SOURCES: Final = ("fastgw", "native")



def sources(folder: Path) -> Path:
    """A copy of what is compiled and frozen: without what lies about in a checkout, and with its own twins beside."""
    tree = folder / "tree"
    wanted: set[Path] = set()
    for name in SOURCES:
        for path in sorted((ROOT / name).rglob("*")):
            inside = path.relative_to(ROOT)
            if path.is_dir() or path.suffix in (".so", ".pyc") or "__pycache__" in path.parts:
                continue
            wanted.add(inside)
            target = tree / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or not filecmp.cmp(path, target, shallow=False):
                shutil.copyfile(path, target)
    for name in SOURCES:
        for path in (tree / name).rglob("*"):
            if path.is_file() and path.suffix != ".so" and path.relative_to(tree) not in wanted:
                path.unlink()
    twins = {inside.with_suffix("") for inside in wanted}
    for path in (tree / "fastgw").rglob("*.so"):
        if path.relative_to(tree).with_name(path.name.partition(".")[0]) not in twins:
            path.unlink()
    return tree


def freeze(folder: Path, dist: Path) -> None:
    python = environment(folder / "venv", *LOCKS)
    tree = sources(folder)
    print("binary: compiling the twins ...", flush=True)
    call([str(python), "native/build.py"], tree, FASTGW_BUILD_NATIVE="1")
    print("binary: freezing ...", flush=True)
    held = folder / "held.json"
    words = [str(python), "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    words += ["--workpath", str(folder / "work"), "--distpath", str(dist), "native/pyinstaller/fastgw.spec"]
    call(words, tree, FASTGW_HELD=str(held), PYINSTALLER_CONFIG_DIR=str(folder / "cache"))
    # Said by that Python, for it has what was frozen, and knows its licences.
    call([str(python), "-m", "scripts.binary.contents", str(held), str(dist)], ROOT)
    shutil.copyfile(ROOT / "LICENSE", dist / "LICENSE")
    for name in ("fastgw.cdx.json", "THIRD-PARTY.txt", "LICENSE"):
        shutil.copyfile(dist / name, dist / "fastgw-dir" / name)


def tell(dist: Path) -> str:
    single, folder = dist / "fastgw", dist / "fastgw-dir"
    inside = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    digest = hashlib.sha256(single.read_bytes()).hexdigest()
    components = len(json.loads((dist / "fastgw.cdx.json").read_text())["components"])
    return (
        f"{single}  {single.stat().st_size / 1e6:.1f} MB, sha256 {digest}\n"
        f"{folder}  {inside / 1e6:.1f} MB, the same as a folder: starts sooner, needs no TMPDIR\n"
        f"{dist / 'fastgw.cdx.json'}  SBOM, {components} components; {dist / 'THIRD-PARTY.txt'}  their licences"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.binary", description="See the head of scripts/binary/__main__.py.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "binary", help="where to work")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the programs go")
    options = parser.parse_args()
    folder, dist = options.folder.resolve(), options.dist.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    dist.mkdir(parents=True, exist_ok=True)
    freeze(folder, dist)
    print(tell(dist))
    return 0


if __name__ == "__main__":
    sys.exit(main())
