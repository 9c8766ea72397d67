"""What a generation looks like on the wire in OpenAI's chat and completions APIs, and what all stream shapes share.

Owns: request structs, the plan of one generation (how many tokens, why it stops) and its events. Must never: use a clock or
a counter. Ids and times are functions of prompt and seed, so the same request gets the same bytes, through any proxy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fastgw.sim.config import SimConfig
from fastgw.sim.engine import Answer
from fastgw.sim.prefix_cache import blocks_of
from fastgw.sim.text import Writer, count_tokens

JSON: Final = b"application/json"
SSE: Final = b"text/event-stream; charset=utf-8"
# Fixed, so that answers are reproducible: 2026-01-01T00:00:00Z.
CREATED: Final = 1_767_225_600


class BadRequestError(Exception):
    """A body that asks for something impossible; ``status`` and ``type`` as vLLM words them."""

    def __init__(self, message: str, status: int = 400, type_: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type_
        self.param = param

    def answer(self) -> Answer:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.status}
        return Answer(self.status, JSON, msgspec.json.encode({"error": error}))


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Message(msgspec.Struct):
    role: str = "user"
    content: Any = None


class Generate(msgspec.Struct):
    """The union of what chat, completions, responses and messages ask; unknown fields are ignored as engines do."""

    model: str | None = None
    messages: list[Message] = []
    prompt: Any = None
    input: Any = None
    system: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n_predict: int | None = None
    stop: str | list[str] | None = None
    stop_sequences: list[str] | None = None
    n: int | None = None


def asked_for(config: SimConfig, request: Generate, chat: bool) -> int | None:
    """How many tokens a chat or a completion asks for, as an engine of this kind reads it; None = it does not say.

    To llama.cpp ``n_predict`` is the word that counts, and a negative one no limit. It and TGI know one name for all.
    """
    if config.metrics_kind == "llamacpp":
        asked = request.max_tokens if request.n_predict is None else request.n_predict
        return None if asked is None or asked < 0 else asked
    if config.metrics_kind == "tgi" or not chat or request.max_completion_tokens is None:
        return request.max_tokens
    return request.max_completion_tokens


class Overrides(msgspec.Struct, frozen=True):
    """What a request header changes about one generation."""

    tokens: int = 0
    pad_bytes: int = 0


def flatten(value: Any) -> str:
    """The text in a prompt of any shape: strings, token ids, lists of either, content parts."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, dict):
        return flatten(value.get("text") or value.get("content") or "")
    if isinstance(value, list):
        return "\n".join([flatten(item) for item in value])
    return str(value)


class Plan:
    """One generation, decided before its first byte: every shape renders the same plan."""

    __slots__ = ("blocks", "digest", "finish_reason", "pad", "prompt_tokens", "tokens", "writer")

    def __init__(
        self, config: SimConfig, prompt: str, asked: int | None, stops: Sequence[str], overrides: Overrides, model: str = ""
    ) -> None:
        raw = prompt.encode("utf-8", "surrogatepass")
        self.digest = hashlib.sha256(b"%d:" % config.seed + raw).hexdigest()
        self.writer = Writer(config.seed, raw)
        self.prompt_tokens = count_tokens(raw)
        self.blocks: tuple[int, ...] = blocks_of(model, raw) if config.prefix_cache_tokens else ()
        if asked is not None and asked < 1:
            raise BadRequestError(f"max_tokens must be at least 1, got {asked}.", param="max_tokens")
        room = config.max_model_len - self.prompt_tokens
        if room < 1 or (asked or 1) > room:
            raise BadRequestError(
                f"You passed {self.prompt_tokens} input tokens and requested {asked or 1} output tokens. However, the model's "
                f"context length is only {config.max_model_len} tokens, resulting in a maximum input length of "
                f"{max(0, config.max_model_len - (asked or 1))} tokens. Please reduce the length of the input prompt."
            )
        self.finish_reason = "stop" if asked is None else "length"
        self.tokens = overrides.tokens or (min(config.output_tokens, room) if asked is None else asked)
        self.pad = b"." * overrides.pad_bytes
        if stops:
            self._cut_at(stops)

    def _cut_at(self, stops: Sequence[str]) -> None:
        text = b""
        wanted = [stop.encode("utf-8", "surrogatepass") for stop in stops if stop]
        for index in range(self.tokens):
            text += self.writer.token(index)
            if any(stop in text for stop in wanted):
                self.tokens = index
                self.finish_reason = "stop"
                return

    def token(self, index: int) -> bytes:
        return self.writer.token(index) + self.pad

    def text(self) -> bytes:
        if not self.pad:
            return self.writer.text(self.tokens)
        return b"".join([self.token(index) for index in range(self.tokens)])


