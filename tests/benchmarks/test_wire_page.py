"""What is shown of the wire benchmark's results: the committed chart and table are those of the committed file.

The table is read back from the page cell by cell, the chart's bars from the SVG: neither by the code that wrote them.
"""

from __future__ import annotations

import importlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
KEYS = {
    "CPU per plain request, µs": "cpu_plain_us",
    "CPU per event, unpaced, µs": "cpu_flood_us",
    "CPU per event, paced, µs": "cpu_event_us",
    "one connection p50, µs": "one_p50_us",
    "one connection p99, µs": "one_p99_us",
    "first event p50 added, µs": "ttft_p50_added_us",
    "plain requests/s": "rps",
    "RSS idle, MB": "rss_idle_mb",
    "RSS after 1,000,000 requests, MB": "rss_soaked_mb",
    "exec to first served request, ms": "start_ms",
}


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


def shown() -> tuple[str, dict[str, Any], str]:
    """The measured section of the page, the results that it names, and the name of their file."""
    page = (ROOT / "benchmarks" / "README.md").read_text()
    section = page.partition("## Measured\n")[2].partition("\n## ")[0]
    names = set(re.findall(r"results/(wire-[0-9-]+)\.(?:json|svg)", section))
    assert len(names) == 1
    name = names.pop()
    return section, json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()), name


def numbers(cell: str) -> list[float]:
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]+(?:\.\d+)?", cell)]


def test_the_table_on_the_page_says_what_the_results_say() -> None:
    section, results, _ = shown()
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    labels = [label.strip() for label in lines[0][1:]]
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in lines[2:]}
    assert list(rows) == list(results["proxies"])
    assert {"cpu_plain_us", "cpu_event_us", "one_p50_us", "start_ms"} <= {KEYS[label] for label in labels}
    for proxy, cells in rows.items():
        for label, cell in zip(labels, cells, strict=True):
            figure = results["proxies"][proxy]["summary"].get(KEYS[label])
            if figure is None:
                assert cell == "-", (proxy, label)
                continue
            told = numbers(cell)
            if len(told) == 1:
                told *= 3
            assert told == pytest.approx([figure["median"], figure["min"], figure["max"]], abs=0.51), (proxy, label)


def test_the_bars_on_the_page_are_those_of_the_results() -> None:
    section, results, _ = shown()
    told = re.findall(r"^- \*\*(met|NOT MET|not measured)\*\*: (.*) [<>]=", section, re.MULTILINE)
    words = {True: "met", False: "NOT MET", None: "not measured"}
    assert told == [(words[bar["met"]], bar["label"]) for bar in results["bars"]]


def test_the_page_is_what_would_be_written_now() -> None:
    section, results, name = shown()
    assert module("page").section(results, name) in section


def test_the_committed_chart_is_drawn_from_the_results() -> None:
    section, results, name = shown()
    assert f"](results/{name}.svg)" in section
    assert (ROOT / "benchmarks" / "results" / f"{name}.svg").read_text() == module("chart").draw(results)


def between(marks: tuple[str, str]) -> tuple[str, dict[str, Any], str]:
    """What stands between them on the page of performance, the results that it names, and the name of their file."""
    text = (ROOT / "docs" / "performance.md").read_text()
    begin, end = marks
    section = text.partition(begin)[2].partition(end)[0]
    (name,) = set(re.findall(r"benchmarks/results/([\w-]+)\.json\)", section))
    return section.strip("\n"), json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()), name


def test_the_figures_of_the_page_of_performance_are_what_would_be_written_now() -> None:
    page = module("page")
    section, results, name = between(page.FIGURES)
    assert section == page.figures(results, name)
    row = next(line for line in section.splitlines() if line.startswith("| CPU per plain request, µs "))
    nginx = results["proxies"]["nginx"]["summary"]["cpu_plain_us"]
    assert f"| {nginx['median']:.1f} (" in row


def test_where_the_time_goes_is_what_would_be_written_now() -> None:
    page, where = module("page"), module("where")
    section, results, name = between(page.WHERE)
    assert section == where.section(results, name)


def results_of(**medians: dict[str, float]) -> dict[str, Any]:
    summaries = {
        name.replace("_", "-"): {key: {"median": v, "min": v * 0.9, "max": v * 1.1} for key, v in figures.items()}
        for name, figures in medians.items()
    }
    return {
        "machine": {"cpu": "A <fast> CPU", "date": "2026-01-01T00:00:00Z", "git_commit": ""},
        "settings": {"connections": 64, "rounds": 3, "pinned": True},
        "proxies": {name: {"summary": summary} for name, summary in summaries.items()},
    }


