"""An engine whose streams are under way for as long as a test wants them to be."""

from __future__ import annotations

import asyncio

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.streams import DONE, HEAD, LAST, chunk, event, usage_event

PROMPT, ANSWER, WHOLE = 11, 4, 3
"""Tokens of each prompt, of a stream's answer and of a plain one, as this engine counts them."""


class Paced:
    """An engine whose streams end when they are let, and whose plain answers come at once; each says what it has used."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.engine = ScriptedEngine(self._handle)

    async def _handle(self, conn: ScriptedConnection) -> None:
        while True:
            found = await conn.read_request()
            await self._answer(conn, found)

    async def _answer(self, conn: ScriptedConnection, found: RawRequest) -> None:
        if found.method == b"GET":
            await conn.send(_json(b'{"object":"list","data":[{"id":"sim","object":"model"}]}'))
        elif b'"stream":true' in found.body.replace(b" ", b""):
            await conn.send(HEAD + chunk(event("one")))
            await self.go.wait()
            await conn.send(chunk(event("two", '"stop"')) + chunk(usage_event(PROMPT, ANSWER)) + chunk(DONE) + LAST)
        else:
            usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (PROMPT, WHOLE, PROMPT + WHOLE)
            choice = b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"x"}}'
            await conn.send(_json(b'{"id":"c","object":"chat.completion","choices":[%b],"usage":%b}' % (choice, usage)))


def _json(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
