"""An engine's part and a client's part: the ways in which a request is brought to its end."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.metered import KEY, OTHER_KEY, account_of, once, say
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running

MAX_TOKENS: Final = 300
PROMPT, COMPLETION, CACHED, REASONING = 7, 16, 5, 3  # what the engine says, where it says it: nothing that is estimated
USAGE: Final = {
    "prompt_tokens": PROMPT,
    "completion_tokens": COMPLETION,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": REASONING},
}
PASSED: Final = 5  # tokens, of a stream that does not come to its end
TEXT: Final = "word " * 160
HALF: Final = 500  # bytes of a plain answer that does not

Engine = Callable[[ScriptedConnection, bool], Awaitable[None]]


# --- what an engine sends
def event(text: str = "word ", **more: Any) -> bytes:
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def body(usage: dict[str, Any] | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    found = {"id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1_700_000_000, "model": "sim"}
    return json.dumps({**found, "choices": [choice], **({"usage": usage} if usage is not None else {})}).encode()


def head(stream: bool, size: int, *, status: str = "200 OK", extra: str = "") -> bytes:
    kind = "text/event-stream" if stream else "application/json"
    framing = "transfer-encoding: chunked" if stream else f"content-length: {size}"
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}{framing}\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def whole(conn: ScriptedConnection, stream: bool, usage: dict[str, Any] | None = USAGE) -> None:
    if stream:
        events = [event() for _ in range(COMPLETION)]
        if usage is not None:
            events.append(b"data: " + json.dumps({"id": "c", "choices": [], "usage": usage}).encode() + b"\n\n")
        await conn.send(head(True, 0) + chunk(b"".join([*events, b"data: [DONE]\n\n"])) + b"0\r\n\r\n")
    else:
        data = body(usage)
        await conn.send(head(False, len(data)) + data)


async def part(conn: ScriptedConnection, stream: bool) -> None:
    data = body(USAGE)
    await conn.send(head(stream, len(data)) + (chunk(event() * PASSED) if stream else data[:HALF]))


async def hold(conn: ScriptedConnection, stream: bool) -> None:
    await asyncio.sleep(3600)


class Play:
    """A gateway before an engine that does as it is told: ``engine`` answers each POST."""

    def __init__(self, gw: Running, engine: ScriptedEngine, stream: bool) -> None:
        self.gw = gw
        self.scripted = engine
        self.stream = stream
        self.engine: Engine = whole
        self.asked = asyncio.Event()
        self.prompt = 0

    async def handle(self, conn: ScriptedConnection) -> None:
        try:
            while True:
                seen = await conn.read_request()
                if seen.method == b"GET":
                    await conn.send(head(False, 2) + b"{}")
                    continue
                self.asked.set()
                await self.engine(conn, self.stream)
        except (EOFError, ConnectionError):
            conn.close()

    def data(self, *, key: str = KEY, **more: Any) -> bytes:
        more.setdefault("max_tokens", MAX_TOKENS)
        return say(stream=self.stream, key=key, **more)

    async def ask(self, engine: Engine = whole, **more: Any) -> RawResponse:
        self.engine = engine
        return await once(self.gw, self.data(**more))

    @asynccontextmanager
    async def waiting(self, engine: Engine = hold, **more: Any) -> AsyncIterator[RawClient]:
        """A request that an engine has."""
        self.engine = engine
        self.asked.clear()
        async with RawClient.connect(self.gw.url) as client:
            await client.send(self.data(**more))
            async with asyncio.timeout(5):
                await self.asked.wait()
            yield client

    async def leave_after(self, engine: Engine, size: int) -> None:
        """Leave when so many bytes of the answer's body have come (0 = its head)."""
        async with self.waiting(engine) as client:
            answer = await client.read_head()
            while len(answer.body) < size:
                answer = await client.read_until(answer, None, 0.02)
            client.close()


# --- how a request is brought to its end
async def is_answered(play: Play) -> None:
    assert (await play.ask()).status == 200


async def is_answered_without_usage(play: Play) -> None:
    assert (await play.ask(lambda conn, stream: whole(conn, stream, None))).status == 200


