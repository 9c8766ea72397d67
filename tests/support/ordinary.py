"""Ordinary inputs of whoever reads a peer's bytes, of about any size: what their costs are compared with.

Each is what its reader is there for, and no cheapest case: a chat request with dozens of messages and tools (nearly half of it
structure), a head of a dozen fields, of which some are new each time, a stream of chat events whose every chunk has usage in it
(as vLLM's ``continuous_usage_stats`` has them: no two are alike, so that nothing is known from the one before), vLLM's page of
metrics, a list of 50 models. The same size gives the same bytes.
"""

from __future__ import annotations

import json
import random

from hpack import Encoder

WORDS = ("the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his")


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def said(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words)) + chance.choice((".", "\n", '"?"', ""))


def chat(size: int) -> bytes:
    """A chat request of about ``size`` bytes: short messages in turns, and a tool for each two of them."""
    chance = random.Random(size)
    request: dict[str, object] = {"model": "org/model-8b-instruct", "messages": (messages := []), "tools": (tools := [])}
    left = size - 200
    while left > 0:
        message = {"role": "user" if len(messages) % 2 else "assistant", "content": said(chance, chance.randrange(4, 30))}
        messages.append(message)
        left -= len(compact(message)) + 1
        if len(messages) % 2 and left > 0:
            properties = {"place": {"type": "string", "description": said(chance, 6)}, "unit": {"enum": ["celsius", "kelvin"]}}
            parameters = {"type": "object", "properties": properties, "required": ["place"]}
            tool = {"type": "function", "function": {"name": f"get_{len(tools)}", "parameters": parameters}}
            tools.append(tool)
            left -= len(compact(tool)) + 1
    return compact({**request, "temperature": 0.7, "max_tokens": 512, "stream": True, "stream_options": {"x": None}})


