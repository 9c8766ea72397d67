"""Every fenced block of every page is executed, or loaded, or read, or it stands in ``NOT_TRIED`` with a reason; and that list
only shrinks.

Executed are blocks by tests of their page (``BY_PAGE``: which), and recipes. Every block of TOML is loaded as configuration,
JSON and YAML are read. What is left are commands that compile, install, or need a machine of their own: of those make is asked
for the targets (``test_pages.py``), and here each command of fastgw for its flags.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from fastgw.cli import main
from fastgw.config import load
from fastgw.config.table import TABLE
from tests.docs.test_limits_page import STORIES
from tests.docs.test_pages import ROOT, TEXTS

INLINE = re.compile(r"`(?:\.venv/bin/)?fastgw ([a-z][\w-]*(?: (?:create|update|rotate))?)((?: [^`]*)?)`")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    kind: str
    text: str

    @property
    def name(self) -> str:
        first = self.text.strip().splitlines()[0].partition("  ")[0]
        return f"{self.page}: {first[:48].strip()}"


BLOCKS = [Block(page, *found) for page, text in TEXTS.items() for found in FENCE.findall(text)]

BY_PAGE = {
    **{(f"docs/{page}", "sh"): "docs/test_limits_page.py" for page in STORIES},
    ("README.md", "sh"): "docs/test_readme.py",
    ("README.md", "python"): "docs/test_readme.py",
    ("docs/migrate.md", "toml"): "docs/test_migrate_page.py",
    ("docs/migrate.md", "nginx"): "docs/test_migrate_page.py",
    ("docs/gpu.md", "sh"): "docs/test_gpu_page.py",
    ("docs/limits.md", "python"): "e2e/test_webhook.py",
    ("docs/runners.md", "sh"): "docs/test_runners_page.py",
    ("docs/simulator.md", "sh"): "sim/test_cli.py",
    ("docs/simulator.md", "python"): "sim/test_cli.py",
    ("docs/tls.md", "sh"): "docs/test_tls_page.py",
    ("docs/tls.md", "toml"): "docs/test_tls_page.py",
    ("docs/tls.md", "nginx"): "docs/test_tls_page.py",
    ("docs/tls.md", "haproxy"): "docs/test_tls_page.py",
    ("docs/tls.md", "text"): "docs/test_tls_page.py",
    ("docs/phases.md", "mermaid"): "exchange/test_drawn.py",
}

NOT_TRIED = {
    "CONTRIBUTING.md: make native": "a build with AddressSanitizer takes an hour, in a copy of the checkout",
    "docs/bench.md: Workers | RPS": "what a command above it printed once",
    "docs/deploy.md: cp -r dist/fastgw-dir /opt/fastgw-0.1.0": "wants to be root; `make binary-test` tries the folder",
    "docs/deploy.md: docker build -t fastgw .": "wants Docker; `make image` builds and runs it by buildah",
    "docs/deploy.md: sha256sum --check --ignore-missing SHA256SUMS": "wants a release; the sums are checked by tests/deploy",
    "docs/gpu.md: docker run --gpus all -e NVIDIA_DRIVER_CAPABILIT": "wants a GPU, and Docker",
    "docs/operations.md: /var/log/fastgw.log {": "logrotate's; the signal that it sends is tried elsewhere",
    'docs/reload.md: pkill -HUP -n -f "fastgw [s]erve"': "would signal what else runs here; SIGHUP is tried elsewhere",
    "docs/upgrade.md: cp -r dist/fastgw-dir /opt/fastgw-0.2.0": "wants to be root; `make binary-test` does as it says",
    "docs/runners.md: runner ──── WebSocket: register, heartbeats, com": "a picture",
    "docs/runners.md: engine ◀── HTTP ── runner ════ one WebSocket: te": "a picture",
    "docs/traces.md: POST /v1/chat/completions": "a picture",
}  # fmt: skip
"""By a block's page and first line: why nothing tries it."""
MOST_NOT_TRIED = 12

# Of a block that is not executed: commands of others than fastgw and make that may stand in it beside them.
BESIDE = (
    "export FASTGW_BUILD_NATIVE=0 FASTGW_NATIVE=0",
    "cp deploy/env.example ",
    "docker run ",
    "pip install 'fastgw[",
    "curl -s http://127.0.0.1:8080/metrics ",
    "dist/",
)


