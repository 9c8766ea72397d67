"""Clients and engines that behave as badly as they can, all at once: nobody gets another's answer, nothing stays behind.

What a compiled module does wrong with an object's life shows when ends meet: a client resets while its engine does, a drain
begins in the middle of both. So dozens of clients do what their own dice say, engines have faults, and each gateway is stopped
under load. Judged: every answer is well-formed; one that came whole, of an engine without a fault, is the very answer to its
request; and when the gateway has stopped all live counters are zero, each exchange has left one record, and no internal
error was logged (``running`` asks for these). ``STRESS_S`` in the environment says how long: minutes, when memory is watched.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from tests.support.client import BadResponse, NoResponse, RawClient, RawResponse, chat, chunk, request
from tests.support.gateway import Running, running

STRESS_S = float(os.environ.get("STRESS_S", "3.6"))
ROUND_S = 1.1  # of one gateway's life, before it is stopped
CLIENTS = 40
PROMPTS = 12
GONE = (ConnectionError, TimeoutError, NoResponse, OSError)

FAULTS = (
    "close", "reset", "stall-before", "garbage", "close-on-reuse", "no-read", "status=503,retry-after=1", "status=500",
    "stall-head", "slow-head=1", "close-in-head=30", "1xx=3", "http10", "sse-content-length", "wrong-length=50",
    "short-length=10", "reset-after=700", "close-after=700", "stall-after=700", "reset-after-events=3", "close-after-events=1",
    "end-after-events=3", "truncate-chunk,after-events=2", "half-chunk,after-events=2", "half-event,after-events=2",
    "bad-chunk,after-events=2", "no-terminator", "error-event,after-events=2", "one-byte-chunks", "split=7", "gather=65536",
    "burst=20000", "close-after-answer", "early,status=400", "close,on-reuse", "itl-ms=5",
)  # fmt: skip
SETTINGS = {
    "health_interval_s": 60.0, "first_byte_timeout_s": 0.3, "between_bytes_timeout_s": 0.3, "head_timeout_s": 0.3,
    "body_timeout_s": 0.3, "write_timeout_s": 0.3, "keepalive_timeout_s": 0.4, "connect_timeout_s": 0.5, "engine_max_idle": 4,
}  # fmt: skip
UPGRADE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip

Asked = tuple[int, bool]  # which prompt, and whether its answer is a stream


def ask(asked: Asked, fault: str = "") -> bytes:
    number, stream = asked
    headers = [("x-sim-fault", fault)] if fault else []
    return chat("sim", stream, content=f"prompt {number}", max_tokens=4 + number, headers=headers)


class Client:
    """One client's dice, and what it has seen."""

    def __init__(self, seed: str, port: int, expected: dict[Asked, bytes], seen: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.port = port
        self.expected = expected
        self.seen = seen

    def any(self) -> Asked:
        return self.dice.randrange(PROMPTS), self.dice.random() < 0.6

    def judge(self, answer: RawResponse, asked: Asked) -> None:
        """An answer that its own framing completes is the answer to this request, or a refusal."""
        if answer.status == 200 and answer.complete:
            assert answer.body == self.expected[asked], (asked, answer.raw_head, answer.body[:300])
            self.seen["whole"] += 1

    def leave(self, client: RawClient) -> None:
        if self.dice.random() < 0.5:
            client.reset()
        else:
            client.close()

    async def talks(self, client: RawClient) -> None:
        """Requests one after another, in whatever pieces."""
        for _ in range(self.dice.randint(1, 8)):
            asked = self.any()
            if self.dice.random() < 0.7:
                await client.send(ask(asked))
            else:
                await client.send_slowly(ask(asked), [self.dice.randint(1, 300) for _ in range(6)])
            answer = await client.read_response(2.0)
            self.judge(answer, asked)
            if not answer.complete or answer.header("connection") == "close":
                return

    async def pipelines(self, client: RawClient) -> None:
        asked = [self.any() for _ in range(self.dice.randint(2, 8))]
        await client.send(b"".join(map(ask, asked)))
        for one in asked[: self.dice.randint(0, len(asked))]:
            answer = await client.read_response(2.0)
            self.judge(answer, one)
            if not answer.complete or answer.header("connection") == "close":
                return

    async def meets_a_fault(self, client: RawClient) -> None:
        for _ in range(self.dice.randint(1, 3)):
            await client.send(ask(self.any(), self.dice.choice(FAULTS)))
            if self.dice.random() < 0.3:
                await asyncio.sleep(self.dice.random() * 0.1)
                return
            answer = await client.read_response(1.0)
            if not answer.complete or answer.header("connection") == "close":
                return

    async def leaves_a_stream(self, client: RawClient) -> None:
        """Before the first byte, in the middle, or with its own side closed only."""
        await client.send(ask((PROMPTS - 1, True), self.dice.choice(("itl-ms=3", "ttft-ms=20", "stall-after-events=2", ""))))
        how = self.dice.random()
        if how < 0.2:
            client.shutdown_write()
        if how < 0.7:
            await client.read_some(0.2)

    async def leaves_an_upload(self, client: RawClient) -> None:
        body = self.dice.randbytes(self.dice.randint(10, 200_000))
        head = [("Content-Type", "multipart/form-data; boundary=b")]
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + body + b"\r\n--b--\r\n"
        path = self.dice.choice(("/v1/audio/transcriptions", "/v1/chat/completions"))
        framed = {"chunked": [self.dice.randint(1, 70_000)]} if self.dice.random() < 0.5 else {}
        data = request("POST", path, headers=head if "audio" in path else (), body=form, **framed)
        stop = self.dice.randint(1, len(data)) if self.dice.random() < 0.7 else len(data)
        await client.send(data[:stop], timeout=0.5)
        await client.read_some(0.1 if stop < len(data) else 1.0)

    async def does_not_read(self, client: RawClient) -> None:
        """Its window is small, its answers are large; at last it reads on, or goes."""
        await client.send(ask((1, self.dice.random() < 0.8), "burst=700000"))
        await asyncio.sleep(self.dice.choice((0.05, 0.6)))
        for _ in range(self.dice.randint(0, 40)):
            await client.read_some(0.3)

    async def trickles(self, client: RawClient) -> None:
        data = ask(self.any())
        await client.send_slowly(data[: self.dice.randint(1, len(data))], self.dice.randint(1, 40), pause=0.002)
        await asyncio.sleep(self.dice.choice((0.0, 0.5)))

    async def raves(self, client: RawClient) -> None:
        """Bytes that are no request, behind one that is or not."""
        noise = self.dice.randbytes(self.dice.randint(1, 3000))
        framed = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        first = self.dice.choice((b"", ask(self.any()), framed, framed + chunk(noise)[:-5]))
        await client.send(first + noise)
        await client.read_until_closed(0.3)

    async def tunnels(self, client: RawClient) -> None:
        await client.send(request("GET", "/v1/realtime?model=sim", headers=UPGRADE) + self.dice.randbytes(20))
        await client.read_head(1.0)
        for _ in range(self.dice.randint(0, 5)):
            await client.send(b"\x81\x85\0\0\0\0hello")
            await client.read_some(0.2)

    async def asks_the_gateway(self, client: RawClient) -> None:
        for _ in range(self.dice.randint(1, 5)):
            method = self.dice.choice(("GET", "GET", "HEAD", "OPTIONS", "DELETE"))
            path = self.dice.choice(("/health", "/ready", "/readiness", "/v1/models", "/v1/models/sim", "/nowhere"))
            await client.send(request(method, path))
            if self.dice.random() < 0.2:
                return
            answer = await client.read_response(2.0, head_only=method == "HEAD")
            if answer.header("connection") == "close":
                return

    async def lives(self, until: float) -> None:
        ways: list[Callable[[RawClient], Awaitable[None]]] = [
            self.talks, self.talks, self.talks, self.pipelines, self.meets_a_fault, self.meets_a_fault, self.leaves_a_stream,
            self.leaves_a_stream, self.leaves_an_upload, self.does_not_read, self.trickles, self.raves, self.tunnels,
            self.asks_the_gateway,
        ]  # fmt: skip
        while monotonic() < until:
            way = self.dice.choice(ways)
            small = way == self.does_not_read
            try:
                client = await RawClient.connect("127.0.0.1", self.port, rcvbuf=4096 if small else 0)
            except OSError:
                return  # stopped
            try:
                await way(client)
            except GONE as error:
                self.seen[type(error).__name__] += 1
            except BadResponse as error:
                raise AssertionError(f"{way.__name__} got bytes that are no answer") from error
            finally:
                self.leave(client)
            self.seen[way.__name__] += 1


async def round_of(number: int, expected: dict[Asked, bytes], engines: list[EngineConfig], seen: Counter[str]) -> None:
    """One gateway from its start to its stop, which comes while its clients are at work."""
    seed = f"storm {number}"
    dice = random.Random(seed)
    more = {
        "request_timeout_s": dice.choice((0.0, 0.0, 0.7)), "retry_fresh": number % 2 == 1,
        "drain_timeout_s": dice.choice((0.0, 0.05, 0.3)),
    }  # fmt: skip
    async with running(engines, **SETTINGS, **more) as gw:
        until = monotonic() + ROUND_S + 1.0
        clients = [asyncio.ensure_future(Client(f"{seed}/{n}", gw.port, expected, seen).lives(until)) for n in range(CLIENTS)]
        try:
            await asyncio.wait(clients, timeout=ROUND_S, return_when=asyncio.FIRST_EXCEPTION)
            await tabled(gw, dice)
            seen.update({name: count for name, count in gw.stats.snapshot().items() if not name.endswith("_open")})
            await gw.gateway.stop()
        finally:
            ended = await asyncio.wait_for(asyncio.gather(*clients, return_exceptions=True), 10.0)
        for one in ended:
            if isinstance(one, BaseException):
                raise one


async def tabled(gw: Running, dice: random.Random) -> None:
    """Now and then a new table of engines, under load."""
    if dice.random() < 0.5:
        gw.gateway._publish()
        await asyncio.sleep(0.05)


async def answers_of(port: int) -> dict[Asked, bytes]:
    """What the engine itself says to each question."""
    found = {}
    async with RawClient.connect("127.0.0.1", port) as client:
        for asked in [(number, stream) for number in range(PROMPTS) for stream in (False, True)]:
            await client.send(ask(asked))
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (200, True)
            found[asked] = answer.body
    return found


@pytest.mark.deadline_s(30 + 3 * STRESS_S)
async def test_a_storm_of_clients_and_faults() -> None:
    seen: Counter[str] = Counter()
    begun = monotonic()
    quick = SimConfig(seed=1, record=0)
    async with Simulator(quick) as sim, Simulator(SimConfig(seed=1, record=0, itl_ms=1.0, max_requests=7)) as other:
        expected = await answers_of(sim.port)
        # The second one takes no abort, so what its clients leave behind is read to its end; and has room for few.
        engines = [EngineConfig(url=sim.url), EngineConfig(url=other.url, cancel=False, max_connections=24)]
        rounds = 0
        while not rounds or monotonic() - begun < STRESS_S - ROUND_S:
            rounds += 1
            await round_of(rounds, expected, engines, seen)
    for what in ("whole", "cancelled", "truncations_total", "refused_total", "replays_total"):
        assert seen[what], f"the storm brought no {what}: {seen}"
