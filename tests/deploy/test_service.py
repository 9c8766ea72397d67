"""The unit for systemd: it is well-formed, as closed as it says, and leaves the gateway all that it needs."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import REPO, environment

UNIT = REPO / "deploy/systemd/fastgw.service"
# Of 100: 12 with systemd 252. What is left is the network, which is what it is for.
EXPOSED_AT_MOST = 13

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed"),
]


def setting(name: str) -> list[str]:
    """What the unit says of one thing, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def analyse(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/fastgw/fastgw ", f"{sys.executable} -m fastgw "))
    done = analyse("verify", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_as_closed_as_it_was() -> None:
    done = analyse("security", "--offline=true", f"--threshold={EXPOSED_AT_MOST}", UNIT)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "MemoryDenyWriteExecute=yes",
                 "KillMode=control-group"):  # fmt: skip
        assert f"\n{said}\n" in UNIT.read_text()


def test_what_it_starts_is_what_fastgw_can(tmp_path: Path) -> None:
    settings = tmp_path / "fastgw.toml"
    shutil.copy(REPO / "examples/fastgw.toml", settings)
    (checked,), (started,) = setting("ExecStartPre"), setting("ExecStart")
    assert started == checked.replace(" check ", " serve ")
    words = checked.replace("/etc/fastgw", str(tmp_path)).split()[1:]
    command = [sys.executable, "-m", "fastgw", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def allowed() -> set[str]:
    """The system calls that the unit's filter lets through, as this systemd knows its groups."""
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in analyse("syscall-filter", "--no-pager").stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            members = groups[word] = []
        elif word and not word.startswith("#"):
            members.append(word)

    def every(name: str) -> set[str]:
        return set().union(*map(every, groups[name])) if name.startswith("@") else {name}

    wanted, refused = setting("SystemCallFilter")
    assert not wanted.startswith("~")
    assert refused.startswith("~")
    through = set().union(*map(every, wanted.split()))
    return (through - set().union(*map(every, refused[1:].split()))) | every("@default")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_gateway_gets_by_with_what_it_is_let(tmp_path: Path) -> None:
    """A start with a store, one stream, a drain: no call that the filter refuses, no memory both writable and executable,
    no socket of another family than the unit names."""
    trace = tmp_path / "trace"
    strace = ["strace", "--follow-forks", "--quiet=all", f"--output={trace}", sys.executable, "-m", "fastgw"]
    done = subprocess.run([*strace, "self-test"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                          timeout=100, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = trace.read_text()
    flags = ("--port", "0", "--engine", "http://127.0.0.1:1", "--state-dir", str(tmp_path / "state"), "--log-format", "json")
    command = [*strace, "serve", *flags]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        pid = next(int(found[1]) for line in run.stderr if (found := re.search(r'"listening".*"pid":\s*"?(\d+)', line)))
        subprocess.run(["kill", f"-{signal.SIGTERM}", str(pid)], check=True)
        run.communicate(timeout=60)
    assert run.returncode == 0
    said += trace.read_text()
    called = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)[( ]", said, re.MULTILINE))
    assert {"epoll_wait", "accept4", "fdatasync"} & called, "the trace was not read"
    # As root SQLite gives its files to the folder's owner; the unit's user is not root.
    assert called - allowed() - {"fchown", "resumed"} == set()
    assert re.findall(r"^.*PROT_WRITE\|PROT_EXEC.*$", said, re.MULTILINE) == []
    families = set(re.findall(r"\bsocket\((AF_\w+)", said)) - {"AF_NETLINK"}  # the resolver's, which does without
    assert families <= set(setting("RestrictAddressFamilies")[0].split())
