"""A wire: what is read, what the kernel does not take, and who is told."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from fastgw.net.poller import Reactor
from fastgw.net.wire import DEAD, NOBODY, QUEUED, SENT, Holder, PlainWire, Wire
from tests.e2e.backlog import fill
from tests.net.talk import Peer, reacting, tcp_pair, turns, until

MUCH = b"x" * (4 << 20)


class Heard(Holder):
    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.heard: list[object] = []
        self.wire = wire
        wire.holder = self

    def on_readable(self) -> None:
        try:
            data = self.wire.recv(16)
        except OSError as error:
            data = type(error).__name__.encode()
            self.wire.pause()
        self.heard.append(bytes(bytearray(data)))
        if not data:
            self.wire.pause()

    def on_left(self) -> None:
        self.heard.append("left")
        self.wire.dispose()

    def on_dialled(self, code: int) -> None:
        self.heard.append(("dialled", code))

    def on_congested(self) -> None:
        self.heard.append("congested")

    def on_progressed(self) -> None:
        if self.heard[-1] != "progressed":
            self.heard.append("progressed")

    def on_written(self) -> None:
        self.heard.append("written")

    def on_broken(self) -> None:
        self.heard.append("broken")


def made(reactor: Reactor, tcp: bool = False) -> tuple[PlainWire, Heard, Peer]:
    ours, theirs = tcp_pair() if tcp else socket.socketpair()
    ours.setblocking(False)
    wire = PlainWire(reactor, ours.detach())
    return wire, Heard(wire), Peer(theirs)


async def test_reads_while_it_is_told_to() -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        peer.send(b"one")
        await turns()
        assert holder.heard == []
        wire.resume()
        await until(lambda: holder.heard == [b"one"])
        wire.pause()
        peer.send(b"two")
        await turns()
        assert holder.heard == [b"one"]
        assert wire.unread()
        wire.resume()
        await until(lambda: holder.heard == [b"one", b"two"])
        assert not wire.unread()
        with pytest.raises(BlockingIOError):
            wire.recv(16)
        peer.sock.close()
        await until(lambda: holder.heard == [b"one", b"two", b""])
        wire.dispose()


async def test_whoever_leaves_while_it_is_held_is_noticed_and_what_he_said_is_read_first_otherwise() -> None:
    async with reacting() as reactor:
        for minded in (True, False):
            wire, holder, peer = made(reactor)
            if minded:
                wire.hold()
            else:
                wire.resume()
                wire.watch_leaving(True)
            peer.send(b"last words")
            peer.sock.close()
            told = ["left"] if minded else [b"last words", b""]
            await until(lambda: holder.heard[:2] == told)  # noqa: B023
            wire.dispose()


async def test_nobody_who_leaves_is_noticed_where_it_is_not_minded() -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        wire.hold()
        wire.watch_leaving(False)
        peer.sock.close()
        await turns()
        assert holder.heard == []
        wire.dispose()


async def test_what_the_kernel_does_not_take_goes_out_when_it_does_and_in_order() -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        assert wire.write(b"first") == SENT
        assert wire.write(MUCH) == QUEUED
        assert holder.heard == ["congested"]
        queued = wire.queued_bytes
        assert 0 < queued <= len(MUCH)
        assert wire.write(b"last") == QUEUED
        assert (wire.queued_bytes, holder.heard) == (queued + 4, ["congested"])
        got = await peer.receive(5 + len(MUCH) + 4)
        assert got == b"first" + MUCH + b"last"
        await until(lambda: holder.heard[-1] == "written")
        assert holder.heard == ["congested", "progressed", "written"]
        assert wire.queued_bytes == 0
        assert wire.write(b"again") == SENT
        assert wire.unacknowledged() > 0
        assert await peer.receive(5) == b"again"
        wire.dispose()
        peer.sock.close()


@pytest.mark.parametrize("before", [0, 100, 4 << 20], ids=["empty", "some", "full"])
@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("size", [0, 1, 20_000, 4 << 20])
async def test_two_go_out_one_behind_the_other_whatever_the_kernel_takes(size: int, start: int, before: int) -> None:
    head, body = b"h" * 300, b"skipped"[:start] + b"b" * size
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        filled = 0
        while filled < before:  # until there is no room at all
            filled += 100
            if wire.write(b"x" * 100) == QUEUED:
                break
        queued = wire.queued_bytes
        got = wire.write_both(head, body, start)
        assert got == (SENT if not wire.queued_bytes else QUEUED)
        assert wire.queued_bytes <= queued + len(head) + size
        assert (got == QUEUED) == (holder.heard == ["congested"])
        assert wire.write(b"last") == got
        wanted = b"x" * filled + head + body[start:] + b"last"
        assert await peer.receive(len(wanted)) == wanted
        await until(lambda: not wire.queued_bytes)
        wire.dispose()
        assert wire.write_both(head, body, start) == DEAD
        peer.sock.close()


async def test_a_broken_socket_is_met_by_the_write_and_by_the_residue() -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        peer.sock.close()
        assert wire.write(b"x") == DEAD
        wire.dispose()
        wire, holder, peer = made(reactor)
        assert wire.write(MUCH) == QUEUED
        peer.sock.close()
        await until(lambda: "broken" in holder.heard)
        assert wire.queued_bytes == 0
        assert wire.write(b"x") == DEAD
        wire.dispose()


@pytest.mark.parametrize("reset", [False, True])
async def test_the_end_is_a_fin_or_a_reset_and_lets_go_of_the_holder(reset: bool) -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor, tcp=True)
        wire.resume()
        peer.send(b"read")
        await until(lambda: holder.heard == [b"read"])
        wire.dispose(reset)
        wire.dispose(reset)
        assert wire.holder is NOBODY
        assert wire.closed
        assert len(reactor.poller) == 0
        assert await peer.rest() == ("reset" if reset else b"")
        assert wire.write(b"x") == DEAD
        wire.resume()
        wire.hold()
        wire.watch_leaving(True)
        assert len(reactor.poller) == 0, "what is closed is not watched again"
        peer.sock.close()


async def test_our_side_closes_alone() -> None:
    async with reacting() as reactor:
        wire, holder, peer = made(reactor)
        wire.resume()
        wire.write(b"all")
        wire.shutdown()
        assert await peer.rest() == b"all"
        peer.send(b"heard")
        await until(lambda: holder.heard == [b"heard"])
        wire.dispose()
        peer.sock.close()


async def test_a_dial_that_succeeds_and_one_that_is_refused() -> None:
    async with reacting() as reactor:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            wire = PlainWire(reactor)
            holder = Heard(wire)
            assert wire.dial((socket.AF_INET, address)) == 0
            await until(lambda: holder.heard == [("dialled", 0)])
            assert wire.write(b"hi") == SENT
            theirs, _ = listener.accept()
            assert theirs.recv(2) == b"hi"
            theirs.close()
            wire.dispose()
        wire = PlainWire(reactor)
        holder = Heard(wire)
        if wire.dial((socket.AF_INET, address)) == 0:
            await until(lambda: holder.heard == [("dialled", 111)])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            holder.heard.clear()
            assert wire.dial((socket.AF_INET, listener.getsockname())) == 0
            await until(lambda: holder.heard == [("dialled", 0)])
        wire.dispose()


async def test_a_dial_that_cannot_even_begin_says_so_at_once() -> None:
    async with reacting() as reactor:
        wire = PlainWire(reactor)
        holder = Heard(wire)
        assert wire.dial((socket.AF_UNIX, "/nowhere/at/all")) == 2
        assert wire.dial((socket.AF_UNIX, "x" * 500)) != 0
        await asyncio.sleep(0.005)
        assert holder.heard == []
        wire.dispose()


async def test_a_unix_sockets_full_backlog_is_a_dial_that_failed(tmp_path: Path) -> None:
    """Nobody would ever tell how it went on: the kernel has not kept it."""
    waiting: list[socket.socket] = []
    async with reacting() as reactor:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "here"))
            listener.listen(0)
            fill(listener, waiting)
            wire = PlainWire(reactor)
            holder = Heard(wire)
            assert wire.dial((socket.AF_UNIX, listener.getsockname())) == 11
            await turns()
            assert holder.heard == []
            wire.dispose()
            for one in waiting:
                one.close()


async def test_silence_is_known_from_the_pollers_look() -> None:
    async with reacting() as reactor:
        wire, _, peer = made(reactor)
        other, heard, waker = made(reactor)
        wire.resume()
        other.resume()
        turn = reactor.poller.turn
        assert not wire.silent_since(turn), "nobody has asked since"
        waker.send(b"x")
        await until(lambda: heard.heard == [b"x"])
        assert wire.silent_since(turn)
        for one, end in ((wire, peer), (other, waker)):
            one.dispose()
            end.sock.close()
