"""A client's handshake: what it becomes, how it fails, and that it holds nothing afterwards."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fastgw.net import handshake
from fastgw.net.certificates import Showing, Shown
from fastgw.net.client import Connection, ConnLimits
from fastgw.net.handshake import Entrance, Handshake
from fastgw.net.poller import READ
from fastgw.net.tls import TlsWire
from fastgw.stats import Stats
from tests.net.talk import HeardService, Peer, reacting, tcp_pair, turns, until
from tests.net.tls_talk import TlsPeer
from tests.support.pki import Certificates, Pair

PLAIN = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"


def der_of(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(pair.cert).read_text())


class Door:
    """One connection that has just been accepted; ``told`` is what became of it."""

    def __init__(self, certs: Certificates, **showing: object) -> None:
        self.told: list[str] = []
        self.reads_on = False
        self.connections: set[Connection] = set()
        self.wire: TlsWire | None = None
        self.stats = Stats()
        self.service = HeardService()
        pair = (certs.gateway.cert, certs.gateway.key)
        self.shown = Shown(Showing([pair], **showing), PLAIN)  # type: ignore[arg-type]

    def done(self, wire: TlsWire, ip: str) -> None:
        self.wire = wire
        self.told.append(f"done {ip}")
        if self.reads_on:
            wire.resume()

    def failed(self, ip: str, why: str) -> None:
        self.told.append(why)


@asynccontextmanager
async def opened(certs: Certificates, limit_s: float = 10.0, **showing: object) -> AsyncIterator[tuple[Door, Handshake, Peer]]:
    async with reacting() as reactor:
        ours, theirs = tcp_pair()
        door = Door(certs, **showing)
        limits = ConnLimits(head_bytes=1000, header_count=10, head_s=limit_s, idle_s=9.0, body_s=9.0, write_s=9.0)
        entrance = Entrance(
            reactor, door.shown, door.service, limits, door.stats, door.connections, door.done, door.failed
        )
        one = entrance.admit(ours.detach(), "192.0.2.7")
        wire = one.wire
        assert (door.stats.connections_open, door.connections) == (1, {one})
        yield door, one, Peer(theirs)
        if door.wire is not None:
            door.wire.dispose()
        theirs.close()
        await until(lambda: wire.closed)
        assert len(reactor.poller) == 0
        assert door.stats.connections_open == 0


async def test_a_good_one_hands_the_wire_on(certs: Certificates) -> None:
    async with opened(certs) as (door, _, peer):
        client = TlsPeer(peer.sock, certs.trusting())
        await client.shake()
        await until(lambda: door.told)
        assert door.told == ["done 192.0.2.7"]
        assert (door.stats.handshakes_total, door.stats.handshakes_failed) == (1, 0)
        assert door.service.ended == [], "the connection goes on"
        assert door.wire is not None
        assert (client.tls.version(), door.wire.protocol) == ("TLSv1.3", "")


@pytest.mark.parametrize("reads_on", [True, False])
async def test_who_reads_on_is_watched_all_the_while_and_who_does_not_no_more(certs: Certificates, reads_on: bool) -> None:
    async with opened(certs) as (door, one, peer):
        door.reads_on = reads_on
        watched = one.wire.watched_in
        await TlsPeer(peer.sock, certs.trusting()).shake()
        await until(lambda: door.told)
        assert one.wire.interest == (READ if reads_on else 0)
        assert one.wire.watched_in == watched, "the kernel was told again of what it knew"


@pytest.mark.parametrize(("offered", "chosen"), [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
async def test_the_protocol_is_agreed_on(certs: Certificates, offered: list[str], chosen: str | None) -> None:
    async with opened(certs) as (door, _, peer):
        context = certs.trusting()
        context.set_alpn_protocols(offered)
        client = TlsPeer(peer.sock, context)
        await client.shake()
        await until(lambda: door.told)
        assert client.tls.selected_alpn_protocol() == chosen
        assert door.wire is not None
        assert door.wire.protocol == (chosen or "")


@pytest.mark.parametrize(("sent", "answer", "why"), [
    (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", PLAIN, "HTTP without TLS"),
    (b"POST /v1/chat/completions HTTP/1.1\r\n", PLAIN, "HTTP without TLS"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PLAIN, "HTTP without TLS"),
    (b"\x00\x01\x02", b"", "not TLS"),
    (b"\x80\x2e\x01\x00\x02", b"", "not TLS"),  # SSL 2
])  # fmt: skip
async def test_what_does_not_speak_tls_is_told_so_or_closed(certs: Certificates, sent: bytes, answer: bytes, why: str) -> None:
    async with opened(certs) as (door, _, peer):
        peer.send(sent)
        assert await peer.rest() == answer
        assert door.told == [why]
        assert door.stats.handshakes_failed == 1
        peer.sock.close()
        await until(lambda: door.service.ended)
        assert door.service.ended == ["192.0.2.7"], "its place is free again"


@pytest.mark.parametrize("speaks_tls", [True, False])
async def test_who_is_told_why_and_sends_on_is_not_cut_before_it_reads(certs: Certificates, speaks_tls: bool) -> None:
    """A client of TLS 1.3 sends its first request before it knows what becomes of its certificate: a closed socket would meet
    that with an RST, and the client would tell of a connection reset and not of the alert."""
    async with opened(certs, client_ca=certs.ca, client_required=True) as (door, _, peer):
        client = TlsPeer(peer.sock, certs.trusting(certs.strange))
        if speaks_tls:
            await client.shake()
        else:
            peer.send(b"POST / HTTP/1.1\r\n")
        await until(lambda: door.told)
        for piece in (b"host: a\r\n", b"\r\n"):
            peer.sock.send(piece)
            await turns()
        if speaks_tls:
            client.incoming.write(await peer.rest())
            with pytest.raises(ssl.SSLError, match=r"(?i)alert unknown ca"):
                client.tls.read(1)
        else:
            assert await peer.rest() == PLAIN
        assert (len(door.told), door.service.ended, door.stats.connections_open) == (1, [], 1)
        peer.sock.close()
        await until(lambda: door.service.ended)
        assert door.stats.handshakes_failed == 1


async def test_who_was_told_is_read_for_nothing_only_so_long_and_so_much(
    certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "LINGER_S", 0.05)
    async with opened(certs) as (door, one, peer):
        peer.send(b"GET / HTTP/1.1\r\n")
        await until(lambda: door.service.ended)
        assert one.wire.closed
        assert door.stats.handshakes_failed == 1, "counted once"
    monkeypatch.setattr(handshake, "LINGER_S", 60.0)
    async with opened(certs) as (door, one, peer):
        peer.send(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for _ in range(20):
                await turns(1)
                peer.sock.send(bytes(16384))
        await until(lambda: door.service.ended)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_who_leaves_in_the_middle_is_gone(certs: Certificates, sent: bytes) -> None:
    async with opened(certs) as (door, _, peer):
        peer.send(sent)
        peer.sock.close()
        await until(lambda: door.told)
        assert door.told == ["closed within the TLS handshake"]


@pytest.mark.parametrize("last", [b"", b"GET / HTTP/1.1"])
async def test_who_resets_before_its_tickets_came_has_shaken_hands(certs: Certificates, last: bytes) -> None:
    """They are sent for nothing; what it had sent is there to be read, and the rest is the connection's to find out."""
    async with opened(certs) as (door, _, peer):
        client = TlsPeer(peer.sock, certs.trusting())
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.shake(last)
        peer.sock.close()
        await until(lambda: door.told)
        assert door.told == ["done 192.0.2.7"]
        assert (door.stats.handshakes_total, door.stats.handshakes_failed) == (1, 0)
        assert door.wire is not None
        if last:
            assert door.wire.recv(100) == last
        with pytest.raises(ConnectionError):
            door.wire.recv(100)


