"""What measuring costs: the table, and one short run where a C compiler is."""

from __future__ import annotations

import pytest

from benchmarks.clients.__main__ import Found, main, table
from benchmarks.wire import tools


def test_ratios_are_taken_round_by_round() -> None:
    found = {"plain": {"loadgen": Found([10.0, 20.0, 10.0], [0.0] * 3, [100.0] * 3),
                       "fastgw bench": Found([30.0, 40.0, 20.0], [0.0] * 3, [50.0, 60.0, 70.0])}}  # fmt: skip
    head, first, second = table(found).splitlines()
    assert head.split() == ["client", "us/request", "us/event", "req/s", "of", "loadgen"]
    assert first.split() == ["plain", "loadgen", "10.0", "-", "100", "1.0x"]
    assert second.split() == ["plain", "fastgw", "bench", "30.0", "-", "60", "2.0x"]


def test_what_there_is_not_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "plain,other"])
    assert "there is no other" in capsys.readouterr().err


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        tools.build("loadgen")
    except tools.NoCompiler as error:
        pytest.skip(str(error))
    assert main(["--seconds", "0.3", "--rounds", "1", "--connections", "4", "--rows", "unpaced"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["loadgen", "fastgw", "fastgw"]
