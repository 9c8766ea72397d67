"""The tables: their columns, what is marked, and that rich and plain text say the same."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest

from fastgw.bench import tables
from fastgw.bench.percentiles import spread
from fastgw.bench.plan import Plan, Slo, Stage
from fastgw.bench.tally import Failure, Result, Tokens
from tests.bench.measured import planned, told

pytestmark = pytest.mark.once


def row(stage: Stage, values: list[float], plan: Plan | None = None, **more: Any) -> Result:
    of = spread(values)
    base = told(stage, plan)
    changed = {"good": of.n, "begun": of.n, "duration_s": 2.0, "rps": of.n / 2, "latency_s": of, "ttft_s": of, **more}
    return msgspec.structs.replace(base, **changed)


PLAN = planned()
PLAIN = [row(Stage(False, workers=workers), [0.1 + at / 1000 for at in range(workers * 50)]) for workers in (1, 4)]
STREAMS = [row(Stage(True, workers=1), [0.078, 0.1, 0.218]), row(Stage(True, workers=32), [1.2, 1.78, 1.841])]


def test_S5_11_the_two_tables() -> None:
    plain, streams, *_ = tables.tables(PLAIN + STREAMS, PLAN)
    assert plain.columns == ("Workers", "RPS", "Avg(ms)", "P95(ms)", "P99(ms)", "Status")
    assert plain.rows == [
        ("1", "25.00", "124.50", "147.00", "149.00*", "✅ OK"),
        ("4", "100.00", "199.50", "289.00", "297.00", "✅ OK"),
    ]
    assert streams.columns == ("Workers", "Total Reqs", "Avg TTFT", "P50 TTFT", "P99 TTFT", "Stability")
    assert streams.rows == [
        ("1", "3", "132.00", "100.00", "218.00*", "✅ OK"),
        ("32", "3", "1607.00", "1780.00", "1841.00*", "⚠️ High Latency"),
    ]
    lines = tables.text(plain).splitlines()
    assert lines[:4] == [
        "Non-stream", "",
        "Workers | RPS    | Avg(ms) | P95(ms) | P99(ms) | Status",
        "------- | ------ | ------- | ------- | ------- | ------",
    ]  # fmt: skip
    assert tables.FEW in tables.remarks(PLAIN, PLAN)


@pytest.mark.parametrize(("more", "said"), [
    ({"failed": 3, "failures": [Failure("status 429", 2, "slow down"), Failure("empty", 1, "")]}, "2 x status 429: slow down"),
    ({"left": 2}, "2 were under way"),
    ({"delayed": 4}, "4 waited because"),
    ({"tokens": Tokens(answers_told=3, completion_told=9, texts=5, texts_of_told=5, differ=2)}, "9 told, 5 came"),
    ({"tokens": Tokens(answers_told=1, texts=3, texts_of_told=1)}, "2 answers told no usage"),
    ({"tokens": Tokens(answers_told=3, prompt_told=11, prompt_estimated=9)}, "9 tokens by estimate, 11 by the server"),
    ({"without_done": 3}, "without [DONE]"),
    ({"redialled": 1}, "1 were sent again"),
    ({"stalls": 5, "stalled": 2}, "2 streams stalled, 5 gaps above 1 s"),
    ({"gaps_left_out": 7}, "the last 7 gaps"),
])  # fmt: skip
def test_what_is_odd_is_said(more: dict[str, Any], said: str) -> None:
    found = row(STREAM, [0.1, 0.1, 0.1], **more)
    assert [line for line in tables.remarks([found], PLAN) if said in line]
    well = row(STREAM, [0.1, 0.1, 0.1], tokens=Tokens(answers_told=3))
    assert not [line for line in tables.remarks([well], PLAN) if said in line]


STREAM = Stage(True, workers=1)


def test_the_closed_loop_says_what_it_hides_and_an_open_one_does_not() -> None:
    assert any("stalls is asked less" in line for line in tables.remarks(STREAMS, PLAN))
    assert not any("stalls is asked less" in line for line in tables.remarks([row(Stage(True, rate=2.0), [0.1])], PLAN))


def test_goodput_has_a_table_where_it_is_asked_for() -> None:
    plan = planned(slo=Slo(ttft=0.2))
    titles = [table.title for table in tables.tables(STREAMS, plan)]
    assert "Within ttft 0.2 s" in titles
    assert tables.stability(STREAMS[0], plan) == "⚠️ High Latency"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def test_rich_and_plain_text_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    hostile = row(STREAM, [0.1], failed=1, failures=[Failure("error event", 1, "[bold]no[/bold]")])
    shown = []
    for tty in (True, False):
        out = Terminal(tty)
        tables.show([*STREAMS, hostile], PLAN, out)
        shown.append(out.getvalue())
    for table in tables.tables([*STREAMS, hostile], PLAN):
        for cell in (cell for line in (table.columns, *table.rows) for cell in line):
            assert all(cell in text for text in shown), cell
    assert all("[bold]no[/bold]" in text for text in shown)
    assert "│" in shown[0]
    assert "│" not in shown[1]


def test_a_terminal_without_unicode_gets_words() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    tables.show(STREAMS, PLAN, out)
    out.flush()
    assert b"| High Latency" in raw.getvalue()
    assert b"?" not in raw.getvalue()
