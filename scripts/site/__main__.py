"""``make site``: the documentation as a site, in ``build/site``.

    python -m scripts.site [--folder build/docs]

An environment of its own has what ``requirements/docs.lock`` names. Diagrams are drawn by a script that comes from the index
of npm, held to its hash; without npm, or the network, they are shown as they are written. Warnings are errors. What was built
is then looked through: a page that asks another host for anything is an error too.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from scripts.locked import ROOT, call, environment
from scripts.site.foreign import foreign
from scripts.site.hooks import MERMAID

SITE: Final = ROOT / "build" / "site"
PACKAGE: Final = "mermaid@11.16.0"  # of the major version that the theme draws with
INSIDE: Final = "package/dist/mermaid.min.js"
DIGEST: Final = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
NPM_S: Final = 120


def diagrams() -> str:
    """Have the script that draws them; returns why it could not be had, "" when it is there."""
    if MERMAID.exists() and hashlib.sha256(MERMAID.read_bytes()).hexdigest() == DIGEST:
        return ""
    MERMAID.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fastgw-site-") as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=NPM_S)
            (packed,) = Path(folder).glob("*.tgz")
            with tarfile.open(packed) as archive:
                data = archive.extractfile(INSIDE)
                script = data.read() if data is not None else b""
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, tarfile.TarError) as error:
            return f"{PACKAGE} could not be had ({type(error).__name__})"
    if hashlib.sha256(script).hexdigest() != DIGEST:
        raise SystemExit(f"site: {PACKAGE} has other bytes than it should: nothing was built")
    MERMAID.write_bytes(script)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.site", description="See the head of scripts/site/__main__.py.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "docs", help="where the environment is")
    folder = parser.parse_args().folder.resolve()
    MERMAID.parent.mkdir(parents=True, exist_ok=True)
    python = environment(folder / "venv", "docs")
    if why := diagrams():
        print(f"note: {why}; diagrams are shown as they are written", file=sys.stderr)
    # (Not `--quiet`: what is not logged does not count, and --strict would find nothing.)
    call([str(python), "-m", "mkdocs", "build", "--strict"], ROOT, NO_MKDOCS_2_WARNING="1")
    if asked := foreign(SITE):
        print("\n".join(["site: these ask another host:", *asked]), file=sys.stderr)
        return 1
    print(f"{SITE.relative_to(ROOT)}: {len(list(SITE.rglob('*.html')))} pages; python3 -m http.server -d build/site shows it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
