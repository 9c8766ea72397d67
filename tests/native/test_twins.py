"""Which twin runs: what a process asks for, what it gets, and what it is told when it cannot have it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw import Config, Gateway, StartError, twins
from tests.cli.test_cli import environment

REPO = Path(__file__).parents[2]
RUNNING = "native" if twins.native() else "python"
SHOW = "from fastgw.accel import tokens, heads; print(tokens.__file__.rpartition('.')[2], heads.__file__.rpartition('.')[2])"


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(**env), capture_output=True, text=True, timeout=60, check=False
    )


def test_every_compiled_module_is_listed_and_has_its_source() -> None:
    """The list decides what runs, the folder what is built: a twin in one of them only would be half a switch."""
    names = {
        ".".join(path.relative_to(REPO / "native").with_suffix("").parts)
        for path in (REPO / "native").rglob("*.p[yx][xd]")
        if path.suffix == ".pyx" or (REPO / "fastgw" / path.relative_to(REPO / "native").with_suffix(".py")).exists()
    }
    assert set(twins.MODULES) == names
    assert [name for name in twins.MODULES if not twins.source_of(name).exists()] == []


def test_all_of_them_run_as_the_same_twin() -> None:
    ending = ".so" if RUNNING == "native" else ".py"
    strangers = []
    for name in twins.MODULES:
        path = importlib.import_module(f"fastgw.{name}").__file__
        if not str(path).endswith(ending):
            strangers.append((name, path))
    assert strangers == []


def test_python_runs_where_it_is_asked_for() -> None:
    assert python(SHOW, FASTGW_NATIVE="0").stdout == "py py\n"


@pytest.mark.both_twins
@pytest.mark.parametrize("asked", ["1", "auto", ""])
def test_the_compiled_twins_run_where_they_are(asked: str) -> None:
    assert python(SHOW, FASTGW_NATIVE=asked).stdout == "so so\n"


@pytest.mark.both_twins
def test_a_program_may_choose_before_it_imports_what_has_two() -> None:
    code = f"from fastgw import twins; print(twins.select('0')); {SHOW}"
    assert python(code, FASTGW_NATIVE="auto").stdout == "python\npy py\n"
    code = f"from fastgw import twins; print(twins.select('1')); {SHOW}"
    assert python(code, FASTGW_NATIVE="0").stdout == "native\nso so\n"


@pytest.mark.both_twins
def test_one_that_is_missing_takes_the_others_out() -> None:
    """As in an installation that was only half copied."""
    hide = "import os; there = os.listdir; os.listdir = lambda p: [n for n in there(p) if not n.startswith('hashing.cpython')]"
    assert python(f"{hide}; {SHOW}", FASTGW_NATIVE="auto").stdout == "py py\n"
    refused = python(f"{hide}; from fastgw import twins; twins.select('1')", FASTGW_NATIVE="auto")
    assert "ImportError: FASTGW_NATIVE=1 asks for the native extension, and this installation has none" in refused.stderr


def test_what_runs_may_be_asked_for_again() -> None:
    assert twins.select("auto") == RUNNING
    assert twins.select("1" if RUNNING == "native" else "0") == RUNNING


@pytest.mark.parametrize("mode", ["", "yes", "native", "2"])
def test_other_modes_are_mistakes(mode: str) -> None:
    with pytest.raises(ValueError, match="FASTGW_NATIVE"):
        twins.select(mode)


async def test_an_embedded_gateway_says_when_what_the_environment_insists_on_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twins, "built", lambda: False)
    monkeypatch.setattr(twins, "_loaded_native", lambda: False)
    monkeypatch.setenv("FASTGW_NATIVE", "1")
    with pytest.raises(StartError, match="this installation has none"):
        await Gateway(Config(port=0)).start()


async def test_an_embedded_gateway_refuses_to_start_as_what_it_is_not() -> None:
    other = "0" if RUNNING == "native" else "1"
    gateway = Gateway(Config(port=0, native=other))
    with pytest.raises(StartError, match=r"FASTGW_NATIVE=[01] (before the program starts|asks for the native extension)"):
        await gateway.start()
    async with Gateway(Config(port=0, native="1" if RUNNING == "native" else "0")) as gateway:
        assert gateway.url


def test_the_command_line_says_what_runs(tmp_path: Path) -> None:
    for mode, line in (("0", "native: no"), ("auto", f"native: {'yes' if twins.built() else 'no'}")):
        done = subprocess.run(
            [sys.executable, "-m", "fastgw", "version"],
            cwd=tmp_path, env=environment(FASTGW_NATIVE=mode), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[3] == line