class OpenAIShape:
    """Chat completions and completions: they differ in three places only."""

    __slots__ = (
        "_continuous",
        "_done",
        "_end",
        "_first_chunk",
        "_plan",
        "_prefix",
        "_suffix",
        "_usage",
        "blocks",
        "chat",
        "content_type",
        "finish_reason",
        "head",
        "prompt_tokens",
        "stream",
        "tokens",
    )  # fmt: skip

    def __init__(self, config: SimConfig, request: Generate, model: str, chat: bool, overrides: Overrides) -> None:
        if request.n not in (None, 1):
            raise BadRequestError("Only n=1 is supported.", param="n")
        if chat and not request.messages:
            raise BadRequestError("messages: at least one message is required.", param="messages")
        if not chat and request.prompt is None:
            raise BadRequestError("prompt: this field is required.", param="prompt")
        prompt = "\n".join([f"{m.role}: {flatten(m.content)}" for m in request.messages]) if chat else flatten(request.prompt)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        plan = Plan(config, prompt, asked_for(config, request, chat), stops, overrides, model)
        options = request.stream_options or StreamOptions()
        self._plan = plan
        self._end = b"\r\n\r\n" if config.sep == "crlf" else b"\n\n"
        self._done = config.done
        self._first_chunk = config.first_chunk
        self._usage = options.include_usage
        self._continuous = options.include_usage and options.continuous_usage_stats
        self.chat = chat
        self.stream = bool(request.stream)
        self.content_type = SSE
        self.prompt_tokens = plan.prompt_tokens
        self.blocks = plan.blocks
        self.tokens = plan.tokens
        self.finish_reason = plan.finish_reason
        kind = ("chat.completion.chunk" if self.stream else "chat.completion") if chat else "text_completion"
        name = msgspec.json.encode(model)
        ident = ("chatcmpl-" if chat else "cmpl-") + plan.digest[:24]
        self.head = b'{"id":"%s","object":"%s","created":%d,"model":%s,' % (ident.encode(), kind.encode(), CREATED, name)
        opens = b'"delta":{"content":"' if chat else b'"text":"'
        self._prefix = b"data: " + self.head + b'"choices":[{"index":0,' + opens
        self._suffix = (b'"}' if chat else b'"') + b',"logprobs":null,"finish_reason":null}]'

    def usage(self, completion: int) -> bytes:
        total = self.prompt_tokens + completion
        return b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
            self.prompt_tokens,
            total,
            completion,
        )

    def whole(self) -> Answer:
        text = self._plan.text()
        said = (b'"message":{"role":"assistant","content":"%s"}' if self.chat else b'"text":"%s"') % text
        choice = b'{"index":0,%s,"logprobs":null,"finish_reason":"%s"}' % (said, self.finish_reason.encode())
        return Answer(200, JSON, self.head + b'"choices":[' + choice + b"]," + self.usage(self.tokens) + b"}")

    def opening(self) -> Sequence[bytes]:
        if not self.chat or self._first_chunk == "none":
            return ()
        content = b"null" if self._first_chunk == "llamacpp" else b'""'
        delta = b'{"role":"assistant","content":%s}' % content
        choice = b'"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":null}]' % delta
        return (b"data: " + self.head + choice + self._stats(0) + b"}" + self._end,)

    def token(self, index: int) -> bytes:
        if self._continuous:
            return self._prefix + self._plan.token(index) + self._suffix + self._stats(index + 1) + b"}" + self._end
        return self._prefix + self._plan.token(index) + self._suffix + b"}" + self._end

    def closing(self) -> Sequence[bytes]:
        empty = b'"delta":{}' if self.chat else b'"text":""'
        choice = b'"choices":[{"index":0,%s,"logprobs":null,"finish_reason":"%s"}]' % (empty, self.finish_reason.encode())
        events = [b"data: " + self.head + choice + self._stats(self.tokens) + b"}" + self._end]
        if self._usage:
            events.append(b"data: " + self.head + b'"choices":[],' + self.usage(self.tokens) + b"}" + self._end)
        if self._done:
            events.append(b"data: [DONE]" + self._end)
        return events

    def _stats(self, completion: int) -> bytes:
        return b"," + self.usage(completion) if self._continuous else b""
