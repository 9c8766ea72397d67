"""What a run of ``benchmarks.hostile`` leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile.__main__ import RESULTS, arguments, destination


@pytest.mark.parametrize(
    ("argv", "folder", "begins"),
    [
        ([], RESULTS, "hostile-"),
        (["--out", "/tmp/a.json"], Path("/tmp"), "a.json"),
        (["--only", "memory", "--out", "/tmp/a.json"], Path("/tmp"), "a.json"),
    ],
)
def test_the_figures_are_kept(argv: list[str], folder: Path, begins: str) -> None:
    out = destination(arguments(argv))
    assert out is not None
    assert out.parent == folder
    assert out.name.startswith(begins)


def test_those_of_a_part_of_a_run_are_not() -> None:
    assert destination(arguments(["--only", "memory", "--only", "stalls"])) is None


def test_a_part_of_a_run_is_not_published(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "memory", "--publish"])
    assert "leave --only out" in capsys.readouterr().err
