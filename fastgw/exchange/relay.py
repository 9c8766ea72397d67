"""One response body on its way from the engine to the client.

Every read is forwarded in the loop turn in which it came. Where both sides frame alike and nothing is taken out, the
engine's own bytes go out as they are, frames included; else the payload is framed again. A read that ends inside an
engine's chunk is framed again too, so that the client's stream stands on a chunk boundary at all times: an error event
can always be put there.

The relay knows how the message ends and never ends it early: after a truncation there is no terminal chunk.
"""

from __future__ import annotations

import enum
from typing import Final

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import chunk
from fastgw.accel.sse import SseScanner, passes
from fastgw.accel.usage import UsageScanner
from fastgw.net.stream import RawStream
from fastgw.protocol.http1.writer import LAST_CHUNK

MORE: Final = 0
END: Final = 1
BROKEN: Final = 2

UNLIMITED: Final = 2**62


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
        "_framing",
        "_held",
        "_kept",
        "_left",
        "_usage",
        "_writer",
        "begun",
        "broken",
        "bytes_out",
        "chunked_out",
        "ended",
        "limit",
        "reusable",
        "sse",
        "written",
    )

    def __init__(
        self, writer: RawStream, framing: Framing, length: int, chunked_out: bool, sse: SseScanner | None, json: bool
    ) -> None:
        self._writer = writer
        self._held: bytes | None = None  # what would have been written, while it is being collected
        self._kept = b""  # the beginning of an event, while the stream may have to end before it
        self._framing = framing
        self._left = length
        self._chunks = ChunkScanner() if framing is CHUNKED else None
        self._usage = UsageScanner() if json and sse is None else None  # of a JSON answer
        self.chunked_out = chunked_out
        self.sse = sse
        self.limit = UNLIMITED  # tokens; once they have passed, only whole events go on
        self.begun = False  # the answer's head has gone down
        self.bytes_out = 0
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

    def feed(self, data: bytes) -> int:
        """Forward what came; ``written`` then says how the client took it. Returns MORE, END or BROKEN."""
        chunks = self._chunks
        done = False
        if chunks is not None:
            if self.chunked_out and self._usage is None and passes(chunks, self.sse, data):
                # Whole frames of whole events, and all that they say is known: they go on untouched and uncopied.
                self.bytes_out += len(data)
                self._put(data)
                return MORE
            try:
                payload = chunks.feed(data)
            except FramingError as error:
                self.broken = str(error)
                self.reusable = False
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
        sse = self.sse
        if sse is not None:
            out = sse.feed(payload)
            if done:
                held = sse.flush()
                if held:
                    out += held
            if self._kept or sse.tokens >= self.limit:
                out = self._whole_events(sse, out, done)
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
            self._put(wire)
        if done:
            self.ended = True
            return END
        return MORE

    def _whole_events(self, sse: SseScanner, out: bytes, done: bool) -> bytes:
        """Of what would go on, and was kept, all but the beginning of an unfinished event, where it is there whole."""
        if self._kept:
            out = self._kept + out
            self._kept = b""
        size = sse._sent
        if not done and size and size <= len(out) and sse.tokens >= self.limit and not sse._overlong:
            at = len(out) - size
            self._kept = out[at:]
            out = out[:at]
        return out

    def between_events(self) -> bool:
        """Whether the client has the beginning of no unfinished event."""
        return self.sse is None or not self.sse._sent or len(self._kept) > 0

    def _put(self, wire: bytes) -> None:
        if self._held is None:
            self.written = self._writer.write(wire)
        else:
            self._held += wire

    def _pass_on(self, payload: bytes) -> None:
        """The last good bytes before the framing broke: the client gets what the engine said until then."""
        out = self.sse.feed(payload) if self.sse is not None else payload
        if self._kept:
            out = self._kept + out
            self._kept = b""
        if out:
            wire = chunk(out) if self.chunked_out else out
            self.bytes_out += len(wire)
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
        if self.ended:
            return END
        if self._framing is not CLOSE or how != "fin":
            self.broken = "connection lost" if how != "fin" else "closed before the end of the message"
            return BROKEN
        wire = b""
        if self.sse is not None:
            held = self._kept + self.sse.flush()
            if held:
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
        # What was held back never went out, and never will: the client's stream stands where it stood before it. A half
        # event that did go out is closed by a blank line: its reader drops it or errs, but does not glue ours to it.
        out = b"\n\n" + event if sse.mid_event and not self._kept else event
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
        return self._usage.seconds if self._usage is not None else -1
