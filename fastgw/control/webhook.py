"""Events that are posted to a URL of the operator's, signed, one after the other, until the receiver has taken them.

Owns: what waits to be sent, and when a receiver that does not answer is tried again. Must never: hold up whoever has something
to tell, follow a redirect, read an answer's body, or put the URL or the secret (either may be a credential) into a log line.
Invariant: ``taken`` is called once for each event, and only when the receiver has answered 2xx. What was lost is counted.

There is one task, and only while something waits. An event that was not taken goes behind the others, so that one which its
receiver cannot bear holds up none of them: the order is not promised.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from random import random
from time import time
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from fastgw import __version__
from fastgw.net.clock import monotonic
from fastgw.stats import EventLog, Stats

MOST_WAITING: Final = 1000
ANSWER_S: Final = 5.0
GIVE_UP_S: Final = 3600.0
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
TOLD_EVERY_S: Final = 10.0
SIGNATURE: Final = "X-Fastgw-Signature"
_AGAIN: Final = frozenset({408, 425, 429})  # (and 5xx: it is the receiver's moment, and not the event, that is wrong)

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""(url, body, fields): the status of the answer; raises where there is none."""


class _Event(NamedTuple):
    body: bytes
    since: float
    taken: Callable[[], None]


def signature(secret: str, at: int, body: bytes) -> str:
    """Of a body that is sent at that Unix time: ``t=...,v1=...``, the second an HMAC-SHA256 over time, a dot and the body."""
    made = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={made}"


async def post(url: str, body: bytes, fields: Mapping[str, str]) -> int:
    """(A session for each: they are rare, and nothing is left open between them.)"""
    times = aiohttp.ClientTimeout(total=ANSWER_S)
    async with (
        aiohttp.ClientSession(timeout=times, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session,
        session.post(url, data=body, headers=fields, allow_redirects=False) as response,
    ):
        return response.status


class Webhook:
    """See the head of this file. ``where`` says to which URL, and with which secret, as of now; an empty URL is nobody."""

    __slots__ = ("_log", "_lost_at", "_post", "_spawn", "_stats", "_task", "_waiting", "_well", "_where", "pause")

    def __init__(
        self,
        where: Callable[[], tuple[str, str]],
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
        stats: Stats,
        log: EventLog,
        post: Post = post,
    ) -> None:
        self._where = where
        self._spawn = spawn
        self._stats = stats
        self._log = log
        self._post = post
        self._waiting: deque[_Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self._well = True
        self._lost_at = -TOLD_EVERY_S
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, event: Mapping[str, Any], taken: Callable[[], None]) -> None:
        """Have it sent, soon; returns at once."""
        if len(self._waiting) >= MOST_WAITING:
            self._lose("too many wait")
            return
        self._waiting.append(_Event(msgspec.json.encode(event), monotonic(), taken))
        if self._task is None or self._task.done():
            self._task = self._spawn("webhook", self._send_all())

    async def _send_all(self) -> None:
        waiting = self._waiting
        failures = 0
        while waiting:
            event = waiting[0]
            url, secret = self._where()
            if not url or monotonic() - event.since > GIVE_UP_S:
                waiting.popleft()
                self._lose("it was tried for too long" if url else "there is no URL any more")
                continue
            problem, again = await self._send(url, secret, event.body)
            if not problem:
                failures = 0
                waiting.popleft()
                self._stats.webhooks_taken += 1
                self._said_well()
                event.taken()
            elif again:
                self._stats.webhooks_failed += 1
                self._said_ill(problem)
                waiting.rotate(-1)
                await self.pause(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures, 10)) * (0.75 + random() / 2))  # noqa: S311
                failures += 1
            else:
                waiting.popleft()
                self._lose(problem)

    async def _send(self, url: str, secret: str, body: bytes) -> tuple[str, bool]:
        """What was wrong, in words without the URL (empty = nothing), and whether it may be right later."""
        fields = {"Content-Type": "application/json", "User-Agent": f"fastgw/{__version__}"}
        if secret:
            fields[SIGNATURE] = signature(secret, int(time()), body)
        try:
            status = await self._post(url, body, fields)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # (a TimeoutError is an OSError)
            return type(error).__name__, True
        if 200 <= status < 300:
            return "", False
        return f"status {status}", status >= 500 or status in _AGAIN

    def _said_well(self) -> None:
        if not self._well:
            self._well = True
            self._log.info("the webhook takes events again")

    def _said_ill(self, reason: str) -> None:
        if self._well:
            self._well = False
            self._log.warning("the webhook does not answer; events wait, and are sent again", reason=reason)

    def _lose(self, reason: str) -> None:
        self._stats.webhooks_lost += 1
        now = monotonic()
        if now - self._lost_at >= TOLD_EVERY_S:
            self._lost_at = now
            self._log.warning("events for the webhook were lost", reason=reason, lost=self._stats.webhooks_lost)
