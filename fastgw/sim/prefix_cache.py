"""What an engine does with prompts: reads one after the other, but for their beginnings that it has at hand.

A prompt is cut into blocks of :data:`BLOCK_BYTES`; each is known by its hash and that of all before it, so that what two
prompts have in common is how many blocks they begin with alike, as in the prefix cache of vLLM and the tree of SGLang. Blocks
are kept up to a ceiling: those that were not used for longest go first, and of one prompt its end before its beginning.

Owns: which blocks are at hand, and whose prompt is being read. Must never: change what an answer says. Invariant: a job that
waits here is told once that its prompt is read, or has left.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, Protocol

from fastgw.sim.text import BYTES_PER_TOKEN

BLOCK_TOKENS: Final = 64
BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN


def blocks_of(model: str, prompt: bytes) -> tuple[int, ...]:
    """The whole blocks of a prompt, each as a number that stands for all up to its end."""
    before = hash(model)
    found = []
    for at in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
        before = hash((before, prompt[at : at + BLOCK_BYTES]))
        found.append(before)
    return tuple(found)


class PrefixCache:
    """Blocks of prompts, ``most_tokens`` together at the most; 0 keeps none."""

    __slots__ = ("_held", "_most")

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens // BLOCK_TOKENS
        self._held: OrderedDict[int, None] = OrderedDict()  # the one that goes first is first

    @property
    def tokens(self) -> int:
        return len(self._held) * BLOCK_TOKENS

    def found(self, blocks: Sequence[int]) -> int:
        """How many tokens of a prompt are at hand."""
        held = self._held
        for at, block in enumerate(blocks):
            if block not in held:
                return at * BLOCK_TOKENS
        return len(blocks) * BLOCK_TOKENS

    def keep(self, blocks: Sequence[int]) -> None:
        """The prompt has been read."""
        held = self._held
        for block in reversed(blocks[: self._most]):
            held[block] = None
            held.move_to_end(block)
        while len(held) > self._most:
            held.popitem(last=False)


class Reading(Protocol):
    """A job whose prompt is to be read."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def prompt_tokens(self) -> int: ...
    def read(self, cached: int) -> None:
        """The prompt has been read, so many tokens of it without any work."""


class Prefill:
    """Reads prompts in the order in which they come, ``tokens_per_s``; 0 reads each at once (what it takes is the job's)."""

    __slots__ = ("_at", "_cached", "_due_s", "_handle", "_loop", "_rate", "_waiting", "cache")

    def __init__(self, most_tokens: int, tokens_per_s: float) -> None:
        self.cache = PrefixCache(most_tokens)
        self._rate = tokens_per_s
        self._waiting: deque[Reading] = deque()
        self._at: Reading | None = None
        self._cached = 0
        self._due_s = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def take(self, job: Reading) -> None:
        if not self._rate:
            cached = self.cache.found(job.blocks)
            self.cache.keep(job.blocks)
            job.read(cached)
            return
        self._loop = self._loop or asyncio.get_running_loop()
        self._waiting.append(job)
        if self._at is None:
            self._due_s = time.monotonic()
            self._next()

    def leave(self, job: Reading) -> None:
        """Its client has gone: what it was to be read is not. (What is read of it by now is lost.)"""
        if job is not self._at:
            self._waiting.remove(job)
            return
        assert self._handle is not None
        assert self._loop is not None
        self._handle.cancel()
        self._at = self._handle = None
        self._due_s = time.monotonic()
        self._next()

    def _next(self) -> None:
        """Begin with the next prompt, at the moment at which the one before was through: a late timer costs no time twice."""
        if not self._waiting:
            return
        assert self._loop is not None
        job = self._at = self._waiting.popleft()
        self._cached = self.cache.found(job.blocks)
        self._due_s += (job.prompt_tokens - self._cached) / self._rate
        self._handle = self._loop.call_later(max(0.0, self._due_s - time.monotonic()), self._through)

    def _through(self) -> None:
        job, cached = self._at, self._cached
        assert job is not None
        self._at = self._handle = None
        self.cache.keep(job.blocks)
        self._next()
        job.read(cached)
