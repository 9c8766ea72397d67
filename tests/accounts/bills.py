"""What a case must cost, by the words of ``docs/limits.md``: between what and what, where it is an estimate.

Owns: those rules, worked out from what the engine did and what of it came through. Must never: ask the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.accounts.answers import cut, packed, request_of
from tests.accounts.cases import GENERATE, OWN, PAINT, RANK, SILENT, SPEAK, SPEECH, TOKENIZE, UNSAID, Case
from tests.accounts.figures import NAMED, PROMPT, Answer, Figures

Span = tuple[int, int]
"""At least, at most."""

SECOND_TOKENS = 10
"""What a second of audio is taken for, where that is the engine's measure."""


@dataclass(frozen=True, slots=True)
class Bill:
    """``estimated``: whether it must be marked so (None = either is true). ``cached`` and ``reasoning``: as the engine said."""

    prompt: Span
    completion: Span
    cached: int = 0
    reasoning: int = 0
    estimated: bool | None = False
    requests: Span = (1, 1)


NOTHING = Bill((0, 0), (0, 0))


PRICES = {"input": "7", "cached": "3", "output": "11"}
"""Of a million tokens: so many thousand billionths for one."""


def cost_of(prompt: int, completion: int, cached: int) -> int:
    """What that costs, in billionths: of the prompt, what the engine had at hand costs less."""
    return ((prompt - cached) * 7 + cached * 3 + completion * 11) * 1000


def exactly(figures: Figures, estimated: bool | None = False) -> Bill:
    prompt, completion, cached, reasoning = figures
    return Bill((prompt, prompt), (completion, completion), max(cached, 0), max(reasoning, 0), estimated)


def tokens(size: int) -> int:
    return -(-size // 4)


def prompt_estimate(case: Case) -> Span:
    """A token for four bytes of all that becomes prompt: no less than its text has, no more than the whole body."""
    body, _ = request_of(case)
    most = tokens(len(body)) + 1
    if case.api in RANK:
        # The query ("rivers") is read for each of two documents, with four marks a pair.
        most += 2 + 2 * 4
    least = tokens(len(PROMPT)) if case.api in GENERATE | RANK else 0
    return least, most


def bills_of(case: Case, answer: Answer) -> list[Bill]:
    """What it may cost; more than one where either is honest."""
    if case.api == TOKENIZE:
        return [Bill((0, 0), (0, 0), requests=(0, 1))]
    if case.ending in ("died before the head", "refused", "failed"):
        return [NOTHING]
    prompt = prompt_estimate(case)
    unsure = None if case.api in PAINT | SPEAK | {SPEECH} else True
    if case.ending in UNSAID or case.api in SILENT:
        return [Bill(prompt, (0, 0), estimated=unsure)]
    pieces = cut(case, answer)
    passed = sum(piece.tokens for piece in pieces)
    seen = tokens(sum(len(piece.data) for piece in pieces))
    if case.coding == "gzip unasked":
        # Packed, a byte may be a token.
        seen = max(seen, sum(map(len, packed([piece.data for piece in pieces]))))
    said = pieces[-1].said if pieces else None
    if case.fields == "seconds" and case.place != "nowhere" and case.ending == "whole" and case.coding != "gzip unasked":
        told = SECOND_TOKENS * answer.seconds
        return [Bill((told, told), (0, passed), estimated=True), Bill((0, 0), (told, told), estimated=True)]
    by_size = _by_size(case, answer, seen)
    if case.coding == "gzip unasked":
        # It may be counted by what can be seen of it, or be unpacked to be read.
        guess = Bill(prompt, by_size, estimated=unsure)
        return [guess, *([exactly(said)] if said is not None else _unsaid(case, prompt, passed, by_size, unsure))]
    if said is None:
        return _unsaid(case, prompt, passed, by_size, unsure)
    if case.api in GENERATE and not said.prompt:
        # Where text is generated 0 is no figure: the prompt is estimated.
        counted = said.completion if not case.stream or case.ending == "whole" else max(passed, said.completion)
        return [Bill(prompt, (min(said.completion, counted), counted), estimated=True)]
    if case.ending == "whole" or not case.stream:
        return [exactly(said)]
    at = len(pieces) - 1
    while at and pieces[at].said is pieces[at - 1].said:
        at -= 1
    if case.ending == "left midway" and pieces[at].extra and not case.asks_usage:
        # (That chunk is not his: he has seen all that was, and may have left before it came.)
        return [exactly(said, None), *_unsaid(case, prompt, passed, by_size, unsure)]
    behind = any(piece.tokens for piece in pieces[at + 1 :])
    if behind and passed > said.completion:
        guess = Bill((said.prompt, said.prompt), (passed, passed), max(said.cached, 0), max(said.reasoning, 0), True)
        # (Nought at the beginning is no figure yet: to take it for one, or not, is both honest.)
        return [guess, *(_unsaid(case, prompt, passed, by_size, unsure) if not said.prompt else [])]
    return [exactly(said, None)]


def _unsaid(case: Case, prompt: Span, passed: int, by_size: Span, estimated: bool | None) -> list[Bill]:
    if case.stream:
        return [Bill(prompt, (passed, passed), estimated=estimated if not passed else True)]
    return [Bill(prompt, by_size, estimated=estimated)]


def _by_size(case: Case, answer: Answer, seen: int) -> Span:
    """What an answer may count for that nobody counted: no more than its bytes, or than it was allowed to be."""
    if case.api not in GENERATE:
        return 0, 0
    # (How long an answer may be is not read of a body in an engine's own API.)
    most = min(seen, NAMED) if case.named and case.api not in OWN else seen
    # (200 bytes are its frame.)
    least = 1 if case.ending == "whole" and answer.truth.completion and seen > 50 else 0
    return least, most
