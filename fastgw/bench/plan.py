"""What is to be measured: whom to ask, what, how often, and what counts as good. Judged once, then frozen."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from fastgw.bench.arrivals import Arrival
from fastgw.config import EngineAddress

Api = Literal["chat", "completions"]
PATHS: Final[dict[Api, str]] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

MAX_REQUESTS: Final = 1_000_000
"""Of one row: each keeps some numbers until the end."""
MAX_WORKERS: Final = 10_000
MAX_PROMPT_TOKENS: Final = 1_000_000
MAX_TURNS: Final = 1_000

PLAIN_WORKERS: Final = (1, 4, 8, 16)
STREAM_WORKERS: Final = (1, 2, 4, 8, 16, 32)
PLAIN_S: Final = 5.0
STREAM_EACH: Final = 3
"""Requests of each worker, where nobody says how many: as many as the tables that these follow had."""

SLO_NAMES: Final = ("ttft", "itl", "tpot", "e2e")


class Slo(msgspec.Struct, frozen=True):
    """What makes an answer good, in seconds; 0 = not asked for. ``itl``: its longest gap; ``tpot``: its mean time per token
    after the first; ``e2e``: all of it."""

    ttft: float = 0.0
    itl: float = 0.0
    tpot: float = 0.0
    e2e: float = 0.0

    def __bool__(self) -> bool:
        return any((self.ttft, self.itl, self.tpot, self.e2e))

    @property
    def text(self) -> str:
        return ", ".join(f"{name} {getattr(self, name):g} s" for name in SLO_NAMES if getattr(self, name))


def slo(text: str) -> Slo:
    """``ttft=0.5,itl=0.05``; raises ``ValueError`` in words."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in SLO_NAMES or not equals or name in found or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value):
            raise ValueError(f"write it as NAME=SECONDS,..., each name once: {', '.join(SLO_NAMES)}")
        found[name] = float(value)
        if not found[name]:
            raise ValueError("0 seconds are nothing that can be kept")
    return Slo(**found)


class Plan(msgspec.Struct, frozen=True):
    """What holds for all rows."""

    address: EngineAddress
    model: str
    api: Api = "chat"
    key: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    prompt: str = "hi"
    prompt_tokens: int = 0
    """0: ``prompt`` as it is."""
    turn_tokens: int = 0
    """Of a session's later turns; 0: as many as its first."""
    shared_tokens: int = 0
    max_tokens: int = 32
    extra: dict[str, Any] = {}
    usage: bool = True
    turns: int = 1
    think_s: float = 0.0
    seed: int = 1
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    stall_s: float = 1.0
    high_ttft_s: float = 1.0
    slo: Slo = Slo()
    warmup: int = 1
    in_flight: int = 1_000
    ca_file: str = ""
    insecure: bool = False
    traced: bool = False
    """Lengths are a trace's."""

    def tokens_of(self, turn: int) -> int:
        """What a user says in that turn; 0 = ``prompt``."""
        return self.turn_tokens if turn and self.turn_tokens else self.prompt_tokens

    @property
    def lengthened(self) -> bool:
        """Whether members of the body's own say how long an answer may be."""
        return not self.extra.keys().isdisjoint(("max_tokens", "max_completion_tokens", "n", "best_of"))

    @property
    def url(self) -> str:
        return self.address.url + PATHS[self.api]


class Stage(msgspec.Struct, frozen=True):
    """One row of a table: a load. ``workers`` of a closed one, else ``rate`` or ``trace``; ``requests`` and ``duration_s``
    bound it, 0 = do not."""

    stream: bool
    workers: int = 0
    rate: float = 0.0
    trace: tuple[Arrival, ...] = ()
    requests: int = 0
    duration_s: float = 0.0

    @property
    def name(self) -> str:
        return str(self.workers) if self.workers else f"{self.rate:g}/s" if self.rate else "trace"

    @property
    def kind(self) -> str:
        return "closed" if self.workers else "poisson" if self.rate else "trace"
