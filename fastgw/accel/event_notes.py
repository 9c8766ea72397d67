"""What a stream's events have said so far: counts, usage, an error, the end.

The Python twin of ``sse`` is such a notebook that also watches the stream's bytes; the compiled one has it in its own file.
Invariant: the engine's last word on usage counts, wherever it stands.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastgw.accel.events import (
    A_LIST,
    DELTA_TYPE,
    FINISH,
    LAST,
    LAST_WORD,
    MARKED,
    NAMED,
    SHORTEST,
    SPEAKS,
    decode_event,
    is_usage_chunk,
    says_it_failed,
    says_more,
    tokens_in,
    weight,
)
from fastgw.accel.usage import event_usage, seconds_in

PLAIN: Final = 0
EXTRA: Final = 1
"""The extra usage chunk."""
CLOSING: Final = 2
"""It says why an answer ends: behind it comes nothing more of that, unless it is what such a chunk says."""


class EventNotes:
    """What was said; :class:`~fastgw.accel.sse.SseScanner` says what each of them is."""

    __slots__ = (
        "_noted",
        "_used",
        "cached_tokens",
        "completion_tokens",
        "done",
        "error",
        "events",
        "failure",
        "finish_reason",
        "first_token_seen",
        "long_at",
        "of_choices",
        "prompt_tokens",
        "reasoning_tokens",
        "said_at",
        "seconds",
        "tokens",
    )

    def __init__(self) -> None:
        self.events = 0
        self.tokens = 0
        self.done = 0
        self.error = False
        self.failure = b""
        self.finish_reason: bytes | None = None
        self.prompt_tokens = -1
        self.completion_tokens = -1
        self.cached_tokens = -1
        self.reasoning_tokens = -1
        self.seconds = -1
        self.said_at = 0
        self.of_choices = False
        self.first_token_seen = False
        self.long_at = 0
        self._noted = 0  # how many events said more than a piece of text
        self._used = False  # usage was said: what llama.cpp measures says nothing beside it

    def _data(self, data: bytes) -> int:
        """Take note of an event's data; what it is."""
        if len(data) < SHORTEST or 34 not in data:
            # No member, so nothing that is looked for; or it is the last word.
            self._marks(data)
            return PLAIN
        if data[:1] == b"{" and not says_more(data):
            # Whether it is JSON makes no difference then: whoever reads it will fail or not.
            self._speaks(tokens_in(data))
            return PLAIN
        try:
            event = decode_event(data)
        except (msgspec.DecodeError, RecursionError):
            # Whoever reads it will fail; until then it counts as it does where it is told without being decoded.
            self._marks(data)
            self._noted += 1
            if data[:1] == b"{":
                self._speaks(tokens_in(data))
            return PLAIN
        failed = says_it_failed(event)
        if failed:
            self._fails(data)
            self._noted += 1
        kind = bytes(event.type)
        if kind in LAST:
            self.done |= NAMED
        tokens = tokens_in(data) if not kind or SPEAKS(kind) else 0
        if not tokens and len(event.delta) > 2 and bytes(event.delta)[:1] == b'"' and DELTA_TYPE(kind):
            # (What is sound is one, however long.)
            tokens = 1 if kind.endswith(b'audio.delta"') else weight(len(event.delta) - 2)
        self._speaks(tokens)
        match = FINISH(data) if b"_reason" in data else None
        if match is not None:
            self.finish_reason = match[1]
            self._noted += 1
        choices = A_LIST(bytes(event.choices)) is not None
        if b"{" in (bytes(event.usage)[:1], bytes(event.timings)[:1], bytes(event.response)[:1], bytes(event.message)[:1]):
            self._noted += 1
            self._take(event_usage(data), choices)
            if b'"seconds"' in data:
                self._heard(seconds_in(data))
        if choices:
            return CLOSING if match is not None and not failed else PLAIN
        return EXTRA if is_usage_chunk(event) and not failed else PLAIN

    def _marks(self, data: bytes) -> None:
        if data.startswith(LAST_WORD):
            self.done |= MARKED

    def _fails(self, data: bytes) -> None:
        """An event with this ``data`` tells of an error; the first one says which."""
        if not self.error:
            self.error = True
            self.failure = data

    def _speaks(self, tokens: int) -> None:
        if tokens:
            self.tokens += tokens
            self.first_token_seen = True

    def _take(self, said: tuple[int, int, int, int, bool], of_choices: bool) -> None:
        """An event's word on usage: the last one counts, and what llama.cpp measures where there is no other.

        But an end that repeats less of the prompt than its beginning said leaves that: 0, or a number that is smaller because
        what came from a cache is not in it.
        """
        prompt, completion, cached, reasoning, measured = said
        if measured:
            if self._used:
                return
        elif prompt >= 0 or completion >= 0:
            self._used = True
        if prompt >= 0 or completion >= 0:
            self.of_choices = of_choices
        if prompt > self.prompt_tokens or (prompt > 0 and (cached >= 0 or self.cached_tokens < 0)):
            self.prompt_tokens = prompt
        if completion >= 0:
            self.completion_tokens = completion
            self.said_at = self.tokens
        if cached >= 0:
            self.cached_tokens = cached
        if reasoning >= 0:
            self.reasoning_tokens = reasoning

    def _heard(self, seconds: int) -> None:
        if seconds >= 0:
            self.seconds = seconds
