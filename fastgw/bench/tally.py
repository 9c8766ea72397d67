"""What came of a row's requests, counted while they come; and the row that is told of it.

Owns: which moments a figure lies between. A latency is from the moment at which the request was due to the read that brought
its last byte; in a closed load it is due when it is sent. What failed is counted, and in no latency. Bounded: each answer
leaves some numbers, and of all gaps :data:`MOST_GAPS` are kept.
"""

from __future__ import annotations

from array import array
from math import log
from typing import Final

import msgspec

from fastgw.bench.answer import Answer, Wrong
from fastgw.bench.percentiles import Spread, spread
from fastgw.bench.plan import Plan, Stage

MOST_GAPS: Final = 5_000_000
MOST_POINTS: Final = 600
"""Of a curve or a timeline: a plot has no more room."""
MOST_KINDS: Final = 64
BINS: Final = 40


class Failure(msgspec.Struct):
    kind: str
    count: int
    first: str


class Tokens(msgspec.Struct):
    """``*_told``: by the server's usage, over the answers that have it (``answers_told``); ``texts``: events with text."""

    answers_told: int = 0
    prompt_told: int = 0
    completion_told: int = 0
    texts: int = 0
    texts_of_told: int = 0
    prompt_estimated: int = 0
    differ: int = 0
    """Streams whose usage says another number of tokens than there were events with text."""


class Client(msgspec.Struct):
    """What the measuring cost, and how late it was itself."""

    cpu_s: float = 0.0
    cpu_share: float = 0.0
    late_p99_s: float = 0.0


class Timeline(msgspec.Struct):
    """For plots, thinned out: (seconds into the row, seconds to the first token or to the end)."""

    curve: list[tuple[float, float]] = []
    """TTFT, or latency of what is not streamed: (seconds, share of answers that took no longer)."""
    gaps: list[tuple[float, float, int]] = []
    """Bins of the gaps, in powers: (from, to, how many)."""
    points: list[tuple[float, float]] = []


class Result(msgspec.Struct):
    """One row of a table."""

    name: str
    load: str
    stream: bool
    begun: int
    good: int
    failed: int
    left: int
    """Under way when it was stopped: counted nowhere else."""
    duration_s: float
    rps: float
    tokens_per_s: float
    latency_s: Spread
    ttft_s: Spread
    gap_s: Spread
    tpot_s: Spread
    connect_s: Spread
    connections: int
    redialled: int
    events: int
    coalesced: int
    without_done: int
    without_reason: int
    stalls: int
    stalled: int
    within_slo: int
    goodput: float
    delayed: int
    gaps_left_out: int
    tokens: Tokens
    failures: list[Failure]
    client: Client
    plots: Timeline

    @property
    def status(self) -> str:
        """``ok``, ``high latency``, or what went wrong most."""
        if self.failures:
            return f"{self.failed} failed: {max(self.failures, key=lambda one: one.count).kind}"
        return "ok" if self.good else "no answers"


