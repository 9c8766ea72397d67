"""One response body on its way from the engine to the client.

Every read is forwarded in the loop turn in which it came. Where both sides frame alike and nothing is taken out, the
engine's own bytes go out as they are, frames included; else the payload is framed again. A read that ends inside an
engine's chunk is framed again too, so that the client's stream stands on a chunk boundary at all times: an error event
can always be put there.

The relay knows how the message ends and never ends it early: after a truncation there is no terminal chunk. Where only so many
tokens may pass (``allow``) it stops behind the event with the last one, and says so; ``go_on`` or ``close`` follows.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import chunk
from fastgw.accel.sse import MAX_EVENT_BYTES, SseScanner, passes
from fastgw.accel.usage import UsageScanner
from fastgw.net.stream import RawStream
from fastgw.protocol.http1.writer import LAST_CHUNK

MORE: Final = 0
END: Final = 1
BROKEN: Final = 2
SPENT: Final = 3  # the tokens that may pass have; more has come, or may come

UNLIMITED: Final = 2**62
MAX_END_BYTES: Final = 1 << 20  # of an engine's own end that is waited for: some repeat the whole answer in it
FOR_LENGTH: Final = (b"length", b"max_tokens")
COMPLETED: Final = b'"response.completed"'
_LEAST: Final = 2  # a token has four bytes (as a power of two) and more, with the name of its text
_LINE: Final = re.compile(rb"[^\r\n]*+[\r\n]*+").match  # and the line ends behind it: an event ends with them or goes on


class Framing(enum.IntEnum):
    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3


NONE: Final = Framing.NONE
LENGTH: Final = Framing.LENGTH
CHUNKED: Final = Framing.CHUNKED
CLOSE: Final = Framing.CLOSE


def framing_of(head: ResponseHead, method: bytes) -> Framing:
    """How the engine's message ends (RFC 9112 §6.3)."""
    if method == b"HEAD" or head.status in (204, 304):
        return NONE
    if head.chunked:
        return CHUNKED
    if head.content_length >= 0:
        return LENGTH
    return CLOSE


