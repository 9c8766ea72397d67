"""OpenAI's Responses API and Anthropic's Messages API: streams of named events, rendered from the same plan as chat.

Must never: use a clock or a counter (see shapes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fastgw.sim.config import SimConfig
from fastgw.sim.engine import Answer
from fastgw.sim.shapes import CREATED, JSON, SSE, BadRequestError, Generate, Overrides, Plan, flatten


class NamedEvents:
    """What the two shapes share: one plan, and events with an ``event:`` line."""

    __slots__ = (
        "_end",
        "_line",
        "_model",
        "_plan",
        "_sequence",
        "blocks",
        "content_type",
        "finish_reason",
        "prompt_tokens",
        "stream",
        "tokens",
    )

    def __init__(self, config: SimConfig, request: Generate, model: str, plan: Plan) -> None:
        self._plan = plan
        self._model = model
        self._line = b"\r\n" if config.sep == "crlf" else b"\n"
        self._end = self._line * 2
        self._sequence = 0
        self.stream = bool(request.stream)
        self.content_type = SSE
        self.prompt_tokens = plan.prompt_tokens
        self.blocks = plan.blocks
        self.tokens = plan.tokens
        self.finish_reason = plan.finish_reason

    def _event(self, kind: str, **fields: Any) -> bytes:
        return b"event: " + kind.encode() + self._line + b"data: " + msgspec.json.encode({"type": kind, **fields}) + self._end

    def _word(self, index: int) -> str:
        return self._plan.token(index).decode()


class ResponsesShape(NamedEvents):
    """POST /v1/responses."""

    __slots__ = ()

    def __init__(self, config: SimConfig, request: Generate, model: str, overrides: Overrides) -> None:
        if request.input is None:
            raise BadRequestError("input: this field is required.", param="input")
        plan = Plan(config, flatten(request.input), request.max_output_tokens, (), overrides, model)
        super().__init__(config, request, model, plan)

    def whole(self) -> Answer:
        return Answer(200, JSON, msgspec.json.encode(self._response(done=True)))

    def opening(self) -> Sequence[bytes]:
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return (
            self._numbered("response.created", response=self._response(done=False)),
            self._numbered("response.in_progress", response=self._response(done=False)),
            self._numbered("response.output_item.added", output_index=0, item=item),
            self._numbered("response.content_part.added", item_id=self._item, output_index=0, content_index=0, part=part),
        )

    def token(self, index: int) -> bytes:
        return self._numbered(
            "response.output_text.delta",
            item_id=self._item,
            output_index=0,
            content_index=0,
            delta=self._word(index),
            logprobs=[],
        )

    def closing(self) -> Sequence[bytes]:
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        text = self._plan.text().decode()
        return (
            self._numbered("response.output_text.done", **place, text=text, logprobs=[]),
            self._numbered("response.content_part.done", **place, part=self._part(text)),
            self._numbered("response.output_item.done", output_index=0, item=self._message(text)),
            self._numbered("response." + self._ended, response=self._response(done=True)),
        )

    @property
    def _ended(self) -> str:
        return "incomplete" if self.finish_reason == "length" else "completed"

    @property
    def _item(self) -> str:
        return "msg_" + self._plan.digest[:24]

    def _numbered(self, kind: str, **fields: Any) -> bytes:
        number = self._sequence
        self._sequence += 1
        return self._event(kind, sequence_number=number, **fields)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _message(self, text: str) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "status": "completed", "role": "assistant", "content": [self._part(text)]}

    def _response(self, done: bool) -> dict[str, Any]:
        cut = self._ended == "incomplete"
        usage = {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.tokens,
        }
        return {
            "id": "resp_" + self._plan.digest[:24],
            "object": "response",
            "created_at": CREATED,
            "status": self._ended if done else "in_progress",
            "incomplete_details": {"reason": "max_output_tokens"} if done and cut else None,
            "error": None,
            "instructions": None,
            "metadata": {},
            "model": self._model,
            "output": [self._message(self._plan.text().decode())] if done else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage if done else None,
        }


class MessagesShape(NamedEvents):
    """POST /v1/messages."""

    __slots__ = ()

    def __init__(self, config: SimConfig, request: Generate, model: str, overrides: Overrides) -> None:
        if not request.messages:
            raise BadRequestError("messages: at least one message is required.", param="messages")
        if request.max_tokens is None:
            raise BadRequestError("max_tokens: Field required", param="max_tokens")
        prompt = "\n".join([flatten(request.system), *[f"{m.role}: {flatten(m.content)}" for m in request.messages]])
        plan = Plan(config, prompt, request.max_tokens, request.stop_sequences or (), overrides, model)
        super().__init__(config, request, model, plan)

    def whole(self) -> Answer:
        content = [{"type": "text", "text": self._plan.text().decode()}]
        return Answer(200, JSON, msgspec.json.encode(self._message(content, self._stop_reason, self.tokens)))

    def opening(self) -> Sequence[bytes]:
        return (
            self._event("message_start", message=self._message([], None, 0)),
            self._event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        )

    def token(self, index: int) -> bytes:
        return self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": self._word(index)})

    def closing(self) -> Sequence[bytes]:
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        return (
            self._event("content_block_stop", index=0),
            self._event("message_delta", delta=delta, usage={"output_tokens": self.tokens}),
            self._event("message_stop"),
        )

    @property
    def _stop_reason(self) -> str:
        return "max_tokens" if self.finish_reason == "length" else "end_turn"

    def _message(self, content: list[dict[str, str]], stop_reason: str | None, output: int) -> dict[str, Any]:
        return {
            "id": "msg_" + self._plan.digest[:24],
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": output},
        }
