"""The pool: who gets an idle connection and who a new one, what comes back, and what is learned from those that die."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.errors import GatewayError
from fastgw.net import clock
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.timers import TICK_S
from fastgw.net.upstream import UpstreamStream
from fastgw.protocol.start import RequestStart
from fastgw.stats import NullLog, Stats
from fastgw.upstream.pool import CLOSES, ENDS, IDLE_LIMIT_S, IDLE_SHARE, UNNEEDED_S, Pool
from fastgw.upstream.target import Engine
from tests.net.talk import HeardCarrier, Peer, reacting, turns, until

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Place:
    """A pool and its engine, which is this test: ``take()`` is the engine's end of the next connection."""

    def __init__(self, pool: Pool, listener: socket.socket, stats: Stats, reactor: Reactor) -> None:
        self.pool = pool
        self.reactor = reactor
        self.listener = listener
        self.stats = stats
        self.peers: list[Peer] = []

    async def take(self) -> Peer:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.peers.append(Peer(sock))
        return self.peers[-1]

    async def opened(self, fresh: bool = False) -> tuple[HeardCarrier, UpstreamStream]:
        carrier = HeardCarrier()
        stream = self.pool.open(carrier, monotonic(), fresh)
        if not stream.connected:
            await until(lambda: carrier.heard == ["stream"])
        return carrier, stream

    async def answered(self, stream: UpstreamStream, carrier: HeardCarrier, peer: Peer, behind: bytes = b"") -> None:
        stream.send(RequestStart(b"GET", b"/", b"x-request-id: "), b"", b"id", 0, b"", b"", 0, monotonic() + 5.0)
        await turns()
        assert peer.at_hand().startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:")
        peer.send(ANSWER + behind)
        await until(lambda: carrier.payload == b"ok")

    async def crowd(self, count: int) -> list[UpstreamStream]:
        """So many requests at once, each with an answer."""
        streams = []
        for _ in range(count):
            _, stream = await self.opened()
            if stream.connected and len(self.peers) < self.stats.dials_total:
                await self.take()
            streams.append(stream)
        return streams

    def pass_by(self, seconds: float) -> None:
        """Time, by the held clock; what is due is done."""
        clock.hold(monotonic() + seconds)
        self.reactor.wheel._judge()

    def give_back(self, stream: UpstreamStream, idle_s: float = -1.0, max_requests: int = -1) -> None:
        self.pool.give_back(stream, monotonic(), idle_s, max_requests)


@pytest.fixture
def held() -> Iterator[None]:
    """The clock stands unless the test lets time pass."""
    clock.hold(monotonic())
    yield
    clock.hold(-1.0)


@contextlib.asynccontextmanager
async def place(max_idle: int | None = 8, **engine: Any) -> AsyncIterator[Place]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with reacting() as reactor:
            stats = Stats()
            settings = EngineConfig(url=url, **{"max_connections": 100, "warm_connections": 0, **engine})
            pool = Pool(Engine(settings, max_idle=max_idle), reactor, stats, NullLog(), 1.0)
            found = Place(pool, listener, stats, reactor)
            yield found
            pool.close()
            for peer in found.peers:
                peer.sock.close()
            await turns()
            assert (pool.connections, stats.upstream_open) == (0, 0)


async def test_a_stream_is_dialled_for_and_its_connection_used_again() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        peer = await here.take()
        await here.answered(stream, carrier, peer)
        here.give_back(stream)
        assert (len(here.pool.idle), here.pool.connections) == (1, 1)
        again, second = await here.opened()
        assert again.heard == [], "it is connected: nothing need be waited for"
        await here.answered(second, again, peer)
        assert here.stats.dials_total == 1
        second.cancel()


async def test_a_fresh_one_takes_no_chance() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        await here.answered(stream, carrier, await here.take())
        here.give_back(stream)
        fresh, second = await here.opened(fresh=True)
        assert (here.stats.dials_total, len(here.pool.idle)) == (2, 1)
        await here.answered(second, fresh, await here.take())
        second.cancel()


async def test_the_one_used_last_is_taken_first() -> None:
    async with place() as here:
        pairs = []
        for _ in range(3):
            carrier, stream = await here.opened(fresh=True)
            pairs.append((stream, await here.take()))
            await here.answered(stream, carrier, pairs[-1][1])
        for stream, _ in pairs:
            here.give_back(stream)
        for stream, peer in reversed(pairs):
            await turns()
            carrier, taken = await here.opened()
            assert taken is stream
            await here.answered(taken, carrier, peer)
            taken.cancel()


