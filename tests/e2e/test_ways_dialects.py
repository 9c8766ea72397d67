"""Ollama's and TGI's own APIs on all ways: the same bytes and the same figures, whichever protocol the two ends speak."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from tests.support.client import request
from tests.support.ways.way import KEY, Way, all_ways

WORDS = ("a", "Hé", "🙂")
LINES = b"".join(json.dumps({"message": {"content": word}, "done": False}).encode() + b"\n" for word in WORDS)
OLLAMA = LINES + b'{"message":{"content":""},"done":true,"prompt_eval_count":11,"eval_count":4}\n'
TOKENS = b"".join(b"data:" + json.dumps({"token": {"id": 1, "text": word}}).encode() + b"\n\n" for word in WORDS)
TGI = TOKENS + b'data:{"token":{"id":2,"text":"","special":true},"details":{"generated_tokens":4,"input_length":11}}\n\n'
KINDS: dict[str, tuple[str, bytes, dict[str, Any], bytes]] = {
    "ollama": ("/api/chat", b"application/x-ndjson", {"model": "m", "messages": []}, OLLAMA),
    "tgi": ("/generate_stream", b"text/event-stream", {"inputs": "x"}, TGI),
}


def call(path: str, document: dict[str, Any]) -> bytes:
    return request("POST", path, key=KEY, body=json.dumps(document).encode())


@all_ways
@pytest.mark.parametrize("kind", KINDS)
async def test_however_it_is_cut_and_where_it_breaks_off(kind: str, way: Way) -> None:
    path, media, document, whole = KINDS[kind]
    dice = random.Random(5)
    cuts = [[whole], [whole[at : at + 1] for at in range(len(whole))]]
    for _ in range(4):
        marks = sorted({0, len(whole), *(dice.randrange(len(whole)) for _ in range(6))})
        cuts.append([whole[begin:end] for begin, end in itertools.pairwise(marks)])
    turns = iter(cuts)

    async def play(turn: Any) -> None:
        pieces = next(turns, None)
        await turn.head(b"content-type: " + media)
        for piece in pieces or [whole[: whole.index(b"\n", 60) + 1]]:
            await turn.data(piece)
        if pieces is None:
            await turn.breaks("rst")
        else:
            await turn.end()

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for pieces in cuts:
            answer = await client.asks(call(path, document))
            assert (answer.complete, answer.body) == (True, whole), pieces
        told = {(one["prompt_tokens"], one["completion_tokens"], one["estimated"], one["outcome"]) for one in gw.records}
        assert told == {(11, 4, False, "ok")}
        answer = await client.asks(call(path, document))
        assert not answer.complete
        await gw.idle()
        assert (gw.records[-1]["outcome"], gw.records[-1]["estimated"]) == ("truncated", True)
        assert 1 <= gw.records[-1]["completion_tokens"] <= 2
