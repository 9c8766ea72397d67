"""``fastgw runner``'s command line: what is asked of it, and what is refused before anything is dialled."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fastgw.agent.asked import Asked
from fastgw.agent.cli import _parser, asked, main

TOKEN = "a-token-of-these-tests"
LEAST = ["--gateway", "ws://gw:8080", "--engine", "http://10.0.0.7:8000"]


def parsed(*words: str, token: str = TOKEN) -> Asked:
    options: argparse.Namespace = _parser().parse_args([*LEAST, *words])
    return asked(options, token)


def test_what_is_asked() -> None:
    found = parsed("--id", "den", "--machine", "gpu", "--alias", "fast=llama:8b", "--advertise", "https://10.0.0.9/base/v1")
    assert (found.gateway, found.runner_id, found.machine_type) == ("ws://gw:8080/ws/runners", "den", "gpu")
    assert (found.http_port, found.url, found.aliases) == (8000, "https://10.0.0.9:443/base", {"fast": "llama:8b"})
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(("url", "found"), [
    ("ws://gw:8080/", "ws://gw:8080/ws/runners"), ("wss://gw", "wss://gw/ws/runners"),
    ("http://gw:8080", "ws://gw:8080/ws/runners"), ("https://gw/ws/runners", "wss://gw/ws/runners"),
    ("ws://[::1]:8080", "ws://[::1]:8080/ws/runners"),
])  # fmt: skip
def test_a_gateways_url(url: str, found: str) -> None:
    assert parsed("--gateway", url).gateway == found


@pytest.mark.parametrize(("words", "said"), [
    (["--gateway", "gw:8080"], "--gateway"), (["--gateway", "ws://gw/other"], "--gateway"),
    (["--gateway", f"ws://gw/ws/runners?token={TOKEN}"], "--gateway"), (["--gateway", "ws://me:word@gw"], "--gateway"),
    (["--gateway", "ws://gw:99999"], "--gateway"),
    (["--engine", "unix:/run/engine.sock"], "Unix socket"), (["--engine", "https://10.0.0.7:8000"], "--advertise"),
    (["--engine", "http://10.0.0.7:8000/base"], "--advertise"), (["--engine", "10.0.0.7:8000"], "http://"),
    (["--alias", "fast"], "--alias"), (["--adapter", "=x"], "--adapter"), (["--heartbeat", "0"], "--heartbeat"),
    (["--look", "nan"], "--look"), (["--id", "a/b"], "would not take"), (["--id", "a" * 200], "would not take"),
    (["--name", "x" * 300], "would not take"), (["--token-file", "/nowhere/token"], "--token-file"),
    (["--tunnel", "--advertise", "http://10.0.0.7:9000"], "--tunnel"), (["--path", "/v1/more"], "--tunnel"),
    (["--tunnel", "--path", "more"], "--path"), (["--tunnel", "--engine", "unix:/run/engine.sock"], "Unix socket"),
    (["--token", TOKEN], "unrecognized"), (["--kind", "unheard-of"], "--kind"),
])  # fmt: skip
def test_what_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*LEAST, *words], TOKEN, *[lambda *words: pytest.fail("it began")] * 3)
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert said in line
    assert TOKEN not in line or "--token" in words
    assert line.count("\n") == 1


def test_the_token_comes_from_a_file_before_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text("another-token-of-tests\n")
    assert parsed("--token-file", str(file)).token() == "another-token-of-tests"
    for text in ("", "two words", "x" * 5000):
        file.write_text(text)
        with pytest.raises(SystemExit):
            parsed("--token-file", str(file))
    with pytest.raises(SystemExit):
        parsed(token="")
    assert "RUNNER_AUTH_TOKEN" in capsys.readouterr().err


def test_an_engine_on_loopback_alone_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    parsed("--engine", "http://127.0.0.1:8000")
    assert "not on loopback alone" in capsys.readouterr().err
    for url in ("http://127.0.0.1:8000", "https://127.0.0.1:8000/base"):
        parsed("--engine", url, "--tunnel", "--path", "/v1/more/*")
        assert capsys.readouterr().err == ""
    parsed("--engine", "http://127.0.0.1:8000", "--advertise", "http://10.0.0.7:8000")
    assert capsys.readouterr().err == ""