def completion(size: int) -> bytes:
    """A request for completions of many short prompts."""
    chance = random.Random(size)
    return compact({"model": "m", "prompt": [said(chance, 8) for _ in range(size // 44 + 1)], "max_tokens": 16, "n": 2})


def embedding(size: int) -> bytes:
    """A request to embed a list of texts, as a retriever sends it."""
    chance = random.Random(size)
    return compact({"model": "bge-m3", "input": [said(chance, 30) for _ in range(size // 130 + 1)], "encoding_format": "float"})


def embedded(size: int, items: int = 8) -> bytes:
    """The engine's answer to one for ``items`` texts."""
    chance = random.Random(size)
    count = max(1, (size - 150) // items // 22)
    rows = [
        {"object": "embedding", "index": at, "embedding": [chance.uniform(-1, 1) for _ in range(count)]} for at in range(items)
    ]
    usage = {"prompt_tokens": 99, "total_tokens": 99, "completion_tokens": 0, "prompt_tokens_details": None}
    return compact({"id": "embd-1", "object": "list", "created": 1, "model": "bge-m3", "data": rows, "usage": usage})


def answer(size: int) -> bytes:
    """A plain answer of a chat engine, the tokens' probabilities of the prompt behind its usage."""
    chance = random.Random(size)
    choice = {"index": 0, "message": {"role": "assistant", "content": said(chance, size // 8)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 70, "total_tokens": 90, "completion_tokens": 20, "prompt_tokens_details": None}
    likely = [{str(chance.randrange(32000)): {"logprob": -chance.random(), "rank": 1, "decoded_token": said(chance, 6)}}
        for _ in range(size // 100)]  # fmt: skip
    after = {"kv_transfer_params": None, "prompt_logprobs": likely}
    return compact({"id": "c-1", "object": "chat.completion", "choices": [choice], "usage": usage, **after})


def head(size: int, turn: int = 0) -> bytes:
    """A request head of a dozen fields, two of them new each time; the length of one makes up the rest."""
    lines = [
        b"POST /v1/chat/completions HTTP/1.1", b"Host: gateway.example.net:8080", b"User-Agent: AsyncOpenAI/Python 1.99.9",
        b"Accept: application/json", b"Accept-Encoding: gzip, deflate", b"Connection: keep-alive",
        b"Authorization: Bearer sk-1234567890abcdef1234567890abcdef", b"Content-Type: application/json",
        b"X-Stainless-Lang: python", b"X-Stainless-Runtime: CPython",
        b"traceparent: 00-%032x-%016x-01" % (turn * 7919 + 1, turn * 104729 + 1), b"Content-Length: %d" % (131 + turn),
    ]  # fmt: skip
    room = size - len(b"\r\n".join(lines)) - 4
    if room > 20:
        # What makes a head long in practice: what proxies add, 300 bytes or so at a time.
        count = min(80, room // 330 + 1)
        lines += [b"X-Context-%d: %b" % (at, b"k" * (room // count - 16)) for at in range(count)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def response(size: int, turn: int = 0) -> bytes:
    """A response's head as vLLM or a proxy before it writes it."""
    lines = [
        b"HTTP/1.1 200 OK", b"date: Fri, 20 Nov 2026 13:%02d:%02d GMT" % (turn // 60 % 60, turn % 60), b"server: uvicorn",
        b"content-length: %d" % (131 + turn), b"content-type: application/json", b"x-request-id: %032x" % (turn * 7919 + 1),
        b"connection: keep-alive", b"keep-alive: timeout=5, max=100", b"vary: accept-encoding", b"cache-control: no-cache",
    ]  # fmt: skip
    room = size - len(b"\r\n".join(lines)) - 4
    if room > 20:
        count = min(160, room // 330 + 1)
        lines += [b"X-Context-%d: %b" % (at, b"k" * (room // count - 16)) for at in range(count)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def event(turn: int, text: str) -> bytes:
    usage = {"prompt_tokens": 70, "total_tokens": 70 + turn, "completion_tokens": turn}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1731999999, "model": "m", "choices": [choice]}
    return b"data: " + compact({**data, "usage": usage}) + b"\n\n"


def stream(size: int) -> bytes:
    """A stream of chat events, usage in each."""
    out = [event(0, "a")]
    count = size // len(out[0])
    return b"".join(event(turn, WORDS[turn % len(WORDS)]) for turn in range(count + 1))


def chunked(size: int) -> bytes:
    """The same stream, a chunk for each event."""
    events = [event(turn, WORDS[turn % len(WORDS)]) for turn in range(size // 270 + 1)]
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events) + b"0\r\n\r\n"


def models(size: int) -> bytes:
    """A list of 50 models, or as many as fit."""
    permission = {"id": "modelperm-1", "object": "model_permission", "created": 1, "allow_sampling": True, "organization": "*"}
    one = {"object": "model", "created": 1731999999, "owned_by": "vllm", "root": "org/model", "max_model_len": 8192}
    count = max(1, min(50, size // 280)) if size <= 16384 else size // 280
    rows = [{"id": f"org/m-{at}", **one, "permission": [permission]} for at in range(count)]
    return compact({"object": "list", "data": rows})


def page(size: int) -> bytes:
    """vLLM's page of metrics: its gauges, and histograms as far as the page goes."""
    label = 'engine="0",model_name="meta-llama/Llama-3.1-8B"'
    lines = []
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        lines += [f"# HELP vllm:{name} What it says.", f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{label}}} 0.25"]
    at = 0
    length = sum(map(len, lines))
    while length < size:
        lines.append(f'vllm:time_to_first_token_seconds_bucket{{{label},le="0.{at:03d}"}} {at}.0')
        length += len(lines[-1]) + 1
        at += 1
    return "\n".join(lines).encode()[: max(size, 400)]


def query(size: int) -> bytes:
    """A query as a client of the realtime API writes it: the model, and a session's id that makes up the rest."""
    start = b"model=org%2Fmodel-8b&intent=transcription&session="
    return start + (b"".join(word.encode() for word in WORDS) * (size // 40 + 1))[: max(0, size - len(start))]


def blocks(size: int, turn: int = 0) -> bytes:
    """The field block of such a head: most strings in Huffman's code, some fields for the table, the key for none."""
    lines = head(size, turn)[:-4].split(b"\r\n")[1:]
    pairs = [(key.lower(), value.strip()) for key, _, value in (line.partition(b":") for line in lines)]
    encoder = Encoder()
    begin: bytes = encoder.encode([(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/v1/chat/completions"), *pairs])
    return begin
