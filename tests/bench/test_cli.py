"""The command: what its flags come to, what is refused, and a run of it as people run it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from fastgw.bench.cli import main, planned, verdict
from fastgw.bench.flags import parser
from fastgw.bench.plan import Plan, Slo, Stage
from fastgw.sim import SimConfig, Simulator
from tests.bench.measured import told

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]


def come_to(*argv: str) -> tuple[Plan, list[Stage]]:
    return planned(parser().parse_args(["--model", "m", *argv]), "")


def test_S5_11_without_flags_it_is_the_two_tables() -> None:
    plan, stages = come_to()
    assert plan.url == "http://127.0.0.1:8080/v1/chat/completions"
    assert (plan.prompt, plan.max_tokens) == ("hi", 32)
    assert [stage.workers for stage in stages if not stage.stream] == [1, 4, 8, 16]
    assert [(stage.workers, stage.requests) for stage in stages if stage.stream] == [
        (1, 3), (2, 6), (4, 12), (8, 24), (16, 48), (32, 96),
    ]  # fmt: skip
    assert {(stage.duration_s, stage.requests) for stage in stages if not stage.stream} == {(5.0, 0)}


@pytest.mark.parametrize(("argv", "stages"), [
    (["--stream", "--workers", "2,8", "--duration", "3"], [Stage(True, workers=n, duration_s=3.0) for n in (2, 8)]),
    (["--no-stream", "--workers", "2", "--per-worker", "5"], [Stage(False, workers=2, requests=10)]),
    (["--no-stream", "--workers", "2", "--per-worker", "5", "--requests", "7"], [Stage(False, workers=2, requests=7)]),
    (["--stream", "--rate", "0.5, 2"], [Stage(True, rate=0.5, duration_s=10.0), Stage(True, rate=2.0, duration_s=10.0)]),
    (["--rate", "3", "--requests", "9"], [Stage(stream, rate=3.0, requests=9) for stream in (False, True)]),
])  # fmt: skip
def test_rows(argv: list[str], stages: list[Stage]) -> None:
    assert come_to(*argv)[1] == stages


def test_what_is_asked() -> None:
    plan, _ = come_to(
        "--url", "https://api.example.com/v1/chat/completions", "--slo", "ttft=0.5,itl=0.05", "--header", "X-A: b c",
        "--extra", '{"temperature":0}', "--api-key", "sk-1", "--turns", "3", "--prompt-tokens", "100", "--no-usage",
    )  # fmt: skip
    assert plan.url == "https://api.example.com:443/v1/chat/completions"
    assert (plan.slo, plan.fields, plan.extra) == (Slo(ttft=0.5, itl=0.05), (("X-A", "b c"),), {"temperature": 0})
    assert (plan.key, plan.turns, plan.tokens_of(2), plan.usage) == ("sk-1", 3, 100, False)


@pytest.mark.parametrize("line", [
    "--workers 0", "--workers 1,,2", "--workers secret", "--workers 10001", "--workers 1 --rate 1", "--stream --no-stream",
    "--rate -1", "--rate 1e9", "--prompt-tokens 1000001", "--turns 1001", "--requests 1000001", "--duration 0",
    "--slo secret=1", "--slo ttft", "--slo ttft=0", "--slo ttft=1,ttft=2", "--url http://user:secret@host", "--url ftp://secret",
    "--header secret", "--header 'Host: secret'", "--header 'Content-Length: 5'", "--header 'a: b\r\nx: secret'",
    "--extra [secret",
    """--extra '{"stream":true}'""", "--api-key 'a secret'", "--trace /nowhere/secret", "--rate 1 --per-worker 2",
    "--workers 1" + ",1" * 64, "--json /nowhere/secret/report", "--html /", "--timeout nan", "--api secret",
    "--prompt \udcff", "--work 1", "--api-kye secret", "--api-kye=secret", "--think\nsecret",
])  # fmt: skip
def test_what_makes_no_sense_is_refused_without_repeating_it(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--model", "m", *shlex.split(line)], "")
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.startswith("fastgw bench: error: ")
    assert said.err.endswith("(see fastgw bench --help)\n")
    assert said.err.count("\n") == 1
    assert "secret" not in said.err


def test_a_trace_that_cannot_be_read_is_told_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"at_s":0,"prompt_tokens":1,"max_tokens":1}\n{}\n')
    with pytest.raises(SystemExit):
        come_to("--trace", str(path))
    assert "--trace: line 2: it has none of at_s" in capsys.readouterr().err
    path.write_text('{"at_s":0,"prompt_tokens":1,"max_tokens":1}\n')
    [stage, _] = come_to("--trace", str(path))[1]
    assert (len(stage.trace), stage.requests) == (1, 1)


@pytest.mark.parametrize(("rows", "code"), [
    ([(3, 0), (1, 0)], 0), ([(3, 0), (2, 1)], 1), ([(3, 0), (0, 0)], 1), ([(0, 2)], 1), ([], 1),
])  # fmt: skip
def test_one_bad_answer_is_a_failure(rows: list[tuple[int, int]], code: int) -> None:
    row = told(Stage(True, workers=1))
    assert verdict([msgspec.structs.replace(row, good=good, failed=failed) for good, failed in rows]) == code


async def run(*argv: str, ends_after_s: float = 0.0, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    kept = {name: os.environ[name] for name in ("PATH", "FASTGW_NATIVE") if name in os.environ}
    environ = {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    command = [sys.executable, "-W", "error", "-m", "fastgw", "bench", *argv]
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    if ends_after_s:
        assert process.stderr is not None
        await process.stderr.readline()  # the row has begun
        await asyncio.sleep(ends_after_s)
        process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 25)
    return process.returncode or 0, out.decode(), err.decode()


async def test_S5_11_a_run_of_both_tables_with_reports(tmp_path: Path) -> None:
    async with Simulator(SimConfig(models=["llama"], api_key="sk-secret", ttft_ms=5.0)) as sim:
        code, out, err = await run(
            "--url", sim.url, "--model", "llama", "--workers", "1,2", "--requests", "4", "--json", str(tmp_path / "r.json"),
            "--html", str(tmp_path / "r.html"), OPENAI_API_KEY="sk-secret",
        )  # fmt: skip
        assert code == 0, err
        code, refused, told = await run("--url", sim.url, "--model", "llama", "--stream", "--workers", "1", "--requests", "2")
    assert "Workers | RPS" in out
    assert "Workers | Total Reqs | Avg TTFT | P50 TTFT | P99 TTFT | Stability" in out
    assert err.splitlines() == [f"[{n}/4] {mode} closed {workers}" for n, (mode, workers) in enumerate(
        [("plain", 1), ("plain", 2), ("stream", 1), ("stream", 2)], 1)]  # fmt: skip
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [(row["good"], row["failed"]) for row in rows] == [(4, 0)] * 4
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert not [name for name in ("r.json", "r.html") if "secret" in (tmp_path / name).read_text()]
    assert code == 1
    assert refused == ""
    assert "/v1/chat/completions: status 401: Unauthorized (give the key of a caller in OPENAI_API_KEY)\n" in told


async def test_ctrl_c_prints_what_there_is() -> None:
    async with Simulator(SimConfig(ttft_ms=20.0)) as sim:
        code, out, _ = await run("--url", sim.url, "--model", "sim", "--workers", "1", "--duration", "60", ends_after_s=1.0)
    assert code == 130
    assert "were under way when it was stopped" in out or "✅ OK" in out
    assert "Non-stream" in out
    assert "Stream," not in out


async def test_nobody_listens() -> None:
    code, out, err = await run("--url", "http://127.0.0.1:9", "--model", "m", "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith("fastgw bench: http://127.0.0.1:9/v1/chat/completions: no connection: Connection refused (is it run")


async def test_the_help_has_examples_that_the_command_takes() -> None:
    code, out, _ = await run("--help")
    assert code == 0
    begins = ("  fastgw bench --", "  OPENAI_API_KEY=")
    examples = [line.strip().split("    ")[0] for line in out.splitlines() if line.startswith(begins)]
    assert len(examples) >= 7
    for line in examples:
        parser().parse_args(line.partition(" bench ")[2].split())