async def is_answered_in_part(play: Play) -> None:
    await play.ask(lambda conn, stream: whole(conn, stream, {"prompt_tokens": PROMPT}))


async def is_answered_packed(play: Play) -> None:
    async def packed(conn: ScriptedConnection, stream: bool) -> None:
        plain = b"".join([event(f"word{number} ") for number in range(COMPLETION)]) if stream else body(USAGE)
        data = gzip.compress(plain)
        await conn.send(head(stream, len(data), extra="content-encoding: gzip\r\n"))
        await conn.send(chunk(data) + b"0\r\n\r\n" if stream else data)

    assert (await play.ask(packed)).status == 200


async def is_retried(play: Play) -> None:
    answers = iter([b"503 No", b""])

    async def either(conn: ScriptedConnection, stream: bool) -> None:
        status = next(answers)
        if status:
            await conn.send(b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}" % status)
        else:
            await whole(conn, stream)

    assert (await play.ask(either)).status == 200
    assert play.gw.stats.retries_total == 1


async def leaves_the_queue(play: Play) -> None:
    async with play.waiting(key=OTHER_KEY), RawClient.connect(play.gw.url) as client:
        await client.send(play.data())
        await play.gw.until("it waits", lambda: play.gw.stats.queue_waiting_open == 1)
        client.close()
        await play.gw.until("it has left", lambda: play.gw.stats.queue_waiting_open == 0)


async def leaves_a_dial(play: Play) -> None:
    async with RawClient.connect(play.gw.url) as client:
        await client.send(play.data())
        await play.gw.until("it is under way", lambda: play.gw.stats.exchanges_open == 1)
        await asyncio.sleep(0.05)


