"""How many connections one address may have, and how they are taken."""

from __future__ import annotations

import os
import socket

import pytest

import fastgw.doors
from fastgw.net.listener import Listener
from fastgw.stats import NullLog, Stats
from tests.net.talk import reacting, turns, until
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running


def admits(listener: Listener, addresses: list[str]) -> list[bool]:
    return [listener._admit(address) for address in addresses]


async def listener_of(gw: Running) -> Listener:
    door = gw.gateway._door
    assert door is not None
    return door.listener


async def test_an_ipv6_subscriber_is_one() -> None:
    async with running(max_connections_per_ip=2) as gw:
        listener = await listener_of(gw)
        assert admits(listener, ["2001:db8:1:2::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::1", "2001:db8:1:2:3::4"]) == [
            True, True, False, False,
        ]  # fmt: skip
        assert admits(listener, ["2001:db8:1:3::1", "192.0.2.1", "192.0.2.1", "192.0.2.1"]) == [True, True, True, False]
        listener.released("2001:db8:1:2:9::9")
        assert admits(listener, ["2001:db8:1:2::7", "2001:db8:1:2::8"]) == [True, False]


async def test_by_default_one_address_cannot_have_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(max_connections=800) as gw:
        assert admits(await listener_of(gw), ["192.0.2.1"] * 101) == [True] * 100 + [False]
    for most, share in ((200, 64), (100, 50), (64, 32), (10, 5), (3, 1), (1, 1)):
        async with running(max_connections=most) as gw:
            assert admits(await listener_of(gw), ["192.0.2.1"] * (share + 1)) == [True] * share + [False], most


async def test_by_default_loopback_and_trusted_proxies_are_free() -> None:
    async with running(max_connections=800, trusted_proxies=["10.0.0.0/8"]) as gw:
        assert all(admits(await listener_of(gw), ["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"] * 500))
    async with running(max_connections_per_ip=2, trusted_proxies=["10.0.0.0/8"]) as gw:
        assert admits(await listener_of(gw), ["127.0.0.1"] * 3 + ["10.0.0.1"] * 50) == [True, True, False] + [True] * 50
    async with running(max_connections_per_ip=0) as gw:
        assert all(admits(await listener_of(gw), ["192.0.2.1"] * 1000))


async def test_over_the_default_a_connection_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastgw.doors, "is_loopback", lambda ip: False)
    async with running(max_connections=128) as gw:
        clients = [await gw.client() for _ in range(64)]
        await gw.until("all are in", lambda: gw.stats.connections_open == 64)
        async with RawClient.connect(gw.url) as late:
            answer = await late.read_response()
            assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
        clients.pop().close()
        await gw.until("one has left", lambda: gw.stats.connections_open == 63)
        async with RawClient.connect(gw.url) as late:
            assert (await late.ask(request("GET", "/healthz"))).status == 200
        for client in clients:
            client.close()


class Asked(socket.socket):
    """Counts how often it is asked for a connection, by either twin."""

    times = 0

    def fileno(self) -> int:
        self.times += 1
        return super().fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.times += 1
        return super().accept()


async def test_one_who_comes_alone_is_asked_for_once_and_a_crowd_is_taken_in_a_few_looks() -> None:
    taken: list[int] = []
    async with reacting() as reactor:
        with Asked() as door:
            door.bind(("127.0.0.1", 0))
            door.listen(128)
            door.setblocking(False)
            listener = Listener(
                reactor, [door], lambda fd, ip: taken.append(fd), Stats(), NullLog(), max_connections=1000, max_per_ip=0,
                exempt=lambda ip: True, refusal=lambda ip: b"",
            )  # fmt: skip
            for crowd, most_times, most_looks in ((1, 1, 1), (100, 101, 7)):
                there, times, turn = len(taken), door.times, reactor.poller.turn
                clients = [socket.create_connection(door.getsockname()) for _ in range(crowd)]
                await until(lambda all_of_them=there + crowd: len(taken) == all_of_them)
                await turns()
                assert crowd <= door.times - times <= most_times
                assert reactor.poller.turn - turn <= most_looks
                for client in clients:
                    client.close()
            listener.close()
    for fd in taken:
        os.close(fd)


async def test_who_takes_the_clients_of_several_gives_each_back_its_own() -> None:
    async with running() as gw:
        listener = await listener_of(gw)
        theirs = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for _ in range(2):  # (said twice, it is once)
            for at, sock in enumerate(theirs):
                listener.also(at, [sock.dup()])
        listener.no_more_also(0)
        async with RawClient.connect(f"http://127.0.0.1:{theirs[1].getsockname()[1]}") as client:
            await client.send(request("GET", "/liveness"))
            assert (await client.read_response()).status == 200
        listener.no_more_also(1)
        assert len(listener.addresses) == 1
        for sock in theirs:
            sock.close()
