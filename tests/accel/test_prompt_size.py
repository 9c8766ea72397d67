"""How large a prompt is taken to be: both twins, and another reader that takes its time."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import twins
from fastgw.accel.attached import IMAGE_TOKENS, SOUND_BYTES_PER_TOKEN
from fastgw.accel.prompts import PAIR_TOKENS
from tests.support.frame import prompt_bytes, prompt_estimate
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
    chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 200_000, "type ": "text"}}),
    chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": {"x": "A" * 200_000}}}),
    {"model": "m", "messages": [{"role": "user", "image": IMAGE[:200_000], "content": "x"}]},
    {"model": "m", "documents": [{"text": IMAGE[:200_000]}]},
    {"model": "m", "documents": [IMAGE[:200_000]]},
    {"model": "m", "prompt": {"prompt_string": BASE64[:200_000]}},
    {"model": "m", "messages": [{"multimodal_data": [BASE64[:200_000]]}]},
    {"model": "m", "messages": [], "prompt_x": {"multimodal_data": [BASE64[:200_000]]}},
    chat({"type": "image_url", "image_url": {"url": "data:text/plain;base64," + "A" * 200_000}}),
    chat({"type": "text", "text": "x", "data": "A" * 200_000}),
    {"model": "m", "messages": [], "tools": [{"image_url": {"url": IMAGE[:200_000]}}]},
    {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"image_url": {"url": IMAGE[:200_000]}}]}]},
    {"model": "m", "system": [{"type": "image_url", "image_url": {"url": IMAGE[:200_000]}}], "messages": []},
]


@pytest.mark.parametrize("body", TEXTS, ids=range(len(TEXTS)))
def test_all_that_becomes_prompt_counts(body: dict[str, Any]) -> None:
    assert size(body) >= 200_000 // 4
    # (A picture in a form that nobody knows is its text and a picture, and what is compared has marks of its own.)
    more = size(body) - prompt_estimate(json.dumps(body).encode())
    assert more in (0, PAIR_TOKENS, IMAGE_TOKENS)
    assert size(body, 1) == prompt_bytes(json.dumps(body).encode()) + more  # as many as there are bytes, at most


FRAMES: list[dict[str, Any]] = [
    {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3}, {"n": 2, "stream": None},
    {"max_completion_tokens": 10**6, "model": "m" * 256}, {"max_output_tokens": 7, "model": "meta/llama-\u4f60"},
]  # fmt: skip
SAID: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hi"}]}, {"prompt": "hi"}, {"input": "hi"}, {"prompt": [1, 2]},
    {"input": [{"role": "user", "content": "hi"}]}, {"query": "hi", "documents": ["you"]}, {"system": "hi"}, {},
]


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_how_an_answer_is_to_be_is_no_prompt(said: dict[str, Any]) -> None:
    """However much a body says of that: a greeting is a greeting."""
    least = size({"model": "m", **said})
    assert least <= 8 + len(json.dumps(said)) // 3
    for frame in FRAMES:
        for body in ({"model": "m", **frame, **said}, {**said, "model": "m", **frame}):
            for text in (json.dumps(body), json.dumps(body, ensure_ascii=False, separators=(",", ":"))):
                assert size(text.encode()) <= least + 2 * len(frame) + 2


WITH_IMAGE = {"type": "image_url", "image_url": {"url": IMAGE}}
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
    (chat({"type": "image_url", "image_url": {"url": IMAGE[:90]}}), IMAGE_TOKENS),  # engines make hundreds of a single pixel
    (chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}), IMAGE_TOKENS),
    (chat({"type": "image", "source": {"type": "base64", "data": PNG}}), IMAGE_TOKENS),
    ({"model": "m", "messages": [*[{"role": "user", "content": "hi"}] * 71, *chat(WITH_IMAGE)["messages"]]},
     IMAGE_TOKENS + 620),
    ({"model": "m", "messages": [*[{"role": "user", "content": [{"type": "text", "text": "hi"}]}] * 40,
                                 *chat(WITH_IMAGE, WITH_IMAGE)["messages"]]}, 2 * IMAGE_TOKENS + 650),
    (chat(*[{"type": "image_url", "image_url": {"url": IMAGE[:120]}}] * 150), 150 * IMAGE_TOKENS + 5700),
    # Where engines take pictures and no text, beside chats.
    ({"model": "m", "query": "x", "documents": [{"image": IMAGE}]}, IMAGE_TOKENS),
    ({"model": "m", "query": {"image": IMAGE}, "documents": ["x"]}, IMAGE_TOKENS),
    ({"model": "m", "query": {"content": [WITH_IMAGE]}, "documents": ["x"]}, IMAGE_TOKENS),
    ({"model": "m", "query": "x", "documents": {"content": [WITH_IMAGE, WITH_IMAGE]}}, 2 * IMAGE_TOKENS),
    ({"model": "m", "text_1": "x", "text_2": [{"content": [WITH_IMAGE]}]}, IMAGE_TOKENS),
    ({"model": "m", "text_1": {"content": [WITH_IMAGE]}, "text_2": "x"}, IMAGE_TOKENS),
    ({"model": "m", "input": [{"image": IMAGE}, {"image": IMAGE}]}, 2 * IMAGE_TOKENS),
    ({"model": "m", "input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": IMAGE}}]},
     IMAGE_TOKENS),
    ({"model": "m", "prompt": {"prompt_string": "<__media__>", "multimodal_data": [BASE64[:200_000]]}}, IMAGE_TOKENS),
    ({"model": "m", "prompt": [{"prompt_string": "<__media__>", "multimodal_data": [PNG, PNG]}]}, 2 * IMAGE_TOKENS),
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
    assert 1000 <= size({"model": "m", name: [[1, 2], [3, 4]] * 250}) <= 1010 + 2 * 500
    assert 1000 <= size(json.dumps({"model": "m", name: ["a", *[1] * 1000]}, separators=(",", ":")).encode()) <= 1600


def pairs(ones: Any, many: Any, one: str = "query", other: str = "documents") -> dict[str, Any]:
    return {"model": "m", one: ones, other: many}


Q = "q" * 400  # 100 tokens
PAIRS: list[tuple[dict[str, Any], int]] = [
    (pairs(Q, ["d" * 40] * 100), 100 * 100 + 100 * 10),
    (pairs(Q, [{"text": "d" * 40}] * 100), 100 * 100 + 100 * 10),
    (pairs(Q, {"content": [{"type": "text", "text": "d" * 40}] * 50}), 100 * 100 + 50 * 20),  # (each comma might be another)
    (pairs([Q], ["d" * 40] * 100, "text_1", "text_2"), 100 * 100 + 100 * 10),
    (pairs(Q, ["d" * 40] * 100, "text_1", "text_2"), 100 * 100 + 100 * 10),
    (pairs([Q] * 100, ["d" * 40] * 100, "text_1", "text_2"), 100 * 100 + 100 * 10),  # one by one
    (pairs(Q, ["d" * 40] * 100, "query", "texts"), 100 * 100 + 100 * 10),
    (pairs(Q, ["d" * 40] * 100, "query", "items"), 100 * 100 + 100 * 10),
    (pairs([7] * 100, [[8] * 10] * 100, "query", "items"), 100 * 100 + 100 * 10),
    (pairs([Q], ["d" * 40] * 100, "queries", "documents"), 100 * 100 + 100 * 10),
    (pairs([Q] * 100, ["d" * 40] * 100, "queries", "items"), 100 * 100 + 100 * 10),
    (pairs(Q, ["d" * 40] * 100, "data_1", "data_2"), 100 * 100 + 100 * 10),
    (pairs({"image": IMAGE}, ["d" * 40] * 100), 100 * IMAGE_TOKENS + 100 * 10),
    (pairs("\u4f60" * 100, ["d" * 40] * 100), 100 * 150 + 100 * 10),
    (pairs(Q, "d" * 40), 100 + 10),
]


@pytest.mark.parametrize(("body", "tokens"), PAIRS, ids=range(len(PAIRS)))
def test_what_is_compared_with_each_is_read_for_each(body: dict[str, Any], tokens: int) -> None:
    several = len(json.dumps(body)) > 600
    for text in (json.dumps(body, ensure_ascii=False), json.dumps(body, ensure_ascii=False, separators=(",", ":"))):
        found = size(text.encode())
        assert tokens + (300 if several else 3) <= found <= 1.2 * tokens + (1500 if several else 50)


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_each_of_many_inputs_has_marks_of_its_own(name: str) -> None:
    assert size({"model": "m", name: ["x"] * 1000}) >= 3000
    assert size({"model": "m", name: [[7]] * 1000}) >= 3000
    messages = {"model": "m", "input": chat()["messages"] * 50}
    assert size(messages) == prompt_estimate(json.dumps(messages).encode())


def facts(body: dict[str, Any]) -> Any:
    found = {(one.prompts, one.uncounted) for side in SIDES for one in [side.read(json.dumps(body).encode(), 64, 256)]}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(("fields", "prompts"), [
    ({"prompt_embeds": "AAAA"}, 1), ({"prompt_embeds": ["AAAA"] * 7}, 7), ({"prompt_embeds": ["AAAA"] * 7, "prompt": "x"}, 8),
    ({"prompt_embeds": ["AAAA"] * 7, "prompt": ["x", "y"]}, 9), ({"prompt_embeds": None, "prompt": ["x", "y"]}, 2),
])  # fmt: skip
def test_embeddings_are_prompts_as_well(fields: dict[str, Any], prompts: int) -> None:
    assert facts({"model": "m", **fields}) == (prompts, 0)


@pytest.mark.parametrize(("fields", "bits"), [
    ({"background": True}, 1), ({"background": False}, 0), ({"background": None}, 0), ({"background": "true"}, 1),
    ({"previous_response_id": "a"}, 2), ({"previous_response_id": None}, 0), ({"conversation": {"id": "a"}}, 4),
    ({"chat_template": "a"}, 8), ({"prompt": {"id": "a"}}, 16),
    ({"background": 1, "conversation": "a", "chat_template": ""}, 13),
])  # fmt: skip
def test_what_nobody_can_count(fields: dict[str, Any], bits: int) -> None:
    assert facts({"model": "m", **fields}) == (1, bits)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_chinese_character_is_about_a_token(ascii_only: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "\u4f60\u597d" * 1000}]}, ensure_ascii=ascii_only)
    assert 3000 <= size(body.encode()) <= 3020
    assert size(body.encode(), 1) == prompt_bytes(body.encode())


# ---- any messages

PICTURE = st.sampled_from([
    IMAGE[:9000], "data:image/", "https://x", "", "data:audio/x" * 99, "a" * 5000, "data:text/a", "base64", "text", "image/png",
    "\u00e9" * 3, "my_url",
])  # fmt: skip
KEY = st.sampled_from([
    "image_url", "url", "source", "data", "type", "media_type", "content", "output", "input_audio", "audio_url", "x", "text",
    "a_url", "_url", "video_url", "input", "\u00e9", "\u0131mage_url", "s ource", "image", "im age", "image_url ",
    "multimodal_data", "u rl", "ty pe",
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
MEDIA = st.lists(PICTURE, max_size=3) | VALUE
MESSAGES = VALUE | PART | CONTENT | st.lists(st.fixed_dictionaries({}, optional={
    "content": CONTENT, "z": VALUE, "image": PICTURE, "output": PART, "multimodal_data": MEDIA}))  # fmt: skip
NAMES = st.sampled_from(["messages", "input", "prompt", "query", "documents", "text_1", "items", "queries"])
TIMES = st.sampled_from([1, 1, 1, 2, 9, 40])


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
@given(MESSAGES, MESSAGES, NAMES, NAMES, TIMES, st.randoms(use_true_random=False), st.integers(1, 8))
def test_both_twins_say_the_same(
    one: Any, other: Any, name: str, second: str, times: int, chance: random.Random, per_token: int
) -> None:
    second = "tools" if second == name else second
    one = one * times if isinstance(one, list) else one
    body = f'{{"model":"m","{name}":{spelt(one, chance)},"{second}":{spelt(other, chance)}}}'.encode()
    said = {side.read(body, 64, 256, per_token).prompt_tokens for side in SIDES}
    said |= {side.outline(body, 64, 256, per_token).prompt_tokens for side in SIDES}
    assert len(said) == 1, body
    assert said.pop() >= 1
