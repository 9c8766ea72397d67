"""The rows: which are meant, what each loads a proxy with and divides by, and that peers are set up for the load they get.

Real floor, engine, generators and gateway; short loads. Figures are held against what the load must come to, not against time.
"""

from __future__ import annotations

import importlib
import resource
import shutil
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


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["plain"], ["plain"]),
        (["paced"], ["paced", "paced-512"]),
        (["start", "crowd-1000", " plain"], ["plain", "crowd-1000", "start"]),
        (["bodies", "streams"], ["body-2k", "body-20k", "body-200k", "body-800k", "streams"]),
    ],
)
def test_rows_are_chosen_by_group_or_by_name_and_kept_in_their_order(asked: list[str], names: list[str]) -> None:
    assert module("rows").choose(asked).names() == names


def test_all_is_all_and_what_is_usual_leaves_out_what_takes_minutes() -> None:
    rows = module("rows")
    every = rows.choose(["all"]).names()
    assert every == [*(row.key for row in rows.ROWS), "streams", "start"]
    assert rows.choose(rows.USUAL).names() == [name for name in every if name != "streams"]


def test_an_unknown_row_is_refused_and_the_known_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert module("__main__").main(["--rows", "plain,crowds"]) == 2
    said = capsys.readouterr().err
    assert "unknown row crowds; known are all, plain, crowd, " in said
    assert "crowd-512" in said


def test_every_figure_of_a_row_has_a_label_and_what_is_held_to_nginx_a_bar() -> None:
    report, rows = module("report"), module("rows")
    labels = {m.key for m in report.METRICS}
    for row in rows.ROWS:
        named = {row.cpu, row.rate, *([row.dials] if row.dials else [])}
        named |= {f"ttft{row.latency}_p50_us", f"event{row.latency}_p99_us"} if row.latency is not None else set()
        assert named <= labels, row.key
    held = {bar.key for bar in report.BARS if bar.per == "nginx" and bar.limit == 1.0}
    assert {row.cpu for row in rows.ROWS} <= held
    assert {bar.key for bar in report.BARS} <= labels


@needs_compiler
@pytest.mark.quiet
def test_each_row_is_loaded_and_gives_its_figures() -> None:
    """The floor dials once for each client's connection: what the engine counted is known."""
    measure, proxies, process, rows, tools = (module(n) for n in ("measure", "proxies", "process", "rows", "tools"))
    cores = process.choose_cores()
    process.descriptors()
    wanted = rows.choose(["crowd-512", "body-200k", "connections"])
    with tools.engine(cores.load) as port:
        plan = measure.Plan(0.4, 8, cores, port, wanted.rows)
        assert plan.clients() == 512
        figures = measure.measure(proxies.Floor(), plan)
    assert figures["bad"] == 0
    assert {"cpu_plain_us", "cpu_event_us"}.isdisjoint(figures)
    small, close, body = (figures[key] for key in ("cpu_plain_512_us", "cpu_close_us", "cpu_body_200k_us"))
    assert 0 < small < close
    assert small < body
    assert 0 < figures["dials_512_percent"] < 100
    assert {"rps_512", "rps_body_200k", "rps_close"} <= set(figures)


@needs_compiler
@pytest.mark.bench
@pytest.mark.quiet
def test_in_turns_tells_latencies_dials_and_memory_too() -> None:
    measure, proxies, process, rows, tools = (module(n) for n in ("measure", "proxies", "process", "rows", "tools"))
    cores = process.choose_cores()
    wanted = rows.choose(["plain", "unpaced"])
    with tools.engine(cores.load) as port:
        found = measure.in_turns([proxies.Floor()], measure.Plan(0.3, 4, cores, port, wanted.rows))["floor"]
    assert found["bad"] == 0
    assert 0 < found["rss_idle_mb"] < 50
    assert 0 < found["dials_percent"] < 10, "eight connections in all, and many requests"


@needs_compiler
@pytest.mark.bench
@pytest.mark.quiet
def test_streams_are_counted_timed_and_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd, measure, proxies, process, streams = (
        *(importlib.import_module("benchmarks.scale.crowd"), module("measure"), module("proxies")),
        *(module("process"), module("streams")),
    )
    monkeypatch.setattr(streams, "_LEAST_S", 1.5)
    crowd.build("streams")
    plan = measure.Plan(0.1, 1, process.choose_cores(), 9)
    direct, floor = streams.measure(proxies.Direct(), plan, 40), streams.measure(proxies.Floor(), plan, 40)
    assert "cpu_stream_us" not in direct
    assert direct["streams"] == floor["streams"] == 40
    assert direct["stream_p50_us"] > 0
    assert floor["cpu_stream_us"] > 0
    assert floor["rss_stream_kb"] < 50


def test_as_many_streams_as_descriptors_allow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    streams = module("streams")
    monkeypatch.setattr(streams.process, "descriptors", lambda: 1 << 20)
    assert streams.fitting() == streams.COUNT
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(streams.process, "descriptors", lambda: 1024)
    assert streams.fitting() < 512, "each takes two of a proxy's"
    assert "ulimit -Hn" in capsys.readouterr().err


@pytest.mark.quiet
def test_a_start_is_held_against_an_interpreters() -> None:
    measure, proxies, process, start, tools = (module(n) for n in ("measure", "proxies", "process", "start", "tools"))
    if not COMPILER:
        pytest.skip("no C compiler; test_wire asserts that the benchmark says so")
    cores = process.choose_cores()
    gateway = proxies.Fastgw("fastgw (python)", native=False)
    with tools.engine(cores.load) as port:
        found = start.in_turns([gateway], measure.Plan(0.2, 1, cores, port), turns=1)["fastgw (python)"]
    assert found["start_ratio"] == pytest.approx(found["start_turn_ms"] / found["start_bare_ms"])
    # (Not above 1: a gateway leaves out OpenSSL, which that interpreter brings; medians of five were 0.91, 0.97 and 1.06.)
    assert found["start_ratio"] > 0.7, "it is that interpreter, or nearly"


@pytest.mark.parametrize("clients", [64, 1000, 10_000])
def test_peers_are_set_up_for_the_clients_that_they_get(clients: int, tmp_path: Path) -> None:
    """nginx would dial for each request, or drop connections, and haproxy not start: no peer loses by its settings."""
    proxies = module("proxies")
    place = proxies.Place(tmp_path, 1, 2, clients=clients)
    for peer in (proxies.Nginx(), proxies.Haproxy()):
        if peer.missing():
            pytest.skip(f"no {peer.name} here")
        peer.command(place)
    nginx, haproxy = ((tmp_path / name).read_text() for name in ("nginx.conf", "haproxy.cfg"))

    def value(text: str, word: str) -> int:
        return int(text.partition(f"{word} ")[2].split(";")[0].split()[0])

    assert value(nginx, "keepalive") >= clients
    assert value(nginx, "worker_connections") > 2 * clients * 16 / 15
    longest = max(row.load.get("body_bytes", 0) for row in module("rows").ROWS)
    assert "client_body_buffer_size 1m;" in nginx
    assert longest < 1 << 20, "nginx would write it to a file"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert value(haproxy, "maxconn") >= min(clients, (most - 100) // 2)
