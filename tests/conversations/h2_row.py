"""A conversation with one engine of HTTP/2, or several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastgw import EngineConfig
from tests.support.byhand.client import HandClient
from tests.support.byhand.h2 import SSE, Asked, H2HandPool, H2Peer
from tests.support.conversation import Conversation, conversation
from tests.support.requests import chat
from tests.support.scripts import DONE, EVENT

REFUSED_STREAM, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 7, 2, 8, 11
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR, NO_ERROR = 1, 3, 6, 9, 0


class H2Talk:
    """A conversation whose first engine speaks HTTP/2."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self.engine: H2HandPool = talk.engines[0]

    @property
    def peer(self) -> H2Peer:
        """The connection dialled last."""
        return self.engine.peer.look()

    @property
    def last(self) -> Asked:
        return self.engine.last

    @property
    def asked(self) -> list[Asked]:
        return self.engine.asked


@contextmanager
def h2(engines: int = 1, *, greeting: dict[str, int] | None = None, **settings: Any) -> Iterator[H2Talk]:
    warm = settings.pop("warm_connections", 0)
    most = settings.pop("max_connections", 0)
    rows = [
        EngineConfig(url=f"http://127.0.0.{at + 1}:9", protocol="h2", warm_connections=warm, max_connections=most)
        for at in range(engines)
    ]
    with conversation(rows, **settings) as talk:
        if greeting is not None:
            for engine in talk.engines:
                engine.greeting = greeting
        yield H2Talk(talk)


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


def streaming(say: H2Talk, count: int = 1) -> list[HandClient]:
    """So many clients, each with a stream of which one event has come."""
    clients = []
    for _ in range(count):
        clients.append(say.talk.client().says(chat(stream=True)))
        say.last.begins(SSE).says(EVENT)
    return clients


def broke_off(talk: Conversation, client: HandClient) -> None:
    """The client was told, and its stream does not look complete."""
    answer = client.seen
    assert not answer.complete
    assert answer.body.startswith(EVENT)
    assert b'"code":"bad_gateway"' in answer.body or b"bad_gateway" in answer.body
    assert DONE not in answer.body
    assert talk.records[-1]["outcome"] == "truncated"
