"""Whatever a body says of how much is to be made, and in whatever words: no engine of any kind makes more than was reserved.

Each kind has its own rules for which of many figures counts; they are written down here once more, as small functions of a
body, from what those engines do. What an engine refuses it does not make.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.tokens import MOST_CHOICES
from fastgw.config.names import EngineKind
from fastgw.errors import GatewayError
from fastgw.policy.quota import total
from fastgw.policy.rewrite import bounded
from fastgw.protocol.openai import scan_body
from fastgw.upstream.kinds.registry import kind_of
from tests.accel.test_bodies import encoded

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
ENDLESS = 10**15
DEFAULT = 4096

Body = dict[str, Any]


def lax(value: Any) -> int | None:
    """As pydantic takes a number: whole floats and texts too. None = not given; what is no such number is refused: 0."""
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, list | dict) else float("nan")
    except (ValueError, OverflowError):
        return 0
    return int(number) if number == number and abs(number) < 1e300 and number.is_integer() else 0


def positive(value: int | None) -> int:
    return ENDLESS if value is None else max(0, value)


def vllm(body: Body, path: str) -> tuple[int, int]:
    if path == RESPONSES:
        return positive(lax(body.get("max_output_tokens"))), 1
    named = lax(body.get("max_completion_tokens")) if path == CHAT else None
    limit = named if named is not None else lax(body.get("max_tokens"))
    return positive(limit), max(1, lax(body.get("n")) or 1, (lax(body.get("best_of")) or 1) if path == COMPLETIONS else 1)


def sglang(body: Body, path: str) -> tuple[int, int]:
    """0 is as good as nothing to it."""
    if path == RESPONSES:
        return lax(body.get("max_output_tokens")) or ENDLESS, 1
    named = (lax(body.get("max_completion_tokens")) if path == CHAT else None) or lax(body.get("max_tokens"))
    return named or ENDLESS, max(1, lax(body.get("n")) or 1)


def tgi(body: Body, path: str) -> tuple[int, int]:
    return positive(lax(body.get("max_output_tokens" if path == RESPONSES else "max_tokens"))), max(1, lax(body.get("n")) or 1)


def number(body: Body, name: str) -> int | None:
    """As llama.cpp takes one: what is none is as if it were not there."""
    value = body.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else None


def llamacpp(body: Body, path: str) -> tuple[int, int]:
    limit = number(body, "n_predict")
    for name in ("max_output_tokens",) if path == RESPONSES else ("max_tokens",):
        limit = number(body, name) if limit is None else limit
    width = number(body, "n_cmpl")
    width = number(body, "n") if width is None else width
    return ENDLESS if limit is None or limit < 0 else limit, max(1, width or 1)


def ollama(body: Body, path: str) -> tuple[int, int]:
    """A limit of 0 or less is none; its own API's options are taken for its own too, in case."""
    value = body.get("max_output_tokens" if path == RESPONSES else "max_tokens")
    if value is not None and type(value) is not int:
        return 0, 1  # refused: to Go 16.0 is no whole number
    limit = value
    options = body.get("options")
    if isinstance(options, dict) and number(options, "num_predict") is not None:
        limit = number(options, "num_predict")
    return ENDLESS if limit is None or limit <= 0 else limit, 1


def openai(body: Body, path: str) -> tuple[int, int]:
    if path == RESPONSES:
        return positive(lax(body.get("max_output_tokens"))), 1
    if path == CHAT and body.get("max_completion_tokens") is not None and body.get("max_tokens") is not None:
        return 0, 1  # refused
    return vllm(body, path)


def transformers(body: Body, path: str) -> tuple[int, int]:
    """One that has generation parameters in the body, and takes the largest of what it finds, beams and all."""
    inner = body.get("parameters")
    found = [body, *([inner] if isinstance(inner, dict) else [])]
    names = ("max_new_tokens", "max_length", "num_predict", "max_output_tokens" if path == RESPONSES else "max_tokens")
    limits = [limit for one in found for name in names if (limit := lax(one.get(name))) is not None]
    widths = ("n", "best_of", "num_beams", "beam_width", "num_return_sequences")
    return max(limits, default=ENDLESS), max([1, *[lax(one.get(name)) or 1 for one in found for name in widths]])


KINDS: dict[str, tuple[EngineKind, Callable[[Body, str], tuple[int, int]]]] = {
    "vllm": ("vllm", vllm), "sglang": ("sglang", sglang), "tgi": ("tgi", tgi), "llamacpp": ("llamacpp", llamacpp),
    "ollama": ("ollama", ollama), "openai": ("openai", openai),
    **{f"auto, {one.__name__}": ("auto", one) for one in (vllm, sglang, tgi, llamacpp, ollama, transformers)},
}  # fmt: skip


def prompts_of(body: Body) -> int:
    """As llama.cpp counts them: each text, and each list in a list; numbers alone are one."""
    prompt = body.get("prompt")
    if not isinstance(prompt, list):
        return 1
    return len(prompt) if any(isinstance(one, str | list | dict) for one in prompt) else 1


