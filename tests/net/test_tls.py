"""A wire with TLS on it: what ``test_wire.py`` asks of a plain one, and what is TLS's own."""

from __future__ import annotations

import socket
import ssl
import sys

import pytest

from fastgw import twins
from fastgw.accel.landing import Landing
from fastgw.net.certificates import Showing, Shown
from fastgw.net.poller import Reactor
from fastgw.net.tls import TlsWire
from fastgw.net.tls_end import RECORD_BYTES, End
from fastgw.net.wire import DEAD, NOBODY, QUEUED, SENT
from tests.net.talk import reacting, tcp_pair, turns, until
from tests.net.test_wire import Heard
from tests.net.tls_talk import Shaken, TlsPeer, secured
from tests.support.pki import Certificates

MUCH = bytes(range(256)) * (16 << 10)


class Told(Heard):
    """(Half a record is nothing that there would be to tell.)"""

    def on_readable(self) -> None:
        super().on_readable()
        if self.heard[-1] == b"BlockingIOError":
            del self.heard[-1]
            self.wire.resume()


def segments(sock: socket.socket) -> int:
    """How many have come (``tcpi_segs_in``)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)[140:144], sys.byteorder)


async def made(reactor: Reactor, certs: Certificates, with_last: bytes = b"") -> tuple[TlsWire, Told, TlsPeer]:
    wire, peer = await secured(reactor, certs, with_last)
    return wire, Told(wire), peer


async def test_reads_while_it_is_told_to(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
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
        peer.leave()
        await until(lambda: holder.heard == [b"one", b"two", b""])
        wire.dispose()
        peer.sock.close()


async def test_what_came_with_the_handshake_is_told_although_the_kernel_knows_nothing_of_it(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs, b"the first request")
        turn = reactor.poller.turn
        other, heard, waker = await made(reactor, certs)
        other.resume()
        waker.send(b"x")
        await until(lambda: heard.heard)
        assert reactor.poller.silent_since(wire, turn)
        assert not wire.silent_since(turn)
        assert wire.unread()
        other.dispose()
        waker.sock.close()
        wire.resume()
        await until(lambda: b"".join(holder.heard) == b"the first request")
        assert len(holder.heard) == 2, "sixteen bytes at a time"
        wire.dispose()
        peer.sock.close()


async def test_a_long_body_right_behind_the_handshake_is_no_long_handshake(certs: Certificates) -> None:
    body = MUCH[: 3 << 18]
    async with reacting() as reactor:
        wire, peer = await secured(reactor, certs, body)
        got = b""
        while len(got) < len(body):
            try:
                got += wire.recv(65536)
            except BlockingIOError:
                await turns(1)
        assert got == body
        wire.dispose()
        peer.sock.close()


@pytest.mark.parametrize("sizes", [(1,) * 50, (300,) * 10, (16, 16), (17,), (40_000,)], ids=str)
async def test_whatever_is_read_at_a_time_nothing_is_left_behind(certs: Certificates, sizes: tuple[int, ...]) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wanted = b"".join(bytes([at % 251]) * size for at, size in enumerate(sizes))
        at = 0
        for size in sizes:
            peer.tls.write(wanted[at : at + size])
            at += size
        peer._put()
        wire.resume()
        await until(lambda: sum(map(len, holder.heard)) >= len(wanted))
        assert b"".join(holder.heard) == wanted
        assert max(map(len, holder.heard)) <= 16
        wire.dispose()
        peer.sock.close()


async def test_who_pauses_in_the_middle_of_what_was_read_is_told_the_rest_when_he_goes_on(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        peer.send(b"a" * 16 + b"b" * 16)
        wire.resume()
        await until(lambda: holder.heard)
        wire.pause()
        told = len(holder.heard)
        await turns()
        assert len(holder.heard) == told
        assert wire.unread() == (told == 1)
        wire.hold()
        wire.resume()
        await until(lambda: holder.heard == [b"a" * 16, b"b" * 16])
        wire.dispose()
        peer.sock.close()


@pytest.mark.parametrize("told", [True, False], ids=["close_notify", "cut"])
@pytest.mark.parametrize("last", [b"", b"last words", b"x" * 40])
async def test_an_end_that_was_not_told_is_a_reset(certs: Certificates, told: bool, last: bytes) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wire.resume()
        peer.leave(told, last)
        end = b"" if told else b"ConnectionResetError"
        await until(lambda: holder.heard and holder.heard[-1] == end)
        assert b"".join(holder.heard[:-1]) == last
        wire.dispose()
        peer.sock.close()


async def test_bytes_that_are_no_record_are_a_reset_and_the_peer_is_told_why(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wire.resume()
        peer.tls.write(b"good")
        peer._put()
        peer.sock.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await until(lambda: holder.heard and holder.heard[-1] == b"ConnectionResetError")
        assert holder.heard[0] == b"good"
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record"):
            await peer.receive(1)
        wire.dispose()
        peer.sock.close()


async def test_whoever_leaves_while_it_is_held_is_noticed(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wire.hold()
        peer.leave()
        await until(lambda: holder.heard == ["left"])
        assert wire.closed
        peer.sock.close()


async def test_what_the_kernel_does_not_take_goes_out_when_it_does_and_in_order(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        assert wire.write(b"") == SENT
        assert wire.write(b"first") == SENT
        assert wire.write(MUCH) == QUEUED
        assert holder.heard == ["congested"]
        queued = wire.queued_bytes
        assert 0 < queued <= len(MUCH) + 65536
        assert wire.write(b"last") == QUEUED
        assert (wire.queued_bytes, holder.heard) == (queued + 4, ["congested"])
        assert await peer.receive(5 + len(MUCH) + 4, 5.0) == b"first" + MUCH + b"last"
        await until(lambda: holder.heard[-1] == "written")
        assert holder.heard == ["congested", "progressed", "written"]
        assert wire.queued_bytes == 0
        assert wire.write(b"again") == SENT
        assert await peer.receive(5) == b"again"
        wire.dispose()
        peer.sock.close()


@pytest.mark.parametrize("before", [0, 100, 4 << 20], ids=["empty", "some", "full"])
@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("size", [0, 1, 20_000, 1 << 20])
async def test_two_go_out_one_behind_the_other_whatever_the_kernel_takes(
    certs: Certificates, size: int, start: int, before: int
) -> None:
    head, body = b"h" * 300, b"skipped"[:start] + b"b" * size
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        filled = 0
        while filled < before:
            filled += 10_000
            if wire.write(b"x" * 10_000) == QUEUED:
                break
        got = wire.write_both(head, body, start)
        assert got == (SENT if not wire.queued_bytes else QUEUED)
        assert (got == QUEUED) == (holder.heard == ["congested"])
        assert wire.write(b"last") == got
        wanted = b"x" * filled + head + body[start:] + b"last"
        assert await peer.receive(len(wanted), 5.0) == wanted
        await until(lambda: not wire.queued_bytes)
        wire.dispose()
        assert wire.write_both(head, body, start) == DEAD
        peer.sock.close()


async def test_an_event_is_one_record_and_a_head_and_its_short_body_are_one(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, _, peer = await made(reactor, certs)
        for _ in range(2):  # (tickets come first)
            wire.write(b"e" * 300)
            await peer.receive(300)
        wire.write_both(b"h" * 100, b"b" * 200, 0)
        wire.write(b"event")
        await turns()
        raw = peer.at_hand()
        records = 0
        while raw:
            raw = raw[5 + int.from_bytes(raw[3:5], "big") :]
            records += 1
        assert records == 2
        wire.dispose()
        peer.sock.close()


async def test_a_broken_socket_is_met_by_the_write_and_by_the_residue(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        assert wire.write(MUCH) == QUEUED
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sock.close()
        await until(lambda: "broken" in holder.heard)
        assert wire.queued_bytes == 0
        assert wire.write(b"x") == DEAD
        wire.dispose()


@pytest.mark.parametrize(("reset", "seen"), [(False, b""), (True, "reset")])
async def test_the_end_is_told_or_a_reset_and_lets_go_of_the_holder(certs: Certificates, reset: bool, seen: object) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wire.resume()
        peer.send(b"read")
        await until(lambda: holder.heard == [b"read"])
        came = segments(peer.sock)
        wire.dispose(reset)
        wire.dispose(reset)
        assert wire.holder is NOBODY
        assert len(reactor.poller) == 0
        assert await peer.rest() == seen
        if not reset and twins.native():
            assert segments(peer.sock) == came + 1, "the word of the end and the end itself wake the peer once"
        assert wire.write(b"x") == DEAD
        wire.resume()
        assert len(reactor.poller) == 0, "what is closed is not watched again"
        peer.sock.close()


class Documented:
    """An ``SSLObject`` that has nothing but what its page names."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self.do_handshake, self.read, self.write, self.unwrap = tls.do_handshake, tls.read, tls.write, tls.unwrap
        self.selected_alpn_protocol, self.version, self.session_reused = tls.selected_alpn_protocol, tls.version, False


