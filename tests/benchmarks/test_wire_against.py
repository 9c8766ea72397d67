"""A revision beside this checkout: it is that one which runs, its ratios are those of the rounds, and mistakes are told.

A real run, over the Python twin so that nothing has to be compiled, of this checkout's last commit.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
REPOSITORY = shutil.which("git") is not None and (ROOT / ".git").exists()


@pytest.fixture(autouse=True)
def _checkout_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.wire.{name}")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "benchmarks.wire", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.bench
@pytest.mark.quiet
@pytest.mark.skipif(not (COMPILER and REPOSITORY), reason="needs a C compiler and a git repository")
def test_a_short_run_measures_both_and_judges_their_ratio(tmp_path: Path) -> None:
    out = tmp_path / "against.json"
    short = ("--only", "fastgw-python", "--rows", "plain", "--connections", "8", "--out", str(out))
    short += ("--seconds", "0.3", "--rounds", "2")
    done = bench("--against", "HEAD", *short, "--most", "0.01")
    assert done.returncode == 1, "nothing is a hundred times cheaper than itself\n" + done.stdout + done.stderr
    result = json.loads(out.read_text(), parse_constant=pytest.fail)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    new, old = "fastgw (python)", f"fastgw (python) at {commit[:9]}"
    assert result["against"] == commit
    assert list(result["proxies"]) == [new, old]
    assert result["bad"] == {new: 0, old: 0}
    cpu = ["cpu_plain_us"]
    assert [entry["key"] for entry in result["ratios"]] == cpu
    for entry in result["ratios"]:
        assert entry["ratio"]["n"] == 2
        assert 0.2 < entry["ratio"]["median"] < 5
        assert entry["met"] is False
    assert done.stdout.count("NOT MET") == 1
    assert {*cpu, "dials_percent"} <= set(result["proxies"][new]["summary"])
    assert (module("checkout").PLACE / commit / "fastgw" / "__main__.py").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--against", "no-such-thing"), "no revision 'no-such-thing'"),
        (("--against", "HEAD", "--only", "nginx"), "name one of its kind in --only"),
        (("--most", "1.02"), "--against REVISION"),
        (("--against", "HEAD", "--publish"), "--publish"),
    ],
)
@pytest.mark.skipif(not (COMPILER and REPOSITORY), reason="needs a C compiler and a git repository")
def test_what_cannot_begin_says_why_and_leaves_nothing(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = bench(*arguments, "--out", str(tmp_path / "never"))
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "never").exists()


def test_the_other_folder_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although this checkout is installed in the environment, and is the folder that the benchmark is called in."""
    (tmp_path / "fastgw").mkdir()
    (tmp_path / "fastgw" / "__main__.py").write_text("print('from elsewhere')\nraise SystemExit(3)\n")
    (tmp_path / "fastgw" / "__init__.py").touch()
    against, measure, proxies, process = (module(name) for name in ("against", "measure", "proxies", "process"))
    monkeypatch.chdir(ROOT)

    found, pairs = against.beside([proxies.Direct(), proxies.Fastgw(native=False), proxies.Nginx()], tmp_path, "abc123" * 6)
    assert pairs == {"fastgw": "fastgw at abc123abc"}
    assert [p.name for p in found] == ["fastgw", "fastgw at abc123abc", "nginx"]
    assert found[0].version() != "from elsewhere"
    assert found[1].version() == "from elsewhere"
    with pytest.raises(measure.Failed, match=r"exited with 3: from elsewhere"):
        measure.measure(found[1], measure.Plan(1.0, 1, process.choose_cores(), 9))


@pytest.mark.skipif(not REPOSITORY, reason="needs a git repository")
def test_the_copies_that_were_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = module("checkout")
    monkeypatch.setattr(checkout, "PLACE", tmp_path)
    older = [tmp_path / f"{number:040x}" for number in range(8)]
    for age, path in enumerate(older):
        path.mkdir()
        os.utime(path, (1000 + age, 1000 + age))
    assert checkout.lay_out(f"{0:040x}") == older[0], "used again, and so not the next to go"
    made = checkout.lay_out(checkout.commit_of("HEAD"))
    assert (made / "fastgw" / "__main__.py").exists()
    assert set(tmp_path.iterdir()) == {made, older[0], *older[4:]}


def test_what_cannot_be_built_says_why(tmp_path: Path) -> None:
    checkout = module("checkout")
    with pytest.raises(checkout.NoCheckout, match=r"old has no native/build\.py; --only fastgw-python"):
        checkout.build(tmp_path, "old")
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "build.py").write_text("raise SystemExit('no C compiler here')\n")
    with pytest.raises(checkout.NoCheckout, match=r"old cannot be built: no C compiler here"):
        checkout.build(tmp_path, "old")


