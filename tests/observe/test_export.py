"""Where traces go, by the rules that OpenTelemetry has for it. (That they come, ``e2e/test_traces.py`` shows.)"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread

import pytest

from fastgw import Config
from fastgw.config.load import load
from fastgw.observe.export import exporter_of, target_of

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