class ShownByPage(Shown):
    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return Documented(super().session(incoming, outgoing))  # type: ignore[return-value]


async def test_what_the_ssl_modules_page_names_is_enough(certs: Certificates) -> None:
    """What is called below it, where it is there, is a shortcut."""
    async with reacting() as reactor:
        wire, peer = await secured(reactor, certs, shown=ShownByPage(Showing([(certs.gateway.cert, certs.gateway.key)])))
        holder = Told(wire)
        wire.resume()
        peer.send(MUCH[:20_000])
        await until(lambda: b"".join(holder.heard) == MUCH[:20_000])
        wire.write(MUCH[:100])
        wire.write_both(b"head", MUCH[:20_000], 0)
        wire.dispose()
        assert await peer.rest() == MUCH[:100] + b"head" + MUCH[:20_000]
        peer.sock.close()


async def test_an_answer_that_is_cut_off_ends_without_the_word_of_an_end(certs: Certificates) -> None:
    """What was queued is lost with the close: its reader must not take what he has for whole."""
    async with reacting() as reactor:
        wire, _, peer = await made(reactor, certs)
        assert wire.write(MUCH) == QUEUED
        wire.dispose()
        assert await peer.rest(5.0) in ("cut", "reset")
        peer.sock.close()


async def test_our_side_closes_alone(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, holder, peer = await made(reactor, certs)
        wire.resume()
        wire.write(b"all")
        wire.shutdown()
        assert await peer.rest() == b"all"
        peer.send(b"heard")
        await until(lambda: holder.heard == [b"heard"])
        wire.dispose()
        peer.sock.close()


@pytest.mark.parametrize("sent", [3, 40_000, 70_000])
async def test_a_body_lands_where_it_stays_and_what_follows_it_does_not(certs: Certificates, sent: int) -> None:
    async with reacting() as reactor:
        wire, _, peer = await made(reactor, certs)
        landing = Landing(sent)
        peer.send(MUCH[:sent] + b"next")
        got = 0
        while got < sent:
            try:
                got += wire.land(landing)
            except BlockingIOError:
                await turns(1)
        assert landing.whole() == MUCH[:sent]
        assert wire.unread()
        assert wire.recv(100) == b"next"
        wire.dispose()
        peer.sock.close()


async def test_silence_is_known_from_the_pollers_look(certs: Certificates) -> None:
    async with reacting() as reactor:
        wire, _, peer = await made(reactor, certs)
        other, heard, waker = await made(reactor, certs)
        wire.resume()
        other.resume()
        await turns()
        turn = reactor.poller.turn
        assert not wire.silent_since(turn), "nobody has asked since"
        waker.send(b"x")
        await until(lambda: heard.heard == [b"x"])
        assert wire.silent_since(turn)
        for one, end in ((wire, peer), (other, waker)):
            one.dispose()
            end.sock.close()


class Asked:
    """TLS that answers each read with ``RECORD_BYTES`` of its own, as if for new keys."""

    def __init__(self, outgoing: ssl.MemoryBIO) -> None:
        self.outgoing = outgoing
        self.session_reused = False

    def do_handshake(self) -> None: ...

    def selected_alpn_protocol(self) -> None: ...

    def version(self) -> str:
        return "TLSv1.3"

    def read(self, size: int) -> bytes:
        self.outgoing.write(bytes(RECORD_BYTES))
        raise ssl.SSLWantReadError


class Asking(End):
    __slots__ = ()
    accepts = True

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return Asked(outgoing)  # type: ignore[return-value]


async def test_who_asks_for_replies_and_does_not_read_them_is_cut_off() -> None:
    async with reacting() as reactor:
        ours, theirs = tcp_pair()
        wire = TlsWire(reactor, Asking(), ours.detach())
        shaken = Shaken(wire)
        wire.accept()
        theirs.send(b"\x16")
        await until(lambda: shaken.codes)
        most, ended = 0, ""
        for _ in range(2000):
            theirs.send(b"?")
            await turns(1)
            try:
                wire.recv(16)
            except BlockingIOError:
                most = max(most, wire.queued_bytes)
            except ConnectionResetError:
                ended = "reset"
                break
        assert ended
        assert 0 < most <= 1 << 17
        wire.dispose()
        theirs.close()
