"""What is sent: the bytes of each request, and the growing history of a session."""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec

from fastgw import __version__
from fastgw.bench.plan import PATHS, Plan
from fastgw.bench.prompts import Prompts

MAX_HISTORY_BYTES: Final = 16 << 20
"""A session whose history is longer ends."""


class Bodies:
    """Makes requests. Those that are all alike are made once."""

    __slots__ = ("_alike", "_heads", "_numbers", "_plan", "_prompts")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._prompts = Prompts(plan.seed, plan.shared_tokens)
        self._numbers = itertools.count()
        self._alike: dict[bool, bytes] = {}
        fields = [
            f"POST {plan.address.base}{PATHS[plan.api]} HTTP/1.1",
            f"Host: {plan.address.authority}",
            f"User-Agent: fastgw-bench/{__version__}",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {plan.key}"] if plan.key else []),
            *(f"{name}: {value}" for name, value in plan.fields),
        ]
        self._heads = {
            stream: "\r\n".join([*fields, f"Accept: {accept}", "Content-Length: "]).encode("latin-1")
            for stream, accept in ((False, "application/json"), (True, "text/event-stream"))
        }

    def prompt(self, tokens: int) -> str:
        """A user's words: so many tokens of them, unlike all before, or the plan's where that is 0."""
        return self._prompts.text(tokens, next(self._numbers)) if tokens else self._plan.prompt

    def alike(self, stream: bool) -> bytes | None:
        """The request, where all are the same."""
        plan = self._plan
        if plan.prompt_tokens or plan.turns > 1:
            return None
        if stream not in self._alike:
            self._alike[stream] = self.request([("user", plan.prompt)], plan.max_tokens, stream)
        return self._alike[stream]

    def request(self, history: list[tuple[str, str]], max_tokens: int, stream: bool) -> bytes:
        """Head and body, for what was said so far by whom."""
        plan = self._plan
        body: dict[str, Any] = {"model": plan.model}
        if plan.api == "chat":
            body["messages"] = [{"role": role, "content": text} for role, text in history]
        else:
            body["prompt"] = "\n".join(text for _, text in history)
        body |= {"max_tokens": max_tokens, "stream": stream}
        if stream and plan.usage:
            body["stream_options"] = {"include_usage": True}
        encoded = msgspec.json.encode(body | plan.extra)
        return b"%b%d\r\n\r\n%b" % (self._heads[stream], len(encoded), encoded)