def test_neither_is_always_the_first_nor_nearer_to_the_others() -> None:
    against, proxies = module("against"), module("proxies")
    found, _ = against.beside([proxies.Nginx(), proxies.Fastgw()], ROOT, "abc123" * 6)
    named = [[p.name for p in against.order(found, number)] for number in (1, 2, 3)]
    new, old = "fastgw", "fastgw at abc123abc"
    assert named == [[new, old, "nginx"], [old, new, "nginx"], [new, old, "nginx"]]


@pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
def test_a_proxy_that_fails_ends_the_rounds_and_none_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, process, proxies, run = (module(name) for name in ("measure", "process", "proxies", "__main__"))
    started: list[Any] = []
    spawn = process.spawn
    monkeypatch.setattr(process, "spawn", lambda *a, **k: started.append(spawn(*a, **k)) or started[-1])
    good = proxies.Fastgw(native=False)
    broken = proxies.Fastgw("fastgw at abc", native=False, arguments=["--no-such-option"])
    cores = process.choose_cores()
    with module("tools").engine(cores.load) as port:
        wanted = module("rows").choose(["plain"])
        taken, failed = run._run_in_turns([good, broken], measure.Plan(0.2, 1, cores, port, wanted.rows), wanted, 3)
    assert taken == {"fastgw": [], "fastgw at abc": []}
    assert list(failed) == ["round 1"]
    assert "fastgw at abc exited with 2" in failed["round 1"]
    assert [child.poll() is None for child in started] == [False, False]


def rounds(**figures: list[float]) -> list[dict[str, float]]:
    return [dict(zip(figures, row, strict=True)) for row in zip(*figures.values(), strict=True)]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A machine that slows down in some rounds slows both: the ratio stays, where that of the two medians would be 1.5."""
    against = module("against")
    taken = {"new": rounds(cpu_plain_us=[10.0, 30.0, 30.0]), "old": rounds(cpu_plain_us=[10.0, 20.0, 30.0])}
    keys = against.keys(module("rows").choose(["plain", "unpaced"]))
    plain, flood = against.ratios(taken, {"new": "old"}, None, keys)
    assert plain["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.25, "n": 3, "notch": pytest.approx(1.57 * 0.25 / 3**0.5)}
    assert "1.000 (1.000..1.250)  ± 0.227" in against.verdict([plain])
    assert plain["met"] is None
    assert flood["ratio"] is None
    summary = against.summary(taken, keys)
    assert summary["new"] == {"cpu_plain_us": {"median": 30.0, "q1": 20.0, "q3": 30.0, "n": 3}}
    assert "30.00 (20.00..30.00)" in against.table(summary)


def test_nginx_is_beside_it_round_by_round_and_has_no_limit() -> None:
    against = module("against")
    taken = {name: rounds(cpu_plain_us=figures) for name, figures in (("new", [10.0, 30.0]), ("old", [10.0, 30.0]))}
    taken["nginx"] = rounds(cpu_plain_us=[20.0, 60.0])
    ours, peers = against.ratios(taken, {"new": "old"}, 1.02, ["cpu_plain_us"])
    assert (ours["old"], ours["ratio"]["median"], ours["met"]) == ("old", 1.0, True)
    assert (peers["old"], peers["ratio"]["median"], peers["met"]) == ("nginx", 0.5, None)
    assert "CPU per plain request, new/nginx  0.500 (0.500..0.500)" in against.verdict([ours, peers])
    assert "\nRSS idle, new/nginx " in against.verdict([peers | {"label": "RSS idle, MB"}])


@pytest.mark.parametrize(("old", "met"), [(10.0, True), (9.7, False), (float("nan"), False)])
def test_the_limit_is_met_or_not(old: float, met: bool) -> None:
    """10 for 9.7 is 1.031; and what was not measured is not within it."""
    against = module("against")
    keys = against.keys(module("rows").choose(["plain", "unpaced", "paced"]))
    every = {key: [10.0] for key in keys}
    taken = {"new": rounds(**every), "old": rounds(**every | {keys[-1]: [old]})}
    *others, paced = against.ratios(taken, {"new": "old"}, 1.02, keys)
    assert [entry["met"] for entry in others] == [True, True, True]
    assert paced["met"] is met
    assert against.verdict([*others, paced]).count("NOT MET") == (not met)
