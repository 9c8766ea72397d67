"""Another name for the model of an answer, in whatever pieces it comes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.renaming import Renamer

NEW = b'"new"'

# (what an engine says, whether in lines, what goes on)
ROWS: list[tuple[bytes, bool, bytes]] = [
    (b'{"id":"a","model":"x/y","choices":[]}', False, b'{"id":"a","model":"new","choices":[]}'),
    (b' {\n "model" : "x\\"y" , "b":1}', False, b' {\n "model" : "new" , "b":1}'),
    (b'{"a":{"model":"no"},"b":[{"model":"no"}],"model":"x"}', False,
     b'{"a":{"model":"no"},"b":[{"model":"no"}],"model":"new"}'),
    (b'{"text":"\\"model\\":\\"no\\"","model":"x"}', False, b'{"text":"\\"model\\":\\"no\\"","model":"new"}'),
    (b'{"x":"model","y":"model:","model":"x"}', False, b'{"x":"model","y":"model:","model":"new"}'),
    (b'{"model":null,"b":"c"}', False, b'{"model":null,"b":"c"}'),
    (b'{"model":["no"],"b":"c"}', False, b'{"model":["no"],"b":"c"}'),
    (b'{"model":{"model":"no"}}', False, b'{"model":{"model":"no"}}'),
    (b'{"mod\\u0065l":"no","models":"no","mode":"no"}', False, b'{"mod\\u0065l":"no","models":"no","mode":"no"}'),
    (b'[{"model":"no"}]', False, b'[{"model":"no"}]'),
    (b'{"model":"x"} {"model":"no"}', False, b'{"model":"new"} {"model":"no"}'),
    (b'data: {"model":"x"}\n\ndata: {"model":"x"}\n\ndata: [DONE]\n\n', True,
     b'data: {"model":"new"}\n\ndata: {"model":"new"}\n\ndata: [DONE]\n\n'),
    (b'event: a\r\ndata:{"response":{"metadata":{"model":"no"},"model":"x"}}\r\n\r\n', True,
     b'event: a\r\ndata:{"response":{"metadata":{"model":"no"},"model":"new"}}\r\n\r\n'),
    (b'data: {"type":"message_start","message":{"id":"m","model":"x"}}\n', True,
     b'data: {"type":"message_start","message":{"id":"m","model":"new"}}\n'),
    (b'data: {"delta":{"model":"no"}}\nid: {"model":"no"}\n: {"model":"no"}\n', True,
     b'data: {"delta":{"model":"no"}}\nid: {"model":"no"}\n: {"model":"no"}\n'),
    (b'{"model":"x","done":false}\n{"model":"x","done":true}\n', True,
     b'{"model":"new","done":false}\n{"model":"new","done":true}\n'),
    (b'data: {"model":"broken off\ndata: {"model":"x"}\n', True, b'data: {"model":"new"\ndata: {"model":"new"}\n'),
    (b"no json at all", False, b"no json at all"),
    (b"", False, b""),
]  # fmt: skip


@pytest.mark.parametrize(("said", "lines", "goes_on"), ROWS)
def test_whole_in_two_pieces_and_byte_by_byte(said: bytes, lines: bool, goes_on: bytes) -> None:
    if b"broken off" in said:
        goes_on = Renamer(NEW, lines).feed(said)  # (in what is broken, nothing is promised but that pieces do not matter)
        assert goes_on.endswith(b'data: {"model":"new"}\n')
    assert Renamer(NEW, lines).feed(said) == goes_on
    for at in range(len(said) + 1):
        one = Renamer(NEW, lines)
        assert one.feed(said[:at]) + one.feed(said[at:]) == goes_on
    one = Renamer(NEW, lines)
    assert b"".join(one.feed(said[at : at + 1]) for at in range(len(said))) == goes_on


def test_what_is_not_changed_is_not_copied() -> None:
    said = b'data: {"delta":"word"}\n\n' * 9
    assert Renamer(NEW, True).feed(said) is said


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["model", "response", "a", "message"]), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["model", "response", "message", "b", '"']), values, max_size=5), st.integers(1, 40))
def test_of_any_document_the_first_name_changes_and_nothing_else(document: dict[str, object], size: int) -> None:
    said = json.dumps(document).encode()
    one = Renamer(NEW, False)
    got = json.loads(b"".join(one.feed(said[at : at + size]) for at in range(0, len(said), size)))
    want = json.loads(said)
    for name, value in want.items():
        inner = value if name in ("response", "message") and isinstance(value, dict) else None
        if name == "model" and isinstance(value, str):
            want["model"] = "new"
            break
        if inner is not None and isinstance(inner.get("model"), str):
            inner["model"] = "new"
            break
    assert got == want
