"""One response body on its way from the engine to the client.

Every read is forwarded in the loop turn in which it came. Where both sides frame alike and nothing is taken out, the
engine's own bytes go out as they are, frames included; else the payload is framed again. A read that ends inside an
engine's chunk is framed again too, so that the client's stream stands on a chunk boundary at all times: an error event
can always be put there.

The relay knows how the message ends and never ends it early: after a truncation there is no terminal chunk.
"""

from __future__ import annotations

import enum
import re
from typing import Final, Protocol

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.protocol.http1.writer import LAST_CHUNK, chunk

MORE: Final = 0
END: Final = 1
BROKEN: Final = 2

TAIL_BYTES: Final = 2048  # of a JSON answer: `usage` stands at its end
_USAGE: Final = re.compile(rb'"(prompt|completion|input|output)_tokens"\s*:\s*(\d{1,12})')


class Framing(enum.IntEnum):
    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3


class Writer(Protocol):
    def write(self, data: bytes) -> int: ...


def framing_of(head: ResponseHead, method: bytes) -> Framing:
    """How the engine's message ends (RFC 9112 §6.3)."""
    if method == b"HEAD" or head.status in (204, 304):
        return Framing.NONE
    if head.chunked:
        return Framing.CHUNKED
    if head.content_length >= 0:
        return Framing.LENGTH
    return Framing.CLOSE


class Relay:
    """The body of one response; see the head of this file."""

    __slots__ = (
        "_chunks",
        "_framing",
        "_left",
        "_tail",
        "_writer",
        "broken",
        "bytes_out",
        "chunked_out",
        "ended",
        "reusable",
        "sse",
        "written",
    )

    def __init__(
        self, writer: Writer, framing: Framing, length: int, chunked_out: bool, sse: SseScanner | None, keep_tail: bool
    ) -> None:
        self._writer = writer
        self._framing = framing
        self._left = length
        self._chunks = ChunkScanner() if framing is Framing.CHUNKED else None
        self._tail: bytes | None = b"" if keep_tail else None
        self.chunked_out = chunked_out
        self.sse = sse
        self.bytes_out = 0
        self.ended = False
        self.reusable = framing is not Framing.CLOSE  # the engine's connection, once the message has ended
        self.broken = ""
        self.written = 1  # what the last write returned

    def feed(self, data: bytes) -> int:
        """Forward what came; ``written`` then says how the client took it. Returns MORE, END or BROKEN."""
        chunks = self._chunks
        done = False
        if chunks is not None:
            try:
                payload = chunks.feed(data)
            except FramingError as error:
                self.broken = str(error)
                self.reusable = False
                return BROKEN
            same = self.chunked_out and chunks.aligned
            if chunks.done:
                done = True
                if chunks.rest:
                    # Bytes after the end: nobody asked for them, and nobody will see them.
                    self.reusable = False
                    same = False
        elif self._framing is Framing.LENGTH:
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
            same = same and out is payload
        else:
            out = payload
            if self._tail is not None:
                self._tail = (self._tail + payload)[-TAIL_BYTES:]
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
            self.written = self._writer.write(wire)
        if done:
            self.ended = True
            return END
        return MORE

    def eof(self, how: str) -> int:
        """The engine closed. END only where that is how its message ends."""
        self.reusable = False
        if self.ended:
            return END
        if self._framing is not Framing.CLOSE or how != "fin":
            self.broken = "connection lost" if how != "fin" else "closed before the end of the message"
            return BROKEN
        wire = b""
        if self.sse is not None:
            held = self.sse.flush()
            if held:
                wire = chunk(held) if self.chunked_out else held
        if self.chunked_out:
            wire += LAST_CHUNK
        if wire:
            self.bytes_out += len(wire)
            self.written = self._writer.write(wire)
        self.ended = True
        return END

    def break_off(self, event: bytes) -> bool:
        """Put the typed error event where a reader of SSE will see it; False where the framing has no room for it."""
        sse = self.sse
        if sse is None or (self._framing is Framing.LENGTH and not self.chunked_out):
            return False
        # What was held back never went out, and never will: the client's stream stands where it stood before it. A half
        # event that did go out is closed by a blank line: its reader drops it or errs, but does not glue ours to it.
        out = b"\n\n" + event if sse.mid_event else event
        wire = chunk(out) if self.chunked_out else out
        self.bytes_out += len(wire)
        self.written = self._writer.write(wire)
        return True

    def usage(self) -> tuple[int, int]:
        """(prompt, completion) tokens as the engine counted them; -1 = it did not say."""
        if self.sse is not None:
            return self.sse.prompt_tokens, self.sse.completion_tokens
        return usage_in(self._tail) if self._tail else (-1, -1)


def usage_in(tail: bytes) -> tuple[int, int]:
    """The token counts in the last bytes of a plain JSON answer, found without parsing the whole of it."""
    at = tail.rfind(b'"usage"')
    prompt = completion = -1
    if at >= 0:
        for name, count in _USAGE.findall(tail, at):
            if name in (b"prompt", b"input"):
                prompt = int(count) if prompt < 0 else prompt
            else:
                completion = int(count) if completion < 0 else completion
    return prompt, completion
