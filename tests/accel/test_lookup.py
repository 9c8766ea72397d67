"""Fields of a head, found in one pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.lookup import first_in
from tests.support.twins import native_twin, python_twin

NAMES = (b"session-id", b"session_id", b"x-session-id")


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (b"", None),
        (b"Accept: */*\r\n", None),
        (b"X-Session-Id: a\r\n", b"a"),
        (b"x-session-id:\t b c \r\nsession_id: d\r\n", b"d"),  # the order of the names counts, not that of the fields
        (b"session-id:\r\nX-SESSION-ID: e\r\n", b"e"),  # an empty one tells nothing
        (b"session-id: one\r\nsession-id: two\r\n", b"one"),
        (b"my-session-id: no\r\nx-session-id2: no\r\na: session-id: no\r\n", None),
        (b"session-id: last, without an end", b"last, without an end"),
    ],
)
def test_the_first_name_that_says_something(block: bytes, found: bytes | None) -> None:
    assert first_in(block, NAMES) == found


@pytest.mark.both_twins
@given(
    st.lists(
        st.tuples(st.sampled_from([*NAMES, b"Session-ID", b"other", b""]), st.sampled_from([b"", b" ", b"a", b"\tb\t", b":"]))
    ),
    st.permutations(NAMES),
)
def test_the_twins_find_the_same(fields: list[tuple[bytes, bytes]], names: Any) -> None:
    block = b"".join([name + b":" + value + b"\r\n" for name, value in fields])
    one, other = (twin("fastgw.accel.lookup").first_in(block, tuple(names)) for twin in (python_twin, native_twin))
    assert one == other
