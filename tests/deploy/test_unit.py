"""The unit under systemd itself, in namespaces of its own: K8 (closed, it serves), K5 (a bad file), the end of an upgrade.

systemd is the first process of a machine that is this one's files, under a layer that is thrown away; the program is the folder
of ``make binary``. What ``systemd-analyze`` says of the unit: ``test_service.py``. ``make binary-test``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.frozen import ROOT, children
from tests.deploy.islands import Load, ask, ended, engine, own_network, until

INIT = Path("/lib/systemd/systemd")
PORT = 8080
SETTINGS = """host = "127.0.0.1"
log_format = "json"
state_dir = "/var/lib/fastgw"
[[engines]]
url = "{url}"
kind = "openai"
"""
BOOT = """set -e
mount -t tmpfs none "$0"; mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"; cd "$0/root"
mount -t proc proc proc; mount -t tmpfs none run; mount -t tmpfs none tmp
mount -t sysfs -o ro sysfs sys; mount -t cgroup2 none sys/fs/cgroup; mount --rbind /dev dev
mkdir -p opt/fastgw etc/fastgw; cp -r "$1/." opt/fastgw; cp "$2" etc/systemd/system
printf '[Unit]\\nRequires=systemd-journald.service\\n' > etc/systemd/system/alone.target
printf 'GATEWAY_API_KEYS=key1\\n' > etc/fastgw/environment; printf '%s' "$3" > etc/fastgw/fastgw.toml
mkdir old; pivot_root . old; umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=alone.target --show-status=no
"""
SPACES = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")
MISSING = [tool for tool in ("unshare", "nsenter", "systemctl", "pivot_root", "ip") if shutil.which(tool) is None]
if not INIT.exists():
    MISSING.append("systemd")

pytestmark = [
    pytest.mark.once,
    pytest.mark.packaging,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a machine's first process"),
    pytest.mark.skipif("\tcgroup2\n" not in Path("/proc/filesystems").read_text(), reason="the kernel has no cgroup2"),
]


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


class Machine:
    """One whose first process is systemd, and where the unit is."""

    def __init__(self, pid: int, settings: str) -> None:
        self.pid = pid
        self.settings = settings

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        words = ["nsenter", f"--target={self.pid}", *SPACES, *command]
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=90, check=False)

    def control(self, *words: str) -> int:
        return self.run("systemctl", *words).returncode

    def shown(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", "fastgw").stdout.strip()

    def writes(self, text: str) -> None:
        half = "/etc/fastgw/new"
        assert self.run("sh", "-c", f"cat > {half} && mv {half} /etc/fastgw/fastgw.toml", text=text).returncode == 0

    def journal(self) -> str:
        return self.run("journalctl", "--unit=fastgw", "--output=cat", "--no-pager").stdout

    def kills(self, number: signal.Signals) -> None:
        assert self.run("kill", f"-{int(number)}", self.shown("MainPID")).returncode == 0

    def upgrades(self) -> None:
        before = self.shown("MainPID")
        self.kills(signal.SIGUSR2)
        until(lambda: self.shown("MainPID") not in (before, "0") and "listening" in self.shown("StatusText"), "an upgrade")


@pytest.fixture
def machine(dist: Path, tmp_path: Path) -> Iterator[Machine]:
    """With the service started, and its engine."""
    with engine(dist / "fastgw-dir/fastgw") as url:
        settings = SETTINGS.format(url=url)
        unit = ROOT / "deploy/systemd/fastgw.service"
        words = ["sh", "-c", BOOT, str(tmp_path), str(dist / "fastgw-dir"), str(unit), settings]
        with subprocess.Popen(["unshare", *SPACES, "--fork", "--kill-child", *words], stderr=subprocess.DEVNULL) as outer:
            try:
                until(lambda: children(outer.pid), "a first process")
                made = Machine(children(outer.pid)[0], settings)
                until(lambda: made.control("is-active", "systemd-journald") == 0, "systemd")
                assert made.control("start", "fastgw") == 0, made.journal()
                yield made
            finally:
                outer.kill()


def test_k8_the_unit_serves_as_closed_as_it_says(machine: Machine) -> None:
    status = machine.run("cat", f"/proc/{machine.shown('MainPID')}/status").stdout
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"):
        assert f"\n{line}\n" in status
    assert "\nUid:\t0\t" not in status
    assert ended(ask(PORT)) == (200, True)
    assert "fastgw.db" in machine.run("ls", "/var/lib/private/fastgw").stdout
    assert machine.control("stop", "fastgw") == 0
    assert machine.shown("Result") == "success"


def test_k5_a_bad_file_under_load_changes_nothing(machine: Machine) -> None:
    """By `systemctl reload`, which says so itself, and by a signal."""
    with Load(PORT) as load:
        load.goes_on()
        machine.writes(f"port = 'x'\n{machine.settings}")
        assert machine.control("reload", "fastgw") != 0
        load.goes_on()
        machine.kills(signal.SIGHUP)
        until(lambda: "not taken over" in machine.shown("StatusText"), "the status says so")
        until(lambda: '"the configuration was not taken over, all is as it was"' in machine.journal(), "the log says so")
        load.goes_on()
        machine.writes(f"queue_size = 7\n{machine.settings}")
        assert machine.control("reload", "fastgw") == 0
        until(lambda: "queue_size" in machine.journal(), "a good one is read")
        load.goes_on()
    assert set(load.answers) == {(200, True)}


def test_a_stop_after_an_upgrade_is_a_drain_of_both(machine: Machine) -> None:
    old = ask(PORT, 150)
    until(lambda: old.sock is not None, "it is sent")
    answer = old.getresponse()
    answer.readline()
    machine.upgrades()
    new = ask(PORT, 100)
    whole = new.getresponse()
    whole.readline()
    assert machine.control("stop", "fastgw") == 0
    for one in (answer, whole):
        assert one.read().endswith(b"data: [DONE]\n\n")
        one.close()
    old.close()
    new.close()
    assert machine.shown("Result") == "success", machine.journal()
