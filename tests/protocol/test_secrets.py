"""Keys in texts from outside, and everything that is none."""

from __future__ import annotations

import time

import pytest

from fastgw.protocol.secrets import SHOWN, masked

OURS = b"fgw_" + b"aB3-_" * 8 + b"xyz"
ODD = b"pass/word!with:odd@bytes"
KNOWN = {OURS, ODD, b"plainkey42", b"tok.en~1"}


def shown(text: bytes, credential: bytes | None = None) -> bytes:
    return masked(text, KNOWN.__contains__, () if credential is None else (credential,))


@pytest.mark.parametrize(
    "text",
    [
        b"/v1/" + OURS, b"/v1/models/" + OURS + b"/x", b"/" + ODD, ODD, b"plainkey42", b"/a?key=plainkey42&b=1",
        b"tok.en~1", b"/v1/Bearer%20" + OURS, b"/v1/%66gw_" + OURS[4:], b"fgw_" + b"z" * 43, b"x=sk-proj-" + b"a" * 40,
        b"hf_" + b"Q" * 34, b"Bearer abcdefgh12345", b"/models/plainkey42", b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        b"basic dXNlcjpwYXNzd29yZA==", b"/%70%6c%61%69%6ekey42", b"/v1/" + ODD + b"/chat", b"model " + ODD,
        b"/v1/plainkey42.json", b"/v1/~plainkey42", b"_plainkey42_", b"a.plainkey42", b"req-plainkey42-1", b"a_tok.en~1-b.c",
        b"x-tok.en~1", b"/%2570lainkey42", b"a-b-c-d-e-f-g-h-i-j-k-plainkey42", b"plainkey42-" + b"a-" * 20 + b"plainkey42",
    ],
)  # fmt: skip
def test_a_key_does_not_show(text: bytes) -> None:
    told = shown(text)
    assert b"[key]" in told, told
    for key in KNOWN | {b"z" * 12, b"a" * 12, b"Q" * 12, b"abcdefgh12345", b"dXNlcjpwYXNzd29yZA"}:
        assert key not in told


def test_the_credential_that_came_with_it_does_not_show_either() -> None:
    """Whether it is good or not: a wrong key may be the right one of elsewhere."""
    assert shown(b"/v1/models/some-strange!key", b"some-strange!key") == b"/v1/models/[key]"
    assert shown(b"m-abc", b"abc") == b"m-abc", "three letters stand in every text"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"/", b"/v1/chat/completions", b"meta-llama/Llama-3.1-8B-Instruct", b"gpt-4o-mini-2024-07-18", b"/v1/models/a%2Fb",
        b"7f3e0c7e-6a60-4d2e-9c39-6b3f0f6c0f52", b"req-1732867200000000000", b"sk-short", b"risk-assessment-of-the-year-2026",
        b"\xff\xfe\x00", b"/caf\xc3\xa9",
    ],
)  # fmt: skip
def test_what_is_no_key_stays_as_it_is(text: bytes) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("at", range(SHOWN - 50, SHOWN + 5))
def test_a_key_at_the_end_of_what_is_shown_is_not_shown_in_part(at: int) -> None:
    told = shown(b"/" + b"x" * (at - 2) + b"/" + OURS + b"/more")
    assert len(told) <= SHOWN + 5
    for length in range(8, len(OURS)):
        assert OURS[:length] not in told


@pytest.mark.parametrize(
    "text",
    [
        b"/aaaa" * 200_000, b"%41" * 300_000, b"%25" * 300_000, b"aaaa-" * 200_000, b"a.b/" * 200_000, b"fgw_" * 250_000,
        b"." * 1_000_000,
    ],
)  # fmt: skip
def test_long_texts_cost_no_more_than_short_ones(text: bytes) -> None:
    began = time.process_time()
    for _ in range(10):
        assert len(shown(text)) <= SHOWN + 600
    assert time.process_time() - began < 0.2
