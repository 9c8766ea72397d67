"""What one plain request costs in Python alone: the Python twin's classes, with sockets that answer from memory.

    python -m benchmarks.micro.exchange [requests]

Prints microseconds per request without any system call or poller, so that a change to the hot path shows at once; the
wire benchmark then says what it is worth beside nginx. (The compiled twin's calls cannot be taken out like that: for it,
count instructions with ``valgrind --tool=callgrind``, or measure over the wire.)
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
from time import perf_counter

from fastgw import twins

twins.select("0")

# ruff: noqa: E402 - the choice of the twin comes before what it chooses
from fastgw.config import Config, EngineConfig
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.record import AccessRecord
from fastgw.limits.account import Accounts, Defaults
from fastgw.net import wire
from fastgw.net.client import ConnLimits, told_of
from fastgw.net.h1_connection import H1Connection
from fastgw.net.h1_upstream import H1UpstreamConn
from fastgw.net.poller import Reactor
from fastgw.policy import build
from fastgw.policy.routing import strategy_of
from fastgw.stats import NullLog, Stats
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine

BODY = (
    b'{"model":"m","messages":[{"role":"user","content":"Hello "}],"max_tokens":64,"temperature":0.7,"stream":false}'
)
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer sk-test\r\n"
    b"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.99.0\r\nX-Stainless-Runtime: CPython\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY
ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"xxxxxxxxxxxxxxxxxxxxxxxx"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,'
    b'"completion_tokens":16,"total_tokens":23}}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: engine\r\n"
    b"date: Fri, 20 Nov 2026 10:00:00 GMT\r\ncontent-length: %d\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY


def idle(reactor: Reactor, sock: socket.socket, pool: Pool, stats: Stats) -> H1UpstreamConn:
    """A connection of ``pool``'s that nobody uses."""
    conn = H1UpstreamConn(reactor, wire.PlainWire(reactor, sock.detach()), pool, pool.engine.head_block, None, stats)
    pool.connections += 1
    assert conn.stream is not None
    conn.stream.connected = True
    pool.give_back(conn.stream, perf_counter(), -1.0, -1)
    return conn


async def measure(requests: int, *, keys: bool = True) -> float:
    """Microseconds per request, the median of seven runs."""
    loop = asyncio.get_running_loop()
    engines = [EngineConfig(url="http://127.0.0.1:9", warm_connections=0)]
    config = Config(engines=engines, api_keys=["sk-test"] if keys else [], rate_limit_per_second=0)
    stats, log = Stats(), NullLog()
    records: list[AccessRecord] = []
    reactor = Reactor(loop)
    pools = [Pool(Engine(one), reactor, stats, log, 1.0) for one in config.engines]
    core = GatewayCore(
        config, reactor=reactor, stats=stats, log=log, access=records, filters=build(config),
        strategy=strategy_of("round_robin"),
        health=Health(lambda: pools, config, log, lambda: None, lambda: None), table=UpstreamTable(pools),
        accounts=Accounts(Defaults(), config.api_key_digests, required=False), instance=b"00000000",
    )  # fmt: skip
    limits = ConnLimits(head_bytes=32768, header_count=100, head_s=10.0, idle_s=75.0, body_s=30.0, write_s=60.0)
    near, far = socket.socketpair()
    up_near, up_far = socket.socketpair()
    told = told_of("127.0.0.1", False, None)
    client = H1Connection(reactor, wire.PlainWire(reactor, near.detach()), core, limits, stats, "127.0.0.1", False, told)
    upstream = idle(reactor, up_near, pools[0], stats)
    theirs = near.fileno()
    wire.recv = lambda fd, size: REQUEST if fd == theirs else ANSWER
    wire.send = lambda fd, data: len(data)
    client.wire.pause()
    upstream.wire.pause()
    runs = []
    for _ in range(7):
        records.clear()
        begun = perf_counter()
        for _ in range(requests):
            client.on_readable()
            upstream.on_readable()
        runs.append((perf_counter() - begun) / requests * 1e6)
        assert len(records) == requests
        assert records[-1].status == 200
    client.close()
    upstream.close()
    reactor.close()
    far.close()
    up_far.close()
    return statistics.median(runs)


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"plain request, Python only: {asyncio.run(measure(requests)):.2f} µs")


if __name__ == "__main__":
    main()
