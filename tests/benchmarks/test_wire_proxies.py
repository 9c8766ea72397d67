"""The proxies of the wire benchmark: the floor relays whole and in order, peers that are not there are skipped with a reason.

The floor is the C program itself between real sockets.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler; test_wire asserts that the benchmark says so")


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


@contextmanager
def floor(engine: socket.socket, tmp_path: Path) -> Iterator[int]:
    """A running floor before ``engine``, a listening socket; gives its port."""
    proxies, process, measure = module("proxies"), module("process"), module("measure")
    place = proxies.Place(tmp_path, measure.free_port(), engine.getsockname()[1])
    command = proxies.Floor().command(place)
    child = process.spawn(command.argv, cores=frozenset(os.sched_getaffinity(0)), cwd=tmp_path)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", place.port), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        engine.accept()[0].close()
        yield place.port
    finally:
        process.stop(child)


@pytest.fixture
def engine() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def read(s: socket.socket, count: int) -> bytes:
    out = bytearray()
    while len(out) < count and (part := s.recv(1 << 16)):
        out += part
    return bytes(out)


@needs_compiler
def test_the_floor_copies_both_ways_when_neither_side_reads_at_once(engine: socket.socket, tmp_path: Path) -> None:
    """8 MB each way at the same time: far more than sockets hold, so each side of the floor has to wait for the other."""
    there, back = os.urandom(8 << 20), os.urandom(8 << 20)
    with floor(engine, tmp_path) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        upstream, _ = engine.accept()
        with upstream:
            upstream.settimeout(20)
            senders = [threading.Thread(target=s.sendall, args=(data,)) for s, data in ((client, there), (upstream, back))]
            for sender in senders:
                sender.start()
            time.sleep(0.3)
            assert read(upstream, len(there)) == there
            assert read(client, len(back)) == back
            for sender in senders:
                sender.join(20)


@needs_compiler
@pytest.mark.parametrize("who", ["client", "engine"])
def test_the_floor_closes_one_side_when_the_other_ends(who: str, engine: socket.socket, tmp_path: Path) -> None:
    with floor(engine, tmp_path) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        upstream, _ = engine.accept()
        with upstream:
            upstream.settimeout(10)
            client.sendall(b"?")
            assert upstream.recv(10) == b"?"
            leaves, stays = (client, upstream) if who == "client" else (upstream, client)
            leaves.close()
            assert stays.recv(10) == b""


@needs_compiler
def test_a_proxys_round_with_requests_for_its_memory() -> None:
    measure, proxies, process, tools = module("measure"), module("proxies"), module("process"), module("tools")
    cores = process.choose_cores()
    with tools.engine(cores.load) as port:
        figures = measure.measure(proxies.Floor(), measure.Plan(0.2, 4, cores, port, soak_requests=2000))
    assert figures["bad"] == 0
    assert 0 < figures["rss_soaked_mb"] < 50
    assert 0 < figures["core_percent"] <= 110
    assert figures["cpu_plain_us"] > 0
    assert figures["cpu_flood_us"] > 0


@needs_compiler
def test_enough_requests_end_a_run_before_its_time() -> None:
    tools = module("tools")
    cores = frozenset(os.sched_getaffinity(0))
    with tools.engine(cores) as port:
        result = tools.load(port, cores=cores, seconds=30, connections=2, requests=500)
    assert 500 <= result["requests_total"] <= 510
    assert result["seconds"] < 10


@pytest.mark.quiet  # its peers take both cores, and a third one their time
@needs_compiler
def test_unpaced_streams_take_turns_and_do_not_wait() -> None:
    """A second stream that begins among the first's events is not kept until those have all left."""
    tools = module("tools")
    cores = frozenset(os.sched_getaffinity(0))
    with tools.engine(cores) as port:
        result = tools.load(port, cores=cores, seconds=0.5, connections=8, stream=True, unpaced=True)
    assert result["bad"] == 0, result["first_bad"]
    assert result["requests_total"] > 20, "eight paced streams of 640 ms would have ended none"
    assert result["ttft_us"]["p50"] < result["latency_us"]["p50"] / 2


def test_a_peer_that_is_not_installed_is_skipped_and_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = module("peers")
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    for name in ("sglang-router", "vllm-router", "smg", "envoy", "litellm"):
        peer = next(p for p in peers.ALL if p.name == name)
        assert peer.missing() == "not installed (make bench-peers)"
        program = tmp_path / name / peer.program
        program.parent.mkdir(parents=True)
        (tmp_path / name / "why").write_text("a warning\nERROR: No matching distribution\n")
        assert peer.missing() == "not installed: ERROR: No matching distribution"
        program.touch()
        assert peer.missing(), "an environment without the package"
        package = (peer.package or name).replace("-", "_")
        (tmp_path / name / "lib/python3.11/site-packages" / f"{package}-9.8.7.dist-info").mkdir(parents=True)
        assert peer.missing() is None
        assert peer.version() == f"{name} 9.8.7"


def test_every_peer_from_a_registry_is_pinned_in_a_file_of_its_name() -> None:
    peers = module("peers")
    pinned = {p.name: p.package or p.name for p in peers.ALL if isinstance(p, peers._Installed)}
    files = {f.stem: f for f in (ROOT / "benchmarks" / "peers").iterdir() if f.is_file()}
    assert set(files) == set(pinned)
    for name, file in files.items():
        sign = {".txt": "==", ".npm": "@"}[file.suffix]
        assert re.fullmatch(rf"{pinned[name]}(\[\w+\])?{sign}[\d.]+( \S+{sign}[\d.]+)*\n", file.read_text()), name


def test_without_the_extension_native_fastgw_is_skipped_and_python_is_not(tmp_path: Path) -> None:
    proxies = module("proxies")
    shutil.copytree(ROOT / "fastgw", tmp_path / "fastgw", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    assert "native extension is not built" in str(proxies.Fastgw(root=tmp_path).missing())
    assert proxies.Fastgw("fastgw (python)", native=False, root=tmp_path).missing() is None
