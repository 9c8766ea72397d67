"""The fuzzer's targets: their seeds go through, and a disagreement is an error. ``make fuzz`` does the rest."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz.__main__ import TARGETS

pytestmark = pytest.mark.both_twins


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Any:
    # Not at the top: where nothing is compiled there is no native side to import.
    return importlib.import_module(f"tests.fuzz.{request.param}")


def test_the_seeds_go_through(target: Any) -> None:
    assert len(target.seeds()) > 20
    for seed in target.seeds():
        target.check(seed)


def test_the_words_fit_a_dictionary(target: Any) -> None:
    assert all(isinstance(word, bytes) and word for word in target.words())


def test_the_sides_of_the_heads_are_two() -> None:
    from tests.fuzz import heads

    assert not heads.NATIVE.__file__.endswith(".py")
    assert heads.PYTHON.__file__.endswith(".py")
    assert heads.PYTHON_SERVER.RequestScanner is heads.PYTHON.RequestScanner


def test_a_twin_that_says_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import heads

    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5"
    heads.check(data)

    def lax(head: bytes, *limits: int) -> Any:
        return heads.PYTHON.scan_request(head.replace(b"5", b"6"), *limits)

    monkeypatch.setattr(
        heads, "NATIVE", SimpleNamespace(scan_request=lax, scan_response=heads.NATIVE.scan_response)
    )
    with pytest.raises(AssertionError):
        heads.check(data)


def test_a_complete_path_that_frames_unlike_httptools_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgw.protocol.http1 import client
    from tests.fuzz import heads

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t"
    heads.responses_alike(head)
    parse = client.parse_response
    monkeypatch.setattr(client, "parse_response", lambda head, limit: parse(head.rstrip(b"\t"), limit))
    with pytest.raises(AssertionError, match="httptools frames it differently"):
        heads.responses_alike(head)
