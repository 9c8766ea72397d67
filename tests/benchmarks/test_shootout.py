"""The shoot-out: a run of a second for real, who is named when it answers wrongly, and the order of the page's rows.

The peer that answers wrongly is a program that the test writes; engine and load generator are the real ones.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from typing import Any

import pytest

from benchmarks.shootout import __main__ as shootout
from benchmarks.shootout import page
from benchmarks.shootout.setups import BY_KEY, SETUPS
from benchmarks.wire import measure, process, proxies, tools

COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler; test_wire asserts that the benchmark says so")

LIAR = """\
import http.server, json, sys

class Liar(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        said = {"choices": [{"message": {"content": "xx"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 16, "total_tokens": 23}}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    protocol_version = "HTTP/1.1"
    log_message = lambda *_: None

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Liar).serve_forever()
"""


class Liar(proxies.Proxy):
    name = "liar"

    def command(self, place: proxies.Place) -> proxies.Command:
        (place.folder / "liar.py").write_text(LIAR)
        return proxies.Command([sys.executable, str(place.folder / "liar.py"), str(place.port)])


@needs_compiler
def test_a_run_measures_who_answers_rightly_and_names_who_does_not() -> None:
    cores = process.choose_cores()
    setups = [BY_KEY["fixed-3000"], BY_KEY["long-most"]]
    with tools.engine(cores.load) as port:
        plan = measure.Plan(0.3, 4, cores, port, rows=())
        taken, failed, wrong = shootout.run([proxies.Floor(), Liar()], plan, setups, 2)
    assert failed == {}
    assert list(wrong) == ["liar"]
    assert re.search(r"a plain answer that is not the engine's: .*'xx'.* for .*'xxxxxx", wrong["liar"])
    assert taken["liar"] == []
    for figures in taken["floor"]:
        assert set(figures) == {"fixed-3000", "long-most", "of_all"}
        assert all(one["bad"] == 0 and one["rps"] > 0 and one["cpu_us"] > 0 for key, one in figures.items() if key != "of_all")
        assert figures["long-most"]["first_p50_ms"] > 0
    results = made({"floor": taken["floor"]}, ["fixed-3000", "long-most"]) | {"wrong": wrong}
    assert "**liar answers wrongly**, and its figures do not count: a plain answer that is not" in page.measured(results)


def made(rounds: dict[str, list[dict[str, Any]]], setups: list[str]) -> dict[str, Any]:
    """A run's results, with these figures."""
    about = {"date": "2026-01-02T", "git_dirty": False, "git_commit": "", "cpu": "c", "cores": 2, "kernel": "6", "python": "3"}
    return {
        "machine": about | {"load_average": 7.0},
        "settings": {"seconds": 1, "rounds": 1, "only": "", "setups": setups},
        "proxies": {name: {"version": "", "rounds": taken} for name, taken in rounds.items()},
        "skipped": {},
        "failed": {},
        "wrong": {},
    }


def figures(rps: float, p50_ms: float, **more: float) -> dict[str, float]:
    others = {"p99_ms": 9.0, "answer_p50_ms": 0.5, "cpu_us": 10.0, "bad": 0.0, "late_percent": 0.0}
    return {"rps": rps, "due": 3000.0, "answered": rps, "p50_ms": p50_ms} | others | more


def test_rows_come_by_figure_whoever_they_are_of() -> None:
    rate, most = BY_KEY["fixed-3000"], BY_KEY["most-32"]
    found = {
        "direct": (figures(3000, 0.05), figures(90_000, 0.1)),
        "fastgw": (figures(3000, 0.20), figures(50_000, 0.3)),
        "quick": (figures(2999, 0.10), figures(60_000, 0.2)),
        "behind": (figures(700, 0.01), figures(700, 0.01)),  # what it answers is soon answered, and most of it is not
        "broken": (figures(3000, 0.01, bad=1.0), figures(99_000, 0.01, bad=1.0)),
        "unsure": (figures(3000, 0.15, late_percent=4.0), figures(40_000, 0.3)),
    }
    of_all = {"of_all": {"rss_mb": 1.0, "start_ms": 1.0}}
    results = made({n: [{rate.key: a, most.key: b} | of_all] for n, (a, b) in found.items()}, [rate.key, most.key])
    assert page.ranked(results, rate) == ["quick", "unsure", "fastgw", "behind", "broken"]
    assert page.ranked(results, most) == ["quick", "fastgw", "unsure", "behind", "broken"]
    shown = page.written(results, "shootout-x").partition(f"## {most.title}")[0]
    assert "| 4 | behind | 700 |" in shown
    assert "behind: 23 % of the rate; an answer takes 0.5 ms (p50) once sent" in shown
    assert "the load tool was late for 4.0 %" in shown
    assert "Others were at work on this machine as this began (load average 7.0)" in shown


def test_the_page_is_that_of_the_committed_results() -> None:
    text = page.PAGE.read_text()
    (name,) = set(re.findall(r"results/(shootout-[0-9-]+)\.json", text))
    results = json.loads((page.RESULTS / f"{name}.json").read_text())
    assert text == page.written(results, name)
    assert results["settings"]["setups"] == [setup.key for setup in SETUPS], "of all set-ups"
