"""A DNS server on 127.0.0.1 that says what a test has written into it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class Zone:
    """``records``: (name, type) to (TTL, values); a name that is not there is NXDOMAIN. ``broken``: it answers
    SERVFAIL; ``silent``: not at all."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.broken = self.silent = False
        self.address = ""

    def answer(self, data: bytes) -> bytes:
        asked = dns.message.from_wire(data)
        (question,) = asked.question
        name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(asked)
        found = self.records.get((name, kind))
        if self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found is not None and found[1]:
            answer.answer.append(dns.rrset.from_text(question.name, found[0], "IN", kind, *found[1]))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._zone.answer(data)
        if not self._zone.silent:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def nameserver() -> AsyncIterator[Zone]:
    """Serve a zone; ``address`` is where."""
    zone = Zone()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(zone), local_addr=("127.0.0.1", 0))
    zone.address = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    try:
        yield zone
    finally:
        transport.close()
