"""What an engine sends after the end of an answer is never taken for the answer to the next request."""

from __future__ import annotations

import asyncio
import json

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, chat
from tests.support.gateway import running


def answer(text: str) -> bytes:
    body = json.dumps({"said": text}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def test_a_second_answer_that_nobody_asked_for_reaches_nobody() -> None:
    asked = 0

    async def engine(conn: ScriptedConnection) -> None:
        nonlocal asked
        while (request := await conn.read_request()) is not None:
            if b"POST" not in request.head[:4]:
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            asked += 1
            number = json.loads(request.body)["messages"][0]["content"]
            await conn.send(answer(number))
            # A packet of its own, one turn behind: it is there when the connection is taken for the next request. (Later
            # than that, and nothing in HTTP/1.1 could tell it from the answer.)
            await asyncio.sleep(0)
            await conn.send(answer(f"late, after {number}"))

    async with ScriptedEngine(engine) as scripted, running([scripted.url], health_interval_s=60.0) as gw:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            wrong = []
            for begin in range(0, 400, 20):
                # Pipelined: the next request takes the connection again before the loop has looked at it.
                await client.send(b"".join(chat("m", False, content=str(number)) for number in range(begin, begin + 20)))
                for number in range(begin, begin + 20):
                    got = await client.read_response()
                    if got.status != 200 or got.json() != {"said": str(number)}:
                        wrong.append((number, got.status, got.body))
        assert not wrong, f"{len(wrong)} of 400: {wrong[:3]}"
        assert asked >= 400
