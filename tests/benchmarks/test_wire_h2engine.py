"""The mock engine over HTTP/2: the answers of the one over HTTP/1.1, and flow control to the byte.

The real program, on loopback; the peer by hand says frames, and tells where the engine goes beyond a window.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import parts
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, OverSocket, dial

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler; test_wire asserts that the benchmark says so")
CORES = frozenset(os.sched_getaffinity(0))
PLAIN = b'{"messages":[{"content":"hi"}]}'
STREAM = b'{"messages":[{"content":"%b"}],"stream":true,"stream_options":{"include_usage":true}}'


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


@pytest.fixture
def engine() -> Iterator[int]:
    with module("tools").engine(CORES, h2=True) as port:
        yield port


def talk(port: int, **settings: int) -> OverSocket:
    return dial(port, Client(settings=f.settings(**settings))).begins()


def over_h1(body: bytes, end: bytes) -> bytes:
    with module("tools").engine(CORES) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        got = b""
        while not got.endswith(end):
            got += s.recv(1 << 16)
    return got.partition(b"\r\n\r\n")[2]


def dechunked(wire: bytes) -> bytes:
    return b"".join(re.findall(rb"(?:^|\r\n)[0-9a-f]+\r\n(data: .*?\n\n)", wire, re.DOTALL))


def unclocked(stream: bytes) -> bytes:
    """Without the time that each event's text begins with."""
    return re.sub(rb'"content":"\d+', b'"content":"', stream)


def test_its_answers_are_those_of_the_engine_over_http1(engine: int) -> None:
    with talk(engine, INITIAL_WINDOW_SIZE=1_000_000) as peer:
        peer.says(f.request(1, PLAIN), f.request(3, STREAM % b"#unpaced"), f.request(5, path=b"/v1/models"), f.request(7))
        for stream in (1, 3, 5, 7):
            head = peer.until(f"HEADERS {stream} :status=200")
            assert head is not None
            assert peer.until(f"DATA {stream} end") is not None
            if stream != 3:
                assert int(head.value(b"content-length") or 0) == len(peer.peer.body(stream))
        assert peer.peer.body(1) == over_h1(PLAIN, b"}}")
        assert unclocked(peer.peer.body(3)) == unclocked(dechunked(over_h1(STREAM % b"#unpaced", b"0\r\n\r\n")))
        assert peer.peer.body(3).count(b"data: ") == module("tools").EXPECTED_EVENTS + 1  # usage
        assert b'"m"' in peer.peer.body(5)
        assert peer.peer.body(7) == b"{}"


def test_windows_are_honoured_to_the_byte(engine: int) -> None:
    with talk(engine, INITIAL_WINDOW_SIZE=7) as peer:
        peer.says(f.request(1, PLAIN), f.request(3, STREAM % b"#unpaced"))
        assert peer.until("DATA 1 length=7") is not None
        assert peer.until("DATA 3 length=7") is not None
        peer.says(f.window(1, 1), f.ping())
        assert peer.until("DATA 1 length=1") is not None
        peer.says(f.settings(INITIAL_WINDOW_SIZE=0))  # less than nothing is left
        assert peer.until("SETTINGS ack") is not None
        peer.says(f.window(1, 7), f.ping(b"nothing!"))
        assert peer.until("PING ack opaque=6e6f7468696e6721") is not None
        assert len(peer.peer.body(1)) == 8
        peer.says(f.window(1, 1000), f.settings(INITIAL_WINDOW_SIZE=1_000_000))
        assert peer.until("DATA 1 end") is not None
        assert peer.until("DATA 3 end") is not None
        assert peer.peer.body(3).endswith(b"data: [DONE]\n\n")


def test_the_connections_window_is_one_for_all_streams(engine: int) -> None:
    with talk(engine, INITIAL_WINDOW_SIZE=1 << 20) as peer:
        streams = range(1, 41, 2)
        peer.says(*[f.request(stream, STREAM % b"#unpaced") for stream in streams])
        peer.hears_for(0.3)
        taken = sum(len(peer.peer.body(stream)) for stream in streams)
        assert taken == f.WINDOW
        peer.says(f.window(0, 1 << 20))
        for stream in streams:
            assert peer.until(f"DATA {stream} end") is not None


@pytest.mark.parametrize("size", [20_000, 3_000_000])
def test_long_bodies_get_their_credit(engine: int, size: int) -> None:
    """What is asked for stands at the end, and the middle is never looked at."""
    body = b'{"messages":[{"content":"' + b"y" * size + b'"}],"stream":true}'
    with talk(engine) as peer:
        opened = next(frame for frame in peer.peer.seen if frame.kind == "SETTINGS")
        room, stream = f.WINDOW, int(opened.facts["INITIAL_WINDOW_SIZE"])
        peer.says(f.headers(1, f.POST))
        at = 0
        while at < len(body):
            while (frame := peer.peer.found("WINDOW_UPDATE")) is not None:
                more = int(frame.facts["increment"])
                room, stream = (room, stream + more) if frame.stream else (room + more, stream)
            step = min(len(body) - at, room, stream, 16_384)
            if not step:
                assert peer.peer.ended == ""
                peer.hears_for(0.01)
                continue
            peer.says(f.data(1, body[at : at + step], end=at + step == len(body)))
            at, room, stream = at + step, room - step, stream - step
        assert peer.until("DATA 1 !end") is not None
        assert b"chat.completion.chunk" in peer.peer.body(1)


