"""Embedding requests put together and their answer cut again: exact to the byte, or not done at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.usage import usage_in
from fastgw.protocol.embeddings import Kind, Parts, merged, parts, shares, split
from tests.support.naughty import STRINGS

BUDGET = settings()  # as many as the profile has: tests/conftest.py

# How an engine or a library may lay its JSON out: (before the first item, between items, after a colon, after the last).
STYLES = (("", ",", ":", ""), ("", ", ", ": ", ""), ("\n  ", ",\n  ", ": ", "\n"), (" ", " ,\t", " : ", "\r\n "))
Style = tuple[str, str, str, str]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [one for one in STRINGS if one.isprintable()]
)
tokens = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)
text_inputs = texts | st.lists(texts, min_size=1, max_size=4)
token_inputs = tokens | st.lists(tokens, min_size=1, max_size=4)
plain_values = st.none() | st.booleans() | st.integers() | texts
names = texts.filter(lambda name: name not in ("", "input", "stream", "encoding_format"))
others = st.dictionaries(names, plain_values, max_size=4)

# Numbers as engines write them; each is another text after a round trip through a float, or may be.
digits = st.from_regex(r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


def took(body: bytes) -> Parts:
    found = parts(body)
    assert found is not None, body
    return found


def listed(value: Any) -> list[Any]:
    """The inputs of a request, one by one."""
    many = isinstance(value, list) and not isinstance(value[0], int)
    return list(value) if many else [value]


def laid_out(style: Style, opens: str, items: list[str], closes: str) -> str:
    before, between, _, after = style
    return opens + before + between.join(items) + after + closes if items else opens + closes


def member(style: Style, name: str, value: str) -> str:
    return json.dumps(name) + style[2] + value


# --- requests
@pytest.mark.parametrize(
    ("body", "kind", "count", "items", "rest"),
    [
        (b'{"input":"a"}', Kind.TEXT, 1, b'"a"', b""),
        (b' {"input" : [ "a" , "b" ] , "model" : "m" } ', Kind.TEXT, 2, b'"a" , "b"', b'"model":"m"'),
        (b'{"input":[1,2,3],"model":"m"}', Kind.TOKENS, 1, b"[1,2,3]", b'"model":"m"'),
        (b'{"input":[[1],[2,3]],"model":"m"}', Kind.TOKENS, 2, b"[1],[2,3]", b'"model":"m"'),
        (b'{"user":"u","input":"","model":"m","dimensions":8}', Kind.TEXT, 1, b'""', b'"dimensions":8,"model":"m","user":"u"'),
        (b'{"input":"a","encoding_format":"base64"}', Kind.TEXT, 1, b'"a"', b'"encoding_format":"base64"'),
        (b'{"input":"a","stream":false}', Kind.TEXT, 1, b'"a"', b'"stream":false'),
        (b'{"inp\\u0075t":"a]"}', Kind.TEXT, 1, b'"a]"', b""),
    ],
)  # fmt: skip
def test_what_may_share_a_call(body: bytes, kind: Kind, count: int, items: bytes, rest: bytes) -> None:
    assert parts(body) == Parts(kind, count, items, rest)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"model":"m"}', b'{"input":"a"', b'{"input":"a"}{}', b"\xef\xbb\xbf" + b'{"input":"a"}',
        # inputs of no kind, of two, or empty
        b'{"input":null}', b'{"input":1}', b'{"input":true}', b'{"input":{}}', b'{"input":[]}', b'{"input":[[]]}',
        b'{"input":[[1],[]]}', b'{"input":["a",1]}', b'{"input":[1,"a"]}', b'{"input":["a",["b"]]}', b'{"input":[[1],"a"]}',
        b'{"input":[1,null]}', b'{"input":[1,true]}', b'{"input":[1.5]}', b'{"input":[["a"]]}', b'{"input":[{"text":"a"}]}',
        # not JSON in UTF-8, wherever it stands
        b'{"input":"\xff"}', b'{"input":"a","user":"\xff"}', b'{"input":"\\ud800"}', b'{"input":"a","dimensions":01}',
        b'{"input":"a","user":NaN}', b'{"input":["a",]}', b'{"input":"a",}',
        # what belongs to the input item by item, streams, and answers that are no JSON
        b'{"input":["a"],"instructions":["b"]}', b'{"input":"a","messages":[]}', b'{"input":"a","options":{}}',
        b'{"input":"a","stream":true}', b'{"input":"a","stream":1}', b'{"input":"a","encoding_format":"bytes"}',
        # repeated members: which one counts is anybody's guess
        b'{"input":"a","input":"a"}', b'{"input":"a","input":"b"}', b'{"input":"a","model":"m","model":"mm"}',
        b'{"input":"a","model":"mm","model":"m"}', b'{"input":"a","model":"m","mod\\u0065l":"m"}', b'{"input":"a","":1}',
    ],
)  # fmt: skip
def test_what_goes_alone(body: bytes) -> None:
    assert parts(body) is None


@given(st.data(), others)
@BUDGET
def test_a_shared_body_asks_for_all_inputs_in_order(data: st.DataObject, rest: dict[str, Any]) -> None:
    inputs = data.draw(st.sampled_from([text_inputs, token_inputs]).flatmap(lambda one: st.lists(one, min_size=1, max_size=5)))
    several = []
    for one in inputs:
        body = {**rest, "input": one}
        order = data.draw(st.permutations(list(body)))
        dump: Callable[..., str] = json.dumps
        several.append(took(dump({name: body[name] for name in order}, ensure_ascii=data.draw(st.booleans())).encode()))
        assert several[-1].count == len(listed(one))
    if len({one.rest for one in several}) > 1:
        return  # the same value, spelled in two ways: those go apart
    assert json.loads(merged(several)) == {**rest, "input": [item for one in inputs for item in listed(one)]}
    # ...and every text keeps its spelling.
    assert b",".join([one.items for one in several]) in merged(several)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"input":"a"}', b'{"input":[1]}'),
        (b'{"input":"a","model":"m"}', b'{"input":"a","model":"n"}'),
        (b'{"input":"a","user":"u"}', b'{"input":"a"}'),
        (b'{"input":"a","dimensions":8}', b'{"input":"a","dimensions":8.0}'),
    ],
)
def test_what_differs_is_never_put_together(one: bytes, other: bytes) -> None:
    with pytest.raises(ValueError, match="differ"):
        merged([took(one), took(other)])


# --- answers
class Engine:
    """Writes answers in one manner; the same manner for a request alone and for several in one call."""

    def __init__(self, data: st.DataObject) -> None:
        self.style: Style = data.draw(st.sampled_from(STYLES))
        self.item_names = data.draw(st.permutations(["object", "index", "embedding", "note"]))
        self.names = data.draw(st.permutations(["object", "data", "model", "usage", "id", "created"]))
        self.usage_names = data.draw(st.permutations(["prompt_tokens", "total_tokens", "details", "nothing"]))

    def item(self, index: int, vector: str) -> str:
        values = {"object": '"embedding"', "index": str(index), "embedding": vector, "note": '"index\\":7,\\"é"'}
        return laid_out(self.style, "{", [member(self.style, name, values[name]) for name in self.item_names], "}")

    def usage(self, prompt: int, cached: int) -> str:
        details = laid_out(self.style, "{", [member(self.style, "cached_tokens", str(cached))], "}")
        values = {"prompt_tokens": str(prompt), "total_tokens": str(prompt), "details": details, "nothing": "null"}
        return laid_out(self.style, "{", [member(self.style, name, values[name]) for name in self.usage_names], "}")

    def answer(self, items: list[str], prompt: int, cached: int) -> bytes:
        values = {
            "object": '"list"', "data": laid_out(self.style, "[", items, "]"), "model": '"m"', "id": '"embd-\\"data\\":[1]"',
            "created": "1700000000", "usage": self.usage(prompt, cached),
        }  # fmt: skip
        return laid_out(self.style, "{", [member(self.style, name, values[name]) for name in self.names], "}").encode()


vectors = st.lists(digits, min_size=1, max_size=4).map(lambda one: "[" + ", ".join(one) + "]") | st.sampled_from(
    ['"AACAPw=="', '"a\\"]}"', "[]"]
)


@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 10**9), st.integers(0, 50))
@BUDGET
def test_each_gets_the_bytes_that_it_would_have_got_alone(
    data: st.DataObject, counts: list[int], prompt: int, cached: int
) -> None:
    engine = Engine(data)
    total = sum(counts)
    sizes = data.draw(st.lists(st.integers(1, 10**6), min_size=len(counts), max_size=len(counts)))
    answers = data.draw(st.lists(vectors, min_size=total, max_size=total))
    order = data.draw(st.permutations(range(total)))
    whole = engine.answer([engine.item(at, answers[at]) for at in order], prompt, cached)

    found = split(whole, counts, sizes)

    assert found is not None
    prompts, cacheds = shares(prompt, sizes), shares(cached, sizes)
    first = 0
    for turn, count in enumerate(counts):
        own = [engine.item(at, vector) for at, vector in enumerate(answers[first : first + count])]
        alone = engine.answer(own, prompts[turn], cacheds[turn])
        assert found[turn] == alone
        assert usage_in(found[turn])[0] == prompts[turn]
        first += count
    assert sum(json.loads(one)["usage"]["total_tokens"] for one in found) == prompt


GOOD = b'{"data":[{"index":0,"embedding":[1.0]},{"index":1,"embedding":[2.0]}],"usage":{"prompt_tokens":3,"total_tokens":3}}'


def test_the_sample_is_good() -> None:
    assert split(GOOD, [1, 1], [1, 1]) == [
        b'{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":2,"total_tokens":2}}',
        b'{"data":[{"index":0,"embedding":[2.0]}],"usage":{"prompt_tokens":1,"total_tokens":1}}',
    ]


@pytest.mark.parametrize("usage", [b"", b',"usage":null', b',"usage":{}', b',"usage":{"cost":"0.01","list":[1.5]}'])
def test_an_answer_that_counts_nothing_is_still_an_answer(usage: bytes) -> None:
    answer = b'{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]%b}' % usage
    assert split(answer, [1, 1], [1, 1]) == [b'{"data":[{"index":0,"embedding":[%d]}]%b}' % (n, usage) for n in (1, 2)]
    assert usage_in(answer) == (-1, -1, -1, -1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"index":1', b'"index":0'), (b'"index":1', b'"index":2'), (b'"index":1', b'"index":-1'),
        (b'"index":1', b'"index":1.0'),
        (b'"index":1', b'"index":"1"'), (b'"index":1', b'"index":true'), (b'"index":1', b'"index":null'),
        (b'"index":1', b'"index":99999999999999999999'), (b'"index":1', b'"at":1'), (b'"index":1', b'"index":1,"index":1'),
        (b'"index":1', b'"index":0,"index":1'), (b'"embedding":[2.0]', b'"vector":[2.0]'),
        (b'{"index":1,"embedding":[2.0]}', b"null"), (b'{"index":1,"embedding":[2.0]}', b"[2.0]"),
        (b',{"index":1,"embedding":[2.0]}', b""), (b"]}],", b']},{"index":2,"embedding":[3.0]}],'),
        (b'"data"', b'"rows"'), (b'{"data":', b'{"data":[],"data":'), (b"[2.0]", b"[2.]"), (b"[2.0]", b"[NaN]"),
        (b'"usage":{', b'"usage":[],"usage":{'), (b'"total_tokens":3', b'"total_tokens":3.5'),
        (b'"total_tokens":3', b'"total_tokens":-3'), (b'"total_tokens":3', b'"total_tokens":3e0'),
        (b'"total_tokens":3', b'"total_tokens":9999999999999'), (b'{"prompt_tokens":3,"total_tokens":3}', b"3"),
        (b'"total_tokens":3', b'"total_tokens":3,"total_tokens":4'), (b'"total_tokens":3', b'"a":{"b":{"c":{"d":{"e":1}}}}'),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_what_was_asked_for_is_not_cut(old: bytes, new: bytes) -> None:
    assert old in GOOD
    assert split(GOOD.replace(old, new, 1), [1, 1], [1, 1]) is None


def test_no_part_of_an_answer_is_an_answer() -> None:
    assert all(split(GOOD[:stop], [1, 1], [1, 1]) is None for stop in range(len(GOOD)))
    for other in (b"{}", b"[]", b"null", b'{"data":[]}', b'{"error":{"message":"no"}}', b"[" * 100_000, b'{"data":' * 50_000):
        assert split(other, [1, 1], [1, 1]) is None
    for counts in ([1], [2, 1], [1, 1, 1]):
        assert split(GOOD, counts, [1] * len(counts)) is None


@given(st.binary(max_size=3), st.integers(0, len(GOOD)), st.integers(0, 4))
@BUDGET
def test_whatever_comes_is_cut_well_or_not_at_all(noise: bytes, at: int, gone: int) -> None:
    answer = GOOD[:at] + noise + GOOD[at + gone :]
    found = split(answer, [1, 1], [1, 1])
    if found is not None:
        whole = json.loads(answer.decode("utf-8", "replace"))
        parsed = [json.loads(one.decode("utf-8", "replace")) for one in found]
        by_index = {row["index"]: row["embedding"] for row in whole["data"]}
        assert [[row["embedding"] for row in one["data"]] for one in parsed] == [[by_index[0]], [by_index[1]]]
    body = b'{"input":["a","b"],"model":"m"}'
    mine = parts(body[:at] + noise + body[at + gone :])
    if mine is not None:
        assert len(json.loads(merged([mine, mine]))["input"]) == 2 * mine.count


# --- shares
@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=40).filter(any))
@BUDGET
def test_shares_add_up_and_are_fair(total: int, sizes: list[int]) -> None:
    found = shares(total, sizes)
    assert sum(found) == total
    for got, size in zip(found, sizes, strict=True):
        assert abs(got - Fraction(total * size, sum(sizes))) < 1
        assert size or not got
    for a, b in zip(range(len(sizes)), range(1, len(sizes)), strict=False):
        if sizes[a] == sizes[b]:
            assert 0 <= found[a] - found[b] <= 1


@pytest.mark.parametrize(
    ("total", "sizes", "expected"),
    [(10, [1, 1, 1], [4, 3, 3]), (3, [2, 1], [2, 1]), (0, [5, 5], [0, 0]), (7, [10, 5], [5, 2]), (1, [1, 1, 5], [0, 0, 1])],
)
def test_shares(total: int, sizes: list[int], expected: list[int]) -> None:
    assert shares(total, sizes) == expected
