"""Whether a proxy answers as its engine does: one plain answer and one stream, read through it and straight from the engine.

Owns: what has to be the same (the text, the reason for its end, the tokens), and what a proxy may do as it likes (names, ids,
spaces, an event without text). The load generator looks for the engine's text in every answer after that.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.wire import tools
from benchmarks.wire.proxies import KEY

_DEADLINE_S = 30.0
MOST_BYTES = 1 << 20
"""Of one answer: the engine's have 10 kB."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def message(self) -> tuple[Any, ...]:
        """What a plain answer says. Raises `ValueError`, `KeyError`, `TypeError` or `IndexError` where it has another shape."""
        said = json.loads(self.body)
        choice, usage = said["choices"][0], said["usage"]
        counts = tuple(usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
        return choice["message"]["content"], choice["finish_reason"], counts

    def text(self) -> tuple[Any, ...]:
        """The texts of a stream's events, without the clock that each begins with, and what ends it. Raises as `message`."""
        events = [line[5:].strip() for line in self.body.splitlines() if line.startswith(b"data:")]
        deltas = [json.loads(event)["choices"] for event in events if event != b"[DONE]"]
        texts = [choices[0]["delta"].get("content") for choices in deltas if choices]
        return [text.lstrip("0123456789") for text in texts if text], events[-1:]


def ask(port: int, stream: bool, fields: Sequence[str] = ()) -> Answer:
    """Raises `OSError` and `http.client.HTTPException`."""
    head = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    head |= {name: value.strip() for name, _, value in (field.partition(":") for field in fields)}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello #unpaced"}], "max_tokens": 64, "stream": stream}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_DEADLINE_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body, separators=(",", ":")), head)
        response = connection.getresponse()
        return Answer(response.status, response.read(MOST_BYTES))
    finally:
        connection.close()


def wrong(port: int, engine_port: int, fields: Sequence[str] = ()) -> str:
    """What is wrong with the answers at ``port``; nothing where they are the engine's."""
    for stream, kind in ((False, "a plain answer"), (True, "a stream")):
        right = ask(engine_port, stream)
        try:
            got = ask(port, stream, fields)
        except (OSError, http.client.HTTPException) as error:
            return f"{kind}: {type(error).__name__} {error}"
        if got.status != right.status:
            return f"{kind}: status {got.status}, {_short(got.body)}"
        try:
            said, meant = (got.text(), right.text()) if stream else (got.message(), right.message())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return f"{kind} that is not of OpenAI's shape: {_short(got.body)}"
        if said != meant:
            return f"{kind} that is not the engine's: {_short(repr(said).encode())} for {_short(repr(meant).encode())}"
        assert not stream or len(meant[0]) == tools.EVENTS
    return ""


def _short(body: bytes) -> str:
    """Its beginning, in one line and for a table's cell."""
    text = " ".join(body[:120].decode(errors="replace").split())
    return text.replace("|", "/").replace("`", "'") or "nothing"