async def test_what_an_engine_says_behind_the_end_is_no_answer_to_the_next_request() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        peer = await here.take()
        await here.answered(stream, carrier, peer)
        here.give_back(stream)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        # Nothing of the loop's has run since: only the kernel knows.
        carrier = HeardCarrier()
        second = here.pool.open(carrier, monotonic())
        assert (second.connected, stream.closed) == (False, True)
        await until(lambda: carrier.heard == ["stream"])
        second.cancel()


async def test_one_whose_time_is_over_is_not_taken() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        await here.answered(stream, carrier, await here.take())
        here.give_back(stream)
        second = here.pool.open(carrier, monotonic() + IDLE_LIMIT_S)
        assert (second.connected, stream.closed, here.stats.stale_avoided) == (False, True, 1)
        second.cancel()


@pytest.mark.parametrize(
    ("given", "kept", "limit"),
    [
        ({}, True, IDLE_LIMIT_S),
        ({"idle_s": 5.0}, True, 5.0 * IDLE_SHARE),
        ({"idle_s": 500.0}, True, IDLE_LIMIT_S),
        ({"idle_s": 0.0}, False, 0.0),
        ({"max_requests": 0}, False, IDLE_LIMIT_S),
        ({"max_requests": 1}, True, IDLE_LIMIT_S),
    ],
)
async def test_what_the_engine_announces_is_kept_to(given: dict[str, Any], kept: bool, limit: float) -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        await here.answered(stream, carrier, await here.take())
        here.give_back(stream, **given)
        assert (len(here.pool.idle), here.pool.idle_limit_s) == (int(kept), limit)
        assert stream.closed is not kept


async def test_few_are_kept_and_none_that_has_closed_meanwhile() -> None:
    async with place(max_idle=1) as here:
        streams = []
        for _ in range(3):
            carrier, stream = await here.opened(fresh=True)
            await here.answered(stream, carrier, await here.take())
            streams.append(stream)
        streams[0].cancel()
        for stream in streams:
            here.give_back(stream)
        assert (len(here.pool.idle), here.pool.connections) == (1, 1)
        assert [stream.closed for stream in streams] == [True, False, True]


async def test_as_many_are_kept_as_were_needed_at_once_lately_and_then_the_warm_one(held: None) -> None:
    async with place(max_idle=None, warm_connections=1) as here:
        for count in (12, 12, 5):
            for stream in await here.crowd(count):
                here.give_back(stream)
            here.pass_by(UNNEEDED_S / 3)
            await turns()
        assert (len(here.pool.idle), here.stats.dials_total) == (12, 12), "two thirds of the time have gone for seven of them"
        here.pass_by(UNNEEDED_S / 3 + 0.2)
        await turns()
        assert (len(here.pool.idle), here.pool.connections) == (5, 5)
        here.pass_by(UNNEEDED_S)
        await turns()
        assert (len(here.pool.idle), here.stats.dials_total) == (1, 12), "the warm one stays, and is no new one"
        assert here.stats.stale_avoided == 0, "nobody needed the others"
        here.pass_by(IDLE_LIMIT_S)
        await until(lambda: here.stats.dials_total == 13 and len(here.pool.idle) == 1)
        assert (here.stats.stale_avoided, here.stats.dials_warm) == (1, 1)


async def test_a_crowd_that_has_gone_goes_by_and_by(held: None) -> None:
    crowd = 2 * CLOSES + 5
    async with place(max_idle=None, max_connections=crowd) as here:
        for stream in await here.crowd(crowd):
            here.give_back(stream)
        left = []
        here.pass_by(UNNEEDED_S - 0.05)
        for _ in range(6):
            here.pass_by(0.11)
            await turns()
            left.append(here.pool.connections)
        assert left[-1] == 0
        assert all(before - after <= CLOSES for before, after in zip([crowd, *left], left, strict=False)), left


