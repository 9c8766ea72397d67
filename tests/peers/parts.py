"""Real programs as the other side of a test: how each is found, set up, started, known to be ready, and ended.

    with sim() as engine, haproxy(front="h2", engine=engine.port, engine_h2=True) as peer:
        with dial(peer.port, Client()) as client: ...

Owns: one function for each program, all of one shape: a context manager that gives a :class:`Running`. Nothing outlives its
``with``: a program is ended with SIGTERM, its whole session with SIGKILL; should the test itself be killed, ``timeout`` ends
it after :data:`LIFE_S`. None listens beyond loopback.

What is not installed is skipped: :func:`needs` is the mark, with its reason.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pytest

ROOT: Final = Path(__file__).parents[2]
LIFE_S: Final = 120
READY_S: Final = 15.0
_GRACE_S: Final = 2.0

Face = Literal["h1", "h2"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of one that ``openssl`` has made, and its own authority. ``both``: certificate and key in one, as haproxy wants."""

    cert: Path
    key: Path
    both: Path


@dataclass(slots=True)
class Running:
    """``tls``: whether its port speaks TLS."""

    name: str
    port: int
    child: subprocess.Popen[bytes]
    log: Path
    tls: bool = False
    folder: Path = field(default_factory=Path)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, how: int = signal.SIGTERM) -> int | None:
        """Ask it to end, and wait; the exit code, None when it does not within the grace."""
        self.child.send_signal(how)
        try:
            return self.child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return None


# --- what is there
def find(program: str) -> str | None:
    """Servers live in sbin, which is often not on a user's PATH; what PyPI has, beside this interpreter."""
    beside = Path(sys.executable).with_name(program)
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin") or (
        str(beside) if beside.exists() else None
    )  # fmt: skip


_MODULES: Final = {"hypercorn", "granian"}


