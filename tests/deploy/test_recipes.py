"""What the image, the wheels and the page about them say, without building any: ``make image`` and ``make binary-test`` do."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scripts.audit import rules
from scripts.binary.__main__ import LOCKS, SOURCES
from tests.cli.test_cli import run
from tests.deploy.frozen import ROOT

pytestmark = pytest.mark.once

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = DOCKERFILE.split("\nFROM ")[1:]
PAGE = (ROOT / "docs/deploy.md").read_text()


def test_both_bases_are_arguments_and_name_no_registry() -> None:
    assert [stage.split()[0] for stage in STAGES] == ["${BUILD_IMAGE}", "${BASE_IMAGE}"]
    assert not re.search(r"^ARG \w+_IMAGE=[^:\n]*/", DOCKERFILE, re.MULTILINE)


def test_the_last_stage_needs_no_shell_and_no_root() -> None:
    last = STAGES[-1]
    assert not re.search(r"^(RUN|VOLUME|ADD)\b", last, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    for word in ("ENTRYPOINT", "CMD", "HEALTHCHECK .* CMD"):
        found = re.findall(rf"^{word} (.*)$", last, re.MULTILINE)
        assert [type(json.loads(words)) for words in found] == [list], word


def test_its_health_check_is_what_fastgw_can(tmp_path: Path) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", DOCKERFILE, re.MULTILINE)
    program, *argv = json.loads(check)
    assert program == "/opt/fastgw/fastgw"
    done = run(tmp_path, *argv, FASTGW_HOST="0.0.0.0", FASTGW_PORT="1", VLLM_URL="http://127.0.0.1:9", GATEWAY_API_KEYS="k")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastgw check: http://0.0.0.0:1/liveness: Connection refused\n"


def test_what_the_build_reads_is_sent_to_it() -> None:
    rows = [row for row in (ROOT / ".dockerignore").read_text().splitlines() if row and not row.startswith("#")]
    sent = {row[1:] for row in rows if row.startswith("!")}
    assert rows[0] == "*"
    assert sent == {*SOURCES, "scripts", "requirements", "LICENSE"}
    assert any(fnmatch("fastgw/net/wire.cpython-311-x86_64-linux-gnu.so", row) for row in rows[1:])


def test_wheels_are_made_for_what_is_locked() -> None:
    wheels = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert wheels["build"] == [f"cp{python.replace('.', '')}-*" for python in rules.PYTHONS]
    assert wheels["environment"] == {"FASTGW_BUILD_NATIVE": "1"}
    for command in wheels["test-command"].split(" && "):
        program, *argv = command.split()
        assert program == "fastgw"
        assert run(ROOT, *argv).returncode == 0


def test_what_is_locked_is_what_the_program_is_made_of() -> None:
    for name in LOCKS:
        assert f"requirements/{name}.lock" in PAGE


@pytest.mark.parametrize("target", ["binary", "binary-test", "image"])
def test_make_says_what_it_would_do(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    for path in re.findall(r"tests/\S+\.py", done.stdout):
        assert (ROOT / path).exists()
