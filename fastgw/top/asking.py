"""Whom ``fastgw top`` asks: the metrics of a control listener, and what only its admin API says where there is a key.

Must never: send the key anywhere but to ``/admin``, or wait longer than an interval is.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from fastgw.config import EngineConfig
from fastgw.net.fetch import FetchError
from fastgw.top.samples import Page
from fastgw.top.view import EngineTold, EventTold, Reading, engines_told, events_told, reading
from fastgw.upstream.asked import get
from fastgw.upstream.target import Engine

TIMEOUT_S: Final = 5.0
MAX_PAGE_BYTES: Final = 32 * 1024 * 1024
"""Of each answer: the metrics of a thousand engines and a thousand pairs of endpoint and model have 20 MiB."""
MOST_ADDRESSES: Final = 8


class Unread(Exception):
    """The gateway could not be asked, or is none; the text says why, and what to do."""


class Source:
    """A gateway that is asked again and again. ``key`` "" = only its metrics. Raises ``net.unusable.TlsError`` where
    ``ca_file`` cannot be used."""

    def __init__(self, url: str, key: str, ca_file: str, verify: bool, most: int, clock: Callable[[], float]) -> None:
        self._open = Engine(EngineConfig(url=url, protocol="h1", ca_file=ca_file, verify=verify))
        self._admin = Engine(EngineConfig(url=url, protocol="h1", ca_file=ca_file, verify=verify, api_key=key)) if key else None
        self._most = most
        self._clock = clock
        self._before: Page | None = None

    async def read(self) -> Reading:
        """What it says now. Raises :class:`Unread`."""
        status, body = await self._get(self._open, b"/metrics")
        if status != 200:
            raise Unread(f"/metrics answers {status}: name the gateway's control_listen, or have it say metrics_public")
        page = Page(body.decode("utf-8", "replace"), self._clock())
        if page.total("gateway_active_requests") is None:
            raise Unread("/metrics is there, and not a gateway's: name its control_listen")
        engines, events = await self._told()
        found = reading(self._before, page, time.time(), self._most, engines, events)
        self._before = page
        return found

    async def _told(self) -> tuple[list[EngineTold], list[EventTold]]:
        if self._admin is None:
            return [], []
        status, body = await self._get(self._admin, b"/admin/engines")
        if status != 200:
            raise Unread(f"/admin/engines answers {status}: is the key one of its admin keys?")
        try:
            engines = list(engines_told(body))
        except ValueError as error:
            raise Unread("/admin/engines is there, and not a gateway's") from error
        status, body = await self._get(self._admin, b"/admin/events?follow=false")
        return engines, list(events_told(body)) if status == 200 else []

    async def _get(self, engine: Engine, path: bytes) -> tuple[int, bytes]:
        try:
            if not engine.addresses:
                async with asyncio.timeout(TIMEOUT_S):
                    known = await asyncio.get_running_loop().getaddrinfo(engine.host, engine.port, type=socket.SOCK_STREAM)
                engine.addresses = tuple(dict.fromkeys((int(one[0]), one[4]) for one in known))[:MOST_ADDRESSES]
            return await get(engine, path, b"", TIMEOUT_S, MAX_PAGE_BYTES)
        except FetchError as error:
            raise Unread(str(error)) from error
        except (OSError, UnicodeError) as error:  # (a timeout too)
            raise Unread("its name is not known here") from error
