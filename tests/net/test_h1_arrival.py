"""A body on its way in, where it breaks; the rest of it is with its connection (``test_h1_connection.py``)."""

from __future__ import annotations

import socket

import pytest

from tests.net.talk import front, turns, until
from tests.net.test_h1_connection import CHUNKS, HALF


@pytest.mark.parametrize(("begun", "late"), [(CHUNKS.replace(b"3\r\nhel", b"Z\r\nhel"), False), (HALF, True)])
async def test_who_is_told_that_the_body_is_bad_may_still_be_sending_it(begun: bytes, late: bool) -> None:
    last = begun.replace(b"host: a", b"host: a\r\nconnection: close")
    async with front(tcp=True, body_s=0.1 if late else 5.0) as place:
        sink = await place.ask(last)
        await until(lambda: sink.heard[-1][0] == "error")
        place.stream.refuse(400, b"{}", b"", True)
        place.peer.send(b"what is left of it")
        await turns()
        place.peer.send(b"and some more")
        place.peer.sock.shutdown(socket.SHUT_WR)
        got = await place.peer.rest()
        assert isinstance(got, bytes), "no reset"
        assert got.endswith(b"{}")
        await until(lambda: place.conn.stream is None)