class Tally:
    """Of one row. Times are those of the connection's clock; ``begin`` is the row's beginning."""

    def __init__(self, plan: Plan, stage: Stage, begin: float) -> None:
        self._plan = plan
        self._stage = stage
        self._begin = self._last = begin
        self._latency, self._ttft, self._gaps, self._tpot = (array("d") for _ in range(4))
        self._connect = array("d")
        self._due = array("d")
        self._failures: dict[str, Failure] = {}
        self._tokens = Tokens()
        self.begun = self.good = self.failed = self.redialled = self.delayed = 0
        self._events = self._coalesced = self._without_done = self._without_reason = 0
        self._stalls = self._stalled = self._within = self._left_out = 0

    def connected(self, seconds: float) -> None:
        self._connect.append(seconds)

    def failure(self, wrong: Wrong, at: float) -> None:
        self.failed += 1
        self._last = max(self._last, at)
        kind = wrong.kind if wrong.kind in self._failures or len(self._failures) < MOST_KINDS else "other"
        self._failures.setdefault(kind, Failure(kind, 0, wrong.detail)).count += 1

    def answered(self, answer: Answer, due: float, at: float, prompt_tokens: int) -> None:
        self.good += 1
        self._last = max(self._last, at)
        latency = at - due
        self._latency.append(latency)
        self._due.append(due - self._begin)
        gaps = answer.gaps
        ttft = tpot = 0.0
        if self._stage.stream:
            ttft = (answer.first_at or at) - due
            self._ttft.append(ttft)
            made = max(answer.completion_tokens, answer.texts)
            if made > 1 and gaps:
                tpot = (answer.last_at - answer.first_at) / (made - 1)
                self._tpot.append(tpot)
            self._events += answer.events
            self._coalesced += answer.coalesced
            self._without_done += not answer.done
            self._without_reason += not answer.finished
        longest = self._note_gaps(gaps)
        self._count(answer, prompt_tokens)
        slo = self._plan.slo
        pairs = ((slo.ttft, ttft), (slo.itl, longest), (slo.tpot, tpot), (slo.e2e, latency))
        self._within += all(not most or found <= most for most, found in pairs)

    def _note_gaps(self, gaps: list[float]) -> float:
        """The longest of them."""
        longest = max(gaps, default=0.0)
        room = MOST_GAPS - len(self._gaps)
        self._gaps.extend(gaps[:room])
        self._left_out += max(0, len(gaps) - room)
        if longest > self._plan.stall_s:
            self._stalled += 1
            self._stalls += sum(gap > self._plan.stall_s for gap in gaps)
        return longest

    def _count(self, answer: Answer, prompt_tokens: int) -> None:
        tokens = self._tokens
        tokens.texts += answer.texts
        tokens.prompt_estimated += prompt_tokens
        if answer.completion_tokens >= 0:
            tokens.answers_told += 1
            tokens.completion_told += answer.completion_tokens
            tokens.prompt_told += max(0, answer.prompt_tokens)
            tokens.texts_of_told += answer.texts
            tokens.differ += self._stage.stream and answer.completion_tokens != answer.texts

    def result(self, connections: int, client: Client) -> Result:
        duration = max(self._last - self._begin, 1e-9)
        tokens = self._tokens
        untold = tokens.texts - tokens.texts_of_told if self._stage.stream else 0
        return Result(
            name=self._stage.name, load=self._stage.kind, stream=self._stage.stream,
            begun=self.begun, good=self.good, failed=self.failed, left=self.begun - self.good - self.failed,
            duration_s=duration, rps=self.good / duration, tokens_per_s=(tokens.completion_told + untold) / duration,
            latency_s=spread(self._latency), ttft_s=spread(self._ttft), gap_s=spread(self._gaps), tpot_s=spread(self._tpot),
            connect_s=spread(self._connect), connections=connections, redialled=self.redialled,
            events=self._events, coalesced=self._coalesced, without_done=self._without_done,
            without_reason=self._without_reason,
            stalls=self._stalls, stalled=self._stalled, within_slo=self._within, goodput=self._within / duration,
            delayed=self.delayed, gaps_left_out=self._left_out, tokens=tokens,
            failures=sorted(self._failures.values(), key=lambda one: -one.count), client=client, plots=self._plots(),
        )  # fmt: skip

    def _plots(self) -> Timeline:
        values = self._ttft if self._stage.stream else self._latency
        if not values:
            return Timeline()
        step = max(1, -(-len(values) // MOST_POINTS))
        points = sorted(zip(self._due, values, strict=True))[::step]
        return Timeline(curve(values), bins(self._gaps), points)


def curve(values: array[float]) -> list[tuple[float, float]]:
    """The share of ``values`` that are no greater, at so many of them that a plot can show, the least and the greatest too."""
    ordered = sorted(values)
    n = len(ordered)
    ranks = range(1, n + 1) if n <= MOST_POINTS else [1 + at * (n - 1) // (MOST_POINTS - 1) for at in range(MOST_POINTS)]
    return [(ordered[rank - 1], rank / n) for rank in ranks]


def bins(gaps: array[float]) -> list[tuple[float, float, int]]:
    """How many gaps lie where, in :data:`BINS` of equal ratio between the shortest and the longest, from 10 µs on."""
    if not gaps:
        return []
    least, most = max(min(gaps), 1e-5), max(max(gaps), 2e-5)
    least = min(least, most / 1.5)
    ratio = (most / least) ** (1 / BINS)
    edges = [least * ratio**at for at in range(BINS + 1)]
    counts = [0] * BINS
    for gap in gaps:
        at = int(log(gap / least) / log(ratio)) if gap > least else 0
        counts[min(at, BINS - 1)] += 1
    return [(low, high, count) for low, high, count in zip(edges, edges[1:], counts, strict=False)]
