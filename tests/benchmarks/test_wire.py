"""The wire benchmark: that it runs and writes what it says, that it sees bad answers, and that its sums are right.

Real engine, real load generator, real sockets, short rounds. Where there is no C compiler the benchmark must say so in
one clear line, and that is then what is asserted.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "benchmarks.wire", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=100, check=False)


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


def says_no_compiler(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2
    assert "C compiler" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.bench
@pytest.mark.quiet
def test_a_short_run_measures_fastgw_beside_direct_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "wire.json"
    rows = ("--rows", "plain,unpaced,paced,start")  # (that each row is measured is tested in test_wire_rows)
    done = bench("--only", "fastgw-python", *rows, "--seconds", "0.5", "--rounds", "1", "--connections", "8", "--out", str(out))
    if not COMPILER:
        says_no_compiler(done)
        return
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert list(result["proxies"]) == ["direct", "fastgw (python)"]
    assert result["failed"] == {}
    assert result["bad"] == {"direct": 0, "fastgw (python)": 0}
    assert {"cpu", "cores", "kernel", "python", "uvloop", "httptools", "git_commit", "date"} <= set(result["machine"])
    direct, fastgw = (result["proxies"][name]["summary"] for name in ("direct", "fastgw (python)"))
    assert "cpu_plain_us" not in direct
    cpu = ("cpu_plain_us", "cpu_flood_us", "cpu_event_us")
    for key in (*cpu, "rps", "one_p50_us", "one_p99_us", "ttft_p50_us", "event_p99_us", "rss_idle_mb", "start_ms"):
        assert fastgw[key]["min"] > 0, key
    added = fastgw["one_p50_us"]["median"] - direct["one_p50_us"]["median"]
    assert fastgw["one_p50_added_us"]["median"] == pytest.approx(added)
    # at most one event every 20 ms on each of 8 streams, and the end of each stream: the engine's pace came through
    assert 100 < direct["events_per_s"]["median"] < 450
    assert direct["flood_per_s"]["median"] > 2000
    assert out.with_suffix(".svg").read_text() == module("chart").draw(result)
    assert len(result["bars"]) == len(module("report").BARS)
    shown = done.stdout.splitlines()
    start = next(line for line in shown if line.startswith("exec to first served request"))
    assert f"{fastgw['start_ms']['median']:,.1f}" in start


def test_without_a_compiler_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = bench("--only", "direct", "--rounds", "1", "--out", str(tmp_path / "never"), PATH=str(tmp_path), CC="")
    says_no_compiler(done)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "never").exists()


def test_an_unknown_proxy_is_refused_and_the_known_are_named() -> None:
    done = bench("--only", "ngnix")
    assert done.returncode == 2
    assert "ngnix" in done.stderr
    assert "nginx" in done.stderr.replace("ngnix", "")


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"a\r\ndata: {}\n\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n"
FAULTS = {
    "refused": ("plain", b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}", "HTTP/1.1 401"),
    "cut": ("plain", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "closed before"),
    "no length": ("plain", b"HTTP/1.1 200 OK\r\n\r\n{}", "without a length"),
    "not json": ("plain", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{x", "not JSON"),
    "too much": ("plain", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}{}", "after the answer"),
    "no [DONE]": ("stream", HEAD + EVENT * 32 + b"0\r\n\r\n", "without [DONE]"),
    "event missing": ("stream", HEAD + EVENT * 31 + DONE + b"0\r\n\r\n", "events missing"),
    "event after [DONE]": ("stream", HEAD + DONE + EVENT * 32 + b"0\r\n\r\n", "after [DONE]"),
    "stream cut": ("stream", HEAD + EVENT * 32 + DONE, "closed before"),
    "bad chunk": ("stream", HEAD + b"zz\r\n", "malformed chunk"),
}


@contextmanager
def server(answer: bytes, pieces: int = 0, close: bool = True) -> Iterator[int]:
    """Gives every request the same bytes, whole or ``pieces`` at a time; then closes, or waits for the next request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def answer_all() -> None:
            while not stopping.is_set():
                with suppress(OSError):
                    s, _ = listener.accept()
                    with s:
                        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        while s.recv(65536):
                            for i in range(0, len(answer), pieces or len(answer)):
                                s.sendall(answer[i : i + (pieces or len(answer))])
                            if close:
                                break

        thread = threading.Thread(target=answer_all, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def load(port: int, **options: Any) -> dict[str, Any]:
    cores = frozenset(os.sched_getaffinity(0))
    answer: dict[str, Any] = module("tools").load(port, cores=cores, seconds=0.3, connections=1, **options)
    return answer


@pytest.mark.skipif(not COMPILER, reason="no C compiler; that the benchmark says so is asserted above")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_load_generator_counts_a_bad_answer(fault: str) -> None:
    kind, answer, reason = FAULTS[fault]
    with server(answer) as port:
        result = load(port, stream=kind == "stream")
    assert result["bad"] > 0
    assert result["requests_total"] == 0
    assert reason in result["first_bad"]


@pytest.mark.skipif(not COMPILER, reason="no C compiler; that the benchmark says so is asserted above")
@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_the_load_generator_takes_a_good_stream_however_it_is_cut(pieces: int) -> None:
    with server(HEAD + EVENT * 32 + DONE + b"0\r\n\r\n", pieces, close=False) as port:
        result = load(port, stream=True)
    assert result["bad"] == 0, result["first_bad"]
    assert result["requests_total"] > 0
    assert result["events_total"] >= 33 * result["requests_total"]


@pytest.mark.skipif(not COMPILER, reason="no C compiler; that the benchmark says so is asserted above")
def test_the_engine_paces_its_events() -> None:
    tools = module("tools")
    body = b'{"model":"m","stream":true}'
    cores = frozenset(os.sched_getaffinity(0))
    with tools.engine(cores) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        begun = time.monotonic()
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += s.recv(65536)
        took = time.monotonic() - begun
    assert answer.count(b"data: ") == tools.EXPECTED_EVENTS
    assert len(re.findall(rb'"content":"\d+x', answer)) == tools.EVENTS
    assert took >= tools.STREAM_MS / 1000 - 0.001


def test_a_proxy_that_does_not_start_is_reported_with_what_it_said() -> None:
    measure, proxies, process = module("measure"), module("proxies"), module("process")

    broken = proxies.Fastgw("broken", native=False, arguments=["--no-such-option"])
    with pytest.raises(measure.Failed, match=r"broken exited with 2: .*no-such-option"):
        measure.measure(broken, measure.Plan(1.0, 1, process.choose_cores(), 9))


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that some other process has yet to wait for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_cpu_time_covers_the_children_of_a_process_and_ends_with_them() -> None:
    process = module("process")
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    cores = frozenset(os.sched_getaffinity(0))
    child = process.spawn([sys.executable, "-c", parent], cores=cores, cwd=ROOT)
    try:
        deadline = time.monotonic() + 20
        while process.cpu_s(child.pid) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        pids = process.tree(child.pid)
        assert len(pids) == 2
        assert 0.3 <= process.cpu_s(child.pid) < 5
        assert process.rss_bytes(child.pid) > process.rss_bytes(pids[1]) > 1_000_000
    finally:
        process.stop(child)
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_sleeps_are_counted_and_work_is_none() -> None:
    process = module("process")
    nap = "import time\nfor _ in range(200): time.sleep(0.001)\nwhile True: pass"
    child = process.spawn([sys.executable, "-c", nap], cores=frozenset(os.sched_getaffinity(0)), cwd=ROOT)
    try:
        deadline = time.monotonic() + 20
        while process.sleeps(child.pid) < 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        slept = process.sleeps(child.pid)
        assert 200 <= slept < 250
        time.sleep(0.2)
        assert process.sleeps(child.pid) - slept < 10
    finally:
        process.stop(child)


def test_medians_spread_added_latency_and_ratios() -> None:
    report = module("report")
    taken = {
        "direct": [{"ttft_p50_us": 100.0}, {"ttft_p50_us": 200.0}, {"ttft_p50_us": 110.0}],
        "fastgw": [{"ttft_p50_us": u, "cpu_plain_us": c} for u, c in ((150.0, 10.0), (260.0, 30.0), (180.0, 16.0))],
        "nginx": [{"cpu_plain_us": c} for c in (10.0, 20.0, 10.0)],
    }
    rounds = report.with_added(taken)
    fastgw = report.summary(rounds)["fastgw"]
    assert fastgw["ttft_p50_us"] == {"median": 180.0, "min": 150.0, "max": 260.0}
    assert fastgw["ttft_p50_added_us"] == {"median": 60.0, "min": 50.0, "max": 70.0}
    shares = report.all_ratios(rounds)["fastgw/nginx"]
    assert shares["cpu_plain_us"] == {"median": 1.5, "min": 1.0, "max": 1.6, "of_medians": 1.6}
    assert "180.0 (150.0..260.0)" in report.table(report.summary(rounds))


def test_a_round_without_a_figure_is_left_out_of_the_ratios() -> None:
    report = module("report")
    nan = float("nan")
    rounds = {"fastgw": [{"one_p99_us": nan}, {"one_p99_us": 90.0}], "nginx": [{"one_p99_us": 10.0}, {"one_p99_us": 100.0}]}
    assert report.ratio(rounds, "one_p99_us", "fastgw", "nginx") == {"median": 0.9, "min": 0.9, "max": 0.9, "of_medians": 0.9}


def test_a_table_wider_than_a_terminal_is_broken_between_proxies() -> None:
    report = module("report")
    many = {f"proxy-number-{i}": {"cpu_plain_us": {"median": 1e6 + i, "min": 1.0, "max": 2e6}} for i in range(12)}
    lines = report.table(many).splitlines()
    assert max(map(len, lines)) <= 150
    assert all(sum(name in line for line in lines) == 1 for name in many if name != "proxy-number-1")
    assert sum("CPU per plain request" in line for line in lines) > 1


@pytest.mark.parametrize(("cpu", "start", "met"), [(10.0, 100.0, True), (10.1, 100.1, False)])
def test_the_bars_are_met_or_not(cpu: float, start: float, met: bool) -> None:
    report = module("report")
    rounds = {
        "fastgw": [{"cpu_plain_us": cpu, "start_ms": start}],
        "nginx": [{"cpu_plain_us": 10.0}],
        "sglang-router": [{"cpu_plain_us": 40.2}],
    }
    found = {bar["label"]: bar["met"] for bar in report.bars(rounds)}
    assert found["CPU per plain request, fastgw/nginx"] is met
    assert found["exec to first served request"] is met
    assert found["CPU per plain request, sglang-router/fastgw"] is met, "40.2/10 is 4.02 times, 40.2/10.1 is 3.98"
    assert found["RSS after 1,000,000 requests"] is None
    lines = report.verdict(report.bars(rounds), {}).splitlines()
    word = "met" if met else "NOT MET"
    ratio = f"{cpu / 10:.2f}"
    assert f"{word:>12}  CPU per plain request, fastgw/nginx <= 1: {ratio}, of the medians {ratio}" in lines
    assert sum("not measured" in line for line in lines) == len(report.BARS) - 3


def test_the_measuring_tools_are_compared_with_the_fastest_proxy() -> None:
    report = module("report")
    rates = {"direct": 90.0, "floor": 60.0, "nginx": 45.0}
    spare = report.headroom({name: [{"rps": rate}] for name, rate in rates.items()})
    assert spare == {"rps": 1.5}
    assert "1.50 of the fastest proxy's plain requests/s" in report.verdict([], spare)


def test_every_second_round_goes_backward() -> None:
    run = module("__main__")
    assert [run._round([1, 2, 3], number) for number in (1, 2, 3)] == [[1, 2, 3], [3, 2, 1], [1, 2, 3]]
