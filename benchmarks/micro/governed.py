"""What it costs that all limits are on: one plain request through the gateway's own classes, with them and without, in turns.

    python -m benchmarks.micro.governed [blocks] [requests]

Two gateways in one process take turns in short blocks, each over two socket pairs of its own, so that both meet the same
noise; what is printed is the median of the differences between neighbours, and its quartiles. The system calls are the same
in both and fall out. On: requests and tokens per minute, tokens per day, concurrency, and what the engine is told where the
client names no limit. ``FASTGW_NATIVE`` chooses the twin. (``counted`` says it in instructions, without any clock.)
"""

from __future__ import annotations

import asyncio
import gc
import socket
import statistics
import sys
from time import perf_counter
from typing import Any

from fastgw import twins

twins.select(twins.asked())

# ruff: noqa: E402 - the choice of the twin comes before what it chooses
from fastgw.config import Config, EngineConfig
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.record import AccessRecord
from fastgw.limits.account import Accounts, Defaults
from fastgw.net.client import ConnLimits, told_of
from fastgw.net.clock import monotonic
from fastgw.net.h1_connection import H1Connection
from fastgw.net.h1_upstream import H1UpstreamConn
from fastgw.net.poller import Reactor
from fastgw.net.wire import PlainWire
from fastgw.policy import build
from fastgw.policy.routing import strategy_of
from fastgw.stats import NullLog, Stats
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine

BLOCKS = 400
REQUESTS = 50
MOST = 10**11  # a limit that is counted and never met
FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAuthorization: Bearer sk-test\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
    b"User-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Runtime: CPython\r\n"
)
ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"xxxxxxxxxxxxxxxxxxxxxxxx"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,'
    b'"completion_tokens":16,"total_tokens":23}}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: engine\r\n"
    b"date: Fri, 20 Nov 2026 10:00:00 GMT\r\ncontent-length: %d\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY

# (What the far ends read lies in one place: to find room for it anew costs this or that, as the heap happens to look.)
_ROOM = bytearray(65536)


def request(named: bool) -> bytes:
    """A chat request; ``named``: it says itself how long its answer may be."""
    limit = b',"max_tokens":64' if named else b""
    body = b'{"model":"m","messages":[{"role":"user","content":"Hello "}]%b,"temperature":0.7,"stream":false}' % limit
    return b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, len(body), body)


def idle(reactor: Reactor, sock: socket.socket, pool: Pool, stats: Stats) -> H1UpstreamConn:
    """A connection of ``pool``'s that nobody uses."""
    conn = H1UpstreamConn(reactor, PlainWire(reactor, sock.detach()), pool, pool.engine.head_block, None, stats)
    pool.connections += 1
    assert conn.stream is not None
    conn.stream.connected = True
    pool.give_back(conn.stream, monotonic(), -1.0, -1)
    return conn


class Bench:
    """One gateway, a client's and an engine's connection to it, and the far ends of both."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limited: bool, named: bool) -> None:
        limits: dict[str, Any] = {}
        if limited:
            limits = {
                "rate_limit_per_minute": 10**9,
                "tokens_per_minute": MOST,
                "daily_token_quota": 10**15,
                "key_concurrency": 10**6,
            }
        engine = EngineConfig(url="http://127.0.0.1:9", warm_connections=0)
        config = Config(engines=[engine], api_keys=["sk-test"], rate_limit_per_second=0, **limits)
        stats, log = Stats(), NullLog()
        self.records: list[AccessRecord] = []
        self.reactor = Reactor(loop)
        pools = [Pool(Engine(one), self.reactor, stats, log, 1.0) for one in config.engines]
        defaults = Defaults(
            requests_per_minute=config.rate_limit_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            daily_tokens=config.daily_token_quota,
            concurrency=config.key_concurrency,
        )
        self.core = GatewayCore(
            config, reactor=self.reactor, stats=stats, log=log, access=self.records, filters=build(config),
            strategy=strategy_of("round_robin"),
            health=Health(lambda: pools, config, log, lambda: None, lambda: None), table=UpstreamTable(pools),
            accounts=Accounts(defaults, config.api_key_digests, required=False), instance=b"00000000",
        )  # fmt: skip
        conn_limits = ConnLimits(head_bytes=32768, header_count=100, head_s=10.0, idle_s=75.0, body_s=30.0, write_s=60.0)
        self.request = request(named)
        self.served = 0
        near, self.far = socket.socketpair()
        up_near, self.up_far = socket.socketpair()
        wire = PlainWire(self.reactor, near.detach())
        told = told_of("127.0.0.1", False, None)
        self.client = H1Connection(self.reactor, wire, self.core, conn_limits, stats, "127.0.0.1", False, told)
        self.upstream = idle(self.reactor, up_near, pools[0], stats)
        self.client.wire.pause()
        self.upstream.wire.pause()

    def block(self, requests: int) -> float:
        """Seconds for so many requests, one after the other."""
        send, up_send = self.far.send, self.up_far.send
        recv, up_recv = self.far.recv_into, self.up_far.recv_into
        arrive, answer = self.client.on_readable, self.upstream.on_readable
        data = self.request
        begun = perf_counter()
        for _ in range(requests):
            send(data)
            arrive()
            up_recv(_ROOM)
            up_send(ANSWER)
            answer()
            recv(_ROOM)
        took = perf_counter() - begun
        stats = self.core.stats
        self.served += requests
        assert (stats.exchanges_total, stats.exchanges_open) == (self.served, 0)
        assert all(record.status == 200 for record in self.records)
        self.records.clear()
        return took

    def close(self) -> None:
        self.client.close()
        self.upstream.close()
        self.reactor.close()
        self.far.close()
        self.up_far.close()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


async def compared(blocks: int, requests: int, *, named: bool) -> tuple[list[float], list[float]]:
    """Microseconds per request without limits, and what they add, for each pair of neighbours."""
    loop = asyncio.get_running_loop()
    return in_turns(Bench(loop, False, named), Bench(loop, True, named), blocks, requests)


def in_turns(off: Bench, on: Bench, blocks: int, requests: int) -> tuple[list[float], list[float]]:
    """Microseconds per request of the one, and what the other's take beyond that, for each pair of neighbours. Closes both."""
    base, added = [], []
    gc.collect()
    gc.disable()
    try:
        for bench in (off, on) * 20:
            bench.block(requests)
        for number in range(blocks):
            first, second = (off, on) if number % 2 else (on, off)
            took = {first: first.block(requests), second: second.block(requests)}
            base.append(took[off] / requests * 1e6)
            added.append((took[on] - took[off]) / requests * 1e6)
    finally:
        gc.enable()
        off.close()
        on.close()
    return base, added


def main() -> None:
    arguments = sys.argv[1:]
    blocks, requests = [int(one) for one in arguments] + [BLOCKS, REQUESTS][len(arguments) :]
    for named, what in ((True, "the client names a limit"), (False, "the gateway writes one")):
        base, added = asyncio.run(compared(blocks, requests, named=named))
        low, middle, high = quartiles(added)
        twin = "native" if twins.native() else "pure Python"
        whole = statistics.median(base)
        print(f"{twin}, {what}: {whole:.2f} µs with its system calls, all limits {middle:+.2f} µs ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
