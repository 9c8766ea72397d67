"""The cases of the accountant's table: what can differ about a request and its answer, and which of it can meet.

Owns: the axes, the rules, and the choice: enough cases that any two values which can meet do so in one of them. Must never:
know what is right for a case (``answers`` knows what the engine did, ``bills`` what that costs), or name a case by hand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "chat", "completions", "responses", "messages"
EMBEDDINGS, RERANK, RERANK_V2, SCORE = "embeddings", "rerank", "rerank-v2", "score"
TRANSCRIPTION, TRANSLATION = "transcription", "translation"
IMAGES, EDITS = "images", "edits"
SPEECH, TOKENIZE = "speech", "tokenize"
OLLAMA, TGI = "ollama", "tgi"

PATHS: Final = {
    CHAT: "/v1/chat/completions",
    COMPLETIONS: "/v1/completions",
    RESPONSES: "/v1/responses",
    MESSAGES: "/v1/messages",
    EMBEDDINGS: "/v1/embeddings",
    RERANK: "/v1/rerank",
    RERANK_V2: "/v2/rerank",
    SCORE: "/v1/score",
    TRANSCRIPTION: "/v1/audio/transcriptions",
    TRANSLATION: "/v1/audio/translations",
    IMAGES: "/v1/images/generations",
    EDITS: "/v1/images/edits",
    SPEECH: "/v1/audio/speech",
    TOKENIZE: "/tokenize",
    OLLAMA: "/api/chat",
    TGI: "/generate",
}
OWN: Final = frozenset({OLLAMA, TGI})
"""APIs that are an engine's own."""
GENERATE: Final = frozenset({CHAT, COMPLETIONS, RESPONSES, MESSAGES}) | OWN
RANK: Final = frozenset({EMBEDDINGS, RERANK, RERANK_V2, SCORE})
SPEAK: Final = frozenset({TRANSCRIPTION, TRANSLATION})
PAINT: Final = frozenset({IMAGES, EDITS})
UPLOADS: Final = SPEAK | {EDITS}
SILENT: Final = frozenset({SPEECH, TOKENIZE})
"""They report nothing."""

NOWHERE: Final = "nowhere"
STREAM_PLACES: Final = {
    CHAT: ("extra chunk", "last chunk", "every chunk", "early and late", NOWHERE),
    COMPLETIONS: ("extra chunk", "last chunk", "every chunk", NOWHERE),
    RESPONSES: ("completed", "long completed", "early and late", NOWHERE),
    MESSAGES: ("early and late", "last chunk", NOWHERE),
    TRANSCRIPTION: ("last chunk", NOWHERE),
    OLLAMA: ("last chunk", "long last chunk", NOWHERE),
    TGI: ("last chunk", "long last chunk", NOWHERE),
}
PLAIN_PLACES: Final = ("first", "last", "before data", "behind data", "amid data", "before logprobs", NOWHERE)

OF_GENERATING: Final = {
    CHAT: ("prompt", "prompt and total", "details", "reasoning apart", "no prompt", "timings", "floats", "zeros", "null"),
    COMPLETIONS: ("prompt", "details", "no prompt", "timings", "floats", "zeros", "null"),
    RESPONSES: ("input", "details", "reasoning apart", "floats", "zeros", "null"),
    MESSAGES: ("input", "cache beside", "no prompt", "zeros", "null"),
    OLLAMA: ("counts", "null"),
    TGI: ("counts", "null"),
}
FIELDS: Final = {
    **OF_GENERATING,
    EMBEDDINGS: ("prompt and total", "total", "floats", "null"),
    RERANK: ("prompt and total", "total", "null"),
    RERANK_V2: ("total", "floats", "null"),
    SCORE: ("prompt and total", "total", "null"),
    TRANSCRIPTION: ("input", "seconds", "null"),
    TRANSLATION: ("input", "seconds", "null"),
    IMAGES: ("input", "details", "null"),
    EDITS: ("input", "null"),
    SPEECH: ("null",),
    TOKENIZE: ("null",),
}

WHOLE = "whole"
LEFT = ("left before the head", "left after the head", "left midway")
DIED = ("died before the head", "died midway")
REFUSED = ("refused", "failed")
ERROR_EVENT = "error event"
UNSAID: Final = frozenset({"left before the head", "left after the head", "died before the head", *REFUSED})
MIDWAY: Final = frozenset({"left midway", "died midway", ERROR_EVENT})

AXES: Final[dict[str, tuple[Any, ...]]] = {
    "api": tuple(PATHS),
    "stream": (False, True),
    "place": tuple(dict.fromkeys([*PLAIN_PLACES, *(place for places in STREAM_PLACES.values() for place in places)])),
    "fields": tuple(dict.fromkeys(name for names in FIELDS.values() for name in names)),
    "ending": (WHOLE, *LEFT, *DIED, *REFUSED, ERROR_EVENT),
    "limited": (False, True),
    "named": (True, False),  # whether the client says how long the answer may be
    "asks_usage": (False, True),  # stream_options.include_usage
    "coding": ("none", "gzip asked for", "gzip unasked", "identity"),
    "lookalike": ("none", "in a text", "behind backslashes", "as escapes", "in an object"),
    "says": ("text", "tool call", "reasoning", "long texts", "choices"),  # what the pieces of a stream are pieces of
    "framing": ("length", "chunked", "close"),
    "split": ("whole", "pieces", "at the figures"),
}


