"""What the page about runners tells to type is typed, and what it says of messages and answers is what the code has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.control import admin_runners
from fastgw.errors import ErrorKind
from fastgw.protocol import runner_words as words
from tests.support.ports import closed_port

PAGE = (Path(__file__).parents[2] / "docs" / "runners.md").read_text()
KINDS = [value for value in vars(admin_runners).values() if isinstance(value, ErrorKind)]


def test_the_commands_do_what_they_should(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for port in ("8000", "8080", "9090"):
        text = re.sub(rf"(?<=[: ]){port}\b", str(closed_port()), text)
    text = text.replace("--retry 20", "--retry 20 --retry-delay 1")
    ends = 'trap \'kill $(jobs -p); wait\' EXIT\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", ends + text], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False,
                          env={**os.environ, "PATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr
    decoder, documents, at = json.JSONDecoder(), [], done.stdout.find("{")  # (behind what the engine says)
    while at >= 0:
        found, at = decoder.raw_decode(done.stdout, at)
        documents.append(found)
        at = done.stdout.find("{", at)
    assert documents[0]["id"] == "fast"
    assert documents[1]["model"] == "llama"
    assert [one["id"] for one in documents[2]["data"]] == ["den"]


def test_each_message_and_its_members_are_on_the_page() -> None:
    rows = dict(re.findall(r"^\| (`\w+`[^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE))
    for kind in (words.Register, words.CommandResponse, words.RegisterAck, words.LoadModel, words.RequestStatus, words.Ping,
                 words.Error):  # fmt: skip
        tag = kind.__struct_config__.tag
        (members,) = [said for names, said in rows.items() if f"`{tag}`" in names]
        assert set(re.findall(r"`([a-z_]+)`", members)) >= set(kind.__struct_fields__), tag
    status = PAGE[PAGE.index("A *status* is") :]
    for name in (*words.RunnerStatus.__struct_fields__, *words.EngineStatus.__struct_fields__):
        assert f"`{name}`" in status


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_an_operator_may_be_told_is_on_the_page(kind: ErrorKind) -> None:
    assert kind.name == "runner_not_found" or f"{kind.status} `{kind.name}`" in PAGE