def missing(*programs: str) -> list[str]:
    return [one for one in programs if (importlib.util.find_spec(one) is None if one in _MODULES else find(one) is None)]


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of them is not installed, and say which."""
    return pytest.mark.skipif(bool(missing(*programs)), reason=f"not installed: {', '.join(missing(*programs))}")


def each(*names: str) -> list[object]:
    """Names of programs as parameters, each with its mark: ``parametrize("name", each("nginx", "nghttpd"))``."""
    return [pytest.param(name, marks=needs(name)) for name in names]


# --- starting and ending
def free_port() -> int:
    """A port that nothing listened on a moment ago: configurations cannot say 'any'."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(
    name: str, port: int, argv: Callable[[Path], Sequence[str]], tls: bool = False, cwd: Path | None = None
) -> Iterator[Running]:
    """``argv`` is told a folder of the program's own, writes what it needs into it, and says what to start."""
    with tempfile.TemporaryDirectory(prefix=f"peer-{name}-") as place:
        folder = Path(place)
        folder.chmod(0o755)  # as root, nginx hands its workers to another user
        log = folder / "output"
        words = ["timeout", "--kill-after=1", str(LIFE_S), *argv(folder)]
        with open(log, "wb") as out:
            child = subprocess.Popen(
                words, cwd=cwd or folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        running = Running(name, port, child, log, tls, folder)
        try:
            _wait(running)
            yield running
        finally:
            if child.poll() is None:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_GRACE_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # the session is its own, and outlives a leader that left workers
            child.wait()


def _wait(running: Running) -> None:
    end = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", running.port), timeout=1).close()
            return
        except OSError:
            assert running.child.poll() is None, f"{running.name} ended: {running.said()}"
            assert time.monotonic() < end, f"{running.name} does not listen: {running.said()}"
            time.sleep(0.01)


def _found(program: str) -> str:
    path = find(program)
    assert path is not None, f"{program} is not installed: mark the test with needs()"
    return path


@contextlib.contextmanager
def certificate(*names: str, days: int = 2) -> Iterator[Certificate]:
    """For those names (the first is its subject) and 127.0.0.1, by ``openssl``."""
    with tempfile.TemporaryDirectory(prefix="peer-cert-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        cert, key, both = (folder / name for name in ("cert.pem", "key.pem", "both.pem"))
        alternatives = ",".join([*(f"DNS:{name}" for name in names), "IP:127.0.0.1"])
        subprocess.run(
            [
                *(_found("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}", "-days", str(days)),
                *("-keyout", str(key), "-out", str(cert)),
            ],
            check=True, capture_output=True, timeout=20,
        )  # fmt: skip
        key.chmod(0o644)
        both.write_bytes(cert.read_bytes() + key.read_bytes())
        yield Certificate(cert, key, both)


# --- engines
@contextlib.contextmanager
def sim(*arguments: str, h2: bool = True) -> Iterator[Running]:
    """The simulator as a process of its own."""
    port = free_port()
    words = [sys.executable, "-m", "fastgw", "sim", "--port", str(port), "--debug", *(["--h2"] if h2 else []), *arguments]
    with _running("sim", port, lambda folder: words, cwd=ROOT) as running:
        yield running


@contextlib.contextmanager
def nghttpd(*arguments: str, tls: Certificate | None = None, echo: bool = False) -> Iterator[Running]:
    """nghttp2's server of files: ``/hello`` has five bytes, ``/large`` a million. ``echo``: a body comes back."""

    def argv(folder: Path) -> list[str]:
        (folder / "files").mkdir()
        (folder / "files" / "hello").write_bytes(b"hello")
        (folder / "files" / "large").write_bytes(b"x" * 1_000_000)
        own = [*(["--echo-upload"] if echo else []), *arguments]
        face = [str(port), str(tls.key), str(tls.cert)] if tls else ["--no-tls", str(port)]
        return [_found("nghttpd"), "-a", "127.0.0.1", "-d", str(folder / "files"), *own, *face]

    port = free_port()
    with _running("nghttpd", port, argv, tls is not None) as running:
        yield running


@contextlib.contextmanager
def _asgi(name: str, words: Callable[[int], list[str]], tls: Certificate | None) -> Iterator[Running]:
    port = free_port()
    with _running(name, port, lambda folder: words(port), tls is not None, cwd=ROOT) as running:
        yield running


def hypercorn(*arguments: str, tls: Certificate | None = None) -> contextlib.AbstractContextManager[Running]:
    """It speaks HTTP/1.1 and, to a preface or by ALPN, HTTP/2. ``app.py`` says what it answers."""
    own = ["--certfile", str(tls.cert), "--keyfile", str(tls.key)] if tls else []
    program = [sys.executable, "-m", "hypercorn", "--log-level", "error", "--graceful-timeout", "0", *own, *arguments]
    return _asgi("hypercorn", lambda port: [*program, "-b", f"127.0.0.1:{port}", "tests.peers.app:app"], tls)


def granian(*arguments: str, tls: Certificate | None = None) -> contextlib.AbstractContextManager[Running]:
    """HTTP/2 and nothing else, with prior knowledge or by ALPN."""
    own = ["--ssl-certificate", str(tls.cert), "--ssl-keyfile", str(tls.key)] if tls else []
    program = [_found("granian"), "--interface", "asgi", "--http", "2", "--no-ws", "--workers", "1", "--log-level", "error"]
    return _asgi(
        "granian",
        lambda port: [*program, *own, *arguments, "--host", "127.0.0.1", "--port", str(port), "tests.peers.app:app"],
        tls,
    )


# --- proxies
@contextlib.contextmanager
def nghttpx(engine: int, *arguments: str, engine_h2: bool = False, tls: Certificate | None = None) -> Iterator[Running]:
    """In front of ``engine``: HTTP/1.1 and HTTP/2 with prior knowledge on one port, or both by ALPN."""

    def argv(folder: Path) -> list[str]:
        front = f"-f127.0.0.1,{port}" + ("" if tls else ";no-tls")
        back = f"-b127.0.0.1,{engine};;" + ("proto=h2" if engine_h2 else "proto=http/1.1")
        files = [str(tls.key), str(tls.cert)] if tls else []
        config = folder / "nghttpx.conf"
        config.write_text("")
        own = ["--workers=1", "--no-ocsp", "--log-level=ERROR", f"--conf={config}", "--accesslog-file=/dev/null"]
        return [_found("nghttpx"), *own, *arguments, front, back, *files]

    port = free_port()
    with _running("nghttpx", port, argv, tls is not None) as running:
        yield running


@contextlib.contextmanager
def nginx(engine: int = 0, *lines: str, face: Face = "h2", tls: Certificate | None = None) -> Iterator[Running]:
    """In front of ``engine`` over HTTP/1.1, unbuffered; without one it answers ``/hello`` itself. ``lines``: of its server."""

    def argv(folder: Path) -> list[str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        secure = f"    ssl_certificate {tls.cert};\n    ssl_certificate_key {tls.key};\n" if tls else ""
        listen = f"listen 127.0.0.1:{port}{' ssl' if tls else ''}{' http2' if face == 'h2' else ''};"
        kept = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
        passed = f"proxy_pass http://127.0.0.1:{engine}; {kept}" if engine else "return 200 hello;"
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr error;\nevents {{ }}\nhttp {{\n"
            f"  access_log off;\n{temporary}  server {{\n    {listen}\n{secure}"
            + "".join(f"    {line}\n" for line in lines) + f"    location / {{ {passed} }}\n  }}\n}}\n"
        )  # fmt: skip
        return [_found("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(config)]

    port = free_port()
    with _running("nginx", port, argv, tls is not None) as running:
        yield running


@contextlib.contextmanager
def haproxy(
    engine: int = 0, *lines: str, face: Face = "h2", engine_h2: bool = False, tls: Certificate | None = None
) -> Iterator[Running]:
    """In front of ``engine`` over either protocol; without one it answers itself. ``face`` h2: only that, but by ALPN both."""

    def argv(folder: Path) -> list[str]:
        bind = f"bind 127.0.0.1:{port} " + (
            f"ssl crt {tls.both} alpn {'h2,http/1.1' if face == 'h2' else 'http/1.1'}"
            if tls
            else "proto h2"
            if face == "h2"
            else ""
        )
        server = f"server engine 127.0.0.1:{engine}{' proto h2' if engine_h2 else ''}"
        answer = "http-request return status 200 content-type text/plain string hello"
        config = folder / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"frontend front\n  {bind}\n" + "".join(f"  {line}\n" for line in lines)
            + (f"  default_backend engine\nbackend engine\n  {server}\n" if engine else f"  {answer}\n")
        )  # fmt: skip
        return [_found("haproxy"), "-db", "-q", "-f", str(config)]

    port = free_port()
    with _running("haproxy", port, argv, tls is not None) as running:
        yield running


# --- clients
def run(*words: str | Path, within_s: float = 20.0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A client program to its end; the first word is its name."""
    argv = [_found(str(words[0])), *map(str, words[1:])]
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=within_s, check=False)


def curl(url: str, *words: str | Path, h2: bool = True, ca: Certificate | None = None) -> subprocess.CompletedProcess[bytes]:
    """Over HTTP/2: with prior knowledge, or by ALPN where the URL is https."""
    version = ("--http2" if url.startswith("https:") else "--http2-prior-knowledge") if h2 else "--http1.1"
    trusted = ["--cacert", ca.cert] if ca else []
    return run("curl", "-sS", "--max-time", "15", version, *trusted, *words, url)


def h2load(url: str, requests: int, *words: str | Path, clients: int = 1, streams: int = 10) -> str:
    """Its report, once every request has been answered with 2xx."""
    done = run("h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams), *words, url, within_s=60)
    report = done.stdout.decode(errors="replace")
    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in report, report + done.stderr.decode(errors="replace")
    return report
