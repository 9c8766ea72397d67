"""What fastgw should say of a request body, by another reader of JSON: the standard library's, which keeps every pair.

Owns: the model that both twins, the short and the complete path are held to. It knows no bytes and takes its time. Which of
two things is wrong first is not its business where both are called ``invalid_json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fastgw.protocol.openai import MAX_MEMBERS

COUNTS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")
OTHER_LIMITS = ("n_predict", "num_predict", "max_new_tokens", "max_length")
OTHER_WIDTHS = ("best_of", "n_cmpl", "beam_width", "num_beams", "num_return_sequences")
OTHERS = (*OTHER_LIMITS, *OTHER_WIDTHS, "options", "parameters")
NAMES = ("model", "stream", "stream_options", *COUNTS, *OTHERS, "messages", "prompt", "input")
# All that folds to an ASCII letter of these names in Unicode's simple case folding.
FOLDS = {"\u212a": "k", "\u017f": "s", **{chr(c): chr(c + 32) for c in range(65, 91)}}
MOST = 2**62


@dataclass(frozen=True)
class Refused:
    """A verdict: the kind of error and its ``param``."""

    kind: str
    param: str | None = None


class _Pairs(list[tuple[str, Any]]):
    """An object."""


class _Fraction(str):
    """A number with a point or an exponent."""


def _whole(digits: str) -> int:
    return int(digits[:60])


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def parsed(body: bytes) -> Any:
    """``body`` with its pairs; ValueError when it is not JSON in UTF-8, or names no character."""
    value = json.loads(
        body.decode(), parse_constant=_refuse, object_pairs_hook=_Pairs, parse_float=_Fraction, parse_int=_whole
    )
    _characters(value)
    return value


def _characters(value: Any) -> None:
    if isinstance(value, _Pairs):
        for name, inner in value:
            name.encode()
            _characters(inner)
    elif isinstance(value, list):
        for inner in value:
            _characters(inner)
    elif isinstance(value, str):
        value.encode()


def levels(value: Any) -> int:
    if isinstance(value, _Pairs):
        return 1 + max((levels(inner) for _, inner in value), default=0)
    if isinstance(value, list):
        return 1 + max(map(levels, value), default=0)
    return 0


def _misnamed(names: list[str], known: tuple[str, ...], within: str) -> Refused | None:
    for at, name in enumerate(names):
        if name in names[:at]:
            short = name if 0 < len(name) <= 64 and name.isprintable() else None
            return Refused("duplicate_member", short and within + short)
        lower = "".join(FOLDS.get(c, c) for c in name)
        if name not in known and lower in known:
            return Refused("invalid_parameter", within + lower)
    return None


def _wrong_type(name: str, value: Any) -> bool:
    if name == "model":
        return not isinstance(value, str) or isinstance(value, _Fraction)
    if name == "stream":
        return value is not None and not isinstance(value, bool)
    if name == "stream_options":
        if not isinstance(value, _Pairs):
            return value is not None
        return any(inner is not None and not isinstance(inner, bool) for one, inner in value if one == "include_usage")
    return value is not None and (isinstance(value, bool) or not isinstance(_count(value), int))


def _count(value: Any) -> Any:
    """A whole number that is written with a point, or an exponent, as the number that it is; all else as it came."""
    if isinstance(value, _Fraction) and len(value) <= 40 and abs(float(value)) <= MOST and float(value).is_integer():
        return int(float(value))
    return value


def expected(body: bytes, max_depth: int = 64, max_members: int = MAX_MEMBERS) -> tuple[Any, ...] | Refused:
    """The facts (:func:`told`'s, but for the size of the prompt), or how the body is refused; its model may be missing."""
    try:
        value = parsed(body)
        if levels(value) > max_depth:
            return Refused("invalid_json")
    except (ValueError, RecursionError):
        return Refused("invalid_json")
    if not isinstance(value, _Pairs):
        return Refused("invalid_parameter")
    names = [name for name, _ in value]
    if len(names) > max_members:
        return Refused("invalid_parameter")
    wrong = _misnamed(names, NAMES, "")
    if wrong is not None:
        return wrong
    given = dict(value)
    options = given.get("stream_options")
    if isinstance(options, _Pairs):
        if len(options) > max_members:
            return Refused("invalid_parameter", "stream_options")
        wrong = _misnamed([name for name, _ in options], ("include_usage",), "stream_options.")
        if wrong is not None:
            return wrong
    for name in NAMES[:7]:
        if name in given and _wrong_type(name, given[name]):
            return Refused("invalid_parameter", name)
    model = given.get("model", "m")
    if not 0 < len(model) <= 256 or any(ord(c) < 32 or ord(c) == 127 for c in model):
        return Refused("invalid_parameter", "model")
    given.update({name: _count(given[name]) for name in COUNTS if name in given})
    limits = [min(given[name], MOST) for name in COUNTS[:3] if given.get(name) is not None]
    limits += [_positive(given.get(name)) for name in OTHER_LIMITS]
    n = given.get("n")
    choices = max(min(n, MOST) if n is not None and n > 0 else 1, _positive(given.get("n_cmpl")))  # (one thing to llama.cpp)
    widths = [given[name] for name in OTHER_WIDTHS if given.get(name) is not None]
    named = [name for name in COUNTS[:3] if name in given]
    overrides = (
        len(named) > 1
        or any(_positive(given[name]) < 1 for name in named)
        or any(given.get(name) is not None for name in OTHER_LIMITS)
        or any(not 0 < _positive(width) <= 1024 for width in (*widths, *([] if n is None else [n])))
        or any(isinstance(given.get(name), list) for name in ("options", "parameters"))  # (objects too: they are pairs here)
    )
    prompt = given.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and not isinstance(prompt, _Pairs) and any(not isinstance(one, int) for one in prompt):
        if all(type(one) is str for one in prompt) or all(type(one) is list and not any(map(_inner, one)) for one in prompt):
            prompts = len(prompt)
        else:
            prompts = -1  # no such prompt: how many it is said to be is nobody's business
    return (
        given.get("model", ""), given.get("stream") is True, dict(options or ()).get("include_usage") is True,
        "stream_options" in given, max([-1, *limits]), choices, max([choices, *map(_positive, widths)]),
        sum(1 << at for at, name in enumerate(COUNTS[:3]) if _positive(given.get(name)) > 0), overrides, prompts,
    )  # fmt: skip


def _positive(value: Any) -> int:
    """As much as a value says, where it is a whole number above 0."""
    if isinstance(value, _Fraction):
        value = _count(value)
    return min(value, MOST) if type(value) is int and value > 0 else -1


def _inner(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and not isinstance(value, _Fraction))


def told(facts: Any) -> tuple[Any, ...]:
    """All that callers can see of a body, but for the size of its prompt."""
    return (
        facts.model, bool(facts.stream), bool(facts.include_usage), bool(facts.has_stream_options), facts.token_limit,
        facts.choices, facts.answers, facts.named, bool(facts.overrides), facts.prompts,
    )  # fmt: skip


def agree(verdict: tuple[Any, ...] | Refused, body: bytes, max_depth: int = 64, max_members: int = MAX_MEMBERS) -> bool:
    """Whether a verdict is the model's. Where that has no opinion of the prompts, their number is left alone; and a body of too
    many members is not read to its end."""
    model = expected(body, max_depth, max_members)
    if isinstance(verdict, tuple) and isinstance(model, tuple):
        return verdict[:-1] == model[:-1] and model[-1] in (-1, verdict[-1])
    if verdict == Refused("invalid_parameter") and model == Refused("invalid_json"):
        return body.count(b'"') > 2 * max_members
    return verdict == model