def executed(block: Block) -> bool:
    return (block.page, block.kind) in BY_PAGE or block.page.startswith("docs/recipes/")


def left(*kinds: str) -> list[Block]:
    """The blocks of these kinds that no test of their page executes."""
    return [one for one in BLOCKS if one.kind in kinds and not executed(one) and one.name not in NOT_TRIED]


def test_each_block_is_tried_in_some_way() -> None:
    known = ("toml", "json", "yaml", "sh", "", "mermaid")
    assert [one.name for one in BLOCKS if not executed(one) and one.kind not in known and one.name not in NOT_TRIED] == []
    assert {name for name in NOT_TRIED if name not in {one.name for one in BLOCKS if not executed(one)}} == set(), "it may go"
    assert len(NOT_TRIED) <= MOST_NOT_TRIED, "one more that nothing tries: try it"


@pytest.mark.parametrize(("page", "kind", "by"), [(*key, by) for key, by in BY_PAGE.items()])
def test_who_executes_a_block_reads_its_page(page: str, kind: str, by: str) -> None:
    assert any((one.page, one.kind) == (page, kind) for one in BLOCKS), "no such block any more"
    source = (ROOT / "tests" / by).read_text()
    assert Path(page).name in source or Path(page).stem + "_markdown" in source


@pytest.mark.parametrize("block", left("toml"), ids=lambda block: block.name)
def test_settings_are_taken(block: Block, tmp_path: Path) -> None:
    """Loaded as ``fastgw check`` loads it; what it names below /etc is there."""
    (tmp_path / "engines.json").write_text("[]")
    (tmp_path / "fastgw.toml").write_text(block.text.replace("/etc/fastgw", str(tmp_path)))
    assert load({"config": str(tmp_path / "fastgw.toml")}, {}, tmp_path).warnings == ()


@pytest.mark.parametrize("block", left("json", "yaml"), ids=lambda block: block.name)
def test_documents_are_read(block: Block) -> None:
    assert json.loads(block.text) if block.kind == "json" else list(yaml.safe_load_all(block.text))


@cache
def flags_of(*command: str) -> str:
    """What a command's help says; of those that take every setting, the flags of all of these."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    settings = [f"--{row.name.replace('_', '-')}" for row in TABLE] if command[0] in ("serve", "check") else []
    return "\n".join([said.getvalue(), *settings])


def lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("block", left("sh", ""), ids=lambda block: block.name)
def test_commands_that_are_not_run_are_such_as_there_are(block: Block) -> None:
    for line in lines(block.text):
        words = [word for word in shlex.split(line) if word not in ("&", "|")]
        while "=" in words[0] and not words[0].startswith("-"):
            words.pop(0)
        if line.startswith(BESIDE) or words[0] == "make":  # (its targets: test_pages)
            continue
        if words[0] in ("python", ".venv/bin/python") and words[1] == "-m":
            assert importlib.util.find_spec(words[2]), line
            continue
        assert words[0] == "fastgw", f"nobody tries this: {line}"
        flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
        said = flags_of(words[1])
        assert [flag for flag in flags if not re.search(rf"{flag}\b", said)] == [], line


def test_flags_between_backticks_are_taken() -> None:
    """`fastgw serve --flag` in a page's text."""
    wrong = []
    for page, text in TEXTS.items():
        if page == "CHANGELOG.md":  # what there was
            continue
        for command, rest in INLINE.findall(text):
            said = flags_of(*command.split(" "))
            wrong += [f"{page}: fastgw {command} {flag}" for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)
                      if not re.search(rf"{flag}\b", said)]  # fmt: skip
    assert wrong == []


def test_what_the_picture_of_the_house_names_is_a_class() -> None:
    (diagram,) = (one.text for one in left("mermaid"))
    named = set(re.findall(r"\[(\w+)\]", diagram)) - {"client", "engine", "filters"}  # (round ones, and all of a kind)
    source = "".join(path.read_text() for path in (ROOT / "fastgw").rglob("*.py"))
    assert len(named) > 10
    assert {name for name in named if not re.search(rf"^class {name}\b", source, re.MULTILINE)} == set()
