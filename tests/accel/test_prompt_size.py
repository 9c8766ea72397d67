"""How large a prompt is taken to be: both twins, and another reader that takes its time."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import twins
from fastgw.accel.members import IMAGE_TOKENS, SOUND_BYTES_PER_TOKEN
from tests.support.twins import native_twin, python_twin

SIDES: list[Any] = [python_twin("fastgw.accel.bodies"), *([native_twin("fastgw.accel.bodies")] if twins.native() else [])]

PNG = "iVBORw0KGgoAAAANSUhEUgAA"
BASE64 = PNG + "AbC/+9d=" * 75_000  # 600 kB
SOUND_TOKENS = len(BASE64) // SOUND_BYTES_PER_TOKEN
TEXT = "word " * 40_000  # 200 kB
IMAGE = "data:image/png;base64," + BASE64


def size(body: Any, per_token: int = 4) -> int:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {side.read(text, 64, 256, per_token).prompt_tokens for side in SIDES}
    assert len(found) == 1, (text[:500], found)
    return int(found.pop())


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, *parts]}]}


TOOL = {"type": "function", "function": {"name": "f", "description": TEXT}}
TEXTS: list[dict[str, Any]] = [
    chat({"type": "text", "text": TEXT}),
    {"model": "m", "messages": [], "system": TEXT},
    {"model": "m", "messages": [], "system": [{"type": "text", "text": TEXT}]},
    {"model": "m", "input": "x", "instructions": TEXT},
    {"model": "m", "messages": [], "tools": [TOOL]},
    {"model": "m", "messages": [], "response_format": {"schema": {"x": TEXT}}},
    {"model": "m", "query": "x", "documents": [TEXT]},
    {"model": "m", "prompt": [TEXT, "x"]},
    {"model": "m", "prompt": "x", "suffix": TEXT},
    # Dressed up, where an engine takes text.
    chat({"type": "text", "text": "data:image/png;base64," + "A" * 200_000}),
    chat({"type": "text", "text": PNG + "A" * 200_000}),
    {"model": "m", "messages": [{"role": "user", "content": "data:image/png;base64," + "A" * 200_000}]},
    {"model": "m", "messages": [{"role": "user", "content": {"image_url": {"url": IMAGE[:200_000]}}}]},
    chat({"type": "tool_use", "input": {"source": {"type": "base64", "media_type": "image/png", "data": "A" * 200_000}}}),
    chat({"type": "tool_use", "input": {"image_url": {"url": IMAGE[:200_000]}}}),
    chat({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A" * 200_000}}),
    chat({"type": "document", "source": {"type": "text", "media_type": "image/png", "data": "A" * 200_000}}),
    chat({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 200_000}}),
    chat({"type": "document", "source": {"data": "A" * 200_000}}),
    chat({"type": "image_url", "image_url": {"url": "data:text/plain;base64," + "A" * 200_000}}),
    chat({"type": "text", "text": "x", "data": "A" * 200_000}),
    {"model": "m", "messages": [], "tools": [{"image_url": {"url": IMAGE[:200_000]}}]},
    {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"image_url": {"url": IMAGE[:200_000]}}]}]},
    {"model": "m", "system": [{"type": "image_url", "image_url": {"url": IMAGE[:200_000]}}], "messages": []},
]


@pytest.mark.parametrize("body", TEXTS, ids=range(len(TEXTS)))
def test_all_that_becomes_prompt_counts(body: dict[str, Any]) -> None:
    assert size(body) >= 200_000 // 4
    assert size(body) == -(-len(json.dumps(body)) // 4)
    assert size(body, 1) == len(json.dumps(body))  # as many as there are bytes, at most


ATTACHED: list[tuple[dict[str, Any], int]] = [
    (chat({"type": "image_url", "image_url": {"url": IMAGE}}), IMAGE_TOKENS),
    (chat({"type": "image_url", "image_url": {"detail": "low", "url": IMAGE}}), IMAGE_TOKENS),
    (chat({"type": "input_image", "image_url": IMAGE}), IMAGE_TOKENS),
    ({"model": "m", "input": chat({"type": "input_image", "image_url": IMAGE})["messages"]}, IMAGE_TOKENS),
    ({"model": "m", "input": [{"type": "function_call_output", "output": [{"image_url": IMAGE}]}]}, IMAGE_TOKENS),
    (chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}}), IMAGE_TOKENS),
    (chat({"type": "image", "source": {"data": BASE64, "media_type": "image/png", "type": "base64"}}), IMAGE_TOKENS),
    (chat({"type": "tool_result", "content": chat({"source": {"type": "base64", "media_type": "image/gif", "data": BASE64}})
           ["messages"][0]["content"]}), IMAGE_TOKENS),
    (chat(*[{"type": "image_url", "image_url": {"url": IMAGE}}] * 3), 3 * IMAGE_TOKENS),
    (chat({"type": "input_audio", "input_audio": {"data": BASE64, "format": "mp3"}}), SOUND_TOKENS),
    (chat({"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + BASE64}}), SOUND_TOKENS),
    (chat({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}), IMAGE_TOKENS),
    (chat({"type": "input_image", "image_url": "https://a.example/b.png"}), IMAGE_TOKENS),
    (chat({"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}), IMAGE_TOKENS),
    (chat({"type": "image_url", "image_url": {"url": IMAGE[:2000]}}), 500),  # what is small is no more than its bytes
]  # fmt: skip


@pytest.mark.parametrize(("body", "tokens"), ATTACHED, ids=range(len(ATTACHED)))
def test_a_picture_counts_by_what_it_is(body: dict[str, Any], tokens: int) -> None:
    for text in (json.dumps(body), json.dumps(body).replace("/", "\\/"), json.dumps(body, indent=1)):
        assert tokens <= size(text.encode()) <= 1.15 * tokens + 150


def test_each_url_is_an_image_where_things_are_many_too() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}] * 50
    assert 50 * IMAGE_TOKENS <= size({"model": "m", "messages": messages}) <= 52 * IMAGE_TOKENS
    hidden = json.dumps(chat({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}))
    for escaped in (hidden.replace("image_url", "im\\u0061ge_url"), hidden.replace('"url"', '"u\\u0072l"')):
        assert size(escaped.encode()) >= IMAGE_TOKENS


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_ids_count_by_how_many_they_are(name: str) -> None:
    assert 1000 <= size({"model": "m", name: [1] * 1000}) <= 1010
    assert 1000 <= size({"model": "m", name: [123_456] * 1000}) <= 1010
    assert 1000 <= size({"model": "m", name: [[1, 2], [3, 4]] * 250}) <= 1010
    assert 1000 <= size(json.dumps({"model": "m", name: ["a", *[1] * 1000]}, separators=(",", ":")).encode()) <= 1600


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_chinese_character_is_about_a_token(ascii_only: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "\u4f60\u597d" * 1000}]}, ensure_ascii=ascii_only)
    assert 3000 <= size(body.encode()) <= 3020
    assert size(body.encode(), 1) == len(body.encode())


# ---- any messages

PICTURE = st.sampled_from([
    IMAGE[:9000], "data:image/", "https://x", "", "data:audio/x" * 99, "a" * 5000, "data:text/a", "base64", "text", "image/png",
    "\u00e9" * 3, "my_url",
])  # fmt: skip
KEY = st.sampled_from([
    "image_url", "url", "source", "data", "type", "media_type", "content", "output", "input_audio", "audio_url", "x", "text",
    "a_url", "_url", "video_url", "input", "\u00e9", "\u0131mage_url", "s ource",
])  # fmt: skip
VALUE = st.recursive(
    PICTURE | st.none() | st.integers(-3, 10**6) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=5),
    max_leaves=25,
)
SAID = ("type", "media_type", "data", "url")
SOURCE = st.fixed_dictionaries({}, optional={**dict.fromkeys(SAID, PICTURE), "x": VALUE})
WITH_URL = st.fixed_dictionaries({}, optional={"url": PICTURE, "data": PICTURE, "y": VALUE})
PART = st.fixed_dictionaries({}, optional={
    "image_url": WITH_URL | PICTURE, "source": SOURCE, "input_audio": WITH_URL, "video_url": WITH_URL | VALUE, "text": PICTURE,
    "content": st.lists(VALUE, max_size=2)})  # fmt: skip
CONTENT = st.lists(PART | VALUE, max_size=4) | VALUE
MESSAGES = VALUE | st.lists(st.fixed_dictionaries({}, optional={"content": CONTENT, "z": VALUE}))
NAMES = st.sampled_from(["messages", "input", "prompt"])


def spelt(value: Any, chance: random.Random) -> str:
    """``value`` in one of many ways; names come twice, and some of them with escapes."""

    def space() -> str:
        return chance.choice(["", "", "", " ", "\n\t"])

    def text(one: str, name: bool = False) -> str:
        if one and chance.random() < (0.1 if name else 0.02):
            at = chance.randrange(len(one))
            return json.dumps(one[:at])[:-1] + f"\\u{ord(one[at]):04x}" + json.dumps(one[at + 1 :])[1:]
        return json.dumps(one, ensure_ascii=chance.random() < 0.5).replace("/", chance.choice(["/", "/", "\\/"]))

    def write(one: Any) -> str:
        if isinstance(one, dict):
            pairs = [*one.items(), *([chance.choice([*one.items()])] if one and chance.random() < 0.1 else [])]
            return "{" + ",".join(f"{space()}{text(k, True)}{space()}:{space()}{write(v)}{space()}" for k, v in pairs) + "}"
        if isinstance(one, list):
            return "[" + ",".join(space() + write(item) + space() for item in one) + "]"
        return text(one) if isinstance(one, str) else json.dumps(one)

    return write(value)


@settings()
@given(MESSAGES, MESSAGES, NAMES, st.randoms(use_true_random=False), st.integers(1, 8))
def test_both_twins_say_the_same(one: Any, other: Any, name: str, chance: random.Random, per_token: int) -> None:
    body = f'{{"model":"m","{name}":{spelt(one, chance)},"tools":{spelt(other, chance)}}}'.encode()
    said = {side.read(body, 64, 256, per_token).prompt_tokens for side in SIDES}
    said |= {side.outline(body, 64, 256, per_token).prompt_tokens for side in SIDES}
    assert len(said) == 1, body
    assert said.pop() >= 1
