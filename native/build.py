"""Builds the compiled twins: the same Python source with a ``.pxd`` beside it, or a ``.pyx`` of its own.

    python native/build.py                 all, beside their sources (what is up to date is left alone)
    python native/build.py accel.heads     only these
    python native/build.py --annotate      also Cython's HTML pages, in build/native

    python native/build.py --force         although it is up to date

``native/`` mirrors ``fastgw/``: ``native/net/wire.pxd`` types ``fastgw/net/wire.py``, ``native/accel/heads.pyx``
replaces ``fastgw/accel/heads.py``. Cython wants both in one place, so they are laid out in ``build/native`` first.
``FASTGW_BUILD_NATIVE`` says what an installation does: ``auto`` (build where a compiler is, go on without where not),
``0`` (do not build), ``1`` (fail when it cannot be built). Run as a program, this file takes ``1`` for the default. All
twins are built or none counts: ``fastgw/twins.py`` takes no half.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"
STAGE = ROOT / "build" / "native"
# What was built last, and from what. A second run must cost nothing: `make test` asks each time.
STAMP = STAGE / "built"
CYTHON = "Cython>=3.1,<4"

DIRECTIVES = {
    "language_level": 3,
    "binding": False,  # bound C functions: a hook is called at half the cost
    "annotation_typing": False,  # types come from the .pxd alone: an annotation says `int` where a C integer is meant
    "embedsignature": False,
    "auto_pickle": False,  # nobody pickles a connection; a tenth of all code, and some methods of each class
    "initializedcheck": False,
    "optimize.use_switch": True,
}
# In Python's own source: None where an object was meant raises, as it does uncompiled, and does not crash.
SAME_SOURCE = {"nonecheck": True}
# (No tables for unwinding, which only C++ and debuggers read: they are a twentieth of what a process maps.)
COMPILE = [
    *("-O2", "-fno-plt", "-fno-semantic-interposition", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-g0"),
    *("-Wno-unused-function", "-Wno-maybe-uninitialized"),
]


def wanted() -> str:
    return os.environ.get("FASTGW_BUILD_NATIVE", "auto").strip() or "auto"


def compiler() -> str | None:
    """The C compiler that would be used, if there is one."""
    named = os.environ.get("CC", "").split()
    return next((found for name in (*named[:1], "cc", "gcc", "clang") if (found := shutil.which(name))), None)


def obstacle() -> str:
    """Why nothing can be compiled here; empty = it can (Cython apart, which an installation fetches by itself)."""
    if not compiler():
        return "no C compiler here"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's own headers are missing (Debian, Ubuntu: apt install python3-dev)"
    return ""


def modules() -> list[str]:
    """The twins that there are sources for, as ``layer.module``."""
    found = set()
    for path in NATIVE.rglob("*.p[yx][xd]"):
        name = ".".join(path.relative_to(NATIVE).with_suffix("").parts)
        if path.suffix == ".pyx" or (ROOT / "fastgw" / path.relative_to(NATIVE).with_suffix(".py")).exists():
            found.add(name)
    return sorted(found)


def _lay_out() -> None:
    """Copy what is newer; Cython sees by the times what must be compiled again."""
    wanted_files: dict[Path, Path | None] = {STAGE / "fastgw" / "__init__.py": None}
    for path in [*NATIVE.rglob("*.pyx"), *NATIVE.rglob("*.pxd")]:
        inside = path.relative_to(NATIVE)
        if inside.name == "build.py":
            continue
        for depth in range(1, len(inside.parts)):
            wanted_files[STAGE / "fastgw" / Path(*inside.parts[:depth]) / "__init__.py"] = None
        wanted_files[STAGE / "fastgw" / inside] = path
        source = ROOT / "fastgw" / inside.with_suffix(".py")
        if path.suffix == ".pxd" and source.exists() and not path.with_suffix(".pyx").exists():
            wanted_files[STAGE / "fastgw" / inside.with_suffix(".py")] = source
    for target, origin in wanted_files.items():
        content = origin.read_bytes() if origin is not None else b""
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
    for stale in (STAGE / "fastgw").rglob("*.p[yx]*"):
        if stale.suffix in (".py", ".pyx", ".pxd") and stale not in wanted_files:
            stale.unlink()


def _how() -> str:
    """All that decides how sources become extensions, the sources apart."""
    try:
        cython = version("Cython")
    except PackageNotFoundError:
        cython = ""
    told = (sys.version, sysconfig.get_config_var("EXT_SUFFIX"), cython, compiler(), os.environ.get("CFLAGS"))
    return hashlib.sha256(repr(told).encode() + Path(__file__).read_bytes()).hexdigest()


def _what() -> str:
    """The sources of all twins, and what they share."""
    digest = hashlib.sha256()
    paths = {path for path in NATIVE.rglob("*.p[yx]*") if path.suffix in (".pyx", ".pxd", ".pxi")}
    paths.update((ROOT / "fastgw" / Path(*name.split("."))).with_suffix(".py") for name in modules())
    for path in sorted(paths):
        if path.exists():
            digest.update(f"{path} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _stamped() -> list[str]:
    return STAMP.read_text().split() if STAMP.exists() else []


def up_to_date() -> bool:
    """Whether every twin is there, built from the sources as they are now."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    there = all((ROOT / "fastgw" / Path(*name.split("."))).with_suffix(suffix).exists() for name in modules())
    return there and _stamped() == [_how(), _what()]


