"""The report as JSON: what is in it, what never is, and that a file is whole or as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastgw.bench import report
from fastgw.bench.plan import Stage
from tests.bench.measured import planned, told

pytestmark = pytest.mark.once

PLAN = planned(key="sk-secret", fields=(("x-secret", "two"),), prompt="three secrets", extra={"user": "secret"})


def test_all_figures_and_no_secrets() -> None:
    text = report.json([told(Stage(True, rate=2.5))], report.about(PLAN))
    found = json.loads(text)
    assert found["form"] == report.FORM
    assert found["about"]["url"] == "http://127.0.0.1:1/v1/chat/completions"
    assert found["about"]["prompt"] == "a text of 13 characters"
    [row] = found["rows"]
    assert (row["name"], row["load"], row["stream"]) == ("2.5/s", "poisson", True)
    assert {"ttft_s", "gap_s", "tpot_s", "latency_s", "failures", "tokens", "client", "goodput", "stalls"} <= set(row)
    assert b"secret" not in text


def test_a_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    report.write(str(path), b"first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write(str(path), b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
