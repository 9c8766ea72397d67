"""Machines that vanish: what each socket to them has been told, whoever made it."""

from __future__ import annotations

import os
import socket

from fastgw.net.listener import Listener
from fastgw.net.vanished import GONE_S
from fastgw.net.wire import Holder, PlainWire
from fastgw.stats import NullLog, Stats
from tests.net.talk import reacting, until


class Dials(Holder):
    def on_dialled(self, code: int) -> None:
        assert code == 0

    def on_left(self) -> None:
        pass


def told(sock: socket.socket) -> tuple[int, int]:
    """(seconds of silence, seconds that something is on its way) after which the other side is gone; 0 = never."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return 0, 0
    most_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) // 1000
    options = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
    first, each, times = [sock.getsockopt(socket.IPPROTO_TCP, one) for one in options]
    return most_s or first + each * times, most_s


async def test_engines_and_clients_whose_machines_vanish_are_found_out() -> None:
    """(Of what a client does not take the answer's own limit of time knows.)"""
    came: list[int] = []
    async with reacting() as reactor:
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.setblocking(False)
            listener = Listener(
                reactor, [door], lambda fd, ip: came.append(fd), Stats(), NullLog(), max_connections=9, max_per_ip=0,
                exempt=lambda ip: True, refusal=lambda ip: b"",
            )  # fmt: skip
            wire = PlainWire(reactor)
            wire.holder = Dials()
            assert wire.dial((socket.AF_INET, door.getsockname())) == 0
            await until(lambda: bool(came))
            with socket.socket(fileno=came[0]) as theirs, socket.socket(fileno=os.dup(wire.fd)) as ours:
                assert (told(ours), told(theirs)) == ((GONE_S, GONE_S), (GONE_S, 0))
            wire.dispose()
            listener.close()