def give_up(reason: str) -> None:
    """Nothing will be compiled: an error where that was insisted on, otherwise one line."""
    if wanted() == "1":
        raise SystemExit(f"fastgw: the native twins cannot be built: {reason}")
    print(f"fastgw: {reason}; it will run in pure Python: slower, otherwise the same.", file=sys.stderr)


def extensions(only: list[str] | None = None, *, annotate: bool = False, force: bool = False) -> list[Any]:
    """The extensions, cythonized; empty where nothing is to be built, with a line on standard error that says why.

    :raises CompileError: Cython's, for a mistake in a source.
    """
    if wanted() == "0":
        return []
    reason = obstacle()
    try:
        from Cython.Build import cythonize
    except ImportError:
        reason = reason or "Cython is not installed"
    if reason:
        give_up(reason)
        return []
    from setuptools import Extension

    _lay_out()
    twins: list[Any] = []
    hand_written: list[Any] = []
    names = only or modules()
    for name in names:
        base = STAGE / "fastgw" / Path(*name.split("."))
        source = base.with_suffix(".pyx")
        same = not source.exists()
        extension = Extension(
            f"fastgw.{name}",
            [os.path.relpath(base.with_suffix(".py") if same else source, ROOT)],
            extra_compile_args=COMPILE,
            extra_link_args=["-Wl,-s"],
            define_macros=[("CYTHON_CLINE_IN_TRACEBACK", "0"), ("NDEBUG", "1")],
        )
        (twins if same else hand_written).append(extension)
    here = os.getcwd()
    os.chdir(ROOT)
    try:
        found: list[Any] = []
        for made, directives in ((twins, DIRECTIVES | SAME_SOURCE), (hand_written, DIRECTIVES)):
            found += cythonize(
                made,
                include_path=[os.path.relpath(STAGE, ROOT)],
                compiler_directives=directives,
                nthreads=min(os.cpu_count() or 1, 8) if len(made) > 1 else 0,
                quiet=False,  # (a line for each that is translated: from nothing this takes minutes)
                annotate=annotate,
                show_all_warnings=False,
                force=force or None,
            )
    finally:
        os.chdir(here)
    return found


def build(only: list[str] | None = None, *, annotate: bool = False, jobs: int = 0, force: bool = False) -> bool:
    """Compile beside the sources, what has changed or all. False = not built, and a line on standard error says why."""
    if not (only or annotate or force) and wanted() != "0" and up_to_date():
        return True
    STAGE.mkdir(parents=True, exist_ok=True)
    with open(STAGE / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at a time would write the same files
        return _build(only, annotate, jobs, force)


def _build(only: list[str] | None, annotate: bool, jobs: int, force: bool) -> bool:
    from setuptools import Distribution

    if _stamped()[:1] != [_how()]:
        # Another compiler, other flags: what earlier ones left must not pass for up to date.
        for leftover in (STAGE / "fastgw", STAGE / "objects"):
            shutil.rmtree(leftover, ignore_errors=True)
        STAMP.write_text(f"{_how()}\n")
    what = _what()
    found = extensions(only, annotate=annotate, force=force)
    if not found:
        return False
    os.chdir(ROOT)
    made = {"name": "fastgw", "ext_modules": found, "script_name": "setup.py", "cmdclass": {"build_ext": _told(len(found))}}
    command = Distribution(made).get_command_obj("build_ext")
    command.inplace = True
    command.force = force
    command.parallel = jobs or min(os.cpu_count() or 1, 8)
    command.build_temp = str(STAGE / "objects")
    command.ensure_finalized()
    command.run()
    # After a part only, the next build of all looks at each source again.
    STAMP.write_text(f"{_how()} {'a-part' if only else what}\n")
    return True


def _told(count: int) -> type[Any]:
    """The command that compiles ``count`` extensions, and says at each tenth of them how far it is."""
    from setuptools.command.build_ext import build_ext

    left = iter(range(1, count + 1))  # (shared by its threads)

    class Told(build_ext):
        def build_extension(self, ext: Any) -> None:
            super().build_extension(ext)
            done = next(left)
            if done == count or done * 10 // count > (done - 1) * 10 // count:
                print(f"fastgw: {done} of {count} modules are compiled", flush=True)

    return Told


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="layer.module, for instance accel.heads (default: all)")
    parser.add_argument("--annotate", action="store_true", help="write Cython's annotated HTML into build/native")
    parser.add_argument("--force", action="store_true", help="build again what is up to date")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="compile so many at a time (default: all cores)")
    options = parser.parse_args()
    unknown = set(options.modules) - set(modules())
    if unknown:
        parser.error(f"no such module: {', '.join(sorted(unknown))} (there are: {', '.join(modules())})")
    os.environ.setdefault("FASTGW_BUILD_NATIVE", "1")
    built = build(options.modules or None, annotate=options.annotate, jobs=options.jobs, force=options.force)
    return 0 if built or wanted() != "1" else 1


if __name__ == "__main__":
    sys.exit(main())