def drawn(results: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(module("chart").draw(results))


def test_bars_are_to_scale_the_cheapest_first_and_told_in_figures() -> None:
    root = drawn(results_of(nginx={"cpu_plain_us": 20.0}, fastgw={"cpu_plain_us": 10.0}, direct={}))
    bars = [(bar.get("class"), float(bar.get("width", "0"))) for bar in root.iter(f"{SVG}rect")][1:]
    assert [kind for kind, _ in bars] == ["own", "bar"]
    assert bars[1][1] / bars[0][1] == pytest.approx(2, rel=0.01)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "10.0" in words
    assert "20.0" in words
    assert "direct" not in words, "it has no process whose time could be taken"
    assert any("A <fast> CPU" in (text or "") for text in words)


def test_a_long_name_has_room_before_its_bars() -> None:
    names = {"fastgw (limits, h2)": {"cpu_plain_us": 10.0}}
    text = next(text for text in drawn(results_of(**names)).iter(f"{SVG}text") if (text.text or "").startswith("fastgw"))
    assert float(text.get("x", "0")) >= 7 * len("fastgw (limits, h2)"), "it ends there, and is cut off at the left"


def test_a_whisker_goes_from_the_least_to_the_greatest_round() -> None:
    root = drawn(results_of(fastgw={"cpu_plain_us": 10.0}))
    bar = list(root.iter(f"{SVG}rect"))[1]
    left, scale = float(bar.get("x", "0")), float(bar.get("width", "0")) / 10
    across = next(line for line in root.iter(f"{SVG}line") if line.get("class") == "whisker")
    reach = [(float(across.get(x, "0")) - left) / scale for x in ("x1", "x2")]
    assert reach == pytest.approx([9, 11], abs=0.05)


def test_a_bar_that_would_flatten_the_others_is_cut_with_a_mark() -> None:
    medians = {"fastgw": 12.0, "sglang_router": 50.0, "litellm": 7250.0}
    root = drawn(results_of(**{name: {"cpu_plain_us": median} for name, median in medians.items()}))
    own, router, cut = [float(bar.get("width", "0")) for bar in list(root.iter(f"{SVG}rect"))[1:]]
    assert router / own == pytest.approx(50 / 12, rel=0.01)
    assert router < cut < 2 * router
    assert sum(line.get("class") == "break" for line in root.iter(f"{SVG}line")) == 2
    assert "7,250" in [text.text for text in root.iter(f"{SVG}text")]


def test_publishing_writes_between_the_marks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module("page")
    copy, other = tmp_path / "README.md", tmp_path / "performance.md"
    copy.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    begin, end = page.FIGURES
    other.write_text(f"before\n{begin}\n{end}\n{page.WHERE[0]}\nkept\n{page.WHERE[1]}\n")
    monkeypatch.setattr(page, "PAGE", copy)
    monkeypatch.setattr(page, "PERFORMANCE", other)
    _, results, name = shown()
    (tmp_path / f"{name}.json").write_text(json.dumps(results))
    page.publish(tmp_path / f"{name}.json")
    assert other.read_text().startswith(f"before\n{begin}\n`python -m benchmarks.wire ")
    assert other.read_text().endswith(f"\n{end}\n{page.WHERE[0]}\nkept\n{page.WHERE[1]}\n")
    text = copy.read_text()
    assert text.startswith(f"before\n{page.BEGIN}\n`python -m benchmarks.wire ")
    assert text.endswith(f"\n{page.END}\nafter\n")
    assert "\nold\n" not in text
    assert (tmp_path / f"{name}.svg").exists()
    copy.write_text("a page without marks")
    with pytest.raises(ValueError, match="has not both marks"):
        page.publish(tmp_path / f"{name}.json")


def test_engines_over_http2_have_a_section_of_their_own() -> None:
    """Read from its own marks; its bars are those of HTTP/2 alone."""
    page = module("page")
    section = page.PAGE.read_text().partition(page.H2[0])[2].partition(page.H2[1])[0].strip("\n")
    (name,) = set(re.findall(r"results/(h2-[0-9-]+)\.", section))
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert page.of_h2(results)
    assert not page.of_h2(shown()[1])
    assert section == page.section(results, name)
    assert (ROOT / "benchmarks" / "results" / f"{name}.svg").read_text() == module("chart").draw(results)
    told = re.findall(r"^- \*\*(met|NOT MET|not measured)\*\*: (.*) <=", section, re.MULTILINE)
    assert len(told) == 6
    assert all("h2" in label for _, label in told)
    rounds = results["proxies"]["fastgw (limits, h2)"]["rounds"]
    assert results["settings"]["rounds"] == len(rounds)


def test_rounds_are_added_to_those_of_the_same_commit_alone(tmp_path: Path) -> None:
    main = module("__main__")
    about = module("machine").facts()
    file = tmp_path / "before.json"
    file.write_text(json.dumps({"machine": about, "proxies": {"nginx": {"rounds": [{"rps": 1.0, "one_p50_us": None}]}}}))
    found = main._earlier(file)
    assert found["nginx"][0]["rps"] == 1.0
    assert found["nginx"][0]["one_p50_us"] != found["nginx"][0]["one_p50_us"], "what was not measured has no figure"
    file.write_text(json.dumps({"machine": about | {"git_commit": "another"}, "proxies": {}}))
    assert main.main(["--more", str(file)]) == 2
