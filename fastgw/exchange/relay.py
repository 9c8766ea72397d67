"""One response body on its way from the engine to the client: a source, what is read of it, and the client's stream.

Every event is forwarded in the loop turn in which it came (an answer's last chunk, where the next one may be taken out, in that
of the next). Where both sides frame alike and nothing is taken out, the
engine's own bytes go out as they are, frames included; else the payload is framed again. A read that ends inside an
engine's chunk is framed again too, so that the client's stream stands on a chunk boundary at all times: an error event
can always be put there.

The relay never ends a message early: after a truncation there is no end. Where only so many tokens may pass (``allow``) it
stops behind the event with the last one, and says so; ``go_on`` or ``close`` follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.events import MARKED, NAMED
from fastgw.accel.histograms import Histogram
from fastgw.accel.sse import MAX_EVENT_BYTES, SseScanner, line_at
from fastgw.accel.usage import UsageScanner
from fastgw.exchange.dialects import Dialect
from fastgw.exchange.endpoints import ANYHOW, AT_A_REASON, AT_ITS_LAST
from fastgw.net.client import ClientStream
from fastgw.protocol.body import Source

MORE: Final = 0
END: Final = 1
BROKEN: Final = 2
SPENT: Final = 3  # the tokens that may pass have; more has come, or may come

UNLIMITED: Final = 2**62
NO_LAST_WORD: Final = "the stream ended before its last word"
MAX_END_BYTES: Final = 1 << 20  # of an engine's own end that is waited for: some repeat the whole answer in it
FOR_LENGTH: Final = (b"length", b"max_tokens")
FAILED: Final = b"error"
"""A reason that engines give where they fail on their way, some without an error beside it."""
COMPLETED: Final = b'"response.completed"'
_LEAST: Final = 2  # a token has four bytes (as a power of two) and more, with the name of its text


class Relay:
    """The body of one response; see the head of this file."""

    __slots__ = (
        "_client",
        "_end",
        "_events",
        "_known",
        "_owed",
        "_rest",
        "_rest_ends",
        "_text_at",
        "_tokens",
        "_torn",
        "_total",
        "_usage",
        "begun",
        "body_bytes",
        "broken",
        "closing",
        "dialect",
        "ended",
        "ends",
        "engine_gaps",
        "follows",
        "gaps",
        "gone",
        "limit",
        "prompt",
        "show",
        "source",
        "sse",
        "written",
        "wrote",
    )

    def __init__(self, client: ClientStream, source: Source, sse: SseScanner | None, json: bool) -> None:
        self._client = client
        self.source = source
        self._rest = b""  # what came behind the event with which the allowance ended
        self._rest_ends = False  # and the message ends with that
        self._usage = UsageScanner() if json and sse is None else None  # of a JSON answer
        self.sse = sse
        self.limit = UNLIMITED  # tokens; what comes behind the event with the last of them waits for `go_on`
        self.prompt = 0  # so many the prompt is taken for beside them
        self.follows = True  # the engine's figure of the prompt
        self._total = UNLIMITED
        self.closing = False  # no more tokens may pass: only the engine's own end is still waited for
        self._end = bytearray()  # what has come of that
        self._owed = b""  # what had come before it, and was held
        self._known = (0, 0, False, 0, 0, 0, 0)  # what was known before it
        self.begun = False  # the answer's head has gone down
        self.wrote = False  # and something of its body
        self.body_bytes = 0  # of the engine's body, of what went on
        self.ended = False
        self.ends = ANYHOW
        self._torn = False  # within an event
        self.broken = ""
        # Who wants to see each piece before it goes down, may change it, and forbid it (None).
        self.show: Callable[[bytes], bytes | None] | None = None
        self.gone = False  # he did: the exchange has ended
        self.dialect: Dialect | None = None  # who reads it in an engine's own API
        self.written = 1  # what the last write returned
        self.gaps: Histogram | None = None  # of the time between its events with text, among those of its model,
        self.engine_gaps: Histogram | None = None  # and among those of its engine
        self._text_at = 0.0  # when the last of those came,
        self._tokens = self._events = 0  # and what had come by then

    def start(self, rest: bytes) -> int:
        """The answer's head, which the client's stream has, and what came with it, in one write. Where the very first bytes are
        no body, nothing is written, and ``begun`` stays false: another answer is still possible."""
        verdict = MORE
        if rest or self.source.done:
            verdict = self.feed(rest)
            if self.gone or (verdict == BROKEN and not self.wrote):
                return verdict
        self.begun = True
        if not self.wrote:
            self.written = self._client.flush()
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
        if self.follows and said > 0 and said != self.prompt:
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
        source = self.source
        client = self._client
        sse = self.sse
        near = self.limit != UNLIMITED and sse is not None and self._near(len(data))
        alike = source.frames == client.frames
        if alike and self._usage is None and not near and self.show is None:
            size = source.passes(sse, data)
            if size:
                # Whole frames of whole events, and all that they say is known: they go on untouched and uncopied.
                self.body_bytes += size
                self.wrote = True
                self.written = client.write_wire(data)
                return MORE
        try:
            payload = source.feed(data)
        except FramingError as error:
            self.broken = f"framing: {error}"
            self._pass_on(error.payload, near)
            return BROKEN
        done = source.done
        if done:
            trailers = source.trailers()
            if trailers:
                client.trail(trailers)
        if near:
            if self.closing:
                return self._wait_for_end(payload, done)
            self._rest = payload
            self._rest_ends = done
            return self.go_on()
        out = payload
        if sse is not None:
            out = sse.feed(payload)
            if done:
                held = self._last_of(sse)
                if held:
                    out += held
                if self.ends and not self._whole():
                    return self._breaks(out)
        elif self._usage is not None:
            self._usage.feed(payload)
        if alike and source.aligned and out is payload and self.show is None:
            self.body_bytes += len(out)
            if data:
                self.wrote = True
                self.written = client.write_wire(data)
        else:
            self._pass(out, done)
        if done:
            self.ended = True
            return END
        return MORE

    def _pass(self, out: bytes, last: bool) -> None:
        """Some of the engine's body."""
        if self.show is not None and out:
            seen = self.show(out)
            if seen is None:
                self.gone = True
                return
            out = seen
        self.body_bytes += len(out)
        self._put(out, last)

    def _put(self, out: bytes, last: bool) -> None:
        """Some of the body, and its end."""
        if last:
            self.wrote = True
            self.written = self._client.end(out)
        elif out:
            self.wrote = True
            self.written = self._client.write(out)
        else:
            self.written = 1  # (all of it; what an earlier write had left is its own)

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
            line = line_at(rest, at)
            out.append(sse.feed(line))
            self._follow()
            at += len(line)
        self._rest = rest[at:]
        spent = sse.tokens >= self.limit
        done = self._rest_ends and not (spent and self._rest)
        if done:
            out.append(self._last_of(sse))
            if self.ends and not self._whole():
                return self._breaks(b"".join(out))
        self._pass(b"".join(out), done)
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
        self._owed = sse.last
        self._known = (
            sse.tokens, sse.said_at, sse.of_choices, sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens,
            sse.reasoning_tokens,
        )  # fmt: skip
        rest, self._rest = self._rest, b""
        return self._wait_for_end(rest, self._rest_ends)

    def _wait_for_end(self, payload: bytes, done: bool) -> int:
        sse = self.sse
        assert sse is not None
        out = sse.feed(payload)
        if done:
            out += self._last_of(sse)
        self._end += out
        if sse.tokens > self._known[0] or len(self._end) > MAX_END_BYTES:
            (
                sse.tokens, sse.said_at, sse.of_choices, sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens,
                sse.reasoning_tokens,
            ) = self._known  # fmt: skip
            return SPENT
        return END if done else MORE

    def pass_end(self) -> bool:
        """Pass on what was held, where the engine had no more to say, or failed: False where it was ended for length, or has
        not ended."""
        sse = self.sse
        assert sse is not None
        end = bytes(self._end)
        cut = sse.finish_reason in FOR_LENGTH or (sse.finish_reason is None and COMPLETED not in end)
        if not sse.error and (cut or (self.ends and not self._whole())):
            return False
        self._pass(end, True)
        self.ended = True
        return True

    def _pass_on(self, payload: bytes, near: bool) -> None:
        """The last good bytes before the framing broke: the client gets what the engine said until then."""
        if self.closing:
            return
        if near:
            self._rest = payload
            self.go_on()
            return
        out = self.sse.feed(payload) if self.sse is not None else payload
        self._pass(out, False)

    def let_go(self) -> bool:
        """The engine is silent: what waits for its next event goes on as it came. False = nothing does."""
        sse = self.sse
        if sse is None or not sse.last:
            return False
        self._pass(sse.let_go(), False)
        return True

    def eof(self, how: str) -> int:
        """The engine closed. END only where that is how its message ends."""
        whole = self.source.eof(how)
        if self.closing:
            return self._wait_for_end(b"", True) if whole else BROKEN
        if self.ended:
            return END
        if not whole:
            told = "closed before the end of the message" if how == "fin" else "connection lost"
            self.broken = told if how == "fin" or how == "reset" else how
            return BROKEN
        out = self._last_of(self.sse) if self.sse is not None else b""
        if self.ends and not self._whole():
            return self._breaks(out)
        self._pass(out, True)
        self.ended = True
        return END

    def _last_of(self, sse: SseScanner) -> bytes:
        """What is held of a stream whose message has ended. (Its last event needs no blank line, where that says something.)"""
        said = sse.finish_reason, sse.prompt_tokens, sse.completion_tokens
        held = sse.flush()
        self._torn = sse.mid_event and said == (sse.finish_reason, sse.prompt_tokens, sse.completion_tokens)
        return held

    def _whole(self) -> bool:
        """Whether the stream has said all: how its API ends, or that it failed. (Of an end that is too long to be read nobody
        knows.)"""
        sse = self.sse
        assert sse is not None
        if sse.error or self._is_done(sse):
            return True
        if self._torn:
            return False
        return (sse.long_at and sse.long_at == sse.events) or (self.ends == AT_A_REASON and sse.finish_reason is not None)

    def _breaks(self, out: bytes) -> int:
        """The engine has ended its message, and not its stream: neither does ours end here."""
        self.broken = NO_LAST_WORD
        self._pass(out, False)
        return BROKEN

    def completes(self) -> bool:
        """The engine has said its last word, and then broken its message off, or not ended it: whether its reader, who has all,
        sees a message that ends."""
        sse = self.sse
        return sse is not None and self._is_done(sse) and self.finish(b"")

    def _is_done(self, sse: SseScanner) -> bool:
        """Whether the stream has said its API's last word. (One whose events have kinds is not ended by ``[DONE]``.)"""
        return sse.done >= NAMED or (sse.done == MARKED and self.ends != AT_ITS_LAST)

    def overhear(self, payload: bytes, last: bool) -> None:
        """More of the engine's body that goes to nobody: what it says is read all the same."""
        payload, self._rest = self._rest + payload, b""
        self.body_bytes += len(payload)
        if self.sse is not None:
            self.sse.feed(payload)
            if last:
                self.sse.flush()
        elif self._usage is not None:
            self._usage.feed(payload)

    def break_off(self, event: bytes) -> bool:
        """Put the typed error event where a reader of SSE will see it; False where the framing has no room for it."""
        sse = self.sse
        if sse is None or self._client.bounded:
            return False
        if not self._settles() or (sse.error and not sse.mid_event):
            # (The engine has said itself what went wrong; one error is enough.)
            return True
        # A half event that did go out is closed by a blank line: its reader drops it or errs, but does not glue ours to it.
        self._put(b"\n\n" + event if sse.mid_event else event, False)
        return True

    def paced(self, now: float) -> None:
        """What the last read brought came ``now``. (Of several events in one read the first has kept its reader waiting.)"""
        gaps = self.gaps
        sse = self.sse
        if gaps is None:
            return
        events = sse.events if sse is not None else self._events + 1
        tokens = sse.tokens if sse is not None else events
        if tokens != self._tokens:
            if self._text_at:
                theirs = self.engine_gaps
                gaps.came(now - self._text_at, events - self._events, theirs)
            self._text_at = now
            self._tokens = tokens
        self._events = events

    def finish(self, event: bytes) -> bool:
        """The gateway itself ends the stream, at the end of an event: ``event``, then the end of the message.

        False where its framing has said already when it ends: nothing is written then.
        """
        if self._client.bounded:
            return False
        if self._settles():
            self._put(event, True)
            self.ended = True
        return True

    def _settles(self) -> bool:
        """What was held goes down: no more is to come that it waits for. False = whoever is shown it has ended the exchange."""
        owed, self._owed = self._owed, b""
        if not self.closing and self.sse is not None:
            owed = self.sse.release()
        if owed:
            self._pass(owed, False)
        return not self.gone

    def usage(self) -> tuple[int, int, int, int]:
        """(prompt, completion, cached, reasoning) tokens as the engine counted them; -1 = it did not say."""
        sse = self.sse
        if sse is not None:
            return sse.prompt_tokens, sse.completion_tokens, sse.cached_tokens, sse.reasoning_tokens
        return self._usage.figures() if self._usage is not None else (-1, -1, -1, -1)

    def failed(self) -> bool:
        """Whether the answer, which has ended, says that its engine failed."""
        if self.dialect is not None and self.dialect.failed():
            return True
        if self.sse is not None:
            return self.sse.error or self.sse.finish_reason == FAILED
        return self._usage is not None and self._usage.error

    def answers(self) -> bool:
        """Whether there is anything of a plain answer, beside what it says of itself."""
        return self._usage is not None and self._usage.answers

    def failure(self) -> bytes:
        """In which words, as far as they are kept."""
        if self.dialect is not None and self.dialect.failure:
            return self.dialect.failure
        if self.sse is not None:
            return self.sse.failure
        return self._usage.failure() if self._usage is not None else b""

    def seconds(self) -> int:
        """Of audio, where that is what the engine says it has used; -1 = it does not."""
        if self.sse is not None:
            return self.sse.seconds
        return self._usage.seconds if self._usage is not None else -1
