"""``fastgw import`` as people run it: a file in, a file out, what became of each entry, and a gateway that serves by it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgw.config import load
from fastgw.importing.cli import main
from fastgw.sim import SimConfig, Simulator
from tests.support.client import chat
from tests.support.gateway import running

SOURCE = """
model_list:
- {model_name: llama, litellm_params: {model: openai/sim, api_base: FIRST, order: 1}}
- {model_name: llama, litellm_params: {model: openai/sim, api_base: SECOND, order: 2}}
- {model_name: gone, litellm_params: {model: openai/sim, api_base: 'http://127.0.0.1:9/v1'}}
router_settings: {num_retries: 2, fallbacks: [{gone: [llama]}], model_group_alias: {gpt-4o: llama}}
"""


def written(folder: Path, text: str, name: str = "config.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def run(*argv: str) -> int:
    try:
        return main(argv, lambda name: "")
    except SystemExit as left:
        return int(str(left.code))


async def test_a_gateway_by_an_imported_file_serves_retries_and_falls_back(tmp_path: Path) -> None:
    """The first engine fails always: the second answers, at the client's first try. A model whose engine is gone is answered
    by the one that its fallbacks name, and an alias by its model."""
    async with Simulator(SimConfig(fault="status=500", record=9)) as first, Simulator(SimConfig(output_tokens=4)) as second:
        source = written(tmp_path, SOURCE.replace("FIRST", f"'{first.url}/v1'").replace("SECOND", f"'{second.url}/v1'"))
        out = str(tmp_path / "fastgw.toml")
        assert run("litellm", source, "--output", out) == 0
        config = load({"config": out, "port": "0"}, {}, tmp_path)
        names = ("max_retries", "retry_statuses", "retry_fresh", "routes")
        more: dict[str, Any] = {name: getattr(config, name) for name in names}
        async with running(list(config.engines), **more) as gw, await gw.client() as client:
            for model in ("llama", "gpt-4o", "gone"):
                answer = await client.ask(chat(model))
                assert answer.status == 200, answer.body
                assert answer.header_all("x-fallback-model") == (["llama"] if model == "gone" else [])
                assert gw.records[-1]["engine"] == second.url.removeprefix("http://")
            assert len(first.requests.to("/v1/chat/completions")) == 3, "each of them was at the first engine before"


def test_what_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(
        tmp_path, "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1'}}\n"
    )
    assert run("litellm", source) == 0
    told = capsys.readouterr()
    assert 'models = ["m"]' in told.out
    assert told.err.splitlines()[-1] == "3 translated, 0 translated with a difference, 0 not translated"
    out = tmp_path / "fastgw.toml"
    assert run("litellm", source, "--output", str(out)) == 0
    assert out.read_text() == told.out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    written(tmp_path, Path(source).read_text() + "x: {y: 1}\n")
    assert run("litellm", source, "--output", str(tmp_path / "gone" / "x")) == 2
    assert "it cannot be written: No such file or directory" in capsys.readouterr().err
    assert run("litellm", source, "--output", str(out)) == 2
    assert "is there already: name another, or say --force" in capsys.readouterr().err
    assert run("litellm", source, "--output", str(out), "--force") == 1
    assert "not translated:\n  x.y: nothing is known of it here" in capsys.readouterr().err


def test_files_that_it_includes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = "model_list:\n- {model_name: m, litellm_params: {model: openai/m, api_base: 'http://a:1'}}\n"
    written(tmp_path, one.replace("m,", "n,").replace("a:1", "b:1"), "more.yaml")
    assert run("litellm", written(tmp_path, f"include: [more.yaml]\n{one}")) == 0
    assert 'url = "http://b:1"' in capsys.readouterr().out
    many = str(["x"] * 33)
    for include, said in (("[gone.yaml]", "'gone.yaml': it cannot be read"), ("x", "no list of files"), (many, "32 files")):
        assert run("litellm", written(tmp_path, f"include: {include}\n")) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nginx", "x"], "argument kind: invalid choice: 'nginx'"),
        (["litellm"], "the following arguments are required: FILE"),
        (["litellm", "gone.yaml"], "gone.yaml: it cannot be read: No such file or directory"),
        (["tensorzero", "gone.toml"], "gone.toml: it cannot be read: No such file or directory"),
        (["litellm", "x", "--force"], "--force is of --output"),
        (["litellm", "x", "--output=/"], "is there already"),
    ],
)
def test_what_cannot_be_done(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_it_is_a_command_of_the_program(tmp_path: Path) -> None:
    source = written(tmp_path, '[models.m]\nrouting = ["a"]\n[models.m.providers.a]\ntype = "vllm"\nmodel_name = "m"\n'
                     'api_base = "http://a:1"\napi_key_location = "none"\n', "t.toml")  # fmt: skip
    words = [sys.executable, "-W", "error", "-m", "fastgw", "import", "tensorzero", source]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, 'aliases = ["tensorzero::model_name::m"]' in done.stdout) == (0, True), done.stderr