@dataclass(frozen=True, slots=True)
class Case:
    api: str
    stream: bool
    place: str
    fields: str
    ending: str
    limited: bool
    named: bool
    asks_usage: bool
    coding: str
    lookalike: str
    says: str
    framing: str
    split: str

    @property
    def path(self) -> str:
        return PATHS[self.api] + ("_stream" if self.api == TGI and self.stream else "")

    def __str__(self) -> str:
        said = [self.api, "stream" if self.stream else "plain", self.place, self.fields, self.ending]
        said += [self.coding] if self.coding != "none" else []
        said += [self.lookalike] if self.lookalike != "none" else []
        said += [self.says] if self.says != "text" else []
        said += [name for name, on in (("limited", self.limited), ("unnamed", not self.named), ("asks", self.asks_usage)) if on]
        return ",".join([*said, self.framing, self.split]).replace(" ", "-")


def possible(case: Case) -> bool:
    """Whether such a request and such an answer exist."""
    api, stream = case.api, case.stream
    places = STREAM_PLACES.get(api, ()) if stream else PLAIN_PLACES
    if case.place not in places or case.fields not in FIELDS[api]:
        return False
    if (case.place == NOWHERE) != (case.fields == "null") and (api in SILENT or case.place == NOWHERE):
        return False  # what is said nowhere has no fields; "null" elsewhere is the member with that value
    if case.place == "before logprobs" and api not in GENERATE:
        return False
    if api in OWN and (case.says != "text" or (not stream and case.place not in ("last", NOWHERE))):
        return False
    if api == OLLAMA and not stream and case.ending in MIDWAY and case.place != NOWHERE:
        return False  # its counts are members of their own: where one has come and another has not stands in test_dialects
    if case.place == "every chunk" and case.fields == "null":
        return False
    if case.fields == "timings" and case.place not in ("first", "last", "behind data", "last chunk", "every chunk"):
        return False  # llama.cpp's, and it has no extra chunk unless it is asked for one
    if case.fields == "prompt and total" and case.place in ("every chunk", "early and late"):
        return False
    if case.asks_usage and not (stream and api in (CHAT, COMPLETIONS)):
        return False
    if case.asks_usage and case.fields in ("timings", "null"):
        return False
    if not case.named and api not in GENERATE - {MESSAGES}:
        return False
    if case.says != "text" and not (stream and api in GENERATE - {COMPLETIONS}):
        return False
    if case.says == "choices" and api != CHAT:
        return False
    if case.ending == ERROR_EVENT and not stream:
        return False
    if case.framing == "length" and stream:
        return False
    if case.coding != "none" and (case.ending != WHOLE or api == SPEECH):
        return False
    if case.ending in UNSAID and (case.place, case.split, case.lookalike) != (NOWHERE, "whole", "none"):
        return False  # no answer, so nothing in it
    if api == SPEECH and (case.lookalike != "none" or case.ending in MIDWAY):
        return False
    return not (case.split == "at the figures" and case.place == NOWHERE)


def drawn(seed: int) -> Iterator[Case]:
    """Possible cases without end, each value as likely as its rules leave it."""
    chance = random.Random(seed)
    apis = [*AXES["api"], *sorted(GENERATE), *sorted(GENERATE)]
    while True:
        values = {name: chance.choice(axis) for name, axis in AXES.items()}
        api = values["api"] = chance.choice(apis)
        stream = values["stream"] = values["stream"] and api in STREAM_PLACES
        values["place"] = chance.choice(STREAM_PLACES[api] if stream else PLAIN_PLACES)
        values["fields"] = chance.choice(FIELDS[api])
        if not stream:
            values["says"] = "text"
        if values["ending"] in UNSAID:
            values.update(place=NOWHERE, fields="null", split="whole", lookalike="none")
        case = Case(**values)
        if possible(case):
            yield case


def _meetings(case: Case) -> frozenset[tuple[Any, ...]]:
    """Which values meet in a case. What an answer says and how it ends means something else in each API, streamed or not:
    these go as threes."""
    values = [(name, getattr(case, name)) for name in AXES]
    way = (case.api, case.stream)
    threes: list[tuple[Any, ...]] = [(way, case.ending, case.place), (way, case.fields, case.place)]
    threes += [(way, case.ending, case.limited), (way, case.says, case.place)]
    if case.place == "long last chunk":
        threes.append((way, case.place, case.lookalike))  # (there each reader looks for its own names)
    return frozenset([*combinations(values, 2), *threes])


def chosen(seed: int = 10, draws: int = 12_000) -> list[Case]:
    """Cases in which all values meet that can, as few as a greedy choice finds; the same ones each time."""
    pool = [(case, _meetings(case)) for _, case in zip(range(draws), drawn(seed), strict=False)]
    chance = random.Random(seed)
    missing = frozenset().union(*(meetings for _, meetings in pool))
    found: list[Case] = []
    while missing:
        case, meetings = max(chance.sample(pool, 150), key=lambda one: len(one[1] & missing))
        if new := meetings & missing:
            missing -= new
            found.append(case)
        elif len(found) > 50:
            pool = [one for one in pool if one[1] & missing]
            pool = pool if len(pool) >= 150 else pool * (150 // len(pool) + 1) if pool else pool
    return found
