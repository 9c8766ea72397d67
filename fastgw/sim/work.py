"""Work that is not a token stream: embeddings, ranking, audio and images, as one answer or as binary pieces.

Must never: use a clock or a counter (see shapes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from fastgw.sim.engine import Answer, Shape
from fastgw.sim.received import Received
from fastgw.sim.text import Writer, count_tokens

# The smallest PNG there is: one transparent pixel.
_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
_PIECE_BYTES: Final = 1024
_AUDIO_TYPES: Final = {
    "mp3": b"audio/mpeg",
    "opus": b"audio/ogg",
    "aac": b"audio/aac",
    "flac": b"audio/flac",
    "wav": b"audio/wav",
}


class Embed(msgspec.Struct):
    input: Any
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


class Rank(msgspec.Struct):
    query: str
    documents: list[Any]
    model: str | None = None
    top_n: int | None = None


class Score(msgspec.Struct):
    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None


class Speech(msgspec.Struct):
    input: str
    model: str | None = None
    response_format: str = "mp3"


class Images(msgspec.Struct):
    prompt: str
    model: str | None = None
    n: int | None = None

    def answer(self, created: int) -> dict[str, Any]:
        return {"created": created, "data": [{"b64_json": _PIXEL}] * max(1, min(self.n or 1, 10))}


class WorkShape:
    """One answer after the prefill time of its tokens."""

    __slots__ = ("_whole", "prompt_tokens")
    stream = False
    content_type = b""
    blocks: tuple[int, ...] = ()
    tokens = 0
    finish_reason = ""

    def __init__(self, prompt_tokens: int, whole: Callable[[], Answer]) -> None:
        self.prompt_tokens = prompt_tokens
        self._whole = whole

    def whole(self) -> Answer:
        return self._whole()

    def opening(self) -> Sequence[bytes]:
        return ()

    def token(self, index: int) -> bytes:
        return b""

    def closing(self) -> Sequence[bytes]:
        return ()


class AudioShape(WorkShape):
    """Binary pieces, paced like tokens: one KiB per four bytes of text."""

    __slots__ = ("_seed", "_text", "content_type", "tokens")
    stream = True

    def __init__(self, seed: int, asked: Speech) -> None:
        super().__init__(count_tokens(asked.input), lambda: Answer(200, self.content_type, b""))
        self._seed = seed
        self._text = asked.input.encode("utf-8", "surrogatepass")
        self.tokens = count_tokens(asked.input)
        self.content_type = _AUDIO_TYPES.get(asked.response_format, b"application/octet-stream")

    def token(self, index: int) -> bytes:
        return hashlib.shake_128(b"%d:%d:" % (self._seed, index) + self._text).digest(_PIECE_BYTES)


class CannedShape:
    """A shape rendered beforehand, for answers that announce the length of their stream."""

    __slots__ = (
        "_events",
        "_last",
        "_shape",
        "blocks",
        "content_type",
        "finish_reason",
        "prompt_tokens",
        "stream",
        "tokens",
        "total_bytes",
    )

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._events = [b"".join(shape.opening()), *[shape.token(index) for index in range(shape.tokens)]]
        self._last = list(shape.closing())
        self.stream = shape.stream
        self.content_type = shape.content_type
        self.prompt_tokens = shape.prompt_tokens
        self.blocks = shape.blocks
        self.tokens = shape.tokens
        self.finish_reason = shape.finish_reason
        self.total_bytes = sum(map(len, self._events)) + sum(map(len, self._last))

    def whole(self) -> Answer:
        return self._shape.whole()

    def opening(self) -> Sequence[bytes]:
        return self._events[:1] if self._events[0] else ()

    def token(self, index: int) -> bytes:
        return self._events[index + 1]

    def closing(self) -> Sequence[bytes]:
        return self._last


def form_field(body: bytes, name: bytes) -> bytes | None:
    """The value of a multipart field in what was kept of an upload; None when it is not there."""
    at = body.find(b'name="' + name + b'"')
    start = body.find(b"\r\n\r\n", at) + 4
    if at < 0 or start < 4:
        return None
    end = body.find(b"\r\n--", start)
    return None if end < 0 else body[start:end]


def transcript(seed: int, request: Received) -> dict[str, Any]:
    """Words made from the upload's digest, and what a test wants to know: how many bytes came, and which."""
    words = Writer(seed, request.sha256.encode()).text(12).decode()
    return {"text": words, "bytes": request.body_length, "sha256": request.sha256}
