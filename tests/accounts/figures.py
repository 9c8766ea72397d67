"""What an engine of a case has used, how it writes JSON, and the member in which it says so.

Owns: the figures that are true, drawn for each case; the shapes of usage in each API; and what only looks like usage, in a
text or an object beside it. Must never: share a line with fastgw.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tests.accounts.cases import GENERATE, MESSAGES, OLLAMA, PAINT, RESPONSES, SPEAK, TGI, Case

MODEL: Final = "sim"
NAMED: Final = 256
"""How long an answer may be where the client says so; none here is longer."""

PROMPT: Final = "Tell me about rivers, and about the sea that they run into. " * 40
"""What each request has to say: an engine counts a token for four of its bytes at most."""

_FALSE: Final = {
    "prompt_tokens": 90_001, "completion_tokens": 90_002, "total_tokens": 180_003,
    "input_tokens": 90_001, "output_tokens": 90_002,
}  # fmt: skip
_FALSE_OWN: Final = {"prompt_eval_count": 90_001, "eval_count": 90_002}  # (Ollama's)
_FALSE_TEXT: Final = '","usage":' + json.dumps(_FALSE, separators=(",", ":")) + ',"x":"'
_FALSE_TEXTS: Final = {
    OLLAMA: '","done":true,"prompt_eval_count":90001,"eval_count":90002,"x":"',
    TGI: '","details":{"input_length":90001,"generated_tokens":90002},"x":"',
}


class Figures(NamedTuple):
    """What was used; -1 = not said. ``prompt`` has the ``cached`` ones in it, ``completion`` the ``reasoning`` ones."""

    prompt: int = -1
    completion: int = -1
    cached: int = -1
    reasoning: int = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer's body: the pieces of text in it, what the engine has said it used once this has come, and
    whether it is the chunk that is there for usage alone."""

    data: bytes
    tokens: int = 0
    said: Figures | None = None
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    content_type: str
    pieces: list[Piece]
    truth: Figures
    stop: int  # after so many pieces whoever ends it midway does so
    seconds: int = 0  # of audio, where that is the engine's measure


class Writer:
    """One case's chances, and its way to write JSON."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.chance = random.Random(str(case))
        self.separators = self.chance.choice([(",", ":"), (", ", ": ")])
        self.line = "\n" if self.chance.random() < 0.7 else "\r\n"
        self.truth = self._truth()
        self.seconds = self.chance.randint(3, 40) if case.fields == "seconds" else 0

    def _truth(self) -> Figures:
        case, chance = self.case, self.chance
        prompt = chance.randint(30, len(PROMPT) // 4)
        if case.api not in GENERATE | SPEAK | PAINT:
            return Figures(prompt, 0)
        completion = 0 if case.fields == "zeros" else chance.randint(20, NAMED)
        cached = reasoning = -1
        if case.fields in ("details", "reasoning apart", "cache beside", "timings", "zeros") and case.api not in PAINT:
            cached = 0 if case.fields == "zeros" else chance.randint(1, prompt - 1)
        if case.fields in ("details", "zeros", "reasoning apart") and case.api in GENERATE - {MESSAGES}:
            reasoning = chance.randint(0, completion)
        return Figures(prompt, completion, cached, reasoning)

    def json(self, value: Any) -> str:
        text = json.dumps(value, separators=self.separators, ensure_ascii=False)
        return text.replace('\\"', "\\u0022") if self.case.lookalike == "as escapes" else text

    def text(self, text: str) -> str:
        """``text``, with what only looks like usage in it."""
        look = self.case.lookalike
        false = _FALSE_TEXTS.get(self.case.api, _FALSE_TEXT)
        if look in ("in a text", "as escapes"):
            return text + false
        return text + "\\\\" + false + "\\" if look == "behind backslashes" else text

    def aside(self) -> dict[str, Any]:
        """Members of an object that is not the answer itself."""
        if not self._in_object():
            return {}
        own = _FALSE_OWN if self.case.api == OLLAMA else {}
        return {"usage": _FALSE, "timings": {"prompt_n": 90_001, "predicted_n": 90_002}, **own}

    def _in_object(self) -> bool:
        return self.case.lookalike == "in an object"

    def tokens(self, text: str) -> int:
        """What a piece of a stream counts: one, or, where it is longer than a token is, one for four of its bytes."""
        size = len(self.json(text).encode()) - 2
        return 1 if size <= 32 else -(-size // 4)

    def filler(self, size: int) -> str:
        return self.text(" ".join(f"word{at}" for at in range(size // 9)))

    # --- what the engine says it used
    def usage(self, figures: Figures) -> tuple[str, Any]:
        """The member's name, and its value."""
        case = self.case
        prompt, completion, cached, reasoning = figures
        fields = case.fields
        if fields == "null":
            return "usage", None
        if fields == "timings":
            hit = max(cached, 0)
            return "timings", {"cache_n": hit, "prompt_n": prompt - hit, "prompt_ms": 3.25, "predicted_n": completion}
        if fields == "seconds":
            return "usage", {"type": "duration", "seconds": self.seconds}
        if fields == "total":
            return "usage", {"total_tokens": prompt}
        if fields == "prompt and total":
            return "usage", {"prompt_tokens": prompt, "total_tokens": prompt + completion}
        if fields == "cache beside":
            read = cached // 2
            return "usage", {
                "input_tokens": prompt - cached,
                "cache_creation_input_tokens": cached - read,
                "cache_read_input_tokens": read,
                "output_tokens": completion,
            }
        asks = "input" if case.api in (RESPONSES, MESSAGES) or case.api in SPEAK | PAINT else "prompt"
        says = "output" if asks == "input" else "completion"
        whole = completion
        if fields == "reasoning apart":
            completion -= reasoning
        elif fields == "no prompt":
            prompt = 0
        number = float if fields == "floats" else int
        value: dict[str, Any] = {f"{asks}_tokens": number(prompt), f"{says}_tokens": number(completion)}
        if case.api != MESSAGES:
            value["total_tokens"] = number(prompt + whole)
        if case.api in SPEAK:
            value = {"type": "tokens", **value, "input_token_details": {"text_tokens": 0, "audio_tokens": prompt}}
        elif case.api in PAINT:
            value["input_tokens_details"] = {"text_tokens": prompt, "image_tokens": 0}
        elif cached >= 0:
            if case.api == MESSAGES:
                return "usage", {**value, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
            value[f"{asks}_tokens_details"] = {"cached_tokens": number(cached), "audio_tokens": 0}
            value[f"{says}_tokens_details"] = {"reasoning_tokens": number(reasoning)}
        return "usage", value

    def counts(self, figures: Figures) -> list[tuple[str, Any]]:
        """The same in an API that is an engine's own: members of the answer, or of its details."""
        prompt, completion = (None, None) if self.case.fields == "null" else figures[:2]
        if self.case.api == OLLAMA:
            return [("prompt_eval_count", prompt), ("eval_count", completion)]
        return [("finish_reason", "length"), ("generated_tokens", completion), ("input_length", prompt)]

    def told(self, figures: Figures) -> Figures | None:
        """What of the figures the engine's member tells."""
        fields = self.case.fields
        if fields in ("null", "seconds"):
            return None
        if fields == "no prompt":
            return figures._replace(prompt=0)
        if fields == "cache beside":  # what it wrote into its cache was not read from there
            return figures._replace(cached=figures.cached // 2, reasoning=-1)
        return figures
