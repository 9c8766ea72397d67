"""The sixteen ways, and a gateway on one of them that is judged by what it has charged."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import pytest

from fastgw import EngineConfig
from tests.support import tls_client
from tests.support.gateway import Running, running
from tests.support.requests import chat
from tests.support.tunnels import TOKEN, tunnelled
from tests.support.ways.h1 import H1Caller, H1Engine, Play
from tests.support.ways.h2 import H2Caller, H2Engine

Protocol = Literal["h1", "h2"]
KEY = "sk-ways-0123456789"
QUIET: dict[str, Any] = {"health_interval_s": 60.0, "cb_failure_threshold": 0}


@dataclass(frozen=True)
class Way:
    """Which protocol a client speaks, and an engine; whether through TLS."""

    client_protocol: Protocol
    client_tls: bool
    engine_protocol: Protocol
    engine_tls: bool

    def __str__(self) -> str:
        ends = (self.client_protocol, self.client_tls), (self.engine_protocol, self.engine_tls)
        return "-".join(protocol + ("tls" if tls else "") for protocol, tls in ends)

    def engine(self, play: Play, **settings: int) -> H1Engine | H2Engine:
        """One that does as ``play`` says with each request."""
        context = tls_client.shared().server() if self.engine_tls else None
        if self.engine_protocol == "h2":
            return H2Engine(play, ssl_context=context, **settings)
        return H1Engine(play, ssl_context=context)

    def target(self, url: str) -> EngineConfig:
        if self.engine_tls:
            url = url.replace("http:", "https:")
        ca = tls_client.shared().ca if self.engine_tls else ""
        return EngineConfig(url=url, protocol=self.engine_protocol, ca_file=ca, warm_connections=0)

    @asynccontextmanager
    async def gateway(self, *urls: str, engines: Sequence[EngineConfig] = (), **settings: Any) -> AsyncIterator[Running]:
        """Before engines at these addresses, or these. When it has stopped, each request has cost its key what its record says,
        and nothing is held for it any more."""
        secure = tls_client.settings() if self.client_tls else {}
        limits: dict[str, Any] = {"api_keys": (KEY,), "daily_token_quota": 10**9, "http2": self.client_protocol == "h2"}
        given = {**limits, **QUIET, **secure, **settings}
        async with self._before(urls, engines, given) as gw:
            yield gw
            await gw.idle()
            core = gw.gateway.core
            assert core is not None
            account = core.accounts.find(sha256(KEY.encode()).digest())
            assert account is not None
            told = sum(max(record["prompt_tokens"], 0) + max(record["completion_tokens"], 0) for record in gw.records)
            charged = account.ledger.prompt + account.ledger.completion
            assert charged == told, f"charged {charged}, recorded {told}"
            assert not account.ledger.reserved, f"{account.ledger.reserved} are reserved still"

    @asynccontextmanager
    async def _before(
        self, urls: Sequence[str], engines: Sequence[EngineConfig], settings: dict[str, Any]
    ) -> AsyncIterator[Running]:
        async with running([*(self.target(url) for url in urls), *engines], **settings) as gw:
            yield gw

    @asynccontextmanager
    async def client(self, gw: Running, *, slow: bool = False) -> AsyncIterator[H1Caller | H2Caller]:
        """``slow``: what is on its way to it is little, and it takes nothing unless it reads."""
        made: H1Caller | H2Caller
        if self.client_protocol == "h1":
            made = H1Caller(gw.port, slow)
        else:
            context = tls_client.shared().trusting() if self.client_tls else None
            if context is not None:
                context.set_alpn_protocols(["h2"])
            made = H2Caller(gw.port, slow, context)
        await made.connect()
        try:
            yield made
        finally:
            await made.close()

    @property
    def kept(self) -> int:
        """Connections to its engine that stay when nobody asks for anything."""
        return int(self.engine_protocol == "h2")

    @property
    def leavings(self) -> tuple[str, ...]:
        """How a client of it says that it does not want an answer: of the one request, or by the end of its connection."""
        return ("stream", "fin", "rst") if self.client_protocol == "h2" else ("fin", "rst")


class TunnelWay(Way):
    """The engine is behind a runner that has dialled in, and speaks HTTP/1.1 with that."""

    def __str__(self) -> str:
        return f"{super().__str__()}-tunnel"

    @property
    def kept(self) -> int:
        return 1

    @asynccontextmanager
    async def _before(
        self, urls: Sequence[str], engines: Sequence[EngineConfig], settings: dict[str, Any]
    ) -> AsyncIterator[Running]:
        async with running(engines, **{"runner_auth_token": TOKEN, **settings}) as gw, tunnelled(gw, *urls):
            gw.stats.exchanges_total -= len(gw.raw_records)  # of runners that have dialled in: no test counts with those
            gw.raw_records.clear()
            yield gw


_BOTH: tuple[Protocol, Protocol] = ("h1", "h2")
ALL: tuple[Way, ...] = tuple(Way(c, ct, e, et) for c in _BOTH for ct in (False, True) for e in _BOTH for et in (False, True))

TUNNELS = (TunnelWay("h1", False, "h1", False), TunnelWay("h2", False, "h1", False))
if os.environ.get("FASTGW_TESTED_TUNNELS") == "1":
    ALL = TUNNELS

all_ways = pytest.mark.parametrize("way", ALL, ids=str)
and_tunnels = pytest.mark.parametrize("way", dict.fromkeys((*ALL, TUNNELS[0])), ids=str)
"""All ways, and one more whose engine is behind a tunnel. (With ``FASTGW_TESTED_TUNNELS=1`` in the environment all cases run
through tunnels alone. Those that count connections, replays or refused dials differ then: they are the runner's.)"""
plain_ways = pytest.mark.parametrize("way", [way for way in ALL if not (way.client_tls or way.engine_tls)], ids=str)


def say(*, stream: bool = False, **fields: Any) -> bytes:
    """A chat of the one key."""
    return chat(stream=stream, key=KEY, **fields)
