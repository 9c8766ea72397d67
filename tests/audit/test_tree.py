"""The tree: this project's own text, and nothing that looks like a secret. (The samples are put together when it runs.)"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from scripts.audit import rules, tree

LETTERS = "Abc1" * 20
SPDX = "SPDX-" + "License-Identifier:"


def test_what_git_has(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)

    assert tree.files(tmp_path) is None
    git("init", "--quiet")
    for name in ("had", "gone", "new"):
        (tmp_path / name).write_text(name)
    git("add", "had", "gone")
    (tmp_path / "gone").unlink()
    assert tree.files(tmp_path) == ["had"]


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("a/b.py", b"x = 1\n", []),
        ("a/b.py", "Grüße\n".encode(), []),
        ("empty", b"", []),
        ("a/b.bin", b"\x00\x01", ["a/b.bin: not text"]),
        ("a/b.txt", b"\xff\xfe", ["a/b.txt: not text"]),
        ("a/b.json", b"1" * rules.MAX_FILE_BYTES, []),
        ("a/b.json", b"1" * (rules.MAX_FILE_BYTES + 1), ["a/b.json: 200001 bytes, more than 200000"]),
        ("a/Vendor/b.py", b"", ["a/Vendor/b.py: by its name it is somebody else's"]),
        ("a/x.min.js", b"", ["a/x.min.js: by its name it is somebody else's"]),
        ("a/vendors.py", b"", []),
        ("LICENSE", b"Copyright " + b"2020 Somebody", []),
        ("a.py", b"# Copyright " + b"(c) Somebody", [f"a.py:1: has a head of its own ({'Copyright'} (c)): whose is it?"]),
        ("a.py", b"\n# SPDX-" + b"License-Identifier: X", [f"a.py:2: has a head of its own ({SPDX}): whose is it?"]),
        ("a.py", b"the copyright of an answer", []),
    ],
)
def test_one_file(path: str, data: bytes, said: list[str]) -> None:
    assert list(tree.judge(path, data)) == said


SAMPLES = {
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "a key of fastgw": "fgw_" + LETTERS[:43],
    "a key of OpenAI, Anthropic or alike": "sk-" + "proj-" + LETTERS[:40],
    "a token of GitHub": "ghp_" + LETTERS[:36],
    "a token of GitLab": "glpat-" + LETTERS[:20],
    "a token of Python's package index": "pypi-" + "AgE" + LETTERS[:60],
    "a token of npm": "npm_" + LETTERS[:36],
    "a token of Hugging Face": "hf_" + "Abcd" * 8 + "ef",
    "a token of Slack": "xoxb-" + "123456789012-" + LETTERS[:12],
    "a key of AWS": "AKIA" + "ABCD1234EFGH5678",
    "a key of Google": "AIza" + LETTERS[:35],
    "a JSON Web Token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:20] + "." + LETTERS[:20],
}


def test_every_shape_has_a_sample() -> None:
    assert SAMPLES.keys() == rules.SECRETS.keys()


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_secret_is_told_by_kind_and_place_never_by_its_text(kind: str) -> None:
    text = f'first\nkey = "{SAMPLES[kind]}"\n'
    assert list(tree.judge("a.py", text.encode())) == [f"a.py:2: looks like {kind}"]
    digest = hashlib.sha256(SAMPLES[kind].encode()).hexdigest()[:16]
    assert list(tree.judge("a.py", text.encode(), {digest: "made up"})) == []


@pytest.mark.parametrize(
    "text",
    [
        "sk-" + "admin-of-these-tests",  # no digit: words
        "fgw_" + "put_literal",
        "risk-" + LETTERS[:40],
        "AKIA" + "1234",
        "-----BEGIN " + "CERTIFICATE-----",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert list(tree.judge("a.py", text.encode())) == []
