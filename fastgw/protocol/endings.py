"""The last event of a stream that the gateway ends itself, in the shape of the stream's own protocol.

A stream that is cut for length looks like one that reached its ``max_tokens``, and says why beside it: clients that do not
look for errors in streams see a complete answer, shorter than it might have been; OpenAI's SDKs hand out all of it, and
then raise. Sources: OpenAI's chat and completion chunk
objects (``finish_reason``), Anthropic's streaming messages (``message_delta``, ``stop_reason``), OpenAI's responses
(``response.incomplete``).
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_CHOICES: Final = 128  # answers of one request that get a last event each

_encode: Final = msgspec.json.Encoder().encode


def cut_event(
    path: str, model: str, request_id: bytes, choices: int, tokens: int, error: dict[str, object], created: int
) -> bytes:
    """What ends a stream of the endpoint ``path`` for length, ``error`` beside it; nothing where no such event is known.

    ``choices``: how many answers the stream carries. ``tokens``: what was produced. ``created``: Unix seconds.
    """
    name = request_id.decode("latin-1")
    if path in ("/v1/chat/completions", "/v1/completions"):
        chat = path == "/v1/chat/completions"
        ends: list[dict[str, object]] = [
            {"index": index, **({"delta": {}} if chat else {"text": ""}), "logprobs": None, "finish_reason": "length"}
            for index in range(min(choices, MAX_CHOICES))
        ]
        event = {
            "id": f"chatcmpl-{name}" if chat else f"cmpl-{name}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
            "choices": ends,
            "error": error,
        }
        return b"data: %b\n\ndata: [DONE]\n\n" % _encode(event)
    if path == "/v1/messages":
        # Its text block is open still: a client that assembles the message waits for the end of it.
        stop = {"type": "content_block_stop", "index": 0}
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": tokens},
            "error": error,
        }
        events = (("content_block_stop", stop), ("message_delta", delta), ("message_stop", {"type": "message_stop"}))
        return b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(event)) for kind, event in events)
    if path == "/v1/responses":
        event = {
            "type": "response.incomplete",
            "response": {
                "id": f"resp_{name}",
                "object": "response",
                "created_at": created,
                "model": model,
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "error": error,
                "output": [],
            },
        }
        return b"event: response.incomplete\ndata: %b\n\n" % _encode(event)
    return b""
