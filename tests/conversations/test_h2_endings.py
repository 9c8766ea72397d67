"""Each ending of a request, at an engine of HTTP/2 as at one of HTTP/1: the same charge, the same record, the same counts.

The rows are those of ``test_endings``, whose engines speak in HTTP/1's words; here they are put into frames. (One is not here:
frames of a body that cannot be read end the connection over HTTP/2.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from fastgw import EngineConfig
from fastgw.protocol.body import Source, source_of
from fastgw.protocol.http1.client import ResponseReader
from tests.conversations.test_endings import CASES, Row, Stage, meets_broken_framing, prompt_of
from tests.e2e.metered import KEY, OTHER_KEY
from tests.support import conversation as conversations
from tests.support.byhand.h2 import Asked, H2HandPool, HandWire
from tests.support.conversation import Conversation, conversation, silent

OF_CONNECTIONS = (b"transfer-encoding", b"connection", b"keep-alive")


class Told:
    """One request, whose engine's words are HTTP/1's."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._reader = ResponseReader()
        self._source: Source | None = None

    def says(self, *pieces: bytes) -> Told:
        for piece in pieces:
            self.asked.peer.says(self._frames(piece))
        return self

    def closes(self, how: Literal["fin", "reset"] = "fin") -> Told:
        self.asked.peer.closes(how)
        return self

    def _frames(self, data: bytes) -> bytes:
        peer, number = self.asked.peer, self.asked.number
        out = b""
        if self._source is None:
            head = self._reader.feed(data)
            assert head is not None
            self._source = source_of(head, b"POST")
            lines = [line.partition(b":") for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
            fields = [(key.lower(), value.strip()) for key, _, value in lines if key.lower() not in OF_CONNECTIONS]
            out = peer.head(number, head.status, fields)
            data = self._reader.rest
        payload = self._source.feed(data)
        return out + (peer.data(number, payload, last=self._source.done) if payload or self._source.done else b"")


class TellingWire(HandWire):
    """Who has a whole request may answer by himself."""

    pool: TellingPool

    def write(self, data: bytes) -> int:
        self.pool.loop.call_soon(self.pool.plays_on)
        return super().write(data)


class TellingPool(H2HandPool):
    def __init__(self, *args: Any) -> None:
        self.told: dict[Asked, Told] = {}
        self.play: Callable[[Told], object] | None = None
        super().__init__(*args)

    def wire(self) -> HandWire:
        made = TellingWire(self.reactor, self._dialled)
        made.pool = self
        return made

    def plays_on(self) -> None:
        for asked in super().asked:
            if asked.whole and asked not in self.told:
                told = self.told[asked] = Told(asked)
                if self.play is not None:
                    self.play(told)

    @property
    def asked(self) -> list[Told]:  # type: ignore[override]
        self.plays_on()
        return list(self.told.values())

    @property
    def last(self) -> Told:  # type: ignore[override]
        return self.asked[-1]

    @property
    def dials(self) -> int:
        return len(self.peers)


@contextmanager
def on_stage(row: Row, stream: bool, protocol: Literal["h1", "h2"]) -> Iterator[Stage]:
    settings = {"daily_token_quota": 1_000_000, "tokens_per_minute": 1_000_000, **row.settings}
    most = settings.pop("engine_max_concurrent", 0)
    engines = [
        EngineConfig(url=f"http://127.0.0.{at + 1}:9", protocol=protocol, warm_connections=0, max_concurrent=most)
        for at in range(settings.pop("engines", 1))
    ]
    with conversation(engines, silent, api_keys=(KEY, OTHER_KEY), **settings) as talk:
        yield Stage(talk, stream)


LEDGER = ("requests", "prompt", "completion", "cached", "reasoning", "estimated", "reserved")
ENGINE = ("failures", "failures_total", "truncations_total", "answered_total", "inflight")
NOT_ALIKE = ("dials_total", "upstream_open", "bytes_down", "bytes_out")  # connections; and HTTP/2 has no reason in its status
TIMES = ("at", "duration_s", "queued_s", "ttft_s")


def accounts(talk: Conversation) -> dict[str, Any]:
    """All that is told of what was."""
    account = talk.account()
    told: dict[str, Any] = {f"ledger {name}": getattr(account.ledger, name) for name in LEDGER}
    told["requests under way"] = account.inflight
    for at, record in enumerate(talk.records):
        for name, value in record.items():
            if name in NOT_ALIKE and record["status"] != 200:
                continue
            told[f"record {at} {name}"] = value if name not in TIMES else value >= 0.0
    for name in dir(talk.stats):
        value = getattr(talk.stats, name)
        if isinstance(value, int) and name not in NOT_ALIKE:
            told[f"count {name}"] = value
    for at, pool in enumerate(talk.engines):
        engine = pool.engine
        told.update({f"engine {at} {name}": getattr(engine, name) for name in ENGINE})
        told[f"engine {at} breaker"] = (engine.breaker.state, engine.breaker.failures)
    return told


ALIKE = [case for case in CASES if case.values[0].play is not meets_broken_framing]  # type: ignore[union-attr]


@pytest.mark.parametrize(("row", "stream"), ALIKE)
def test_it_is_told_of_as_of_one_of_http1(row: Row, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "H2HandPool", TellingPool)
    prompt = prompt_of(stream, row.requests > 1)
    found = []
    for protocol in ("h1", "h2"):
        with on_stage(row, stream, protocol) as stage:  # type: ignore[arg-type]
            stage.prompt = prompt
            row.play(stage)
            found.append(accounts(stage.talk))
    h1, h2 = found
    assert {name: (h1.get(name), h2.get(name)) for name in {**h1, **h2} if h1.get(name) != h2.get(name)} == {}
