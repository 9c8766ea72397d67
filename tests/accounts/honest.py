"""Engines that are honest: they stop where they were told to, by the rule of their kind, and say truly what they used.

Owns: those rules, and what was produced for whom. Up to their bound they produce as much as they like, at any speed; told
nothing, they go on for very long. Some of the time an engine is busy, dies, or says nothing of usage. Must never: know
fastgw, its limits or its keys.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.sim.scripted import RawRequest

ENDLESS: Final = 6000
"""What an engine produces that was told no bound: as much as one test has time for."""

BYTES_PER_TOKEN: Final = 4
DONE: Final = b"data: [DONE]\n\n"
_MARK: Final = re.compile(rb"#(\d+)#")


def mark(number: int) -> str:
    """How a prompt says whose it is."""
    return f"#{number}#"


# --- the bound that each kind of engine takes from a request, for each answer; None = no bound


def _number(value: Any) -> int | None:
    """A limit as lenient parsers read it: whole floats and digits in a string are numbers, what is below 1 is none."""
    if isinstance(value, str) and value.lstrip("-").isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        return None
    return int(value) if value >= 1 else None


def _first(*names: str) -> Callable[[dict[str, Any]], int | None]:
    """The first of the names that is there decides, whatever it says."""

    def bound(body: dict[str, Any]) -> int | None:
        return next((_number(body[name]) for name in names if body.get(name) is not None), None)

    return bound


RULES: Final[dict[str, dict[str, Callable[[dict[str, Any]], int | None]]]] = {
    "vllm": {"chat": _first("max_completion_tokens", "max_tokens"), "completions": _first("max_tokens")},
    "sglang": {"chat": _first("max_tokens", "max_completion_tokens"), "completions": _first("max_tokens")},
    "tgi": {"chat": _first("max_tokens", "max_completion_tokens"), "completions": _first("max_tokens")},
    "llamacpp": {
        "chat": _first("n_predict", "max_completion_tokens", "max_tokens"),
        "completions": _first("n_predict", "max_completion_tokens", "max_tokens"),
        "responses": _first("n_predict", "max_completion_tokens", "max_output_tokens"),
    },
    "ollama": {"chat": _first("max_tokens"), "completions": _first("max_tokens")},
}
KINDS: Final = tuple(RULES)
_PATHS: Final = {
    b"/v1/chat/completions": "chat", b"/v1/completions": "completions", b"/v1/responses": "responses",
    b"/v1/messages": "messages", b"/v1/embeddings": "embeddings",
}  # fmt: skip


def bound_of(kind: str, api: str, body: dict[str, Any]) -> tuple[int | None, int]:
    """(the most tokens of each answer, how many answers)."""
    if api == "messages":
        return _number(body.get("max_tokens")), 1
    answers = _number(body.get("n")) or 1
    if kind == "llamacpp":  # it calls them so, and makes several in the Responses API too
        answers = max(answers, _number(body.get("n_cmpl")) or 1)
    if api == "responses":
        return RULES[kind].get(api, _first("max_output_tokens"))(body), answers if kind == "llamacpp" else 1
    if api == "completions" and kind in ("vllm", "sglang") and not body.get("stream"):
        answers = max(answers, _number(body.get("best_of")) or 1)
    if api == "completions" and isinstance(body.get("prompt"), list):
        answers *= len(body["prompt"])
    return RULES[kind][api](body), answers


def texts_of(value: Any) -> Iterator[str]:
    """All strings in a body that a template may put before the model."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts_of(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in ("model", "role", "type"):
                yield from texts_of(one)


# --- what is produced


@dataclass(slots=True)
class Work:
    """One request as an engine has it. ``told``: the engine's word reaches the gateway; ``over``: nothing more is produced.

    ``lost``: it was broken off, by whomever, so that nobody can know all of what was produced.
    """

    number: int
    prompt: int
    made: int = 0
    answers: int = 1  # of which the engine tells the figures of one, and so of the prompts
    prompts: int = 1
    told: bool = False
    streamed: bool = False
    over: bool = False
    lost: bool = False
    numbers: list[int] = field(default_factory=list)
    request_id: bytes = b""

    @property
    def produced(self) -> int:
        return self.prompt + self.made


Watcher = Callable[[Work], None]