async def test_a_tick_that_takes_several_turns_of_the_loop_is_one(held: None) -> None:
    async with place(max_idle=None, max_connections=3 * CLOSES) as here:
        for stream in await here.crowd(3 * CLOSES):
            here.give_back(stream)
        tick_at = 1000 * TICK_S
        told = [here.pool.unneeded(conn, tick_at + 0.0005 * (at // 16 + 1)) for at, conn in enumerate(here.pool.idle)]
        assert sum(until == 0.0 for until in told) == CLOSES
        assert all(until > tick_at + TICK_S for until in told if until)


async def test_those_that_the_engine_closes_at_once_are_none_of_the_next() -> None:
    async with place(max_idle=None) as here:
        for stream in await here.crowd(40):
            here.give_back(stream)
        assert len(here.pool.idle) == 40
        for peer in here.peers[:30]:
            peer.sock.close()
        await until(lambda: here.pool.connections == 10)
        await turns()
        assert len(here.pool.idle) == 10
        for stream in await here.crowd(10):
            here.give_back(stream)
        assert (here.stats.dials_total, len(here.pool.idle)) == (40, 10)


@pytest.mark.parametrize(
    ("kind", "max_idle", "files", "kept"),
    [
        ("llamacpp", None, 100, 4),
        ("llamacpp", 6, 100, 6),
        ("llamacpp", 2, 100, 3),  # the warm ones in any case
        ("vllm", None, 100, 8),
        ("vllm", 5, 100, 5),
        ("vllm", None, 6, 6),
        ("vllm", 7, 6, 6),
    ],
)
async def test_so_many_idle_ones_and_no_more(kind: Any, max_idle: int | None, files: int, kept: int) -> None:
    async with place(max_idle=max_idle, kind=kind, warm_connections=3) as here:
        here.pool.engine.idle_files = files
        here.pool.engine.become(here.pool.engine.kind)
        for stream in await here.crowd(8):
            here.give_back(stream)
        assert (len(here.pool.idle), here.pool.connections) == (kept, kept)


async def test_the_engines_own_limit_is_learned_from_those_that_die_idle() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        peer = await here.take()
        await here.answered(stream, carrier, peer)
        here.give_back(stream)
        began = monotonic()
        await turns(600)
        peer.sock.close()
        await until(lambda: not here.pool.idle)
        assert 0.5 * IDLE_SHARE <= here.pool.idle_limit_s < (monotonic() - began + 1.0) * IDLE_SHARE
        here.pool.unlearn()
        assert here.pool.idle_limit_s == IDLE_LIMIT_S


async def test_an_engine_has_so_many_connections_and_no_more() -> None:
    async with place(max_connections=2) as here:
        streams = [(await here.opened())[1] for _ in range(2)]
        with pytest.raises(GatewayError) as error:
            here.pool.open(HeardCarrier(), monotonic())
        assert (error.value.kind.name, error.value.retryable) == ("engine_busy", True)
        streams[0].cancel()
        streams[0] = (await here.opened())[1]
        for stream in streams:
            stream.cancel()


async def test_a_name_that_is_not_known_yet() -> None:
    async with place() as here:
        here.pool.engine.addresses = ()
        with pytest.raises(GatewayError) as error:
            here.pool.open(HeardCarrier(), monotonic())
        assert (error.value.kind.name, error.value.retryable, here.pool.connections) == ("bad_gateway", True, 0)


async def test_some_are_kept_warm_one_after_the_other() -> None:
    async with place(warm_connections=3) as here:
        here.pool.keep_warm()
        here.pool.keep_warm()
        assert here.pool.connections == 1
        await until(lambda: len(here.pool.idle) == 3)
        assert here.pool.connections == 3
        peers = [await here.take() for _ in range(3)]
        peers[0].sock.close()
        await until(lambda: here.stats.dials_total == 4 and len(here.pool.idle) == 3)


@pytest.mark.parametrize("again", [False, True])
async def test_what_a_crowd_has_left_closes_some_at_a_time_when_the_engine_is_drained(again: bool) -> None:
    async with place(max_idle=None) as here:
        for stream in await here.crowd(CLOSES + 20):
            here.give_back(stream)
        here.peers[0].sock.close()  # (the first to have come: it is looked for among those that are left)
        here.pool.close()
        assert here.pool.connections == 20
        if again:
            here.pool.reopen()
        await until(lambda: here.pool.connections == (19 if again else 0))
        await turns()
        assert (len(here.pool.idle), here.pool.connections) == ((19, 19) if again else (0, 0))
        for stream in await here.crowd(19 if again else 0):
            here.give_back(stream)
        assert here.stats.dials_total == CLOSES + 20
        here.pool.close(True)
        assert (here.pool.idle, here.pool.connections) == ([], 0)


async def test_what_is_under_way_ends_some_at_a_time_when_the_engine_is_to_be_gone_now() -> None:
    async with place(max_idle=None) as here:
        opened = [await here.opened() for _ in range(ENDS + 3)]
        carriers = [carrier for carrier, _ in opened]
        for carrier, stream in opened:
            carrier.then["end"] = stream.cancel
        here.pool.break_off()
        assert [carrier.heard[-1] for carrier in carriers].count(("end", "reset")) == ENDS
        await until(lambda: all(carrier.heard[-1] == ("end", "reset") for carrier in carriers))
        with pytest.raises(GatewayError):
            here.pool.open(carriers[0], monotonic())


async def test_closed_it_keeps_nothing_and_what_is_busy_ends_as_it_comes_back() -> None:
    async with place() as here:
        carrier, stream = await here.opened()
        peer = await here.take()
        here.pool.close()
        await here.answered(stream, carrier, peer)
        here.give_back(stream)
        assert (stream.closed, here.pool.idle) == (True, [])
        assert await peer.rest() == b""