def test_a_reset_stream_says_no_more_and_the_others_go_on(engine: int) -> None:
    with talk(engine) as peer:
        peer.says(f.request(1, STREAM % b"slow"), f.request(3, STREAM % b"slow"))
        assert peer.until("DATA 1") is not None
        peer.says(f.rst(1), f.ping())
        assert peer.until("PING ack") is not None
        before = len(peer.peer.body(1))
        assert peer.until("DATA 3 end") is not None
        assert len(peer.peer.body(1)) == before


def test_a_head_in_pieces_and_trailers(engine: int) -> None:
    with talk(engine) as peer:
        peer.says(f.continued(1, f.POST, 3), f.data(1, PLAIN), f.headers(1, f.fields("x-sum: 1"), end=True))
        peer.says(f.continued(3, f.GET, 2, end=True), f.headers(5, f.POST, pad=9), f.data(5, PLAIN, pad=50, end=True))
        for stream in (1, 3, 5):
            assert peer.until(f"DATA {stream} end") is not None


def test_health_checks_over_http1_and_a_count_of_connections(engine: int) -> None:
    tools = module("tools")
    before = tools.dials(engine)
    with talk(engine) as peer:
        peer.says(f.request(1))
        assert peer.until("DATA 1 end") is not None
    assert tools.dials(engine) - before == 2
    with socket.create_connection(("127.0.0.1", engine), timeout=10) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: e\r\n\r\nPOST / HTTP/1.1\r\nHost: e\r\n\r\n")
        got = b""
        while got.count(b"\r\n\r\n") < 2:
            got += s.recv(4096)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" in got


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.parametrize(
    ("streams", "clients", "windows", "body"),
    [(100, 1, (30, 30), PLAIN), (1000, 4, (30, 30), PLAIN), (500, 2, (10, 11), STREAM % b"#unpaced")],
)
def test_with_h2load(engine: int, streams: int, clients: int, windows: tuple[int, int], body: bytes, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(body)
    argv = ["h2load", "-n", "4000", "-c", str(clients), "-m", str(streams), "-w", str(windows[0]), "-W", str(windows[1])]
    argv += ["-d", str(tmp_path / "body"), f"http://127.0.0.1:{engine}/v1/chat/completions"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout


@pytest.mark.parametrize("name", parts.each("curl", "nghttp"))
def test_with_other_clients(engine: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(STREAM % b"#unpaced")
    url = f"http://127.0.0.1:{engine}/v1/chat/completions"
    body = tmp_path / "body"
    done = parts.curl(url, "-d", f"@{body}") if name == "curl" else parts.run("nghttp", "-d", body, url)
    assert done.stdout.count(b"data: ") == module("tools").EXPECTED_EVENTS + 1
    assert done.stdout.endswith(b"data: [DONE]\n\n")


def test_before_haproxy(engine: int, tmp_path: Path) -> None:
    """As the benchmark stands it there: one answer, and one connection for many clients."""
    proxies, measure, process, tools = module("proxies"), module("measure"), module("process"), module("tools")
    peer = proxies.Haproxy("haproxy (h2)", h2=True)
    if peer.missing():
        pytest.skip(str(peer.missing()))
    cores = process.choose_cores()
    plan = measure.Plan(0.2, 8, cores, 0, (), engine)
    with measure.running(peer, plan) as (phases, _):
        before = tools.dials(engine)
        result = tools.load(phases.port, cores=CORES, seconds=5, connections=8, requests=400)
        streamed = tools.load(phases.port, cores=CORES, seconds=0.3, connections=8, stream=True, unpaced=True)
        assert tools.dials(engine) - before - 1 < 8
    assert (result["bad"], streamed["bad"]) == (0, 0), (result["first_bad"], streamed["first_bad"])


def test_fastgw_is_skipped_while_it_has_no_such_upstream(tmp_path: Path) -> None:
    proxies = module("proxies")
    (tmp_path / "fastgw" / "config").mkdir(parents=True)
    (tmp_path / "fastgw" / "__main__.py").touch()
    (tmp_path / "fastgw" / "config" / "table.py").touch()
    why = proxies.Fastgw("fastgw (h2)", h2=True, root=tmp_path).missing()
    assert why == "this checkout speaks no HTTP/2 to engines: it has no setting upstream_protocol"


def test_only_h2_means_both_protocols_in_one_run() -> None:
    peers = module("peers")
    assert {p.name for p in peers.named("h2")} == set(peers.H2)
    assert {p.name for p in peers.named("h2,floor")} == {*peers.H2, "floor"}
