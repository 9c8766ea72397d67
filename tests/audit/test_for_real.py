"""The audit's tools themselves: pip over a folder of wheels, pip-audit against an OSV endpoint made here; a container's steps.

Runs with ``-m soak tests/audit``, after ``make audit`` has installed its tools. The last test needs the package registry.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.audit import rules
from scripts.audit.fetch import fetch
from scripts.audit.lockfile import FOLDER, Pin
from scripts.audit.project import ROOT, Target, in_wheels
from scripts.audit.vulnerabilities import check
from tests.audit.made_up import HASH, wheel

pytestmark = pytest.mark.soak

TARGET = Target("3.12", "aarch64")
SETS = {"shipped": {"h2": "4.4.1", "h11": "0.16.0"}, "worked with": {"pytest": "9.0"}}


def test_pip_takes_the_right_bytes_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, over a folder of wheels: no network."""
    index = tmp_path / "index"
    index.mkdir()
    right = wheel(index, "fastgw_made_up", "1.0", "License-Expression: MIT", "Requires-Dist: other>=1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    pin = Pin("fastgw-made-up", "1.0", "python_version < '3.13'", frozenset({right}))
    assert fetch(TARGET, [pin], tmp_path / "good") == (TARGET, "", "")
    (made,) = in_wheels(tmp_path / "good").values()
    assert (made.name, made.version, made.licence_expression, made.requires) == ("fastgw-made-up", "1.0", "MIT", ("other>=1",))

    _, failed, unreached = fetch(TARGET, [pin._replace(hashes=frozenset({HASH}))], tmp_path / "bad")
    assert failed == "what is downloaded has another hash than the lock: fastgw-made-up==1.0"
    assert unreached == ""
    assert not list((tmp_path / "bad").glob("*.whl"))


def test_pip_without_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    _, failed, unreached = fetch(TARGET, [Pin("fastgw-made-up", "1.0", "", frozenset({HASH}))], tmp_path / "none")
    assert failed == ""
    assert unreached == "No matching distribution found for fastgw-made-up==1.0"


@contextmanager
def osv(vulnerable: Mapping[str, str]) -> Iterator[str]:
    """An OSV endpoint that knows these versions as vulnerable; its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            known = [advisory(name)] if vulnerable.get(name) == asked["version"] else []
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, name="osv")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def advisory(name: str) -> dict[str, object]:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]
    affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
    return {
        "id": f"PYSEC-{name}",
        "modified": "2026-01-01T00:00:00Z",
        "published": "2026-01-01T00:00:00Z",
        "aliases": [f"CVE-{name}"],
        "summary": "made up",
        "affected": affected,
    }


CANARY = dict([rules.CANARY[:2]])


@pytest.mark.parametrize(
    ("vulnerable", "answered", "found"),
    [
        (CANARY, True, []),
        (CANARY | {"h2": "4.4.1"}, True, ["h2 4.4.1: PYSEC-h2, CVE-h2 (fixed in 99.0)"]),
        (CANARY | {"pytest": "9.0"}, True, ["pytest 9.0: PYSEC-pytest, CVE-pytest (fixed in 99.0)"]),
        ({"h2": "4.4.1"}, False, []),
        ({}, False, []),
    ],
)
def test_pip_audit(vulnerable: Mapping[str, str], answered: bool, found: list[str]) -> None:
    with osv(vulnerable) as url:
        checked = check(SETS, url)
    assert (checked.source == url) is answered, checked.obstacles
    assert [str(one) for answer in checked.answers.values() for one in answer.found] == found
    assert not any(answer.silent for answer in checked.answers.values())


@pytest.mark.timeout(600)
def test_what_a_container_does(tmp_path: Path) -> None:
    """The README's steps, in a fresh environment: every file held to its hash, fastgw built from what is locked."""
    tree = tmp_path / "tree"
    for name in ("fastgw", "native"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tree)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=100)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    locks = [word for name in ("extras", "build") for word in ("-r", str(FOLDER / f"{name}.lock"))]
    subprocess.run([*pip, "--require-hashes", *locks], check=True, timeout=300)
    environment = {"PATH": "/usr/bin:/bin", "FASTGW_BUILD_NATIVE": "0"}
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(tree)], check=True, timeout=100, env=environment)
    told = subprocess.run([str(python), "-m", "fastgw", "version"], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("fastgw ")
    subprocess.run([str(python), "-m", "pip", "check"], check=True, timeout=100)
