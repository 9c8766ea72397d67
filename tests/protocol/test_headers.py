"""Name sets, and whom a forwarded address is believed."""

from __future__ import annotations

import time
from ipaddress import ip_network

import pytest

from fastgw.accel import fields
from fastgw.protocol import headers
from fastgw.protocol.headers import client_ip, forwarded_for

LAN = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_the_sets_agree_with_the_table_the_scanner_reads() -> None:
    for name in headers.HOP_BY_HOP | headers.CREDENTIALS | headers.OWNED | headers.FRAMING:
        assert fields.request_field(name) not in (fields.KEEP, fields.NOTED), name
    assert headers.CREDENTIALS.isdisjoint(headers.OWNED)
    assert {b"content-length", b"transfer-encoding", b"host", b"authorization", b"x-request-id",
        b"content-type"} <= headers.FORBIDDEN_TRAILERS
    assert b"x-checksum" not in headers.FORBIDDEN_TRAILERS


@pytest.mark.parametrize(
    ("peer", "xff", "ip"),
    [
        ("1.2.3.4", b"9.9.9.9", "1.2.3.4"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", b"6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", b"6.6.6.6, 9.9.9.9, 10.1.1.1,10.2.2.2", "9.9.9.9"),
        ("10.0.0.1", b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.0.0.1", b"6.6.6.6, garbage", "10.0.0.1"),
        ("10.0.0.1", b"6.6.6.6, garbage, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", b"9.9.9.9:1234", "9.9.9.9"),
        ("10.0.0.1", b"[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", b"unknown", "10.0.0.1"),
        ("10.0.0.1", b"9.9.9.9,", "10.0.0.1"),
        ("10.0.0.1", b"\xff\x00", "10.0.0.1"),
        ("fd00::1", b"9.9.9.9", "9.9.9.9"),
        ("::ffff:10.0.0.1", b"9.9.9.9", "9.9.9.9"),
        ("unix", b"9.9.9.9", "unix"),
    ],
)
def test_D10_client_ip(peer: str, xff: bytes | None, ip: str) -> None:
    assert client_ip(peer, xff, LAN) == ip
    assert client_ip(peer, xff, ()) == peer


def test_D10_a_long_list_is_cut() -> None:
    many = b"6.6.6.6" + b", 10.0.0.9" * 100
    assert client_ip("10.0.0.1", many, LAN) == "10.0.0.9"
    assert client_ip("10.0.0.1", b"6.6.6.6" + b", 10.0.0.9" * 30, LAN) == "6.6.6.6"
    start = time.process_time()
    assert client_ip("10.0.0.1", b"," * 30_000, LAN) == "10.0.0.1"
    assert client_ip("10.0.0.1", b"1" * 30_000, LAN) == "10.0.0.1"
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize(
    ("peer", "xff", "value"),
    [
        ("1.2.3.4", b"9.9.9.9", b"1.2.3.4"),
        ("10.0.0.1", b"9.9.9.9", b"9.9.9.9, 10.0.0.1"),
        ("10.0.0.1", b"9.9.9.9 ,10.0.0.2", b"9.9.9.9, 10.0.0.2, 10.0.0.1"),
        ("10.0.0.1", b"evil\r\nx, 9.9.9.9", b"9.9.9.9, 10.0.0.1"),
        ("10.0.0.1", None, b"10.0.0.1"),
        ("::1", b"9.9.9.9", b"::1"),
    ],
)
def test_D10_what_is_sent_on(peer: str, xff: bytes | None, value: bytes) -> None:
    assert forwarded_for(peer, xff, LAN) == value


def test_D10_what_is_sent_on_is_bounded() -> None:
    assert forwarded_for("10.0.0.1", b"9.9.9.9," * 1000 + b"9.9.9.9", LAN).count(b",") == headers.MAX_HOPS - 1
