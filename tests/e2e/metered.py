"""A gateway that counts before an engine that counts too: what the tests of rates, quotas and usage stand on.

Owns: what a request is expected to cost and what the engine will report, worked out here from their definitions and not
asked of either; and the short ways to ask for a chat and for ``/v1/usage``. Must never: touch the gateway's own counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from hashlib import sha256
from time import time
from typing import Any

from fastgw import EngineConfig
from fastgw.limits.account import Account
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, request
from tests.support.frame import frame_bytes
from tests.support.gateway import Running, running

KEY = "sk-metered-0123456789"
OTHER_KEY = "sk-metered-other"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
FRAME_BYTES = 160
CONTENT = "Tell me about rivers, and about the sea that they run into."


def _messages(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def prompt_tokens(content: str = CONTENT, path: str = CHAT) -> int:
    """What the simulator counts for one message or prompt: a token for each four bytes begun of its text."""
    text = content if path in (COMPLETIONS, RESPONSES) else f"user: {content}"
    text = "\n" + text if path == MESSAGES else text  # an empty system prompt stands before it
    return max(1, (len(text.encode()) + 3) // 4)


def estimate(content: str = CONTENT, path: str = CHAT) -> int:
    """What the gateway expects of the same: a token for each four bytes begun of the body, as :func:`say` writes it, but for
    its frame."""
    return (_size(content, path) + 3) // 4


def _size(content: str, path: str) -> int:
    """Of a body: one that says more than another has fewer blanks at its end, so that no test has to know how much it says."""
    return FRAME_BYTES + len(json.dumps(content if path in (COMPLETIONS, RESPONSES) else _messages(content)))


@asynccontextmanager
async def metered(
    sim: dict[str, Any] | None = None, *, engine: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    """The gateway, its one simulated engine, and a client's connection."""
    settings.setdefault("api_keys", (KEY, OTHER_KEY))
    async with (
        Simulator(SimConfig(**(sim or {}))) as simulator,
        running([EngineConfig(url=simulator.url, **(engine or {}))], **settings) as gw,
    ):
        async with RawClient.connect(gw.url) as client:
            yield gw, simulator, client
        await gw.idle()


def say(
    max_tokens: int | None = None, *, stream: bool = False, key: str | None = KEY, fault: str = "", content: str = CONTENT,
    headers: Iterable[tuple[str, str]] = (), path: str = CHAT, model: str = "sim", **fields: Any,
) -> bytes:  # fmt: skip
    """A request for text, in the words of the API at ``path``."""
    document: dict[str, Any] = {"model": model, **fields}
    if path in (CHAT, MESSAGES):
        document["messages"] = _messages(content)
    else:
        document["input" if path == RESPONSES else "prompt"] = content
    if max_tokens is not None:
        document["max_output_tokens" if path == RESPONSES else "max_tokens"] = max_tokens
    if stream:
        document["stream"] = True
    lines = [("Content-Type", "application/json"), *headers, *([("x-sim-fault", fault)] if fault else [])]
    size = _size(content, path) + frame_bytes(document)
    body = json.dumps(document).encode()
    assert len(body) <= size, "FRAME_BYTES is too small for it"
    return request("POST", path, headers=lines, body=body.ljust(size), key=key)


async def ask(client: RawClient, data: bytes, *, timeout_s: float = 10.0) -> RawResponse:
    return await client.ask(data, timeout_s)


async def once(gw: Running, data: bytes) -> RawResponse:
    """The same on a connection of its own."""
    async with RawClient.connect(gw.url) as client:
        return await ask(client, data)


async def usage_of(gw: Running, key: str | None = KEY) -> dict[str, Any]:
    """What ``/v1/usage`` tells the key."""
    answer = await once(gw, request("GET", "/v1/usage", key=key))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def account_of(gw: Running, key: str = KEY) -> Account:
    """The key's account, for what no answer tells."""
    core = gw.gateway.core
    assert core is not None
    account = core.accounts.find(sha256(key.encode()).digest())
    assert account is not None
    return account


def posts(sim: Simulator) -> list[Any]:
    """What the engine got from clients; the gateway's probes are GETs."""
    return [one for one in sim.requests if one.method == "POST"]


async def wait_as_told(answer: RawResponse) -> None:
    """As long as ``retry-after-ms`` says, and the millisecond by which a timer of uvloop's may be early."""
    await asyncio.sleep((int(answer.header("retry-after-ms") or "") + 1) / 1e3)


def assert_limited(answer: RawResponse, code: str) -> None:
    """A whole 429 in OpenAI's shape."""
    assert (answer.status, answer.complete) == (429, True), answer.body
    assert answer.header("content-type") == "application/json"
    assert answer.error.keys() == {"message", "type", "param", "code"}
    assert (answer.error["type"], answer.error["code"]) == ("rate_limit_error", code)


def assert_exhausted(answer: RawResponse) -> None:
    """429, not worth a retry before midnight UTC, and that is when it says."""
    assert_limited(answer, "daily_quota_exceeded")
    assert answer.header("x-should-retry") == "false"
    wait_s = int(answer.header("retry-after") or "")
    to_midnight_s = 86_400 - time() % 86_400
    assert abs(wait_s - to_midnight_s) <= 2 or (wait_s == 1 and to_midnight_s > 86_390)  # midnight came between


def spent(found: dict[str, Any]) -> tuple[int, int]:
    return found["prompt_tokens"], found["completion_tokens"]


async def settled(gw: Running, key: str = KEY) -> dict[str, Any]:
    """Usage when nothing is under way: nothing may be reserved any more."""
    await gw.idle()
    found = await usage_of(gw, key)
    assert found["quota_reserved"] == 0
    assert found["requests_under_way"] == 0
    return found


class Watch:
    """Looks at a key's book while a crowd is served: it must never be beyond the limit by more than ``slack``."""

    def __init__(self, gw: Running, slack: int = 0) -> None:
        self._account = account_of(gw)
        self._slack = slack
        self.looks = 0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()
        assert self.looks > 3

    async def _look(self) -> None:
        ledger = self._account.ledger
        while True:
            total = ledger.prompt + ledger.completion + ledger.reserved
            assert total <= ledger.limit + self._slack, (ledger.prompt, ledger.completion, ledger.reserved)
            assert ledger.reserved >= 0
            self.looks += 1
            await asyncio.sleep(0.001)


def left(answer: RawResponse, unit: str) -> int:
    """What of a limit is left, by the answer's own word."""
    return int(answer.header(f"x-ratelimit-remaining-{unit}") or "")
