"""Under which names a gateway without keys may be asked."""

from __future__ import annotations

import pytest

from fastgw.protocol.hosts import HostRule

GOOD = [
    b"", b"localhost", b"LOCALHOST:8080", b"localhost.", b"127.0.0.1", b"127.0.0.1:8080", b"10.1.2.3", b"0.0.0.0", b"[::1]",
    b"[::1]:8080", b"[2001:db8::7]:1", b"app.localhost", b"printer.local", b"host.docker.internal:8080", b"node-7",
    b"NODE-7:80", b"gw.example.com", b"gw.example.com.", b"a.b.corp.example",
]  # fmt: skip
BAD = [
    b"evil.example", b"evil.example:8080", b"localhost.evil.example", b"127.0.0.1.evil.example", b"127.0.0.1.nip.io",
    b"notlocal", b"xlocalhost", b"internal.evil.example", b"node-7.evil.example", b"example.com", b"corp.example",
    b"xcorp.example", b"gw.example.com.evil.example", b"0x7f.1", b"2130706433", b"127.1", b"\xe9vil", b"gw.example.comx",
]  # fmt: skip


@pytest.mark.parametrize("host", GOOD)
def test_names_that_no_stranger_can_own(host: bytes) -> None:
    assert HostRule(["gw.example.com", "*.corp.example"], "node-7").allows(host)


@pytest.mark.parametrize("host", BAD)
def test_names_that_a_page_may_have_brought(host: bytes) -> None:
    assert not HostRule(["gw.example.com", "*.corp.example"], "node-7").allows(host)


def test_any_name() -> None:
    assert HostRule(["*"], "").allows(b"evil.example")


def test_a_machine_without_a_name_adds_none() -> None:
    assert not HostRule([], "").allows(b"x")
