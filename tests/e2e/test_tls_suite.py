"""The end-to-end suite through the other wire: whole files of it, run once more with TLS between the client and the gateway.

``FASTGW_TESTED_TLS=1`` runs any of them so (``tests/support/tls_client.py``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("test_cases_a_framing", "test_endpoints_realtime", "test_late_bytes", "test_held_back")


@pytest.mark.once
def test_what_holds_without_tls_holds_with_it() -> None:
    if os.environ.get("FASTGW_TESTED_TLS") == "1":
        pytest.skip("this is that run")
    argv = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not quiet and not once"]
    files = [f"tests/e2e/{name}.py" for name in FILES]
    env = {**os.environ, "FASTGW_TESTED_TLS": "1", "TESTED_PART": ""}
    done = subprocess.run([*argv, *files], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