FIGURE = st.one_of(
    st.integers(-3, 5000),
    st.sampled_from([0, -1, 1, 16.0, 1e9, 1e30, 2.5, -1.0, 10**18, 10**19, 10**40, -(10**30), 1025, 9007199254740993]),
    st.sampled_from(["100000", "7", "", "x", None, True, False, [], {}, [5]]),
)
STRICT = st.one_of(st.integers(-3, 5000), st.none(), st.sampled_from([0, -1, 16.0, 1e9, 10**18, 10**40]))
LIMITS = ["max_tokens", "max_completion_tokens", "max_output_tokens", "n"]
OTHERS = ["n_predict", "num_predict", "max_new_tokens", "max_length", "best_of", "n_cmpl", "beam_width", "num_beams",
          "num_return_sequences"]  # fmt: skip
INNER = st.dictionaries(st.sampled_from([*LIMITS, *OTHERS, "x", "options"]), FIGURE, max_size=4)
PROMPT = st.one_of(
    st.text(max_size=5), st.lists(st.text(max_size=3), max_size=5), st.lists(st.integers(0, 9), max_size=5),
    st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4), st.lists(st.text(max_size=3) | st.lists(st.integers(0, 9))),
)  # fmt: skip
MEMBERS = st.fixed_dictionaries({}, optional={
    "model": st.just("m"), **dict.fromkeys(LIMITS, STRICT), **dict.fromkeys(OTHERS, FIGURE), "options": INNER | FIGURE,
    "parameters": INNER | FIGURE, "prompt": PROMPT, "x": FIGURE,
})  # fmt: skip


def check(members: Body, path: str, kind: str, chance: random.Random, left: int) -> None:
    pairs = list(members.items())
    chance.shuffle(pairs)
    body = encoded(pairs, chance)
    try:
        facts = scan_body(body)
    except GatewayError:
        return
    name, resolve = KINDS[kind]
    answers = min(facts.answers, MOST_CHOICES) * (facts.prompts if path == COMPLETIONS else 1)
    named = facts.token_limit
    bound = min(DEFAULT if named < 0 else max(named, 1), left)
    told = bounded(body, facts, bound, path, kind_of(name))
    said = json.loads(told)
    limit, width = resolve(said, path)
    made = limit * width * (prompts_of(said) if path == COMPLETIONS else 1)
    assert made <= total(0, bound, answers), (kind, path, body, told)
    # And nothing else has changed.
    was = json.loads(body)
    touched = {*LIMITS, *OTHERS, "options", "parameters"}
    assert {k: v for k, v in said.items() if k not in touched} == {k: v for k, v in was.items() if k not in touched}
    assert scan_body(told).token_limit <= bound


@pytest.mark.parametrize("kind", KINDS)
@settings()
@given(MEMBERS, st.sampled_from([CHAT, COMPLETIONS, RESPONSES, MESSAGES]), st.randoms(use_true_random=False),
       st.sampled_from([1, 3, 40, 10**6]))  # fmt: skip
def test_no_engine_makes_more_than_was_reserved(kind: str, members: Body, path: str, chance: random.Random, left: int) -> None:
    check(members, path, kind, chance, left)


@pytest.mark.parametrize(("said", "told"), [
    (b'{"max_tokens":40}', b'{"max_tokens":40}'),
    (b'{ "max_tokens" : 40 }', b'{ "max_tokens" : 40 }'),
    (b'{"max_tokens":400}', b'{"max_tokens":100}'),
    (b"{}", b'{"max_tokens":100}'),
    (b' { } ', b' {"max_tokens":100 } '),
    (b'{"x":1}', b'{"max_tokens":100,"x":1}'),
    (b'{"max_tokens":null,"x":1}', b'{"max_tokens":100,"x":1}'),
    (b'{"max_tokens":5,"n_predict":3}', b'{"max_tokens":5,"n_predict":3}'),
    (b'{"max_tokens":5,"n_predict":null}', b'{"max_tokens":5,"n_predict":null}'),
    (b'{"n_predict":"9"}', b'{"max_tokens":100,"n_predict":100}'),
    (b'{"n":2,"best_of":"7"}', b'{"max_tokens":100,"n":2,"best_of":2}'),
    (b'{"options":{"NUM_PREDICT":-1,"a":9,"num_predict":7}}',
     b'{"max_tokens":100,"options":{"NUM_PREDICT":100,"a":9,"num_predict":7}}'),
    (b'{"options":{' + b",".join(b'"a%d":1' % at for at in range(300)) + b"}}", b'{"max_tokens":100,"options":{}}'),
    (b'{"max_completion_tokens":40}', b'{"max_tokens":100,"max_completion_tokens":40}'),
    (b'{"n_pr\\u0065dict":-1,"max_tokens":3.0}', b'{"n_pr\\u0065dict":100,"max_tokens":3.0}'),
])  # fmt: skip
def test_what_is_told_is_spliced_in(said: bytes, told: bytes) -> None:
    assert bounded(said, scan_body(said), 100, CHAT, kind_of("auto")) == told
