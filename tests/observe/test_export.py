"""Where traces go, by the rules that OpenTelemetry has for it. (That they come, ``e2e/test_traces.py`` shows.)"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest

from fastgw import Config
from fastgw.config.load import load
from fastgw.observe.export import exporter_of, target_of
from tests.support import pki

BASE, OWN, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
HTTP, GRPC = "http/protobuf", "grpc"


@pytest.mark.parametrize(
    ("variables", "target"),
    [
        ({}, (HTTP, "http://localhost:4318/v1/traces")),
        ({PROTOCOL: GRPC}, (GRPC, "http://localhost:4317")),
        ({BASE: "http://a:4318"}, (HTTP, "http://a:4318/v1/traces")),
        ({BASE: "https://a/otlp/"}, (HTTP, "https://a/otlp/v1/traces")),
        ({BASE: "http://a:4318/v1/traces"}, (HTTP, "http://a:4318/v1/traces")),
        ({OWN: "http://a:4318/mine", BASE: "http://b:4318"}, (HTTP, "http://a:4318/mine")),
        ({"OTLP_ENDPOINT": "http://a:4317", BASE: "http://b:4318"}, (GRPC, "http://a:4317")),
        ({BASE: "http://a:4317", PROTOCOL: HTTP}, (HTTP, "http://a:4317/v1/traces")),
        ({BASE: "https://a:9", PROTOCOL: HTTP, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": GRPC}, (GRPC, "https://a:9")),
    ],
)
def test_where_traces_go(variables: dict[str, str], target: tuple[str, str]) -> None:
    assert target_of(load({}, variables, "/nowhere")) == target


def test_what_grpc_has_not() -> None:
    with pytest.raises(ValueError, match="otlp_compression must be gzip or none"):
        exporter_of(Config(enable_otlp_tracing=True, otlp_protocol="grpc", otlp_compression="deflate"))


HEAD = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n"
MANY = b"".join(b"set-cookie: c%d=%b\r\n" % (at, b"x" * 9000) for at in range(60))


@pytest.mark.parametrize(
    ("answer", "taken", "connections"),
    [
        (HEAD % (200, 0, b""), True, 1),
        (HEAD % (200, 1 << 30, b""), True, 2),  # (and what follows has no end)
        (HEAD % (200, 1 << 30, b"content-encoding: gzip\r\n"), True, 2),
        (HEAD % (400, 1 << 30, b""), False, 2),
        (HEAD % (307, 0, b"location: http://127.0.0.1:1/\r\n"), False, 1),
        (HEAD % (200, 0, MANY), True, 1),
    ],
    ids=["well", "endless", "packed", "refused", "elsewhere", "cookies"],
)
def test_what_a_collector_says_beside_its_status_costs_nothing(answer: bytes, taken: bool, connections: int) -> None:
    """Two batches are sent; no more of an answer is read than buffers hold, and none of it comes back with the second."""
    seen: list[bytes] = []
    written = [0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    conn = server.accept()[0]
                    seen.append(b"")
                    with conn, suppress(OSError):
                        conn.settimeout(5)
                        _play(conn, answer, seen, written)

        thread = Thread(target=serve)
        thread.start()
        exporter = exporter_of(Config(enable_otlp_tracing=True, otlp_endpoint=f"http://127.0.0.1:{server.getsockname()[1]}"))
        try:
            assert [exporter.send(b""), exporter.send(b"")] == [taken, taken]
        finally:
            exporter.stop()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert len(seen) == connections
    assert written[0] < 32 << 20, "what has no end is read for ever"
    assert b"cookie:" not in b"".join(seen).lower()


def _play(conn: socket.socket, answer: bytes, seen: list[bytes], written: list[int]) -> None:
    """Answer each request on a connection; a body of what it says goes on and on."""
    while data := conn.recv(65536):
        seen[-1] += data
        conn.sendall(answer)
        while b": 1073741824" in answer and written[0] < 64 << 20:
            written[0] += conn.send(bytes(1 << 20))


@pytest.mark.parametrize("drips", [b"HTTP/1.1 200 OK\r\nx-a: ", b"HTTP"], ids=["in its fields", "in its first line"])
def test_a_head_that_comes_byte_by_byte_is_no_answer_in_time(drips: bytes) -> None:
    """Whatever there is of it when the time is up."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def serve() -> None:
            with suppress(OSError):
                conn = server.accept()[0]
                with conn:
                    conn.recv(65536)
                    conn.sendall(drips)
                    for _ in range(80):
                        if not over.wait(0.05):
                            conn.sendall(b"1")

        thread = Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        exporter = exporter_of(Config(enable_otlp_tracing=True, otlp_endpoint=url, otlp_timeout_ms=300))
        began = monotonic()
        try:
            assert exporter.send(b"") is False
            assert monotonic() - began < 3.0
        finally:
            over.set()
            exporter.stop()
            server.close()
            thread.join()


def test_a_collector_is_sent_no_secret_of_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go in the place of the one that the settings have for it."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password of-another-service\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen: list[bytes] = [b""]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as conn:
                _play(conn, HEAD % (200, 0, b""), seen, [0])

        thread = Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        exporter = exporter_of(Config(enable_otlp_tracing=True, otlp_endpoint=url, otlp_headers="authorization=Bearer%20ours"))
        assert exporter.send(b"")
        exporter.stop()
        thread.join(5)
    assert b"authorization: bearer ours\r\n" in seen[0].lower()
    assert seen[0].lower().count(b"authorization") == 1


@pytest.mark.parametrize("drips", [False, True], ids=["well", "drips"])
def test_the_exporters_own_ca_goes_before_that_of_the_environment(
    drips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And over TLS a head has its time, too."""
    (tmp_path / "other").mkdir()
    authority, other = pki.Authority(tmp_path), pki.Authority(tmp_path / "other")
    pair = authority.issue("collector", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other.ca)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.ca)
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True) as conn:
                conn.recv(65536)
                conn.sendall(b"HTTP/1.1 200 OK\r\nx-a: " if drips else HEAD % (200, 0, b""))
                for _ in range(80 if drips else 0):
                    if not over.wait(0.05):
                        conn.sendall(b"1")

        thread = Thread(target=serve)
        thread.start()
        url = f"https://localhost:{server.getsockname()[1]}"
        exporter = exporter_of(Config(enable_otlp_tracing=True, otlp_endpoint=url, otlp_timeout_ms=1000))
        began = monotonic()
        try:
            assert exporter.send(b"") is not drips
            assert monotonic() - began < 3.0
            assert monotonic() - began > 0.9 or not drips, "it was believed, and waited for"
        finally:
            over.set()
            exporter.stop()
            server.close()
            thread.join()
