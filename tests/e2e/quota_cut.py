"""Streams under a quota that cuts, and what they are held against."""

from __future__ import annotations

import json
from typing import Any

from tests.support.client import RawResponse
from tests.support.gateway import Running

CODE = "daily_quota_exceeded"
CUT: dict[str, Any] = {"on_exhausted": "cut", "default_cost_tokens": 10}


def documents(answer: RawResponse) -> list[Any]:
    """Each event's JSON; ``[DONE]`` as it is."""
    return [event if event == "[DONE]" else json.loads(event) for event in answer.events()]


def text_of(events: list[Any]) -> str:
    found = [choice.get("delta", choice) for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(one.get("content") or one.get("text") or "" for one in found)


def record_of(gw: Running) -> dict[str, Any]:
    """Of the last stream."""
    return [one for one in gw.records if one["stream"]][-1]
