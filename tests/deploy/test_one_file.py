"""What the single file runs before its own code: it tells a file from a folder, wherever either of them lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.frozen import ROOT

pytestmark = pytest.mark.once
HOOK = ROOT / "native/pyinstaller/one_file.py"
# As PyInstaller's loader has set it up when the hook runs.
FROZEN = """
import os, runpy, sys
sys.executable, sys._MEIPASS, hook = sys.argv[1:]
runpy.run_path(hook)
print("bound" if os.getpgid(0) == os.getpid() else "free")
"""


@pytest.mark.parametrize(
    ("program", "unpacked", "how"),
    [
        ("{0}/bin/fastgw", "{0}/tmp/_MEI0000265abTKU8p", "bound"),
        ("{0}/tmp/fastgw", "{0}/tmp/_MEI0000265abTKU8p", "bound"),
        ("{0}/fastgw-dir/fastgw", "{0}/fastgw-dir/lib", "free"),
        ("{0}/link", "{0}/fastgw-dir/lib", "free"),
    ],
    ids=["a file", "a file in its own TMPDIR", "a folder", "a folder, by a link"],
)
def test_it_tells_a_file_from_a_folder(program: str, unpacked: str, how: str, tmp_path: Path) -> None:
    kept = Path(unpacked.format(tmp_path))
    kept.mkdir(parents=True)
    command = [sys.executable, "-c", FROZEN, program.format(tmp_path), str(kept), str(HOOK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{how}\n"), done.stderr
    assert kept.exists()
