"""What a front is loaded with, and what is read off it: h2load and a client of our own in turn.

Owns: the loads, and what is divided by what. Must never give a figure of answers that were not counted good by the client.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hpack import Encoder

from benchmarks.tls.fronts import Front
from benchmarks.wire import tools
from benchmarks.wire.measure import Failed
from benchmarks.wire.process import Cores, cpu_s, on, rss_bytes
from benchmarks.wire.proxies import KEY

EVENTS_EACH = tools.EVENTS + 2  # and the usage, and [DONE]
IDLE_FIRST, IDLE = 50, 500
IDLE_H2 = 1000
FIRST_BYTES = 300
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Run:
    """What the loads of one run have in common. ``seconds`` is how long each is to last, about."""

    cores: Cores
    folder: Path
    seconds: float


def _body(run: Run, stream: bool, unpaced: bool) -> Path:
    path = run.folder / f"body-{stream}-{unpaced}.json"
    text = "Tell me about rivers." + (" #unpaced" if unpaced else "")
    message = {"model": "m", "messages": [{"role": "user", "content": text}]}
    path.write_text(json.dumps(message | ({"stream": True} if stream else {})))
    return path


def _h2load(front: Front, run: Run, clients: int, requests: int, body: Path, h2: bool, at_once: int, spread: bool) -> float:
    """CPU seconds of the front for so many good requests."""
    argv = ["h2load", "-c", str(clients), "-n", str(requests), "-m", str(at_once), "-d", str(body)]
    argv += [] if h2 else ["--h1"]
    # (Streams that begin at one moment have all their events at one moment.)
    argv += ["-r", str(max(1, clients // 16)), "--rate-period", f"{tools.STREAM_MS // 16}ms"] if spread else []
    argv += ["-H", "content-type: application/json", "-H", f"authorization: Bearer {KEY}"]
    argv += [f"{'https' if front.kind else 'http'}://127.0.0.1:{front.port}{_PATH}"]
    with on(run.cores.load):
        before = cpu_s(front.pid)
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
        used = cpu_s(front.pid) - before
    if f" {requests} succeeded, 0 failed, 0 errored" not in done.stdout:
        raise Failed(f"{front.name}: {done.stdout[-600:]}{done.stderr[-200:]}")
    return used


def per_request(
    front: Front,
    run: Run,
    clients: int,
    each: int,
    *,
    h2: bool = False,
    at_once: int = 1,
    stream: bool = False,
    paced: bool = False,
) -> float:
    """CPU microseconds of the front per request, or per event of a ``stream``: of ``each`` requests of a client. What
    opening a connection and its first requests cost is measured before, and not in it."""
    body = _body(run, stream, stream and not paced)
    first = clients * at_once
    opening = _h2load(front, run, clients, first, body, h2, at_once, paced)
    used = _h2load(front, run, clients, first + clients * each, body, h2, at_once, paced) - opening
    return used / (clients * each) * 1e6 / (EVENTS_EACH if stream else 1)


# --- a client of our own
def _request(stream: bool = False) -> bytes:
    message = {"model": "m", "messages": [{"role": "user", "content": "Tell me about rivers."}]}
    data = json.dumps(message | ({"stream": True} if stream else {})).encode()
    return (
        f"POST {_PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    ).encode() + data


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(
    front: Front, protocol: str, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", front.port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not front.kind:
        return sock
    if context is None:
        context = _client()
    context.set_alpn_protocols([protocol])
    tls = context.wrap_socket(sock, session=session)
    if tls.selected_alpn_protocol() != protocol:
        raise Failed(f"{front.name} does not speak {protocol}")
    return tls


def _asked(sock: socket.socket) -> None:
    """One plain request and its whole answer, over HTTP/1.1."""
    sock.sendall(_request())
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith((b"}", b"0\r\n\r\n")):
        part = sock.recv(65536)
        if not part:
            raise Failed(f"closed after {got[:200]!r}")
        got += part
    if not got.startswith(b"HTTP/1.1 200"):
        raise Failed(f"{got[:200]!r}")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _asked_h2(sock: socket.socket) -> None:
    """The connection's beginning, one request on it, and the end of its answer."""
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", _PATH)]
    fields += [("authorization", f"Bearer {KEY}"), ("content-type", "application/json")]
    data = _request().partition(b"\r\n\r\n")[2]
    settings = _frame(4, 0, 0, b"") + _frame(4, 1, 0, b"")
    sock.sendall(_PREFACE + settings + _frame(1, 4, 1, Encoder().encode(fields)) + _frame(0, 1, 1, data))
    held = b""
    while True:
        while len(held) >= 9 and len(held) >= 9 + int.from_bytes(held[:3], "big"):
            kind, flags, stream = held[3], held[4], int.from_bytes(held[5:9], "big")
            held = held[9 + int.from_bytes(held[:3], "big") :]
            if kind in (3, 7):
                raise Failed("an HTTP/2 stream or connection that ends badly")
            if stream == 1 and kind in (0, 1) and flags & 1:
                return
        part = sock.recv(65536)
        if not part:
            raise Failed("an HTTP/2 connection that ends")
        held += part


def per_handshake(front: Front, run: Run, version: ssl.TLSVersion, resumed: bool) -> float:
    """CPU microseconds of the front per connection of a client that makes one after the other, says nothing on it but TLS's own
    end, and waits for the front's end. ``resumed``: each goes on from the same session, which began before."""
    context = _client()
    context.minimum_version = context.maximum_version = version
    session = None
    if resumed:
        with _connect(front, "http/1.1", context) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            _asked(sock)  # (the tickets of TLS 1.3 come before its answer)
            session = sock.session
    count = 0
    with on(run.cores.load):
        before = cpu_s(front.pid)
        until = time.monotonic() + run.seconds
        while time.monotonic() < until:
            sock = _connect(front, "http/1.1", context, session)
            assert isinstance(sock, ssl.SSLSocket)
            if sock.session_reused != resumed:
                raise Failed(f"{front.name}: a session that is {'not ' if resumed else ''}resumed")
            with sock, suppress(ssl.SSLEOFError):  # (nginx ends such a connection without a word)
                sock.unwrap()
            count += 1
        used = cpu_s(front.pid) - before
    return used / count * 1e6


def per_idle(front: Front, *, h2: bool = False) -> float:
    """KiB of the front's memory for a connection that has had one request and its answer."""
    ask: Callable[[socket.socket], None] = _asked_h2 if h2 else _asked
    with ExitStack() as stack:

        def more(count: int) -> None:
            for _ in range(count):
                ask(stack.enter_context(_connect(front, "h2" if h2 else "http/1.1")))

        more(IDLE_FIRST)
        before = rss_bytes(front.pid)
        count = IDLE_H2 if h2 else IDLE
        more(count)
        return (rss_bytes(front.pid) - before) / count / 1024


def to_first_byte(front: Front, run: Run) -> float:
    """Median microseconds from a request's first byte to the first byte of its answer, one at a time on a kept connection."""
    with on(run.cores.load), _connect(front, "http/1.1") as sock:
        request = _request()
        taken = []
        for number in range(FIRST_BYTES + 50):
            begun = time.perf_counter()
            sock.sendall(request)
            got = sock.recv(65536)
            took = time.perf_counter() - begun
            while b"\r\n\r\n" not in got or not got.endswith((b"}", b"0\r\n\r\n")):
                got += sock.recv(65536)
            if number >= 50:
                taken.append(took)
    return median(taken) * 1e6
