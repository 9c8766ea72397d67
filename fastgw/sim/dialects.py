"""Ollama's own API and TGI's, rendered from the same plan as chat: lines of JSON, and events without an end of their own.

Must never: use a clock or a counter (see shapes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fastgw.sim.config import SimConfig
from fastgw.sim.engine import Answer
from fastgw.sim.shapes import JSON, BadRequestError, Message, Overrides, Plan, flatten

NDJSON: Final = b"application/x-ndjson"
EVENTS: Final = b"text/event-stream"
CREATED_AT: Final = "2026-01-01T00:00:00Z"
_encode: Final = msgspec.json.encode


class Options(msgspec.Struct):
    num_predict: int | None = None


class Parameters(msgspec.Struct):
    max_new_tokens: int | None = None
    details: bool = False


class OllamaRequest(msgspec.Struct):
    model: str | None = None
    messages: list[Message] = []
    prompt: str | None = None
    stream: bool | None = None
    options: Options | None = None


class TgiRequest(msgspec.Struct):
    inputs: str
    parameters: Parameters | None = None


class _Planned:
    """What both share: one plan."""

    __slots__ = ("_plan", "blocks", "content_type", "finish_reason", "prompt_tokens", "stream", "tokens")

    def __init__(self, plan: Plan, stream: bool, content_type: bytes) -> None:
        self._plan = plan
        self.stream = stream
        self.content_type = content_type
        self.prompt_tokens = plan.prompt_tokens
        self.blocks = plan.blocks
        self.tokens = plan.tokens
        self.finish_reason = plan.finish_reason

    def opening(self) -> Sequence[bytes]:
        return ()

    def _word(self, index: int) -> str:
        return self._plan.token(index).decode()


class OllamaShape(_Planned):
    """POST /api/chat and /api/generate: a stream, unless the request says otherwise."""

    __slots__ = ("_chat", "_model")

    def __init__(self, config: SimConfig, request: OllamaRequest, model: str, chat: bool, overrides: Overrides) -> None:
        asked = request.options.num_predict if request.options is not None else None
        prompt = "\n".join([f"{m.role}: {flatten(m.content)}" for m in request.messages]) if chat else request.prompt or ""
        plan = Plan(config, prompt, asked if asked is None or asked > 0 else None, (), overrides)
        super().__init__(plan, request.stream is not False, NDJSON)
        self._chat = chat
        self._model = model

    def _said(self, text: str, done: bool) -> dict[str, Any]:
        words: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"response": text}
        said = {"model": self._model, "created_at": CREATED_AT, **words, "done": done}
        if done:
            said |= {
                "done_reason": self.finish_reason, **({} if self._chat else {"context": [1, 2, 3]}), "total_duration": 1,
                "load_duration": 1, "prompt_eval_count": self.prompt_tokens, "prompt_eval_duration": 1,
                "eval_count": self.tokens, "eval_duration": 1,
            }  # fmt: skip
        return said

    def whole(self) -> Answer:
        return Answer(200, b"application/json; charset=utf-8", _encode(self._said(self._plan.text().decode(), True)))

    def token(self, index: int) -> bytes:
        return _encode(self._said(self._word(index), False)) + b"\n"

    def closing(self) -> Sequence[bytes]:
        return (_encode(self._said("", True)) + b"\n",)


class TgiShape(_Planned):
    """POST /generate and /generate_stream."""

    __slots__ = ("_details",)

    def __init__(self, config: SimConfig, request: TgiRequest, stream: bool, overrides: Overrides) -> None:
        given = request.parameters or Parameters()
        if not request.inputs:
            raise BadRequestError("inputs: must not be empty.", 422)
        super().__init__(Plan(config, request.inputs, given.max_new_tokens, (), overrides), stream, EVENTS)
        self._details = given.details

    def whole(self) -> Answer:
        made: dict[str, Any] = {"generated_tokens": self.tokens, "seed": None, "prefill": [], "tokens": []}
        details = {"finish_reason": self.finish_reason, **made}
        said = {"generated_text": self._plan.text().decode(), **({"details": details} if self._details else {})}
        counted = (
            (b"x-prompt-tokens", b"%d" % self.prompt_tokens), (b"x-generated-tokens", b"%d" % self.tokens),
        )  # fmt: skip
        return Answer(200, JSON, _encode(said), counted)

    def token(self, index: int) -> bytes:
        last = index == self.tokens - 1
        said: dict[str, Any] = {
            "index": index + 1, "token": {"id": index, "text": self._word(index), "logprob": -0.5, "special": False},
            "generated_text": self._plan.text().decode() if last else None,
            "details": {"finish_reason": self.finish_reason, "generated_tokens": self.tokens, "seed": None,
                        "input_length": self.prompt_tokens} if last else None,
        }  # fmt: skip
        return b"data:" + _encode(said) + b"\n\n"

    def closing(self) -> Sequence[bytes]:
        return ()
