"""The image, built for real by buildah on bases made here, and run as an OCI runtime runs it: one stream, one drain.

``make image``: minutes, root, and a Debian mirror (``DEBIAN_MIRROR``). The base that it is built in is made by debootstrap and
kept in ``build/image``; the base that it runs on is a C library and zlib, which shows that no shell is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.frozen import NOBODY, ROOT, bare

FOLDER = ROOT / "build/image"
MIRROR = os.environ.get("DEBIAN_MIRROR", "")
INSIDE = "python3,python3-dev,python3-venv,gcc,libc6-dev,binutils,ca-certificates"
TOOLS = ("buildah", "debootstrap", "crun", "unshare")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.once,
    pytest.mark.packaging,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def buildah(*words: str | Path) -> str:
    command = ["buildah", "--root", FOLDER / "store", "--runroot", FOLDER / "run", *words]
    env = {**os.environ, "STORAGE_DRIVER": "vfs"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


def imported(tree: Path, name: str) -> str:
    """An image of a folder."""
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, tree, "/")
    buildah("commit", "--quiet", "--rm", container, name)
    return name


def compiling() -> str:
    """Debian as this machine has it, with Python and a compiler; made once."""
    name = "localhost/fastgw-test-build"
    if name in buildah("images", "--format", "{{.Name}}").split():
        return name
    tree = FOLDER / "base"
    if not (tree / "usr/bin/gcc").exists():
        shutil.rmtree(tree, ignore_errors=True)
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        command = ["debootstrap", "--variant=minbase", f"--include={INSIDE}", suite, str(tree), *([MIRROR] if MIRROR else [])]
        subprocess.run(command, check=True, capture_output=True)
    certificates = "/etc/ssl/certs/ca-certificates.crt"  # of this machine: it may trust one more
    shutil.copy(certificates, tree / certificates[1:])
    (tree / "etc/pip.conf").write_text(f"[global]\ncert = {certificates}\n")
    return imported(tree, name)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    FOLDER.mkdir(parents=True, exist_ok=True)
    tree = tmp_path_factory.mktemp("running") / "base"
    bare(tree)
    bases = {"BUILD_IMAGE": compiling(), "BASE_IMAGE": imported(tree, "localhost/fastgw-test-base")}
    arguments = [word for name, value in bases.items() for word in ("--build-arg", f"{name}={value}")]
    buildah("build", "--isolation", "chroot", "--network", "host", "--format", "docker", *arguments,
            "--build-arg", "REVISION=abc", "--tag", "localhost/fastgw-test", ".")  # fmt: skip
    return "localhost/fastgw-test"


@pytest.fixture(scope="session")
def config(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    return found


@pytest.fixture(scope="session")
def root(image: str) -> Iterator[Path]:
    container = buildah("from", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


class Container:
    """One that runs as ``docker run --read-only --cap-drop ALL`` would have it, with the host's network."""

    def __init__(self, folder: Path, root: Path, config: dict[str, Any], **env: str) -> None:
        self.name = f"fastgw-test-{os.getpid()}-{folder.name}"
        user = int(config["User"].partition(":")[0])
        bundle = {
            "ociVersion": "1.0.0",
            "root": {"path": str(root), "readonly": True},
            "process": {
                "args": [*config["Entrypoint"], *config["Cmd"]],
                "cwd": config["WorkingDir"],
                "env": [*config["Env"], *(f"{name}={value}" for name, value in env.items())],
                "user": {"uid": user, "gid": user},
                "capabilities": {},
                "noNewPrivileges": True,
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}]},
        }
        (folder / "config.json").write_text(json.dumps(bundle))
        # crun wants one hierarchy of control groups, where this machine may have the older ones.
        script = 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
        self.crun = ["unshare", "--mount", "sh", "-c", script, "sh", "crun", "--root", str(folder / "state")]
        run = [*self.crun, "run", "--bundle", str(folder), self.name]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(run, stdout=log, stderr=log)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.crun, "exec", self.name, *command], capture_output=True, text=True, check=False)

    def signal(self, number: signal.Signals) -> None:
        subprocess.run([*self.crun, "kill", self.name, str(int(number))], check=True)

    def state(self) -> dict[str, Any]:
        done = subprocess.run([*self.crun, "state", self.name], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextlib.contextmanager
def running(folder: Path, root: Path, config: dict[str, Any], **env: str) -> Iterator[Container]:
    container = Container(folder, root, config, **env)
    try:
        deadline = time.monotonic() + 30
        while '"listening"' not in container.log.read_text():
            assert container.process.poll() is None, container.log.read_text()
            assert time.monotonic() < deadline, container.log.read_text()
            time.sleep(0.05)
        yield container
    finally:
        subprocess.run([*container.crun, "delete", "--force", container.name], capture_output=True, check=False)
        container.process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_it_says_what_it_is(config: dict[str, Any], root: Path) -> None:
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "fastgw"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert config["User"] == f"{NOBODY}:{NOBODY}"
    assert config["StopSignal"] == "SIGTERM"
    inside = json.loads((root / "opt/fastgw/fastgw.cdx.json").read_text())
    assert inside["bomFormat"] == "CycloneDX"
    assert (root / "opt/fastgw/THIRD-PARTY.txt").stat().st_size > 100_000
    assert not any((root / shell).exists() for shell in ("bin/sh", "usr/bin/sh", "usr/bin/python3"))
    state = (root / "var/lib/fastgw").stat()
    assert (state.st_uid, state.st_mode & 0o022) == (NOBODY, 0)
    writable = [path for path in (root / "opt").rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert writable == []


def test_it_streams_and_drains(tmp_path: Path, config: dict[str, Any], root: Path) -> None:
    """As PID 1, as nobody, on a read-only root: healthy, one stream, SIGTERM in the middle of it, status 0."""
    port = free_port()
    engine = subprocess.Popen(
        [str(root / "opt/fastgw/fastgw"), "sim", "--port", "0", "--ready-json", "--ttft-ms", "10", "--itl-ms", "30"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert engine.stdout is not None
        url = json.loads(engine.stdout.readline())["listening"]
        settings = {"VLLM_URL": url, "FASTGW_PORT": str(port), "GATEWAY_API_KEYS": "key1", "FASTGW_LOG_FORMAT": "json"}
        with running(tmp_path, root, config, **settings) as container:
            pid = container.state()["pid"]
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nNSpid:\t" + f"{pid}\t1\n" in status
            assert f"\nUid:\t{NOBODY}\t" in status
            assert "\nCapEff:\t0000000000000000\n" in status
            test = config["Healthcheck"]["Test"]
            assert test[0] == "CMD"
            healthy = container.execute(*test[1:])
            assert healthy.returncode == 0, healthy.stdout + healthy.stderr
            answer = _stream(port, container)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert container.process.wait(30) == 0
            assert '"stopped"' in container.log.read_text()
    finally:
        engine.terminate()
        engine.wait()
        assert engine.stdout is not None
        engine.stdout.close()


def _stream(port: int, container: Container) -> bytes:
    question = json.dumps({"model": "sim", "stream": True, "max_tokens": 40, "messages": [{"role": "user", "content": "x"}]})
    head = f"Host: localhost\r\nAuthorization: Bearer key1\r\nContent-Type: application/json\r\nContent-Length: {len(question)}"
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        time.sleep(0.5)  # the engine's first probe
        client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n{question}".encode())
        answer = client.recv(65536)
        container.signal(signal.SIGTERM)
        while more := client.recv(65536):
            answer += more
    return answer


def test_it_refuses_to_be_open_to_all(tmp_path: Path, config: dict[str, Any], root: Path) -> None:
    container = Container(tmp_path, root, config, VLLM_URL="http://127.0.0.1:1", FASTGW_PORT=str(free_port()))
    assert container.process.wait(30) == 2
    assert "allow_anonymous" in container.log.read_text()