class HonestEngine:
    """One engine of ``kind``; ``watch`` is told of each request as it begins, after each step, and at its end."""

    def __init__(self, kind: str, seed: int, watch: Watcher, *, trouble: float = 0.0) -> None:
        self.kind = kind
        self._chance = random.Random(seed)
        self._watch = watch
        self._trouble = trouble
        self._engine = ScriptedEngine(self._serve)
        self.work: dict[int, list[Work]] = {}

    async def __aenter__(self) -> HonestEngine:
        await self._engine.start()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._engine.__aexit__(*exc)

    @property
    def url(self) -> str:
        return self._engine.url

    async def _serve(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"GET":
                await conn.send(_plain(b"200 OK", b'{"object":"list","data":[]}'))
                continue
            work: Work | None = None
            try:
                work = self._begin(seen)
                if not await self._answer(conn, seen, work):
                    return
            finally:
                if work is not None and not work.over:
                    work.lost = True
                    self._end(work)

    def _begin(self, seen: RawRequest) -> Work:
        body = json.loads(seen.body)
        numbers = [int(found) for found in _MARK.findall(seen.body)]
        size = sum(len(text.encode()) for text in texts_of(body))
        # A token for four bytes at most, often fewer: there are vocabularies that pack better.
        prompt = max(1, int(size // BYTES_PER_TOKEN * self._chance.choice([1.0, 1.0, 0.6])))
        work = Work(numbers[0], prompt, streamed=bool(body.get("stream")), numbers=numbers)
        work.request_id = seen.header(b"x-request-id") or b""
        self.work.setdefault(work.number, []).append(work)
        self._watch(work)
        return work

    def _end(self, work: Work) -> None:
        work.over = True
        self._watch(work)

    async def _answer(self, conn: ScriptedConnection, seen: RawRequest, work: Work) -> bool:
        chance = self._chance
        body = json.loads(seen.body)
        if chance.random() < self._trouble:
            work.lost = True
            self._end(work)
            if chance.random() < 0.5:
                return False
            await conn.send(_plain(chance.choice([b"503 Busy", b"500 Oops", b"400 No"]), b'{"error":{"message":"no"}}'))
            return True
        api = _PATHS[seen.target]
        if api == "embeddings":
            await self._embed(conn, body, work)
            return True
        bound, answers = bound_of(self.kind, api, body)
        most = (ENDLESS if bound is None else bound) * answers
        if bound is not None and chance.random() < 0.35:
            most = chance.randint(0, most)
        if self.kind == "llamacpp":
            # What it says are the figures of one of its answers: here they are all alike.
            work.answers = answers
            work.prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) and api == "completions" else 1
            work.prompt = max(work.prompts, work.prompt - work.prompt % work.prompts)
            most -= most % answers
        if work.streamed:
            return await self._stream(conn, api, body, work, min(most, ENDLESS))
        await self._whole(conn, api, work, most)
        return True

    async def _whole(self, conn: ScriptedConnection, api: str, work: Work, most: int) -> None:
        for share in (most // 3, most):
            work.made = share
            self._watch(work)
            await asyncio.sleep(0)
        work.told = True
        value: dict[str, Any] = {"id": "a", "text": "word " * min(most, 4000), "usage": _usage(api, work)}
        self._end(work)
        await conn.send(_plain(b"200 OK", json.dumps(value).encode()))

    async def _embed(self, conn: ScriptedConnection, body: dict[str, Any], work: Work) -> None:
        await asyncio.sleep(0)
        work.told = True
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        rows = [{"object": "embedding", "index": at, "embedding": [0.5, len(one)]} for at, one in enumerate(inputs)]
        usage = {"total_tokens": work.prompt}
        if self.kind != "vllm":
            usage["prompt_tokens"] = work.prompt
        self._end(work)
        value = {"object": "list", "data": rows, "model": "m", "usage": usage}
        if self.kind == "llamacpp":
            value = {"usage": usage, **value}
        await conn.send(_plain(b"200 OK", json.dumps(value).encode()))

    async def _stream(self, conn: ScriptedConnection, api: str, body: dict[str, Any], work: Work, most: int) -> bool:
        chance = self._chance
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        step = chance.choice([1, 7, 50, most or 1]) if most < 60 else chance.choice([50, 400, most])
        dies = chance.random() < self._trouble / 2
        while work.made < most:
            count = min(step, most - work.made)
            work.made += count
            self._watch(work)
            await conn.send(b"".join(_chunk(_token(api)) for _ in range(count)))
            await asyncio.sleep(0 if chance.random() < 0.8 else 0.001)
            if conn.closed_s is not None:
                return False  # the gateway has left: so does an engine
            if dies:
                return False
        asked = (body.get("stream_options") or {}).get("include_usage")
        last = _last(api, work, self.kind, bool(asked))
        work.told = last != DONE
        self._end(work)
        await conn.send(_chunk(last) + b"0\r\n\r\n")
        return True


def _usage(api: str, work: Work) -> dict[str, int]:
    prompt, made = work.prompt // work.prompts, work.made // work.answers
    if api in ("chat", "completions"):
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return {"input_tokens": prompt, "output_tokens": made}


def _token(api: str) -> bytes:
    return {
        "chat": b'data: {"choices":[{"index":0,"delta":{"content":"la "}}]}\n\n',
        "completions": b'data: {"choices":[{"index":0,"text":"la "}]}\n\n',
        "responses": b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"la "}\n\n',
        "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"la "}}\n\n',
    }[api]


def _last(api: str, work: Work, kind: str, asked: bool) -> bytes:
    """How a stream ends: it says what it used, where the engine was asked, or does so by itself, and then its last word."""
    if api in ("chat", "completions"):
        if kind == "llamacpp":
            prompt = work.prompt // work.prompts
            timings = {"cache_n": prompt // 2, "prompt_n": prompt - prompt // 2, "predicted_n": work.made // work.answers}
            value: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "timings": timings}
        elif asked:
            value = {"choices": [], "usage": _usage(api, work)}
        else:
            return DONE
        return b"data: " + json.dumps(value).encode() + b"\n\n" + DONE
    if api == "responses":
        value = {"type": "response.completed", "response": {"text": "la " * work.made, "usage": _usage(api, work)}}
    else:
        value = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _usage(api, work)}
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n' if api == "messages" else b""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode()) + stop


def _plain(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
