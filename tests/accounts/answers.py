"""What an honest engine answers in a case, and the request that it gets.

Owns: the shapes of requests and plain answers of each API, and where in them an engine says what it used. An answer is a list
of pieces, so that it can end between any two of them; each says what has been produced, and told, by then. Must never: share a
line with fastgw, or say anything that is not true.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from typing import Any, Final

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
    OLLAMA,
    OWN,
    RERANK,
    RERANK_V2,
    RESPONSES,
    SCORE,
    SPEECH,
    TGI,
    TOKENIZE,
    UPLOADS,
    Case,
)
from tests.accounts.events import error_event, events
from tests.accounts.figures import MODEL, NAMED, PROMPT, Answer, Figures, Piece, Writer

BOUNDARY: Final = "a-boundary-of-this-form"
LONG_BYTES: Final = 14_000  # more than anybody would keep of an answer's end
LOGPROBS_BYTES: Final = 100_000


def answer_of(case: Case) -> Answer:
    """The engine's whole answer in this case, the same one each time."""
    writer = Writer(case)
    if case.api == SPEECH:
        noise = random.Random(1).randbytes(3000)
        return Answer("audio/mpeg", [Piece(noise)], writer.truth, 1)
    pieces = list(events(writer) if case.stream else _document(writer))
    if case.stream:
        texts = sum(piece.tokens for piece in pieces)
        stop = seen = 0
        while seen < max(1, texts // 2) and stop < len(pieces) - 1:
            seen += pieces[stop].tokens
            stop += 1
    else:
        stop = writer.chance.randint(1, len(pieces) - 1)
    if case.ending == ERROR_EVENT:
        pieces[stop:] = [Piece(error_event(case, writer), 0, pieces[stop - 1].said)]
        stop += 1
    if case.stream and case.api == OLLAMA:
        return Answer("application/x-ndjson", pieces, writer.truth, stop)
    return Answer("text/event-stream" if case.stream else "application/json", pieces, writer.truth, stop, writer.seconds)


# --- plain answers


def _document(writer: Writer) -> Iterator[Piece]:
    case = writer.case
    place = case.place
    long = LONG_BYTES if place.endswith("data") else 60
    members: list[tuple[str, Any]] = [("id", "answer-1"), ("model", MODEL), *_core(writer, long)]
    if aside := writer.aside():
        members[1:1] = [("metadata", aside)]
    told: list[tuple[str, Any]] = [] if place == NOWHERE else [writer.usage(writer.truth)]
    if told and case.api in OWN:
        told = writer.counts(writer.truth) if case.api == OLLAMA else [("details", dict(writer.counts(writer.truth)))]
    if place in ("first", "before data"):
        members = told + members
    elif place == "amid data":
        members += [*told, ("prompt_text", writer.filler(LONG_BYTES))]
    elif place == "before logprobs":
        rows = [{"token": f"t{at}", "logprob": -0.5, **aside} for at in range(LOGPROBS_BYTES // 32)]
        members += [*told, ("prompt_logprobs", rows)]
    else:
        members += told
    if writer.chance.random() < 0.5:
        members.append(("note", writer.text("as it is") if case.lookalike != "in an object" else aside))
    said: Figures | None = None
    for at, (name, value) in enumerate(members):
        if (name, value) in told:
            said = writer.told(writer.truth)
        start = "{" if not at else ", " if writer.separators[0] == ", " else ","
        yield Piece(f"{start}{json.dumps(name)}{writer.separators[1]}{writer.json(value)}".encode(), 0, said)
    yield Piece(b"}\n" if writer.chance.random() < 0.3 else b"}", 0, said)


def _core(writer: Writer, size: int) -> list[tuple[str, Any]]:
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
        block = {"type": "text", "text": text, **aside}
        return [("type", "message"), ("role", "assistant"), ("content", [block]), ("stop_reason", "end_turn")]
    if api == OLLAMA:
        return [("message", {"role": "assistant", "content": text, **aside}), ("done", True)]
    if api == TGI:
        return [("generated_text", text)]
    if api == EMBEDDINGS:
        vector = [round(writer.chance.uniform(-1, 1), 6) for _ in range(max(4, size // 10))]
        return [("object", "list"), ("data", [{"object": "embedding", "index": 0, "embedding": vector, **aside}])]
    if api in (RERANK, RERANK_V2):
        documents = [{"text": one, **aside} for one in (text, "x", "y")]
        rows = [{"index": at, "relevance_score": 0.25, "document": one} for at, one in enumerate(documents)]
        return [("object", "list"), ("results", rows)]
    if api == SCORE:
        return [("object", "list"), ("data", [{"index": 0, "object": "score", "score": 0.5, "text": text, **aside}])]
    if api in (IMAGES, EDITS):
        picture = "iVBORw0KGgo" + "Ab9/" * (size // 4)
        return [("created", 1), ("data", [{"b64_json": picture, "revised_prompt": writer.text("A boat."), **aside}])]
    if api == TOKENIZE:
        return [("count", 3), ("tokens", [1, 2, 3]), ("token_strs", [text])]
    return [("text", text)]


# --- requests


def request_of(case: Case) -> tuple[bytes, str]:
    """A body and its content type."""
    api = case.api
    if api in UPLOADS:
        return _form(case), f"multipart/form-data; boundary={BOUNDARY}"
    value: dict[str, Any] = {"model": MODEL}
    if api == TGI:
        parameters = {"parameters": {"max_new_tokens": NAMED}} if case.named else {}
        return json.dumps({"inputs": PROMPT, **parameters}).encode(), "application/json"
    if api == OLLAMA and not case.stream:
        value["stream"] = False
    if api in (CHAT, MESSAGES, OLLAMA):
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
    if case.named and api == OLLAMA:
        value["options"] = {"num_predict": NAMED}
    elif case.named and api in GENERATE:
        value["max_output_tokens" if api == RESPONSES else "max_tokens"] = NAMED
    if case.stream:
        value["stream"] = True
        if case.asks_usage:
            value["stream_options"] = {"include_usage": True}
    return json.dumps(value).encode(), "application/json"


def _form(case: Case) -> bytes:
    fields = [("model", MODEL), ("prompt", PROMPT), *([("stream", "true")] if case.stream else [])]
    start = f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
    lines = "".join(f'{start}name="{name}"\r\n\r\n{value}\r\n' for name, value in fields)
    kind = "image/png" if case.api == EDITS else "audio/wav"
    name = "image" if case.api == EDITS else "file"
    file = f'{start}name="{name}"; filename="a"\r\nContent-Type: {kind}\r\n\r\n'
    return (lines + file).encode() + random.Random(2).randbytes(5000) + f"\r\n--{BOUNDARY}--\r\n".encode()


def cut(case: Case, answer: Answer) -> list[Piece]:
    """The pieces that the engine sends, or the client waits for."""
    if case.ending == "left after the head":
        return []
    return answer.pieces[: answer.stop] if case.ending in MIDWAY else answer.pieces


def packed(bodies: list[bytes]) -> list[bytes]:
    """The pieces of a body in gzip, each to be read as it comes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return [*(packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH) for body in bodies), packer.flush()]
