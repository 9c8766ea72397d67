"""The image and the single file where everything is taken away: K8 (it serves, and is healthy), K5 (a bad file, under load).

Nobody, no capability, no new privileges, a read-only root, Docker's refused system calls, 64 descriptors, a tmpfs: by hand
(``confined.py``), so that no daemon is needed. The image's root is made by the steps of the Dockerfile's last stage, on a C
library and zlib. ``make binary-test``; ``make image`` builds the image itself.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import confined
from tests.deploy.frozen import NOBODY, ROOT, bare, children
from tests.deploy.islands import Load, ask, ended, engine, own_network, until

FILES, ROOM = 64, 16  # descriptors, and the clients that find room in them
SPACES = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")
PORT = 8080
REFUSED = "the configuration was not taken over, all is as it was"
READ = "the configuration was read again"
SETTINGS = 'allow_anonymous = false\nlog_level = "info"\n'
MISSING = [tool for tool in ("unshare", "nsenter", "mount", "ip") if shutil.which(tool) is None]
if ctypes.util.find_library("seccomp") is None:
    MISSING.append("libseccomp")

pytestmark = [
    pytest.mark.once,
    pytest.mark.packaging,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take everything away"),
]


def last_stage() -> dict[str, Any]:
    """What the Dockerfile says of the image: its copies, variables, user and commands."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    said = {word: re.findall(rf"^{word} +(.*)$", text, re.MULTILINE) for word in ("COPY", "ENV", "USER", "HEALTHCHECK")}
    commands = {word: json.loads(re.findall(rf"^{word} +(\[.*\])$", text, re.MULTILINE)[0]) for word in ("ENTRYPOINT", "CMD")}
    return {**said, **commands, "HEALTHY": json.loads(said["HEALTHCHECK"][0].partition(" CMD ")[2])}


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


class Confined:
    """One form of the program, where nothing else is."""

    def __init__(self, form: str, dist: Path, folder: Path) -> None:
        self.root, self.config, self.log_file = folder / "root", folder / "config", folder / "log"
        stage = last_stage()
        bare(self.root)
        for name in ("proc", "dev", "etc/fastgw", "var/lib/fastgw"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.config.mkdir()
        self.writes(SETTINGS)
        os.chmod(folder, 0o755)  # nobody has to go through it
        self.env = dict(word.split("=", 1) for word in stage["ENV"])
        if form == "image":
            assert stage["COPY"][0].split()[2:] == ["/dist/fastgw-dir", "/opt/fastgw"]
            shutil.copytree(dist / "fastgw-dir", self.root / "opt/fastgw", symlinks=True)
            self.command, self.healthy, tmp = [*stage["ENTRYPOINT"], *stage["CMD"]], stage["HEALTHY"], "noexec,size=1m"
        else:  # the file has to unpack itself
            shutil.copy(dist / "fastgw", self.root / "fastgw")
            self.command, self.healthy, tmp = ["/fastgw", "serve"], ["/fastgw", *stage["HEALTHY"][1:]], "exec,size=256m"
        self.user = int(stage["USER"][0].partition(":")[0])
        self.rules = {"user": self.user, "tmp": tmp, "config": str(self.config), "files": FILES}

    def _words(self, command: list[str], *how: str) -> list[str]:
        rules = json.dumps({**self.rules, "env": json.dumps(self.env)})
        return [sys.executable, confined.__file__, *how, rules, str(self.root), *command]

    @contextlib.contextmanager
    def serving(self, url: str) -> Iterator[None]:
        self.env |= {
            "VLLM_URL": url, "GATEWAY_API_KEYS": "key1", "FASTGW_CONFIG": "/etc/fastgw/fastgw.toml",
            "FASTGW_STATE_DIR": "/var/lib/fastgw", "FASTGW_LOG_FORMAT": "json",
        }  # fmt: skip
        with self.log_file.open("w") as log:
            outer = subprocess.Popen(["unshare", *SPACES, "--fork", "--kill-child", *self._words(self.command)], stderr=log)
        try:
            until(lambda: self.said("listening") or outer.poll() is not None, "it listens")
            assert outer.poll() is None, self.log_file.read_text()
            (self.pid,) = children(outer.pid)
            until(lambda: self.beside([*self.healthy[:-1], "--ready"]).returncode == 0, "its engine is well")
            yield
            os.kill(self.pid, signal.SIGTERM)
            assert outer.wait(30) == 0, self.log_file.read_text()
        finally:
            outer.kill()
            outer.wait()

    def beside(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """As ``docker exec`` runs it, and the health check."""
        words = ["nsenter", f"--target={self.pid}", *SPACES, *self._words(command, "--beside")]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    def said(self, message: str) -> list[dict[str, Any]]:
        whole = [line for line in self.log_file.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in map(json.loads, whole) if line["message"] == message]

    def writes(self, text: str) -> None:
        new = self.config / "new"
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.config / "fastgw.toml")

    def hup(self, message: str) -> dict[str, Any]:
        before = len(self.said(message))
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: len(self.said(message)) > before, message)
        return self.said(message)[-1]


@pytest.fixture(params=["image", "file"])
def one(request: pytest.FixtureRequest, dist: Path, tmp_path: Path) -> Iterator[Confined]:
    found = Confined(request.param, dist, tmp_path)
    with engine(dist / "fastgw-dir/fastgw") as url, found.serving(url):
        yield found


def test_k8_it_serves_where_everything_is_taken_away(one: Confined) -> None:
    status = Path(f"/proc/{one.pid}/status").read_text()
    for line in (f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}", "Groups:\t ", "NoNewPrivs:\t1", "Seccomp:\t2",
                 "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000"):  # fmt: skip
        assert f"\n{line}\n" in status
    assert f"Max open files            {FILES} " in Path(f"/proc/{one.pid}/limits").read_text()
    healthy = one.beside(one.healthy)
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    # As many clients as the log has said find room, all of them with a stream; one more is told, and nobody hears of it.
    (told,) = one.said("the limit of open files is too low for max_connections")
    assert (told["open_files"], told["connections"]) == (FILES, ROOM)
    assert "LimitNOFILE" in told["hint"]
    clients = [ask(PORT, 100) for _ in range(ROOM)]
    with contextlib.closing(ask(PORT)) as late:
        answer = late.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "too_many_connections")
    assert [ended(client) for client in clients] == [(200, True)] * ROOM
    assert one.said("too few open files") == []
    # What it keeps is where it may be kept, and nothing can be written where the program lies.
    inside = Path(f"/proc/{one.pid}/root")
    assert (inside / "var/lib/fastgw/fastgw.db").stat().st_uid == NOBODY
    assert os.statvfs(inside).f_flag & os.ST_RDONLY
    assert os.statvfs(inside / "etc/fastgw").f_flag & os.ST_RDONLY


def test_k5_a_bad_file_under_load_changes_nothing(one: Confined) -> None:
    with Load(PORT) as load:
        load.goes_on()
        for bad, where in (("log_level = 7\n", "log_level"), ("half = [\n", "fastgw.toml"), ('no_such = "x"\n', "no_such")):
            one.writes(bad)
            assert where in json.dumps(one.hup(REFUSED))
            healthy = one.beside(one.healthy)
            assert healthy.returncode == 0, healthy.stderr
            load.goes_on()
        one.writes(SETTINGS + "queue_size = 7\n")
        assert "queue_size" in json.dumps(one.hup(READ))
        load.goes_on()
    assert set(load.answers) == {(200, True)}
