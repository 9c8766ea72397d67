"""Messages of a WebSocket that ends here: whole, one byte at a time, and what is refused, over either twin."""

from __future__ import annotations

import pytest

from fastgw.accel.masks import framed
from fastgw.protocol.messages import (
    BINARY,
    CLOSE,
    FIN,
    MAX_BINARY_BYTES,
    MOST_EMPTY,
    MOST_EVENTS,
    PING,
    PONG,
    TEXT,
    MessageError,
    MessageReader,
)

KEY = b"\x01\x82\x03\x84"
TEXTS = 1000


def said(first: int, payload: bytes, masked: bool = True) -> bytes:
    return framed(first, payload, 0, len(payload), KEY if masked else b"")


TALK = (
    said(FIN | TEXT, b"one")
    + said(FIN | BINARY, b"stream ")
    + said(BINARY, b"in ")
    + said(FIN | PING, b"?")
    + said(0, b"")
    + said(FIN, b"pieces" * 100)
    + said(TEXT, b"t")
    + said(FIN | PONG, b"")
    + said(FIN, b"wo")
    + said(FIN | BINARY, b"")
)
HEARD = [(TEXT, b"one"), (PING, b"?"), (PONG, b""), (TEXT, b"two")]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("end", ["open", "closed"])
def test_what_is_told_does_not_depend_on_the_splits(step: int, end: str) -> None:
    reader = MessageReader(True, TEXTS)
    data = TALK + (said(FIN | CLOSE, b"\x03\xe9gone") + said(FIN | TEXT, b"never read") if end == "closed" else b"")
    stream = b"".join(reader.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert stream == b"stream in " + b"pieces" * 100
    assert reader.events == HEARD
    assert reader.closed == (1001 if end == "closed" else -1)


def test_a_server_does_not_mask() -> None:
    reader = MessageReader(False, TEXTS)
    assert reader.feed(said(FIN | BINARY, b"abc", False) + said(FIN | TEXT, b"x" * 300, False)) == b"abc"
    assert reader.events == [(TEXT, b"x" * 300)]


def test_a_close_without_a_code_has_none() -> None:
    reader = MessageReader(True, TEXTS)
    reader.feed(said(FIN | CLOSE, b""))
    assert reader.closed == 1005


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(said(FIN | TEXT, b"x", False), 1002, id="no mask"),
        pytest.param(said(FIN | 0x40 | TEXT, b"x"), 1002, id="a reserved bit"),
        pytest.param(said(FIN | 3, b"x"), 1002, id="no kind of data"),
        pytest.param(said(FIN | 11, b"x"), 1002, id="no kind of control"),
        pytest.param(said(PING, b"x"), 1002, id="a ping in pieces"),
        pytest.param(said(FIN | PING, b"x" * 126), 1002, id="a long ping"),
        pytest.param(said(FIN, b"x"), 1002, id="goes on and has not begun"),
        pytest.param(said(TEXT, b"x") + said(FIN | TEXT, b"y"), 1002, id="a text within a text"),
        pytest.param(said(BINARY, b"x") + said(FIN | TEXT, b"y"), 1002, id="a text within the stream's message"),
        pytest.param(b"\x82\xfe\x00\x05" + KEY, 1002, id="a long length that is short"),
        pytest.param(b"\x82\xff" + (65535).to_bytes(8, "big") + KEY, 1002, id="a longer one"),
        pytest.param(b"\x82\xff" + (1 << 63).to_bytes(8, "big") + KEY, 1009, id="a length without an end"),
        pytest.param(b"\x82\xff" + (MAX_BINARY_BYTES + 1).to_bytes(8, "big") + KEY, 1009, id="a frame over the bound"),
        pytest.param(said(FIN | TEXT, b"x" * (TEXTS + 1)), 1009, id="a text over the bound"),
        pytest.param(said(TEXT, b"x" * TEXTS) + said(FIN, b"x"), 1009, id="one in pieces"),
        pytest.param(said(FIN | CLOSE, b"x"), 1002, id="half a code"),
        pytest.param(said(FIN | BINARY, b"") * (MOST_EMPTY + 1), 1008, id="nothing, again and again"),
        pytest.param(said(FIN | PING, b"") * (MOST_EVENTS + 1), 1008, id="pings without end"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_is_no_message_is_refused(data: bytes, code: int, step: int) -> None:
    reader = MessageReader(True, TEXTS)

    def read() -> None:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])

    with pytest.raises(MessageError) as refused:
        read()
    assert refused.value.code == code


def test_the_largest_that_is_taken() -> None:
    reader = MessageReader(True, TEXTS)
    payload = bytes(MAX_BINARY_BYTES)
    assert reader.feed(said(FIN | BINARY, payload)) == payload
    reader.feed(said(FIN | TEXT, b"x" * TEXTS))
    reader.feed(said(FIN | BINARY, b"") * MOST_EMPTY + said(FIN | BINARY, b"x") + said(FIN | BINARY, b""))
    assert reader.events == [(TEXT, b"x" * TEXTS)]
    for _ in range(MOST_EMPTY + 1):  # (how some end each of their texts)
        reader.events.clear()
        reader.feed(said(TEXT, b"x") + said(FIN, b""))
    assert reader.events == [(TEXT, b"x")]
