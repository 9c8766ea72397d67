"""Engines in a file: its shapes, and that one that cannot be read whole says nothing."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from fastgw import EngineConfig
from fastgw.upstream.discovery.file import MAX_FILE_BYTES, ByFile, engines_in
from fastgw.upstream.discovery.source import LookFailed
from fastgw.upstream.fleet import MOST_ENGINES

A = EngineConfig(url="http://10.0.0.1:8000", weight=2, models=["m", "n"])


@pytest.mark.parametrize(
    ("text", "toml"),
    [
        ('[[engines]]\nurl = "http://10.0.0.1:8000"\nweight = 2\nmodels = ["m", "n"]\n', True),
        ('[{"url":"http://10.0.0.1:8000","weight":2,"models":["m","n"]}]', False),
        ('{"engines":[{"url":"http://10.0.0.1:8000","weight":2,"models":["m","n"]}]}', False),
        ('[{"targets":["10.0.0.1:8000"],"labels":{"weight":"2","models":"m, n","job":"x"}}]', False),
        ('[{"targets":["http://10.0.0.1:8000"],"labels":{"weight":2,"models":["m","n"]}}]', False),
    ],
)
def test_the_shapes_that_it_may_have(text: str, toml: bool) -> None:
    assert engines_in(text.encode(), toml) == [A]


def test_targets_share_their_labels_and_may_speak_tls() -> None:
    text = b'[{"targets":["a:1","b:2"],"labels":{"__scheme__":"https","verify":"false","kind":"vllm"}},{"targets":["c:3"]}]'
    found = engines_in(text, False)
    assert [(one.url, one.verify, one.kind) for one in found] == [
        ("https://a:1", False, "vllm"), ("https://b:2", False, "vllm"), ("http://c:3", None, "auto"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("[{", "not valid JSON"),
        ("7", "no list of engines"),
        ('{"engine":[]}', "no list of engines"),
        ("[7]", "no list of engines"),
        ("[{}]", "entry 1: this engine has no url"),
        ('[{"url":"http://x"},{"url":"ftp://x"}]', "entry 2: url"),
        ('[{"url":"http://x","wieght":2}]', "entry 1: an engine has no setting 'wieght'"),
        ('[{"url":"http://x","weight":"2"}]', "entry 1: weight"),
        ('[{"url":"ftp://x","weight":0}]', "entry 1: weight: .*; url: "),
        ('[{"url":7}]', "entry 1"),
        ('[{"url":"http://x","models":7}]', "entry 1: models: must be a list of names"),
        ('[{"url":"http://x","discover":"dns"}]', "entry 1: discover"),
        ('[{"url":"http://x","kind":"vllm","ranks":2}]', "entry 1: ranks"),
        ('[{"targets":"x"}]', "entry 1: targets"),
        ('[{"targets":["x:1"],"labels":[1]}]', "entry 1: targets"),
        ('[{"targets":["x:1"],"labels":{"weight":"many"}}]', "entry 1: weight"),
        (json.dumps([{"targets": ["x:1"] * (MOST_ENGINES + 1)}]), "more than"),
        ('[{"url":"http://x","name":"a"},{"url":"http://y","name":"a"}]', "two engines have the name 'a'"),
        ('[{"targets":["x:1"],"labels":{"models":"m"}},{"targets":["x:1"],"labels":{"models":"n"}}]', "have the name 'x:1'"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_one_mistake_and_none_of_it_counts(text: str, says: str) -> None:
    with pytest.raises(LookFailed, match=says):
        engines_in(text.encode(), False)


def test_what_is_said_twice_is_one() -> None:
    """Prometheus's files name a target in each group that it is of."""
    assert [one.name for one in engines_in(b'[{"targets":["a:1","b:2"]},{"targets":["b:2"]}]', False)] == ["a:1", "b:2"]


async def test_it_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    source = ByFile(str(path))
    with pytest.raises(LookFailed, match="No such file"):
        await source.look()
    path.write_text('[{"url":"http://a:1"}]')
    (first,), *_ = await source.look()
    assert [one.url for one in first] == ["http://a:1"]
    assert (await source.look()).groups[0] is first, "it is not read when nothing has changed"
    about = path.stat()
    path.write_text('[{"url":"http://b:1"}]')
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert [one.url for one in (await source.look()).groups[0]] == ["http://b:1"], "as `cp -p` writes it"
    path.write_text('[{"url":')
    for _ in range(2):
        with pytest.raises(LookFailed):
            await source.look()
    other = tmp_path / "other"
    other.write_text("[]")
    os.replace(other, path)
    assert (await source.look()).groups == [[]]
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(LookFailed, match="longer than"):
        await source.look()


async def test_what_names_too_many_makes_none_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engines.json"
    path.write_text(json.dumps([{"targets": [f"a:{at % 60000 + 1}" for at in range(200_000)]}]))
    source = ByFile(str(path))
    monkeypatch.setattr("fastgw.upstream.discovery.file._engine", lambda *of: pytest.fail("it was made"))
    read = []
    whole = engines_in
    monkeypatch.setattr("fastgw.upstream.discovery.file.engines_in", lambda *of: read.append(of) or whole(*of))
    for _ in range(3):
        with pytest.raises(LookFailed, match="more than 1024 engines"):
            await source.look()
    assert len(read) == 1


def test_a_weight_in_other_digits_is_a_mistake_of_the_file() -> None:
    with pytest.raises(LookFailed, match="weight"):
        engines_in('[{"targets":["a:1"],"labels":{"weight":"²"}}]'.encode(), False)


async def test_a_pipe_that_takes_its_place_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    path.write_text('[{"url":"http://10.0.0.1:8000","weight":2,"models":["m","n"]}]')
    source = ByFile(str(path))
    assert (await source.look()).groups == [[A]]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LookFailed, match="it is a pipe now"):
        await asyncio.wait_for(source.look(), 5.0)
    path.unlink()
    path.write_text("[]")
    assert (await source.look()).groups == [[]]