async def test_a_handshake_without_an_end_is_cut_by_its_size(certs: Certificates) -> None:
    """A client hello may come in pieces, but not in that many: OpenSSL would wait for all of this one."""
    async with opened(certs) as (door, _, peer):
        data = b"\x01\x01\xf0\x00" + bytes(0x1F000)
        sent = 0
        for at in range(0, len(data), 4096):
            piece = data[at : at + 4096]
            with suppress(ConnectionError):
                sent += peer.sock.send(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)
            await turns(1)
            if door.told:
                break
        assert door.told == ["a TLS handshake that is too long"]
        assert 1 << 16 < sent < 1 << 17


async def test_one_that_takes_too_long_is_closed(certs: Certificates) -> None:
    async with opened(certs, 0.05) as (door, one, peer):
        peer.send(b"\x16\x03\x01")
        await until(lambda: door.told)
        assert door.told == ["the TLS handshake took too long"]
        assert one.wire.closed
        assert door.service.ended == ["192.0.2.7"]


async def test_a_drain_closes_it(certs: Certificates) -> None:
    async with opened(certs) as (door, one, _):
        assert one.streams() == []
        assert one.close_idle()
        one.close()
        assert door.told == []
        assert door.service.ended == ["192.0.2.7"]


@pytest.mark.parametrize(("least", "most", "why"), [
    ("1.2", ssl.TLSVersion.TLSv1_2, "done 192.0.2.7"),
    ("1.3", ssl.TLSVersion.TLSv1_3, "done 192.0.2.7"),
    ("1.3", ssl.TLSVersion.TLSv1_2, "TLS: no version of TLS in common"),
])  # fmt: skip
async def test_versions(certs: Certificates, least: str, most: ssl.TLSVersion, why: str) -> None:
    async with opened(certs, least=least) as (door, _, peer):
        context = certs.trusting()
        context.maximum_version = most
        client = TlsPeer(peer.sock, context)
        if why.startswith("done"):
            await client.shake()
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await client.shake()
        await until(lambda: door.told)
        assert door.told == [why]


@pytest.mark.parametrize("required", [True, False])
async def test_a_client_certificate_is_known_by_its_own_bytes(certs: Certificates, required: bool) -> None:
    asks = {"client_ca": certs.ca, "client_required": required}
    async with opened(certs, **asks) as (door, _, peer):
        await TlsPeer(peer.sock, certs.trusting(certs.client)).shake()
        await until(lambda: door.told)
        assert door.wire is not None
        assert door.wire.certificate == der_of(certs.client)
    async with opened(certs, **asks) as (door, _, peer):
        await TlsPeer(peer.sock, certs.trusting()).shake()
        await until(lambda: door.told)
        assert door.told == (["TLS: no client certificate"] if required else ["done 192.0.2.7"])
        assert door.wire is None or door.wire.certificate == b""
    async with opened(certs, **asks) as (door, _, peer):
        await TlsPeer(peer.sock, certs.trusting(certs.strange)).shake()
        await until(lambda: door.told)
        (told,) = door.told
        assert told.startswith("TLS: its certificate comes from a CA that is not trusted (a private CA needs its CA file)")