class Relay:
    """The body of one response; see the head of this file."""

    __slots__ = (
        "_chunks",
        "_end",
        "_framing",
        "_held",
        "_known",
        "_left",
        "_rest",
        "_rest_ends",
        "_total",
        "_usage",
        "_writer",
        "begun",
        "body_bytes",
        "broken",
        "bytes_out",
        "chunked_out",
        "closing",
        "ended",
        "limit",
        "prompt",
        "reusable",
        "sse",
        "written",
    )

    def __init__(
        self, writer: RawStream, framing: Framing, length: int, chunked_out: bool, sse: SseScanner | None, json: bool
    ) -> None:
        self._writer = writer
        self._held: bytes | None = None  # what would have been written, while it is being collected
        self._rest = b""  # what came behind the event with which the allowance ended
        self._rest_ends = False  # and the message ends with that
        self._framing = framing
        self._left = length
        self._chunks = ChunkScanner() if framing is CHUNKED else None
        self._usage = UsageScanner() if json and sse is None else None  # of a JSON answer
        self.chunked_out = chunked_out
        self.sse = sse
        self.limit = UNLIMITED  # tokens; what comes behind the event with the last of them waits for `go_on`
        self.prompt = 0  # so many the prompt is taken for beside them
        self._total = UNLIMITED
        self.closing = False  # no more tokens may pass: only the engine's own end is still waited for
        self._end = bytearray()  # what has come of that
        self._known = (0, 0, 0, 0, 0, 0)  # what was known before it
        self.begun = False  # the answer's head has gone down
        self.bytes_out = 0
        self.body_bytes = 0  # of the engine's body, of what went on
        self.ended = False
        self.reusable = framing is not CLOSE  # the engine's connection, once the message has ended
        self.broken = ""
        self.written = 1  # what the last write returned

    def start(self, head: bytes, rest: bytes) -> int:
        """The answer's head, and what came with it, in one write. Where the very first bytes are no body, nothing is
        written, and ``begun`` stays false: another answer is still possible."""
        verdict = MORE
        body = b""
        if rest or not self._left:
            self._held = b""
            verdict = self.feed(rest)
            body = self._held
            self._held = None
            if verdict == BROKEN and not body:
                return BROKEN
        self.begun = True
        self.written = self._writer.write(head + body)
        return verdict

    def allow(self, tokens: int, prompt: int) -> None:
        """So many tokens may pass, where the prompt has ``prompt``: as many fewer or more as the engine says it has."""
        self.limit = tokens
        self.prompt = prompt
        self._total = tokens + prompt

    def _follow(self) -> None:
        """The allowance follows the engine's figure of the prompt. (Only a stream that goes on is ended for it.)"""
        sse = self.sse
        assert sse is not None
        said = sse.prompt_tokens
        if said > 0 and said != self.prompt:
            self.prompt = said
            self.limit = max(self._total - said, sse.tokens + 1)

    def _near(self, size: int) -> bool:
        """Whether ``size`` bytes more may bring the allowance to its end, or say what the prompt is before any text comes."""
        sse = self.sse
        assert sse is not None
        if self.closing:
            return True
        self._follow()
        if sse.mid_event:
            size += MAX_EVENT_BYTES
        return sse.tokens == 0 or self.limit - sse.tokens <= (size >> _LEAST) + 1

    def feed(self, data: bytes) -> int:
        """Forward what came; ``written`` then says how the client took it. Returns MORE, END, BROKEN or SPENT."""
        chunks = self._chunks
        done = False
        sse = self.sse
        near = self.limit != UNLIMITED and sse is not None and self._near(len(data))
        if chunks is not None:
            if self.chunked_out and self._usage is None and not near:
                size = passes(chunks, sse, data)
                if size:
                    # Whole frames of whole events, and all that they say is known: they go on untouched and uncopied.
                    self.bytes_out += len(data)
                    self.body_bytes += size
                    self._put(data)
                    return MORE
            try:
                payload = chunks.feed(data)
            except FramingError as error:
                self.broken = str(error)
                self.reusable = False
                if self.closing:
                    return BROKEN
                if near:
                    self._rest = error.payload
                    self.go_on()
                else:
                    self._pass_on(error.payload)
                return BROKEN
            same = self.chunked_out and chunks.aligned
            if chunks.done:
                done = True
                if chunks.rest:
                    # Bytes after the end: nobody asked for them, and nobody will see them.
                    self.reusable = False
                    same = False
        elif self._framing is LENGTH:
            payload = data
            left = self._left - len(data)
            if left <= 0:
                done = True
                if left < 0:
                    self.reusable = False
                    payload = data[: self._left]
                    left = 0
            self._left = left
            same = not self.chunked_out and payload is data
        else:
            payload = data
            same = not self.chunked_out
        if near:
            if self.closing:
                return self._wait_for_end(payload, done)
            self._rest = payload
            self._rest_ends = done
            return self.go_on()
        if sse is not None:
            out = sse.feed(payload)
            if done:
                held = sse.flush()
                if held:
                    out += held
            same = same and out is payload
        else:
            out = payload
            if self._usage is not None:
                self._usage.feed(payload)
        if same:
            wire = data
        elif self.chunked_out:
            wire = chunk(out)
            if done:
                wire += LAST_CHUNK
        else:
            wire = out
        if wire:
            self.bytes_out += len(wire)
            self.body_bytes += len(out)
            self._put(wire)
        if done:
            self.ended = True
            return END
        return MORE

    def go_on(self) -> int:
        """Forward what came, up to the event with which the allowance ends: SPENT then, and the rest waits for the next call.

        An event's tokens are known when it is whole; so what is forwarded then ends with that event, even when it began in
        an earlier read.
        """
        sse = self.sse
        assert sse is not None
        rest = self._rest
        out: list[bytes] = []
        at = 0
        while at < len(rest) and sse.tokens < self.limit:
            stop = _LINE(rest, at).end()  # type: ignore[union-attr]
            out.append(sse.feed(rest[at:stop]))
            self._follow()
            at = stop
        self._rest = rest[at:]
        spent = sse.tokens >= self.limit
        done = self._rest_ends and not (spent and self._rest)
        if done:
            out.append(sse.flush())
        passed = b"".join(out)
        self.body_bytes += len(passed)
        wire = chunk(passed) if self.chunked_out else passed
        if done and self.chunked_out:
            wire += LAST_CHUNK
        if wire:
            self.bytes_out += len(wire)
            self._put(wire)
        if done:
            self.ended = True
            return END
        return SPENT if spent else MORE

    def close(self) -> int:
        """No more tokens may pass, and what comes is held: END where the engine has ended, with what it says it has used; SPENT
        where it goes on, and then nothing of that was read; MORE while it may do either."""
        sse = self.sse
        assert sse is not None
        self.closing = True
        self._known = (
            sse.tokens, sse.said_at, sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens, sse.reasoning_tokens,
        )  # fmt: skip
        rest, self._rest = self._rest, b""
        return self._wait_for_end(rest, self._rest_ends)

    def _wait_for_end(self, payload: bytes, done: bool) -> int:
        sse = self.sse
        assert sse is not None
        out = sse.feed(payload)
        if done:
            out += sse.flush()
        self._end += out
        if sse.tokens > self._known[0] or len(self._end) > MAX_END_BYTES:
            (
                sse.tokens, sse.said_at, sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens, sse.reasoning_tokens,
            ) = self._known  # fmt: skip
            return SPENT
        return END if done else MORE

    def pass_end(self) -> bool:
        """Pass on what was held, where the engine had no more to say, or failed: False where it was ended for length."""
        sse = self.sse
        assert sse is not None
        end = bytes(self._end)
        if not sse.error and (sse.finish_reason in FOR_LENGTH or (sse.finish_reason is None and COMPLETED not in end)):
            return False
        self.body_bytes += len(end)
        wire = chunk(end) + LAST_CHUNK if self.chunked_out else end
        self.bytes_out += len(wire)
        self._put(wire)
        self.ended = True
        return True

    def _put(self, wire: bytes) -> None:
        if self._held is None:
            self.written = self._writer.write(wire)
        else:
            self._held += wire

    def _pass_on(self, payload: bytes) -> None:
        """The last good bytes before the framing broke: the client gets what the engine said until then."""
        out = self.sse.feed(payload) if self.sse is not None else payload
        if out:
            wire = chunk(out) if self.chunked_out else out
            self.bytes_out += len(wire)
            self.body_bytes += len(out)
            self._put(wire)

    def skim(self, data: bytes) -> bool:
        """Bytes that nobody gets; whether the message has ended with them, or cannot be read on."""
        if self._chunks is not None:
            try:
                self._chunks.feed(data)
            except FramingError:
                return True
            return self._chunks.done
        self._left -= len(data)
        return self._framing is LENGTH and self._left <= 0

    def eof(self, how: str) -> int:
        """The engine closed. END only where that is how its message ends."""
        self.reusable = False
        if self.closing:
            return self._wait_for_end(b"", True) if self._framing is CLOSE and how == "fin" else BROKEN
        if self.ended:
            return END
        if self._framing is not CLOSE or how != "fin":
            self.broken = "connection lost" if how != "fin" else "closed before the end of the message"
            return BROKEN
        wire = b""
        if self.sse is not None:
            held = self.sse.flush()
            if held:
                self.body_bytes += len(held)
                wire = chunk(held) if self.chunked_out else held
        if self.chunked_out:
            wire += LAST_CHUNK
        if wire:
            self.bytes_out += len(wire)
            self._put(wire)
        self.ended = True
        return END

    def break_off(self, event: bytes) -> bool:
        """Put the typed error event where a reader of SSE will see it; False where the framing has no room for it."""
        sse = self.sse
        if sse is None or (self._framing is LENGTH and not self.chunked_out):
            return False
        if sse.error and not sse.mid_event:
            # The engine has said itself what went wrong; one error is enough.
            return True
        # A half event that did go out is closed by a blank line: its reader drops it or errs, but does not glue ours to it.
        out = b"\n\n" + event if sse.mid_event else event
        wire = chunk(out) if self.chunked_out else out
        self.bytes_out += len(wire)
        self._put(wire)
        return True

    def finish(self, event: bytes) -> bool:
        """The gateway itself ends the stream, at the end of an event: ``event``, then the end of the message.

        False where its framing has said already when it ends: nothing is written then.
        """
        if self._framing is LENGTH and not self.chunked_out:
            return False
        wire = event
        if self.chunked_out:
            wire = chunk(event) + LAST_CHUNK
        self.bytes_out += len(wire)
        self._put(wire)
        self.ended = True
        self.reusable = False
        return True

    def usage(self) -> tuple[int, int, int, int]:
        """(prompt, completion, cached, reasoning) tokens as the engine counted them; -1 = it did not say."""
        sse = self.sse
        if sse is not None:
            return sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens, sse.reasoning_tokens
        return self._usage.figures() if self._usage is not None else (-1, -1, -1, -1)

    def seconds(self) -> int:
        """Of audio, where that is what the engine says it has used; -1 = it does not."""
        if self.sse is not None:
            return self.sse.seconds
        return self._usage.seconds if self._usage is not None else -1
