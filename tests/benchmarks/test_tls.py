"""The benchmark of TLS and HTTP/2 to clients: its rows, one of them for real, and what is shown of its results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.tls import fronts, report
from benchmarks.tls.__main__ import MARKS, RESULTS, main, one_round, results
from benchmarks.tls.loads import Run
from benchmarks.wire import chart, page, process, tools

TOOLS = all(shutil.which(name) for name in ("h2load", "openssl", "cc"))


def test_rows_are_chosen_by_group_or_by_name() -> None:
    assert [row.key for row in report.chosen(["idle", "cpu_new_rsa_us"])] == ["cpu_new_rsa_us", "idle_kib", "idle_h2_kib"]


def test_an_unknown_row_is_refused_and_the_known_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "handshake"]) == 2
    assert "unknown row handshake; known are requests, " in capsys.readouterr().err


@pytest.mark.quiet
@pytest.mark.skipif(not TOOLS, reason="h2load, openssl or a C compiler is not installed")
def test_a_round_takes_requests_over_http2_and_http1_by_the_same_front(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    fronts.certificates(tmp_path)
    cores = process.choose_cores()
    with tools.engine(cores.load) as engine:
        rows = report.chosen(["cpu_tls_us", "cpu_h2_tls_us"])
        found = one_round(["fastgw"], rows, engine, Run(cores, tmp_path, 0.1))["fastgw"]
    assert set(found) == {"cpu_tls_us", "cpu_h2_tls_us"}
    assert all(0 < value < 20_000 for value in found.values())


def test_a_bar_is_the_ratio_to_nginx_or_the_figure_alone() -> None:
    rounds = {
        "fastgw": [{"cpu_tls_us": 11.0, "idle_kib": 41.0}, {"cpu_tls_us": 12.0, "idle_kib": 43.0}],
        "nginx": [{"cpu_tls_us": 10.0, "idle_kib": 9.0}] * 2,
    }
    found = {bar["key"]: bar for bar in results(rounds, {}, 1.0, True)["bars"]}
    assert found["cpu_tls_us"]["value"] == pytest.approx(1.15)
    assert found["cpu_tls_us"]["met"] is True
    assert found["idle_kib"]["met"] is False
    assert found["cpu_h2_us"]["met"] is None


def test_the_page_and_the_chart_are_those_of_the_committed_results() -> None:
    section = page.PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].strip("\n")
    (name,) = set(re.findall(r"results/(tls-[0-9-]+)\.", section))
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert section == report.section(found, name)
    assert (RESULTS / f"{name}.svg").read_text() == chart.draw(found, report.PANELS)
    rounds = found["proxies"]["fastgw"]["rounds"]
    assert found["settings"]["rounds"] == len(rounds)
    assert f"| {sorted(one['cpu_tls_us'] for one in rounds)[len(rounds) // 2]:.1f} (" in section
