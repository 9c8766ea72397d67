"""The line between two processes: frames whole and in order, sockets along with them, and an end for whatever cannot be."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fastgw.net import process_line
from fastgw.net.process_line import MAX_FRAME_BYTES, LineGone, ProcessLine


@asynccontextmanager
async def both() -> AsyncIterator[tuple[ProcessLine, ProcessLine]]:
    near, there = ProcessLine.pair()
    far = ProcessLine.inherited(there.detach())
    try:
        yield near, far
    finally:
        near.close()
        far.close()


async def test_frames_come_whole_and_in_order_however_much_is_said() -> None:
    """More than the kernel holds, and than is read ahead: the sender is not held, and nothing is lost."""
    frames = [bytes([at % 251]) * size for at, size in enumerate((0, 1, 3, 70_000, MAX_FRAME_BYTES, *[9_000] * 300))]
    async with both() as (near, far):
        for frame in frames:
            near.send(frame)
        assert near.waiting_bytes > 0
        assert [await far.receive() for _ in frames] == frames
        far.send(b"back")
        assert await near.receive() == b"back"


async def test_sockets_come_before_the_frame_that_names_them() -> None:
    async with both() as (near, far):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            near.send(b"before")
            near.send(b"two", [listening, listening])
            near.send(b"one", [listening])
            assert await far.receive() == b"before"
            assert await far.receive() == b"two"
            first = far.take_sockets(2)
            assert await far.receive() == b"one"
            for sock in (*first, *far.take_sockets(1)):
                assert sock.getsockname() == listening.getsockname()
                assert not os.get_inheritable(sock.fileno())
                sock.close()
            with pytest.raises(LineGone):
                far.take_sockets(1)


async def test_a_third_process_goes_on_where_the_second_was() -> None:
    """What was read and not taken, half a frame included, and what waits to be sent."""
    async with both() as (near, far):
        for frame in (b"taken", b"read", b"half" * 50_000):
            near.send(frame)
        assert await far.receive() == b"taken"
        sock, read, unsent = far.leave()
        assert unsent == b""
        never = ProcessLine.going_on(sock.dup(), read, b"\0\0\0\5never")
        await asyncio.sleep(0.02)
        never.close()
        far.go_on()
        async with asyncio.timeout(5):
            assert [await far.receive(), await far.receive()] == [b"read", b"half" * 50_000]  # (the third did not)
        for frame in (b"read", b"half" * 50_000):
            near.send(frame)
        await asyncio.sleep(0.02)
        sock, read, _ = far.leave()
        third = ProcessLine.going_on(sock.dup(), read, b"\0\0\0\4last")
        third.go_on()
        assert [await third.receive(), await third.receive()] == [b"read", b"half" * 50_000]
        assert await near.receive() == b"last"
        third.close()


@pytest.mark.parametrize("data", [(MAX_FRAME_BYTES + 1).to_bytes(4), b"\xff\xff\xff\xff", b""])
async def test_what_is_no_frame_ends_it(data: bytes) -> None:
    """Also where it has begun and the other side goes; what was whole before that is there still."""
    near, there = ProcessLine.pair()
    with there:
        there.sendall(b"\0\0\0\2ok" + data)
        there.shutdown(socket.SHUT_WR)
        assert await near.receive() == b"ok"
        with pytest.raises(LineGone):
            async with asyncio.timeout(5):
                await near.receive()
        assert near.gone
        near.send(b"nobody reads it")
        near.close()


async def test_more_sockets_than_anybody_has_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none of them stays open."""
    monkeypatch.setattr(process_line, "MAX_SOCKETS", 3)
    before = len(os.listdir("/proc/self/fd"))
    async with both() as (near, far):
        with socket.socket() as one:
            near.send(b"x", [one] * 2)
            near.send(b"y", [one] * 2)
            for _ in range(200):
                if far.gone:
                    break
                await asyncio.sleep(0.005)
            assert far.gone
    assert len(os.listdir("/proc/self/fd")) == before
