"""``fastgw check --live`` and ``--ready``: what a container's health check, or a person, asks a gateway that runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import environment, run
from tests.support.pki import Certificates
from tests.support.ports import closed_port

ADMIN = "sk-admin-of-these-tests"
NOBODY = "http://127.0.0.1:1"


@contextlib.contextmanager
def serving(cwd: Path, *argv: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fastgw", "serve", "--log-format", "json", *argv]
    with subprocess.Popen(command, cwd=cwd, env=environment(**env), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while '"listening"' not in (line := process.stderr.readline()):
                assert line, "it ended before it listened"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost"])
def test_it_lives_and_is_not_ready_without_an_engine(host: str, tmp_path: Path) -> None:
    settings = ("--host", host, "--port", str(closed_port()), "--engine", NOBODY, "--api-keys", "sk-key")
    with serving(tmp_path, *settings):
        live = run(tmp_path, "check", "--live", *settings)
        assert (live.returncode, live.stderr) == (0, ""), live.stderr
        assert live.stdout.endswith("/liveness: 200\n")
        ready = run(tmp_path, "check", *settings, "--ready")
        assert ready.returncode == 1
        assert ready.stdout.endswith("/ready: 503\n")
    gone = run(tmp_path, "check", "--live", *settings)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith("fastgw check: http://")
    assert len(gone.stderr.splitlines()) == 1


def test_settings_say_where(tmp_path: Path) -> None:
    """From the environment and a file, as ``serve`` reads them; a Unix socket first, names of hosts allowed or not."""
    (tmp_path / "fastgw.toml").write_text(f'unix_socket = "{tmp_path}/door"\nallowed_hosts = ["gateway.example"]\n')
    env = {"FASTGW_CONFIG": "fastgw.toml", "VLLM_URL": NOBODY, "FASTGW_PORT": str(closed_port())}
    with serving(tmp_path, **env):
        done = run(tmp_path, "check", "--live", **env)
        assert (done.returncode, done.stdout) == (0, f"unix:{tmp_path}/door/liveness: 200\n")
        done = run(tmp_path, "check", "--live", "--unix-socket", "", **env)
        assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{env['FASTGW_PORT']}/liveness: 200\n")


def test_the_keys_need_not_be_told_again(tmp_path: Path) -> None:
    """A container says by its environment where it listens, and to its program by flags whom it lets in."""
    everywhere = {"FASTGW_HOST": "0.0.0.0", "FASTGW_PORT": str(closed_port())}
    with serving(tmp_path, "--engine", NOBODY, "--api-keys", "sk-key", **everywhere):
        assert run(tmp_path, "check", "--live", **everywhere).returncode == 0
    assert run(tmp_path, "check", **everywhere).returncode == 2


@pytest.mark.parametrize("wrong", ["log_level = 7\n", "no_such = 1\n", "half = [\n", '[[engines]]\nurl = "x"\n'])
def test_a_file_that_was_not_taken_over_makes_it_no_less_well(wrong: str, tmp_path: Path) -> None:
    """Whoever ends what is not healthy would end a gateway that serves, and start one that cannot."""
    env = {"FASTGW_CONFIG": "fastgw.toml", "VLLM_URL": NOBODY, "FASTGW_PORT": str(closed_port())}
    (tmp_path / "fastgw.toml").write_text("queue_size = 7\n")
    with serving(tmp_path, **env):
        (tmp_path / "fastgw.toml").write_text(wrong)
        assert run(tmp_path, "check", **env).returncode == 2
        done = run(tmp_path, "check", "--live", **env)
        assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{env['FASTGW_PORT']}/liveness: 200\n")
        assert ("mistake" in done.stderr) == (wrong.startswith("half"))


def test_a_gateway_that_is_full_lives(tmp_path: Path) -> None:
    port = closed_port()
    settings = ("--port", str(port), "--engine", NOBODY, "--max-connections", "1")
    with serving(tmp_path, *settings), socket.create_connection(("127.0.0.1", port)) as taken:
        taken.sendall(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taken.recv(4096).startswith(b"HTTP/1.1 ")
        done = run(tmp_path, "check", "--live", *settings)
        assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{port}/liveness: 503\n")


def test_a_gateway_that_hangs_does_not_live(tmp_path: Path) -> None:
    settings = ("--port", str(closed_port()), "--engine", NOBODY)
    with serving(tmp_path, *settings) as process:
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        done = run(tmp_path, "check", "--live", *settings)
        assert done.returncode == 1
        assert done.stderr.endswith("no answer within 2 s\n")
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 OK\r\n", 5000 * b"x"])
def test_something_else_is_there(answer: bytes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def once() -> None:
            with sock.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        done = run(tmp_path, "check", "--live", "--port", str(sock.getsockname()[1]), "--engine", NOBODY)
        thread.join()
    assert done.returncode == 1
    assert done.stderr.endswith("what answered does not speak HTTP\n")


def test_where_it_listens_must_be_known(tmp_path: Path) -> None:
    done = run(tmp_path, "check", "--live", "--port", "0", "--engine", NOBODY)
    assert (done.returncode, done.stdout) == (2, "")
    assert "with port 0 the system chooses" in done.stderr
    wrong = run(tmp_path, "check", "--live", "--port", "x")
    assert wrong.returncode == 2
    assert "mistake" in wrong.stderr


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract: bool, tmp_path: Path) -> None:
    """``READY`` once requests are taken, signs of life from then on, and how long a drain may last."""
    name = f"\0fastgw-manager-{os.getpid()}" if abstract else f"{tmp_path}/notify"
    port = closed_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(20)
        settings = ("--port", str(port), "--engine", NOBODY, "--drain-timeout-s", "7")
        told = {"NOTIFY_SOCKET": name.replace("\0", "@"), "WATCHDOG_USEC": "1000000"}
        with serving(tmp_path, *settings, **told) as process:
            assert manager.recv(4096) == f"READY=1\nSTATUS=listening on http://127.0.0.1:{port}".encode()
            assert run(tmp_path, "check", "--live", *settings).returncode == 0
            assert [manager.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2
            process.send_signal(signal.SIGTERM)
            while (said := manager.recv(4096)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1\nSTATUS=draining 0 requests\nEXTEND_TIMEOUT_USEC=22000000"
            assert process.wait(20) == 0


def test_one_that_speaks_tls(certs: Certificates, tmp_path: Path) -> None:
    port = closed_port()
    tls = ("--tls-cert-file", certs.gateway.cert, "--tls-key-file", certs.gateway.key)
    settings = ("--port", str(port), "--engine", NOBODY, *tls)
    with serving(tmp_path, *settings, "--max-connections", "1"):
        done = run(tmp_path, "check", "--live", *settings)
        assert (done.returncode, done.stdout) == (0, f"https://127.0.0.1:{port}/liveness: 200\n")
        assert run(tmp_path, "check", "--ready", *settings).returncode == 1
        with socket.create_connection(("127.0.0.1", port)):
            time.sleep(0.1)
            done = run(tmp_path, "check", "--live", *settings)
            assert (done.returncode, done.stdout) == (0, f"https://127.0.0.1:{port}/liveness: 503\n"), "full, and alive"
    asks = (*settings, "--tls-client-ca-file", certs.ca)
    with serving(tmp_path, *asks):
        assert run(tmp_path, "check", "--live", *asks).returncode == 0
    assert run(tmp_path, "check", "--live", *asks).returncode == 1
    with serving(tmp_path, *settings[:4]):
        done = run(tmp_path, "check", "--live", *asks)
        assert done.returncode == 1, "another program has the port"


def test_check_tries_certificates_and_shakes_hands_with_engines(certs: Certificates, tmp_path: Path) -> None:
    tls = ("--tls-cert-file", certs.gateway.cert, "--tls-key-file", certs.gateway.key)
    for more, who in (
        ((), "anyone who reaches it: no API key is set"),
        (("--tls-client-ca-file", certs.ca), "anyone who shows a certificate of tls_client_ca_file: no API key is set"),
        (("--tls-client-ca-file", certs.ca, "--tls-client-auth", "optional"), "anyone who reaches it: no API key is set"),
    ):
        done = run(tmp_path, "check", *tls, *more, "--engine", NOBODY)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"  open to     {who}\n" in done.stdout
    done = run(tmp_path, "check", "--tls-cert-file", certs.gateway.cert, "--tls-key-file", certs.other.key, "--engine", NOBODY)
    assert done.returncode == 1
    assert "the key does not belong to the certificate" in done.stderr
    with serving(tmp_path, "--port", str(port := closed_port()), "--engine", NOBODY, *tls):
        for more, code, says in (
            (("--engine-ca-file", certs.ca), 0, "in HTTP/2, its certificate is good"),
            ((), 1, "its certificate comes from a CA that is not trusted"),
            (("--no-engine-verify",), 0, "its certificate is not checked"),
        ):
            done = run(tmp_path, "check", "--engine", f"https://127.0.0.1:{port}", *more)
            assert done.returncode == code, done.stderr
            assert says in (done.stderr if code else done.stdout)
    done = run(tmp_path, "check", "--engine", f"https://127.0.0.1:{port}")
    assert (done.returncode, "no answer: Connection refused" in done.stdout) == (0, True)


def test_the_control_listener_of_a_process_of_its_own_speaks_tls(certs: Certificates, tmp_path: Path) -> None:
    """(A gateway's loop is imported without OpenSSL where nothing asks for it.)"""
    port, control = closed_port(), closed_port()
    tls = ("--tls-cert-file", certs.gateway.cert, "--tls-key-file", certs.gateway.key, "--control-tls")
    with serving(tmp_path, "--port", str(port), "--engine", NOBODY, *tls, "--control-listen", f"127.0.0.1:{control}",
                 "--admin-key", ADMIN):
        for at, path in ((control, b"/metrics"), (port, b"/healthz")):
            plain = socket.create_connection(("127.0.0.1", at), 5)
            with certs.trusting().wrap_socket(plain, server_hostname="localhost") as sock:
                sock.sendall(b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path)
                got = b""
                while more := sock.recv(65536):
                    got += more
                assert got.startswith(b"HTTP/1.1 200 ")
        # What has no end, and what comes after it on the same connection, is written as it comes.
        plain = socket.create_connection(("127.0.0.1", control), 5)
        ask = b"GET /admin/events?follow=%b HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\n\r\n"
        with certs.trusting().wrap_socket(plain, server_hostname="localhost") as sock:
            for follow, end in ((b"false", b"0\r\n\r\n"), (b"false", b"0\r\n\r\n"), (b"true", b": from ")):
                sock.sendall(ask % (follow, ADMIN.encode()))
                got = b""
                while end not in got:
                    got += sock.recv(65536)
                assert got.startswith(b"HTTP/1.1 200 ")
