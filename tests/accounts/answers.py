"""What an honest engine does in a case: the request that it gets, the answer that it writes, and what is true of it.

Owns: the shapes of requests, answers and events of each API, and where in them an engine says what it used. An answer is a
list of pieces, so that it can end between any two of them; each says what has been produced, and told, by then. Must never:
share a line with fastgw, or say anything that is not true.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tests.accounts.cases import (
    CHAT,
    COMPLETIONS,
    EDITS,
    EMBEDDINGS,
    ERROR_EVENT,
    GENERATE,
    IMAGES,
    MESSAGES,
    MIDWAY,
    NOWHERE,
    PAINT,
    RERANK,
    RERANK_V2,
    RESPONSES,
    SCORE,
    SPEAK,
    SPEECH,
    TOKENIZE,
    UPLOADS,
    Case,
)

MODEL: Final = "sim"
NAMED: Final = 64
"""How long an answer may be where the client says so; none here is longer."""

PROMPT: Final = "Tell me about rivers, and about the sea that they run into. " * 40
BOUNDARY: Final = "a-boundary-of-this-form"
LONG_BYTES: Final = 14_000  # more than anybody would keep of an answer's end
LOGPROBS_BYTES: Final = 100_000
LONG_EVENT_BYTES: Final = 80_000

_FALSE: Final = {
    "prompt_tokens": 90_001, "completion_tokens": 90_002, "total_tokens": 180_003,
    "input_tokens": 90_001, "output_tokens": 90_002,
}  # fmt: skip
_FALSE_TEXT: Final = '","usage":' + json.dumps(_FALSE, separators=(",", ":")) + ',"x":"'


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


class _Writer:
    """One case's chances, and its way to write JSON."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.chance = random.Random(str(case))
        self._separators = self.chance.choice([(",", ":"), (", ", ": ")])
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
        if case.fields in ("details", "cache beside", "timings", "zeros") and case.api not in PAINT:
            cached = 0 if case.fields == "zeros" else chance.randint(1, prompt - 1)
        if case.fields in ("details", "zeros") and case.api in GENERATE - {MESSAGES}:
            reasoning = chance.randint(0, completion)
        return Figures(prompt, completion, cached, reasoning)

    def json(self, value: Any) -> str:
        text = json.dumps(value, separators=self._separators, ensure_ascii=False)
        return text.replace('\\"', "\\u0022") if self.case.lookalike == "as escapes" else text

    def text(self, text: str) -> str:
        """``text``, with what only looks like usage in it."""
        look = self.case.lookalike
        if look in ("in a text", "as escapes"):
            return text + _FALSE_TEXT
        return text + "\\\\" + _FALSE_TEXT + "\\" if look == "behind backslashes" else text

    def aside(self) -> dict[str, Any]:
        """Members of an object that is not the answer itself."""
        return {"usage": _FALSE, "timings": {"prompt_n": 90_001, "predicted_n": 90_002}} if self._in_object() else {}

    def _in_object(self) -> bool:
        return self.case.lookalike == "in an object"

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
            value = {"cache_n": hit, "prompt_n": prompt - hit, "prompt_ms": 3.25, "predicted_n": completion, "predicted_ms": 9.5}
            return "timings", value
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
        number = float if fields == "floats" else int
        value = {f"{asks}_tokens": number(prompt), f"{says}_tokens": number(completion)}
        if case.api != MESSAGES:
            value["total_tokens"] = number(prompt + completion)
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

    def told(self, figures: Figures) -> Figures | None:
        """What of the figures the engine's member tells."""
        fields = self.case.fields
        if fields in ("null", "seconds"):
            return None
        if fields == "cache beside":  # what it wrote into its cache was not read from there
            return figures._replace(cached=figures.cached // 2, reasoning=-1)
        return figures


def answer_of(case: Case) -> Answer:
    """The engine's whole answer in this case, the same one each time."""
    writer = _Writer(case)
    if case.api == SPEECH:
        noise = random.Random(1).randbytes(3000)
        return Answer("audio/mpeg", [Piece(noise)], writer.truth, 1)
    pieces = list(_events(writer) if case.stream else _document(writer))
    if case.stream:
        texts = sum(piece.tokens for piece in pieces)
        stop = seen = 0
        while seen < max(1, texts // 2) and stop < len(pieces) - 1:
            seen += pieces[stop].tokens
            stop += 1
    else:
        stop = writer.chance.randint(1, len(pieces) - 1)
    if case.ending == ERROR_EVENT:
        pieces[stop:] = [Piece(_error_event(case, writer), 0, pieces[stop - 1].said)]
        stop += 1
    return Answer("text/event-stream" if case.stream else "application/json", pieces, writer.truth, stop, writer.seconds)


# --- plain answers


def _document(writer: _Writer) -> Iterator[Piece]:
    case = writer.case
    place = case.place
    long = LONG_BYTES if place.endswith("data") else 60
    members: list[tuple[str, Any]] = [("id", "answer-1"), ("model", MODEL), *_core(writer, long)]
    if aside := writer.aside():
        members[1:1] = [("metadata", aside)]
    told: list[tuple[str, Any]] = [] if place == NOWHERE else [writer.usage(writer.truth)]
    if place in ("first", "before data"):
        members = told + members
    elif place == "amid data":
        members += [*told, ("prompt_text", writer.filler(LONG_BYTES))]
    elif place == "before logprobs":
        members += [*told, ("prompt_logprobs", [{"token": f"t{at}", "logprob": -0.5, **aside} for at in range(LOGPROBS_BYTES // 32)])]
    else:
        members += told
    if writer.chance.random() < 0.5:
        members.append(("note", writer.text("as it is") if case.lookalike != "in an object" else aside))
    said: Figures | None = None
    for at, (name, value) in enumerate(members):
        if (name, value) in told:
            said = writer.told(writer.truth)
        start = "{" if not at else ", " if writer._separators[0] == ", " else ","
        yield Piece(f"{start}{json.dumps(name)}{writer._separators[1]}{writer.json(value)}".encode(), 0, said)
    yield Piece(b"}\n" if writer.chance.random() < 0.3 else b"}", 0, said)


def _core(writer: _Writer, size: int) -> list[tuple[str, Any]]:
    """The members of an answer that are its API's own."""
    api = writer.case.api
    text = "" if writer.case.fields == "zeros" else writer.filler(size)
    aside = writer.aside()
    if api == CHAT:
        message = {"role": "assistant", "content": text, **aside}
        return [("object", "chat.completion"), ("choices", [{"index": 0, "message": message, "finish_reason": "stop"}])]
    if api == COMPLETIONS:
        return [("object", "text_completion"), ("choices", [{"index": 0, "text": text, "finish_reason": "stop", **aside}])]
    if api == RESPONSES:
        content = [{"type": "output_text", "text": text, "annotations": [], **aside}]
        return [("object", "response"), ("status", "completed"), ("output", [{"type": "message", "content": content}])]
    if api == MESSAGES:
        return [("type", "message"), ("role", "assistant"), ("content", [{"type": "text", "text": text, **aside}]), ("stop_reason", "end_turn")]
    if api == EMBEDDINGS:
        vector = [round(writer.chance.uniform(-1, 1), 6) for _ in range(max(4, size // 10))]
        return [("object", "list"), ("data", [{"object": "embedding", "index": 0, "embedding": vector, **aside}])]
    if api in (RERANK, RERANK_V2):
        rows = [{"index": at, "relevance_score": 0.25, "document": {"text": text if not at else "x", **aside}} for at in range(3)]
        return [("object", "list"), ("results", rows)]
    if api == SCORE:
        return [("object", "list"), ("data", [{"index": 0, "object": "score", "score": 0.5, "text": text, **aside}])]
    if api in (IMAGES, EDITS):
        picture = "iVBORw0KGgo" + "Ab9/" * (size // 4)
        return [("created", 1), ("data", [{"b64_json": picture, "revised_prompt": writer.text("A boat."), **aside}])]
    if api == TOKENIZE:
        return [("count", 3), ("tokens", [1, 2, 3]), ("token_strs", [text])]
    return [("text", text)]


# --- streams


def _events(writer: _Writer) -> Iterator[Piece]:
    case = writer.case
    texts = 0 if case.fields == "zeros" else writer.chance.randint(5, 12)
    words = [f"word{at} " for at in range(texts)]
    if words:
        words[1] = writer.text(words[1])
    make = {CHAT: _chunks, COMPLETIONS: _chunks, RESPONSES: _response_events, MESSAGES: _message_events}
    yield from make.get(case.api, _transcript_events)(writer, words)


def _event(writer: _Writer, value: Any, name: str = "") -> bytes:
    line = writer.line
    data = value if isinstance(value, str) else writer.json(value)
    return (f"event: {name}{line}" if name else "").encode() + f"data: {data}{line}{line}".encode()


def _chunks(writer: _Writer, words: list[str]) -> Iterator[Piece]:
    """Chat and completions. An early figure is one that is not true yet."""
    case = writer.case
    truth = writer.truth
    place = case.place
    every = place == "every chunk"
    said: Figures | None = None
    produced = 0

    def chunk(word: str | None, finish: str | None = None, role: bool = False, figures: Figures | None = None) -> bytes:
        nonlocal said
        choice: dict[str, Any] = {"index": 0}
        if case.api == CHAT:
            choice["delta"] = {"role": "assistant", "content": ""} if role else {} if word is None else {"content": word}
        else:
            choice["text"] = word or ""
        if not role:
            choice |= writer.aside()
        choice |= {"logprobs": None, "finish_reason": finish}
        value = {"id": "c-1", "object": "chunk", "model": MODEL, "choices": [choice]}
        if figures is not None:
            name, figure = writer.usage(figures)
            value[name] = figure
            said = writer.told(figures) or said
        elif case.asks_usage:
            value["usage"] = None
        return _event(writer, value)

    def so_far() -> Figures | None:
        return Figures(truth.prompt, produced, *truth[2:3], min(truth.reasoning, produced)) if every else None

    if case.api == CHAT:
        early = Figures(truth.prompt, 0, truth.cached, min(truth.reasoning, 0)) if place == "early and late" else so_far()
        yield Piece(chunk(None, role=True, figures=early), 0, said)
    for word in words:
        produced += 1
        yield Piece(chunk(word, figures=so_far()), 1, said)
    last = truth if place in ("last chunk", "every chunk") or (place == "early and late" and not case.asks_usage) else None
    yield Piece(chunk(None, "stop", figures=last), 0, said)
    if place == "extra chunk" or (place == "early and late" and case.asks_usage):
        name, figure = writer.usage(truth)
        value = {"id": "c-1", "object": "chunk", "model": MODEL, "choices": [], name: figure}
        said = writer.told(truth) or said
        yield Piece(_event(writer, value), 0, said, extra=figure is not None)
    yield Piece(_event(writer, "[DONE]"), 0, said)


def _response_events(writer: _Writer, words: list[str]) -> Iterator[Piece]:
    """The Responses API: the text comes in deltas, and then again, twice or three times."""
    truth = writer.truth
    number = 0
    whole = "".join(words)

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return _event(writer, {"type": kind, "sequence_number": number, **fields}, kind)

    def response(status: str, text: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": [], **writer.aside()}]
        output = [] if text is None else [{"type": "message", "role": "assistant", "content": content}]
        return {"id": "r-1", "object": "response", "status": status, **usage, "output": output, "metadata": writer.aside()}

    early: dict[str, Any] = {"usage": None}
    said: Figures | None = None
    if writer.case.place == "early and late":
        early = dict([writer.usage(Figures(0, 0, min(truth.cached, 0), min(truth.reasoning, 0)))])
        said = Figures(0, 0) if early["usage"] else None
    yield Piece(event("response.created", response=response("in_progress", None, early)), 0, said)
    yield Piece(event("response.in_progress", response=response("in_progress", None, early)), 0, said)
    part = {"type": "output_text", "text": "", "annotations": []}
    yield Piece(event("response.output_item.added", output_index=0, item={"type": "message", "content": []}), 0, said)
    yield Piece(event("response.content_part.added", item_id="m-1", part=part), 0, said)
    for word in words:
        yield Piece(event("response.output_text.delta", item_id="m-1", delta=word), 1, said)
    yield Piece(event("response.output_text.done", item_id="m-1", text=whole), 0, said)
    yield Piece(event("response.content_part.done", item_id="m-1", part={**part, "text": whole}), 0, said)
    item = {"type": "message", "role": "assistant", "content": [{**part, "text": whole}]}
    yield Piece(event("response.output_item.done", output_index=0, item=item), 0, said)
    late: dict[str, Any] = {} if writer.case.place == NOWHERE else dict([writer.usage(truth)])
    text = writer.filler(LONG_EVENT_BYTES) if writer.case.place == "long completed" else whole
    said = writer.told(truth) or said if late else said
    yield Piece(event("response.completed", response=response("completed", text, late)), 0, said)


def _message_events(writer: _Writer, words: list[str]) -> Iterator[Piece]:
    """Anthropic's: the prompt's figures come first, with an answer's that is not true yet."""
    case = writer.case
    truth = writer.truth
    said: Figures | None = None

    def event(kind: str, **fields: Any) -> bytes:
        return _event(writer, {"type": kind, **fields}, kind)

    message: dict[str, Any] = {"id": "m-1", "type": "message", "role": "assistant", "content": [], "stop_reason": None}
    if case.place == "early and late":
        early = truth._replace(completion=min(truth.completion, 1))
        name, figure = writer.usage(early)
        message[name] = figure
        said = writer.told(early)
    yield Piece(event("message_start", message=message), 0, said)
    yield Piece(event("content_block_start", index=0, content_block={"type": "text", "text": ""}), 0, said)
    yield Piece(event("ping"), 0, said)
    for word in words:
        yield Piece(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word, **writer.aside()}), 1, said)
    yield Piece(event("content_block_stop", index=0), 0, said)
    late: dict[str, Any] = {}
    if case.place != NOWHERE:
        name, figure = writer.usage(truth)
        if case.place == "early and late" and figure is not None and writer.chance.random() < 0.5:
            figure = {"output_tokens": truth.completion}
        late = {name: figure}
        said = writer.told(truth) or said
    yield Piece(event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, **late), 0, said)
    yield Piece(event("message_stop"), 0, said)


def _transcript_events(writer: _Writer, words: list[str]) -> Iterator[Piece]:
    for word in words:
        yield Piece(_event(writer, {"type": "transcript.text.delta", "delta": word}), 1)
    late: dict[str, Any] = {} if writer.case.place == NOWHERE else dict([writer.usage(writer.truth)])
    said = writer.told(writer.truth) if late else None
    yield Piece(_event(writer, {"type": "transcript.text.done", "text": "".join(words), **late}), 0, said)


def _error_event(case: Case, writer: _Writer) -> bytes:
    error = {"message": "out of memory", "type": "server_error", "code": 500}
    if case.api in (CHAT, COMPLETIONS):
        return _event(writer, {"error": error})
    return _event(writer, {"type": "error", "error": error, "message": "out of memory"}, "error")


# --- requests


def request_of(case: Case) -> tuple[bytes, str]:
    """A body and its content type."""
    api = case.api
    if api in UPLOADS:
        return _form(case), f"multipart/form-data; boundary={BOUNDARY}"
    value: dict[str, Any] = {"model": MODEL}
    if api in (CHAT, MESSAGES):
        value["messages"] = [{"role": "user", "content": PROMPT}]
    elif api in (COMPLETIONS, IMAGES):
        value["prompt"] = PROMPT
    elif api in (RESPONSES, EMBEDDINGS, SPEECH):
        value["input"] = PROMPT
    elif api in (RERANK, RERANK_V2):
        value |= {"query": "rivers", "documents": [PROMPT[:1200], PROMPT[1200:]]}
    elif api == SCORE:
        value |= {"text_1": "rivers", "text_2": [PROMPT]}
    else:
        value["prompt"] = PROMPT
    if case.named and api in GENERATE:
        value["max_output_tokens" if api == RESPONSES else "max_tokens"] = NAMED
    if case.stream:
        value["stream"] = True
        if case.asks_usage:
            value["stream_options"] = {"include_usage": True}
    return json.dumps(value).encode(), "application/json"


def _form(case: Case) -> bytes:
    fields = [("model", MODEL), ("prompt", PROMPT), *([("stream", "true")] if case.stream else [])]
    lines = "".join(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields)
    kind = "image/png" if case.api == EDITS else "audio/wav"
    name = "image" if case.api == EDITS else "file"
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\nContent-Type: {kind}\r\n\r\n'
    return (lines + file).encode() + random.Random(2).randbytes(5000) + f"\r\n--{BOUNDARY}--\r\n".encode()


def cut(case: Case, answer: Answer) -> list[Piece]:
    """The pieces that the engine sends, or the client waits for."""
    if case.ending == "left after the head":
        return []
    return answer.pieces[: answer.stop] if case.ending in MIDWAY else answer.pieces
