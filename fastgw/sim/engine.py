"""The engine behind the sockets: batch slots, a FIFO queue in front of them, and one paced job per generation.

A job goes WAITING -> PREFILL -> DECODING -> OVER, or from any of them straight to OVER when it is cancelled. It is driven
by loop callbacks, never by a task: a thousand streams cost a thousand timers. Invariant: ``running`` is the number of jobs
in PREFILL or DECODING and ``waiting`` the length of the queue, at every return to the loop.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from fastgw.sim.config import SimConfig
from fastgw.sim.prefix_cache import Prefill

Fields = Sequence[tuple[bytes, bytes]]

# Events written in one callback when the loop was late: enough to catch up, few enough to stay fair.
_CATCH_UP: Final = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    content_type: bytes
    body: bytes
    headers: Fields = ()


class Sink(Protocol):
    """Where a job's output goes. The HTTP/1.1 connection is one, an HTTP/2 stream, a fault's player."""

    def answer(self, answer: Answer) -> None:
        """The whole response; nothing follows."""

    def start(self, content_type: bytes) -> None:
        """The head of a streamed response."""

    def event(self, data: bytes) -> None:
        """One piece of a streamed response, in one write."""

    def end(self) -> None:
        """The streamed response is complete."""


class Shape(Protocol):
    """What a job says, in one API's words. ``tokens`` is how many output tokens it has, ``blocks`` its prompt as a prefix cache
    knows it: none where the engine has none."""

    stream: bool
    content_type: bytes
    blocks: tuple[int, ...]
    prompt_tokens: int
    tokens: int
    finish_reason: str

    def whole(self) -> Answer:
        """The answer when it is not streamed."""

    def opening(self) -> Sequence[bytes]:
        """Events before the first token, sent together with it."""

    def token(self, index: int) -> bytes:
        """The event of one token."""

    def closing(self) -> Sequence[bytes]:
        """Events after the last token, sent together with it."""


class Phase(enum.Enum):
    WAITING = 0
    PREFILL = 1
    DECODING = 2
    OVER = 3


class FullError(Exception):
    """The queue in front of the slots is full."""


class State:
    """Counters and gauges, as ``/debug/state`` and ``Simulator.state`` show them."""

    __slots__ = (
        "cached_tokens",
        "cancelled",
        "connections_open",
        "connections_total",
        "events_sent",
        "faulted",
        "finish_reasons",
        "generation_tokens",
        "kv_tokens_used",
        "last_malformed",
        "malformed",
        "paused",
        "prompt_tokens",
        "read_tokens",
        "received",
        "requests_per_connection",
        "running",
        "served",
        "waiting",
    )

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.paused = 0
        self.received = 0
        self.served = 0
        self.cancelled = 0
        self.faulted = 0
        self.malformed = 0
        self.last_malformed = ""
        self.connections_open = 0
        self.connections_total = 0
        self.requests_per_connection: dict[int, int] = {}
        self.prompt_tokens = 0
        self.read_tokens = 0  # of prompts that have been read; and of these, what was at hand
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.kv_tokens_used = 0
        self.events_sent = 0
        self.finish_reasons: dict[str, int] = {"stop": 0, "length": 0}

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class Job:
    """One generation on its way through the engine."""

    __slots__ = (
        "_due_s",
        "_engine",
        "_handle",
        "_itl_s",
        "_lead_s",
        "_loop",
        "_ping",
        "_reading",
        "_sent",
        "_sink",
        "paused",
        "phase",
        "shape",
    )

    def __init__(
        self, engine: Engine, shape: Shape, sink: Sink, lead_s: float | None = None, itl_s: float | None = None
    ) -> None:
        config = engine.config
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._handle: asyncio.Handle | None = None
        self._ping: asyncio.TimerHandle | None = None
        self._sent = 0
        self._due_s = 0.0
        self._lead_s = config.ttft_ms / 1e3 if lead_s is None else lead_s
        self._reading = False
        self._itl_s = config.itl_ms / 1e3 if itl_s is None else itl_s
        self.shape = shape
        self.paused = False
        self.phase = Phase.WAITING

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    def begin(self) -> None:
        """The job has a slot."""
        self.phase = Phase.PREFILL
        config = self._engine.config
        if self.shape.stream:
            if config.early_head:
                self._sink.start(self.shape.content_type)
            if config.ping_s:
                self._ping = self._loop.call_later(config.ping_s, self._send_ping)
        if self._engine.prefill is None:
            self.read(0)
        else:
            self._reading = True
            self._engine.prefill.take(self)

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.shape.blocks

    @property
    def prompt_tokens(self) -> int:
        return self.shape.prompt_tokens

    def read(self, cached: int) -> None:
        """The prompt has been read but for what each job does on its own: ``prefill_us`` for what was not at hand."""
        self._reading = False
        state = self._engine.state
        state.read_tokens += self.shape.prompt_tokens
        state.cached_tokens += cached
        wait_s = self._lead_s + self._engine.config.prefill_us * max(0, self.shape.prompt_tokens - cached) / 1e6
        if not self.shape.stream:
            wait_s += self._itl_s * max(0, self.shape.tokens - 1)
        if wait_s > 0:
            self._handle = self._loop.call_later(wait_s, self._first)
        else:
            self._first()

    def pause(self) -> None:
        """The client does not take what is written: no more events until :meth:`resume`."""
        if not self.paused and self.phase is not Phase.OVER:
            self.paused = True
            self._engine.state.paused += 1

    def resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        self._engine.state.paused -= 1
        if self.phase is Phase.DECODING and self._handle is None:
            self._due_s = time.monotonic()
            self._handle = self._loop.call_soon(self._tick)

    def cancel(self) -> None:
        """Stop now and free the slot (or leave the queue). Does nothing when the job is over."""
        self._over()

    def _first(self) -> None:
        self._handle = None
        shape = self.shape
        if not shape.stream:
            self._engine.state.generation_tokens += shape.tokens
            answer = shape.whole()
            self._over(shape.finish_reason)
            self._sink.answer(answer)
            return
        if not self._engine.config.early_head and self.phase is Phase.PREFILL:
            self._sink.start(shape.content_type)
        self.phase = Phase.DECODING
        self._due_s = time.monotonic()
        for event in shape.opening():
            self._sink.event(event)
        self._tick()

    def _tick(self) -> None:
        self._handle = None
        shape, sink, state = self.shape, self._sink, self._engine.state
        for _ in range(_CATCH_UP):
            if self.over or self.paused:
                return
            if self._sent < shape.tokens:
                index = self._sent
                self._sent += self._together()
                state.generation_tokens += self._sent - index
                if self._sent - index == 1:
                    sink.event(shape.token(index))
                else:
                    sink.event(b"".join([shape.token(one) for one in range(index, self._sent)]))
            if self._sent >= shape.tokens:
                for event in shape.closing():
                    sink.event(event)
                if not self.over:
                    self._over(shape.finish_reason)
                    sink.end()
                return
            self._due_s += self._itl_s * self._together()
            wait_s = self._due_s - time.monotonic()
            if wait_s > 0 or self._itl_s <= 0:
                break
        if self.paused:
            return
        if wait_s > 0:
            self._handle = self._loop.call_later(wait_s, self._tick)
        else:
            # Without pacing each event still has its own turn of the loop, hence its own send.
            self._handle = self._loop.call_soon(self._tick)

    def _together(self) -> int:
        """Tokens that leave next, in one piece: the first does at once, whatever the interval."""
        return min(self._engine.config.stream_interval, self.shape.tokens - self._sent) if self._sent else 1

    def _send_ping(self) -> None:
        if self.phase is Phase.PREFILL and not self._engine.config.early_head:
            self._sink.start(self.shape.content_type)
            self.phase = Phase.DECODING
        if not self.paused:
            self._sink.event(b": ping\r\n\r\n" if self._engine.config.sep == "crlf" else b": ping\n\n")
        self._ping = self._loop.call_later(self._engine.config.ping_s, self._send_ping)

    def _over(self, finish_reason: str = "") -> None:
        if self.phase is Phase.OVER:
            return
        if self.paused:
            self.paused = False
            self._engine.state.paused -= 1
        for handle in (self._handle, self._ping):
            if handle is not None:
                handle.cancel()
        self._handle = self._ping = None
        was, self.phase = self.phase, Phase.OVER
        if self._reading:
            self._reading = False
            assert self._engine.prefill is not None
            self._engine.prefill.leave(self)
        self._engine._left(self, was, finish_reason)


class Engine:
    """Slots and queue. Nothing here knows HTTP."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.state = State()
        wanted = config.prefix_cache_tokens or config.prefill_tokens_per_s
        self.prefill = Prefill(config.prefix_cache_tokens, config.prefill_tokens_per_s) if wanted else None
        self._queue: deque[Job] = deque()
        self._admitting = False

    def submit(self, job: Job) -> None:
        """Start ``job`` now or queue it. FullError when the queue is full."""
        state = self.state
        if self.config.slots and state.running >= self.config.slots:
            if self.config.max_waiting and len(self._queue) >= self.config.max_waiting:
                raise FullError
            self._queue.append(job)
            state.waiting = len(self._queue)
            return
        self._admit(job)

    def _admit(self, job: Job) -> None:
        state = self.state
        state.running += 1
        state.prompt_tokens += job.shape.prompt_tokens
        state.kv_tokens_used += job.shape.prompt_tokens + job.shape.tokens
        job.begin()

    def _left(self, job: Job, was: Phase, finish_reason: str) -> None:
        state = self.state
        if was is Phase.WAITING:
            self._queue.remove(job)
            state.waiting = len(self._queue)
            return
        state.running -= 1
        state.kv_tokens_used -= job.shape.prompt_tokens + job.shape.tokens
        if finish_reason:
            state.finish_reasons[finish_reason] = state.finish_reasons.get(finish_reason, 0) + 1
        if self._admitting:
            return  # a job that was admitted below ended at once: the loop there goes on, the stack does not grow
        self._admitting = True
        try:
            while self._queue and (not self.config.slots or state.running < self.config.slots):
                following = self._queue.popleft()
                state.waiting = len(self._queue)
                self._admit(following)
        finally:
            self._admitting = False
