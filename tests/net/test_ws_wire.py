"""A wire in the binary messages of a WebSocket: both ends of it, and a peer that says what it likes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastgw.accel.masks import framed, unmasked
from fastgw.net.poller import Reactor
from fastgw.net.wire import QUEUED, SENT, Holder, PlainWire
from fastgw.net.ws_wire import FRAME_BYTES, Talk, WebSocketEnd, WebSocketWire
from fastgw.protocol.messages import BINARY, CLOSE, FIN, PING, PONG, TEXT, MessageReader
from tests.net.talk import Peer, reacting, tcp_pair, turns, until

KEY = b"\x01\x82\x03\x84"
TEXTS = 1000


class Told(Talk):
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.listens = True

    def on_text(self, text: bytes) -> None:
        self.heard.append(text)

    def on_sign(self) -> bool:
        return self.listens

    def on_over(self, code: int, why: str) -> None:
        self.heard.append(code)


class Reading(Holder):
    """Takes what its wire brings; remembers what it is told."""

    def __init__(self, wire: WebSocketWire, size: int = 1 << 20) -> None:
        super().__init__()
        self.wire = wire
        self.size = size
        self.got = b""
        self.heard: list[str] = []
        wire.holder = self

    def on_readable(self) -> None:
        try:
            self.got += self.wire.recv(self.size)
        except BlockingIOError:
            self.heard.append("nothing")
        except ConnectionResetError:
            self.heard.append("reset")
            self.wire.pause()

    def on_left(self) -> None:
        self.heard.append("left")

    def on_congested(self) -> None:
        self.heard.append("congested")

    def on_written(self) -> None:
        self.heard.append("written")


class Side:
    """One end."""

    def __init__(self, reactor: Reactor, sock: socket.socket, client: bool) -> None:
        sock.setblocking(False)
        self.talk = Told()
        self.end = WebSocketEnd(reactor, PlainWire(reactor, sock.detach()), client, TEXTS, self.talk)
        self.wire = self.end.stream()
        self.holder = Reading(self.wire)
        self.wire.resume()
        self.end.begin(b"")


@contextlib.asynccontextmanager
async def both() -> AsyncIterator[tuple[Side, Side]]:
    async with reacting() as reactor:
        ours, theirs = tcp_pair()
        sides = Side(reactor, ours, False), Side(reactor, theirs, True)
        yield sides
        for side in sides:
            side.end.cut()


@contextlib.asynccontextmanager
async def by_hand(client: bool = False) -> AsyncIterator[tuple[Side, Peer]]:
    """``client``: ours has dialled."""
    async with reacting() as reactor:
        ours, theirs = tcp_pair()
        side, peer = Side(reactor, ours, client), Peer(theirs)
        yield side, peer
        side.end.cut()
        peer.sock.close()


def said(kind: int, payload: bytes, masked: bool = True) -> bytes:
    return framed(FIN | kind, payload, 0, len(payload), KEY if masked else b"")


async def test_bytes_pass_both_ways_with_texts_between_them() -> None:
    async with both() as (gateway, runner):
        body = bytes(at * 31 & 255 for at in range(200000))
        for to, of in ((gateway, runner), (runner, gateway)):
            assert of.end.say(b"before")
            of.wire.write(body)
            assert of.end.say(b"behind")
            await until(lambda to=to: to.holder.got == body and to.talk.heard == [b"before", b"behind"])  # type: ignore[misc]


async def test_masks_are_drawn_anew_and_only_a_client_masks() -> None:
    async with by_hand(client=True) as (side, peer):
        for _ in range(2):
            assert side.wire.write(b"same") == SENT
        got = await peer.receive(20)
        first, second = got[2:6], got[12:16]
        assert got[:2] == got[10:12] == bytes((FIN | BINARY, 0x80 | 4))
        assert first != second
        assert unmasked(got, 6, 10, first, 0) == unmasked(got, 16, 20, second, 0) == b"same"
    async with by_hand() as (side, peer):
        side.wire.write(b"plain")
        assert await peer.receive(7) == said(BINARY, b"plain", False)


async def test_a_peer_that_does_not_read_stops_the_wire_and_a_text_waits_for_one_frame_alone() -> None:
    async with by_hand() as (side, peer):
        body = bytes(8 << 20)
        assert side.wire.write(body) == QUEUED
        assert side.holder.heard == ["congested"]
        assert side.end.waiting() <= FRAME_BYTES + 10  # framed, and not taken by the kernel
        assert side.end.say(b"a text")
        assert side.wire.write(b"more") == QUEUED
        assert side.wire.queued_bytes > 1 << 20
        reader, stream, seen = MessageReader(False, TEXTS), 0, -1
        while stream < len(body) + 4:
            stream += len(reader.feed(await peer.some()))
            if seen < 0 and reader.events:
                seen = stream
        assert reader.events == [(TEXT, b"a text")]
        assert seen < len(body) - (1 << 19)  # in front of what was written before it, and was no frame yet
        await until(lambda: side.holder.heard[-1] == "written")
        assert side.wire.queued_bytes == 0


async def test_a_holder_that_does_not_read_stops_the_peer() -> None:
    async with by_hand() as (side, peer):
        side.wire.pause()
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for _ in range(4000):
                sent += peer.sock.send(said(BINARY, bytes(16384)))
                await turns(1) if not sent % (1 << 20) else None
        assert not side.holder.got
        held = sent
        side.wire.resume()
        await until(lambda: len(side.holder.got) > held // 2)


async def test_a_small_reader_is_called_again() -> None:
    async with by_hand() as (side, peer):
        side.holder.size = 3
        peer.send(said(BINARY, b"0123456789"))
        await until(lambda: side.holder.got == b"0123456789")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (said(BINARY, b"x", False), 1002),
        (said(TEXT, b"x" * (TEXTS + 1)), 1009),
        (said(CLOSE, b"\x03\xe8"), 1000),
        (said(CLOSE, b"\x03\xe9bye"), 1001),
    ],
)
async def test_an_end_is_answered_and_told_once(data: bytes, code: int) -> None:
    async with by_hand() as (side, peer):
        peer.send(data)
        assert (await peer.receive(4))[:4] in {bytes((FIN | CLOSE, size)) + code.to_bytes(2, "big") for size in range(2, 126)}
        await until(lambda: side.talk.heard == [code])
        assert side.holder.heard == ["reset"]
        assert side.wire.write(b"x") == -1
        assert not side.end.say(b"x")


@pytest.mark.parametrize("reads", [True, False])
async def test_a_connection_that_breaks_is_a_reset(reads: bool) -> None:
    async with by_hand() as (side, peer):
        if not reads:
            side.wire.pause()
        peer.send(said(BINARY, b"the last")[:-2])
        await turns()
        peer.sock.close()
        await until(lambda: side.talk.heard == [1006])
        assert side.holder.heard == (["reset"] if reads else ["left"])


async def test_a_close_of_ours_waits_for_the_peers() -> None:
    async with by_hand() as (side, peer):
        side.wire.dispose()
        assert await peer.receive(4) == bytes((FIN | CLOSE, 2 + len("the stream in it has ended"))) + b"\x03\xe8"
        peer.at_hand()
        peer.send(said(BINARY, b"not read any more") + said(CLOSE, b"\x03\xe8"))
        await until(lambda: side.talk.heard == [1000])
        assert (side.holder.got, side.holder.heard) == (b"", [])
    async with both() as (gateway, runner):
        gateway.end.close(1001, "away")
        await until(lambda: runner.talk.heard == [1001] and gateway.talk.heard == [1001])
        assert gateway.holder.heard == runner.holder.heard == ["reset"]


async def test_half_a_text_is_let_go_with_our_close_and_no_more_of_it_is_kept() -> None:
    async with by_hand() as (side, peer):
        peer.send(framed(TEXT, b"x" * 900, 0, 900, KEY))
        await turns(3)
        side.end.close(1008, "no")
        # (What was kept would be too long with the rest: TEXTS.)
        peer.send(framed(0, b"y" * 900, 0, 900, KEY) + framed(FIN, b"z", 0, 1, KEY))
        peer.send(said(TEXT, b"more") + said(CLOSE, b"\x03\xe8"))
        await until(lambda: side.talk.heard != [])
        assert side.talk.heard == [1000]


async def test_pings_are_answered_as_long_as_they_are_listened_to() -> None:
    async with by_hand() as (side, peer):
        peer.send(said(PING, b"a") + said(PONG, b""))
        assert await peer.receive(3) == said(PONG, b"a", False)
        side.talk.listens = False
        peer.send(said(PING, b"b") + said(TEXT, b"still"))
        await until(lambda: side.talk.heard == [b"still"])
        assert peer.at_hand() == b""


async def test_bytes_where_there_is_no_stream_are_refused() -> None:
    async with by_hand() as (side, peer):
        side.end.wire = None
        peer.send(said(BINARY, b"x"))
        await until(lambda: side.talk.heard == [1003])
