"""What a body's type says of it."""

from __future__ import annotations

import pytest

from fastgw.protocol.media import in_utf_8, is_json


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (b"application/json", True),
        (b"Application/JSON ; charset=utf-8", True),
        (b"text/json", True),
        (b"application/problem+json", True),
        (b"application/jsonl", False),
        (b"text/plain; a=application/json", False),
        (b"multipart/form-data; boundary=json", False),
        (b"", False),
    ],
)
def test_json(value: bytes, json: bool) -> None:
    assert is_json(value) is json


@pytest.mark.parametrize(
    "value",
    [
        b"application/json", b"application/json; charset=utf-8", b"application/json;charset=UTF-8", b"application/json; a=b",
        b'application/json; charset="utf-8"', b"application/json; Charset=Utf8 ", b"application/json;", b"a/b; charset = utf-8",
    ],
)  # fmt: skip
def test_utf_8(value: bytes) -> None:
    assert in_utf_8(value)


@pytest.mark.parametrize(
    "value",
    [
        b"application/json; charset=utf-16", b"application/json; charset=latin-1", b"application/json; charset=",
        b"application/json; charset", b"application/json; charset=utf-8; charset=utf-16", b"a/b; charset=utf-8; charset=utf-8",
        b'application/json; a="; charset=utf-16"; charset=utf-8', b"application/json; charset*=utf-8''utf-16",
        b"application/json; xcharset=utf-16", b'a/b; charset="utf-16"', b"a/b; charset=us-ascii", b"a/b, charset=utf-16",
    ],
)  # fmt: skip
def test_other_characters_or_nobody_knows(value: bytes) -> None:
    assert not in_utf_8(value)
