"""A row of engines, asked in its order, so that a test can say which of them a request meets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.byhand.engine import Play
from tests.support.conversation import Conversation, answering, conversation
from tests.support.scripts import ok

BACK_PRESSURE = ["429", "502", "503"]
BUSY_BODY = b'{"error":{"message":"later","type":"engine","param":null,"code":"busy"}}'
SECOND = "127.0.0.2"  # another client's address

fine = answering(ok())


def status(number: int, *lines: bytes) -> Play:
    """An engine that answers every request with this."""
    extra = b"".join(line + b"\r\n" for line in lines)
    head = b"HTTP/1.1 %d Busy\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return answering(head % (number, len(BUSY_BODY), extra) + BUSY_BODY)


@contextmanager
def row(*plays: Play, **settings: Any) -> Iterator[Conversation]:
    """Engines in a list, asked in its order; ``retry_fresh`` is on only where a test turns it on."""
    settings = {"policy": "ordered", "retry_fresh": False, "cb_failure_threshold": 0, **settings}
    with conversation(len(plays), *plays, **settings) as talk:
        yield talk