async def leaves_the_second_dial(play: Play) -> None:
    async def busy(conn: ScriptedConnection, stream: bool) -> None:
        await conn.send(b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    async with play.waiting(busy):
        await play.gw.until("the next is tried", lambda: play.gw.stats.retries_total == 1)
        await asyncio.sleep(0.05)  # longer than any wait before it


async def leaves_before_the_head(play: Play) -> None:
    async with play.waiting() as client:
        client.close()


async def leaves_behind_the_head(play: Play) -> None:
    async def only_head(conn: ScriptedConnection, stream: bool) -> None:
        await conn.send(head(stream, 1000))

    await play.leave_after(only_head, 0)


async def leaves_in_the_middle(play: Play) -> None:
    await play.leave_after(part, HALF if not play.stream else PASSED * len(event()))


async def has_its_own_deadline(play: Play) -> None:
    assert (await play.ask(hold, headers=[("x-request-timeout-ms", "100")])).status == 504


async def meets_a_deadline(play: Play) -> None:
    assert (await play.ask(hold)).status == 504


async def meets_a_deadline_in_the_middle(play: Play) -> None:
    async def then_nothing(conn: ScriptedConnection, stream: bool) -> None:
        await part(conn, stream)
        await asyncio.sleep(3600)

    assert (await play.ask(then_nothing)).status == 200


def answers(status: str) -> Callable[[Play], Awaitable[None]]:
    async def play_it(play: Play) -> None:
        async def refuse(conn: ScriptedConnection, stream: bool) -> None:
            data = body(USAGE)  # whatever it says: this is no answer
            await conn.send(head(False, len(data), status=status) + data)

        assert (await play.ask(refuse)).status == int(status[:3])

    return play_it


async def meets_silence(play: Play) -> None:
    assert (await play.ask(hold)).status == 504


def dies(engine: Engine | None, *, reset: bool) -> Callable[[Play], Awaitable[None]]:
    async def play_it(play: Play) -> None:
        async def die(conn: ScriptedConnection, stream: bool) -> None:
            if engine is not None:
                await engine(conn, stream)
                await asyncio.sleep(0.02)
            (conn.reset if reset else conn.close)()

        answer = await play.ask(die)
        assert answer.status == (502 if engine is None else 200)

    return play_it


async def meets_broken_framing(play: Play) -> None:
    async def broken(conn: ScriptedConnection, stream: bool) -> None:
        await conn.send(head(True, 0).replace(b"text/event-stream", b"text/event-stream" if stream else b"application/json")
                        + b"zz\r\nthis is no chunk, however long it is made: " + b"word " * 100)  # fmt: skip

    assert (await play.ask(broken)).status == 502


async def meets_an_error(play: Play) -> None:
    async def err(conn: ScriptedConnection, stream: bool) -> None:
        error = b'data: {"error":{"message":"out of memory","type":"server_error","code":500}}\n\n'
        await conn.send(head(True, 0) + chunk(event() * PASSED + error + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    assert b"out of memory" in (await play.ask(err)).body


async def ends_as_told(play: Play) -> None:
    async def obedient(conn: ScriptedConnection, stream: bool) -> None:
        last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
        usage = b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % json.dumps(USAGE).encode()
        await conn.send(head(True, 0) + chunk(event() * PASSED + last))
        await asyncio.sleep(0.01)
        await conn.send(chunk(usage) + b"0\r\n\r\n")

    account_of(play.gw).ledger.limit = play.prompt + PASSED
    answer = await play.ask(obedient)
    assert answer.body.count(b'"word "') == PASSED
    assert b"daily_quota_exceeded" in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def is_cut(play: Play) -> None:
    async def slowly(conn: ScriptedConnection, stream: bool) -> None:
        await conn.send(head(True, 0))
        while True:
            await conn.send(chunk(event()))
            await asyncio.sleep(0.005)

    account = account_of(play.gw)
    account.ledger.limit = play.prompt + PASSED
    answer = await play.ask(slowly)
    assert b"daily_quota_exceeded" in answer.body
    passed = answer.body.count(b'"word "')
    assert passed - PASSED in (0, 1)


def stops(engine: Engine) -> Callable[[Play], Awaitable[None]]:
    async def play_it(play: Play) -> None:
        async def then_nothing(conn: ScriptedConnection, stream: bool) -> None:
            await engine(conn, stream)
            await asyncio.sleep(3600)

        async with play.waiting(then_nothing) as client:
            if engine is part:
                answer = await client.read_head()
                await client.read_until(answer, b"wor", 1.0)
            await play.gw.gateway.stop(0.0)

    return play_it


async def is_refused(play: Play) -> None:
    assert (await play.ask(max_tokens=10_000_000)).status == 429
    assert (await once(play.gw, request("POST", "/v1/nowhere", key=KEY, body=b"{}"))).status == 404
    assert (await once(play.gw, request("POST", "/v1/chat/completions", key=KEY, body=b"{"))).status == 400


def embeddings(number: int) -> bytes:
    data = json.dumps({"model": "sim", "input": f"text {number}"}).encode()
    return request("POST", "/v1/embeddings", headers=[("Content-Type", "application/json")], body=data, key=KEY)


async def leaves_a_shared_call(play: Play) -> None:
    play.engine = hold
    async with RawClient.connect(play.gw.url) as one, RawClient.connect(play.gw.url) as two:
        await one.send(embeddings(1))
        await two.send(embeddings(2))
        async with asyncio.timeout(5):
            await play.asked.wait()
        assert play.gw.stats.merged_requests == 2


async def goes_alone(play: Play) -> None:
    calls: list[int] = []

    async def fail_together(conn: ScriptedConnection, stream: bool) -> None:
        inputs = json.loads(play.scripted.requests[-1].body)["input"]
        calls.append(len(inputs) if isinstance(inputs, list) else 1)
        if isinstance(inputs, list) and len(inputs) > 1:
            conn.reset()
            return
        data = b'{"object":"list","data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        await conn.send(head(False, len(data % (PROMPT, PROMPT))) + data % (PROMPT, PROMPT))

    play.engine = fail_together
    answers = await asyncio.gather(*(once(play.gw, embeddings(number)) for number in (1, 2)))
    assert [answer.status for answer in answers] == [200, 200]
    assert sorted(calls) == [1, 1, 2]
