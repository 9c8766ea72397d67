"""An environment that has what lock files of ``requirements/`` name, every file held to its hash, and nothing else.

Invariant: it is made anew when a lock or the Python has changed, and else left as it is. Must never: take a version, or a
file, that no lock names.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "requirements"
# For all that has a date: the earliest that a zip archive can have. What depends on nothing else needs no other.
NO_DATE: Final = "315532800"


def call(command: Sequence[str], cwd: Path, **more: str) -> None:
    """Run it in a fixed environment, so that the same sources make the same bytes; what fails ends all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTGW_", "PYINSTALLER_"))}
    fixed = {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": NO_DATE, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=cwd, env={**kept, **fixed, **more}, check=False)
    if done.returncode:
        raise SystemExit(f"this failed with status {done.returncode}: {' '.join(command)}")


def environment(folder: Path, *locks: str) -> Path:
    """The Python of ``folder``, with what these locks name; those that they take in count too."""
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    held = [path.read_bytes() for path in sorted(FOLDER.glob("*.lock"))]
    wanted = hashlib.sha256(b"".join(held) + " ".join(locks).encode() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing what {', '.join(f'requirements/{name}.lock' for name in locks)} name ...", flush=True)
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        call([*command, *(word for name in locks for word in ("-r", str(FOLDER / f"{name}.lock")))], ROOT)
        stamp.write_text(wanted)
    return python
