"""What passes on this machine's loopback to and from one TCP port, as the kernel has it: a capture by a packet socket.

Needs CAP_NET_RAW; where it is not given, :func:`capture` skips the test, and says so.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

ETH_P_IP = 0x0800
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SYN, RST, ACK = 0x02, 0x04, 0x10


@dataclass(frozen=True, slots=True)
class Packet:
    """One segment. ``to_port``: it goes there, and does not come from there; ``other``: the port at the other end."""

    to_port: bool
    other: int
    flags: int
    payload: bytes

    @property
    def dials(self) -> bool:
        return self.to_port and self.flags & (SYN | ACK) == SYN


class Capture:
    def __init__(self, sock: socket.socket, port: int) -> None:
        self._sock = sock
        self._port = port
        self.packets: list[Packet] = []

    def look(self) -> list[Packet]:
        """All that has passed so far."""
        while True:
            try:
                data, address = self._sock.recvfrom(70_000)
            except BlockingIOError:
                return self.packets
            if address[2] == PACKET_OUTGOING:
                continue  # (each passes the loopback twice)
            (size,) = struct.unpack_from("!H", data, 2)
            tcp = data[(data[0] & 15) * 4 : size]
            source, target = struct.unpack_from("!HH", tcp)
            to_port = target == self._port
            self.packets.append(Packet(to_port, source if to_port else target, tcp[13], tcp[(tcp[12] >> 4) * 4 :]))


def _filter(port: int) -> bytes:
    """TCP from or to that port, in the words of BPF: everything else does not come up to here."""
    code = (
        (0x30, 0, 0, 9),  # A = protocol of IP
        (0x15, 0, 6, 6),  # TCP, or away
        (0xB1, 0, 0, 0),  # X = length of the head of IP
        (0x48, 0, 0, 0),  # A = source port
        (0x15, 2, 0, port),
        (0x48, 0, 0, 2),  # A = target port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0xFFFF_FFFF),
        (0x06, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *one) for one in code)


@contextmanager
def capture(port: int) -> Iterator[Capture]:
    """From here on."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    except PermissionError:
        pytest.skip("a capture needs CAP_NET_RAW")
    with sock:
        sock.setblocking(False)
        program = ctypes.create_string_buffer(_filter(port))
        attached = struct.pack("HL", len(program.raw) // 8, ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        sock.bind(("lo", ETH_P_IP))
        yield Capture(sock, port)
