"""What is taken of another gateway's file: within bounds, and nothing that could be read in two ways."""

from __future__ import annotations

import builtins
import time
from pathlib import Path
from typing import Any

import pytest

from fastgw.importing import reading

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)

MERGED = "a: &a {x: 1}\n" + "\n".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MERGED, "it has more than 100000 values"),
        (BOMB, "it has more than 100000 values"),
        ("a: &a [*a]", "an alias in it stands for what it is in"),
        ("a: 1\nb: 2\na: sk-secret", "an entry stands in it twice, the second time in line 3"),
        ("a: !!python/object/apply:os.system [echo sk-secret]", "it is not valid YAML, in line 1"),
        ("a: sk-secret\nb: *sk-secret", "it is not valid YAML, in line 2"),
        ("a: [sk-secret", "it is not valid YAML, in line "),
        ("[" * 400_000, "it is n"),
        ("a: " + "{a: " * 40 + "}" * 40, "it is nested more than 32 deep"),
        ("- 1", "it is no YAML mapping"),
        ("a: 2026-99-99", "it is not valid YAML: a value in it is none of its kind"),
        ("x: [" + "1, " * 100_000 + "1]", "it has more than 100000 values"),
    ],
)
def test_yaml_that_is_not_taken(text: str, said: str) -> None:
    before = time.process_time()
    with pytest.raises(reading.Unreadable) as error:
        reading.yaml(text)
    assert str(error.value).startswith(said)
    assert time.process_time() - before < 10


def test_yaml_that_is_taken() -> None:
    text = "base: &b {api_base: 'http://a:1', n: 1}\nlist:\n- <<: *b\n  n: 2\n- *b\n"
    assert reading.yaml(text)["list"] == [{"api_base": "http://a:1", "n": 2}, {"api_base": "http://a:1", "n": 1}]
    assert reading.yaml("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a = "sk-secret\n', "it is not valid TOML, in line 1"),
        ("a = 1\na = 2\n", "it is not valid TOML, in line 2"),
        ("a = " + "9" * 5000, "a number in it is too long, or it is nested too deeply"),
        ("a = " + "[" * 5000, "a number in it is too long, or it is nested too deeply"),
        (".".join("a" * 40) + " = 1", "it is nested more than 32 deep"),
        ("a = [" + "1," * 100_000 + "]", "it has more than 100000 values"),
    ],
)
def test_toml_that_is_not_taken(text: str, said: str) -> None:
    with pytest.raises(reading.Unreadable) as error:
        reading.toml(text)
    assert str(error.value).startswith(said)


def test_files_that_are_not_taken(tmp_path: Path) -> None:
    for data, said in ((b"a: 1\n" * 300_000, "it is longer than 1048576 bytes"), (b"a: \xff", "it is not UTF-8 text")):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(reading.Unreadable, match=said):
            reading.read(str(tmp_path / "x"))
    for name in ("gone", ".", "a\0b"):
        with pytest.raises(reading.Unreadable, match="it cannot be read: "):
            reading.read(str(tmp_path / name))


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *more: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(reading.Unreadable, match=r"pip install 'fastgw\[import\]'"):
        reading.yaml("a: 1")
