"""Streamed answers, event by event, in the shape of each API.

Owns: which events carry text, which repeat it, and in which an engine says what it used: early, late, on each. Must never:
share a line with fastgw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.accounts.cases import CHAT, COMPLETIONS, MESSAGES, NOWHERE, OLLAMA, RESPONSES, TGI, Case
from tests.accounts.figures import MODEL, Figures, Piece, Writer

LONG_EVENT_BYTES: Final = 80_000


def events(writer: Writer) -> Iterator[Piece]:
    case = writer.case
    texts = 0 if case.fields == "zeros" else writer.chance.randint(5, 12)
    words = [f"word{at} " * (6 if case.says == "long texts" else 1) for at in range(texts)]
    if words:
        words[1] = writer.text(words[1])
    make: dict[str, Any] = {
        CHAT: _chunks, COMPLETIONS: _chunks, RESPONSES: _response_events, MESSAGES: _message_events, OLLAMA: _lines,
        TGI: _tokens,
    }  # fmt: skip
    said: Figures | None = None
    for piece in make.get(case.api, _transcript_events)(writer, words):
        if case.api != OLLAMA and writer.chance.random() < 0.05:
            yield Piece(f": ping{writer.line}{writer.line}".encode(), 0, said)
        yield piece
        said = piece.said


def _event(writer: Writer, value: Any, name: str = "") -> bytes:
    line = writer.line
    data = value if isinstance(value, str) else writer.json(value)
    return (f"event: {name}{line}" if name else "").encode() + f"data: {data}{line}{line}".encode()


def _chunks(writer: Writer, words: list[str]) -> Iterator[Piece]:
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
            choice["delta"] = {"role": "assistant", "content": ""} if role else {} if word is None else delta_of(word)
        else:
            choice["text"] = word or ""
        if not role:
            choice |= writer.aside()
        choice |= {"logprobs": None, "finish_reason": finish}
        choices = [{**choice, "index": at} for at in range(3 if case.says == "choices" else 1)]
        value: dict[str, Any] = {"id": "c-1", "object": "chunk", "model": MODEL, "choices": choices}
        if figures is not None:
            name, figure = writer.usage(figures)
            value[name] = figure
            said = writer.told(figures) or said
        elif case.asks_usage:
            value["usage"] = None
        return _event(writer, value)

    def delta_of(word: str) -> dict[str, Any]:
        if case.says == "tool call":
            return {"tool_calls": [{"index": 0, "function": {"arguments": word}}]}
        return {"reasoning_content" if case.says == "reasoning" else "content": word}

    def so_far() -> Figures | None:
        return Figures(truth.prompt, produced, *truth[2:3], min(truth.reasoning, produced)) if every else None

    if case.api == CHAT:
        early = Figures(truth.prompt, 0, truth.cached, min(truth.reasoning, 0)) if place == "early and late" else so_far()
        yield Piece(chunk(None, role=True, figures=early), 0, said)
    for word in words:
        produced += 1
        yield Piece(chunk(word, figures=so_far()), writer.tokens(word) * (3 if case.says == "choices" else 1), said)
    last = truth if place in ("last chunk", "every chunk") or (place == "early and late" and not case.asks_usage) else None
    yield Piece(chunk(None, "stop", figures=last), 0, said)
    if place == "extra chunk" or (place == "early and late" and case.asks_usage):
        name, figure = writer.usage(truth)
        value = {"id": "c-1", "object": "chunk", "model": MODEL, "choices": [], name: figure}
        said = writer.told(truth) or said
        yield Piece(_event(writer, value), 0, said, extra=figure is not None)
    yield Piece(_event(writer, "[DONE]"), 0, said)


def _response_events(writer: Writer, words: list[str]) -> Iterator[Piece]:
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
    kind, member = {
        "text": ("response.output_text", "text"),
        "long texts": ("response.output_text", "text"),
        "tool call": ("response.function_call_arguments", "arguments"),
        "reasoning": ("response.reasoning_text", "text"),
    }[writer.case.says]
    for word in words:
        yield Piece(event(f"{kind}.delta", item_id="m-1", delta=word), writer.tokens(word), said)
    yield Piece(event(f"{kind}.done", item_id="m-1", **{member: whole}), 0, said)
    yield Piece(event("response.content_part.done", item_id="m-1", part={**part, "text": whole}), 0, said)
    item = {"type": "message", "role": "assistant", "content": [{**part, "text": whole}]}
    yield Piece(event("response.output_item.done", output_index=0, item=item), 0, said)
    late: dict[str, Any] = {} if writer.case.place == NOWHERE else dict([writer.usage(truth)])
    text = writer.filler(LONG_EVENT_BYTES) if writer.case.place == "long completed" else whole
    said = writer.told(truth) or said if late else said
    yield Piece(event("response.completed", response=response("completed", text, late)), 0, said)


def _message_events(writer: Writer, words: list[str]) -> Iterator[Piece]:
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
    kind, member = {
        "text": ("text_delta", "text"),
        "long texts": ("text_delta", "text"),
        "tool call": ("input_json_delta", "partial_json"),
        "reasoning": ("thinking_delta", "thinking"),
    }[case.says]
    for word in words:
        delta = {"type": kind, member: word, **writer.aside()}
        yield Piece(event("content_block_delta", index=0, delta=delta), writer.tokens(word), said)
    if case.says == "reasoning":
        yield Piece(event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2lnbmVk"}), 0, said)
    yield Piece(event("content_block_stop", index=0), 0, said)
    late: dict[str, Any] = {}
    if case.place != NOWHERE:
        name, figure = writer.usage(truth)
        if case.place == "early and late" and figure is not None:
            # The last word need not repeat the prompt, or what of it came from a cache.
            figure = writer.chance.choice([
                figure,
                {"output_tokens": truth.completion},
                {"input_tokens": 0, "output_tokens": truth.completion},
                {"input_tokens": figure["input_tokens"], "output_tokens": truth.completion},
            ])  # fmt: skip
        late = {name: figure}
        said = writer.told(truth) or said
    yield Piece(event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, **late), 0, said)
    yield Piece(event("message_stop"), 0, said)


def _transcript_events(writer: Writer, words: list[str]) -> Iterator[Piece]:
    for word in words:
        yield Piece(_event(writer, {"type": "transcript.text.delta", "delta": word}), writer.tokens(word))
    late: dict[str, Any] = {} if writer.case.place == NOWHERE else dict([writer.usage(writer.truth)])
    said = writer.told(writer.truth) if late else None
    yield Piece(_event(writer, {"type": "transcript.text.done", "text": "".join(words), **late}), 0, said)


def _lines(writer: Writer, words: list[str]) -> Iterator[Piece]:
    """Ollama's: an object a line, of which the last counts."""

    def line(word: str, done: bool, **counts: Any) -> bytes:
        message = {"role": "assistant", "content": word, **writer.aside()}
        if done and writer.case.place == "long last chunk":
            arguments = {"a": writer.filler(LONG_EVENT_BYTES), **writer.aside()}
            message["tool_calls"] = [{"function": {"name": "f", "arguments": arguments}}]
        return writer.json({"model": MODEL, "message": message, "done": done, **counts}).encode() + b"\n"

    for word in words:
        yield Piece(line(word, False), writer.tokens(word))
    counts = {} if writer.case.place == NOWHERE else dict(writer.counts(writer.truth))
    yield Piece(line("", True, **counts), 0, writer.told(writer.truth) if counts else None)


def _tokens(writer: Writer, words: list[str]) -> Iterator[Piece]:
    """TGI's: an event a token, however long, of which the last counts."""
    for at, word in enumerate(words):
        last = at == len(words) - 1
        long = [writer.filler(LONG_EVENT_BYTES)] if last and writer.case.place == "long last chunk" else []
        told = last and writer.case.place != NOWHERE
        value = {"index": at + 1, "token": {"id": at, "text": word, "special": False, **writer.aside()},
                 "generated_text": "".join([*words, *long]) if last else None,
                 "details": dict(writer.counts(writer.truth)) if told else None}  # fmt: skip
        yield Piece(_event(writer, value), 1, writer.told(writer.truth) if told else None)


def error_event(case: Case, writer: Writer) -> bytes:
    if case.api == OLLAMA:
        return writer.json({"error": "out of memory"}).encode() + b"\n"
    if case.api == TGI:
        return _event(writer, {"error": "out of memory", "error_type": "generation"})
    error = {"message": "out of memory", "type": "server_error", "code": 500}
    if case.api in (CHAT, COMPLETIONS):
        return _event(writer, {"error": error})
    return _event(writer, {"type": "error", "error": error, "message": "out of memory"}, "error")
