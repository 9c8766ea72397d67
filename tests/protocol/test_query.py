"""The one parameter of a query that the gateway reads: found once, or refused."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from fastgw.protocol.query import MAX_PARAMETERS, parameter, with_value

FOUND = [
    (b"model=a", "a"),
    (b"x=1&model=a", "a"),
    (b"model=a&x=1&x=2", "a"),
    (b"mod%65l=a%2Fb", "a/b"),
    (b"model=a+b", "a b"),
    (b"model=", ""),
    (b"model", ""),
    (b"model=a=b", "a=b"),
    (b"models=x&model=a&xmodel=y", "a"),
    (b"model=%C3%A9", "\u00e9"),
    (b"&&model=a&", "a"),
]
AMBIGUOUS = [
    b"model=a&model=b", b"model=a&model=a", b"model=a&Model=b", b"Model=a", b"MODEL=a&model=a", b"model=a&mod%65l=b",
    b"model=a;model=b", b"x=1;model=a", b"model=a&model%20=b", b"model=a&%20model=b", b"model=a&model[]=b", b"model[0]=b",
    b"model=a&MODEL[x]=b", b"model=a&model%00=b", b"model=%", b"model=%zz", b"mod%l=a", b"model=%ff", b"%ff=1&model=a",
    b"&".join([b"a=1"] * MAX_PARAMETERS + [b"model=a"]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "value"), FOUND)
def test_found_once(query: bytes, value: str) -> None:
    found = parameter(query, "model")
    assert found is not None
    assert found.text == value
    assert parse_qs(query.decode("latin-1"), keep_blank_values=True).get("model", [""]) == [value]
    changed = with_value(query, found, "other/one & only")
    assert parse_qs(changed.decode(), keep_blank_values=True).get("model", ["other/one & only"]) == ["other/one & only"]
    assert changed[: found.start] == query[: found.start]
    assert changed.endswith(query[found.end :])


@pytest.mark.parametrize("query", AMBIGUOUS)
def test_what_another_server_could_read_otherwise_is_refused(query: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(`model` may be given once|The query )"):
        parameter(query, "model")


def test_absent() -> None:
    assert parameter(b"", "model") is None
    assert parameter(b"a=1&b=%", "model") is None
